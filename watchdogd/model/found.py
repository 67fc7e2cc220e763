"""What is found: what one instance's part of a Snapshot means."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from watchdogd.model.base import Incarnation, InstanceId, Mono, ProcessId


class Verdict(enum.Enum):
    """What a worker's connections say of it."""

    LOADING = "loading"
    CLEAR = "clear"  # holds no leftover
    RECONNECTED = "reconnected"  # has had an own connection since; its leftovers are residue, harmless
    IDLE = "idle"  # holds a leftover and has not used MongoDB since
    STRANDED = "stranded"  # used since, and no own connection


@dataclass(frozen=True, slots=True)
class Finding:
    """What one instance's part of a Snapshot means. Times are instants, not durations.

    `leftovers`: cookies that a worker holds and an outage ended; `unexplained`: CLOSE_WAIT without an outage.
    `counted`: how many of the leftovers each process holds. `due`: the workers that a reload is for; `due_at`: when
    `linger` is over for them, None while none is due, and `waiting_for` says in words what for.
    `inherited`: those leftovers of due workers that the master holds too. `concerned`: the deployments that leftovers
    of due workers led to. `served`: the incarnations that serve now, by deployment; `incarnations` are all of them.
    `fork_unsafe`: why a fork would carry a broken client along, None when it is safe; `fork_safe_at` when it will be,
    where that is known; `fork_unsafe_since` since when the master has been without a connection. `fault`: why nothing
    could be found.
    """

    instance: InstanceId
    leftovers: frozenset[int] = frozenset()
    unexplained: frozenset[int] = frozenset()
    verdicts: Mapping[ProcessId, Verdict] = field(default_factory=dict)
    counted: Mapping[ProcessId, int] = field(default_factory=dict)
    due: frozenset[ProcessId] = frozenset()
    due_at: Mono | None = None
    waiting_for: str = ""
    inherited: frozenset[int] = frozenset()
    serves: bool = False
    served_since: Mono | None = None
    outage: bool = False
    incarnations: frozenset[Incarnation] = frozenset()
    served: Mapping[str, frozenset[Incarnation]] = field(default_factory=dict)
    concerned: frozenset[str] = frozenset()
    fork_unsafe: str | None = None
    fork_safe_at: Mono | None = None
    fork_unsafe_since: Mono | None = None
    fault: str | None = None
