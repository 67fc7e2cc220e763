"""Folds looks at a worker into the requests that wait as a driver waits for a server that it does not find.

pymongo, of every version from 3.11 on, looks for a server in steps of 0.5 s, each of them a wait on a lock
(MIN_HEARTBEAT_INTERVAL; pymongo/topology.py, `_select_servers_loop`). So a request that finds none shows, as long as it
is held: its connection, which was accepted, in two looks one after the other; a thread that is in the system call futex
in both; 2 voluntary switches of that thread a second; and nothing sent on the worker's own connections to MongoDB
meanwhile. Of 537 stuck workers 476 had it, of 2 559 healthy ones none (requests of 5 s, in TCP, and in thread.join
among them). A request that polls in steps of 0.5 s by itself has it too.

Pure but for `accepted`, which is handed in. It must never decide what a wait means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from watchdogd.model.base import Mono
from watchdogd.model.seen import Blind, Wait, Waits

SWITCHES_PER_S = (1.4, 2.7)
"""2, give or take what a busy machine does to it: 11 114 of 11 156 seconds of stuck requests lie between."""

LOOKS_APART_S = (0.9, 2.5)
"""Less time counts too few switches to tell, more has room for several requests: looks every 3 s found 60 of 545."""

TASK = 0
"""Stands for the socket of a request where a process does tasks, which nobody waits for at a socket: no inode is 0.

Of a mule and a spooler that were stuck the only thread was in a futex in 34 of 34 looks at their tasks, and switched 2
to 3 times a second; of those that had no task, or whose own client works, in none of 84.
"""

KEPT_S = 60.0
"""How long a request that is over is remembered. What is asked for is two of them within this time."""


class Reading(NamedTuple):
    """One look at one worker.

    `began`: when the look began, before anything was read; `at`: when the threads were read. `futex`: the threads that
    are in a futex, with the voluntary switches of each until now. `sockets`: the inodes that it holds and that lead to
    no member; none where no thread is in a futex. Of a mule it is TASK, as long as its only thread is in one.
    """

    began: Mono
    at: Mono
    futex: Mapping[int, int]
    sockets: frozenset[int]


Accepted = Callable[[frozenset[int]], frozenset[int] | Blind]
"""Which of these sockets a listener among them has accepted."""


class WorkerWaits:
    """What is known of one worker since it is looked at so."""

    def __init__(self) -> None:
        self._before: Reading | None = None
        self._since: Mono | None = None
        self._held: dict[int, Mono] = {}  # socket -> since when it has been held at least
        self._accepted: dict[int, bool] = {}  # of those that it was asked of
        self._waits: dict[int, Wait] = {}

    def fold(self, now: Reading, last_sent: Mono, accepted: Accepted) -> Waits | Blind:
        """Take one look. `last_sent`: when it sent last, at the latest, on its own connections to MongoDB.

        `accepted` is asked only where all else is there, once for each socket. Blind where it is.
        """
        self._since = now.at if self._since is None else self._since
        self._held = {one: self._held.get(one, now.at) for one in now.sockets}
        self._accepted = {one: is_one for one, is_one in self._accepted.items() if one in now.sockets}
        waiting = self._waiting(now)
        before = self._before
        if not waiting or before is None or last_sent >= before.began:
            requests: Iterable[int] = ()
        else:
            found = self._requests(before.sockets & now.sockets, now.sockets, accepted)
            if isinstance(found, Blind):
                return found
            # Which thread serves which request cannot be seen: never more requests than threads that wait so.
            requests = sorted(found, key=lambda one: (one not in self._waits, self._held[one]))[:waiting]
        if before is None or now.at - before.at >= LOOKS_APART_S[0]:
            self._before = now
        for one in requests:
            known = self._waits.get(one)
            self._waits[one] = known or Wait(self._held[one], now.at, now.at)
        self._waits = {
            one: Wait(known.held_since, known.first, now.at) if one in now.sockets else known
            for one, known in self._waits.items()
            if now.at - known.last <= KEPT_S
        }
        return Waits(self._since, now.at, tuple(sorted(self._waits.values(), key=lambda one: one.first)))

    def _waiting(self, now: Reading) -> int:
        """Return how many threads have waited so since the look before."""
        before = self._before
        if before is None:
            return 0
        apart = now.at - before.at
        if not LOOKS_APART_S[0] <= apart <= LOOKS_APART_S[1]:
            return 0
        low, high = SWITCHES_PER_S
        return sum(
            low <= (switches - before.futex[thread]) / apart <= high
            for thread, switches in now.futex.items()
            if thread in before.futex
        )

    def _requests(self, asked: frozenset[int], held: frozenset[int], accepted: Accepted) -> list[int] | Blind:
        """Return those of `asked` that are connections of requests."""
        if not asked <= self._accepted.keys():
            found = accepted(held)
            if isinstance(found, Blind):
                return found
            self._accepted |= {one: one in found for one in held}
        return [one for one in asked if self._accepted[one]]
