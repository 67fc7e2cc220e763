"""Heartbeats that a world of values makes: a member is heard when the test says so.

It stands for `watchdogd.observe.mongod.heartbeats.PymongoHeartbeats`; tests/integration/test_mongod.py runs the same
assertions on both.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from watchdogd.model.base import MemberId, Mono
from watchdogd.observe.mongod.heartbeats import Heartbeat


@dataclass
class FakeHeartbeats:
    """What each member says now, and what of that was heard and not yet taken."""

    wake: Callable[[], None] = lambda: None
    watched: dict[MemberId, Mapping[str, object]] = field(default_factory=dict)
    heard: list[Heartbeat] = field(default_factory=list)
    said: dict[MemberId, Heartbeat] = field(default_factory=dict)

    def say(self, heartbeat: Heartbeat) -> None:
        """The member says this from now on; it is heard if it is watched, and wakes if it is news."""
        news = not heartbeat.says_the_same(self.said.get(heartbeat.member))
        self.said[heartbeat.member] = heartbeat
        if heartbeat.member in self.watched:
            self.heard.append(heartbeat)
            if news:
                self.wake()

    def beat(self, at: Mono) -> None:
        """Every member that has said something says it once more, as each does twice a second."""
        for heartbeat in tuple(self.said.values()):
            self.say(replace(heartbeat, at=at))

    # -- the edge

    def watch(self, targets: Mapping[MemberId, Mapping[str, object]]) -> None:
        begun = targets.keys() - self.watched.keys()
        self.watched = dict(targets)
        for heartbeat in [self.said[member] for member in begun if member in self.said]:
            self.heard.append(heartbeat)
            self.wake()

    def drain(self) -> list[Heartbeat]:
        heard, self.heard = self.heard, []
        return [heartbeat for heartbeat in heard if heartbeat.member in self.watched]

    def close(self) -> None:
        self.watch({})
