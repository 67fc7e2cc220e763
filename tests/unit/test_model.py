"""The words that everything else is made of: instants that are known to lie in an interval, and addresses."""

import math

from hypothesis import given
from hypothesis import strategies as st

from watchdogd.model.base import Endpoint, Interval, Mono

TIMES = st.floats(allow_nan=False)
INTERVALS = st.tuples(TIMES, TIMES).map(lambda ends: Interval(min(ends), max(ends)))


@given(INTERVALS, INTERVALS, TIMES)
def test_what_two_readings_agree_on_is_in_both_and_nothing_is_lost(one: Interval, other: Interval, at: Mono) -> None:
    both = one.narrowed(other)
    assert both.lo <= both.hi
    assert one.lo <= both.lo <= both.hi <= one.hi
    if one.lo <= at <= one.hi and other.lo <= at <= other.hi:
        assert both.lo <= at <= both.hi
        assert other.lo <= both.lo <= both.hi <= other.hi


@given(INTERVALS, INTERVALS)
def test_readings_that_contradict_change_nothing(one: Interval, other: Interval) -> None:
    assert one.overlaps(other) is other.overlaps(one)
    if not one.overlaps(other):
        assert one.narrowed(other) == one


def test_intervals_that_share_an_end_may_be_the_same_instant() -> None:
    assert Interval(1.0, 2.0).overlaps(Interval(2.0, 3.0))
    assert not Interval(1.0, 2.0).overlaps(Interval(2.5, 3.0))


@given(TIMES)
def test_what_happened_before_we_looked_may_have_happened_at_any_time_before(at: Mono) -> None:
    assert Interval.ever_until(at) == (-math.inf, at)


def test_an_address_is_written_as_in_a_uri() -> None:
    assert str(Endpoint("10.0.0.1", 27017)) == "10.0.0.1:27017"
    assert str(Endpoint("fd00::1", 27017)) == "[fd00::1]:27017"
