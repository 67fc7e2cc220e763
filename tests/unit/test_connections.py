"""What readings of sockets fold into by themselves: connections, with all their holders."""

import math
from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.world.clock import Clock
from tests.world.processes import OUR_NETNS, FakeProcess
from tests.world.sockets import FakeSocket, FakeSockets
from tests.world.uwsgi import FakeUwsgi
from watchdogd.model.base import Endpoint, Interval, Mono, ProcessId
from watchdogd.model.seen import Backend, Connection, Tcp
from watchdogd.observe.tcp.connections import GRAIN_S, Connections
from watchdogd.observe.tcp.sockets import Row, Table

MONGOD = Endpoint("10.0.0.1", 27017)
OTHER = Endpoint("10.0.0.2", 27017)
LOCAL = Endpoint("10.0.0.9", 40000)
ALL = frozenset({MONGOD, OTHER})
FIFO = "/run/uwsgi/app/shop/fifo"
EVER = -math.inf


class Place:
    """One instance, its sockets, and somebody who looks at them."""

    def __init__(self, workers: int = 2, backend: Backend = Backend.SOCK_DIAG) -> None:
        self.clock = Clock()
        self.sockets, uwsgi = FakeSockets(self.clock, backend=backend), FakeUwsgi()
        self.processes, self.master = uwsgi.processes, uwsgi.start(FIFO, workers)
        self.connections = Connections()

    @property
    def workers(self) -> list[FakeProcess]:
        return self.processes.children(self.master)

    def connect(self, *holders: FakeProcess, to: Endpoint = MONGOD) -> FakeSocket:
        socket = self.sockets.connect(to)
        for holder in holders:
            holder.holds(socket.inode)
        return socket

    def close(self, socket: FakeSocket, *holders: FakeProcess) -> None:
        for holder in holders:
            holder.lets_go(socket.inode)
        socket.closes()

    def quiet(self) -> None:
        table = self.sockets.read(ALL, established=False)
        assert isinstance(table, Table)
        self.connections.fold(table, OUR_NETNS, established=False)

    def full(self) -> dict[ProcessId, str]:
        table = self.sockets.read(ALL, established=True)
        assert isinstance(table, Table)
        self.connections.fold(table, OUR_NETNS, established=True)
        return self.connections.attribute([one.id for one in self.processes.alive.values()], self.processes)

    def of(self, socket: FakeSocket) -> Connection | None:
        return next((one for one in self.connections.now() if one.inode == socket.inode), None)

    def known(self, socket: FakeSocket) -> Connection:
        one = self.of(socket)
        assert one is not None
        return one


# ---- a connection, from its first row to its last descriptor


def test_a_connection_is_since_the_look_that_had_not_shown_it() -> None:
    place = Place()
    place.full()
    place.clock.move(10)
    socket = place.connect(place.workers[0])
    place.clock.move(2)
    place.quiet()
    assert place.of(socket) is None  # ESTABLISHED ones are not asked for
    place.full()
    now = place.clock.now
    assert place.known(socket).since == Interval(now - 12, now)
    assert place.known(socket).last_data == Interval(now - 2 - GRAIN_S, now - 2)


def test_for_who_looks_for_the_first_time_everything_may_have_been_there_for_ever() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.clock.move(5)
    socket.is_left()
    place.clock.move(5)
    place.full()
    one = place.known(socket)
    assert one.since == Interval(EVER, place.clock.now)
    assert one.closed == Interval(place.clock.now - 10 - GRAIN_S, place.clock.now - 5 + GRAIN_S)


def test_an_idle_connection_is_the_same_until_it_hears_something() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.full()
    before = place.connections.now()
    for _ in range(3):
        place.clock.move(5)
        place.full()
        assert place.connections.now() is before
    socket.hears(10)
    socket.reads()
    place.clock.move(1)
    place.full()
    assert place.known(socket).last_data == Interval(place.clock.now - 1 - GRAIN_S, place.clock.now - 1)


