"""Observer.look on the fakes: when apps are asked how they are, and what their answers are worth."""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from tests.world.host import ADDRESS, FIFO, MAIN, Host, Watcher, config_of
from tests.world.pieces import SHOP_ID
from tests.world.sockets import FakeSocket
from watchdogd.config import Config, HealthConfig, InstanceConfig, read_probe_url
from watchdogd.model.base import InstanceId
from watchdogd.model.found import Kind
from watchdogd.model.seen import Health, MemberState, Trust
from watchdogd.model.told import Event
from watchdogd.observe.probes import CALM_S, MOST_IN_A_ROUND, OUTAGE_S

PING = HealthConfig(read_probe_url("http://127.0.0.1:8080/ping?key=secret"))


def asking(*fifos: str, health: HealthConfig | None = PING) -> Config:
    config = config_of(*fifos)
    assert config.instances
    return replace(config, instances=tuple(replace(one, health=health) for one in config.instances))


@dataclass(eq=False)
class Asked:
    """An app with two workers, each with a connection of its own; `sends`: a request has worker 0 send to MongoDB."""

    fallback: bool = False
    workers_: int = 2

    def __post_init__(self) -> None:
        self.host = Host(fallback=self.fallback)
        self.host.start_mongod()
        self.master, self.workers = self.host.app(workers=self.workers_)
        self.sockets = [self.host.connect(worker) for worker in self.workers]
        self.watcher = Watcher(self.host, asking(FIFO))
        self.host.prober.says[SHOP_ID] = ["200"]

    def sends(self, *sockets: FakeSocket) -> None:
        def served(_: InstanceId) -> None:
            for one in sockets:
                one.sends()

        self.host.prober.sends = served

    @property
    def health(self) -> Health:
        (one,) = self.watcher.snapshot.instances
        assert one.health
        return one.health

    @property
    def asked(self) -> list[tuple[int, float]]:
        return [(many, at) for _, many, at in self.host.prober.asked]

    def learn(self, answers: int = 3) -> Trust:
        """Ticks until so many more answers came in calm."""
        before = len(self.asked)
        self.watcher.until(lambda: len(self.asked) >= before + answers, within=int((answers + 1) * (CALM_S + 12)))
        self.watcher.tick()
        return self.health.trust


def dependent() -> Asked:
    one = Asked()
    one.sends(one.sockets[0])
    assert one.learn() is Trust.DEPENDENT
    return one


# ---- in calm


def test_in_calm_there_is_one_request_in_30_s() -> None:
    one = Asked()
    one.learn(4)
    assert {many for many, _ in one.asked} == {1}
    times = [at for _, at in one.asked]
    assert all(CALM_S <= later - at < CALM_S + 12 for at, later in pairwise(times))


def test_an_app_without_health_is_never_asked_and_costs_no_look() -> None:
    host = Host()
    host.start_mongod()
    host.app()
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(120)
    assert host.spied["prober"].calls == []
    assert watcher.snapshot.instances[0].health is None


def test_nobody_is_asked_where_nothing_runs() -> None:
    one = Asked()
    one.host.processes.end(one.master, *one.workers)
    one.watcher.tick(90)
    assert one.asked == []


def test_instances_are_not_all_asked_at_the_same_look() -> None:
    host = Host()
    host.start_mongod()
    fifos = [f"/run/uwsgi/app/app{number}/fifo" for number in range(6)]
    for fifo in fifos:
        host.app(fifo)
    watcher = Watcher(host, asking(*fifos))
    watcher.tick(65)
    times = [at for _, _, at in host.prober.asked]
    assert max(times.count(at) for at in times) == 2
    assert {who for who, *_ in host.prober.asked} == set(fifos)


def test_no_second_request_is_made_while_the_first_has_no_answer() -> None:
    one = Asked()
    one.host.prober.slow = True
    one.watcher.tick(200)
    assert len(one.asked) == 1
    one.host.prober.let()
    one.watcher.tick(12)
    assert len(one.asked) == 2


