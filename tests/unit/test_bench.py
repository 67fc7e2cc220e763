"""The arithmetic of the bench, its verdicts and its page; what it measures is in tests/integration/test_cost.py."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from rig.bench.claims import Claim, figure, worst
from rig.bench.page import Page, between, plot, times
from rig.bench.samples import Contender, Sample, line_fit, take_turns

ROOT = Path(__file__).resolve().parents[2]


def test_a_claim_says_whether_it_holds_and_by_how_much_it_does_not() -> None:
    assert Claim("cpu", 0.5, "%", 0.5).verdict == "holds"
    assert Claim("cpu", 0.5, "%", 0.6).verdict == "DOES NOT HOLD, by 0.1 % (20%)"
    assert Claim("lsof", 100, "x", 58.0, ">=").verdict == "DOES NOT HOLD, by 42 x (42%)"
    assert Claim("descriptors", 0, "", 1.0).verdict == "DOES NOT HOLD, by 1"
    assert Claim("c", 1.2, "x", None, why_not="there is no C compiler here").verdict == (
        "not measured: there is no C compiler here"
    )


@pytest.mark.parametrize(("relation", "where"), [("<=", "most"), (">=", "least")])
def test_a_claim_is_judged_by_its_worst_case(relation: str, where: str) -> None:
    cases = [(2.0, "middle"), (3.0, "most"), (1.0, "least")]
    assert worst(cases, ">=" if relation == ">=" else "<=")[1] == where
    assert worst([]) == (None, "")


def test_figures_have_three_digits() -> None:
    assert [figure(value) for value in (0.0, 0.01234, 1.5, 99.99, 123.4, 1234567.0)] == [
        "0", "0.0123", "1.5", "100", "123", "1 234 567",
    ]  # fmt: skip


def test_the_fit_finds_the_line_that_points_lie_on_whatever_their_size() -> None:
    points = [(n, 0.2 + 1e-4 * n) for n in (100.0, 1_000.0, 10_000.0, 200_000.0)]
    assert line_fit(points) == pytest.approx((0.2, 1e-4, 1.0))


def _taking(name: str, turns: list[str], *ms: float, paired: bool = False) -> Contender:
    """Something that takes so many ms, the last of them from then on."""
    left = list(ms)

    def measure() -> float:
        turns.append(name)
        return left.pop(0) if len(left) > 1 else left[0]

    return Contender(name, measure, paired)


def test_contenders_take_turns_and_the_dear_ones_are_spared() -> None:
    turns: list[str] = []
    cheap, dear = _taking("cheap", turns, 1.0), _taking("dear", turns, 5_000.0)
    taken = take_turns([cheap, dear], budget_s=60, least=2, most=5)
    assert [len(taken[name].values) for name in ("cheap", "dear")] == [5, 2]
    assert turns.count("dear") == 2
    first = turns[: len(turns) - 3 * 11]
    assert first.count("cheap") == 2 * 11  # a row is one that is not counted, and ten
    assert taken["dear"].over(taken["cheap"]) == Sample((5_000.0, 5_000.0))


def test_of_a_row_the_first_is_not_counted() -> None:
    taken = take_turns([_taking("lsof", [], 50.0, 20.0, 22.0, 24.0, 26.0)], budget_s=0, least=1, most=1)
    assert taken == {"lsof": Sample((23.0,))}  # and four of 50 ms fit into one


def test_pairs_take_turns_within_a_row() -> None:
    turns: list[str] = []
    pair = [_taking(name, turns, 100.0, 1.0, paired=True) for name in ("ours", "C")]
    taken = take_turns([*pair, _taking("lsof", turns, 20.0)], budget_s=0, least=1, most=1)
    assert (taken["ours"], taken["C"]) == (Sample((1.0,)), Sample((1.0,)))
    paired = [name for name in turns if name != "lsof"]
    assert all({*paired[at : at + 2]} == {"ours", "C"} for at in range(0, 22, 2)), turns


def test_a_ratio_shows_its_spread() -> None:
    assert times(Sample((1.0, 1.1, 1.3))) == "1.10 (1.00-1.30)"
    assert times(None) == "-"


def test_the_plot_is_a_picture_with_every_line_in_it(tmp_path: Path) -> None:
    place = tmp_path / "plot.svg"
    points = [(n, Sample((n * 1e-3, n * 2e-3))) for n in (100.0, 1_000.0)]
    lines = {"C & Python": points, "lsof -i:<PORT>": points}
    plot(place, lines, x="sockets", y="ms")
    svg = ET.fromstring(place.read_text())  # noqa: S314 - it was made right here
    texts = {one.text for one in svg.iter("{http://www.w3.org/2000/svg}text")}
    assert {"C & Python", "lsof -i:<PORT>", "sockets", "ms", "1 000"} <= texts
    assert len(list(svg.iter("{http://www.w3.org/2000/svg}polyline"))) == 2


def test_the_page_is_what_was_printed(capsys: pytest.CaptureFixture[str]) -> None:
    page = Page()
    page.title("Looks")
    page.say("In ms")
    page.table(["", "100"], [["ours", "0.3"]])
    assert page.markdown("Costs") == "# Costs\n\n## Looks\n\nIn ms\n\n|  | 100 |\n| --- | ---: |\n| ours | 0.3 |\n"
    assert "ours  0.3" in capsys.readouterr().out


def test_only_what_is_marked_is_replaced() -> None:
    text = "a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n"
    assert between(text, "bench", "new") == "a\n<!-- bench -->\nnew\n<!-- /bench -->\nb\n"


def test_readmes_figures_are_those_of_the_page() -> None:
    _, _, rest = (ROOT / "README.md").read_text().partition("<!-- bench -->\n")
    quoted, end, _ = rest.partition("\n<!-- /bench -->")
    assert end
    assert quoted in (ROOT / "docs" / "benchmarks.md").read_text()
