"""A clock that moves only when it is told to."""

from dataclasses import dataclass

from watchdogd.model.base import Mono


@dataclass
class Clock:
    """CLOCK_MONOTONIC and the wall clock of a world. Call it for the monotonic time."""

    now: Mono = 10_000.0
    wall_at_zero: float = 1_790_000_000.0

    def __call__(self) -> Mono:
        return self.now

    def wall(self) -> float:
        return self.wall_at_zero + self.now

    def move(self, seconds: float) -> None:
        if seconds < 0:
            raise ValueError(f"a clock never goes back: {seconds} s")
        self.now += seconds
