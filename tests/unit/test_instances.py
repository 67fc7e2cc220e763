"""Instances on the fakes: configured ones and found ones, their names, what is shown of one that is gone."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.world.host import ADDRESS, FIFO, MAIN, MONGOD, Host, Watcher, config_of, stuck_app, work
from tests.world.pieces import SHOP_ID
from watchdogd.config import DeploymentConfig, InstanceConfig
from watchdogd.core.outlook import NO_DEPLOYMENT
from watchdogd.model.remembered import Phase
from watchdogd.model.seen import Instance, Role
from watchdogd.model.told import Event

BLOG = "/run/uwsgi/app/blog/fifo"


@pytest.fixture
def host() -> Host:
    host = Host()
    host.start_mongod()
    return host


def found(watcher: Watcher) -> dict[str, str]:
    """The instances that are shown, and what they are found by."""
    return {one.name: one.fifo for one in watcher.snapshot.instances}


def instance(watcher: Watcher, name: str = "shop") -> Instance:
    return next(one for one in watcher.snapshot.instances if one.name == name)


# -- configured ones


def test_master_workers_and_others_are_seen(host: Host) -> None:
    master, (first, second) = host.app(uid=12)
    other = host.processes.fork(master, Role.OTHER)
    second.role = Role.LOADING
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    seen = instance(watcher)
    assert (seen.master, seen.uid, seen.others, seen.fifo) == (master.id, 12, (other.id,), FIFO)
    assert [(worker.id, worker.ready) for worker in seen.workers] == [(first.id, True), (second.id, False)]
    assert (seen.deployments, seen.blind, seen.fifo_problem) == ((MAIN,), (), None)


def test_mules_and_spoolers_are_seen_and_that_there_were_some_is_known_while_there_is_none(host: Host) -> None:
    master, (worker,) = host.app(workers=1)
    mule, spooler = host.processes.fork(master, Role.MULE), host.processes.fork(master, Role.SPOOLER)
    held = host.connect(mule)
    host.start_mongod()
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    seen = instance(watcher)
    assert [(one.id, one.role, one.ready) for one in seen.mules] == [
        (mule.id, Role.MULE, True),
        (spooler.id, Role.SPOOLER, True),
    ]
    assert [one.id for one in seen.workers] == [worker.id]
    assert seen.others == ()
    assert [(one.owned, bool(one.reconnected)) for one in seen.mules] == [(True, True), (False, False)]
    assert seen.is_bystander(seen.workers[0])
    work([mule])
    watcher.tick(11)
    assert [one.used is not None for one in instance(watcher).mules] == [True, False]

    host.processes.end(mule, spooler)
    host.hang_up(held)
    watcher.tick(11)
    seen = instance(watcher)
    assert (seen.mules, seen.had_mules) == ((), True)
    assert seen.is_bystander(seen.workers[0])
    host.processes.end(master)
    host.app(workers=1)
    watcher.tick(11)
    assert not instance(watcher).had_mules  # of another master nothing is known yet


def test_one_that_nobody_runs_is_absent_until_it_is_started(host: Host) -> None:
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    assert instance(watcher).master is None
    assert watcher.events() == ["instance_absent"]
    master, _ = host.app()
    watcher.tick(11)
    assert instance(watcher).master == master.id
    assert watcher.events() == ["instance_absent", "instance_back"]


@pytest.mark.parametrize(
    ("configured", "meant"),
    [
        ("/run/uwsgi/app/shp/fifo", True),
        ("/run/uwsgi/app/shopp/fifo", True),
        ("/run/uwsgi/app/shpo/fifo", True),
        ("/run/uwsgi/app/shop/fido", True),
        ("/run/uwsgi/app/blog/fifo", False),
        ("/run/uwsgi/app/shop2/fifo.sock", False),
    ],
)
def test_of_a_path_that_is_almost_right_it_is_said_which_one_is(host: Host, configured: str, meant: bool) -> None:
    master, _ = host.app()
    watcher = Watcher(host, config_of(configured))
    watcher.tick(11)
    said = f"perhaps {FIFO} is meant, which uWSGI master {master.id.pid} reads"
    assert watcher.snapshot.instances[0].meant == (said if meant else "")
    assert watcher.events() == ["instance_absent"]
    host.processes.end(master)
    watcher.tick(11)
    assert watcher.snapshot.instances[0].meant == ""


def test_where_nobody_can_say_which_one_is_meant_the_other_instances_go_on_being_read(host: Host) -> None:
    host.app(BLOG)
    watcher = Watcher(host, config_of(FIFO, BLOG))
    host.spied["uwsgi"].broken.add("discover")
    watcher.tick(11)
    absent, blog = watcher.snapshot.instances
    assert (absent.master, absent.meant) == (None, "")
    assert blog.master is not None


def test_the_fifo_of_another_instance_is_not_meant(host: Host) -> None:
    host.app()
    watcher = Watcher(host, config_of(FIFO, "/run/uwsgi/app/shopp/fifo"))
    watcher.tick(11)
    assert {one.meant for one in watcher.snapshot.instances} == {""}


def test_another_master_begins_with_an_empty_memory(host: Host) -> None:
    master, (worker, _) = host.app()
    host.connect(master, worker)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    assert instance(watcher).held_by_master == {MAIN}
    assert instance(watcher).master_connected_at is not None
    host.processes.end(master)
    again, _ = host.app()
    watcher.tick(11)
    seen = instance(watcher)
    assert (seen.master, seen.held_by_master, seen.master_connected_at) == (again.id, frozenset(), None)
    assert seen.seen_at == pytest.approx(host.clock.now, abs=10)


def test_a_problem_with_the_fifo_is_shown_and_blocks(host: Host) -> None:
    watcher = Watcher(host, config_of(FIFO))
    master, _ = stuck_app(host, watcher)
    host.uwsgi.remove_fifo(master)
    watcher.tick(60)
    assert (instance(watcher).fifo_problem or "").startswith("deleted:")
    assert watcher.state.instances[SHOP_ID].phase is Phase.DUE
    assert watcher.sent == []
    host.uwsgi.renew_fifo(master)
    watcher.until(lambda: watcher.sent)


def test_why_a_master_may_never_be_restarted_is_asked_once_of_each(host: Host) -> None:
    master, _ = host.app()
    host.uwsgi.handed[master.id] = "it is a zergling"
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    assert instance(watcher).no_restart == "it is a zergling"
    host.uwsgi.handed.clear()  # its server has ended
    watcher.tick(22)
    assert instance(watcher).no_restart == "it is a zergling"
    assert host.spied["uwsgi"].names.count("no_restart") == 1
    host.processes.end(master)
    again, _ = host.app()
    watcher.tick(11)
    assert (instance(watcher).master, instance(watcher).no_restart) == (again.id, None)


def test_where_that_cannot_be_asked_the_instance_is_blind_and_it_is_asked_again(host: Host) -> None:
    master, _ = host.app()
    host.uwsgi.handed[master.id] = "it is a zergling"
    watcher = Watcher(host, config_of(FIFO))
    host.spied["uwsgi"].broken.add("no_restart")
    watcher.tick(11)
    assert "no_restart is broken" in watcher.blind()["instance shop"]
    host.spied["uwsgi"].broken.clear()
    watcher.tick(11)
    assert (instance(watcher).no_restart, watcher.blind()) == ("it is a zergling", {})


def sends(watcher: Watcher) -> list[tuple[str, float]]:
    """Whom the master sends to, and since when."""
    return [(one.member.address, one.since) for one in instance(watcher).master_sent]


def test_a_master_sends_to_a_member_once_it_sent_since_that_serves_and_read_all_that_came(host: Host) -> None:
    master, _ = host.app()
    host.connect(master)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(12)
    host.stop_mongod()
    watcher.tick(3)
    host.start_mongod()
    again, beside = host.connect(master), host.connect(master)  # at once, perhaps before the member served
    watcher.tick(2)
    assert sends(watcher) == []
    again.hears(300)  # mongod streams its answers, and the kernel takes them
    watcher.tick(2)
    assert sends(watcher) == []
    again.reads()
    again.sends()
    beside.sends()
    watcher.tick(2)
    first = host.clock.now - 1
    assert sends(watcher) == [(ADDRESS, first)]
    (sent,) = instance(watcher).master_sent
    assert sent.last.hi == first - 1
    again.sends()
    watcher.tick(10)
    assert sends(watcher) == [(ADDRESS, first)]
    again.hears(300)
    watcher.tick(10)
    assert sends(watcher) == []  # nobody reads


def test_whether_a_master_is_single_is_asked_of_those_alone_that_hold_connections_and_do_not_send(host: Host) -> None:
    master, _ = host.app()
    master.runs = {master.id.pid: 1}
    watcher = Watcher(host, config_of(FIFO))

    def asked() -> bool:
        """In calm: after the return of MongoDB everybody is suspected for a while."""
        watcher.tick(100)
        host.spied["processes"].calls.clear()
        watcher.tick(12)
        return "runs" in host.spied["processes"].names

    assert not asked()
    host.connect(master)
    host.stop_mongod()
    watcher.tick(3)
    host.start_mongod()
    watcher.tick(3)
    assert asked()
    assert instance(watcher).master_single
    host.connect(master)
    host.connect(master)
    watcher.tick(12)
    assert sends(watcher)
    assert not instance(watcher).master_single
    assert not asked()


def test_what_a_master_sent_before_its_member_served_anew_does_not_count(host: Host) -> None:
    master, _ = host.app()
    socket, beside = host.connect(master), host.connect(master)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    socket.sends()
    beside.sends()
    watcher.tick(12)
    assert sends(watcher)
    host.say(is_serving=False)  # another one is primary; no connection ends
    watcher.tick(2)
    assert sends(watcher) == []
    host.say()
    watcher.tick(12)
    assert sends(watcher) == []
    socket.sends()
    beside.sends()
    watcher.tick(12)
    assert sends(watcher)


def test_what_a_worker_sends_alone_is_not_the_masters(host: Host) -> None:
    _, (worker, _) = host.app()
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(2)
    host.connect(worker).sends()
    watcher.tick(12)
    assert sends(watcher) == []


def test_what_the_master_was_seen_to_hold_is_remembered(host: Host) -> None:
    master, _ = host.app()
    socket = host.connect(master)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    host.hang_up(socket, master)
    watcher.tick(22)
    assert instance(watcher).held_by_master == {MAIN}


def test_the_master_was_connected_as_long_as_its_connection_was_there_though_nothing_came_over_it(host: Host) -> None:
    master, _ = host.app()
    socket = host.connect(master)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(44)
    assert instance(watcher).master_connected_at == pytest.approx(host.clock.now, abs=10)
    ended = host.clock.now
    host.hang_up(socket, master)
    watcher.tick(44)
    assert instance(watcher).master_connected_at == pytest.approx(ended, abs=10)


def test_a_worker_is_reconnected_from_its_first_own_connection_on(host: Host) -> None:
    _, (worker, other) = host.app()
    socket = host.connect(worker)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    host.hang_up(socket, worker)
    watcher.tick(22)
    reached = {one.id: one.reconnected for one in instance(watcher).workers}
    assert reached == {worker.id: frozenset({f"{MONGOD}#1"}), other.id: frozenset()}


def test_a_connection_that_a_fork_shares_is_nobodys_own(host: Host) -> None:
    master, (worker, _) = host.app()
    host.connect(master, worker)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(12)
    assert [one.reconnected for one in instance(watcher).workers] == [frozenset(), frozenset()]


def test_two_own_connections_at_once_are_a_monitor_and_are_remembered_like_having_held_one_alone(host: Host) -> None:
    master, (worker, other) = host.app()
    first, second = host.connect(worker), host.connect(worker)
    shared = host.connect(master, worker, other)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    for socket in (first, second):
        host.hang_up(socket, worker)
    host.hang_up(shared, master)
    watcher.tick(12)
    host.hang_up(shared, worker)  # `other` is the last who holds it
    watcher.tick(12)
    marks = {one.id: (one.monitored, one.owned) for one in instance(watcher).workers}
    assert marks == {worker.id: (frozenset({f"{MONGOD}#1"}), True), other.id: (frozenset(), False)}


def test_one_connection_after_the_other_is_no_monitor(host: Host) -> None:
    _, (worker, _) = host.app()
    watcher = Watcher(host, config_of(FIFO))
    for _ in range(2):
        socket = host.connect(worker)
        watcher.tick(12)
        host.hang_up(socket, worker)
        watcher.tick(12)
    assert instance(watcher).workers[0].monitored == frozenset()
    assert instance(watcher).workers[0].owned


# -- found ones


def test_every_master_with_a_fifo_is_found_and_named_after_it(host: Host) -> None:
    host.app(FIFO)
    host.app(BLOG)
    watcher = Watcher(host, config_of())
    watcher.tick()
    assert found(watcher) == {"shop": FIFO, "blog": BLOG}
    assert {one.deployments for one in watcher.snapshot.instances} == {(MAIN,)}


def test_one_that_is_started_later_is_found_within_ten_seconds(host: Host) -> None:
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    host.app()
    watcher.tick(11)
    assert found(watcher) == {"shop": FIFO}


def test_two_folders_of_the_same_name_give_two_names(host: Host) -> None:
    host.app("/srv/b/shop/fifo")
    host.app("/srv/a/shop/fifo")
    watcher = Watcher(host, config_of())
    watcher.tick()
    assert found(watcher) == {"a/shop": "/srv/a/shop/fifo", "b/shop": "/srv/b/shop/fifo"}


def test_a_name_never_passes_to_another_instance(host: Host) -> None:
    first, _ = host.app("/srv/b/shop/fifo")
    host.app("/srv/c/shop/fifo")
    watcher = Watcher(host, config_of())
    watcher.tick()
    names = found(watcher)
    host.processes.end(first)
    watcher.tick(11)
    assert found(watcher) == names
    host.app("/srv/a/shop/fifo")
    host.app("/srv/b/shop/fifo")
    watcher.tick(11)
    assert found(watcher) == names | {"a/shop": "/srv/a/shop/fifo"}


def test_two_masters_at_one_fifo_are_one_instance(host: Host) -> None:
    """It was started while its predecessor still ends."""
    old, _ = host.app()
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    host.uwsgi.remove_fifo(old)
    new, _ = host.app()
    watcher.tick(11)
    assert found(watcher) == {"shop": FIFO}
    host.processes.end(old)
    watcher.tick(11)
    assert found(watcher) == {"shop": FIFO}
    assert instance(watcher).master == new.id


@pytest.mark.parametrize("fifos", [(FIFO,), ()], ids=["configured", "found"])
def test_while_two_masters_live_nothing_is_sent_and_the_one_at_the_path_is_shown(
    host: Host, fifos: tuple[str, ...]
) -> None:
    watcher = Watcher(host, config_of(*fifos))
    old, _ = stuck_app(host, watcher)
    new = host.uwsgi.fork_master(old)
    watcher.tick(60)
    seen = instance(watcher)
    assert (seen.master, seen.others) == (new.id, ())
    assert (seen.fifo_problem or "").startswith("two masters:")
    assert (found(watcher), watcher.snapshot.not_covered, watcher.sent) == ({"shop": FIFO}, (), [])
    host.processes.end(new)
    watcher.tick(11)
    assert (instance(watcher).master, instance(watcher).others) == (old.id, ())
    assert (instance(watcher).fifo_problem or "").startswith("deleted:")
    host.uwsgi.renew_fifo(old)
    watcher.until(lambda: watcher.sent)


@pytest.mark.parametrize("fifos", [(FIFO,), ()], ids=["configured", "found"])
def test_a_master_that_has_its_path_again_is_told_beside_the_one_that_it_forked(
    host: Host, fifos: tuple[str, ...]
) -> None:
    """It took it between two looks."""
    old, _ = host.app()
    watcher = Watcher(host, config_of(*fifos))
    watcher.tick(11)
    new = host.uwsgi.fork_master(old)
    host.uwsgi.take_path(old, new)
    watcher.tick(22)
    assert instance(watcher).master == old.id
    assert (instance(watcher).fifo_problem or "").startswith("two masters:")
    host.processes.end(new)
    watcher.tick(11)
    assert instance(watcher).fifo_problem is None


def test_one_that_disappears_is_shown_as_absent(host: Host) -> None:
    master, _ = host.app()
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    host.processes.end(master)
    watcher.tick(11)
    assert found(watcher) == {"shop": FIFO}
    assert instance(watcher).master is None
    assert watcher.events(Event.INSTANCE_ABSENT) == ["instance_absent"]


def test_with_several_deployments_one_is_shown_and_never_acted_on(host: Host) -> None:
    second = DeploymentConfig("other", "mongodb://10.0.0.9:27017")
    config = config_of()
    watcher = Watcher(host, replace(config, deployments=(*config.deployments, second)))
    host.start_mongod("10.0.0.9:27017", deployment="other")
    stuck_app(host, watcher)
    watcher.tick(120)
    assert instance(watcher).deployments == ()
    assert watcher.outlooks[SHOP_ID].only_shown == NO_DEPLOYMENT
    assert watcher.sent == []
    assert watcher.state.instances[SHOP_ID].phase is Phase.WATCHING


def test_masters_without_a_fifo_are_not_covered_and_the_line_that_mends_it_is_named(host: Host) -> None:
    master, _ = host.app("")
    watcher = Watcher(host, config_of())
    watcher.tick()
    (sentence,) = watcher.snapshot.not_covered
    assert sentence.startswith(f"uWSGI master {master.id.pid} has no master FIFO")
    assert "`master-fifo = " in sentence
    assert watcher.snapshot.instances == ()
    assert not watcher.blind()


def test_a_master_that_cannot_be_read_is_a_blindness_that_holds_up_no_other(host: Host) -> None:
    hidden, _ = host.app(BLOG)
    hidden.refused = f"process {hidden.id.pid} hides its descriptors: CAP_SYS_PTRACE is missing"
    watcher = Watcher(host, config_of())
    stuck_app(host, watcher)
    watcher.until(lambda: watcher.sent)
    scope = f"instance of master {hidden.id.pid}"
    assert "CAP_SYS_PTRACE is missing" in watcher.blind()[scope]
    assert watcher.scopes(Event.BLIND) == [scope]
    assert watcher.snapshot.not_covered == ()
    hidden.refused = None
    watcher.tick(11)
    assert watcher.scopes(Event.SEEING_AGAIN) == [scope]
    assert found(watcher) == {"shop": FIFO, "blog": BLOG}


def test_one_that_was_found_and_can_no_longer_be_read_is_blind_once(host: Host) -> None:
    master, _ = host.app()
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    master.refused = "CAP_SYS_PTRACE is missing"
    watcher.tick(11)
    assert watcher.blind() == {"instance shop": "CAP_SYS_PTRACE is missing"}


def test_processes_that_are_hidden_are_not_an_absent_instance(host: Host) -> None:
    host.processes.blind = "/proc hides the processes of others"
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    assert watcher.blind() == {"processes": "/proc hides the processes of others"}
    configured = Watcher(host, config_of(FIFO))
    configured.tick(4)
    assert configured.blind() == {"instance shop": "/proc hides the processes of others"}


# -- another configuration


def test_an_instance_that_stays_keeps_what_is_known_of_it_under_another_name(host: Host) -> None:
    master, (worker, _) = host.app()
    host.connect(worker)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    before = instance(watcher)
    renamed = replace(config_of(FIFO), instances=(InstanceConfig("store", Path(FIFO), (MAIN,), mercy_s=7.0),))
    watcher.observer.reconfigure(renamed)
    watcher.tick()
    after = replace(instance(watcher, "store"), name="shop")
    assert replace(after, workers=()) == replace(before, workers=())
    assert [one.ready_since for one in after.workers] == [one.ready_since for one in before.workers]
    assert [one.reconnected for one in after.workers] == [one.reconnected for one in before.workers]
    assert instance(watcher, "store").master == master.id


def test_one_that_is_no_longer_configured_is_gone_and_a_new_one_is_there(host: Host) -> None:
    host.app(FIFO)
    host.app(BLOG)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    watcher.observer.reconfigure(config_of(BLOG))
    watcher.tick()
    assert found(watcher) == {"blog": BLOG}
    assert len(instance(watcher, "blog").workers) == 2


def test_what_is_seen_of_one_that_is_configured_anew_is_latched_anew(host: Host) -> None:
    master, (worker, _) = host.app(FIFO)
    host.app(BLOG)
    host.connect(master)
    host.connect(worker)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    before = instance(watcher)
    watcher.observer.reconfigure(config_of(BLOG))
    watcher.observer.reconfigure(config_of(FIFO))  # before any look: it is another one, with the same processes
    watcher.tick()
    seen = instance(watcher)
    assert seen.held_by_master == before.held_by_master == {MAIN}
    assert seen.master_connected_at == host.clock.now
    assert [one.reconnected for one in seen.workers] == [one.reconnected for one in before.workers]
    assert any(one.reconnected for one in seen.workers)


def test_another_policy_leaves_found_instances_their_names(host: Host) -> None:
    host.app("/srv/b/shop/fifo")
    host.app("/srv/a/shop/fifo")
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    before = found(watcher)
    assert len(before) == 2
    watcher.observer.reconfigure(config_of(interval_s=2.0))
    assert {one.name: one.fifo for one in watcher.observer.look(full=False).instances} == before


def test_without_configured_instances_all_are_found_and_the_known_ones_keep_their_memory(host: Host) -> None:
    host.app(FIFO)
    host.app(BLOG)
    named = replace(config_of(FIFO), instances=(InstanceConfig("store", Path(FIFO), (MAIN,)),))
    watcher = Watcher(host, named)
    watcher.tick(4)
    since = instance(watcher, "store").workers[0].ready_since
    assert since is not None
    watcher.observer.reconfigure(config_of())
    watcher.tick()
    assert found(watcher) == {"shop": FIFO, "blog": BLOG}
    assert instance(watcher).workers[0].ready_since == since
    watcher.observer.reconfigure(named)
    watcher.tick()
    assert found(watcher) == {"store": FIFO}
    assert instance(watcher, "store").workers[0].ready_since == since
