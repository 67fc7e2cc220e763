"""Observer.look on the fakes: how deep it looks, what it does when an edge fails, whose sockets it reads."""

import os
import re
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.world.host import ADDRESS, FIFO, MONGOD, Host, Watcher, config_of, stuck_app, work
from tests.world.pieces import SHOP_ID
from tests.world.processes import FakeProcess
from tests.world.sockets import FakeSocket
from watchdogd.core.detect import SUSPECTED_FOR_S
from watchdogd.core.phases import QUIET
from watchdogd.model.base import WORKERS, InstanceId, MemberId
from watchdogd.model.done import Result, SendFifo
from watchdogd.model.found import Verdict
from watchdogd.model.remembered import Phase
from watchdogd.model.seen import Backend, Connection, MemberState, Role, SocketsFrom, Tcp
from watchdogd.model.told import Event
from watchdogd.observe.observer import FULL_EVERY_S
from watchdogd.service.store import Store

ELSEWHERE = 4026532999  # another network namespace
OTHER = "10.0.0.2:27017"


@pytest.fixture
def host() -> Host:
    host = Host()
    host.start_mongod()
    return host


def looking(host: Host, *fifos: str) -> Watcher:
    """A watcher that knows its member and its instances, long after MongoDB came; the next look would be quiet."""
    watcher = Watcher(host, config_of(*(fifos or (FIFO,))))
    watcher.tick(int(SUSPECTED_FOR_S / 5) + 2, every=5)  # and suspects nothing any more
    watcher.tick(11)  # until a full look has just been
    forget_calls(host)
    while not was_full(host):
        watcher.tick()
    forget_calls(host)
    return watcher


def forget_calls(host: Host) -> None:
    for edge in host.spied.values():
        edge.calls.clear()


def was_full(host: Host) -> bool:
    """Whether a look since then asked for ESTABLISHED connections; it read processes exactly then."""
    reads = [call.named["established"] for call in host.spied["sockets"].calls if call.name == "read"]
    assert bool(host.spied["uwsgi"].calls) is any(reads)
    return any(reads)


# -- two depths


def test_a_quiet_look_asks_for_close_wait_alone_and_reads_no_process(host: Host) -> None:
    _, workers = host.app()
    host.connect(*workers)
    watcher = looking(host)
    watcher.tick(8)
    assert [call.named for call in host.spied["sockets"].calls] == [{"established": False}] * 8
    assert host.spied["uwsgi"].calls == []


def test_every_ten_seconds_a_look_is_full(host: Host) -> None:
    host.app()
    watcher = looking(host)
    watcher.tick(30)
    reads = [call.named["established"] for call in host.spied["sockets"].calls]
    assert reads.count(True) == 3
    assert FULL_EVERY_S == 10


def test_at_rest_the_table_is_walked_as_often_as_its_cost_allows(host: Host) -> None:
    host.sockets.cpu_s = 0.005  # 50 000 sockets
    host.app()
    watcher = looking(host)
    watcher.tick(40)
    assert len([call for call in host.spied["sockets"].calls if call.name == "read"]) == 8


def test_every_full_look_walks_whatever_that_costs(host: Host) -> None:
    """Only that shows new connections. One that fell between two walks showed none for another 10 s."""
    host.sockets.cpu_s = 0.05
    host.app()
    watcher = looking(host)
    watcher.tick(31)
    reads = [call.named["established"] for call in host.spied["sockets"].calls if call.name == "read"]
    assert reads.count(True) == 3


def test_a_walk_is_not_put_off_while_something_is_wrong(host: Host) -> None:
    host.sockets.cpu_s = 0.025
    stuck_app(host, watcher := looking(host))
    watcher.until(lambda: watcher.state.instances[SHOP_ID].phase not in QUIET)
    forget_calls(host)
    watcher.tick(5)
    assert [call.named["established"] for call in host.spied["sockets"].calls] == [True] * 5


def test_in_between_what_is_known_to_have_ended_is_looked_up(host: Host) -> None:
    host.sockets.cpu_s = 0.005
    _, (worker, *_) = host.app()
    kept, closed = host.connect(worker), host.connect(worker)
    watcher = looking(host)
    for one in (kept, closed):
        one.is_left()
    watcher.tick(6)  # a load balancer's time-out: it is shown, and nothing is wrong
    assert {one.tcp for one in watcher.snapshot.connections} == {Tcp.CLOSE_WAIT}
    watcher.until(lambda: host.spied["sockets"].calls[-1].name == "read")
    forget_calls(host)
    kept.reads()
    closed.dead = True
    watcher.tick()
    assert [call.name for call in host.spied["sockets"].calls] == ["look_up"]
    assert {(one.tcp, one.rqueue) for one in watcher.snapshot.connections} == {(Tcp.CLOSE_WAIT, 0), (Tcp.DEAD, 1)}