def test_an_answer_is_shown_without_the_query_of_its_url() -> None:
    one = Asked()
    one.learn(1)
    health = one.health
    assert (health.target, health.good, health.says) == ("http://127.0.0.1:8080/ping", True, "200")
    assert health.at == one.asked[0][1]


# ---- what answers are worth


def test_what_never_answers_well_is_blind_and_told_once() -> None:
    one = Asked()
    one.host.prober.says[SHOP_ID] = ["404"]
    assert one.learn(2) is Trust.UNKNOWN
    assert one.learn(1) is Trust.BLIND
    one.learn(3)
    (told,) = [tell for tell in one.watcher.told if tell.event is Event.PROBE_BLIND]
    assert told.fields == {"url": "http://127.0.0.1:8080/ping", "reason": "404"}
    assert told.instance == "shop"


def test_who_cannot_be_asked_is_blind_too() -> None:
    one = Asked()
    one.host.prober.says[SHOP_ID] = [None]
    assert one.learn(3) is Trust.BLIND
    assert not one.watcher.blind()  # the instance is seen as before


def test_what_fails_while_mongodb_is_away_is_not_blind() -> None:
    one = Asked()
    one.host.stop_mongod()
    one.host.prober.says[SHOP_ID] = ["500"]
    assert one.learn(5) is Trust.UNKNOWN


def test_what_answers_well_while_no_worker_sends_does_not_depend_on_mongodb_and_is_told_once() -> None:
    one = Asked()
    assert one.learn(2) is Trust.ANSWERS
    assert one.learn(1) is Trust.INDEPENDENT
    one.learn(2)
    (told,) = [tell for tell in one.watcher.told if tell.event is Event.PROBE_INDEPENDENT]
    assert told.fields == {"url": "http://127.0.0.1:8080/ping"}


def test_what_a_master_sends_is_no_answer_of_a_worker() -> None:
    one = Asked()
    one.sends(one.host.connect(one.master, *one.workers))
    assert one.learn() is Trust.INDEPENDENT


def test_what_a_worker_sends_during_each_answer_depends_on_mongodb() -> None:
    one = Asked()
    one.sends(one.sockets[1])
    assert one.learn(2) is Trust.ANSWERS
    assert one.learn(1) is Trust.DEPENDENT
    assert not [tell for tell in one.watcher.told if tell.event in {Event.PROBE_BLIND, Event.PROBE_INDEPENDENT}]


def test_on_a_busy_host_it_takes_more_than_three_answers_to_believe_that() -> None:
    one = Asked()
    one.sends(one.sockets[0])
    before = one.host.pass_time

    def busy(seconds: float) -> None:
        """The other worker has sent 20 ms before each look: 50 times a second, as far as can be seen."""
        before(seconds - 0.02)
        one.sockets[1].sends()
        before(0.02)

    one.host.pass_time = busy  # type: ignore[method-assign]
    assert one.learn(3) is Trust.ANSWERS
    assert one.learn(12) is Trust.DEPENDENT


def test_one_silent_answer_begins_the_count_anew() -> None:
    one = Asked()
    one.sends(one.sockets[0])
    one.learn(2)
    one.sends()
    one.learn(1)
    one.sends(one.sockets[0])
    assert one.learn(2) is Trust.ANSWERS
    assert one.learn(1) is Trust.DEPENDENT


def test_what_answers_by_a_cache_since_does_not_depend_on_mongodb_any_more() -> None:
    one = dependent()
    one.sends()
    assert one.learn(3) is Trust.INDEPENDENT


def test_what_was_good_and_fails_while_mongodb_is_away_depends_on_it() -> None:
    one = Asked()
    assert one.learn(1) is Trust.ANSWERS
    one.host.stop_mongod()
    one.host.prober.says[SHOP_ID] = ["500"]
    before = len(one.asked)
    one.watcher.tick(int(OUTAGE_S) + 3)
    assert len(one.asked) > before
    assert one.health.trust is Trust.DEPENDENT


