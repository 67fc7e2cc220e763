"""A place where events are told, in a world of values: it keeps each of them, or raises while it is `broken`."""

from dataclasses import dataclass, field

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