def test_what_is_sent_without_an_answer_is_followed_too() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.clock.move(5)
    place.full()
    assert place.known(socket).last_sent == Interval(place.clock.now - 5 - GRAIN_S, place.clock.now - 5)
    socket.sends()
    place.clock.move(2)
    place.full()
    one = place.known(socket)
    assert one.last_sent == Interval(place.clock.now - 2 - GRAIN_S, place.clock.now - 2)
    assert one.last_data.hi == place.clock.now - 7


def test_without_ages_it_may_have_been_sent_at_any_time_since_it_was_first_seen() -> None:
    place = Place(backend=Backend.PROC)
    place.full()
    seen = place.clock.now
    socket = place.connect(place.workers[0])
    for _ in range(2):
        place.clock.move(5)
        place.full()
        assert place.known(socket).last_sent == Interval(seen, place.clock.now)


def test_one_that_vanished_may_have_sent_until_then() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.full()
    seen = place.clock.now
    place.clock.move(5)
    socket.is_left()
    place.full()
    socket.dead = True
    place.clock.move(5)
    place.full()
    assert place.known(socket).last_sent == Interval(seen - GRAIN_S, place.clock.now)


@pytest.mark.parametrize("quiet", [False, True])
def test_when_it_was_closed_lies_between_the_two_looks_around_it(quiet: bool) -> None:
    place = Place(backend=Backend.PROC)
    socket = place.connect(place.workers[0])
    place.full()
    place.clock.move(3)
    place.quiet()
    seen_open = place.clock.now
    place.clock.move(1)
    socket.is_left()
    place.clock.move(1)
    (place.quiet if quiet else place.full)()
    assert place.known(socket).closed == Interval(seen_open, place.clock.now)


def test_one_that_vanished_between_two_looks_may_have_had_data_until_then() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.full()
    seen = place.clock.now
    place.clock.move(5)
    socket.hears(10)
    socket.is_left()
    socket.dead = True
    place.full()
    one = place.known(socket)
    assert (one.tcp, one.closed) == (Tcp.DEAD, Interval(seen, place.clock.now))
    assert one.last_data == Interval(seen - GRAIN_S, place.clock.now)


def test_the_first_reading_of_when_it_was_closed_is_kept_whatever_keepalive_answers() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.full()
    place.clock.move(5)
    socket.is_left()
    place.clock.move(1)
    place.full()
    first = place.known(socket).closed
    for _ in range(3):
        place.clock.move(30)
        socket.is_probed()
        place.full()
        assert place.known(socket).closed == first
    socket.dead = True
    place.full()
    assert (place.known(socket).tcp, place.known(socket).closed) == (Tcp.DEAD, first)


def test_one_that_vanished_at_once_was_closed_since_it_was_last_seen_open() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.full()
    seen_open = place.clock.now
    place.clock.move(4)
    place.quiet()
    place.clock.move(4)
    socket.is_left()
    socket.dead = True
    place.full()
    assert place.known(socket).closed == Interval(seen_open, place.clock.now)


def test_what_a_quiet_look_does_not_ask_for_is_not_gone() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    place.full()
    place.quiet()
    assert place.known(socket).tcp is Tcp.ESTABLISHED


def test_a_close_wait_that_a_quiet_look_misses_is_dead() -> None:
    place = Place()
    socket = place.connect(place.workers[0])
    socket.is_left()
    place.full()
    socket.dead = True
    place.quiet()
    assert place.known(socket).tcp is Tcp.DEAD
    assert place.connections.ended() == (place.known(socket),)


def test_it_is_dropped_with_its_last_descriptor_and_not_before() -> None:
    place = Place()
    one, other = place.workers
    socket = place.connect(one, other)
    socket.is_left()
    place.full()
    socket.dead = True
    place.full()
    one.lets_go(socket.inode)
    place.full()
    assert place.known(socket).holders == {other.id}
    other.lets_go(socket.inode)
    place.full()
    assert place.connections.now() == ()


def test_a_socket_that_has_the_number_of_another_one_is_not_that_one() -> None:
    place = Place()
    one, other = place.workers
    old = place.connect(one)
    place.full()
    place.close(old, one)
    new = place.connect(other)
    other.lets_go(new.inode)
    new.inode = old.inode
    other.holds(new.inode)
    place.full()
    (known,) = place.connections.now()
    assert (known.cookie, known.holders) == (new.cookie, frozenset({other.id}))