def is_a_bug(why: str, method: str) -> bool:
    """Whether it says what was raised, and where."""
    place = r"internal error in observe/[\w/]+\.py:[0-9]+: "
    return re.fullmatch(rf"{place}RuntimeError\('{method} is broken'\); please report it", why) is not None


@pytest.mark.parametrize("state", [MemberState.DOWN, MemberState.FROZEN])
def test_looks_are_full_as_long_as_a_member_is_out(host: Host, state: MemberState) -> None:
    host.app()
    watcher = looking(host)
    host.stop_mongod(state=state)
    for _ in range(3):
        forget_calls(host)
        watcher.observer.look(full=False)
        assert was_full(host)


def test_a_member_that_cannot_be_reached_by_a_mistake_of_ours_makes_no_look_full(host: Host) -> None:
    host.app()
    watcher = looking(host)
    host.stop_mongod(state=MemberState.UNREACHABLE)
    watcher.observer.look(full=False)
    assert not was_full(host)


def test_a_restart_faster_than_any_look_makes_one_look_full(host: Host) -> None:
    host.app()
    watcher = looking(host)
    host.clock.move(0.1)
    host.start_mongod()
    watcher.observer.look(full=False)
    assert was_full(host)
    assert len(watcher.observer.look(full=False).members[MemberId("main", ADDRESS)].outages) == 1
    forget_calls(host)
    watcher.observer.look(full=False)
    assert not was_full(host)


def test_a_new_address_makes_the_look_full_that_first_asks_for_it(host: Host) -> None:
    host.app()
    host.resolver.hosts["db"] = {"10.0.0.1"}
    watcher = Watcher(host, config_of(FIFO, uri="mongodb://db"))
    watcher.tick(4)
    host.resolver.hosts["db"] = {"10.0.0.1", "10.0.0.2"}
    host.pass_time(60)
    watcher.observer.look(full=False)
    forget_calls(host)
    watcher.observer.look(full=False)
    assert was_full(host)
    forget_calls(host)
    watcher.observer.look(full=False)
    assert not was_full(host)


def test_a_look_that_is_asked_for_is_full(host: Host) -> None:
    host.app()
    watcher = looking(host)
    watcher.observer.look(full=True)
    assert was_full(host)


def test_looks_are_full_as_long_as_an_instance_holds_a_close_wait(host: Host) -> None:
    _, (worker, _) = host.app()
    socket = host.connect(worker)
    watcher = looking(host)
    socket.is_left()  # a load balancer's time-out: mongod goes on
    for _ in range(3):
        forget_calls(host)
        watcher.observer.look(full=False)
        assert was_full(host)
    host.hang_up(socket, worker)
    watcher.observer.look(full=False)
    forget_calls(host)
    watcher.observer.look(full=False)
    assert not was_full(host)


def test_looks_are_full_as_long_as_an_instance_holds_one_that_is_in_no_table_any_more(host: Host) -> None:
    _, (worker, _) = host.app()
    socket = host.connect(worker)
    watcher = looking(host)
    socket.is_left()
    watcher.tick()
    socket.dead = True
    for _ in range(3):
        forget_calls(host)
        snapshot = watcher.observer.look(full=False)
        assert was_full(host)
        assert [one.tcp for one in snapshot.connections] == [Tcp.DEAD]


def test_a_close_wait_that_nobody_knew_makes_the_look_full_that_finds_it(host: Host) -> None:
    _, (worker, _) = host.app()
    watcher = looking(host)
    host.connect(worker).is_left()
    snapshot = watcher.observer.look(full=False)
    assert was_full(host)
    assert [(one.tcp, one.holders) for one in snapshot.connections] == [(Tcp.CLOSE_WAIT, frozenset({worker.id}))]


def test_a_close_wait_of_a_foreign_process_makes_one_look_full_and_no_other(host: Host) -> None:
    host.app()
    watcher = looking(host)
    host.connect().is_left()
    watcher.observer.look(full=False)
    assert was_full(host)
    forget_calls(host)
    watcher.tick(5)
    assert not was_full(host)
    assert watcher.snapshot.connections[0].holders == frozenset()


