"""A place where events are told, in a world of values: it keeps each of them, or raises while it is `broken`."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from watchdogd.config import Config
from watchdogd.model.base import InstanceId
from watchdogd.model.decided import Decision
from watchdogd.model.found import Finding
from watchdogd.model.seen import Snapshot
from watchdogd.model.told import Tell


@dataclass
class FakeSink:
    """Stands for any `watchdogd.report.sinks.Sink`."""

    name: str
    told: list[tuple[Tell, float]] = field(default_factory=list)
    broken: bool = False

    def tell(self, tell: Tell, wall: float) -> None:
        if self.broken:
            raise RuntimeError(f"a bug in {self.name}")
        self.told.append((tell, wall))


@dataclass
class FakeKeeper(FakeSink):
    """Stands for any `watchdogd.report.sinks.Keeper`."""

    deaf: str | None = None
    looked: list[tuple[Snapshot, Decision]] = field(default_factory=list)
    flushed: int = 0

    def look(
        self, snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config
    ) -> None:
        self._may_break()
        self.looked.append((snapshot, decision))

    def flush(self) -> None:
        self._may_break()
        self.flushed += 1

    def _may_break(self) -> None:
        if self.broken:
            raise RuntimeError(f"a bug in {self.name}")
