from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.apps import Kind
from tests.world.pieces import AT, config, connection, down, exactly, instance, leftover, member, stranded, well, worker
from tests.world.promises import Aiming
from tests.world.ticks import Ticks
from tests.world.world import busy_app
from watchdogd.core.aim import BEGIN, DANGER_S, END, GRID_S, LATE_S, LEAD_S, WITHIN_S, WORTH_S, moment
from watchdogd.model.base import RESTART, WORKERS
from watchdogd.model.done import Result
from watchdogd.model.remembered import Phase
from watchdogd.model.seen import Instance, MemberState, Verb, Wait, Waits, Wakes
from watchdogd.model.told import Event

STUCK = replace(instance(stranded(2), stranded(3)), master_threads=3)
HELD = (leftover(2, 3), connection(1))
TIMES = st.floats(900.0, 1000.0)


def woken(*phases: float, at: float = AT) -> Instance:
    """The master's threads were seen to wake so long after AT, and every 0.5 s."""
    return replace(STUCK, wakes=Wakes(at, tuple(AT - 1 + one for one in phases)))


# ---- the moment


@given(st.lists(TIMES, min_size=1, max_size=24), st.floats(1000.0, 1001.0), st.floats(0.0, 1.0), st.integers(1, 6))
def test_every_fork_of_a_byte_in_its_moment_is_in_the_middle_of_the_widest_gap(
    last: list[float], at: float, share: float, seconds: int
) -> None:
    phases = sorted({one % GRID_S for one in last})
    gaps = [after - before for before, after in zip(phases, [*phases[1:], phases[0] + GRID_S], strict=True)]
    best = moment(Wakes(at, tuple(last)), at)
    if max(gaps) < WORTH_S:
        assert best is None
        return
    assert best is not None
    assert at <= best.not_before <= at + GRID_S
    assert best.not_before <= best.not_after <= best.not_before + GRID_S / 2
    byte = best.not_before + share * (best.not_after - best.not_before)
    fork = (byte + seconds + LATE_S) % GRID_S
    since = min((fork - one) % GRID_S for one in phases)
    until = min((one - fork) % GRID_S for one in phases)
    assert since >= max(DANGER_S, BEGIN * max(gaps)) - 1e-6
    assert until >= (1 - END) * max(gaps) - 1e-6


def test_where_no_thread_wakes_every_moment_is_as_good() -> None:
    assert moment(Wakes(AT, ()), AT) is None


# ---- a reload waits for it


def test_a_byte_whose_moment_is_now_is_sent_at_once() -> None:
    ticks = Ticks()
    ticks.see(woken(0.3), *HELD)  # the forks are 0.2 s after a wake
    assert ticks.sent is not None
    assert ticks.sent.moment is not None
    assert ticks.sent.moment.not_before == ticks.at
    assert ticks.sent.moment.not_after == pytest.approx(ticks.at + END * GRID_S - 0.2 - LATE_S)


def test_a_byte_whose_moment_comes_is_sent_when_it_has_come_and_not_before() -> None:
    ticks = Ticks()
    told = ticks.see(woken(0.1), *HELD)  # at AT: 0.4 s after a wake, so the next one counts, 0.1 s from now
    assert told == [Event.LEFTOVERS_FOUND, Event.RELOAD_DUE]
    assert ticks.phase() is Phase.RELOADING
    assert ticks.sent is None
    assert ticks.outlook.soon
    assert ticks.outlook.next_what == "a moment in which uWSGI forks well"
    assert ticks.decision
    assert ticks.decision.wake_at is not None
    ticks.see(woken(0.1), *HELD, after=ticks.decision.wake_at - ticks.at)
    assert ticks.sent is not None
    assert ticks.sent.moment is not None
    assert ticks.sent.moment.not_before == pytest.approx(AT + 0.1 + BEGIN * GRID_S - LATE_S)
    assert ticks.sent.moment.not_before - ticks.at <= LEAD_S
    assert ticks.see(woken(0.1), *HELD, after=0.1) == [Event.RELOAD_SENT]


def test_until_the_wakes_are_seen_it_is_waited_for_them_for_2_s_at_most() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    while ticks.sent is None:
        assert ticks.at < AT + WITHIN_S
        ticks.see(STUCK, *HELD, after=0.1)
    assert ticks.at == pytest.approx(AT + WITHIN_S)
    assert ticks.sent.moment is None


def test_wakes_that_were_seen_long_ago_say_nothing() -> None:
    ticks = Ticks()
    ticks.see(woken(0.3, at=AT - 6), *HELD)
    assert ticks.sent is None


