"""The tables on the terminal, docs/benchmarks.md with its plot, and the lines that README quotes from it."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rig.bench.claims import HEADER, Claim
from rig.bench.samples import Sample

Point = tuple[float, Sample]

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 470, 64, 218, 24, 48
FONT = 'font-family="sans-serif" font-size="12"'
# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#0072b2", "#000000", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
LABEL_PX = 15


@dataclass
class Page:
    """What is printed as it comes, and kept for the file."""

    _parts: list[str] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)

    def say(self, text: str) -> None:
        """A paragraph."""
        print(f"{text}\n", flush=True)
        self._parts.append(text)

    def title(self, text: str) -> None:
        """A heading."""
        print(f"── {text} {'─' * max(0, 100 - len(text))}\n", flush=True)
        self._parts.append(f"## {text}")

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """A table; the first column is text, the others are figures."""
        rows = [tuple(row) for row in rows]
        print(_aligned([tuple(header), *rows]), flush=True)
        lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
        self._parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))

    def picture(self, name: str, caption: str) -> None:
        """A plot that stands beside the page."""
        self._parts.append(f"![{caption}]({name})")

    def verdicts(self) -> None:
        """Every claim with its verdict."""
        rows = [claim.cells for claim in self.claims]
        print(_aligned([HEADER, *rows]), flush=True)
        self._parts.append(verdict_table(self.claims))

    def markdown(self, title: str) -> str:
        """The whole page."""
        return "\n\n".join([f"# {title}", *self._parts]) + "\n"


def verdict_table(claims: Iterable[Claim]) -> str:
    """The claims as a table in Markdown."""
    lines = [HEADER, ("---", "---", "---", "---"), *(claim.cells for claim in claims)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between(text: str, mark: str, new: str) -> str:
    """Replaces what stands between `<!-- MARK -->` and `<!-- /MARK -->`."""
    before, _, rest = text.partition(f"<!-- {mark} -->\n")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    assert end, f"no <!-- {mark} --> ... <!-- /{mark} -->"
    return f"{before}<!-- {mark} -->\n{new}\n{end}{after}"


def ms(sample: Sample | None) -> str:
    """The median in ms, with the quartiles."""
    if sample is None:
        return "-"
    low, high = sample.spread
    digits = 2 if sample.median < 10 else 1 if sample.median < 100 else 0  # noqa: PLR2004 - three digits
    return f"{sample.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def times(sample: Sample | None) -> str:
    """A ratio, with the quartiles."""
    if sample is None:
        return "-"
    low, high = sample.spread
    digits = 2 if sample.median < 10 else 0  # noqa: PLR2004 - three digits
    return f"{sample.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def plot(path: Path, lines: Mapping[str, Sequence[Point]], *, x: str, y: str) -> None:
    """Draws lines with their spread on two logarithmic axes, as an SVG."""
    xs = [at for points in lines.values() for at, _ in points]
    ys = [bound for points in lines.values() for _, sample in points for bound in sample.spread]
    axes = _Axes(min(xs), max(xs), 10 ** math.floor(math.log10(min(ys))), 10 ** math.ceil(math.log10(max(ys))))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {FONT}>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *axes.drawn(sorted(set(xs)), x, y),
    ]
    ends = _apart({name: axes.y(points[-1][1].median) for name, points in lines.items()})
    for (name, points), colour in zip(lines.items(), COLOURS * len(lines), strict=False):
        places = " ".join(f"{axes.x(at):.1f},{axes.y(sample.median):.1f}" for at, sample in points)
        parts.append(f'<polyline points="{places}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for at, sample in points:
            low, high = sample.spread
            place, middle = axes.x(at), axes.y(sample.median)
            parts.append(
                f'<path d="M{place:.1f} {axes.y(low):.1f}V{axes.y(high):.1f}" stroke="{colour}" stroke-width="5" '
                f'stroke-opacity="0.35"/><circle cx="{place:.1f}" cy="{middle:.1f}" r="3" fill="{colour}"/>'
            )
        parts.append(f'<text x="{WIDTH - RIGHT + 12}" y="{ends[name] + 4:.1f}" fill="{colour}">{_escaped(name)}</text>')
    path.write_text("\n".join([*parts, "</svg>", ""]))


@dataclass(frozen=True)
class _Axes:
    x_least: float
    x_most: float
    y_least: float
    y_most: float

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * math.log(value / self.x_least) / math.log(self.x_most / self.x_least)

    def y(self, value: float) -> float:
        return (
            HEIGHT
            - BOTTOM
            - (HEIGHT - TOP - BOTTOM) * math.log(value / self.y_least) / math.log(self.y_most / self.y_least)
        )

    def drawn(self, marks: Iterable[float], x: str, y: str) -> Iterable[str]:
        value = self.y_least
        while value <= self.y_most * 1.001:
            at = self.y(value)
            yield f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#dddddd"/>'
            yield f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
            value *= 10
        for mark in marks:
            at = self.x(mark)
            yield f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eeeeee"/>'
            text = f"{mark:,.0f}".replace(",", " ")
            yield f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>'
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">{_escaped(x)}</text>'
        yield (
            f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" '
            f'text-anchor="middle">{_escaped(y)}</text>'
        )


def _apart(places: Mapping[str, float]) -> dict[str, float]:
    """Moves labels down until none is on another."""
    moved: dict[str, float] = {}
    lowest = -math.inf
    for name, place in sorted(places.items(), key=lambda one: one[1]):
        lowest = moved[name] = max(place, lowest + LABEL_PX)
    return moved


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"