def test_what_reaches_nobody_while_mongodb_is_away_says_nothing() -> None:
    one = Asked()
    one.learn(1)
    one.host.stop_mongod()
    one.host.prober.says[SHOP_ID] = [None]
    one.watcher.tick(60)
    assert one.health.trust is Trust.ANSWERS


def test_what_answers_well_while_mongodb_is_away_does_not_depend_on_it() -> None:
    one = dependent()
    one.host.stop_mongod()
    assert one.learn(3) is Trust.INDEPENDENT


def test_where_sockets_have_no_ages_only_an_outage_tells() -> None:
    one = Asked(fallback=True)
    assert one.learn(5) is Trust.ANSWERS


def test_of_what_cannot_be_seen_nothing_is_concluded() -> None:
    one = Asked()
    one.host.sockets.blind = "no permission"
    one.watcher.tick(200)
    assert one.health.trust in {Trust.UNKNOWN, Trust.ANSWERS}
    assert not one.watcher.events(Event.PROBE_INDEPENDENT)


def test_another_master_is_another_app() -> None:
    one = dependent()
    one.host.processes.end(one.master, *one.workers)
    one.watcher.tick(12)
    one.host.app()
    one.watcher.tick(12)
    assert one.health.trust in {Trust.UNKNOWN, Trust.ANSWERS}


def test_another_url_is_another_page_and_the_same_one_stays_known() -> None:
    one = dependent()
    one.watcher.observer.reconfigure(asking(FIFO))
    one.watcher.tick()
    assert one.health.trust is Trust.DEPENDENT
    one.watcher.observer.reconfigure(asking(FIFO, health=replace(PING, url=read_probe_url("http://127.0.0.1/other"))))
    one.watcher.tick()
    assert one.health.trust is not Trust.DEPENDENT
    one.watcher.observer.reconfigure(config_of(FIFO))
    one.watcher.tick()
    assert one.watcher.snapshot.instances[0].health is None


# ---- in an incident


def restarted(one: Asked, *says: str) -> None:
    """Mongod is restarted; what the app says from then on."""
    one.host.stop_mongod()
    one.watcher.tick(3)
    one.host.prober.says[SHOP_ID] = list(says)
    one.host.start_mongod()
    del one.host.prober.asked[:]


def test_after_the_return_twice_as_many_as_workers_are_asked_at_once_ever_more_seldom() -> None:
    one = dependent()
    restarted(one, "200")
    one.watcher.tick(75)
    rounds = [(many, at) for many, at in one.asked if many > 1]
    assert {many for many, _ in rounds} == {4}
    apart = [round(later - at) for (_, at), (_, later) in pairwise(rounds)]
    assert apart == [5, 10, 20, 30]


def test_no_round_is_made_while_mongodb_is_away_or_of_what_says_nothing() -> None:
    one = dependent()
    one.host.stop_mongod()
    one.watcher.tick(40)
    assert {many for many, _ in one.asked} == {1}
    other = Asked()
    other.learn()  # it does not depend on MongoDB
    restarted(other, "200")
    other.watcher.tick(60)
    assert {many for many, _ in other.asked} <= {1}


def test_a_round_is_never_larger_than_half_the_queue_nor_than_the_most() -> None:
    one = Asked(workers_=40)
    one.sends(one.sockets[0])
    one.learn()
    one.host.prober.most = 1000
    restarted(one, "200")
    one.watcher.tick(8)
    assert max(many for many, _ in one.asked) == MOST_IN_A_ROUND
    one.host.prober.most = 7
    one.watcher.tick(8)
    assert one.asked[-1][0] == 7


