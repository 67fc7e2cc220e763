"""Further addresses of members: who is asked, how often, and what follows from the answer."""

import pytest

from tests.world.host import ADDRESS, FIFO, MAIN, Host, Watcher, config_of
from tests.world.processes import OUR_NETNS, FakeProcess
from watchdogd.config import DeploymentConfig
from watchdogd.model.base import Endpoint
from watchdogd.model.found import Verdict
from watchdogd.model.told import Event
from watchdogd.observe.mongod.learned import FORGET_S, MOST, TRIES, Learned
from watchdogd.observe.tcp.others import Place, Talk

ALSO = Endpoint("192.168.7.1", 27017)
LOOPBACK = Endpoint("127.0.0.1", 27017)
CONTAINER = 4026532999


@pytest.fixture
def host() -> Host:
    host = Host()
    host.start_mongod()
    return host


def answers(host: Host, *processes: str | None, at: Endpoint = ALSO) -> None:
    host.asker.processes[at] = list(processes)


def life(host: Host) -> str:
    """The process that answers as the member now."""
    return f"{ADDRESS}#{host.lives[ADDRESS]}"


def talking(host: Host, to: Endpoint = ALSO) -> tuple[Watcher, list[FakeProcess]]:
    """An app of two workers that are connected there, each on its own, and who watches it."""
    _, workers = host.app()
    for worker in workers:
        host.connect(worker, to=to)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    return watcher, workers


def asked(host: Host) -> list[Endpoint]:
    return [question.remote for question in host.asker.asked]


def learned(watcher: Watcher) -> set[Endpoint]:
    (member,) = watcher.snapshot.members.values()
    return set(member.learned)


def test_an_address_where_a_member_answers_is_a_further_one_of_it(host: Host) -> None:
    answers(host, life(host))
    watcher, workers = talking(host)
    assert learned(watcher) == {ALSO}
    assert {one.remote for one in watcher.snapshot.connections} == {ALSO}
    (shop,) = watcher.snapshot.instances
    assert [bool(worker.reconnected) for worker in shop.workers] == [True, True]
    assert len(workers) == 2


def test_it_is_asked_once(host: Host) -> None:
    answers(host, life(host))
    watcher, _ = talking(host)
    watcher.tick(300)
    assert asked(host) == [ALSO]


def test_whoever_else_answers_is_asked_once_and_no_member(host: Host) -> None:
    answers(host, "somebody else")
    watcher, _ = talking(host)
    watcher.tick(300)
    assert asked(host) == [ALSO]
    assert learned(watcher) == set()
    assert watcher.snapshot.connections == ()


def test_two_processes_behind_one_address_are_a_proxy_and_no_member(host: Host) -> None:
    answers(host, life(host), "another")
    watcher, _ = talking(host)
    assert learned(watcher) == set()


def test_an_address_to_which_no_watched_process_is_connected_is_not_asked(host: Host) -> None:
    answers(host, life(host))
    host.app()
    host.connect(host.processes.start(host.processes.alive[1000].role), to=ALSO)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(30)
    assert asked(host) == []


@pytest.mark.parametrize(
    "text",
    ["192.168.7.1:6379", "192.168.7.1:443", "192.168.7.1:27020", "8.8.8.8:27017", "172.32.0.1:27017", "2a00::1:27017"],
)
def test_other_ports_and_public_addresses_are_never_asked(host: Host, text: str) -> None:
    address, _, port = text.rpartition(":")
    remote = Endpoint(address, int(port))
    answers(host, life(host), at=remote)
    watcher, _ = talking(host, remote)
    watcher.tick(30)
    assert asked(host) == []


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.1.2.3", "172.31.0.1", "fd00::1"])
def test_loopback_and_private_addresses_are_asked(host: Host, address: str) -> None:
    talking(host, remote := Endpoint(address, 27018))
    assert asked(host)[0] == remote


def test_a_port_of_a_member_is_asked_like_the_usual_ones() -> None:
    host = Host()
    host.start_mongod("10.0.0.1:4711")
    _, (worker, _) = host.app()
    host.connect(worker, to=Endpoint("10.9.9.9", 4711))
    watcher = Watcher(host, config_of(FIFO, uri="mongodb://10.0.0.1:4711"))
    watcher.tick(15)
    assert asked(host) == [Endpoint("10.9.9.9", 4711)]


