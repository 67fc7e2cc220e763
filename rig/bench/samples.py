"""Figures with their spread, and measurements that take turns, so that what disturbs one disturbs all."""

import random
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

IN_A_ROW = 10
ROW_MS = 200.0  # what takes long is repeated less often
# What takes longer than this is not repeated more often than it must be: lsof on 200 000 sockets takes 5 s.
DEAR_MS = 300.0


@dataclass(frozen=True)
class Sample:
    """The same thing measured several times, in the order of the rounds."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """What it usually is."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles; least and most where there are fewer than four values."""
        if len(self.values) < 4:  # noqa: PLR2004 - quartiles of three values are the values
            return min(self.values), max(self.values)
        low, _, high = statistics.quantiles(self.values, n=4)
        return low, high

    def over(self, other: "Sample") -> "Sample":
        """The ratio in each round that both took part in."""
        return Sample(tuple(mine / theirs for mine, theirs in zip(self.values, other.values, strict=False)))


@dataclass(frozen=True)
class Contender:
    """One way of doing the same thing. `measure`: does it, and gives the CPU that it took in ms.

    `paired`: it is cheap, and its ratio to the others that are counts: call by call they take turns within a row.
    """

    name: str
    measure: Callable[[], float]
    paired: bool = False


def take_turns(contenders: Sequence[Contender], *, budget_s: float, least: int, most: int) -> dict[str, Sample]:
    """Measures all of them, each for a row once a round and in another order each time: the dear ones `least` times,
    the others for as long as the budget is after that.
    """
    taken: dict[str, list[float]] = {one.name: [] for one in contenders}
    begin, rounds = time.monotonic(), 0
    while rounds < least or (rounds < most and time.monotonic() - begin < budget_s):
        if rounds == least:
            begin = time.monotonic()
        turn = [one for one in contenders if rounds < least or taken[one.name][0] < DEAR_MS]
        pairs = [one for one in turn if one.paired]
        for unit in random.sample(units := [[one] for one in turn if not one.paired] + [pairs], len(units)):
            for name, value in _row(unit).items():
                taken[name].append(value)
        rounds += 1
    return {name: Sample(tuple(values)) for name, values in taken.items() if values}


def _row(unit: Sequence[Contender]) -> dict[str, float]:
    """Medians of several turns in a row, each in another order, without the first.

    That one found the caches as somebody else left them: after lsof the same dump costs up to twice as much, and lsof
    after lsof does not. In a row everyone is measured as by itself.
    """
    first = {one.name: one.measure() for one in unit}
    fitting = int(ROW_MS / max(1.0, sum(first.values())))
    turns = IN_A_ROW if len(unit) > 1 else min(IN_A_ROW, fitting)
    values = [{one.name: one.measure() for one in random.sample(unit, len(unit))} for _ in range(turns)] or [first]
    return {one.name: statistics.median(taken[one.name] for taken in values) for one in unit}


def line_fit(points: Iterable[tuple[float, float]]) -> tuple[float, float, float]:
    """Offset, slope and R^2 of the line with the least relative errors: 200 000 sockets must not outweigh 100."""
    xs, ys = zip(*points, strict=True)
    weights = [1 / (y * y) for y in ys]
    total = sum(weights)
    x0 = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    y0 = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    slope = sum(w * (x - x0) * (y - y0) for w, x, y in zip(weights, xs, ys, strict=True)) / sum(
        w * (x - x0) ** 2 for w, x in zip(weights, xs, strict=True)
    )
    offset = y0 - slope * x0
    rest = sum(w * (y - offset - slope * x) ** 2 for w, x, y in zip(weights, xs, ys, strict=True))
    return offset, slope, 1 - rest / sum(w * (y - y0) ** 2 for w, y in zip(weights, ys, strict=True))
