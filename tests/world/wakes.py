"""The wakes of masters in a world of values: what a test says of them."""

from dataclasses import dataclass, field

from watchdogd.model.base import ProcessId
from watchdogd.model.seen import Wakes


@dataclass
class FakeWatched:
    """`known`: what is seen of each master, from when it is watched on."""

    known: dict[ProcessId, Wakes] = field(default_factory=dict)
    watched: list[ProcessId] = field(default_factory=list)

    def watch(self, master: ProcessId) -> None:
        self.watched.append(master)

    def seen(self, master: ProcessId) -> Wakes | None:
        return self.known.get(master) if master in self.watched else None
