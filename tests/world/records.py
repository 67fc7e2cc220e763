"""A history that keeps the records of a scripted world, on a real folder."""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.world.schemas import strict
from tests.world.watch import Turn
from tests.world.world import World
from watchdogd.config import HistoryConfig
from watchdogd.model.told import Tell
from watchdogd.report.history import History
from watchdogd.report.record import FOLDER
from watchdogd.report.sinks import Sinks

RECORD = strict("record")


@dataclass(eq=False)
class Records:
    """The sink beside a world's daemon: it gets what `service.daemon` gives it, in that order.

    `news`: what is told of members in the next tick.
    """

    folder: Path
    world: World
    news: list[Tell] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.restart()
        self.world.daemon.check = self._turn

    def restart(self) -> None:
        """Another daemon keeps it from now on."""
        self.history = History(self.folder)
        self.sinks = Sinks(self.history)

    def keep(self, seconds: float) -> None:
        """Change the configuration."""
        self.world.daemon.config = replace(self.world.daemon.config, history=HistoryConfig(seconds))

    def tell(self, tell: Tell) -> None:
        """Something is told of nobody."""
        self.sinks.tell(tell, self.world.clock.wall())

    def _turn(self, turn: Turn) -> None:
        snapshot = replace(turn.snapshot, news=tuple(self.news))
        self.sinks.look(snapshot, turn.findings, turn.decision, self.world.daemon.config)
        for effect in (*self.news, *turn.performed):
            if isinstance(effect, Tell):
                self.sinks.tell(effect, turn.snapshot.wall)
        self.news.clear()
        self.sinks.flush()

    @property
    def files(self) -> list[Path]:
        return sorted((self.folder / FOLDER).glob("*")) if (self.folder / FOLDER).exists() else []

    def lines(self, number: int = 0) -> list[dict[str, Any]]:
        """The lines of one of them, each of the shipped schema."""
        lines = [json.loads(line) for line in self.files[number].read_bytes().splitlines()]
        for line in lines:
            RECORD.validate(line)
        return lines

    def told(self, number: int = 0) -> list[str]:
        """The events in one of them."""
        return [line["told"]["event"] for line in self.lines(number) if "told" in line]
