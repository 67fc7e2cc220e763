import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import pytest

from rig.netns import Namespace
from rig.processes import wait_for
from tests.world.sockets import FakeSocket, FakeSockets
from watchdogd.model.base import Endpoint
from watchdogd.model.seen import Backend, Blind
from watchdogd.observe.processes import ProcProcesses
from watchdogd.observe.tcp.sock_diag import CLOSE_WAIT, MAX_FILTERED
from watchdogd.observe.tcp.sockets import (
    NoSockets,
    ProcNetTcp,
    Row,
    SockDiag,
    Sockets,
    Table,
    open_sockets,
    self_test,
)

WITHIN_S = 10.0
GRAIN_S = 0.02  # two jiffies where HZ is 100
NOWHERE = Endpoint("203.0.113.7", 27017)


# -- one connection with both its ends, on the kernel and in the world


class Line(Protocol):
    """What the assertions need of a connection from an app to a server."""

    @property
    def inode(self) -> int: ...
    @property
    def local(self) -> Endpoint: ...
    @property
    def remote(self) -> Endpoint: ...
    def hears(self, size: int) -> None: ...
    def sends(self) -> None: ...
    def is_left(self) -> None: ...
    def reads(self) -> None: ...
    def closes(self) -> None: ...


class RealLine:
    """Two real sockets; each change is over when the method returns."""

    def __init__(self, app: socket.socket, server: socket.socket, remote: Endpoint) -> None:
        self.app = app
        self.server = server
        self.inode = os.fstat(app.fileno()).st_ino
        self.local = Endpoint(app.getsockname()[0].removeprefix("::ffff:"), app.getsockname()[1])
        self.remote = remote
        self._queued = 0

    def hears(self, size: int) -> None:
        self.server.send(bytes(size))
        self._queued += size
        wait_for(lambda: len(self._peek()) == self._queued, "the data is there", within=WITHIN_S)

    def sends(self) -> None:
        self.app.send(b"hello")
        self.server.recv(5)

    def is_left(self) -> None:
        self.server.shutdown(socket.SHUT_WR)
        wait_for(lambda: tcp_state(self.app) == CLOSE_WAIT, "the FIN is there", within=WITHIN_S)

    def reads(self) -> None:
        self.app.setblocking(False)
        try:
            while self.app.recv(4096):
                pass
        except BlockingIOError:
            pass
        self._queued = 0

    def closes(self) -> None:
        self.app.close()

    def _peek(self) -> bytes:
        return self.app.recv(65536, socket.MSG_PEEK | socket.MSG_DONTWAIT)


TCP_CLOSE = 7  # include/net/tcp_states.h