def test_a_close_wait_of_a_foreign_process_that_goes_leaves_nothing_behind(host: Host) -> None:
    host.app()
    watcher = looking(host)
    socket = host.connect()
    socket.is_left()
    watcher.tick()
    socket.closes()
    watcher.tick(int(2 * FULL_EVERY_S))
    assert watcher.snapshot.connections == ()


def test_without_an_address_no_socket_is_read_and_nothing_counts_as_gone(host: Host) -> None:
    _, (worker, _) = host.app()
    socket = host.connect(worker)
    socket.is_left()
    watcher = looking(host)
    saved = watcher.observer.ended()
    again = Watcher(host, config_of(FIFO))
    again.observer.restore(saved)
    first = again.observer.look(full=False)
    assert [one.tcp for one in first.connections] == [Tcp.CLOSE_WAIT]
    assert not again.observer.look(full=False).blind


# -- an edge that raises


BREAKING = {
    "heartbeats.drain": ("heartbeats", "drain", "heartbeats"),
    "resolver.drain": ("resolver", "drain", "resolver"),
    "sockets.read": ("sockets", "read", "sockets"),
    "uwsgi.check": ("uwsgi", "check", "instance shop"),
    "processes.of": ("processes", "of", "instance shop"),
    "processes.descriptors": ("processes", "descriptors", "instance shop"),
    "processes.still": ("processes", "still", "instance shop"),
}


@pytest.mark.parametrize(("edge", "method", "scope"), BREAKING.values(), ids=BREAKING)
def test_while_an_edge_raises_that_part_is_blind_and_loud_and_nothing_is_sent(
    host: Host, edge: str, method: str, scope: str
) -> None:
    watcher = looking(host)
    stuck_app(host, watcher)
    watcher.until(lambda: watcher.state.instances[SHOP_ID].phase is Phase.SETTLING)
    assert not watcher.blind()
    host.spied[edge].broken.add(method)
    # Descriptors are read again when there is something new to find: a socket of nobody's.
    host.connect().is_left()
    watcher.tick(60)
    assert is_a_bug(watcher.blind()[scope], method)
    assert watcher.sent == []
    assert watcher.scopes(Event.BLIND) == [scope]
    assert watcher.scopes(Event.SEEING_AGAIN) == []
    host.spied[edge].broken.clear()
    watcher.until(lambda: watcher.sent, within=60)
    assert not watcher.blind()
    assert watcher.scopes(Event.BLIND) == watcher.scopes(Event.SEEING_AGAIN) == [scope]


def test_an_instance_that_cannot_be_found_does_not_hide_the_others(host: Host) -> None:
    other = "/run/uwsgi/app/blog/fifo"
    _, (worker, _) = host.app(other)
    host.connect(worker)
    watcher = looking(host, FIFO, other)
    host.spied["uwsgi"].broken.add("find")  # shop is absent, so it is looked for in each full look
    watcher.tick(11)
    shop, blog = watcher.snapshot.instances
    assert [is_a_bug(why, "find") for why in shop.blind] == [True]
    assert (blog.blind, len(blog.workers)) == ((), 2)
    assert watcher.snapshot.connections[0].holders == {worker.id}
    assert watcher.scopes(Event.BLIND) == ["instance shop"]
    host.spied["uwsgi"].broken.clear()
    watcher.tick(11)
    assert watcher.scopes(Event.SEEING_AGAIN) == ["instance shop"]


def test_a_broken_discovery_makes_everything_blind_and_what_was_found_is_still_read(host: Host) -> None:
    _, (worker, _) = host.app()
    watcher = Watcher(host, config_of())
    watcher.tick(4)
    host.spied["uwsgi"].broken.add("discover")
    worker.role = Role.LOADING
    watcher.tick(11)
    assert watcher.blind().keys() == {"processes"}
    assert is_a_bug(watcher.blind()["processes"], "discover")
    assert [one.ready for one in watcher.snapshot.instances[0].workers] == [False, True]
    host.spied["uwsgi"].broken.clear()
    watcher.tick(11)
    assert watcher.scopes(Event.BLIND) == watcher.scopes(Event.SEEING_AGAIN) == ["processes"]


@pytest.mark.parametrize("method", ["seeds", "addresses"])
def test_a_resolver_that_cannot_be_asked_is_asked_again_at_the_next_look(host: Host, method: str) -> None:
    host.spied["resolver"].broken.add(method)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(5)
    assert is_a_bug(watcher.blind()["resolver"], method)
    assert watcher.scopes(Event.BLIND) == ["resolver"]
    host.spied["resolver"].broken.clear()
    watcher.tick(4)
    assert not watcher.blind()
    assert watcher.snapshot.members[MemberId("main", ADDRESS)].endpoints == {MONGOD}


