"""A table on a terminal of 80 columns."""

from hypothesis import given
from hypothesis import strategies as st

from watchdogd.report.words import table

CELLS = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=130)


def test_what_fits_is_one_line_for_each_row() -> None:
    assert table([("NAME", "STATE"), ("shop", "up")]) == ["NAME  STATE", "shop  up"]


def test_the_last_columns_go_below_in_every_row_alike() -> None:
    rows = [("PID", "LOCAL", "VERDICT"), ("1", "here", "x" * 70), ("22", "there", "own")]
    assert table(rows) == ["PID  LOCAL", "    VERDICT", "1    here", f"    {'x' * 70}", "22   there", "    own"]


def test_words_are_not_broken_where_they_need_not_be() -> None:
    said = "held by uWSGI (master 4711), which has no master FIFO, so nobody can reload just its workers"
    head, below, row, *rest = table([("PID", "VERDICT"), ("1", said)])
    assert (head, below, row) == ("PID", "    VERDICT", "1")
    assert " ".join(one.strip() for one in rest) == said


@given(st.integers(1, 6).flatmap(lambda n: st.lists(st.tuples(*[CELLS] * n), min_size=1, max_size=4)))
def test_nothing_is_wider_than_that_and_nothing_is_lost(rows: list[tuple[str, ...]]) -> None:
    lines = table(rows)
    assert all(len(line) <= 80 for line in lines)
    assert "".join("".join(lines).split()) == "".join("".join(row) for row in rows)
