"""The wire format of NETLINK_SOCK_DIAG for three questions: which TCP sockets have one of these remote ends, which are
bound to one of these ports, and how is this one.

The first two are the legacy TCPDIAG_GETSOCK dump: one walk gives IPv4, IPv6 and v4-mapped sockets, where the
newer request needs a walk for each family, at twice the cost. Formats:
include/uapi/linux/netlink.h, sock_diag.h, inet_diag.h and tcp.h. This module must never do I/O.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple, TypeVar

from watchdogd.model.base import Endpoint

NETLINK_SOCK_DIAG = 4
ESTABLISHED, CLOSE_WAIT, LISTEN = 1, 8, 10  # include/net/tcp_states.h
# Of a socket that a process may hold: all but SYN_RECV and TIME_WAIT, of which a busy host has tens of thousands.
HELD = sum(1 << state for state in range(1, 12) if state not in {3, 6})
# netlink_recvmsg() keeps a part of a dump below 32 KiB.
MAX_PART = 1 << 16
# The kernel checks the filter at each dump, in time quadratic to its length: measured 0.1 ms for 256
# endpoints, 1.5 ms for 1000, 10 ms for 3000. Above this number all rows come (1-2 us each), for the caller to
# choose from.
MAX_FILTERED = 256

_TCPDIAG_GETSOCK, SOCK_DIAG_BY_FAMILY = 18, 20
NLM_F_REQUEST, NLM_F_DUMP = 0x1, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
_INET_DIAG_REQ_BYTECODE = 1
_INET_DIAG_INFO = 2
_INET_DIAG_BC_JMP, _INET_DIAG_BC_S_COND, _INET_DIAG_BC_D_COND = 1, 7, 8

_NLMSGHDR = struct.Struct("=IHxxIxxxx")  # length, type, sequence
_REQUEST = struct.Struct("=IHHII BBBB 48x II")  # nlmsghdr; family, two lengths, extensions, id, states, dbs
_SEQUENCE_AT, _STATES_AT = 8, 68
_EXACT = struct.Struct("=IHHII BBBx I 48s")  # nlmsghdr; inet_diag_req_v2: family, protocol, extensions, states, id
_ANY_STATE = 0xFFFFFFFF
_MESSAGE = "BBxx 48s 4x I 8x I"  # inet_diag_msg: family, state, id, rqueue, inode
_MESSAGE_SIZE = struct.calcsize(f"={_MESSAGE}")
_BOUND = struct.Struct(f"={_NLMSGHDR.size}x xB2x 2s 46x 16x I")  # state, local port (big-endian), inode
_SOCKET_ID = struct.Struct("!HH 16s 16s 4x 8s")  # inet_diag_sockid: ports, addresses, cookie
NLATTR = struct.Struct("=HH")  # length, type
_INFO = "HH 44x I 4x II"  # nlattr; tcpi_last_data_sent, tcpi_last_data_recv, tcpi_last_ack_recv in ms
_INFO_SIZE = struct.calcsize(f"={_INFO}")
_BC_OP = struct.Struct("=BBH")  # code, step if it holds, step if not
_HOSTCOND = struct.Struct("=BBxxi")  # family, prefix length, port
_COOKIE = struct.Struct("=Q")
_U32 = struct.Struct("=I")
_S32 = struct.Struct("=i")
_ROW = _NLMSGHDR.size + _MESSAGE_SIZE

_IPV4_SIZE = 4
_MAPPED = bytes(10) + b"\xff\xff"

T = TypeVar("T")
Name = tuple[int, bytes]
"""What names one socket to the kernel: its family, and its inet_diag_sockid of 48 bytes."""

Seen = tuple["Ends", int, int, int, float | None, float | None, float | None, Name]
"""One socket: ends, inode, state, receive queue, seconds since data came, an ack came, data was sent; name."""


class Ends(NamedTuple):
    """What stays the same as long as a socket lives."""

    cookie: int
    local: Endpoint
    remote: Endpoint


def packed(host: str) -> bytes:
    """Return the 4 or 16 bytes of an IP address, 4 for a v4-mapped one; a zone (`%eth0`) is left out.

    Raises ValueError for anything else, such as a name that was not resolved.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return _unmapped(socket.inet_pton(family, host.partition("%")[0]))
    except OSError:
        raise ValueError(f"{host!r}: expected an IP address; resolve names before you ask for their sockets") from None


def printed(address: bytes) -> str:
    """Return 4 or 16 bytes in the form of `Endpoint.host`, a v4-mapped address as IPv4."""
    address = _unmapped(address)
    return socket.inet_ntop(socket.AF_INET if len(address) == _IPV4_SIZE else socket.AF_INET6, address)