def test_heartbeats_that_cannot_be_begun_are_begun_at_the_next_look(host: Host) -> None:
    host.spied["heartbeats"].broken.add("watch")
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(5)
    assert watcher.scopes(Event.BLIND) == ["heartbeats"]
    host.spied["heartbeats"].broken.clear()
    watcher.tick(2)
    assert watcher.snapshot.members[MemberId("main", ADDRESS)].state is MemberState.UP
    assert not watcher.blind()


@pytest.mark.parametrize(("edge", "method"), [("uwsgi", "check"), ("processes", "of"), ("uwsgi", "descriptor")])
def test_what_cannot_be_compared_right_before_the_byte_is_not_as_it_was(host: Host, edge: str, method: str) -> None:
    master, workers = host.app()
    watcher = looking(host)
    effect = effect_on(master, workers)
    assert last_look(watcher, effect) is None
    host.spied[edge].broken.add(method)
    changed = last_look(watcher, effect)
    assert changed
    assert is_a_bug(changed, method)


# -- the last look before the byte


def last_look(watcher: Watcher, effect: SendFifo) -> str | None:
    """What it says has changed; None where it gives the descriptor."""
    taken = watcher.observer.last_look(effect)
    if isinstance(taken, int):
        os.close(taken)
        return None
    result, changed = taken
    assert result is Result.CHANGED
    return changed


def effect_on(master: FakeProcess, workers: list[FakeProcess]) -> SendFifo:
    return SendFifo("id", SHOP_ID, FIFO, WORKERS, master.id, frozenset(worker.id for worker in workers), 33)


def test_a_worker_that_was_replaced_since_is_a_change(host: Host) -> None:
    master, workers = host.app()
    watcher = looking(host)
    effect = effect_on(master, workers)
    host.processes.end(workers[0])
    host.processes.fork(master)
    assert last_look(watcher, effect) == "the workers have changed"


def test_a_worker_that_loads_the_app_is_a_change(host: Host) -> None:
    master, workers = host.app()
    watcher = looking(host)
    workers[1].role = Role.LOADING
    assert last_look(watcher, effect_on(master, workers)) == (f"worker {workers[1].id.pid} is loading the app")


def test_another_master_is_a_change(host: Host) -> None:
    master, workers = host.app()
    watcher = looking(host)
    effect = effect_on(master, workers)
    host.processes.end(master)
    assert last_look(watcher, effect) == "the master has changed"
    host.app()
    assert last_look(watcher, effect) == "the master has changed"


def test_a_master_that_cannot_be_read_is_a_change_and_hidden_processes_are_the_reason(host: Host) -> None:
    master, workers = host.app()
    watcher = looking(host)
    host.processes.blind = "/proc hides the processes of others"
    assert last_look(watcher, effect_on(master, workers)) == "/proc hides the processes of others"
    master.refused = "no permission"
    assert last_look(watcher, effect_on(master, workers)) == "the master has changed"


# -- network namespaces


def test_an_instance_in_another_namespace_is_seen_through_its_own_table(host: Host) -> None:
    host.namespace(ELSEWHERE)
    _, (worker, _) = host.app(netns=ELSEWHERE)
    host.connect(worker, netns=ELSEWHERE)
    host.connect()  # of nobody here, in ours
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    holders = {one.local: one.holders for one in watcher.snapshot.connections}
    assert sorted(map(len, holders.values())) == [0, 1]
    assert watcher.findings[SHOP_ID].verdicts[worker.id] is Verdict.CLEAR
    assert not watcher.blind()


def test_the_rows_of_one_namespace_say_nothing_of_another(host: Host) -> None:
    """Ours has not what the other one has: that does not make it DEAD."""
    host.namespace(ELSEWHERE)
    _, (far, _) = host.app(netns=ELSEWHERE)
    host.connect(far, netns=ELSEWHERE)
    other = "/run/uwsgi/app/blog/fifo"
    _, (near, _) = host.app(other)
    host.connect(near)
    watcher = Watcher(host, config_of(FIFO, other))
    for _ in range(30):
        watcher.tick()
        assert {one.tcp for one in watcher.snapshot.connections} <= {Tcp.ESTABLISHED}
    assert {holder for one in watcher.snapshot.connections for holder in one.holders} == {far.id, near.id}


