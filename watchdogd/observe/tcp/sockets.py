"""Which connections to given endpoints the kernel has in CLOSE_WAIT or ESTABLISHED, and how old they are.

`SockDiag` asks over a netlink socket that stays open: 1.0 to 1.2 times the cost of the same in C, 12 to 200
times cheaper than lsof. `ProcNetTcp` reads /proc/net/tcp and tcp6, 20 times dearer: for hosts without netlink
and for the network namespaces of other processes. This module must never decide anything, and never give an
empty table for a failed read: that is Blind.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from watchdogd.model.base import Endpoint, Mono
from watchdogd.model.seen import Backend, Blind
from watchdogd.observe.tcp.inbound import Place, accepted, tcp_places, unix_places
from watchdogd.observe.tcp.sock_diag import (
    CLOSE_WAIT,
    ESTABLISHED,
    HELD,
    LISTEN,
    MAX_FILTERED,
    NETLINK_SOCK_DIAG,
    Answer,
    Name,
    Seen,
    bound,
    exact,
    forms,
    packed,
    printed,
    request,
    stamp,
)

_DEADLINE_S = 2
_REPORT = "report it, with `uname -r`"
_MENDS: Mapping[int, str] = {
    errno.ENOENT: "the kernel's tcp_diag is not there: `modprobe tcp_diag`",
    errno.EAFNOSUPPORT: "netlink is forbidden: add AF_NETLINK to RestrictAddressFamilies= of the unit",
    errno.EPROTONOSUPPORT: "this kernel has no sock_diag (gVisor, WSL 1): run where it has one",
    errno.EPERM: "a security policy (seccomp, SELinux) forbids it: allow this daemon NETLINK_SOCK_DIAG",
    errno.EINVAL: f"this kernel does not understand the question: {_REPORT}",
}
_WAIT = "it is asked again at the next look"
_ONCE = "SOCK_DIAG is tried once, when the daemon starts"
_ELSEWHERE = "the instance lives in another network namespace, and SOCK_DIAG shows the daemon's own alone"

_U32 = 0xFFFFFFFF
# So many answers, of 1 KiB with what the kernel adds, fit into a socket's buffer (net.core.rmem_default: 208 KiB).
_AT_ONCE = 64

NO_PORTS: frozenset[int] = frozenset()
_PROC_NET = "/proc/net"
_WORD = struct.Struct("=I")
_PROC_FIELDS = 10  # up to the inode


class Row(NamedTuple):
    """One connection to one of the endpoints asked for.

    `cookie`: the kernel's identity of the socket, 2**64 + inode from /proc. `rqueue`: bytes not read yet, the
    FIN counts as one. The ages are seconds, counted in jiffies (4 ms, 10 ms where HZ is 100), None from
    /proc: `data_age_s` since data came, or since the connection was made; `ack_age_s` since anything came, a
    FIN or a keepalive's answer too; `sent_age_s` since data was sent, for the first time or again
    (tcpi_last_data_sent), or since the connection was made.
    """

    cookie: int
    inode: int
    close_wait: bool
    local: Endpoint
    remote: Endpoint
    rqueue: int
    data_age_s: float | None
    ack_age_s: float | None
    sent_age_s: float | None


@dataclass(frozen=True, slots=True)
class Table:
    """One reading. A row was true at some instant of [at, at + took_s], not all rows at the same one.

    `cpu_s`: what it took of a core, most of it in the kernel.
    """

    at: Mono
    rows: tuple[Row, ...]
    took_s: float = 0.0
    cpu_s: float = 0.0


class Sockets(Protocol):
    """The edge to the kernel's TCP table. `why`: what kept us from SOCK_DIAG, with the mend; empty where it is that."""

    backend: Backend
    why: str

    def read(
        self, endpoints: frozenset[Endpoint], *, established: bool, ports: frozenset[int] = NO_PORTS
    ) -> Table | Blind:
        """Return the connections to these endpoints in CLOSE_WAIT and, with `established`, in ESTABLISHED.

        With `ports` also those to any other address on one of them, in the same walk over the kernel's table.
        Sockets that no process holds or has accepted are left out. Without endpoints nothing is read. Raises
        ValueError for an endpoint that is not an IP address.
        """

    def look_up(self, cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:
        """Return how these sockets are that the last `read` showed in CLOSE_WAIT; None for one that is in no table.

        It costs 6 us for each, whatever `read` costs. Those that cannot be asked for are left out.
        """

    def accepted(self, held: frozenset[int]) -> frozenset[int] | Blind:
        """Return which of the sockets that one process holds, by inode, a listener among them has accepted.

        Of TCP and of Unix sockets. It costs two walks, or one, and is for what is suspected alone.
        """

    def missing(self, inodes: frozenset[int]) -> frozenset[int] | Blind:
        """Return which of these TCP sockets, by inode, are in no table, whatever their state.

        Where one is no listener, which costs little to see, it takes a walk and a row of every socket there is.
        """

    def close(self) -> None:
        """Give back what the backend holds open; a further read opens it again."""


def open_netlink() -> socket.socket:
    """Return a new netlink socket, on which a receive ends with EAGAIN after 2 s; raises OSError."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_SOCK_DIAG)
    # Not settimeout(), which would cost a poll() before each recv().
    netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _DEADLINE_S, 0))
    return netlink


class SockDiag:
    """Reads the table of our network namespace over netlink; needs no privilege. Raises OSError without."""

    def __init__(self, open_netlink: Callable[[], socket.socket] = open_netlink) -> None:
        self.backend = Backend.SOCK_DIAG
        self.why = ""
        self._open_netlink = open_netlink
        self._netlink: socket.socket | None = open_netlink()
        self._answer = Answer()
        self._sequence = 0
        self._requests: dict[frozenset[int], tuple[frozenset[Endpoint], bytearray]] = {}  # by the ports
        self._names: dict[int, Name] = {}  # of the sockets in CLOSE_WAIT

    def close(self) -> None:
        """See Sockets.close."""
        if self._netlink is not None:
            self._netlink.close()
            self._netlink = None

    def read(
        self, endpoints: frozenset[Endpoint], *, established: bool, ports: frozenset[int] = NO_PORTS
    ) -> Table | Blind:
        """See Sockets.read."""
        at, cpu = time.monotonic(), time.thread_time()
        if not endpoints:
            return Table(at, ())
        question = self._question(endpoints, ports)
        try:
            rows: Iterable[Row] = self._dump(question, established=established, until=at + _DEADLINE_S)
        except OSError as error:
            # The rest of this answer may still come, and until then a further question is refused (EBUSY).
            self.close()
            return Blind(f"the kernel's socket table cannot be read: {_explained(error, _WAIT)}")
        if len(endpoints) + len(ports) > MAX_FILTERED:
            wanted = {Endpoint(printed(packed(host)), port) for host, port in endpoints}
            rows = (row for row in rows if row.remote in wanted or row.remote.port in ports)
        return Table(at, tuple(rows), time.monotonic() - at, time.thread_time() - cpu)

    def _question(self, endpoints: frozenset[Endpoint], ports: frozenset[int]) -> bytearray:
        known = self._requests.get(ports)
        if known is None or known[0] is not endpoints:
            # Two at most: that of the quiet looks, without ports, and that of the full ones.
            if len(self._requests) > 1:
                self._requests.clear()
            self._requests[ports] = known = endpoints, request(endpoints, ports)
        return known[1]

    def look_up(self, cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:
        """See Sockets.look_up."""
        asked = [cookie for cookie in cookies if cookie in self._names]
        found: dict[int, Row | None] = {}
        try:
            for begin in range(0, len(asked), _AT_ONCE):
                found.update(self._look_up(asked[begin : begin + _AT_ONCE]))
        except OSError as error:
            self.close()
            return Blind(f"the kernel cannot be asked for known sockets: {_explained(error, _WAIT)}")
        return found

    def accepted(self, held: frozenset[int]) -> frozenset[int] | Blind:
        """See Sockets.accepted."""
        try:
            ports = {port for inode, _, port in self._bound((), 1 << LISTEN) if inode in held}
            listening = 1 << LISTEN | 1 << ESTABLISHED | 1 << CLOSE_WAIT
            rows = self._bound(ports, listening) if ports else []
            places = [Place(inode, state == LISTEN, port) for inode, state, port in rows]
            return accepted(itertools.chain(places, _unix(_PROC_NET)), held)
        except OSError as error:
            self.close()
            return Blind(f"the kernel cannot be asked who was accepted: {_explained(error, _WAIT)}")

    def missing(self, inodes: frozenset[int]) -> frozenset[int] | Blind:
        """See Sockets.missing. 0.5 us for each socket of the host, beside the walk."""
        try:
            left = inodes.difference([inode for inode, *_ in self._bound((), 1 << LISTEN)])
            return left.difference([inode for inode, *_ in self._bound((), HELD)]) if left else left
        except OSError as error:
            self.close()
            return Blind(f"the kernel cannot be asked which sockets there are: {_explained(error, _WAIT)}")

    def _bound(self, ports: Collection[int], states: int) -> list[tuple[int, int, int]]:
        """Return inode, state and local port of the sockets in these states; of these ports, or of all."""
        if self._netlink is None:
            self._netlink = self._open_netlink()
        # Not that of `read`, which remembers the ends of connections to members.
        answer, found = Answer(), list[tuple[int, int, int]]()
        self._sequence = sequence = self._sequence + 1 & _U32
        self._netlink.send(bound(ports, states, sequence))
        until = time.monotonic() + _DEADLINE_S
        while not answer.complete:
            found += answer.bound(self._netlink.recv_into(answer.buffer), sequence)
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, f"the answer does not end within {_DEADLINE_S} s")
        return found

    def _look_up(self, asked: Sequence[int]) -> Iterator[tuple[int, Row | None]]:
        if self._netlink is None:
            self._netlink = self._open_netlink()
        first = self._sequence + 1
        self._sequence = first + len(asked) - 1
        questions = (exact(self._names[cookie], number & _U32) for number, cookie in enumerate(asked, first))
        self._netlink.send(b"".join(questions))
        numbers = {number & _U32: cookie for number, cookie in enumerate(asked, first)}
        while numbers:
            number, seen = self._answer.found(self._netlink.recv_into(self._answer.buffer))
            if number not in numbers:
                raise OSError(errno.EPROTO, os.strerror(errno.EPROTO))
            cookie = numbers.pop(number)
            yield cookie, _row(seen) if seen and _is_held(seen) else None

    def _dump(self, question: bytearray, *, established: bool, until: Mono) -> Iterable[Row]:
        if self._netlink is None:
            self._netlink = self._open_netlink()
        netlink, answer = self._netlink, self._answer
        self._sequence = sequence = self._sequence + 1 & _U32
        # A row costs 1.5 us: those of a busy host's ESTABLISHED connections come only when they matter.
        stamp(question, sequence, 1 << CLOSE_WAIT | established << ESTABLISHED)
        netlink.send(question)
        # The walk goes on by position after each part, so under churn a socket may come twice, newer.
        rows: dict[int, Row] = {}
        self._names = names = {}
        answer.complete = False
        while not answer.complete:
            size = netlink.recv_into(answer.buffer)
            for seen in answer.part(size, sequence):
                row = _row(seen)
                if row.inode:  # else nobody holds it any more
                    rows[row.cookie] = row
                    if row.close_wait:
                        *_, names[row.cookie] = seen
            if time.monotonic() > until:
                raise TimeoutError(errno.ETIMEDOUT, f"the answer does not end within {_DEADLINE_S} s")
        answer.remember(others=not established)  # of a table with ESTABLISHED ones too, all others are gone
        return rows.values()


def _is_held(seen: Seen) -> bool:
    _, inode, state, *_ = seen
    return inode != 0 and state in {CLOSE_WAIT, ESTABLISHED}


def _row(seen: Seen) -> Row:
    (cookie, local, remote), inode, state, rqueue, *ages, _ = seen
    return Row(cookie, inode, state == CLOSE_WAIT, local, remote, rqueue, *ages)


def _explained(error: OSError, otherwise: str) -> str:
    """Say what the error is, with its mend; `otherwise` is said where none is known."""
    code = error.errno or 0
    return f"{error.strerror} ({errno.errorcode.get(code, code)}); {_MENDS.get(code, otherwise)}"


class ProcNetTcp:
    """Reads the table of our network namespace, or of that of process `pid`, from /proc; needs no right.

    It knows neither cookies nor ages, and costs 8 ms of CPU without any socket (a lock for each hash bucket).
    """

    def __init__(self, pid: int | None = None) -> None:
        self.backend = Backend.PROC
        self.why = "asked for by name" if pid is None else _ELSEWHERE
        self._folder = _PROC_NET if pid is None else f"/proc/{pid}/net"
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._remotes: Mapping[bytes, Endpoint] = {}

    def read(
        self, endpoints: frozenset[Endpoint], *, established: bool, ports: frozenset[int] = NO_PORTS
    ) -> Table | Blind:
        """See Sockets.read."""
        at, cpu = time.monotonic(), time.thread_time()
        if not endpoints:
            return Table(at, ())
        if endpoints != self._endpoints:
            self._remotes = remotes(endpoints)
            self._endpoints = endpoints
        try:
            rows = {
                row.inode: row
                for name in ("tcp", "tcp6")
                for row in self._rows(name, established=established, ports=ports)
            }
        except OSError as error:
            mend = "it needs the process to live and a /proc with ProcSubset=all"
            return Blind(f"{self._folder}/tcp cannot be read: {error.strerror}; {mend}")
        return Table(at, tuple(rows.values()), time.monotonic() - at, time.thread_time() - cpu)

    def look_up(self, cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:  # noqa: ARG002
        """See Sockets.look_up; /proc has no way to ask for one socket."""
        return {}

    def accepted(self, held: frozenset[int]) -> frozenset[int] | Blind:
        """See Sockets.accepted."""
        try:
            return accepted(itertools.chain(self._places(), _unix(self._folder)), held)
        except OSError as error:
            return Blind(f"{self._folder}/tcp cannot be read: {error.strerror}")

    def missing(self, inodes: frozenset[int]) -> frozenset[int] | Blind:
        """See Sockets.missing."""
        try:
            return inodes.difference([place.inode for place in self._places()])
        except OSError as error:
            return Blind(f"{self._folder}/tcp cannot be read: {error.strerror}")

    def _places(self) -> Iterator[Place]:
        return itertools.chain(tcp_places(self._lines("tcp")), tcp_places(self._lines("tcp6")))

    def close(self) -> None:
        """Nothing stays open."""

    def _rows(self, name: str, *, established: bool, ports: frozenset[int]) -> Iterator[Row]:
        return proc_rows(self._lines(name), self._remotes, established=established, ports=ports)

    def _lines(self, name: str) -> Iterator[bytes]:
        try:
            # Line by line: the kernel hands out a page at a time anyway; 200 000 sockets are 30 MB of text.
            with open(f"{self._folder}/{name}", "rb") as lines:
                yield from lines
        except FileNotFoundError:
            if name == "tcp":
                raise
            # No tcp6: a kernel without IPv6.


def _unix(folder: str) -> Iterator[Place]:
    """Yield the Unix sockets of a network namespace that have a path; raises OSError."""
    with open(f"{folder}/unix", "rb") as lines:
        yield from unix_places(lines)


def remotes(endpoints: Iterable[Endpoint]) -> Mapping[bytes, Endpoint]:
    """Return the endpoints by the text that /proc/net/tcp and tcp6 have for them, in every form."""
    return {_hex(form, port): Endpoint(printed(form), port) for host, port in endpoints for form in forms(host)}


def _hex(address: bytes, port: int) -> bytes:
    words = b"".join(b"%08X" % word for (word,) in _WORD.iter_unpack(address))
    return b"%s:%04X" % (words, port)


def proc_rows(
    lines: Iterable[bytes],
    remotes: Mapping[bytes, Endpoint],
    *,
    established: bool,
    ports: frozenset[int] = NO_PORTS,
) -> Iterator[Row]:
    """Yield the rows of the lines of /proc/net/tcp or tcp6 (net/ipv4/tcp_ipv4.c, get_tcp4_sock).

    By fields, never by columns: the first one grows from the 10 000th line on.
    """
    states = {b"%02X" % CLOSE_WAIT, b"%02X" % ESTABLISHED} if established else {b"%02X" % CLOSE_WAIT}
    wanted = {b"%04X" % port for port in ports}
    for line in lines:
        fields = line.split(None, _PROC_FIELDS)
        if len(fields) < _PROC_FIELDS or fields[3] not in states:
            continue
        remote = remotes.get(fields[2])
        if remote is None:
            if fields[2][-4:] not in wanted:
                continue
            remote = _endpoint(fields[2])
        inode = int(fields[9])
        if inode:
            rqueue = int(fields[4].partition(b":")[2], 16)
            closed = int(fields[3], 16) == CLOSE_WAIT
            yield Row(2**64 + inode, inode, closed, _endpoint(fields[1]), remote, rqueue, None, None, None)


def _endpoint(field: bytes) -> Endpoint:
    address, _, port = field.partition(b":")
    words = (int(address[at : at + 8], 16) for at in range(0, len(address), 8))
    return Endpoint(printed(b"".join(map(_WORD.pack, words))), int(port, 16))


class NoSockets:
    """Stands where the table cannot be read in any way."""

    def __init__(self, why: str) -> None:
        self.backend = Backend.NONE
        self.why = why

    def read(
        self,
        endpoints: frozenset[Endpoint],  # noqa: ARG002
        *,
        established: bool,  # noqa: ARG002
        ports: frozenset[int] = NO_PORTS,  # noqa: ARG002
    ) -> Table | Blind:
        """See Sockets.read."""
        return Blind(self.why)

    def look_up(self, cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:  # noqa: ARG002
        """See Sockets.look_up."""
        return Blind(self.why)

    def accepted(self, held: frozenset[int]) -> frozenset[int] | Blind:  # noqa: ARG002
        """See Sockets.accepted."""
        return Blind(self.why)

    def missing(self, inodes: frozenset[int]) -> frozenset[int] | Blind:  # noqa: ARG002
        """See Sockets.missing."""
        return Blind(self.why)

    def close(self) -> None:
        """Nothing is open."""


def open_sockets(sock_diag: Callable[[], Sockets] = SockDiag, proc: Callable[[], Sockets] = ProcNetTcp) -> Sockets:
    """Return the cheapest backend that passes the self-test; where none does, one that is always Blind.

    Either way `why` says what was wrong with those before it. Nobody tries them again.
    """
    problems: list[str] = []
    for factory in (sock_diag, proc):
        try:
            sockets = factory()
            problem = self_test(sockets)
        except OSError as error:
            problem = _explained(error, _REPORT)
        else:
            if problem is None:
                if problems:
                    sockets.why = "; ".join([*problems, _ONCE])
                return sockets
            sockets.close()
        problems.append(problem)
    return NoSockets("; ".join([*problems, _ONCE]))


def self_test(sockets: Sockets) -> str | None:
    """Make a connection and look for it in both states; return what is wrong, None if all is well.

    It proves what no error code does: that the answer is about our network namespace, with states and inodes.
    Raises OSError where no connection over loopback can be made.
    """
    with contextlib.ExitStack() as at_end:
        listener = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(_DEADLINE_S)
        endpoint = Endpoint(*listener.getsockname())
        client = at_end.enter_context(socket.create_connection(endpoint, _DEADLINE_S))
        server = at_end.enter_context(listener.accept()[0])
        problem = _not_found(sockets, client, endpoint, close_wait=False)
        if problem is None:
            server.shutdown(socket.SHUT_WR)
            client.recv(1)  # returns once the FIN is there
            problem = _not_found(sockets, client, endpoint, close_wait=True)
    return problem


def _not_found(sockets: Sockets, client: socket.socket, endpoint: Endpoint, *, close_wait: bool) -> str | None:
    table = sockets.read(frozenset({endpoint}), established=not close_wait)
    if isinstance(table, Blind):
        return table.why.removesuffix(f"; {_WAIT}")  # there is no next look of this one
    expected = (os.fstat(client.fileno()).st_ino, close_wait, Endpoint(*client.getsockname()))
    found = [(row.inode, row.close_wait, row.local) for row in table.rows]
    if found == [expected]:
        return None
    shown = f"{sockets.backend.value} shows {found or 'nothing'} instead of our own test connection {expected}"
    return f"{shown}; {_REPORT}"
