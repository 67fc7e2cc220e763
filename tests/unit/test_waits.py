"""What looks at one worker fold into: the requests that wait for a server."""

from collections.abc import Iterable

import pytest

from watchdogd.model.base import Mono
from watchdogd.model.seen import Blind, Wait, Waits
from watchdogd.observe.waits import KEPT_S, Reading, WorkerWaits

NEVER = float("-inf")
LISTENER, REDIS = 1, 2
T = 0  # the only thread


class Seen:
    """Looks at one worker, which holds its listener and a connection to something else beside its requests."""

    def __init__(self) -> None:
        self.waits = WorkerWaits()
        self.at: Mono = 100.0
        self.switches = {T: 1000, 1: 500, 2: 700}
        self.asked: list[frozenset[int]] = []
        self.last_sent: Mono = NEVER

    def accepted(self, held: frozenset[int]) -> frozenset[int] | Blind:
        self.asked.append(held)
        return held - {LISTENER, REDIS}

    def look(
        self, *requests: int, after: float = 1.0, switched: int = 2, futex: Iterable[int] = (T,), also: int = 0
    ) -> Waits:
        """`switched`: of the first thread, `also`: of the others."""
        self.at += after
        self.switches = {one: count + (also if one else switched) for one, count in self.switches.items()}
        held = frozenset({LISTENER, REDIS, *requests}) if futex else frozenset()
        now = Reading(self.at, self.at, {one: self.switches[one] for one in futex}, held)
        seen = self.waits.fold(now, self.last_sent, self.accepted)
        assert isinstance(seen, Waits)
        return seen

    def idle(self, after: float = 1.0) -> Waits:
        return self.look(after=after, futex=())


@pytest.fixture
def seen() -> Seen:
    one = Seen()
    one.idle()
    return one


def test_a_request_that_is_held_in_two_looks_by_a_thread_that_wakes_twice_a_second_waits(seen: Seen) -> None:
    assert seen.look(10).requests == ()  # this thread may have come to it just now
    waits = seen.look(10)
    assert waits.requests == (Wait(held_since=102.0, first=103.0, last=103.0),)
    assert (waits.present, waits.longest_s, waits.since, waits.at) == (1, 1.0, 101.0, 103.0)


def test_the_longest_wait_goes_on_as_long_as_its_connection_is_held(seen: Seen) -> None:
    for _ in range(10):
        seen.look(10)
    assert seen.look(10).longest_s == 10.0
    over = seen.idle()
    assert (len(over.requests), over.present, over.longest_s) == (1, 0, 10.0)


def test_separate_requests_are_counted_each(seen: Seen) -> None:
    *_, waits = [seen.look(number) for number in (10, 10, 10, 11, 11, 11, 12, 12, 12)]
    assert [(one.held_since, one.first) for one in waits.requests] == [(102.0, 103.0), (105.0, 106.0), (108.0, 109.0)]
    assert waits.present == 1


def test_a_request_is_forgotten_a_minute_after_its_end(seen: Seen) -> None:
    seen.look(10)
    seen.look(10)
    assert len(seen.idle(after=KEPT_S).requests) == 1
    assert seen.idle().requests == ()


@pytest.mark.parametrize("switched", [0, 1, 3, 16])
def test_a_thread_that_wakes_at_another_rate_waits_for_something_else(seen: Seen, switched: int) -> None:
    """0: thread.join. 2 to 16, and 7 in the middle: a driver whose monitor tells it that its other MongoDB is down."""
    for _ in range(5):
        assert seen.look(10, switched=switched).requests == ()
    assert seen.asked == []  # of the kernel nothing is asked for it


def test_a_thread_that_was_not_in_a_futex_in_both_looks_does_not_count(seen: Seen) -> None:
    for _ in range(4):
        seen.look(10)
        seen.look(10, futex=())
    assert seen.look(10).requests == ()


def test_a_connection_that_was_not_held_in_both_looks_does_not_count(seen: Seen) -> None:
    for number in range(10, 20):
        assert seen.look(number).requests == ()


def test_what_is_held_and_was_not_accepted_is_no_request(seen: Seen) -> None:
    for _ in range(3):
        assert seen.look().requests == ()
    assert seen.asked == [{LISTENER, REDIS}]  # once for each socket


def test_who_has_sent_to_mongodb_meanwhile_has_found_a_server(seen: Seen) -> None:
    seen.look(10)
    seen.last_sent = seen.at + 0.5
    assert seen.look(10).requests == ()
    assert len(seen.look(10).requests) == 1


@pytest.mark.parametrize(("after", "switched"), [(0.5, 1), (2.6, 5), (10.0, 20)])
def test_two_looks_too_near_or_too_far_from_each_other_say_nothing(seen: Seen, after: float, switched: int) -> None:
    seen.look(10)
    assert seen.look(10, after=after, switched=switched).requests == ()


def test_looks_that_come_too_often_are_taken_together(seen: Seen) -> None:
    seen.look(10)
    for _ in range(2):
        seen.look(10, after=0.5, switched=1)
    assert len(seen.look(10, after=0.5, switched=1).requests) == 1


def test_there_are_never_more_requests_than_threads_that_wait(seen: Seen) -> None:
    """Two threads: one waits for a server, the other does something slow."""
    seen.look(10, 11)
    assert [one.held_since for one in seen.look(10, 11).requests] == [102.0]
    waits = seen.look(10, 11)
    assert (len(waits.requests), waits.present) == (1, 1)
    # Where the first one ends the next one may be it.
    seen.look(11, 12)
    assert len(seen.look(11, 12).requests) == 2


def test_each_of_several_threads_may_wait(seen: Seen) -> None:
    seen.look(10, 11, futex=(0, 1, 2), also=2)
    assert len(seen.look(10, 11, futex=(0, 1, 2), also=2).requests) == 2


def test_an_idle_thread_that_waits_for_its_turn_is_none_of_them(seen: Seen) -> None:
    """With `threads`, all but one wait in a futex for the next request, and do not wake."""
    seen.look(10, futex=(0, 1, 2))
    assert len(seen.look(10, futex=(0, 1, 2)).requests) == 1


def test_where_the_kernel_does_not_say_who_was_accepted_it_is_told_and_asked_again(seen: Seen) -> None:
    seen.look(10)
    now = Reading(103.0, 103.0, {T: seen.switches[T] + 2}, frozenset({LISTENER, 10}))
    assert seen.waits.fold(now, NEVER, lambda _: Blind("no netlink")) == Blind("no netlink")
    assert len(seen.look(10).requests) == 1
