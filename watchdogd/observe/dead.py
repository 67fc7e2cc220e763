"""Finds the dead TCP sockets that several processes of an instance hold and that nobody saw alive.

The kernel drops a socket from every table when the other side is gone for good (ETIMEDOUT, a lost host, keepalive, a
reset), while the descriptor stays. By its link in /proc that still is a socket, its extended attribute
`system.sockprotoname` still names the protocol (net/socket.c), and where it led to is not known any more. In a network
that was dead until ETIMEDOUT, with a lost host, and after keepalive had removed the CLOSE_WAIT, every stuck worker with
threads held such a one (103 of 103, and 69 of 69), shared with its siblings since the fork. Pools of redis and SQL
leave the same.

A socket that is just being opened or closed is in no table either, so it counts when it is missing in two readings,
`EVERY_S` apart. This module must never decide anything.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from watchdogd.model.base import Mono, ProcessId
from watchdogd.model.seen import Blind, DeadSocket
from watchdogd.observe.processes import Processes

EVERY_S = 5.0
"""All descriptors of the instance are read for it, 4 us each, and it may need a walk over the whole table."""

TCP_NAMES = frozenset({"TCP", "TCPv6"})

Missing = Callable[[frozenset[int]], frozenset[int] | Blind]
"""Which of these TCP sockets, by inode, are in no table of their network namespace."""


class DeadSockets:
    """Those of one instance. `found`: as of the last reading, those that were so in the one before it too."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._read_at: Mono = -math.inf
        self._since: dict[int, Mono] = {}  # of all that were missing in the last reading
        self._is_tcp: dict[int, bool] = {}
        self.found: tuple[DeadSocket, ...] = ()

    def read(self, processes: Iterable[ProcessId], known: Collection[int], missing: Missing, at: Mono) -> Blind | None:
        """Read if it is time to. `known`: the inodes that were seen to lead to a member, dead ones too.

        Blind where something cannot be read: then nothing is found.
        """
        if at - self._read_at < EVERY_S:
            return None
        self._read_at, self.found = at, ()
        links: defaultdict[int, dict[ProcessId, int]] = defaultdict(dict)
        for process in processes:
            descriptors = self._processes.descriptors(process.pid)
            if isinstance(descriptors, Blind):
                return descriptors
            for fd, inode in descriptors.items():
                links[inode][process] = fd
        # A socket that one process made for itself alone is its own driver's to close.
        shared = {inode: held for inode, held in links.items() if len(held) > 1 and inode not in known}
        self._is_tcp = {inode: self._is_tcp.get(inode) or self._asked(shared[inode]) for inode in shared}
        asked = frozenset([inode for inode, is_tcp in self._is_tcp.items() if is_tcp])
        gone = missing(asked) if asked else asked
        if isinstance(gone, Blind):
            return gone
        before, self._since = self._since, {inode: self._since.get(inode, at) for inode in gone}
        both = sorted(before.keys() & self._since.keys())
        self.found = tuple([DeadSocket(inode, self._since[inode], frozenset(shared[inode])) for inode in both])
        return None

    def _asked(self, held: dict[ProcessId, int]) -> bool:
        process, fd = next(iter(held.items()))
        return self._processes.protocol(process.pid, fd) in TCP_NAMES
