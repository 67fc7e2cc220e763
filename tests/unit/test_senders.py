from dataclasses import replace

import pytest

from tests.world.pieces import AT, BACK, connection, down, endpoint, exactly, member, secondary
from watchdogd.model.base import Mono
from watchdogd.model.seen import Connection, Member
from watchdogd.observe.senders import ALL_WITHIN_S, CALM_S, UNKNOWN_WITHIN_S, Senders

LONG_AGO = BACK - 1000
BEFORE = member(up_since=exactly(LONG_AGO), served_since=exactly(LONG_AGO))
AFTER = member()  # it serves since BACK
WENT = BACK - 10


def see(senders: Senders, at: Mono, one: Member, *held: Connection) -> list[Mono]:
    """Since when the master sends, after one look."""
    senders.see(held, {endpoint("10.0.0.1"): [one]}, at)
    return [sent.since for sent in senders.sent]


def uses(cookie: int, at: Mono, *, sent: Mono | None = None) -> Connection:
    """One of the master's that had data then, and that was sent on."""
    return connection(1, cookie=cookie, last_data=exactly(at), last_sent=exactly(at if sent is None else sent))


@pytest.fixture
def calm() -> Senders:
    """A master that was seen for long with two connections, a monitor's and the one that measures round trips."""
    senders = Senders()
    for at in (WENT - CALM_S - 20, WENT - 5):
        see(senders, at, BEFORE, uses(1, at - 1, sent=LONG_AGO), uses(2, at - 1))
    see(senders, WENT, down(since=WENT))
    return senders


def test_one_connection_of_two_is_not_enough_after_a_return(calm: Senders) -> None:
    assert see(calm, BACK + 2, AFTER, uses(3, BACK + 1)) == []
    assert see(calm, BACK + 9, AFTER, uses(3, BACK + 1), uses(4, BACK + 8)) == [BACK + 9]
    assert see(calm, BACK + 12, AFTER, uses(3, BACK + 11), uses(4, BACK + 8)) == [BACK + 9]


def test_a_streaming_monitor_that_only_receives_counts_beside_one_that_sends(calm: Senders) -> None:
    """Another member is primary: no connection ended, and the monitor's has not sent for long."""
    streaming = uses(1, BACK + 1, sent=LONG_AGO)
    assert see(calm, BACK + 2, AFTER, streaming, uses(2, BACK - 3)) == []
    assert see(calm, BACK + 5, AFTER, streaming, uses(2, BACK + 4)) == [BACK + 5]


def test_a_client_that_is_gone_is_waited_for_a_minute_at_most(calm: Senders) -> None:
    assert see(calm, BACK + ALL_WITHIN_S - 1, AFTER, uses(3, BACK + 50)) == []
    assert see(calm, BACK + ALL_WITHIN_S, AFTER, uses(3, BACK + 50)) == [BACK + ALL_WITHIN_S]


def test_where_nothing_was_seen_before_two_are_waited_for_for_20_s() -> None:
    assert see(Senders(), BACK + 2, AFTER, uses(3, BACK + 1)) == []
    assert see(Senders(), BACK + 2, AFTER, uses(3, BACK + 1), uses(4, BACK + 1)) == [BACK + 2]
    assert see(Senders(), BACK + UNKNOWN_WITHIN_S, AFTER, uses(3, BACK + 19)) == [BACK + UNKNOWN_WITHIN_S]


def test_of_a_server_that_does_not_stream_one_connection_is_enough() -> None:
    old = replace(AFTER, process_id=None)
    assert see(Senders(), BACK + 2, old, uses(3, BACK + 1)) == [BACK + 2]


def test_what_was_seen_just_after_the_start_is_no_usual_number() -> None:
    """The connections of an app's start are used once, and kept."""
    senders = Senders()
    at = WENT - CALM_S / 2
    see(senders, at, BEFORE, *[uses(cookie, at) for cookie in range(1, 4)])
    see(senders, WENT - 1, BEFORE, *[uses(cookie, at) for cookie in range(1, 4)])
    assert see(senders, BACK + 2, AFTER, uses(8, BACK + 1), uses(9, BACK + 1)) == [BACK + 2]


def test_what_the_master_does_not_use_is_not_waited_for(calm: Senders) -> None:
    idle = uses(5, LONG_AGO)
    see(calm, AT + 100, AFTER, uses(3, AT + 99), idle)
    again = member(up_since=exactly(AT + 200), served_since=exactly(AT + 200))
    assert see(calm, AT + 202, again, uses(6, AT + 201)) == [AT + 202]


def test_that_it_received_proves_nothing(calm: Senders) -> None:
    received = [uses(cookie, BACK + 5, sent=LONG_AGO) for cookie in (3, 4)]
    assert see(calm, BACK + 6, AFTER, *received) == []
    unread = [replace(one, rqueue=313) for one in (uses(3, BACK + 5), uses(4, BACK + 5))]
    assert see(calm, BACK + 7, AFTER, *unread) == []


def test_who_does_not_serve_is_sent_to_by_nobody(calm: Senders) -> None:
    assert see(calm, BACK + 6, secondary("10.0.0.1"), uses(3, BACK + 5), uses(4, BACK + 5)) == []
