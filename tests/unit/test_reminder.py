"""An incident that stays open is told again: after 10 min, an hour, each day; once each, whatever else happens."""

from dataclasses import replace

import pytest

from tests.world.apps import Kind
from tests.world.pieces import AT, connection, down, instance, leftover, snapshot, stranded
from tests.world.ticks import Ticks
from tests.world.world import World, busy_app
from watchdogd.config import Idle, PolicyConfig
from watchdogd.core.conclude import Conclusions
from watchdogd.core.reminder import next_at, passed
from watchdogd.model.base import Mono
from watchdogd.model.remembered import Incident, InstanceState, Phase, State
from watchdogd.model.told import Event, StillOpen, Tell
from watchdogd.service.store import shift

STUCK = instance(stranded(2), stranded(3))
HELD = (leftover(2, 3), connection(1))
DAY = 86400.0
INSTANTS = (600.0, 3600.0, DAY, 2 * DAY, 3 * DAY)


def test_the_instants_are_after_10_minutes_an_hour_and_each_day() -> None:
    one = Incident("i", AT)
    for number, after_s in enumerate(INSTANTS):
        assert next_at(replace(one, told_again=number)) == AT + after_s
        assert passed(one, AT + after_s - 0.1) == number
        assert passed(one, AT + after_s) == number + 1


def held_by_the_fifo() -> Ticks:
    ticks = Ticks()
    ticks.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD)
    return ticks


def test_it_is_told_once_at_each_and_the_daemon_wakes_for_it() -> None:
    ticks = held_by_the_fifo()
    told: list[tuple[Mono, Event]] = []
    for _ in range(40):
        assert ticks.decision
        assert ticks.decision.wake_at is not None
        wait_s = min(ticks.decision.wake_at - ticks.at, 3 * DAY - (ticks.at - AT))
        if wait_s <= 0:
            break
        events = ticks.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, after=wait_s)
        told += [(ticks.at - AT, event) for event in events]
    assert told == [(after_s, Event.STILL_OPEN) for after_s in INSTANTS]


def test_it_says_why_until_when_and_what_helps() -> None:
    ticks = held_by_the_fifo()
    ticks.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, after=600)
    (told,) = ticks.tells
    assert ticks.shop.incident
    assert told.incident == ticks.shop.incident.id
    reason = "what it needs is held (fifo): deleted: it is gone"
    assert told.what == StillOpen(600.0, reason, "change what holds it, or reload it by hand", "fifo", None)


@pytest.mark.parametrize(
    ("phase", "reason", "helps"),
    [
        (Phase.OUTAGE, "it waits for MongoDB to serve again", "see to MongoDB"),
        (Phase.GAVE_UP, "it was given up, since ", "mend that, then `mongo-watchdog reload prefork --now`"),
        (Phase.VERIFYING, "it waits for a request to prove that it helped", "a request that uses MongoDB shows more"),
    ],
)
def test_each_phase_says_its_own(phase: Phase, reason: str, helps: str) -> None:
    world = left_in(phase)
    world.run_until(lambda: "still_open" in world.events(), within=700)
    told = world.last(Event.STILL_OPEN).what
    assert isinstance(told, StillOpen)
    assert world.phase(world.apps[0].kind) is phase
    assert told.reason.startswith(reason)
    assert told.helps == helps.replace("prefork", world.apps[0].name)


def left_in(phase: Phase) -> World:
    """A world whose only incident stays open in that phase."""
    if phase is Phase.GAVE_UP:
        world = busy_app(Kind.HOPELESS, policy=PolicyConfig(half_open_after_s=7200))
        world.outage(10)
        world.run_until(lambda: "gave_up" in world.events())
        return world
    world = busy_app()
    if phase is Phase.OUTAGE:
        world.stop()
        world.run(5)
        return world
    world.outage(10)
    world.run_until(lambda: "reload_sent" in world.events())
    world.traffic = dict.fromkeys(world.traffic, 0)
    world.run_until(lambda: "reloaded" in world.events())
    return world


def test_what_cannot_be_seen_says_that() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD, members=[down()])
    ticks.see(replace(STUCK, blind=("no permission",)), *HELD, members=[down()], after=600)
    told = [one.what for one in ticks.tells if isinstance(one.what, StillOpen)]
    assert [one.reason for one in told] == ["it cannot be seen: no permission"]


def test_a_daemon_that_was_away_for_days_tells_it_once_and_one_that_was_killed_after_it_not_again() -> None:
    ticks = held_by_the_fifo()
    assert ticks.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, after=3 * DAY) == [Event.STILL_OPEN]
    again = Ticks(state=shift(ticks.state, 500.0), at=ticks.at + 500)  # as after a boot of the machine
    assert again.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, after=100) == []
    assert again.see(replace(STUCK, fifo_problem="deleted: it is gone"), *HELD, after=DAY) == [Event.STILL_OPEN]


def test_a_conclusion_that_is_kept_ends_when_it_is_to_be_told_again() -> None:
    """An instance that cannot be seen keeps its incident while nothing goes on."""
    unseen = snapshot(replace(STUCK, blind=("no permission",)))
    (one,) = unseen.instances
    state = State({one.id: InstanceState(incident=Incident("i", AT - 100), name=one.name)})
    conclusions = Conclusions()
    config = Ticks().config
    for _ in range(3):
        _, decision = conclusions.draw(state, unseen, config)
        state = decision.state
    kept = conclusions.draw(state, replace(unseen, at=AT + 1), config)
    assert conclusions.draw(state, replace(unseen, at=AT + 499), config) is kept
    effects = conclusions.draw(state, replace(unseen, at=AT + 500), config)[1].effects
    assert [one.event for one in effects if isinstance(one, Tell)] == [Event.STILL_OPEN]


def test_an_incident_that_ends_is_told_no_more() -> None:
    world = busy_app(policy=PolicyConfig(idle=Idle.RELOAD))
    world.outage(10)
    world.run_until(lambda: "recovered" in world.events())
    world.run(1200)
    assert "still_open" not in world.events()
