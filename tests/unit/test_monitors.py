"""Who is seen to have a driver's monitor, by its connections."""

from typing import Any

import pytest

from tests.world.pieces import AT, BACK, connection, down, exactly, member, pid, secondary
from watchdogd.model.base import Interval, Mono
from watchdogd.model.seen import Connection, Member, Tcp
from watchdogd.observe.monitors import SETTLED_S, monitored

W = pid(2)
A, B = "10.0.0.1", "10.0.0.2"


def two(host: str = A, **changes: Any) -> list[Connection]:  # noqa: ANN401 - changes are any fields of the value
    return [connection(2, cookie=cookie, host=host, **changes) for cookie in (1, 2)]


def deployments(held: list[Connection], *members: Member, at: Mono = AT) -> set[str]:
    return set(monitored(W, held, members or (member(),), at))


def test_two_connections_of_its_own_at_once_are_those_of_a_monitor_and_of_requests() -> None:
    assert deployments(two()) == {"main"}
    assert deployments(two()[:1]) == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"holders": frozenset({pid(1), W})},  # inherited from the master, whose monitor it is
        {"holders": frozenset({pid(3)})},
        {"tcp": Tcp.CLOSE_WAIT},
        {"tcp": Tcp.DEAD},
        {"since": exactly(BACK - 1)},  # opened before the member was away
    ],
)
def test_others_do_not_count(changes: dict[str, Any]) -> None:
    assert deployments(two(**changes)) == set()


def test_one_that_was_there_at_our_first_look_may_have_been_opened_since() -> None:
    assert deployments(two(since=Interval.ever_until(AT))) == {"main"}


def test_every_member_that_is_up_must_be_reached_so_and_none_that_is_away() -> None:
    assert deployments(two(), member(), secondary(B)) == set()
    assert deployments([*two(), *two(B)], member(), secondary(B)) == {"main"}
    assert deployments(two(), member(), down(B)) == {"main"}


@pytest.mark.parametrize(("after", "is_one"), [(SETTLED_S - 0.1, False), (SETTLED_S, True)])
def test_right_after_the_return_they_may_be_anything(after: float, is_one: bool) -> None:
    held = two(since=exactly(BACK + 1))
    assert (deployments(held, at=BACK + after) == {"main"}) is is_one


def test_where_no_member_serves_nobody_is_monitored() -> None:
    assert deployments(two(), secondary(A)) == set()
    assert deployments([], down()) == set()


def test_each_deployment_is_judged_by_itself() -> None:
    assert deployments(two(), member(), member(B, "logs")) == {"main"}
