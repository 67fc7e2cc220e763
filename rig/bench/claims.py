"""What must hold, each line with what was measured and its verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Relation = Literal["<=", ">="]


@dataclass(frozen=True)
class Claim:
    """One line: what it says, its limit, and the worst of what was measured; `why_not`: it could not be measured."""

    what: str
    limit: float
    unit: str
    measured: float | None
    relation: Relation = "<="
    where: str = ""
    why_not: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether it holds; None where it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.limit if self.relation == "<=" else self.measured >= self.limit

    @property
    def verdict(self) -> str:
        """The verdict with its margin."""
        if self.measured is None:
            return f"not measured: {self.why_not}"
        missing = abs(self.measured - self.limit)
        share = f" ({missing / self.limit:.0%})" if self.limit else ""
        if self.holds:
            return "holds"
        return f"DOES NOT HOLD, by {figure(missing)}{_space(self.unit)}{share}"

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """The line as the cells of a table."""
        sign = {"<=": "≤", ">=": "≥"}[self.relation]
        measured = "" if self.measured is None else f"{figure(self.measured)}{_space(self.unit)}"
        return (
            self.what,
            f"{sign} {figure(self.limit)}{_space(self.unit)}",
            f"{measured} {self.where}".strip(),
            self.verdict,
        )


HEADER = ("what must hold", "limit", "measured, the worst", "verdict")


def worst(candidates: Iterable[tuple[float, str]], relation: Relation = "<=") -> tuple[float | None, str]:
    """The value that is nearest to breaking the claim, with where that was."""
    known = sorted(candidates, reverse=relation == "<=")
    return known[0] if known else (None, "")


def figure(value: float) -> str:
    """Three digits that matter."""
    if value == 0 or abs(value) >= 100:  # noqa: PLR2004 - from 100 on the point is noise
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _space(unit: str) -> str:
    return f" {unit}" if unit else ""