def forms(host: str) -> tuple[bytes, ...]:
    """Return every form in which the kernel knows this address: an IPv4 one also as v4-mapped."""
    address = packed(host)
    return (address, _MAPPED + address) if len(address) == _IPV4_SIZE else (address,)


def _unmapped(address: bytes) -> bytes:
    return address.removeprefix(_MAPPED)


def bytecode(endpoints: Iterable[Endpoint], ports: Iterable[int] = ()) -> bytes:
    """Return the filter `remote is one of these, or any on one of these ports` in the form of `ss`: condition, jump to
    the end, condition.

    An IPv4 condition holds for v4-mapped sockets too, and one without a family and an address for every socket with
    that port (net/ipv4/inet_diag.c, inet_diag_bc_run and valid_hostcond).
    """
    conditions = [_HOSTCOND.pack(socket.AF_UNSPEC, 0, port) for port in ports]
    conditions += [_condition(endpoint) for endpoint in endpoints]
    return _one_of(_INET_DIAG_BC_D_COND, conditions)


def _condition(endpoint: Endpoint) -> bytes:
    address = packed(endpoint.host)
    family = socket.AF_INET if len(address) == _IPV4_SIZE else socket.AF_INET6
    return _HOSTCOND.pack(family, 8 * len(address), endpoint.port) + address


def _one_of(kind: int, conditions: Iterable[bytes]) -> bytes:
    """Return the filter that lets pass what one of these holds for."""
    code = b""
    for condition in conditions:  # from the last one to the first: a jump needs to know what is behind it
        size = _BC_OP.size + len(condition)
        # Where it does not hold it steps over the jump; the last one so steps past the end, which means no.
        operation = _BC_OP.pack(kind, size, size + _BC_OP.size) + condition
        jump = _BC_OP.pack(_INET_DIAG_BC_JMP, _BC_OP.size, _BC_OP.size + len(code)) if code else b""
        code = operation + jump + code
    return code


def request(endpoints: Collection[Endpoint], ports: Collection[int] = ()) -> bytearray:
    """Return the question for these endpoints and ports, unfiltered above MAX_FILTERED; `stamp` completes it."""
    code = bytecode(endpoints, ports) if len(endpoints) + len(ports) <= MAX_FILTERED else b""
    return _dump(code, 1 << (_INET_DIAG_INFO - 1))


def bound(ports: Collection[int], states: int, sequence: int) -> bytearray:
    """Return the question for the sockets of these local ports, in these states; without ports, for all.

    Above MAX_FILTERED ports it is for all too. A condition of no family holds for every address.
    """
    wanted = [_HOSTCOND.pack(socket.AF_UNSPEC, 0, port) for port in ports] if len(ports) <= MAX_FILTERED else []
    question = _dump(_one_of(_INET_DIAG_BC_S_COND, wanted), 0)
    stamp(question, sequence, states)
    return question


def _dump(code: bytes, extensions: int) -> bytearray:
    attribute = NLATTR.pack(NLATTR.size + len(code), _INET_DIAG_REQ_BYTECODE) + code if code else b""
    size = _REQUEST.size + len(attribute)
    header = size, _TCPDIAG_GETSOCK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0
    return bytearray(_REQUEST.pack(*header, socket.AF_INET, 0, 0, extensions, 0, 0) + attribute)


def stamp(question: bytearray, sequence: int, states: int) -> None:
    """Write the sequence number and the mask of states (`1 << CLOSE_WAIT`) into the question."""
    _U32.pack_into(question, _SEQUENCE_AT, sequence)
    _U32.pack_into(question, _STATES_AT, states)


def exact(name: Name, sequence: int) -> bytes:
    """Return the question for one socket: 6 us each, however many the host has."""
    family, socket_id = name
    header = _EXACT.size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST, sequence, 0
    return _EXACT.pack(*header, family, socket.IPPROTO_TCP, 1 << (_INET_DIAG_INFO - 1), _ANY_STATE, socket_id)


def ends(family: int, socket_id: bytes) -> Ends:
    """Return what the 48 bytes of an inet_diag_sockid say."""
    local_port, remote_port, local, remote, cookie = _SOCKET_ID.unpack(socket_id)
    size = _IPV4_SIZE if family == socket.AF_INET else len(local)
    return Ends(
        _COOKIE.unpack(cookie)[0],
        Endpoint(printed(local[:size]), local_port),
        Endpoint(printed(remote[:size]), remote_port),
    )


