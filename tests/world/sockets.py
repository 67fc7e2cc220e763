"""The kernel's TCP table in a world of values: connections that live, end and age as the test says.

It stands for `watchdogd.observe.tcp.sockets.SockDiag`; tests/integration/test_sockets.py runs the same assertions
on both.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field

from watchdogd.model.base import Endpoint, Mono
from watchdogd.model.seen import Backend, Blind
from watchdogd.observe.tcp.sock_diag import packed, printed
from watchdogd.observe.tcp.sockets import NO_PORTS, Row, Table


@dataclass(eq=False)
class FakeSocket:
    """One socket. A DEAD one is in no table any more, although a process holds it: set `dead`."""

    world: "FakeSockets"
    cookie: int
    inode: int
    local: Endpoint
    remote: Endpoint
    data_at: Mono
    ack_at: Mono
    sent_at: Mono
    rqueue: int = 0
    close_wait: bool = False
    dead: bool = False
    accepted: bool = False
    closed: bool = False

    def hears(self, size: int) -> None:
        """Data comes."""
        self.data_at = self.ack_at = self.world.clock()
        self.rqueue += size

    def sends(self) -> None:
        """The app sends data, which is acknowledged at once."""
        self.sent_at = self.ack_at = self.world.clock()

    def is_probed(self) -> None:
        """A keepalive probe is answered."""
        self.ack_at = self.world.clock()

    def is_left(self) -> None:
        """The other side closes: the FIN stands in the queue as one byte more."""
        self.ack_at = self.world.clock()
        self.close_wait = True
        self.rqueue += 1

    def reads(self) -> None:
        """The app reads all there is."""
        self.rqueue = 0

    def closes(self) -> None:
        """The last process closes it."""
        self.closed = True


@dataclass(eq=False)
class FakeSockets:
    """All sockets of one network namespace. While `blind` is set, that is what every read says.

    As `Backend.PROC` it knows neither cookies nor ages. Inodes begin behind `first`: two namespaces share none.
    """

    clock: Callable[[], Mono]
    _: KW_ONLY
    blind: str | None = None
    sockets: list[FakeSocket] = field(default_factory=list)
    backend: Backend = Backend.SOCK_DIAG
    why: str = ""
    reads: int = 0
    cpu_s: float = 0.0
    first: int = 0

    def connect(self, remote: Endpoint) -> FakeSocket:
        """A process connects to an endpoint."""
        number = self.first + len(self.sockets) + 1
        host = "::1" if ":" in remote.host else "127.0.0.1"
        local, at = Endpoint(host, 32768 + number), self.clock()
        self.sockets.append(FakeSocket(self, number, 100_000 + number, local, remote, at, at, at))
        return self.sockets[-1]

    def accept(self) -> FakeSocket:
        """A process takes a connection that somebody made to it."""
        socket = self.connect(Endpoint("10.0.0.200", 50_000))
        socket.accepted = True
        return socket

    # -- the edge

    def read(
        self, endpoints: frozenset[Endpoint], *, established: bool, ports: frozenset[int] = NO_PORTS
    ) -> Table | Blind:
        wanted = {Endpoint(printed(packed(host)), port) for host, port in endpoints}
        self.reads += 1
        if wanted and self.blind is not None:
            return Blind(self.blind)
        at = self.clock()
        held = [one for one in self.sockets if not one.dead and not one.closed]
        shown = [one for one in held if one.remote in wanted or one.remote.port in ports]
        rows = (_row(one, at) for one in shown if one.close_wait or established)
        shown_rows = tuple(rows if self.backend is Backend.SOCK_DIAG else map(_as_of_proc, rows))
        return Table(at, shown_rows, cpu_s=self.cpu_s)

    def look_up(self, cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:
        if self.blind is not None:
            return Blind(self.blind)
        asked = set(cookies) if self.backend is Backend.SOCK_DIAG else set[int]()
        at = self.clock()
        return {
            one.cookie: None if one.dead or one.closed else _row(one, at) for one in self.sockets if one.cookie in asked
        }

    def accepted(self, held: frozenset[int]) -> frozenset[int] | Blind:
        if self.blind is not None:
            return Blind(self.blind)
        return frozenset(one.inode for one in self.sockets if one.accepted and not one.closed and one.inode in held)

    def missing(self, inodes: frozenset[int]) -> frozenset[int] | Blind:
        if self.blind is not None:
            return Blind(self.blind)
        return inodes - {one.inode for one in self.sockets if not one.closed and not one.dead}

    def close(self) -> None:
        pass


def _row(one: FakeSocket, at: Mono) -> Row:
    ages = at - one.data_at, at - one.ack_at, at - one.sent_at
    return Row(one.cookie, one.inode, one.close_wait, one.local, one.remote, one.rqueue, *ages)


def _as_of_proc(row: Row) -> Row:
    return row._replace(cookie=2**64 + row.inode, data_age_s=None, ack_age_s=None, sent_age_s=None)
