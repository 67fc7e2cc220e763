"""Who is told to be watched, and who only to be shown: at the start, and when that has changed. The edges are fakes."""

from dataclasses import replace

import pytest

from tests.world.host import FIFO, Host, Watcher, config_of, stuck_app
from tests.world.processes import FOR_THE_GIL
from watchdogd.config import Config, DeploymentConfig, Mode
from watchdogd.core.coverage import AT_ONCE, HEARD_WITHIN_S, SETTLED_S
from watchdogd.core.gates import ROOTS
from watchdogd.core.outlook import NO_DEPLOYMENT, UNMET
from watchdogd.model.seen import Role
from watchdogd.model.told import Event
from watchdogd.report.events import sentence
from watchdogd.report.words import NO_INSTANCE

BLOG = "/run/uwsgi/app/blog/fifo"
OF_SHOP = "master 1000, 2 workers, FIFO /run/uwsgi/app/shop/fifo): when it is stuck it is reloaded (workers, chain)"


@pytest.fixture
def host() -> Host:
    one = Host()
    one.start_mongod()
    return one


def told(watcher: Watcher) -> list[tuple[str, str | None]]:
    """What was told, and of whom; from now on only what is new."""
    told = [(one.event.value, one.instance) for one in watcher.listed]
    watcher.listed.clear()
    return told


def reasons(watcher: Watcher) -> list[str]:
    return [str(one.fields["reason"]) for one in watcher.listed if "reason" in one.fields]


def two_deployments() -> Config:
    config = config_of()
    return replace(config, deployments=(*config.deployments, DeploymentConfig("other", "mongodb://10.0.0.9:27017")))


# -- found instances


def test_a_found_one_is_only_shown_until_it_is_seen_with_a_connection_and_each_is_told_once(host: Host) -> None:
    _, workers = host.app()
    watcher = Watcher(host, config_of())
    watcher.tick(60)
    assert reasons(watcher) == [UNMET]
    assert told(watcher) == [("instance_shown", "shop")]
    assert watcher.line == "watching 1 instance: only shown: shop"
    host.connect(workers[0])
    watcher.tick(60)
    assert [sentence(one) for one in watcher.listed] == [
        f"shop is watched (found; {OF_SHOP}.",
    ]
    assert watcher.line == "watching 1 instance: nothing to do"


def test_what_root_runs_is_only_shown_and_never_acted_on_unless_it_is_named() -> None:
    for config, acts in ((config_of(), False), (config_of(FIFO), True)):
        here = Host()
        here.start_mongod()
        watcher = Watcher(here, config)
        master, workers = here.app(uid=0)
        for worker in workers:
            here.connect(worker)
        watcher.tick(11)
        assert ([ROOTS] if not acts else []) == reasons(watcher)
        here.stop_mongod()
        watcher.tick(3)
        here.start_mongod()
        watcher.tick()
        for worker in workers:
            worker.io += 1000
        watcher.tick(60)
        assert bool(watcher.sent) is acts
        held = [str(one.fields["blocked_by"]) for one in watcher.told if one.event is Event.RELOAD_HELD]
        assert held == ([] if acts else ["not_named"])
        assert master.id.pid in here.processes.alive


def test_where_its_deployment_is_not_known_it_is_told_and_the_line_of_systemd_says_so(host: Host) -> None:
    host.start_mongod("10.0.0.9:27017", deployment="other")
    _, workers = host.app()
    host.connect(workers[0])
    watcher = Watcher(host, two_deployments())
    watcher.tick(60)
    assert reasons(watcher) == [NO_DEPLOYMENT]
    assert "`mongodb:`" in NO_DEPLOYMENT
    assert told(watcher) == [("instance_shown", "shop")]
    assert watcher.line == "watching 1 instance: deployment not known, so only shown: shop"


def test_where_nothing_is_found_that_is_told_once_and_its_end_is_that_one_is_found(host: Host) -> None:
    watcher = Watcher(host, config_of())
    watcher.tick(60)
    assert told(watcher) == [("no_instance", None)]
    assert watcher.line == f"nothing is watched: {NO_INSTANCE}"
    _, workers = host.app()
    host.connect(workers[0])
    watcher.tick(60)
    assert told(watcher) == [("instance_watched", "shop")]


def test_while_processes_are_hidden_nobody_says_that_there_is_none(host: Host) -> None:
    host.processes.blind = "/proc hides the processes of others"
    watcher = Watcher(host, config_of())
    watcher.tick(60)
    assert told(watcher) == []
    assert "nothing to do" not in watcher.line


