"""What the looks come to: a table for each host, the ratios, the fit, the plot, and what must hold of them."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rig.bench import rivals
from rig.bench.claims import Claim, Relation, worst
from rig.bench.looks import BASE, C_FULL, FULL, FULL_FEW, HOLDERS, NEW, QUIET, QUIET_FEW, Cell, Measured
from rig.bench.page import Page, ms, plot, times
from rig.bench.samples import line_fit
from rig.bench.sites import Load

SMALL = 100
"""Below 1 000 sockets the kernel's part is so small that Python's own shows."""

NAMES = (
    *(QUIET, QUIET_FEW, HOLDERS, FULL, FULL_FEW, NEW, rivals.C_DUMP, C_FULL),
    *(rivals.PROC_PARSE, rivals.SS, rivals.PSUTIL, rivals.LSOF),
)
CLOSING = Load(closing=64)


def tell(cells: Sequence[Measured], page: Page, picture: Path | None) -> None:
    """Adds all of it to the page."""
    for load in dict.fromkeys(one.cell.load for one in cells):
        _table([one for one in cells if one.cell.load == load], load, page)
    _ratios([one for one in cells if one.cell.load == BASE], page)
    if picture is not None:
        quiet = {one.cell.sockets: one for one in cells if one.cell.load == BASE}
        shown = [name for name in NAMES if name not in {NEW, C_FULL, HOLDERS}]
        lines = {
            name: [(size, one.samples[name]) for size, one in sorted(quiet.items()) if name in one.samples]
            for name in shown
        }
        drawn = {name: points for name, points in lines.items() if points}
        plot(picture, drawn, x="unrelated sockets on the host", y="CPU of one observation, ms")
        page.picture(picture.name, "CPU of one observation by the number of sockets on the host")
    page.claims += [*_against_c(cells), *_against_tools(cells), *_of_descriptors(cells), *_growth(cells, page)]


def _table(cells: Sequence[Measured], load: Load, page: Page) -> None:
    what = f"{load.closing} CLOSE_WAIT, {load.established} ESTABLISHED, {load.descriptors} descriptors in each worker"
    page.say(f"{what}: CPU in ms, median (quartiles), by the number of unrelated sockets")
    names = [name for name in NAMES if any(name in one.samples for one in cells)]
    page.table(
        ["", *(_size(one.cell) for one in cells)],
        [[name, *(ms(one.samples.get(name)) for one in cells)] for name in names],
    )
    for name, why in {name: why for one in cells for name, why in one.skipped.items()}.items():
        page.say(f"{name}: not measured: {why}")


def _ratios(cells: Sequence[Measured], page: Page) -> None:
    page.say(
        "Each tool in units of our quiet look, and what nobody can go below, the dump in C: "
        "median (quartiles) of the rounds' ratios"
    )
    pairs = [
        *((name, QUIET) for name in (rivals.LSOF, rivals.PSUTIL, rivals.SS, rivals.PROC_PARSE)),
        *((name, rivals.C_DUMP) for name in (QUIET, rivals.LSOF, rivals.SS)),
    ]
    page.table(
        ["", *(_size(one.cell) for one in cells)],
        [[f"{name} / {to}", *(times(one.ratio(name, to)) for one in cells)] for name, to in pairs],
    )


def _against_c(cells: Sequence[Measured]) -> Iterator[Claim]:
    small = [one for one in cells if one.cell.sockets <= SMALL]
    large = [one for one in cells if one.cell.sockets > SMALL]
    pair = (QUIET, rivals.C_DUMP)
    yield _claim("a quiet look / the same dump in C, from 1 000 sockets up", 1.2, large, pair)
    yield _claim("the same at 100 sockets", 1.6, small, pair)
    holding = [one for one in cells if one.cell == Cell(1_000, CLOSING)]
    yield _claim(
        "64 CLOSE_WAIT with all holders / the same dump in C, 1 000 sockets", 4, holding, (HOLDERS, rivals.C_DUMP)
    )


def _against_tools(cells: Sequence[Measured]) -> Iterator[Claim]:
    for name, limit in ((rivals.LSOF, 100), (rivals.SS, 20)):
        yield _claim(f"{name} / a quiet look, at every size", limit, cells, (name, QUIET), ">=")


def _claim(what: str, limit: float, cells: Sequence[Measured], of: tuple[str, str], relation: Relation = "<=") -> Claim:
    name, to = of
    ratios = [(ratio.median, _place(one.cell)) for one in cells if (ratio := one.ratio(name, to))]
    measured, where = worst(ratios, relation)
    why = next((why for one in cells for why in one.skipped.values()), "no such host was measured")
    return Claim(what, limit, "x", measured, relation, where, why)


def _of_descriptors(cells: Sequence[Measured]) -> Iterator[Claim]:
    """Looks at workers with 2 000 descriptors, and with 20, on the same host and in the same rounds."""
    for name, few in ((QUIET, QUIET_FEW), (FULL, FULL_FEW)):
        yield _claim(f"{name}: 2 000 / 20 descriptors in each worker", 1.1, cells, (name, few))


def _growth(cells: Sequence[Measured], page: Page) -> Iterator[Claim]:
    """How both grow with the sockets of the host: a line is the kernel's walk, and its slope is per socket."""
    fits = {}
    for name in (QUIET, rivals.C_DUMP):
        points = [
            (one.cell.sockets, one.samples[name].median)
            for one in cells
            if one.cell.load == BASE and name in one.samples
        ]
        if len(points) > 2:  # noqa: PLR2004 - two points are always on a line
            fits[name] = line_fit(points)
    if len(fits) == 2:  # noqa: PLR2004 - both of them
        page.say("The fit: ms of CPU = offset + slope x sockets, with the least relative errors")
        page.table(
            ["", "offset, ms", "slope, us for 1 000 sockets", "R²"],
            [
                [name, f"{offset:.3f}", f"{slope * 1e6:.1f}", f"{fit:.4f}"]
                for name, (offset, slope, fit) in fits.items()
            ],
        )
        measured: float | None = fits[QUIET][1] / fits[rivals.C_DUMP][1]
    else:
        measured = None
    yield Claim("growth with sockets: our slope / that of the dump in C", 1.1, "x", measured, "<=", "", "too few sizes")


def _size(cell: Cell) -> str:
    return f"{cell.sockets:,}".replace(",", " ")


def _place(cell: Cell) -> str:
    load = cell.load
    held = f"{load.closing} CLOSE_WAIT, {load.established} ESTABLISHED, {load.descriptors} descriptors"
    return f"({_size(cell)} sockets, {held})"