def test_a_process_that_has_the_number_of_another_one_is_not_that_one() -> None:
    place = Place()
    old = place.workers[0]
    socket = place.connect(old)
    place.full()
    del place.processes.alive[old.id.pid]
    again = replace(old, id=old.id._replace(start_ticks=old.id.start_ticks + 1), sockets={})
    place.processes.alive[again.id.pid] = again
    place.full()
    assert place.known(socket).holders == frozenset()  # in the table, and held by nobody here


def test_shared_is_remembered_when_one_holder_is_left() -> None:
    place = Place()
    one, other = place.workers
    shared, alone = place.connect(one, other), place.connect(one)
    place.full()
    other.lets_go(shared.inode)
    place.full()
    assert (place.known(shared).holders, place.known(shared).shared) == (frozenset({one.id}), True)
    assert (place.known(alone).holders, place.known(alone).shared) == (frozenset({one.id}), False)


# ---- what may not be read


def test_the_links_of_a_process_that_cannot_be_read_are_kept_and_it_is_named() -> None:
    place = Place()
    one, other = place.workers
    socket = place.connect(one, other)
    place.full()
    one.refused = "no permission"
    place.connect(other)  # something new: everybody is scanned
    assert place.full() == {one.id: "no permission"}
    assert place.known(socket).holders == {one.id, other.id}


def test_while_somebody_cannot_be_read_nothing_counts_as_held_by_nobody() -> None:
    place = Place()
    one, other = place.workers
    other.refused = "no permission"
    socket = place.connect(other)  # nobody can know
    socket.is_left()
    place.full()
    socket.dead = True
    place.full()
    assert (place.known(socket).tcp, place.known(socket).holders) == (Tcp.DEAD, frozenset())
    other.refused = None
    place.connect(one)
    assert place.full() == {}
    assert place.known(socket).holders == {other.id}


def test_a_new_worker_is_scanned_though_no_socket_is_new() -> None:
    place = Place(workers=1)
    socket = place.connect(place.master, *place.workers)
    place.full()
    born = place.processes.fork(place.master)
    place.full()
    assert born.id in place.known(socket).holders


# ---- namespaces, addresses, and what an earlier daemon saved


ELSEWHERE = OUR_NETNS + 1


def row(cookie: int, remote: Endpoint = MONGOD, *, close_wait: bool = False) -> Row:
    return Row(cookie, 100 + cookie, close_wait, LOCAL, remote, int(close_wait), 1.0, 1.0, 1.0)


def test_each_namespace_has_its_own_last_look() -> None:
    connections = Connections()
    connections.fold(Table(10.0, ()), OUR_NETNS, established=True)
    connections.fold(Table(20.0, (row(1),)), ELSEWHERE, established=True)
    connections.fold(Table(20.0, (row(2),)), OUR_NETNS, established=True)
    far, near = connections.now()
    assert (far.since.lo, near.since.lo) == (EVER, 10.0)
    connections.forget_namespaces({OUR_NETNS})
    assert [one.cookie for one in connections.now()] == [2]
    connections.fold(Table(30.0, (row(1),)), ELSEWHERE, established=True)
    assert connections.now()[-1].since.lo == EVER  # it was not looked at meanwhile


def test_what_is_read_for_more_addresses_from_now_on_may_have_been_there() -> None:
    connections = Connections()
    connections.fold(Table(10.0, ()), OUR_NETNS, established=True)
    connections.look_anew()
    connections.fold(Table(11.0, (row(1), row(2, close_wait=True))), OUR_NETNS, established=True)
    assert [one.since.lo for one in connections.now()] == [EVER, EVER]
    assert connections.in_use() == {MONGOD}


def test_what_leads_to_an_address_that_is_asked_for_no_more_is_forgotten() -> None:
    connections = Connections()
    connections.fold(Table(10.0, (row(1), row(2, OTHER))), OUR_NETNS, established=True)
    connections.forget_endpoints(frozenset({OTHER}))
    assert [one.remote for one in connections.now()] == [MONGOD]