def test_a_stuck_app_in_another_namespace_is_found_too(host: Host) -> None:
    host.namespace(ELSEWHERE)
    master, workers = host.app(netns=ELSEWHERE)
    for worker in workers:
        host.connect(worker, netns=ELSEWHERE)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    host.stop_mongod()
    watcher.tick(3)
    host.start_mongod()
    watcher.tick()
    work(workers)
    watcher.until(lambda: watcher.sent)
    assert (watcher.sent[0].master, watcher.sent[0].command) == (master.id, WORKERS)


def told_of_sockets(watcher: Watcher) -> list[tuple[str | None, object]]:
    """Whose are told to come from /proc, and why."""
    return [(one.instance, one.fields["reason"]) for one in watcher.told if one.event is Event.SOCKETS_FROM_PROC]


def test_that_an_instance_in_another_namespace_is_read_from_proc_is_shown_and_told_once(host: Host) -> None:
    host.namespace(ELSEWHERE)
    other = "/run/uwsgi/app/blog/fifo"
    master, _ = host.app(netns=ELSEWHERE)
    host.app(other)
    watcher = Watcher(host, config_of(FIFO, other))
    watcher.tick(20)
    shop, blog = watcher.snapshot.instances
    assert (shop.sockets, blog.sockets) == (SocketsFrom(Backend.PROC, "it lives elsewhere"), None)
    assert watcher.snapshot.sockets == SocketsFrom(Backend.SOCK_DIAG)
    host.processes.end(master)
    watcher.tick(20)
    assert watcher.snapshot.instances[0].sockets is None
    host.app(netns=ELSEWHERE)
    watcher.tick(20)
    assert told_of_sockets(watcher) == [("shop", "it lives elsewhere")]


def test_without_netlink_that_is_shown_and_told_once() -> None:
    host = Host(fallback=True)
    host.start_mongod()
    host.app()
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(20)
    assert watcher.snapshot.sockets == SocketsFrom(Backend.PROC, "netlink is forbidden")
    assert watcher.snapshot.instances[0].sockets is None
    assert told_of_sockets(watcher) == [(None, "netlink is forbidden")]


def test_by_sock_diag_nothing_is_told_of_it(host: Host) -> None:
    host.app()
    watcher = looking(host)
    watcher.tick(20)
    assert told_of_sockets(watcher) == []


@pytest.mark.parametrize("fault", ["blind", "raises"])
def test_a_namespace_that_cannot_be_read_makes_its_instances_blind_and_no_others(host: Host, fault: str) -> None:
    table = host.namespace(ELSEWHERE)
    host.app(netns=ELSEWHERE)
    other = "/run/uwsgi/app/blog/fifo"
    host.app(other)
    watcher = Watcher(host, config_of(FIFO, other))
    watcher.tick(4)
    if fault == "blind":
        table.blind = "/proc/1/net/tcp cannot be read: No such file or directory"
    else:
        host.spied[f"namespace {ELSEWHERE}"].broken.add("read")
    watcher.tick(5)
    assert set(watcher.blind()) == {"instance shop"}
    assert watcher.scopes(Event.BLIND) == ["instance shop"]
    table.blind = None
    host.spied[f"namespace {ELSEWHERE}"].broken.clear()
    watcher.tick(11)
    assert watcher.scopes(Event.SEEING_AGAIN) == ["instance shop"]


def test_connections_of_a_namespace_that_cannot_be_read_are_not_taken_to_be_gone(host: Host) -> None:
    table = host.namespace(ELSEWHERE)
    _, (worker, _) = host.app(netns=ELSEWHERE)
    host.connect(worker, netns=ELSEWHERE)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    table.blind = "no"
    watcher.tick(11)
    assert [(one.tcp, one.holders) for one in watcher.snapshot.connections] == [
        (Tcp.ESTABLISHED, frozenset({worker.id}))
    ]


def test_an_instance_whose_namespace_cannot_be_told_is_blind_and_not_without_connections(host: Host) -> None:
    master, _ = host.app(netns=None)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    why = f"cannot tell the network namespace of master {master.id.pid}"
    assert watcher.blind()["instance shop"].startswith(why)
    assert "CAP_SYS_PTRACE" in watcher.blind()["instance shop"]


def test_when_its_last_instance_is_gone_a_namespace_is_forgotten(host: Host) -> None:
    host.namespace(ELSEWHERE)
    master, (worker, _) = host.app(netns=ELSEWHERE)
    host.connect(worker, netns=ELSEWHERE)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(11)
    assert watcher.snapshot.connections
    host.processes.end(master)
    watcher.tick(11)
    forget_calls(host)
    watcher.tick(11)
    assert watcher.snapshot.connections == ()
    assert host.spied[f"namespace {ELSEWHERE}"].calls == []
    assert watcher.scopes(Event.BLIND) == []