def reset(one: socket.socket) -> None:
    """Ends a connection by RST, which the other side is not asked to agree to."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    one.close()


def tcp_state(one: socket.socket) -> int:
    """The first byte of tcp_info."""
    return one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


@dataclass
class Kernel:
    """Makes real connections over loopback and closes them at the end."""

    sockets: Sockets
    at_end: ExitStack

    def clock(self) -> float:
        return time.monotonic()

    def pass_time(self, seconds: float) -> None:
        time.sleep(seconds)  # time itself is what these tests are about

    def listen(self, host: str = "127.0.0.1") -> tuple[socket.socket, Endpoint]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = self.at_end.enter_context(socket.create_server((host, 0), family=family, backlog=1024))
        return listener, Endpoint(*listener.getsockname()[:2])

    def connect(self, host: str = "127.0.0.1") -> RealLine:
        mapped = host.startswith("::ffff:")
        listener, endpoint = self.listen(host.removeprefix("::ffff:"))
        app = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.at_end.enter_context(app)
        app.settimeout(WITHIN_S)
        app.connect((f"::ffff:{endpoint.host}" if mapped else endpoint.host, endpoint.port))
        server = self.at_end.enter_context(listener.accept()[0])
        return RealLine(app, server, endpoint)


@dataclass
class World:
    """The same in a world of values."""

    now: float = 1000.0
    sockets: FakeSockets = field(init=False)

    def __post_init__(self) -> None:
        self.sockets = FakeSockets(self.clock)

    def clock(self) -> float:
        return self.now

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def connect(self, host: str = "127.0.0.1") -> FakeSocket:
        host = host.removeprefix("::ffff:")
        return self.sockets.connect(Endpoint(host, 27017 + len(self.sockets.sockets)))


class Place(Protocol):
    """Where connections are made."""

    @property
    def sockets(self) -> Sockets: ...
    def clock(self) -> float: ...
    def pass_time(self, seconds: float) -> None: ...
    def connect(self, host: str = ...) -> Line: ...


def _place(kind: str, at_end: ExitStack) -> Place:
    if kind == "fake":
        return World()
    if kind == "proc":
        return Kernel(ProcNetTcp(), at_end)
    diag = SockDiag()
    at_end.callback(diag.close)
    return Kernel(diag, at_end)


@pytest.fixture(params=["sock_diag", "proc", "fake"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as at_end:
        yield _place(request.param, at_end)


@pytest.fixture(params=["sock_diag", "fake"])
def place_with_ages(request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as at_end:
        yield _place(request.param, at_end)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    with ExitStack() as at_end:
        diag = SockDiag()
        at_end.callback(diag.close)
        yield Kernel(diag, at_end)


def rows(sockets: Sockets, *endpoints: Endpoint, established: bool = True) -> tuple[Row, ...]:
    table = sockets.read(frozenset(endpoints), established=established)
    assert isinstance(table, Table)
    return table.rows


def looked_up(sockets: Sockets, cookies: Iterable[int]) -> Mapping[int, Row | None]:
    found = sockets.look_up(cookies)
    assert not isinstance(found, Blind)
    return found


# -- what the fake and the real ones share


def test_a_connection_is_shown_with_its_ends_and_inode(place: Place) -> None:
    line = place.connect()
    (row,) = rows(place.sockets, NOWHERE, line.remote)
    assert (row.inode, row.local, row.remote) == (line.inode, line.local, line.remote)
    assert not row.close_wait
    assert row.rqueue == 0


def test_an_established_connection_is_left_out_of_a_quiet_look(place: Place) -> None:
    line = place.connect()
    assert rows(place.sockets, line.remote, established=False) == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_with_a_port_every_address_on_it_is_shown_and_no_other(place: Place, host: str) -> None:
    line, listed, stranger = place.connect(host), place.connect(), place.connect()
    asked = frozenset({listed.remote})
    table = place.sockets.read(asked, established=True, ports=frozenset({line.remote.port}))
    assert isinstance(table, Table)
    assert {row.inode: row.remote for row in table.rows} == {line.inode: line.remote, listed.inode: listed.remote}
    assert stranger.inode not in {row.inode for row in table.rows}
    assert {row.inode for row in rows(place.sockets, listed.remote)} == {listed.inode}  # and without it as before


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_the_other_sides_close_makes_it_close_wait(place: Place, host: str) -> None:
    line = place.connect(host)
    line.is_left()
    (row,) = rows(place.sockets, line.remote, established=False)
    assert (row.inode, row.local, row.remote) == (line.inode, line.local, line.remote)
    assert row.close_wait
    assert ":" not in row.remote.host or host == "::1"


def test_an_end_of_file_that_nobody_read_is_one_byte(place: Place) -> None:
    line = place.connect()
    line.is_left()
    assert [row.rqueue for row in rows(place.sockets, line.remote)] == [1]


def test_unread_data_counts_beside_the_end_of_file(place: Place) -> None:
    line = place.connect()
    line.hears(10)
    assert [row.rqueue for row in rows(place.sockets, line.remote)] == [10]
    line.is_left()
    assert [row.rqueue for row in rows(place.sockets, line.remote)] == [11]


def test_an_app_that_read_to_the_end_and_keeps_the_socket_has_an_empty_queue(place: Place) -> None:
    line = place.connect()
    line.is_left()
    line.reads()
    (row,) = rows(place.sockets, line.remote, established=False)
    assert (row.close_wait, row.rqueue) == (True, 0)


def test_a_socket_that_was_closed_is_not_shown(place: Place) -> None:
    line = place.connect()
    line.is_left()
    line.closes()
    assert rows(place.sockets, line.remote) == ()


def test_what_is_in_close_wait_is_looked_up_one_by_one(place: Place) -> None:
    left, other = place.connect(), place.connect()
    left.is_left()
    other.is_left()
    known = {row.cookie: row for row in rows(place.sockets, left.remote, other.remote)}
    first = next(row for row in known.values() if row.inode == left.inode)
    answers = [looked_up(place.sockets, [first.cookie])]
    left.reads()
    answers.append(looked_up(place.sockets, known))
    left.closes()
    answers.append(looked_up(place.sockets, known))
    if place.sockets.backend is Backend.PROC:  # which cannot ask for one socket: nothing is said of any
        assert answers == [{}, {}, {}]
        return
    shown = [{key: row and (row.close_wait, row.rqueue, row.remote) for key, row in one.items()} for one in answers]
    unread, read = (True, 1, first.remote), (True, 0, first.remote)
    beside = {key: (True, 1, row.remote) for key, row in known.items() if key != first.cookie}
    assert shown == [{first.cookie: unread}, {first.cookie: read} | beside, {first.cookie: None} | beside]


def test_what_is_not_known_in_close_wait_is_not_looked_up(place: Place) -> None:
    line = place.connect()
    (row,) = rows(place.sockets, line.remote)
    if place.sockets.backend is Backend.SOCK_DIAG:
        assert row.cookie < 2**64
    assert place.sockets.look_up([2**64 + 1]) == {}


def test_only_the_endpoints_asked_for_are_shown(place: Place) -> None:
    first, second = place.connect(), place.connect()
    assert [row.inode for row in rows(place.sockets, second.remote)] == [second.inode]
    assert {row.inode for row in rows(place.sockets, first.remote, second.remote)} == {
        first.inode,
        second.inode,
    }
    assert rows(place.sockets, Endpoint("127.0.0.2", first.remote.port)) == ()


def test_a_v4_mapped_endpoint_is_the_ipv4_one(place: Place) -> None:
    line = place.connect()
    (row,) = rows(place.sockets, Endpoint(f"::ffff:{line.remote.host}", line.remote.port))
    assert row.remote == line.remote


def test_without_endpoints_there_are_no_rows(place: Place) -> None:
    place.connect().is_left()
    assert rows(place.sockets) == ()


def test_a_name_in_place_of_an_address_is_an_error(place: Place) -> None:
    with pytest.raises(ValueError, match="expected an IP address"):
        place.sockets.read(frozenset({Endpoint("db.example", 27017)}), established=False)


def test_more_endpoints_than_the_kernel_filters_well_give_the_same_rows(place: Place) -> None:
    line, other = place.connect(), place.connect()
    many = [Endpoint(f"203.0.113.{number}", 27017) for number in range(MAX_FILTERED)]
    assert [row.inode for row in rows(place.sockets, line.remote, *many)] == [line.inode]
    assert other.inode != line.inode


def test_a_socket_keeps_its_cookie_and_no_other_has_it(place: Place) -> None:
    first, second = place.connect(), place.connect()
    before = {row.inode: row.cookie for row in rows(place.sockets, first.remote, second.remote)}
    first.is_left()
    after = {row.inode: row.cookie for row in rows(place.sockets, first.remote, second.remote)}
    assert before == after
    assert len(set(after.values())) == 2


def test_the_ages_hold_the_truth(place_with_ages: Place) -> None:
    place = place_with_ages
    line = place.connect()
    heard = [place.clock()]
    line.hears(5)
    heard.append(place.clock())
    place.pass_time(0.1)
    sent = [place.clock()]
    line.sends()
    sent.append(place.clock())
    place.pass_time(0.1)
    left = [place.clock()]
    line.is_left()
    left.append(place.clock())
    place.pass_time(0.1)
    table = place.sockets.read(frozenset({line.remote}), established=False)
    assert isinstance(table, Table)
    (row,) = table.rows
    assert row.data_age_s is not None
    assert row.ack_age_s is not None
    assert row.sent_age_s is not None
    read = table.at, table.at + table.took_s
    assert read[0] - heard[1] - GRAIN_S <= row.data_age_s <= read[1] - heard[0] + GRAIN_S
    assert read[0] - sent[1] - GRAIN_S <= row.sent_age_s <= read[1] - sent[0] + GRAIN_S
    assert read[0] - left[1] - GRAIN_S <= row.ack_age_s <= read[1] - left[0] + GRAIN_S


def test_the_age_of_a_silent_connection_counts_from_its_making(place_with_ages: Place) -> None:
    place = place_with_ages
    made = place.clock()
    line = place.connect()
    place.pass_time(0.1)
    (row,) = rows(place.sockets, line.remote)
    assert row.data_age_s is not None
    assert row.sent_age_s is not None
    assert 0.1 - GRAIN_S <= row.data_age_s <= place.clock() - made + GRAIN_S
    assert 0.1 - GRAIN_S <= row.sent_age_s <= place.clock() - made + GRAIN_S


# -- what only the kernel can show


@pytest.mark.parametrize("backend", [SockDiag, ProcNetTcp])
def test_who_was_accepted_is_told_from_who_connected_on_tcp_and_on_unix_sockets(
    backend: Callable[[], Sockets], tmp_path: Path
) -> None:
    with ExitStack() as at_end:
        sockets = backend()
        at_end.callback(sockets.close)
        unix = at_end.enter_context(socket.socket(socket.AF_UNIX))
        unix.bind(str(tmp_path / "a socket"))
        unix.listen()
        listeners = [unix]
        listeners += [at_end.enter_context(socket.create_server(("127.0.0.1", 0)))]
        listeners += [at_end.enter_context(socket.create_server(("::1", 0), family=socket.AF_INET6))]
        callers, accepted = [], []
        for one in listeners:
            caller = at_end.enter_context(socket.socket(one.family))
            caller.connect(one.getsockname())
            callers.append(caller)
            accepted.append(at_end.enter_context(one.accept()[0]))
        callers[1].shutdown(socket.SHUT_WR)  # who gave up waiting for the answer
        wait_for(lambda: tcp_state(accepted[1]) == CLOSE_WAIT, "the FIN is there", within=WITHIN_S)
        listening, called, came = (
            frozenset(os.fstat(one.fileno()).st_ino for one in some) for some in (listeners, callers, accepted)
        )
        assert sockets.accepted(listening | called | came) == came
        assert sockets.accepted(called | came) == frozenset()
        assert sockets.accepted(frozenset()) == frozenset()


@pytest.mark.parametrize("backend", [SockDiag, ProcNetTcp])
def test_a_socket_that_was_reset_is_in_no_table_and_still_named_by_its_protocol(
    backend: Callable[[], Sockets], kernel: Kernel
) -> None:
    sockets = backend()
    kernel.at_end.callback(sockets.close)
    dead, line = kernel.connect(), kernel.connect()
    listener, _ = kernel.listen()
    asked = frozenset({dead.inode, line.inode, os.fstat(listener.fileno()).st_ino})
    assert sockets.missing(asked) == frozenset()
    reset(dead.server)
    wait_for(lambda: tcp_state(dead.app) == TCP_CLOSE, "the reset is there", within=WITHIN_S)
    assert sockets.missing(asked) == frozenset({dead.inode})
    edge, pid = ProcProcesses(), os.getpid()
    assert {edge.protocol(pid, one.fileno()) for one in (dead.app, line.app, listener)} == {"TCP"}
    six = kernel.connect("::1")
    assert edge.protocol(pid, six.app.fileno()) == "TCPv6"
    with socket.socket(socket.AF_UNIX) as unix, Path(os.devnull).open() as file:
        assert edge.protocol(pid, unix.fileno()).startswith("UNIX")
        assert edge.protocol(pid, file.fileno()) == ""
    assert edge.protocol(pid, 1 << 20) == ""


def test_a_netlink_socket_that_is_lost_makes_us_blind_for_one_question(kernel: Kernel) -> None:
    listener, _ = kernel.listen()
    held = frozenset({os.fstat(listener.fileno()).st_ino})
    assert isinstance(kernel.sockets, SockDiag)
    netlink = kernel.sockets._netlink  # noqa: SLF001 - what a bug, or a seccomp filter, could do to it
    assert netlink is not None
    netlink.close()
    assert isinstance(kernel.sockets.accepted(held), Blind)
    assert kernel.sockets.accepted(held) == frozenset()


def test_the_accepted_end_of_a_connection_is_no_connection_to_its_listener(kernel: Kernel) -> None:
    line = kernel.connect()
    line.app.shutdown(socket.SHUT_WR)
    wait_for(lambda: tcp_state(line.server) == CLOSE_WAIT, "the FIN is there", within=WITHIN_S)
    for sockets in (kernel.sockets, ProcNetTcp()):
        assert rows(sockets, line.remote) == ()
        # Others may have this port too, to another server.
        assert line.remote in [row.local for row in rows(sockets, line.local)]


def test_an_inbound_connection_that_nobody_accepted_is_left_out(kernel: Kernel) -> None:
    _, endpoint = kernel.listen()
    with socket.create_connection(endpoint) as caller:
        local = Endpoint(*caller.getsockname())
        caller.shutdown(socket.SHUT_WR)
        assert endpoint not in [row.local for row in rows(kernel.sockets, local)]


def test_both_backends_give_the_same_rows_of_a_long_table(kernel: Kernel) -> None:
    listener, endpoint = kernel.listen()
    servers = []
    for _ in range(300):
        kernel.at_end.enter_context(socket.create_connection(endpoint))
        servers.append(kernel.at_end.enter_context(listener.accept()[0]))
    for server in servers[::2]:
        server.shutdown(socket.SHUT_WR)
    of_netlink = {row.inode: row for row in rows(kernel.sockets, endpoint)}
    of_proc = {row.inode: row for row in rows(ProcNetTcp(), endpoint)}
    assert len(of_netlink) == 300
    assert of_proc.keys() == of_netlink.keys()
    for inode, row in of_netlink.items():
        assert of_proc[inode] == row._replace(cookie=2**64 + inode, data_age_s=None, ack_age_s=None, sent_age_s=None)


def test_a_socket_shared_by_fork_is_one_row_with_all_its_holders(kernel: Kernel) -> None:
    line = kernel.connect()
    pids = [os.getpid(), *(kernel.at_end.enter_context(child(line.app)).pid for _ in range(2))]
    line.is_left()
    (row,) = rows(kernel.sockets, line.remote, established=False)
    for pid in pids:
        held = ProcProcesses().descriptors(pid)
        assert isinstance(held, dict)
        assert [fd for fd, inode in held.items() if inode == row.inode] == [line.app.fileno()]


@contextmanager
def child(*inherited: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds these sockets too, in the network namespace of our thread; it ends with us."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[one.fileno() for one in inherited]) as process:
        yield process


@pytest.mark.netns
def test_a_dead_socket_vanishes_from_the_table_while_its_descriptor_stays() -> None:
    with Namespace() as namespace, ExitStack() as at_end:
        namespace.sysctl("net.ipv4.tcp_fin_timeout", 1)
        with namespace.entered():
            inside = Kernel(at_end.enter_context(closing(SockDiag())), at_end)
            line = inside.connect()
        line.app.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT):
            line.app.setsockopt(socket.IPPROTO_TCP, option, 1)
        line.server.close()  # wholly: its half is gone after tcp_fin_timeout, and then a probe is answered by RST
        assert [row.close_wait for row in rows(inside.sockets, line.remote)] == [True]
        wait_for(lambda: not rows(inside.sockets, line.remote), "the kernel gives it up", within=30)
        assert ProcProcesses().still(os.getpid(), line.app.fileno(), line.inode)


@pytest.mark.netns
def test_a_connection_in_another_network_namespace_is_seen_by_its_process_only(kernel: Kernel) -> None:
    with Namespace() as namespace, ExitStack() as at_end:
        with namespace.entered():
            line = Kernel(kernel.sockets, at_end).connect()
            inside = at_end.enter_context(child())
        line.is_left()
        assert rows(kernel.sockets, line.remote) == ()
        assert [row.inode for row in rows(ProcNetTcp(inside.pid), line.remote)] == [line.inode]


def test_the_table_of_a_process_that_is_gone_is_blind() -> None:
    with child() as gone:
        pass
    table = ProcNetTcp(gone.pid).read(frozenset({NOWHERE}), established=True)
    assert isinstance(table, Blind)
    assert f"/proc/{gone.pid}/net/tcp cannot be read" in table.why


# -- which backend, and what becomes of failures


def test_netlink_is_taken_where_it_works() -> None:
    with closing(open_sockets()) as sockets:
        assert (sockets.backend, sockets.why) == (Backend.SOCK_DIAG, "")


def forbidden() -> Sockets:
    raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))


def test_without_netlink_proc_is_taken_and_why_names_the_mend() -> None:
    sockets = open_sockets(forbidden)
    assert sockets.backend is Backend.PROC
    assert "add AF_NETLINK to RestrictAddressFamilies=" in sockets.why
    assert sockets.why.endswith("; SOCK_DIAG is tried once, when the daemon starts")


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (struct.pack("=i", -errno.ENOENT), "the kernel's tcp_diag is not there: `modprobe tcp_diag`"),
        (None, "the kernel's socket table cannot be read: Resource temporarily unavailable (EAGAIN)"),
    ],
    ids=["no module", "silence"],
)
def test_a_self_test_that_fails_says_why_and_that_nobody_tries_again(answer: bytes | None, told: str) -> None:
    with ExitStack() as at_end:

        def open_netlink() -> socket.socket:
            ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 100_000))
            at_end.enter_context(kernels)
            if answer is not None:
                kernels.send(message(DONE, 1, answer))
            return ours

        sockets = open_sockets(lambda: SockDiag(open_netlink))
        assert sockets.backend is Backend.PROC
        assert told in sockets.why
        assert sockets.why.endswith("; SOCK_DIAG is tried once, when the daemon starts")
        assert "asked again" not in sockets.why


def test_a_backend_that_does_not_show_our_own_connection_is_not_taken() -> None:
    sockets = open_sockets(lambda: FakeSockets(time.monotonic))
    assert sockets.backend is Backend.PROC
    assert "shows nothing instead of our own test connection" in sockets.why


def test_where_nothing_works_every_read_is_blind_and_says_why() -> None:
    sockets = open_sockets(forbidden, lambda: NoSockets("no /proc either"))
    assert sockets.backend is Backend.NONE
    table = sockets.read(frozenset({NOWHERE}), established=False)
    assert isinstance(table, Blind)
    assert "AF_NETLINK" in table.why
    assert "no /proc either" in table.why


def test_the_self_test_leaves_nothing_open() -> None:
    before = sorted(Path("/proc/self/fd").iterdir())
    assert self_test(ProcNetTcp()) is None
    assert sorted(Path("/proc/self/fd").iterdir()) == before


def message(kind: int, sequence: int, body: bytes = b"") -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, sequence, 0) + body


DONE, ERROR, ROW = 3, 2, 18
OK = struct.pack("=i", 0)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda n: message(DONE, n, struct.pack("=i", -errno.ENOENT)), "modprobe tcp_diag"),
        (lambda n: message(ERROR, n, struct.pack("=i", -errno.EPERM)), "EPERM"),
        (lambda n: message(ERROR, n, struct.pack("=i", -errno.ENOBUFS)), "ENOBUFS"),
        (lambda n: message(DONE, n - 1, OK), "EPROTO"),
        (lambda n: message(17, n, OK), "EPROTO"),
        (lambda _: None, "EAGAIN"),
    ],
    ids=["no module", "refused", "no memory", "another question's answer", "no answer to it", "silence"],
)
def test_a_failed_dump_is_blind_and_the_next_one_starts_anew(answer: Callable[[int], bytes | None], told: str) -> None:
    links: list[tuple[socket.socket, socket.socket]] = []

    def open_netlink() -> socket.socket:
        ours, kernels = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 100_000))
        links.append((ours, kernels))
        said = answer(1) if len(links) == 1 else message(DONE, 2, OK)
        if said is not None:
            kernels.send(said)
        return ours

    sockets = SockDiag(open_netlink)
    try:
        table = sockets.read(frozenset({NOWHERE}), established=False)
        assert isinstance(table, Blind)
        assert told in table.why
        assert rows(sockets, NOWHERE) == ()
        assert len(links) == 2
    finally:
        for ours, kernels in links:
            ours.close()
            kernels.close()