def test_a_round_is_over_when_all_have_answered() -> None:
    one = dependent()
    restarted(one, "200", "500", "200", "200")
    one.host.prober.slow = True
    one.watcher.tick(10)
    assert one.health.round is None
    one.host.prober.let()
    one.watcher.tick()
    asked = one.health.round
    assert asked
    assert (asked.size, asked.good, asked.bad, asked.says, asked.whole) == (4, 3, 1, "500", False)


def test_a_round_of_before_the_last_return_or_of_other_workers_says_nothing_now() -> None:
    one = dependent()
    restarted(one, "200")
    one.watcher.tick(8)
    assert one.health.round
    assert one.health.round.whole
    one.host.stop_mongod()
    one.watcher.tick(2)
    assert one.health.round is None


def test_a_round_that_reaches_nobody_is_none() -> None:
    one = dependent()
    restarted(one)
    one.host.prober.says[SHOP_ID] = [None]
    one.watcher.tick(8)
    assert one.health.round is None


# ---- the whole: a stuck app of which nothing else shows


def latent() -> Asked:
    """Its workers have closed what ended, and were not used since."""
    one = dependent()
    one.host.stop_mongod()
    for worker, socket in zip(one.workers, one.sockets, strict=True):
        one.host.hang_up(socket, worker)
    one.watcher.tick(3)
    one.host.prober.says[SHOP_ID] = ["500"]
    one.host.start_mongod()
    return one


def test_bad_answers_after_the_return_bring_a_reload_though_nothing_else_is_seen() -> None:
    one = latent()
    one.watcher.until(lambda: one.watcher.sent, within=30)
    assert one.watcher.sent[0].command.value == "w"
    (told,) = [tell for tell in one.watcher.told if tell.event is Event.RELOAD_DUE]
    assert "4 of 4 health requests failed (500)" in str(told.fields["why"])
    kinds = {one.kind for one in one.watcher.findings[SHOP_ID].evidence if one.ripe_at is not None}
    assert kinds == {Kind.UNANSWERED}


def test_a_page_that_does_not_depend_on_mongodb_brings_none() -> None:
    one = Asked()
    one.learn()
    for socket, worker in zip(one.sockets, one.workers, strict=True):
        one.host.hang_up(socket, worker)
    restarted(one, "500")
    one.watcher.tick(90)
    assert not one.watcher.sent


@pytest.mark.parametrize("state", [MemberState.DOWN, MemberState.FROZEN])
def test_an_answer_that_comes_when_uwsgi_is_gone_is_nobodys(state: MemberState) -> None:
    one = Asked()
    one.host.prober.slow = True
    one.watcher.tick(15)
    one.host.stop_mongod(ADDRESS, state)
    one.host.processes.end(one.master, *one.workers)
    one.watcher.tick(12)
    one.host.prober.let()
    one.watcher.tick(12)
    assert one.watcher.snapshot.instances[0].health is None


def test_an_instance_that_is_found_is_not_asked() -> None:
    host = Host()
    host.start_mongod()
    host.app()
    watcher = Watcher(host, config_of())
    watcher.tick(60)
    assert host.prober.asked == []


def test_the_real_config_holds_what_is_asked() -> None:
    one = InstanceConfig("shop", Path(FIFO), (MAIN,), health=PING)
    assert "secret" not in repr(one)


@pytest.mark.parametrize("method", ["ask", "drain"])
def test_where_nobody_can_be_asked_that_is_told_and_holds_nothing(method: str) -> None:
    one = Asked()
    one.learn(1)
    one.host.spied["prober"].broken.add(method)
    one.watcher.faults = True
    one.watcher.tick(40)
    assert one.watcher.scopes(Event.BLIND) == ["health requests"]
    (instance,) = one.watcher.snapshot.instances
    assert instance.master
    assert not instance.blind
    one.host.spied["prober"].broken.clear()
    one.watcher.tick(40)
    assert one.watcher.scopes(Event.SEEING_AGAIN)[-1:] == ["health requests"]
    assert one.health.good