def test_a_namespace_that_is_seen_for_the_first_time_is_read_in_the_same_look(host: Host) -> None:
    host.namespace(ELSEWHERE)
    _, (worker, _) = host.app(netns=ELSEWHERE)
    watcher = looking(host)
    master, (worker, _) = host.app(netns=ELSEWHERE)
    host.processes.end(*[one for one in host.processes.alive.values() if one.role is Role.MASTER and one is not master])
    host.connect(worker, netns=ELSEWHERE)
    snapshot = watcher.observer.look(full=True)
    assert [one.holders for one in snapshot.connections] == [{worker.id}]


# -- the same story by netlink and by /proc


@pytest.mark.parametrize("fallback", [False, True], ids=["sock_diag", "proc"])
def test_an_outage_that_was_watched_leads_to_the_same_verdicts_without_ages_and_cookies(*, fallback: bool) -> None:
    host = Host(fallback=fallback)
    host.start_mongod()
    heals, stuck, idle = "/run/uwsgi/app/heals/fifo", "/run/uwsgi/app/stuck/fifo", "/run/uwsgi/app/idle/fifo"
    sockets: dict[str, list[FakeSocket]] = {}
    workers: dict[str, list[FakeProcess]] = {}
    watcher = Watcher(host, config_of(heals, stuck, idle))
    for fifo in (heals, stuck, idle):
        _, workers[fifo] = host.app(fifo)
        sockets[fifo] = [host.connect(worker) for worker in workers[fifo]]
    watcher.tick(12)
    assert {tcp_of(watcher)} == {frozenset({Tcp.ESTABLISHED})}
    host.stop_mongod()
    watcher.tick(5)
    assert tcp_of(watcher) == {Tcp.CLOSE_WAIT}
    assert phases(watcher) == {heals: Phase.OUTAGE, stuck: Phase.OUTAGE, idle: Phase.OUTAGE}
    host.start_mongod()
    watcher.tick()
    for worker, socket in zip(workers[heals], sockets[heals], strict=True):
        host.hang_up(socket, worker)
        host.connect(worker).hears(100)
    for socket in sockets[stuck]:
        socket.reads()  # a driver that is used sees the end
    work(workers[heals] + workers[stuck])
    watcher.tick(5)
    assert verdicts(watcher, workers) == {
        heals: [Verdict.CLEAR, Verdict.CLEAR],
        stuck: [Verdict.STRANDED, Verdict.STRANDED],
        idle: [Verdict.IDLE, Verdict.IDLE],
    }
    for one in watcher.snapshot.connections:
        assert (one.cookie >= 2**64) is fallback
    for socket in (*sockets[stuck], *sockets[idle]):
        socket.dead = True  # the kernel's keepalive gives up: in no table any more, and still held
    watcher.tick(5)
    assert verdicts(watcher, workers)[stuck] == [Verdict.STRANDED, Verdict.STRANDED]
    assert tcp_of(watcher, stuck, workers) == {Tcp.DEAD}
    watcher.until(lambda: len(watcher.sent) == 2)
    assert {effect.instance for effect in watcher.sent} == {stuck, idle}
    assert watcher.events(Event.HEALED) == ["healed"]


def tcp_of(watcher: Watcher, fifo: str = "", workers: dict[str, list[FakeProcess]] | None = None) -> frozenset[Tcp]:
    of = {worker.id for worker in (workers or {}).get(fifo, [])}
    return frozenset(one.tcp for one in watcher.snapshot.connections if not of or one.holders & of)


def verdicts(watcher: Watcher, workers: dict[str, list[FakeProcess]]) -> dict[str, list[Verdict]]:
    return {
        fifo: [watcher.findings[InstanceId(fifo)].verdicts[worker.id] for worker in some]
        for fifo, some in workers.items()
    }


def phases(watcher: Watcher) -> dict[str, Phase]:
    return {name: one.phase for name, one in watcher.state.instances.items()}


# -- who begins to watch late