@pytest.mark.parametrize(
    ("rows", "asks"),
    [
        ((), False),
        ((row(1, close_wait=True),), False),  # known, and held by nobody here
        ((row(2, close_wait=True),), True),  # held by a worker
        ((row(3, close_wait=True),), True),  # was ESTABLISHED
        ((row(9, close_wait=True),), True),  # not known
    ],
)
def test_a_close_wait_asks_for_a_full_look_unless_it_is_known_to_be_nobodys(rows: tuple[Row, ...], asks: bool) -> None:
    connections, uwsgi = Connections(), FakeUwsgi()
    master = uwsgi.start(FIFO, 1)
    (worker,) = uwsgi.processes.children(master)
    worker.holds(row(2).inode)
    known = (row(1, close_wait=True), row(2, close_wait=True), row(3))
    connections.fold(Table(10.0, known), OUR_NETNS, established=True)
    connections.attribute([master.id, worker.id], uwsgi.processes)
    assert connections.asks_for_more(Table(11.0, rows)) is asks


def test_only_what_ended_and_is_held_is_saved() -> None:
    place = Place()
    one, _ = place.workers
    place.connect(one)
    held, foreign = place.connect(one), place.connect()
    for socket in (held, foreign):
        socket.is_left()
    place.full()
    (saved,) = place.connections.ended()
    assert (saved.inode, saved.holders) == (held.inode, frozenset({one.id}))
    held.dead = True
    later = Connections()
    later.restore([saved], OUR_NETNS)
    place.connections = later
    assert place.known(held) == saved
    place.full()
    assert (place.known(held).tcp, place.known(held).holders) == (Tcp.DEAD, frozenset({one.id}))


# ---- whatever happens