def test_a_master_without_a_fifo_is_told_once_with_its_pid_and_again_when_another_one_is_there(host: Host) -> None:
    master, _ = host.app("")
    watcher = Watcher(host, config_of())
    watcher.tick(60)
    (reason,) = reasons(watcher)
    assert reason.startswith(f"uWSGI master {master.id.pid} has no master FIFO")
    assert "`master-fifo = " in reason
    assert told(watcher) == [("no_instance", None), ("not_covered", None)]
    assert "nothing to do" not in watcher.line
    assert f"not covered: uWSGI master {master.id.pid} has no master FIFO" in watcher.line
    host.processes.end(master)
    watcher.tick(15)
    host.app("")
    watcher.tick(int(SETTLED_S) - 10)
    assert told(watcher) == []  # one that comes and goes is no news
    watcher.tick(30)
    assert told(watcher) == [("not_covered", None)]


# -- named instances


def test_of_a_named_one_it_is_told_at_the_start_whether_it_was_seen_with_a_connection_or_not(host: Host) -> None:
    host.app()
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(60)
    assert [sentence(one) for one in watcher.listed] == [
        f"shop is watched (configured; {OF_SHOP}.",
    ]


def test_in_mode_observe_it_is_told_what_would_be_done_and_mode_act_is_news_at_once(host: Host) -> None:
    host.app()
    watcher = Watcher(host, replace(config_of(FIFO), mode=Mode.OBSERVE))
    watcher.tick(11)
    assert [sentence(one) for one in watcher.listed] == [
        f"shop is watched (configured; {OF_SHOP}, but never in mode observe.",
    ]
    assert watcher.line == "watching 1 instance: nothing to do; mode observe: nothing is ever reloaded"
    told(watcher)
    watcher.config = replace(watcher.config, mode=Mode.ACT)
    watcher.tick(2)
    assert told(watcher) == [("instance_watched", "shop")]


def test_one_that_does_not_run_is_told_by_one_line_and_beside_it_who_has_no_fifo(host: Host) -> None:
    master, _ = host.app("")
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(60)
    assert watcher.events(Event.INSTANCE_ABSENT) == ["instance_absent"]
    assert reasons(watcher)[0].startswith(f"uWSGI master {master.id.pid} has no master FIFO")
    assert told(watcher) == [("not_covered", None)]
    assert watcher.line.startswith("nothing is watched: does not run: shop; not covered: uWSGI master")
    host.app(FIFO)
    watcher.tick(60)
    assert watcher.snapshot.not_covered == ()
    assert told(watcher) == [("instance_watched", "shop")]


def test_a_daemon_that_is_started_anew_tells_again_who_does_not_run(host: Host) -> None:
    first = Watcher(host, config_of(FIFO))
    first.tick(11)
    assert (first.events(), told(first)) == (["instance_absent"], [])
    second = Watcher(host, config_of(FIFO), state=first.state)
    second.tick(30)
    assert (second.events(), told(second)) == ([], [("instance_absent", "shop")])


def test_which_fifo_is_meant_is_told_once_it_is_seen(host: Host) -> None:
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(30)
    assert (watcher.events(), told(watcher)) == (["instance_absent"], [])
    host.app(FIFO + "o")
    watcher.tick(60)
    (absent,) = watcher.listed
    assert f"perhaps {FIFO}o is meant" in sentence(absent)


# -- what changes


def test_a_fifo_that_is_gone_in_calm_is_told_when_it_has_lasted_and_so_is_its_end(host: Host) -> None:
    master, _ = host.app()
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    assert told(watcher) == [("instance_watched", "shop")]
    host.uwsgi.remove_fifo(master)
    watcher.tick(20)
    host.uwsgi.renew_fifo(master)
    watcher.tick(60)
    assert told(watcher) == []
    host.uwsgi.remove_fifo(master)
    watcher.tick(60)
    assert reasons(watcher)[0].startswith("deleted: ")
    assert told(watcher) == [("instance_shown", "shop")]
    assert watcher.line == "watching 1 instance: no reload can be sent to shop"
    host.uwsgi.renew_fifo(master)
    watcher.tick(11)
    assert told(watcher) == [("instance_watched", "shop")]


