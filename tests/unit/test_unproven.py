"""What is told, and shown, of an instance that nobody has seen to be well since MongoDB came back."""

from dataclasses import replace

import pytest

from tests.world.pieces import (
    AT,
    BACK,
    config,
    connection,
    down,
    exactly,
    idle,
    instance,
    leftover,
    member,
    well,
    worker,
)
from tests.world.ticks import Ticks
from watchdogd.config import Config, Idle, PolicyConfig
from watchdogd.core.look import LOST_AT_MOST_S
from watchdogd.core.reminder import DAY_S
from watchdogd.model.base import Interval, Mono
from watchdogd.model.found import Kind
from watchdogd.model.remembered import Phase
from watchdogd.model.seen import Instance, Member
from watchdogd.model.told import Event

LINGER = PolicyConfig().linger_s
FINE = instance(well(2), well(3))
UNUSED = instance(idle(2), idle(3))
OUT = [down()]


def back(at: Mono, *, lost_s: float = 0.0) -> list[Member]:
    """Who has answered since then; the same process as before where the network was lost."""
    if not lost_s:
        return [member(born=exactly(at), served_since=exactly(at))]
    return [member(born=exactly(-5000.0), served_since=exactly(at), outages=(Interval(at - lost_s, at),))]


def outage(ticks: Ticks, it: Instance, *, lost_s: float = 0.0) -> list[Member]:
    """One is over just now; returns the members."""
    ticks.see(it, members=OUT)
    members = back(ticks.at + 1, lost_s=lost_s)
    ticks.see(it, members=members)
    return members


def test_nobody_is_told_to_be_healed_who_was_not_used() -> None:
    ticks = Ticks()
    members = outage(ticks, UNUSED)
    incident = ticks.shop.incident
    assert incident
    assert ticks.see(UNUSED, members=members, after=LINGER - 1) == []
    assert ticks.phase() is Phase.SETTLING
    assert ticks.see(UNUSED, members=members) == [Event.UNPROVEN]
    assert (ticks.tells[0].incident, ticks.tells[0].fields) == (incident.id, {"nobody": True, "workers": 0})
    # All night: at rest, told once, and it is said what is waited for.
    assert [ticks.see(UNUSED, members=members, after=3600) for _ in range(8)] == [[]] * 8
    assert (ticks.phase(), ticks.outlook.suspected) == (Phase.WATCHING, False)
    assert ticks.outlook.next_what == "a request to show whether it reaches MongoDB"
    assert ticks.see(FINE, members=members) == [Event.HEALED]
    assert (ticks.tells[0].incident, ticks.tells[0].fields["reconnected"]) == (incident.id, 2)
    assert ticks.shop.incident is None
    assert ticks.outlook.next_what == ""


def test_who_is_not_used_is_not_told_of_again() -> None:
    ticks = Ticks()
    members = outage(ticks, UNUSED)
    assert ticks.see(UNUSED, members=members, after=DAY_S) == [Event.UNPROVEN]
    assert ticks.see(UNUSED, members=members, after=DAY_S) == []
    assert ticks.shop.incident


def test_another_outage_goes_on_with_an_incident_of_which_nobody_has_seen_the_end() -> None:
    ticks, incidents = Ticks(), set()
    for it, ending in ((UNUSED, Event.UNPROVEN), (UNUSED, Event.UNPROVEN), (FINE, Event.HEALED)):
        members = outage(ticks, it)
        assert ticks.see(it, members=members, after=LINGER) == [ending]
        incidents.add(ticks.tells[0].incident)
    assert len(incidents) == 1
    outage(ticks, FINE)
    assert ticks.shop.incident
    assert ticks.shop.incident.id not in incidents


def test_who_turns_out_to_be_stuck_is_reloaded_in_the_same_incident() -> None:
    ticks = Ticks(config(idle=Idle.LEAVE))
    held = leftover(2, 3), connection(1)
    ticks.see(UNUSED, *held, members=OUT)
    assert ticks.see(UNUSED, *held, after=5) == [Event.UNPROVEN]
    incident = ticks.tells[0].incident
    used = [replace(one, used=exactly(AT + 100)) for one in UNUSED.workers]
    assert Event.RELOAD_DUE in ticks.see(instance(*used), *held, after=200)
    assert {one.incident for one in ticks.tells} == {incident}


def test_a_worker_that_works_without_a_connection_is_no_proof_however_long_it_does() -> None:
    ticks, it = Ticks(), instance(worker(2, used=BACK + 1), well(3))
    members = outage(ticks, it)
    assert ticks.see(it, members=members, after=30) == []
    assert ticks.see(it, members=members, after=31) == [Event.UNPROVEN]
    assert ticks.tells[0].fields == {"nobody": False, "workers": 1}


@pytest.mark.parametrize("lost_s", [20.0, 40.0, 10 * LOST_AT_MOST_S])
def test_after_a_network_loss_nobody_is_healed_before_the_longest_back_off_is_over(lost_s: float) -> None:
    """The monitor's connection is back, and requests beside it go on up to as long later as the network was away."""
    ticks = Ticks()
    members = outage(ticks, FINE, lost_s=lost_s)
    begun = ticks.at
    until = min(lost_s, LOST_AT_MOST_S)
    assert ticks.see(FINE, members=members, after=until - 1) == []
    assert ticks.phase() is Phase.SETTLING
    assert ticks.decision
    assert ticks.decision.wake_at == begun + until
    assert ticks.see(FINE, members=members) == [Event.HEALED]


def test_where_nobody_knows_whether_it_was_a_restart_it_may_have_been_the_network() -> None:
    ticks = Ticks()
    ticks.see(FINE, members=OUT)
    members = [replace(one, born=None) for one in back(ticks.at + 1, lost_s=40.0)]
    ticks.see(FINE, members=members)
    assert ticks.see(FINE, members=members, after=39) == []
    assert ticks.see(FINE, members=members) == [Event.HEALED]


def test_a_restart_ends_every_connection_so_nothing_backs_off() -> None:
    ticks = Ticks()
    members = outage(ticks, FINE)
    assert ticks.see(FINE, members=members, after=LINGER) == [Event.HEALED]


def test_a_network_loss_of_long_ago_holds_nobody() -> None:
    ticks = Ticks()
    ticks.see(FINE, members=OUT)
    lost = Interval(ticks.at - 3000, ticks.at - 2000)
    members = [member(born=exactly(-5000.0), served_since=exactly(ticks.at - LINGER), outages=(lost,))]
    assert ticks.see(FINE, members=members) == [Event.HEALED]


def test_where_it_cannot_be_seen_neither_is_told() -> None:
    for it, ending in ((FINE, Event.HEALED), (UNUSED, Event.UNPROVEN)):
        ticks = Ticks()
        members = outage(ticks, it)
        assert ticks.see(it, members=members, after=LINGER, blind="deployment main") == [Event.BLIND]
        assert ending in ticks.see(it, members=members)


def only_told(*kinds: Kind) -> Config:
    return config(tell_only=frozenset(kinds))


def test_who_is_stuck_by_evidence_that_is_only_told_is_not_told_to_be_healed() -> None:
    ticks = Ticks(only_told(Kind.LEFTOVER))
    it = instance(worker(2, used=BACK + 1), well(3))
    ticks.see(it, leftover(2, 3), members=OUT)
    assert ticks.see(it, leftover(2, 3), after=70) == [Event.UNPROVEN]
    assert ticks.see(it, leftover(2, 3), after=3600) == []
