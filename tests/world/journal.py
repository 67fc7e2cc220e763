"""A journal in a world of values: it keeps what is told, and makes every sentence as the real one does."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from watchdogd.model import Event, Tell
from watchdogd.report.events import sentence


@dataclass
class FakeJournal:
    """Stands for `watchdogd.report.journal.Journal`."""

    told: list[Tell] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def tell(self, tell: Tell, wall: float) -> None:
        self.told.append(tell)
        self.lines.append(f"{wall:.3f} {sentence(tell)}")

    def events(self, instance: str | None = None) -> Sequence[Event]:
        """What was told, in order; of one instance where one is named."""
        return [tell.event for tell in self.told if instance is None or tell.instance == instance]
