"""Which connections came in: the text of /proc/net/tcp, tcp6 and unix, and what tells an accepted socket by it.

An accepted socket has the address of the one that accepted it: on TCP the port, on a Unix socket the path. A connection
that a process made by itself has a port of its own, or no path. This module must never do I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

_LISTEN = b"0A"  # TCP_LISTEN, include/net/tcp_states.h
_TCP_FIELDS = 10  # up to the inode
_ACCEPTS = 0x10000  # __SO_ACCEPTCON, include/linux/net.h
_UNIX_FIELDS = 8  # with the path


class Place(NamedTuple):
    """Where one socket is bound: a TCP port or the path of a Unix socket."""

    inode: int
    listens: bool
    at: int | bytes


def accepted(places: Iterable[Place], held: frozenset[int]) -> frozenset[int]:
    """Return those of the sockets `held`, by inode, that a listener among them has accepted."""
    ours = [place for place in places if place.inode in held]
    listening = {place.at for place in ours if place.listens}
    return frozenset([place.inode for place in ours if not place.listens and place.at in listening])


def tcp_places(lines: Iterable[bytes]) -> Iterator[Place]:
    """Yield the sockets of the lines of /proc/net/tcp or tcp6 that a process holds (net/ipv4/tcp_ipv4.c)."""
    for line in lines:
        fields = line.split(None, _TCP_FIELDS)
        if len(fields) >= _TCP_FIELDS and fields[9].isdigit() and (inode := int(fields[9])):
            yield Place(inode, fields[3] == _LISTEN, int(fields[1].rpartition(b":")[2], 16))


def unix_places(lines: Iterable[bytes]) -> Iterator[Place]:
    """Yield the sockets of the lines of /proc/net/unix that have a path (net/unix/af_unix.c, unix_seq_show)."""
    for line in lines:
        fields = line.rstrip(b"\n").split(None, _UNIX_FIELDS - 1)
        if len(fields) == _UNIX_FIELDS and fields[6].isdigit():
            yield Place(int(fields[6]), int(fields[3], 16) & _ACCEPTS != 0, fields[7])
