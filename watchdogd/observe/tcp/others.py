"""The connections on MongoDB's ports that lead to no known address of a member, and which processes hold them.

They come with the full looks, by the same walk over the kernel's table. From them it is learned where else a member is,
and seen which instance talks to something else. This module must never decide anything; the only I/O is through the
Processes edge that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from watchdogd.model.base import Endpoint, ProcessId
from watchdogd.model.seen import Blind
from watchdogd.observe.processes import Processes, descriptors_of
from watchdogd.observe.tcp.sockets import Row


class Place(NamedTuple):
    """Where a connection leads. `netns`: the inode of the network namespace that it is in, where the address holds."""

    netns: int
    remote: Endpoint


@dataclass(frozen=True, slots=True)
class _Socket:
    """`inside`: both ends have the same address, so it does not leave the host. `holders` None: not looked for yet."""

    place: Place
    inode: int
    inside: bool
    holders: frozenset[ProcessId] | None = None


@dataclass(frozen=True, slots=True)
class Talk:
    """Who talks to one place. `inside`: it is an address of the host itself."""

    holders: frozenset[ProcessId]
    inside: bool


class Others:
    """What the last full looks showed."""

    def __init__(self) -> None:
        self._sockets: dict[int, _Socket] = {}
        self._scanned: set[ProcessId] = set()
        self._talks: Mapping[Place, Talk] = {}

    def fold(self, rows: Iterable[Row], netns: int) -> None:
        """Take one whole reading of a namespace's table; what is missing has ended."""
        seen = {row.cookie: row for row in rows}
        for cookie in [c for c, one in self._sockets.items() if one.place.netns == netns and c not in seen]:
            del self._sockets[cookie]
        for cookie, row in seen.items():
            if cookie not in self._sockets:
                place = Place(netns, row.remote)
                self._sockets[cookie] = _Socket(place, row.inode, row.local.host == row.remote.host)

    def forget_namespaces(self, keep: set[int]) -> None:
        """Drop what belongs to network namespaces in which no instance lives any more."""
        for cookie in [cookie for cookie, one in self._sockets.items() if one.place.netns not in keep]:
            del self._sockets[cookie]

    def attribute(self, processes: Iterable[ProcessId], edge: Processes) -> Mapping[Place, Talk]:
        """Find who of `processes` holds them; return whom they talk to, the same mapping as long as it is the same.

        Descriptors (4-5 us for each) are read where a socket is new, of all; else of new processes, and of nobody where
        there is no such socket. Who cannot be read holds nothing here: that he cannot is told by Connections.
        """
        present = set(processes)
        self._scanned &= present
        if self._sockets:
            new = any(one.holders is None for one in self._sockets.values())
            self._scan(present if new else present - self._scanned, edge)
        else:
            self._scanned.clear()
        talks: dict[Place, Talk] = {}
        for cookie, one in self._sockets.items():
            holders = (one.holders or frozenset()) & present
            if holders != one.holders:
                self._sockets[cookie] = replace(one, holders=holders)
            if holders:
                known = talks.get(one.place, Talk(frozenset(), one.inside))
                talks[one.place] = Talk(known.holders | holders, known.inside and one.inside)
        if talks != self._talks:
            self._talks = talks
        return self._talks

    def _scan(self, processes: Iterable[ProcessId], edge: Processes) -> None:
        by_inode = {one.inode: cookie for cookie, one in self._sockets.items()}
        for process in processes:
            descriptors = descriptors_of(edge, process.pid)
            if isinstance(descriptors, Blind):
                continue
            self._scanned.add(process)
            for cookie in {by_inode[inode] for inode in descriptors.values() if inode in by_inode}:
                one = self._sockets[cookie]
                self._sockets[cookie] = replace(one, holders=(one.holders or frozenset()) | {process})