def test_an_address_of_this_host_is_asked_though_it_is_public(host: Host) -> None:
    remote = Endpoint("203.0.113.9", 27017)
    _, (worker, _) = host.app()
    host.connect(worker, to=remote).local = Endpoint(remote.host, 40000)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    assert asked(host) == [remote]


def test_at_most_one_is_asked_a_second(host: Host) -> None:
    _, (worker, _) = host.app()
    for number in range(5):
        host.connect(worker, to=Endpoint(f"10.7.7.{number}", 27017))
    watcher = Watcher(host, config_of(FIFO))
    for _ in range(40):
        before = len(asked(host))
        watcher.tick(every=0.5)
        watcher.tick(every=0.4)
        assert len(asked(host)) - before <= 1
    assert len(asked(host)) == len(set(asked(host))) == 5


def test_nobody_is_asked_where_it_is_turned_off(host: Host) -> None:
    answers(host, life(host))
    _, (worker, _) = host.app()
    host.connect(worker, to=ALSO)
    off = DeploymentConfig(MAIN, f"mongodb://{ADDRESS}", learn_addresses=False)
    watcher = Watcher(host, config_of(FIFO, deployments=(off,)))
    watcher.tick(30)
    assert asked(host) == []


def test_a_new_process_of_the_member_is_asked_for_anew(host: Host) -> None:
    answers(host, life(host))
    watcher, _ = talking(host)
    host.start_mongod()
    answers(host, life(host))
    watcher.tick(15)
    assert asked(host) == [ALSO, ALSO]
    assert learned(watcher) == {ALSO}


def test_a_connection_to_whoever_answers_there_later_is_no_own_one(host: Host) -> None:
    answers(host, life(host))
    watcher, workers = talking(host)
    assert learned(watcher) == {ALSO}
    answers(host, "somebody else")
    host.start_mongod()
    watcher.tick(10)  # for a second the address is taken for what it was, until it has answered
    assert learned(watcher) == set()
    assert watcher.snapshot.connections == ()
    for worker in workers:
        host.connect(worker, to=ALSO)
    watcher.tick(30)
    assert watcher.snapshot.connections == ()
    assert watcher.snapshot.instances[0].elsewhere == ""  # it was seen with its deployment


def test_a_leftover_of_before_stays_one_when_somebody_else_answers_there(host: Host) -> None:
    answers(host, life(host))
    _, workers = host.app()
    shared = host.connect(*workers, to=ALSO)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    host.stop_mongod()
    shared.is_left()
    watcher.tick(3)
    answers(host, "somebody else")
    host.start_mongod()
    watcher.tick(15)
    (finding,) = watcher.findings.values()
    assert finding.leftovers == {shared.cookie}


def test_who_did_not_answer_is_asked_again_a_minute_later_three_times_in_all(host: Host) -> None:
    watcher, _ = talking(host)
    assert asked(host) == [ALSO]
    watcher.tick(int(FORGET_S) + 5)
    assert asked(host) == [ALSO] * 2
    watcher.tick(10 * int(FORGET_S))
    assert asked(host) == [ALSO] * TRIES


def test_a_leftover_on_a_listed_address_and_own_connections_on_another_are_a_healthy_app(host: Host) -> None:
    """Measured: such an app was given up, and with `restart` allowed it was restarted."""
    master, workers = host.app()
    shared = host.connect(master, *workers)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    host.stop_mongod()
    assert shared.close_wait
    watcher.tick(5)
    host.start_mongod()
    answers(host, life(host))
    for worker in workers:
        host.connect(worker, to=ALSO)
    watcher.tick(200)
    assert set(watcher.findings[watcher.snapshot.instances[0].id].verdicts.values()) == {Verdict.RECONNECTED}
    assert watcher.sent == []
    assert Event.GAVE_UP.value not in watcher.events()


def test_a_leftover_on_an_address_that_was_learned_is_one(host: Host) -> None:
    answers(host, life(host))
    master, workers = host.app()
    shared = host.connect(*workers, to=ALSO)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    host.stop_mongod()
    shared.is_left()
    for worker in workers:
        worker.io += 1
    host.start_mongod()
    watcher.tick(3)
    (finding,) = watcher.findings.values()
    assert finding.leftovers
    assert master.id not in finding.verdicts


