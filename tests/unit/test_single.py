"""Single: whether none of a master's threads but its first one runs."""

from collections.abc import Mapping

import pytest

from watchdogd.observe.single import ASLEEP_S, Single

FIRST = 100
Runs = Mapping[int, int | None]


def seen(*looks: tuple[float, Runs]) -> list[bool]:
    """What is seen after each look."""
    one, found = Single(), []
    for at, runs in looks:
        one.fold(FIRST, runs, at)
        found.append(one.seen)
    return found


def test_a_master_with_one_thread_is_single_at_once() -> None:
    assert seen((0.0, {FIRST: 7})) == [True]


def test_threads_that_sleep_are_none_of_a_driver_once_they_have_slept_for_3_s() -> None:
    """Gevent's pool for names, before it ends its threads, or what uWSGI logs by."""
    asleep = [(at, {FIRST: 7 + int(at), 101: 5, 102: 0}) for at in (0.0, 1.0, 2.0, ASLEEP_S, 9.0)]
    assert seen(*asleep) == [False, False, False, True, True]


@pytest.mark.parametrize(
    "late",
    [{FIRST: 20, 101: 6}, {FIRST: 20, 101: None}, {FIRST: 20, 101: 5, 102: 0}],
    ids=["it has run", "it runs now", "a new one"],
)
def test_a_master_of_which_another_thread_runs_is_not_single(late: Runs) -> None:
    assert seen((0.0, {FIRST: 7, 101: 5}), (5.0, late)) == [False, False]
    assert seen((0.0, {FIRST: 7, 101: 5}), (5.0, {FIRST: 9, 101: 5}), (9.0, late)) == [False, True, False]
    assert seen((0.0, {FIRST: 7}), (5.0, late)) == [True, False]


def test_of_a_process_that_is_stopped_nothing_is_known() -> None:
    assert seen(*[(at, {FIRST: 7, 101: 5}) for at in (0.0, 5.0, 60.0)]) == [False, False, False]


def test_of_who_is_gone_or_not_asked_nothing_is_known() -> None:
    assert seen((0.0, {FIRST: 7}), (1.0, {})) == [True, False]
