"""Folds readings of processes into workers and mules that carry their own `since`: ready, used, hung, reached.

This module must never decide anything, and neither reads nor knows a clock: times come with the readings.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from watchdogd.model.base import Endpoint, Incarnation, Interval, Mono, ProcessId
from watchdogd.model.seen import MULE_ROLES, Connection, Member, MemberState, Mule, Role, Tcp, Worker
from watchdogd.observe.hung import Waiting
from watchdogd.observe.locks import Wait
from watchdogd.observe.processes import Process

READY_SETTLED_S = 1.0
"""A worker goes on waking up for an instant after it is ready; what it does in its first second is not a request."""


def is_own(connection: Connection, worker: ProcessId, member: Member) -> bool:
    """Say whether it is an own connection: to a serving member, of this worker alone, used since that serves again."""
    return (
        connection.tcp is Tcp.ESTABLISHED
        and connection.holders == {worker}
        and member.state is MemberState.UP
        and member.is_serving
        and member.served_since is not None
        and connection.last_data.hi >= member.served_since.lo
    )


@dataclass(slots=True)
class _WorkerTrack:
    worker: Worker
    baseline: int | None = None
    outages: object = None
    held: bool = False
    waiting: Waiting = field(default_factory=Waiting)

    def loads(self, wait: Wait | None, before: Mono, at: Mono) -> None:
        """Take a look at it while it is not ready: nothing that was seen of it before is true of what it will be."""
        waiting = self.waiting
        waiting.fold(wait, before, at)
        self.worker = Worker(
            self.worker.id,
            threads=wait.threads if wait else None,
            ignores_hup=wait.ignores_hup if wait else None,
            hung=waiting.hung,
            unjudged=waiting.unjudged,
        )
        self.baseline = None

    def looks_at_its_wait(self, wait: Wait | None, before: Mono, at: Mono) -> None:
        """Take what a mule waits for: it is ready from the first look on, and may hang all the same."""
        waiting = self.waiting
        waiting.fold(wait, before, at)
        self.worker = replace(self.worker, hung=waiting.hung, unjudged=waiting.unjudged)

    def is_ready(self, since: Interval) -> None:
        """It was not at the look before."""
        self.waiting = Waiting()
        self.worker = replace(self.worker, ready_since=since, threads=None, ignores_hup=None, hung=None, unjudged="")


class Workers:
    """The workers of one master: since when they are ready, whether they worked since the outage, whom they reached."""

    roles: tuple[Role, ...] = (Role.LOADING, Role.READY)

    def __init__(self) -> None:
        self._tracks: dict[ProcessId, _WorkerTrack] = {}
        self._looked_at: Mono = -math.inf

    def now(self) -> tuple[Worker, ...]:
        """Return every worker as it is known now, by pid."""
        return tuple([self._tracks[process].worker for process in sorted(self._tracks)])

    def suspected(self) -> bool:
        """Say whether one of them may hang, and looks that follow soon would prove it."""
        return any(track.waiting.suspected for track in self._tracks.values())

    def fold(self, processes: Iterable[Process], at: Mono, outages: object) -> None:
        """Take one reading of the processes; `outages` changes whenever an outage begins.

        `used` counts from the outage's first look on. One that was already without a connection keeps its mark; one
        that was well (reconnected, or holding nothing) starts anew.
        """
        workers = {p.id: p for p in processes if p.role in self.roles}
        for gone in self._tracks.keys() - workers.keys():
            del self._tracks[gone]
        for process in workers.values():
            track = self._tracks.setdefault(process.id, _WorkerTrack(_first_seen(process), outages=outages))
            if process.role is Role.LOADING:
                track.loads(process.wait, self._looked_at, at)
                continue
            if not track.worker.ready:
                track.is_ready(Interval(self._looked_at, at))
            if process.role in MULE_ROLES:
                track.looks_at_its_wait(process.wait, self._looked_at, at)
            worker = track.worker
            if outages != track.outages:
                track.outages = outages
                if worker.reconnected or not track.held:
                    track.baseline, worker = None, replace(worker, used=None)
            # One that was there before our first look has been ready for longer.
            ready = worker.ready_since
            settled = ready is not None and (ready.lo == -math.inf or at - ready.hi >= READY_SETTLED_S)
            if track.baseline is None or not settled:
                track.baseline = process.io
            elif worker.used is None and process.io != track.baseline:
                worker = replace(worker, used=Interval(self._looked_at, at))
            track.worker = worker
        self._looked_at = at

    def connect(
        self,
        connections: Iterable[Connection],
        members: Mapping[Endpoint, list[Member]],
        stale: Callable[[Incarnation], bool],
    ) -> None:
        """Latch the incarnations that each worker has an own connection to; drop those that `stale` says are over."""
        reached: dict[ProcessId, Counter[Incarnation]] = defaultdict(Counter)
        held: set[ProcessId] = set()
        alone: set[ProcessId] = set()
        for connection in connections:
            if connection.tcp is not Tcp.ESTABLISHED:
                held |= connection.holders
            if len(connection.holders) != 1:
                continue
            (holder,) = connection.holders
            if not connection.shared:
                alone.add(holder)
            # Several names of one mongod share its incarnation: a connection counts once.
            for incarnation in {
                member.incarnation
                for member in members.get(connection.remote, ())
                if member.incarnation is not None and is_own(connection, holder, member)
            }:
                reached[holder][incarnation] += 1
        for process, track in self._tracks.items():
            track.held = process in held
            known, counted = track.worker, reached[process]
            twice = (one for one, count in counted.items() if count > 1)
            reconnected = frozenset(one for one in known.reconnected if not stale(one)).union(counted)
            monitored = frozenset(one for one in known.monitored if not stale(one)).union(twice)
            owned = known.owned or process in alone
            if (reconnected, monitored, owned) != (known.reconnected, known.monitored, known.owned):
                track.worker = replace(known, reconnected=reconnected, monitored=monitored, owned=owned)


class Mules(Workers):
    """The mules and spoolers of one master: the same of them."""

    roles = MULE_ROLES

    def mules(self) -> tuple[Mule, ...]:
        """Return every one as it is known now, by pid."""
        return tuple([one for one in self.now() if isinstance(one, Mule)])


def _first_seen(process: Process) -> Worker:
    return Mule(process.id, role=process.role) if process.role in MULE_ROLES else Worker(process.id)