def test_a_leftover_there_is_still_known_after_a_restart_of_the_daemon(host: Host) -> None:
    """What was learned is not saved: the same address is asked again, since its leftover is held."""
    answers(host, life(host))
    _, workers = host.app()
    shared = host.connect(*workers, to=ALSO)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    host.stop_mongod()
    shared.is_left()
    watcher.tick(3)
    again = Watcher(host, config_of(FIFO))
    again.observer.restore(watcher.observer.ended())
    host.start_mongod()
    answers(host, life(host))
    again.tick(10)
    (finding,) = again.findings.values()
    assert finding.leftovers == {shared.cookie}


def test_the_address_of_a_set_that_gives_no_process_id_is_found_by_the_set(host: Host) -> None:
    host.say(process_id=None, born=None, identity="rs0/10.0.0.1:27017 of 10.0.0.1:27017")
    answers(host, "rs0/10.0.0.1:27017 of 10.0.0.1:27017")
    watcher, _ = talking(host)
    assert learned(watcher) == {ALSO}


def test_what_is_loopback_in_a_container_is_asked_by_nobody_out_here(host: Host) -> None:
    answers(host, life(host), at=LOOPBACK)
    host.namespace(CONTAINER)
    _, (worker, _) = host.app(netns=CONTAINER)
    host.connect(worker, to=LOOPBACK, netns=CONTAINER)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(15)
    assert asked(host) == []


def test_loopback_that_was_learned_out_here_is_no_member_in_a_container(host: Host) -> None:
    answers(host, life(host), at=LOOPBACK)
    host.namespace(CONTAINER)
    _, (ours, _) = host.app("/run/a/fifo")
    _, (theirs, _) = host.app("/run/b/fifo", netns=CONTAINER)
    host.connect(ours, to=LOOPBACK)
    host.connect(theirs, to=LOOPBACK, netns=CONTAINER)
    watcher = Watcher(host, config_of("/run/a/fifo", "/run/b/fifo"))
    watcher.tick(15)
    (seen,) = watcher.snapshot.connections
    assert seen.holders == {ours.id}


def test_an_edge_that_fails_makes_nothing_else_blind(host: Host) -> None:
    host.spied["asker"].broken = {"ask"}
    watcher, _ = talking(host)
    assert asked(host) == []
    assert {one.scope for one in watcher.snapshot.blind} <= {"member addresses"}


# -- an instance that talks elsewhere

MEND = "Mend the `uri` of that deployment, or name under `uwsgi:` the one that it uses"


def told(watcher: Watcher) -> str:
    """What is said of whom it talks to; the same stands in `blind`, which holds every reload."""
    (shop,) = watcher.snapshot.instances
    assert shop.blind == ((shop.elsewhere,) if shop.elsewhere else ())
    return shop.elsewhere


@pytest.mark.parametrize(
    ("process", "words"),
    [
        ("somebody else", "where another mongod answers"),
        ("", "which could not be asked: Connection refused"),
        (None, "where a mongod without a process id answers (before 4.4): if it leads to this deployment, "),
    ],
)
def test_a_named_instance_that_talks_only_to_others_is_told(host: Host, process: str | None, words: str) -> None:
    if process != "":
        answers(host, process)
    watcher, _ = talking(host)
    assert told(watcher).startswith(f"shop talks to 192.168.7.1:27017, {words}")
    assert told(watcher).endswith(f"; its deployment is main at {ADDRESS}. {MEND}")
    assert watcher.scopes(Event.BLIND) == ["instance shop"]
    watcher.tick(100)
    assert len(watcher.scopes(Event.BLIND)) == 1


def test_a_proxy_is_told_with_the_line_that_helps(host: Host) -> None:
    answers(host, life(host), "another")
    watcher, _ = talking(host)
    words = "where several mongods answer (a proxy): if it leads to this deployment, name it under `endpoints`"
    assert words in told(watcher)


def test_an_address_that_may_not_be_asked_is_told_with_the_reason(host: Host) -> None:
    watcher, _ = talking(host, Endpoint("8.8.8.8", 27017))
    assert told(watcher).startswith("shop talks to 8.8.8.8:27017, which may not be asked: its address is public; ")


def test_with_learning_turned_off_it_is_told_too(host: Host) -> None:
    _, (worker, _) = host.app()
    host.connect(worker, to=ALSO)
    off = DeploymentConfig(MAIN, f"mongodb://{ADDRESS}", learn_addresses=False)
    watcher = Watcher(host, config_of(FIFO, deployments=(off,)))
    watcher.tick(15)
    assert f"{ALSO}, which may not be asked (`learn_addresses: false`)" in told(watcher)


