"""What is found: what one instance's part of a Snapshot means."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from watchdogd.model.base import Incarnation, InstanceId, Mono, ProcessId
from watchdogd.model.seen import Connection


class Verdict(enum.Enum):
    """What a worker's connections say of it."""

    LOADING = "loading"
    CLEAR = "clear"  # holds no leftover
    RECONNECTED = "reconnected"  # has had an own connection since; its leftovers are residue, harmless
    IDLE = "idle"  # holds a leftover and has not used MongoDB since
    STRANDED = "stranded"  # used since, and no own connection
    BYSTANDER = "bystander"  # holds a leftover, and was never seen to use MongoDB: mules may do that for it


@dataclass(frozen=True, slots=True)
class Left:
    """A leftover, with the deployment that it led to."""

    connection: Connection
    deployment: str


class Kind(enum.Enum):
    """The kinds of evidence. core/evidence has one file for each, with what it rests on."""

    LEFTOVER = "leftover"
    WAITING = "waiting"
    ORPHANED = "orphaned"
    BORN_EARLY = "born_early"
    HUNG = "hung"
    UNCONNECTED = "unconnected"
    MULE = "mule"
    UNANSWERED = "unanswered"


class Cure(enum.Enum):
    """What ends it. core/due.py chooses the command."""

    RELOAD = "reload"  # of the workers: `w` or `c`
    RESTART = "restart"  # `r` alone: the master itself is part of it
    END = "end"  # SIGKILL of that process


@dataclass(frozen=True, slots=True)
class Evidence:
    """One reason to believe that one worker is stuck. `worker`: which process; a mule or a spooler where it is one.

    `since`: when it began. `ripe_at`: from when on it counts; None while it waits for something else than time.
    `sentence`: what a person reads of it. `deployments`: what the worker cannot reach.
    """

    kind: Kind
    worker: ProcessId
    since: Mono
    ripe_at: Mono | None
    sentence: str
    deployments: frozenset[str]
    cure: Cure = Cure.RELOAD


@dataclass(frozen=True, slots=True)
class Fork:
    """Whether the master may fork now.

    `unsafe`: why a fork would carry a broken client along, None when it is safe. `safe_at`: when it will be, where that
    is known. `unsafe_since`: since when the master has been without a connection.
    """

    unsafe: str | None = None
    safe_at: Mono | None = None
    unsafe_since: Mono | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What one instance's part of a Snapshot means. Times are instants, not durations.

    `leftovers`: cookies that a worker holds and an outage ended; `unexplained`: CLOSE_WAIT without an outage.
    `counted`: how many of the leftovers each process holds. `served`: the incarnations that serve now, by deployment.
    `is_serving`: every deployment of it serves; `served_since`: since when, without a break. `outage`: one of them is
    known not to serve. `suspected_until`: until when there is reason to look closer, infinity as long as there is
    evidence that only closer looks show. `fault`: why nothing could be found.
    """

    instance: InstanceId
    leftovers: frozenset[int] = frozenset()
    unexplained: frozenset[int] = frozenset()
    verdicts: Mapping[ProcessId, Verdict] = field(default_factory=dict)
    counted: Mapping[ProcessId, int] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    is_serving: bool = False
    served_since: Mono | None = None
    outage: bool = False
    served: Mapping[str, frozenset[Incarnation]] = field(default_factory=dict)
    fork: Fork = Fork()
    suspected_until: Mono = -math.inf
    fault: str | None = None

    @property
    def incarnations(self) -> frozenset[Incarnation]:
        """All that serve now."""
        return frozenset().union(*self.served.values())