@pytest.mark.parametrize("mistake", [False, True], ids=["seen at once", "reached after a mistake of ours"])
def test_an_app_that_had_healed_before_we_looked_is_left_alone(host: Host, *, mistake: bool) -> None:
    _, workers = host.app()
    for worker in workers:
        host.connect(worker)
    host.pass_time(10)
    host.stop_mongod()
    host.pass_time(3)
    host.start_mongod()
    host.pass_time(2)
    for worker in workers:  # residue beside a connection of its own, as with py-call-osafterfork
        host.connect(worker).hears(100)
    host.pass_time(60)
    if mistake:
        host.stop_mongod(state=MemberState.UNREACHABLE)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(5)
    if mistake:
        assert watcher.scopes(Event.BLIND) == ["deployment main"]
        host.say()
    watcher.tick(60)
    assert set(watcher.findings[SHOP_ID].verdicts.values()) == {Verdict.RECONNECTED}
    assert watcher.sent == []


# -- over a restart of the daemon


THIS_BOOT = "this"
Ended = tuple[FakeProcess, FakeSocket, Path]


@pytest.fixture
def ended(host: Host, tmp_path: Path) -> Ended:
    """A worker that holds a leftover which the kernel has dropped, as the daemon before this one saved it."""
    watcher = looking(host)
    _, (worker, _) = stuck_app(host, watcher)
    watcher.tick(3)
    with closing(Store(tmp_path, boot_id=THIS_BOOT)) as store:
        store.save(watcher.state, watcher.observer.ended(), host.clock.now, host.clock.wall())
    for socket in host.sockets.sockets:
        socket.dead = True
    return worker, host.sockets.sockets[0], tmp_path


def again(host: Host, folder: Path, boot_id: str = THIS_BOOT) -> Watcher:
    """The daemon, started once more."""
    with closing(Store(folder, boot_id=boot_id)) as store:
        loaded = store.load(host.clock.now, host.clock.wall())
    watcher = Watcher(host, config_of(FIFO), loaded.state)
    watcher.observer.restore(loaded.observed)
    return watcher


def test_a_leftover_that_is_in_no_table_is_known_again_by_its_descriptor(host: Host, ended: Ended) -> None:
    worker, socket, folder = ended
    watcher = again(host, folder)
    watcher.tick(4)
    known = {one.inode: one for one in watcher.snapshot.connections}
    assert (known[socket.inode].tcp, known[socket.inode].holders) == (Tcp.DEAD, frozenset({worker.id}))
    assert watcher.findings[SHOP_ID].verdicts[worker.id] in {Verdict.IDLE, Verdict.STRANDED}
    watcher.until(lambda: watcher.sent)


def test_one_that_was_closed_meanwhile_is_dropped(host: Host, ended: Ended) -> None:
    worker, socket, folder = ended
    host.hang_up(socket, worker)
    watcher = again(host, folder)
    watcher.tick(4)
    assert socket.inode not in {one.inode for one in watcher.snapshot.connections}
    assert watcher.findings[SHOP_ID].verdicts[worker.id] is Verdict.CLEAR


def test_one_whose_process_ended_meanwhile_is_dropped(host: Host, ended: Ended) -> None:
    worker, socket, folder = ended
    host.processes.end(worker)
    watcher = again(host, folder)
    watcher.tick(4)
    assert socket.inode not in {one.inode for one in watcher.snapshot.connections}


@pytest.mark.parametrize(("edge", "method"), [("uwsgi", "find"), ("processes", "of"), ("processes", "descriptors")])
def test_it_is_kept_until_its_instance_can_be_read(host: Host, ended: Ended, edge: str, method: str) -> None:
    worker, socket, folder = ended
    host.spied[edge].broken.add(method)
    watcher = again(host, folder)
    watcher.tick(4)
    assert "instance shop" in watcher.blind()
    assert watcher.sent == []
    host.spied[edge].broken.clear()
    watcher.tick(2)
    known = {one.inode: one for one in watcher.snapshot.connections}
    assert known[socket.inode].holders == {worker.id}
    assert not watcher.blind()


def test_what_another_boot_of_the_machine_left_is_not_restored(host: Host, ended: Ended) -> None:
    _, _, folder = ended
    watcher = again(host, folder, boot_id="another")
    watcher.tick(4)
    assert watcher.snapshot.connections == ()


def test_one_that_is_in_close_wait_yet_keeps_when_it_was_closed(host: Host, ended: Ended) -> None:
    _, socket, folder = ended
    socket.dead = False
    watcher = again(host, folder)
    saved = {one.inode: one for one in watcher.observer.ended()}
    host.clock.move(100)
    socket.is_probed()  # keepalive: what the kernel knows of the end gets vaguer
    watcher.tick(4)
    now = {one.inode: one for one in watcher.snapshot.connections}[socket.inode]
    assert (now.tcp, now.closed) == (Tcp.CLOSE_WAIT, saved[socket.inode].closed)