@pytest.mark.parametrize("threads", [None, 1])
def test_a_master_without_further_threads_is_not_waited_for(threads: int | None) -> None:
    ticks = Ticks()
    ticks.see(replace(STUCK, master_threads=threads), *HELD)
    assert ticks.sent is not None


def test_a_master_whose_threads_wake_all_the_time_is_not_waited_for() -> None:
    ticks = Ticks()
    ticks.see(woken(*[number / 20 for number in range(10)]), *HELD)
    assert ticks.sent is not None
    assert ticks.sent.moment is None


def test_a_restart_is_not_aimed() -> None:
    ticks = Ticks(config(reloads={WORKERS, RESTART}))
    ticks.see(STUCK, leftover(1, 2, 3))
    assert ticks.sent is not None
    assert ticks.sent.command is RESTART


def test_a_moment_that_has_passed_before_the_byte_was_written_is_no_reload() -> None:
    ticks = Ticks(result=Result.TRY_AGAIN)
    ticks.see(woken(0.3), *HELD)
    assert ticks.sent is not None
    assert ticks.see(woken(0.3), *HELD, after=0.0) == []
    ticks.result = Result.WRITTEN
    while ticks.sent is None:
        assert ticks.at < AT + WITHIN_S
        ticks.see(woken(0.3), *HELD, after=0.05)
    assert ticks.see(woken(0.3), *HELD, after=0.0) == [Event.RELOAD_SENT]


def test_an_outage_before_the_moment_of_its_byte_makes_it_no_reload() -> None:
    ticks = Ticks()
    ticks.see(woken(0.1), *HELD)
    assert ticks.sent is None
    told = ticks.see(woken(0.1), *HELD, after=0.1, members=[down(since=AT)])
    assert told == []
    assert ticks.sent is None
    assert ticks.shop.reload is None
    assert ticks.shop.spent == ()


def test_an_app_that_heals_before_the_moment_of_the_byte_gets_none() -> None:
    ticks = Ticks()
    ticks.see(woken(0.1), *HELD)
    healed = replace(instance(well(2), well(3)), master_threads=3, wakes=Wakes(AT, (AT - 0.9,)))
    for _ in range(10):
        ticks.see(healed, leftover(2, 3), connection(2, cookie=9), connection(3, cookie=10), after=0.1)
        assert ticks.sent is None
    assert ticks.shop.reload is None


# ---- when the wakes are watched


def test_they_are_watched_from_3_s_before_the_evidence_is_ripe_until_the_byte_is_written() -> None:
    ticks = Ticks(at=AT - 9)
    back = [member(born=exactly(AT - 10), served_since=exactly(AT - 10), up_since=exactly(AT - 10))]
    soon = []
    while ticks.at < AT + 4.5:
        ticks.see(STUCK, leftover(2, 3), connection(1, last_data=exactly(AT)), members=back)
        soon.append((ticks.at - AT + 10, ticks.outlook.soon))
    assert [at for at, one in soon if one] == [12, 13, 14, 15]


def test_they_are_watched_from_the_first_request_that_waits_for_a_server() -> None:
    one = Waits(AT - 5, AT, (Wait(AT - 3, AT - 2, AT),))
    early = replace(worker(2, ready=0), threads=1, waits=one)
    ticks = Ticks()
    ticks.see(replace(instance(early, well(3)), master_threads=3), connection(1))
    assert ticks.outlook.soon


def test_they_are_not_watched_at_rest_nor_while_something_else_holds_the_reload_for_longer() -> None:
    ticks = Ticks()
    ticks.see(instance(well(2), well(3)), connection(2), connection(3, cookie=9))
    assert not ticks.outlook.soon
    held = Ticks()
    held.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD)
    assert held.phase() is Phase.DUE
    assert not held.outlook.soon


def test_a_reload_that_an_operator_asks_for_is_aimed_too() -> None:
    ticks = Ticks()
    fine = replace(instance(well(2), well(3)), master_threads=3)
    ticks.see(fine, connection(1), ask=Verb.RELOAD)
    assert ticks.answer.ok
    assert ticks.sent is None
    assert ticks.outlook.soon
    ticks.see(replace(fine, wakes=Wakes(ticks.at, (ticks.at - 0.1,))), connection(1), after=0.1)
    assert ticks.sent is not None
    assert ticks.sent.moment is not None


def test_in_a_whole_story_the_reload_is_aimed_and_no_later_for_it() -> None:
    world = busy_app(Kind.PREFORK)
    aiming = Aiming(world)
    world.daemon.check = aiming.check
    world.outage(10)
    back = world.clock.now
    world.run_until(lambda: bool(world.daemon.written))
    assert aiming.aimed == 1
    assert world.daemon.written[0][0] - back <= 16
    assert world.mongods[0].state is MemberState.UP