class Answer:
    """Reads the parts of answers from `buffer`, which each one is received into.

    To print a socket's ends takes 4 us, so they are remembered, 600 bytes each; see `remember`.
    """

    def __init__(self) -> None:
        # Longer than any part, so that reading ahead at the end of one does not run over its end.
        self._memory = bytearray(MAX_PART + 4096)
        self.buffer = memoryview(self._memory)[:MAX_PART]
        self._known: dict[Name, Ends] = {}
        self._shown: dict[Name, Ends] = {}
        self._info_at, self._row = _ROW, _row(_ROW)
        self.complete = False

    def part(self, size: int, sequence: int) -> Iterator[Seen]:
        """Yield the sockets of one part; `complete` then says whether it was the last one.

        Raises OSError with the kernel's error, or EPROTO for what does not answer that question.
        """
        return self._rows(size, sequence, self._seen)

    def bound(self, size: int, sequence: int) -> Iterator[tuple[int, int, int]]:
        """Yield inode, state and local port of the sockets of one part; like `part` in all else."""
        return self._rows(size, sequence, self._place)

    def _rows(self, size: int, sequence: int, row: Callable[[int, int], T]) -> Iterator[T]:
        memory, offset = self._memory, 0
        self.complete = False
        while offset < size:
            length, kind, number = _NLMSGHDR.unpack_from(memory, offset)
            if kind != _TCPDIAG_GETSOCK or number != sequence or length < _ROW:
                self._last(offset, kind, number == sequence)
                return
            yield row(offset, length)
            offset += aligned(length)

    def found(self, size: int) -> tuple[int, Seen | None]:
        """Return the sequence number of the exact question that this answers, and the socket; None: it is no more.

        Raises OSError with the kernel's error, or EPROTO for something else.
        """
        length, kind, number = _NLMSGHDR.unpack_from(self._memory, 0)
        if kind == SOCK_DIAG_BY_FAMILY and _ROW <= length <= size:
            return number, self._seen(0, length)
        code = -_S32.unpack_from(self._memory, _NLMSGHDR.size)[0] if kind == NLMSG_ERROR else errno.EPROTO
        if code not in {errno.ENOENT, errno.ESTALE}:  # ESTALE: another socket has these ends now
            raise OSError(code, os.strerror(code))
        return number, None

    def _seen(self, offset: int, length: int) -> Seen:
        family, state, name, rqueue, inode, room, kind, *ages = self._row.unpack_from(self._memory, offset)
        if kind != _INET_DIAG_INFO or room < _INFO_SIZE or self._info_at >= length:
            ages = self._ages(offset, length)
        key = family, name
        self._shown[key] = known = self._known.get(key) or ends(family, name)
        if not ages:
            return known, inode, state, rqueue, None, None, None, key
        sent_ms, data_ms, ack_ms = ages
        return known, inode, state, rqueue, data_ms / 1000, ack_ms / 1000, sent_ms / 1000, key

    def _place(self, offset: int, _: int) -> tuple[int, int, int]:
        state, port, inode = _BOUND.unpack_from(self._memory, offset)
        return inode, state, int.from_bytes(port, "big")

    def remember(self, *, others: bool) -> None:
        """Remember the ends of all sockets that were read since the last call; `others`: and those known before."""
        if others:
            self._known.update(self._shown)
        else:
            self._known = self._shown
        self._shown = {}

    def _ages(self, begin: int, length: int) -> list[int]:
        """Find TCP_INFO in the row, which is at the same place in all of them: from here on it is read with the row."""
        at = _ROW
        while at + _INFO_SIZE <= length:
            size, kind = NLATTR.unpack_from(self._memory, begin + at)
            if kind == _INET_DIAG_INFO and size >= _INFO_SIZE:
                self._info_at, self._row = at, _row(at)
                return list(self._row.unpack_from(self._memory, begin)[-3:])
            at += max(aligned(size), NLATTR.size)
        return []

    def _last(self, offset: int, kind: int, ours: bool) -> None:  # noqa: FBT001 - one private caller
        # A missing tcp_diag is told by NLMSG_DONE with -ENOENT: who does not look there sees 0 sockets.
        if not ours or kind not in {NLMSG_DONE, NLMSG_ERROR}:
            raise OSError(errno.EPROTO, f"unexpected netlink message of type {kind}, ours: {ours}")
        code = -_S32.unpack_from(self._memory, offset + _NLMSGHDR.size)[0]
        if code > 0 or kind == NLMSG_ERROR:
            raise OSError(code, os.strerror(code))
        self.complete = True


def _row(info_at: int) -> struct.Struct:
    """Return what reads a row, with its TCP_INFO after so many bytes, at once: half the cost of piece by piece."""
    return struct.Struct(f"={_NLMSGHDR.size}x {_MESSAGE} {info_at - _ROW}x {_INFO}")


def aligned(size: int) -> int:
    """Return where what follows something of that size begins (netlink(7): on 4 bytes)."""
    return (size + 3) & ~3