def test_it_is_never_healed_and_nothing_is_sent(host: Host) -> None:
    answers(host, "somebody else")
    watcher, workers = talking(host)
    host.stop_mongod()
    watcher.tick(10)
    host.start_mongod()
    for _ in range(100):
        for worker in workers:
            worker.io += 1
        watcher.tick()
    assert told(watcher)
    assert watcher.sent == []
    assert watcher.events(Event.HEALED, Event.RELOAD_DUE, Event.LEFTOVERS_FOUND) == []


def test_it_is_not_told_before_the_answer_is_known(host: Host) -> None:
    _, (worker, _) = host.app()
    host.connect(worker, to=ALSO)
    host.spied["asker"].broken = {"drain"}
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(30)
    assert told(watcher) == ""


def test_one_that_was_seen_with_its_own_deployment_may_talk_to_whom_it_likes(host: Host) -> None:
    answers(host, "somebody else")
    _, (worker, _) = host.app()
    own = host.connect(worker)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(5)
    host.hang_up(own, worker)
    host.connect(worker, to=ALSO)
    watcher.tick(30)
    assert told(watcher) == ""


def test_it_is_over_when_a_connection_to_its_deployment_is_seen(host: Host) -> None:
    answers(host, "somebody else")
    watcher, (worker, _) = talking(host)
    assert told(watcher)
    host.connect(worker)
    watcher.tick(15)
    assert told(watcher) == ""
    assert watcher.scopes(Event.SEEING_AGAIN) == ["instance shop"]


def test_it_goes_on_while_it_has_no_connection_at_all(host: Host) -> None:
    answers(host, "somebody else")
    watcher, workers = talking(host)
    before = told(watcher)
    for worker in workers:
        for inode in tuple(worker.sockets.values()):
            worker.lets_go(inode)
    for socket in host.sockets.sockets:
        socket.closes()
    watcher.tick(30)
    assert told(watcher) == before != ""


def test_the_members_of_another_deployment_are_others_too(host: Host) -> None:
    host.start_mongod("10.0.0.2:27017", deployment="archive")
    _, (worker, _) = host.app()
    host.connect(worker, to=Endpoint("10.0.0.2", 27017))
    both = (DeploymentConfig(MAIN, f"mongodb://{ADDRESS}"), DeploymentConfig("archive", "mongodb://10.0.0.2"))
    watcher = Watcher(host, config_of(FIFO, deployments=both))
    watcher.tick(15)
    assert told(watcher).startswith("shop talks to 10.0.0.2:27017, which is deployment archive; ")


def test_a_found_instance_that_talks_elsewhere_is_no_alarm_and_gets_no_incident(host: Host) -> None:
    answers(host, "somebody else")
    _, (worker, _) = host.app()
    host.connect(worker, to=ALSO)
    watcher = Watcher(host, config_of())
    watcher.tick(15)
    host.stop_mongod()
    watcher.tick(10)
    assert told(watcher) == ""
    assert all(one.incident is None for one in watcher.state.instances.values())
    host.start_mongod()
    watcher.tick(60)
    assert watcher.events(Event.HEALED, Event.BLIND) == []


def test_a_found_instance_that_was_seen_to_use_mongodb_has_its_incident(host: Host) -> None:
    _, (worker, _) = host.app()
    host.connect(worker)
    watcher = Watcher(host, config_of())
    watcher.tick(15)
    host.stop_mongod()
    watcher.tick(5)
    assert [bool(one.incident) for one in watcher.state.instances.values()] == [True]


# -- the tracker alone


def talks(*remotes: Endpoint) -> dict[Place, Talk]:
    return {Place(OUR_NETNS, one): Talk(frozenset(), inside=False) for one in remotes}


def test_ever_new_addresses_push_out_only_what_nobody_is_connected_to() -> None:
    one = Learned(OUR_NETNS)
    one.reconfigure([DeploymentConfig(MAIN, "mongodb://a")])
    kept = Endpoint("10.0.0.1", 27017)
    for number in range(3 * MOST):
        new = Endpoint(f"10.1.{number // 250}.{number % 250}", 27017)
        one.see(talks(kept, new), frozenset(), float(number))
    assert kept in one._known  # noqa: SLF001 - nothing else shows it
    assert len(one._known) <= MOST  # noqa: SLF001 - same
