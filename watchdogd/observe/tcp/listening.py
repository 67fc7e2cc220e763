"""How many connections wait at most for a server to take them: the backlog that a TCP port or a Unix socket has.

Asked over netlink, which needs no right (include/uapi/linux/inet_diag.h, unix_diag.h: of a socket that listens, the
send queue is its backlog). What cannot be asked is not known. It must never decide anything.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Iterator

from watchdogd.observe.tcp.sock_diag import (
    LISTEN,
    MAX_PART,
    NLATTR,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    SOCK_DIAG_BY_FAMILY,
    aligned,
    bound,
)
from watchdogd.observe.tcp.sockets import open_netlink

_WITHIN_S = 1.0
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_TCP = struct.Struct("=xxxx 2s 46x 8x I")  # of inet_diag_msg: local port (big-endian), send queue
_UNIX_REQUEST = struct.Struct("=BBxx II I 8x")  # unix_diag_req: family, protocol, states, inode, what to show
_UNIX_MESSAGE_SIZE = 16
_SHOW_NAME, _SHOW_QUEUES = 0x1, 0x10
_NAME, _QUEUES = 0, 4  # UNIX_DIAG_NAME, UNIX_DIAG_RQLEN
_RQLEN = struct.Struct("=4x I")


def backlog(port: int) -> int | None:
    """Return the smallest backlog of those that listen on this TCP port in our network namespace; None: not known."""
    found = (
        wqueue
        for row in _rows(bytes(bound([port], 1 << LISTEN, 1)))
        for name, wqueue in [_TCP.unpack_from(row)]
        if int.from_bytes(name, "big") == port
    )
    return _least(found)


def backlog_of_unix(path: str) -> int | None:
    """Return the backlog of the Unix socket with this path; None: not known."""
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 1 << LISTEN, 0, _SHOW_NAME | _SHOW_QUEUES)
    size = _HEADER.size + len(request)
    question = _HEADER.pack(size, SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0) + request
    wanted = os.fsencode(path)
    return _least(wqueue for row in _rows(question) for name, wqueue in [_unix(row)] if name == wanted)


def _least(found: Iterator[int]) -> int | None:
    try:
        return min(found, default=None)
    except (OSError, struct.error):
        return None


def _rows(question: bytes) -> Iterator[bytes]:
    """Yield the messages of the answer, without their headers; raises OSError."""
    until = time.monotonic() + _WITHIN_S
    with open_netlink() as netlink:
        netlink.send(question)
        while time.monotonic() < until:
            part, at = netlink.recv(MAX_PART), 0
            while at + _HEADER.size <= len(part):
                length, kind, *_ = _HEADER.unpack_from(part, at)
                if kind in {NLMSG_ERROR, NLMSG_DONE} or length < _HEADER.size:
                    return
                yield part[at + _HEADER.size : at + length]
                at += aligned(length)


def _unix(row: bytes) -> tuple[bytes, int]:
    """Return path and backlog of one row."""
    name, wqueue, at = b"", 0, _UNIX_MESSAGE_SIZE
    while at + NLATTR.size <= len(row):
        length, kind = NLATTR.unpack_from(row, at)
        value = row[at + NLATTR.size : at + length]
        if kind == _NAME:
            name = value.rstrip(b"\0")
        elif kind == _QUEUES:
            (wqueue,) = _RQLEN.unpack_from(value)
        at += max(aligned(length), NLATTR.size)
    return name, wqueue
