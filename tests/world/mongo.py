"""Members of a deployment in a world of values, as heartbeats would show them to somebody who watched all the time."""

import math
from dataclasses import dataclass, field

from tests.world.clock import Clock
from watchdogd.model.base import Endpoint, Incarnation, Interval, MemberId, Mono
from watchdogd.model.seen import Member, MemberState

HEARTBEAT_S = 0.5


@dataclass(eq=False)
class Mongod:
    """One member. `primary` is also what a standalone is. `without_ids`: mongod 4.2 or a proxy."""

    clock: Clock
    id: MemberId
    endpoint: Endpoint
    primary: bool = True
    without_ids: bool = False
    state: MemberState = MemberState.UP
    life: int = 1
    born: Mono = 0.0
    up_from: Mono = 0.0
    served_from: Mono = 0.0
    outages: list[Interval] = field(default_factory=list)
    watched_from: Mono = 0.0

    @property
    def is_serving(self) -> bool:
        return self.state is MemberState.UP and self.primary

    @property
    def incarnation(self) -> Incarnation:
        if self.without_ids:
            ups = sum(1 for outage in self.outages if outage.hi != math.inf)
            return Incarnation(f"{self.id.address}@{ups}")
        return Incarnation(f"{self.id.address}#{self.life}")

    def stop(self, state: MemberState = MemberState.DOWN) -> None:
        """Begin an outage: DOWN ends the process, FROZEN keeps it."""
        if self.state is MemberState.UP:
            self.outages.append(Interval(self.clock.now - HEARTBEAT_S, math.inf))
        self.state = state

    def start(self) -> None:
        """End an outage; what was DOWN is another process now."""
        now = self.clock.now
        if self.state is MemberState.DOWN:
            self.life, self.born = self.life + 1, now
        if self.outages and self.outages[-1].hi == math.inf:
            self.outages[-1] = Interval(self.outages[-1].lo, now)
        self.state, self.up_from, self.served_from = MemberState.UP, now, now

    def restart(self) -> None:
        """Restart faster than any heartbeat."""
        now = self.clock.now
        self.outages.append(Interval(now - HEARTBEAT_S, now))
        self.life, self.born, self.up_from, self.served_from = self.life + 1, now, now, now

    def promote(self, *, primary: bool) -> None:
        if primary and not self.primary:
            self.served_from = self.clock.now
        self.primary = primary

    def forget(self) -> None:
        """Whoever watched begins anew: all that it saw is lost."""
        self.watched_from = self.clock.now
        self.outages = [] if self.state is MemberState.UP else [Interval(-math.inf, math.inf)]

    def _served_since(self) -> Interval:
        if self.watched_from <= self.served_from:
            return Interval(self.served_from, self.served_from)
        return Interval(self.born, self.watched_from)  # for who began to watch later

    def view(self) -> Member:
        return Member(
            id=self.id,
            state=self.state,
            is_serving=self.is_serving,
            incarnation=self.incarnation,
            process_id=None if self.without_ids else f"{self.id.address}#{self.life}",
            born=None if self.without_ids else Interval(self.born, self.born + HEARTBEAT_S),
            up_since=Interval(self.born, max(self.born, self.watched_from)),
            served_since=self._served_since() if self.is_serving else None,
            outages=tuple(self.outages[-8:]),
            endpoints=frozenset({self.endpoint}),
        )