class Life(RuleBasedStateMachine):
    """Sockets and processes live; what is known of them after a look must be the truth."""

    @initialize(backend=st.sampled_from([Backend.SOCK_DIAG, Backend.PROC]))
    def begin(self, backend: Backend) -> None:
        self.place = Place(backend=backend)
        self.made: dict[int, Mono] = {}
        self.left: dict[int, Mono] = {}
        self.before: dict[int, Connection] = {}
        self.looked = False  # fully, and nothing has happened since
        self.shared: set[int] = set()
        self.place.full()

    def any_of(self, data: st.DataObject, *, open_only: bool = False) -> FakeSocket | None:
        sockets = [one for one in self.place.sockets.sockets if not one.closed and not (open_only and one.close_wait)]
        return data.draw(st.sampled_from(sockets)) if sockets else None

    def holders(self, socket: FakeSocket) -> set[FakeProcess]:
        return {one for one in self.place.processes.alive.values() if socket.inode in one.sockets.values()}

    @rule(seconds=st.sampled_from([0.5, 1.0, 10.0, 130.0]))
    def time_passes(self, seconds: float) -> None:
        self.place.clock.move(seconds)

    @rule(data=st.data(), to=st.sampled_from([MONGOD, OTHER]))
    def connects(self, data: st.DataObject, to: Endpoint) -> None:
        who = data.draw(st.sampled_from([self.place.master, *self.place.workers, None]))
        socket = self.place.connect(*([who] if who else []), to=to)
        self.made[socket.inode] = self.place.clock.now
        self.looked = False

    @rule(data=st.data())
    def hears(self, data: st.DataObject) -> None:
        if socket := self.any_of(data, open_only=True):
            socket.hears(10)
            self.looked = False

    @rule(data=st.data())
    def sends(self, data: st.DataObject) -> None:
        if socket := self.any_of(data):
            if not socket.dead:
                socket.sends()
            self.looked = False

    @rule(data=st.data())
    def reads(self, data: st.DataObject) -> None:
        if socket := self.any_of(data):
            socket.reads()
            self.looked = False

    @rule(data=st.data())
    def is_left(self, data: st.DataObject) -> None:
        if socket := self.any_of(data, open_only=True):
            socket.is_left()
            self.left[socket.inode] = self.place.clock.now
            self.looked = False

    @rule(data=st.data(), what=st.sampled_from(["probed", "dead"]))
    def keepalive(self, data: st.DataObject, what: str) -> None:
        socket = self.any_of(data)
        if socket and socket.close_wait and not socket.dead:
            if what == "dead":
                # 120 s after the FIN: one that no look ever showed cannot be known.
                socket.dead = any(one.inode == socket.inode for one in self.place.connections.now())
            else:
                socket.is_probed()
            self.looked = False

    @rule(data=st.data())
    def one_holder_closes(self, data: st.DataObject) -> None:
        if socket := self.any_of(data):
            if holders := sorted(self.holders(socket), key=lambda one: one.id):
                data.draw(st.sampled_from(holders)).lets_go(socket.inode)
            self.end_unheld()

    @rule()
    def forks(self) -> None:
        if len(self.place.workers) < 6:
            self.place.processes.fork(self.place.master)
            self.looked = False

    @precondition(lambda self: len(self.place.workers) > 1)
    @rule(data=st.data())
    def a_worker_ends(self, data: st.DataObject) -> None:
        self.place.processes.end(data.draw(st.sampled_from(self.place.workers)))
        self.end_unheld()

    def end_unheld(self) -> None:
        """The kernel closes what no process holds; the sockets of foreign processes go on."""
        for socket in self.place.sockets.sockets:
            if not self.holders(socket):
                socket.closes()
        self.looked = False

    @rule()
    def a_quiet_look(self) -> None:
        self.place.quiet()

    @rule()
    def a_full_look(self) -> None:
        assert self.place.full() == {}
        self.looked = True
        self.shared |= {one.inode for one in self.place.sockets.sockets if len(self.holders(one)) > 1}

    # -- what must hold

    @invariant()
    def every_interval_is_one_and_is_never_widened(self) -> None:
        now = {one.cookie: one for one in self.place.connections.now()}
        for cookie, one in now.items():
            assert all(lo <= hi for lo, hi in filter(None, (one.since, one.last_data, one.last_sent, one.closed))), one
            known = self.before.get(cookie)
            if known:
                assert one.since == known.since
                assert known.closed in (None, one.closed)
                assert one.shared or not known.shared
        self.before = now

    @invariant()
    def what_is_in_the_table_is_not_dead_and_what_is_held_is_not_forgotten(self) -> None:
        known = {one.inode: one for one in self.place.connections.now()}
        for socket in self.place.sockets.sockets:
            one = known.get(socket.inode)
            if one and one.tcp is Tcp.DEAD:
                assert socket.dead or socket.closed
            if one is None and self.looked:
                assert not self.holders(socket)

    @invariant()
    def after_a_full_look_all_is_known_and_true(self) -> None:
        if not self.looked:
            return
        known = {one.inode: one for one in self.place.connections.now()}
        shown = [one for one in self.place.sockets.sockets if not one.closed]
        assert known.keys() == {one.inode for one in shown if self.holders(one) or not one.dead}
        for socket in shown:
            if one := known.get(socket.inode):
                self.is_true(one, socket)

    def is_true(self, one: Connection, socket: FakeSocket) -> None:
        state = Tcp.DEAD if socket.dead else Tcp.CLOSE_WAIT if socket.close_wait else Tcp.ESTABLISHED
        assert one.tcp is state
        assert one.holders == {holder.id for holder in self.holders(socket)}
        assert one.shared is (socket.inode in self.shared)
        assert self.made[socket.inode] <= one.since.hi
        # What an open one hears that nobody holds whom we watch is not followed: it changes nothing.
        assert socket.data_at <= one.last_data.hi or (state is Tcp.ESTABLISHED and not one.holders)
        if self.place.sockets.backend is Backend.SOCK_DIAG and not socket.dead:
            assert one.last_data.lo <= socket.data_at
        if state is Tcp.ESTABLISHED and one.holders:
            assert one.last_sent.lo - GRAIN_S <= socket.sent_at <= one.last_sent.hi
        if state is Tcp.ESTABLISHED:
            assert one.since.lo <= self.made[socket.inode]
            assert one.closed is None
        else:
            assert one.closed is not None
            assert one.closed.lo <= self.left[socket.inode] <= one.closed.hi


Life.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestLife = Life.TestCase
