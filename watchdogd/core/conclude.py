"""A tick's Findings and Decision: those of the tick before as long as nothing has changed but the time.

Most ticks see nothing new where nothing is wrong; to draw the same conclusion again is then most of what a tick costs
(50 instances: 3 of 4 ms). Pure like what it calls. It must never keep a conclusion while anything is going on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from watchdogd.config import Config
from watchdogd.core.detect import detect
from watchdogd.core.phases import QUIET
from watchdogd.core.tick import decide
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.decided import Decision
from watchdogd.model.found import Finding
from watchdogd.model.remembered import State
from watchdogd.model.seen import Snapshot

Conclusion = tuple[Mapping[InstanceId, Finding], Decision]


class Conclusions:
    """Draws them, and keeps the last one that nothing came of."""

    def __init__(self) -> None:
        self._kept: Conclusion | None = None
        self._until: Mono = math.inf
        self._by: tuple[State, Config] | None = None
        self._seen = Snapshot(at=0.0, wall=0.0)

    def draw(self, state: State, snapshot: Snapshot, config: Config) -> Conclusion:
        """Return what the snapshot means and what to do, by what is remembered."""
        if self._kept and self._still_holds(state, snapshot, config):
            return self._kept
        findings = detect(snapshot, config)
        decision = decide(state, findings, snapshot, config)
        self._kept = (findings, decision) if _is_rest(state, decision) else None
        self._until = math.inf if decision.wake_at is None else decision.wake_at
        self._by, self._seen = (decision.state, config), snapshot
        return findings, decision

    def _still_holds(self, state: State, snapshot: Snapshot, config: Config) -> bool:
        """Say whether it was drawn by the same, and it is not yet the time for anything.

        By identity: observe gives the same members, instances and connections until it reads them anew.
        """
        seen = self._seen
        return (
            snapshot.members is seen.members
            and snapshot.instances is seen.instances
            and snapshot.connections is seen.connections
            and snapshot.blind == seen.blind
            and snapshot.degraded == seen.degraded
            and not (snapshot.outcomes or snapshot.requests)
            and snapshot.at < self._until
            and self._by is not None
            and self._by[0] is state
            and self._by[1] is config
        )


def _is_rest(before: State, decision: Decision) -> bool:
    """Say whether nothing came of it, and nothing is going on: then only the time, or something new, changes it."""
    at_rest = all(one.phase in QUIET and one.reload is None for one in before.instances.values())
    at_rest = at_rest and not any(one.suspected for one in decision.outlooks.values())
    return at_rest and not decision.effects and not decision.faults and decision.state == before
