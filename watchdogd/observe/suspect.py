"""What is read of one instance only while something is wrong with it: how many threads its workers have, whether their
requests (the tasks of its mules) wait for a server or their driver's monitor runs, and the dead sockets of which nobody
knows where they led.

Nothing of this is read at rest. A worker whose threads all wait for requests costs 5 us a look, one that has a thread
in a futex 4 us more for each descriptor. It must never decide anything, and what it cannot see it says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

from watchdogd.model.base import Mono, ProcessId
from watchdogd.model.seen import Blind, Connection, DeadSocket, Member, Tcp, Waits, Worker
from watchdogd.observe.dead import DeadSockets
from watchdogd.observe.monitors import monitored
from watchdogd.observe.processes import Processes
from watchdogd.observe.tcp.sockets import Sockets
from watchdogd.observe.waits import TASK, Reading, WorkerWaits

W = TypeVar("W", bound=Worker)


class Started(NamedTuple):
    """What a master has started. `others`: what is neither a worker nor a mule."""

    workers: tuple[Worker, ...]
    mules: tuple[Worker, ...]
    others: tuple[ProcessId, ...]


class Around(NamedTuple):
    """What the rest of a look has seen, and how more is asked.

    `began`: when the look began: what was sent later than at the one before was sent in between. `held`: the
    connections to members by who holds them. `table`: how to come to the sockets of the instance's network namespace.
    """

    began: Mono
    held: Mapping[ProcessId, list[Connection]]
    members: Collection[Member]
    table: Callable[[], Sockets]


OFF_SWITCHES_PER_S = (150.0, 210.0)
OFF_LOOKS = 3
OFF_APART_S = 0.5


class MasterThreads:
    """The threads of a master. `off`: they were seen to wait for the GIL for ever, as without `enable-threads`.

    Before uWSGI 2.0.27 that is the default. The master keeps the GIL then, and every thread that the app started in it
    wakes 195 to 198 times a second to see that (3 of 3 masters each; 2.0 times where threads run).
    """

    def __init__(self) -> None:
        self._before: tuple[Mono, dict[int, int | None]] | None = None
        self._looks = 0

    @property
    def off(self) -> bool:
        """Whether that was seen in several looks."""
        return self._looks >= OFF_LOOKS

    def fold(self, threads: dict[int, int | None], at: Mono) -> None:
        """Take one look: of each thread in a futex how often it was switched away of its own will."""
        before = self._before
        if before is not None and at - before[0] < OFF_APART_S:
            return
        # The master's own waits elsewhere. Another one is just running, as in 16 of 400 looks at 4 threads at a load of
        # 22 on two cores: no evidence either way.
        if sum(now is None for now in threads.values()) > 1:
            return
        self._before = at, threads
        if before is None or self.off:
            return
        apart = at - before[0]
        rates = [
            (now - known) / apart
            for thread, now in threads.items()
            if now is not None and (known := before[1].get(thread)) is not None
        ]
        low, high = OFF_SWITCHES_PER_S
        in_vain = sum(low <= rate <= high for rate in rates)
        # The master's own is the one that does not wait for it.
        self._looks = self._looks + 1 if len(threads) > 1 and in_vain >= len(threads) - 1 else 0


class Suspect:
    """One suspected instance. `unseen`: why not all of it can be seen; empty where it can."""

    def __init__(self, processes: Processes, clock: Callable[[], Mono]) -> None:
        self._processes = processes
        self._clock = clock
        self._workers: dict[ProcessId, WorkerWaits] = {}
        self._waits: dict[ProcessId, Waits] = {}
        self._waited: set[ProcessId] = set()
        self._threads: dict[ProcessId, int] = {}
        self._monitored: dict[ProcessId, dict[str, Mono]] = {}
        self._dead = DeadSockets(processes)
        self.master_threads: int | None = None
        self._master = MasterThreads()
        self.unseen = ""

    @property
    def threads_off(self) -> bool:
        """Whether the master's Python threads were seen to never run."""
        return self._master.off

    @property
    def dead(self) -> tuple[DeadSocket, ...]:
        """The dead sockets of unknown origin."""
        return self._dead.found

    def read(
        self,
        master: ProcessId,
        started: Started,
        deployments: Container[str],
        around: Around,
    ) -> None:
        """Look at the mules, at the workers that are ready, and at what all hold together.

        `deployments`: those that the instance uses.
        """
        workers, tasked = started.workers, frozenset([one.id for one in started.mules])
        members = [member for member in around.members if member.id.deployment in deployments]
        ready = [*(worker.id for worker in workers if worker.ready), *sorted(tasked)]
        self._workers = {process: self._workers.get(process) or WorkerWaits() for process in ready}
        self._monitored = {process: self._monitored.get(process, {}) for process in ready}
        self._waits, self._threads, self.unseen = {}, {}, ""
        for process in ready:
            reached = monitored(process, around.held.get(process, ()), members, around.began)
            self._monitored[process] = {**self._monitored[process], **dict.fromkeys(reached, around.began)}
            read = self._read(process, around, has_tasks=process in tasked)
            if isinstance(read, Blind):
                self.unseen = read.why
            elif read:
                self._waits[process] = read
        self._waited = (self._waited & set(ready)) | {one for one, waits in self._waits.items() if waits.requests}
        its_threads = self._processes.threads(master.pid)
        if isinstance(its_threads, Blind):
            self.unseen = its_threads.why
        self.master_threads = None if isinstance(its_threads, Blind) else len(its_threads) or None
        if not isinstance(its_threads, Blind):
            self._master.fold(its_threads, self._clock())
        every = [master, *started.others, *tasked, *(worker.id for worker in workers)]
        known = {one.inode for process in every for one in around.held.get(process, ())}
        if blind := self._dead.read(every, known, lambda sockets: around.table().missing(sockets), around.began):
            self.unseen = blind.why

    def _read(self, process: ProcessId, around: Around, *, has_tasks: bool) -> Waits | Blind | None:
        at = self._clock()
        threads = self._processes.threads(process.pid)
        if isinstance(threads, Blind):
            return threads
        if not threads:  # it has ended
            return None
        self._threads[process] = len(threads)
        futex = {thread: switches for thread, switches in threads.items() if switches is not None}
        held = around.held.get(process, ())
        if has_tasks:
            # With more threads nobody can see which one does the task.
            inodes = frozenset({TASK}) if futex and len(threads) == 1 else frozenset()
        else:
            # Most workers wait for a request, in epoll_wait: what they hold does not matter.
            sockets = self._processes.descriptors(process.pid) if futex else {}
            if isinstance(sockets, Blind):
                return sockets
            inodes = frozenset(sockets.values()).difference([one.inode for one in held])
        own = [one for one in held if one.tcp is Tcp.ESTABLISHED and one.holders == {process}]
        last_sent = max([one.last_sent.hi for one in own], default=-math.inf)
        return self._workers[process].fold(
            Reading(around.began, at, futex, inodes),
            last_sent,
            lambda held: held if has_tasks else around.table().accepted(held),
        )

    def seen(self, workers: Iterable[W]) -> tuple[W, ...]:
        """Return the workers, or the mules, with what was seen of them here."""
        return tuple(
            [
                replace(
                    worker,
                    waits=self._waits.get(worker.id),
                    waited=worker.id in self._waited,
                    threads=self._threads.get(worker.id, worker.threads),
                    monitored_at=self._monitored.get(worker.id),
                )
                for worker in workers
            ]
        )