def test_one_whose_address_is_known_late_keeps_when_it_was_closed(host: Host) -> None:
    host.resolver.hosts["db"] = {MONGOD.host}
    _, (worker, _) = host.app()
    socket = host.connect(worker)
    config = config_of(FIFO, uri=f"mongodb://db,{OTHER}")
    watcher = Watcher(host, config)
    watcher.tick(4)
    socket.is_left()
    watcher.tick(2)
    (saved,) = watcher.observer.ended()
    del host.resolver.hosts["db"]
    later = Watcher(host, config)
    later.observer.restore([saved])
    later.tick(5)
    assert later.snapshot.connections[0].tcp is Tcp.DEAD  # it was not asked for
    host.resolver.hosts["db"] = {MONGOD.host}
    host.clock.move(60)
    socket.is_probed()
    later.tick(3)
    (now,) = later.snapshot.connections
    assert (now.tcp, now.closed, now.holders) == (Tcp.CLOSE_WAIT, saved.closed, frozenset({worker.id}))


def test_one_of_another_namespace_is_found_in_that_ones_table_again(host: Host) -> None:
    table = host.namespace(ELSEWHERE)
    _, (worker, _) = host.app(netns=ELSEWHERE)
    socket = host.connect(worker, netns=ELSEWHERE)
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(4)
    socket.is_left()
    watcher.tick(2)
    later = Watcher(host, config_of(FIFO))
    later.observer.restore(watcher.observer.ended())
    for _ in range(5):
        later.tick()
    seen: list[Connection] = list(later.snapshot.connections)
    assert [(one.tcp, one.holders) for one in seen] == [(Tcp.CLOSE_WAIT, frozenset({worker.id}))]
    table.blind = "no"  # it is not ours to say that it is gone
    later.tick()
    assert [one.tcp for one in later.snapshot.connections] == [Tcp.CLOSE_WAIT]
    host.processes.end(*[one for one in host.processes.alive.values() if one.role is Role.MASTER])
    later.tick(11)
    assert later.snapshot.connections == ()


# -- a new configuration


def test_a_deployment_that_is_no_longer_configured_is_forgotten_with_its_connections(host: Host) -> None:
    _, (worker, _) = host.app()
    host.connect(worker)
    watcher = looking(host)
    elsewhere = replace(watcher.config.deployments[0], name="other", uri="mongodb://10.0.0.9:27017")
    watcher.observer.reconfigure(replace(watcher.config, deployments=(elsewhere,)))
    host.start_mongod("10.0.0.9:27017", deployment="other")
    watcher.tick(4)
    assert {key.deployment for key in watcher.snapshot.members} == {"other"}
    assert watcher.snapshot.connections == ()
    forget_calls(host)
    watcher.tick(5)
    assert not was_full(host)


def test_what_stays_in_the_configuration_keeps_its_history(host: Host) -> None:
    _, workers = host.app()
    host.connect(workers[0])
    watcher = looking(host)
    host.stop_mongod()
    watcher.tick(2)
    host.start_mongod()
    watcher.tick(2)
    before = watcher.snapshot.members[MemberId("main", ADDRESS)]
    assert before.outages
    more = f"mongodb://{ADDRESS},10.0.0.2:27017"
    watcher.observer.reconfigure(config_of(FIFO, uri=more))
    watcher.tick(4)
    after = watcher.snapshot.members[MemberId("main", ADDRESS)]
    assert (after.outages, after.incarnation, after.up_since) == (before.outages, before.incarnation, before.up_since)
    assert MemberId("main", "10.0.0.2:27017") in watcher.snapshot.members


def test_a_daemon_that_was_restarted_in_a_reload_goes_on_verifying_it_where_mongod_has_no_process_id(
    host: Host,
) -> None:
    host.start_mongod(process_id=None, born=None)
    watcher = Watcher(host, config_of(FIFO))
    _, workers = host.app()
    for one in workers:
        host.connect(one)
    watcher.tick(4)
    host.stop_mongod()
    watcher.tick(3)
    host.start_mongod(process_id=None, born=None)
    watcher.tick()
    work(workers)
    watcher.until(lambda: watcher.sent)
    again = Watcher(host, watcher.config, watcher.state)
    again.observer.restore(watcher.observer.ended())
    again.tick(5)
    assert again.events(Event.OVERTAKEN) == []
    reload = again.state.instances[SHOP_ID].reload
    assert reload
    assert reload.incarnations == {f"{ADDRESS}@start"}
    assert again.state.instances[SHOP_ID].phase is Phase.RELOADING