def test_a_restart_of_a_found_one_is_no_news_of_this_kind(host: Host) -> None:
    old, workers = host.app()
    host.connect(workers[0])
    watcher = Watcher(host, config_of())
    watcher.tick(11)
    assert told(watcher) == [("instance_watched", "shop")]
    host.processes.end(old)
    watcher.tick(11)
    _, workers = host.app()
    watcher.tick(15)
    host.connect(workers[0])
    watcher.tick(60)
    assert told(watcher) == []


def test_blindness_has_words_of_its_own_and_only_a_new_daemon_says_it_in_these(host: Host) -> None:
    master, _ = host.app()
    master.refused = "it hides its descriptors"
    first = Watcher(host, config_of(FIFO))
    first.tick(30)
    assert (first.scopes(Event.BLIND), told(first)) == (["instance shop"], [])
    second = Watcher(host, config_of(FIFO), state=first.state)
    second.tick(30)
    assert (second.scopes(Event.BLIND), reasons(second)) == ([], ["it cannot be seen: it hides its descriptors"])
    told(second)
    for watcher in (first, second):
        master.refused = None
        watcher.tick(11)
        assert told(watcher) == [("instance_watched", "shop")]


def test_in_an_incident_only_its_own_words_are_told(host: Host) -> None:
    watcher = Watcher(host, config_of(FIFO))
    master, _ = stuck_app(host, watcher)
    told(watcher)
    host.uwsgi.remove_fifo(master)
    watcher.tick(90)
    assert "reload_held" in watcher.events()
    assert told(watcher) == []


# -- the first list


def test_the_first_list_waits_for_a_word_of_every_member_and_not_for_ever(host: Host) -> None:
    _, workers = host.app()
    host.connect(workers[0])
    watcher = Watcher(host, two_deployments())
    watcher.tick(int(HEARD_WITHIN_S) - 2)
    assert told(watcher) == []
    watcher.tick(4)
    assert told(watcher) == [("instance_shown", "shop")]


def test_of_many_the_first_ones_are_named_those_that_are_only_shown_first(host: Host) -> None:
    for number in range(AT_ONCE + 5):
        host.app(f"/run/uwsgi/app/app{number}/fifo", 1, uid=0 if number == AT_ONCE else 33)
    for number in range(AT_ONCE + 3):
        host.app("", 1 + number)
    config = config_of(*[f"/run/uwsgi/app/app{number}/fifo" for number in range(AT_ONCE + 5)])
    watcher = Watcher(host, replace(config, instances=None))
    for process in host.processes.alive.values():
        if process.role is Role.READY:
            host.connect(process)
    watcher.tick(30)
    events = [one.event for one in watcher.listed]
    assert events.count(Event.INSTANCE_SHOWN) + events.count(Event.INSTANCE_WATCHED) == AT_ONCE
    assert (watcher.listed[0].event, watcher.listed[0].instance) == (Event.INSTANCE_SHOWN, f"app{AT_ONCE}")
    (more,) = [one for one in watcher.listed if one.event is Event.MORE_INSTANCES]
    assert (more.fields["number"], more.fields["watched"], more.fields["shown"]) == (5, 5, 0)
    uncovered = [str(one.fields["reason"]) for one in watcher.listed if one.event is Event.NOT_COVERED]
    assert len(uncovered) == AT_ONCE + 1
    assert uncovered[-1] == "3 more uWSGI masters; `mongo-watchdog status` lists them"


def test_one_that_is_taken_out_of_the_configuration_and_put_back_is_told_again(host: Host) -> None:
    host.app()
    host.app(BLOG)
    watcher = Watcher(host, config_of(FIFO, BLOG))
    watcher.tick(11)
    assert told(watcher) == [("instance_watched", "shop"), ("instance_watched", "blog")]
    both = watcher.config
    for config, news in ((config_of(FIFO), []), (both, [("instance_watched", "blog")])):
        watcher.config = config
        watcher.observer.reconfigure(config)
        watcher.tick(11)
        assert told(watcher) == news


# -- hung workers


def test_a_hung_worker_is_in_the_line_of_systemd_as_long_as_it_hangs(host: Host) -> None:
    master, workers = host.app()
    host.connect(workers[0])
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    hung = host.processes.fork(master, Role.LOADING)
    hung.wait = FOR_THE_GIL._replace(ignores_hup=True)
    watcher.tick(20)
    assert watcher.events(Event.HUNG_FOUND) == ["hung_found"]
    assert watcher.line == f"watching 1 instance: hangs since its fork: process {hung.id.pid} of shop"
    host.processes.end(hung)
    watcher.tick(20)
    assert watcher.line == "watching 1 instance: nothing to do"
