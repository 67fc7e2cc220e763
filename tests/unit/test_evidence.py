"""Evidence beside leftovers, and what comes of it: who is due, when, and what proves the cure."""

import math
from dataclasses import replace

import pytest

from tests.world.cases import case
from tests.world.pieces import (
    AT,
    BACK,
    SHOP_ID,
    config,
    connection,
    down,
    exactly,
    find,
    instance,
    leftover,
    member,
    pid,
    secondary,
    snapshot,
    well,
    worker,
)
from tests.world.ticks import Ticks
from watchdogd.config import Config, Idle, Mode
from watchdogd.core.detect import detect
from watchdogd.core.due import due, to_end
from watchdogd.core.ends import AGAIN_S, ROUNDS, SOON_S, who_ends
from watchdogd.core.gates import blocked_by
from watchdogd.model.base import RESTART, WORKERS, Interval, Mono
from watchdogd.model.done import EndProcess, Outcome, Result
from watchdogd.model.found import Evidence, Finding, Kind
from watchdogd.model.remembered import Ends, InstanceState, Phase, Stand
from watchdogd.model.seen import Hang, Hung, Instance, Member, Sent, Verb, Wait, Waits, Worker
from watchdogd.model.told import Event

OLD = "10.0.0.1"
NEW = "10.0.0.2"


def of(found: Finding, kind: Kind) -> list[Evidence]:
    return [one for one in found.evidence if one.kind is kind]


def ripe_ats(found: Finding, kind: Kind) -> list[Mono | None]:
    return [one.ripe_at for one in of(found, kind)]


def waits(one: Worker, *firsts: Mono, seconds: float = 3.0, threads: int = 1) -> Worker:
    """One whose requests were seen to wait first at these times, for so long each."""
    requests = tuple(Wait(at - 1, at, at - 1 + seconds) for at in firsts)
    return replace(one, threads=threads, waits=Waits(BACK, AT, requests))


# ---- waiting


@pytest.mark.parametrize(
    ("firsts", "ripe"),
    [
        ((), []),
        ((BACK + 6,), [None]),
        ((BACK + 6, BACK + 9), [BACK + 9]),
        ((BACK + 4, BACK + 6), [None]),  # the first one is too soon after the return
        ((BACK + 4, BACK + 6, BACK + 20), [BACK + 20]),
    ],
)
def test_two_requests_that_wait_are_enough_from_5_s_after_the_return_on(
    firsts: tuple[Mono, ...], ripe: list[Mono | None]
) -> None:
    found = find(snapshot(instance(waits(worker(2), *firsts))))
    assert ripe_ats(found, Kind.WAITING) == ripe


def test_one_that_is_held_for_9_s_is_enough() -> None:
    found = find(snapshot(instance(waits(worker(2), BACK + 20, seconds=10.0))))
    assert ripe_ats(found, Kind.WAITING) == [BACK + 19 + 9]


def test_a_worker_with_threads_is_given_15_s_for_its_driver_may_have_a_monitor() -> None:
    found = find(snapshot(instance(waits(worker(2), BACK + 6, BACK + 9, threads=4))))
    assert ripe_ats(found, Kind.WAITING) == []
    found = find(snapshot(instance(waits(worker(2), BACK + 16, BACK + 19, threads=4))))
    assert ripe_ats(found, Kind.WAITING) == [BACK + 19]


def test_who_is_monitored_heals_by_itself() -> None:
    one = replace(waits(worker(2), BACK + 6, BACK + 9), monitored_at={"main": BACK + 12})
    assert of(find(snapshot(instance(one))), Kind.WAITING) == []
    one = replace(one, monitored_at={"main": BACK - 1})
    assert ripe_ats(find(snapshot(instance(one))), Kind.WAITING) == [BACK + 9]


def test_while_mongodb_does_not_serve_nobody_is_judged_by_what_waits() -> None:
    it = instance(waits(worker(2), BACK + 6, BACK + 9))
    assert of(find(snapshot(it, members=[down()])), Kind.WAITING) == []


@pytest.mark.parametrize(
    ("came", "born", "ripe"),
    [
        (exactly(BACK), exactly(BACK), BACK + 9),  # we saw it come back
        (Interval(-math.inf, BACK), exactly(BACK - 100), None),  # history unknown: told alone
        (Interval(-math.inf, BACK), exactly(BACK - 1), BACK + 9),  # but it is younger than the worker
    ],
)
def test_a_daemon_that_did_not_see_mongodb_return_tells_it_alone(
    came: Interval, born: Interval, ripe: Mono | None
) -> None:
    one = waits(worker(2, ready=BACK - 50), BACK + 6, BACK + 9)
    found = find(snapshot(instance(one), members=[member(served_since=came, born=born)]))
    assert ripe_ats(found, Kind.WAITING) == [ripe]


def test_of_an_app_that_was_found_it_counts_once_it_was_seen_to_use_this_mongodb() -> None:
    it, found = instance(waits(worker(2), BACK + 6, BACK + 9)), replace(config(), instances=None)
    assert ripe_ats(detect(snapshot(it), found)[SHOP_ID], Kind.WAITING) == [None]
    met = replace(it, met=frozenset({"main"}))
    assert ripe_ats(detect(snapshot(met), found)[SHOP_ID], Kind.WAITING) == [BACK + 9]


# ---- orphaned


def elected(**changes: object) -> list[Member]:
    """OLD was primary until BACK, and NEW is since then."""
    took = exactly(BACK)
    return [secondary(OLD, **changes), member(NEW, took_over=took, born=exactly(0.0))]


def lonely(*, used: Mono | None = None, threads: int = 1, ready: Mono = 100.0) -> Instance:
    return instance(replace(worker(2, used=used, ready=ready), threads=threads))


OWN = connection(2, host=OLD)


@pytest.mark.parametrize(
    ("it", "idle", "ripe"),
    [
        (lonely(used=BACK + 10), Idle.RELOAD, [BACK + 12]),
        (lonely(used=BACK + 10), Idle.LEAVE, [BACK + 12]),
        (lonely(), Idle.RELOAD, [BACK + 60]),
        (lonely(), Idle.LEAVE, [None]),
        (lonely(used=BACK - 10), Idle.LEAVE, [None]),  # before the election
        (lonely(threads=3), Idle.RELOAD, []),  # it may have a monitor
        (lonely(ready=BACK + 1), Idle.RELOAD, []),  # forked since
    ],
)
def test_who_has_only_connections_to_the_old_primary_and_one_thread_is_orphaned(
    it: Instance, idle: Idle, ripe: list[Mono | None]
) -> None:
    assert ripe_ats(find(snapshot(it, OWN, members=elected()), idle=idle), Kind.ORPHANED) == ripe


def test_who_reached_the_new_primary_or_never_had_a_connection_is_no_orphan() -> None:
    reached = instance(replace(worker(2, reached=[NEW], ready=100.0), threads=1))
    assert of(find(snapshot(reached, OWN, members=elected())), Kind.ORPHANED) == []
    assert of(find(snapshot(lonely(), members=elected())), Kind.ORPHANED) == []
    assert of(find(snapshot(lonely(), OWN, members=[member(OLD), secondary(NEW)])), Kind.ORPHANED) == []


def test_of_an_orphan_one_request_that_waits_is_enough() -> None:
    it = instance(waits(worker(2, ready=100.0), BACK + 6))
    assert ripe_ats(find(snapshot(it, OWN, members=elected())), Kind.WAITING) == [BACK + 6]


# ---- born early


def forked(ready: Mono, **changes: object) -> Instance:
    one = replace(worker(2), ready_since=Interval(ready - 1, ready), threads=1)
    return instance(one, held_by_master=frozenset({"main"}), **changes)


RETURNED = [member(outages=(Interval(BACK - 30, BACK),))]


@pytest.mark.parametrize(
    ("it", "early"),
    [
        (forked(BACK - 10), True),  # in the outage
        (forked(BACK + 2, master_sent=(Sent(member().id, BACK + 5, exactly(AT)),)), True),
        (forked(BACK + 8, master_sent=(Sent(member().id, BACK + 5, exactly(AT)),)), False),
        (forked(BACK - 60), False),  # before the outage
        (replace(forked(BACK - 10), held_by_master=frozenset()), False),  # the master has no client
        (forked(BACK - 10, master_single=True), False),  # what it was handed changes nothing
    ],
)
def test_who_was_forked_before_the_master_had_seen_mongodb_again_was_born_early(it: Instance, *, early: bool) -> None:
    found = find(snapshot(it, members=RETURNED))
    assert ripe_ats(found, Kind.BORN_EARLY) == [None] * early


def test_of_who_was_born_early_one_request_that_waits_is_enough() -> None:
    it = forked(BACK - 10)
    it = replace(it, workers=(waits(it.workers[0], BACK + 6),))
    assert ripe_ats(find(snapshot(it, members=RETURNED)), Kind.WAITING) == [BACK + 6]


# ---- leftovers after a network loss


@pytest.mark.parametrize(
    ("born", "linger"), [(exactly(BACK), 15.0), (exactly(0.0), 30.0)], ids=["restarted", "the same process"]
)
def test_after_a_network_loss_a_leftover_lingers_as_long_as_that_was(born: Interval, linger: float) -> None:
    lost = [member(born=born, outages=(Interval(BACK - 30, BACK),))]
    found = find(snapshot(instance(worker(2, used=BACK + 1)), leftover(2, 3), members=lost))
    assert ripe_ats(found, Kind.LEFTOVER) == [BACK + linger]


# ---- what comes of it


STUCK = instance(waits(worker(2), BACK + 6, BACK + 9), waits(worker(3), BACK + 6, BACK + 9))
JUST_NOW = [member(served_since=exactly(AT - 9))]
NOW_STUCK = instance(waits(worker(2), AT - 3, AT - 1), waits(worker(3), AT - 3, AT - 1))


def test_what_waits_does_not_wait_for_linger() -> None:
    seen = snapshot(NOW_STUCK, connection(1, since=exactly(AT - 7)), members=JUST_NOW)
    assert blocked_by(case(seen), due(case(seen)).command) == ()
    ticks = Ticks()
    assert Event.RELOAD_DUE in ticks.see(NOW_STUCK, connection(1, since=exactly(AT - 7)), members=JUST_NOW)
    assert ticks.sent
    assert "wait for a server that it does not find" in str(ticks.tells[-1].fields["why"])


def test_a_kind_that_is_told_only_asks_for_nothing() -> None:
    ticks = Ticks(config(tell_only=(Kind.WAITING,)))
    ticks.see(STUCK, connection(1))
    assert (ticks.sent, ticks.phase()) == (None, Phase.WATCHING)


def cured(ticks: Ticks, *after: Worker, seconds: float = 1.0) -> list[Event]:
    ticks.see(STUCK, connection(1))
    assert ticks.sent
    assert ticks.sent.command == WORKERS
    ticks.see(STUCK, connection(1))
    assert ticks.see(instance(worker(4, ready=AT), worker(5, ready=AT)), connection(1)) == [Event.RELOADED]
    return ticks.see(instance(*after), connection(1), after=seconds)


def test_connections_alone_do_not_prove_a_cure_of_requests_that_waited() -> None:
    ticks = Ticks()
    fresh = (replace(well(4), used=exactly(AT + 3)), replace(well(5), used=exactly(AT + 3)))
    assert cured(ticks, *fresh, seconds=2) == []
    assert ticks.see(instance(*fresh), connection(1), after=12) == []
    assert ticks.see(instance(*fresh), connection(1), after=4) == [Event.RECOVERED]


def test_who_has_requests_that_wait_after_its_cure_is_given_up_and_not_restarted() -> None:
    ticks = Ticks(config([WORKERS, RESTART]))
    again = waits(worker(4, ready=AT), AT + 6, AT + 9)
    assert cured(ticks, again, worker(5, ready=AT), seconds=10) == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert ticks.shop.standing.stand is Stand.GAVE_UP


def test_an_incident_is_not_healed_while_a_worker_works_that_was_not_seen_to_reach_mongodb() -> None:
    ticks, it = Ticks(), instance(worker(2, used=BACK + 1), well(3))
    ticks.see(it, members=[down()])
    back = [member(served_since=exactly(AT))]
    assert ticks.see(it, after=30, members=back) == []
    assert ticks.phase() is Phase.SETTLING
    assert ticks.see(instance(well(2), well(3)), members=back) == [Event.HEALED]


def test_after_a_minute_it_is_said_that_it_was_not_seen_to_be_well_and_healed_is_told_when_it_was() -> None:
    ticks, it = Ticks(), instance(worker(2, used=BACK + 1), well(3))
    ticks.see(it, members=[down()])
    back = [member(served_since=exactly(AT))]
    ticks.see(it, after=30, members=back)
    assert ticks.see(it, after=31, members=back) == [Event.UNPROVEN]
    assert ticks.tells[0].fields == {"nobody": False, "workers": 1}
    assert ticks.phase() is Phase.WATCHING
    assert ticks.see(it, after=3600, members=back) == []
    assert ticks.shop.incident
    assert ticks.see(instance(well(2), well(3)), members=back) == [Event.HEALED]
    assert ticks.shop.incident is None


# ---- what hangs


def hung(number: int, kind: Hang = Hang.GIL, *, ignores_hup: bool = False) -> Worker:
    seen = Hung(kind, exactly(AT - 3))
    return replace(worker(number, ready=None), threads=1, hung=seen, ignores_hup=ignores_hup)


def ends(ticks: Ticks) -> list[EndProcess]:
    assert ticks.decision
    return [one for one in ticks.decision.effects if isinstance(one, EndProcess)]


def ended(ticks: Ticks, it: Instance, result: Result, detail: str = "") -> list[Event]:
    """What is told once this has become of the ends of the last tick."""
    asked = ends(ticks)
    assert asked
    ticks.outcomes = tuple(Outcome(one.id, result, ticks.at, detail, one.process) for one in asked)
    return ticks.see(it)


def test_who_hangs_is_told_and_ended_in_calm() -> None:
    ticks, it = Ticks(), instance(well(2), hung(3))
    assert ticks.see(it) == [Event.HUNG_FOUND]
    assert [one.process for one in ends(ticks)] == [pid(3)]
    assert len(ticks.shop.ends.rounds) == 0


@pytest.mark.parametrize("result", [Result.TRY_AGAIN, Result.CHANGED])
def test_who_could_not_be_ended_is_tried_again_a_second_later_and_told_if_it_lasts(result: Result) -> None:
    ticks, it = Ticks(), instance(well(2), hung(3))
    ticks.see(it)
    assert ended(ticks, it, result, "the helper did not answer") == []
    assert ends(ticks) == []  # a tick follows an outcome at once
    assert ticks.see(it, after=SOON_S) == []
    assert [one.process for one in ends(ticks)] == [pid(3)]
    assert ended(ticks, it, result, "the helper did not answer") == [Event.HUNG_LEFT]
    assert ticks.tells[0].fields["reason"] == "the helper did not answer"
    assert ticks.see(it, after=AGAIN_S - 1) == []
    assert ends(ticks) == []
    assert ticks.see(it) == []
    assert [one.process for one in ends(ticks)] == [pid(3)]
    assert ticks.shop.ends.rounds == ()


def test_an_end_of_which_nobody_knows_is_asked_for_again() -> None:
    ticks, it = Ticks(), instance(well(2), hung(3))
    ticks.see(it)
    assert ticks.see(it) == []  # the daemon was killed before it did it
    assert [one.process for one in ends(ticks)] == [pid(3)]


def test_its_end_is_told_and_the_next_one_that_hangs_is_ended_too_at_most_three_times() -> None:
    ticks = Ticks()
    for number in range(3, 3 + ROUNDS):
        assert ticks.see(instance(well(2), hung(number))) == [Event.HUNG_FOUND]
        assert ended(ticks, instance(well(2), well(number)), Result.ENDED) == [Event.HUNG_ENDED]
    assert ticks.see(instance(well(2), hung(9))) == [Event.HUNG_FOUND, Event.HUNG_LEFT]
    assert ends(ticks) == []
    assert ticks.see(instance(well(2), hung(9)), after=601) == []
    assert [one.process for one in ends(ticks)] == [pid(9)]


def test_who_may_not_be_ended_is_told_once_with_the_reason_and_tried_again() -> None:
    ticks, it = Ticks(), instance(well(2), hung(3))
    ticks.see(it)
    assert ended(ticks, it, Result.REFUSED, "nobody may end it") == [Event.HUNG_LEFT]
    assert ticks.tells[0].fields["reason"] == "nobody may end it"
    assert ticks.see(it, after=58) == []
    assert ends(ticks) == []
    assert ticks.see(it, after=2) == []
    assert [one.process for one in ends(ticks)] == [pid(3)]
    assert ended(ticks, it, Result.REFUSED, "nobody may end it") == []


def test_who_is_deadlocked_in_its_own_code_is_told_and_never_ended() -> None:
    ticks, it = Ticks(), instance(well(2), hung(3, Hang.OWN_CODE))
    assert ticks.see(it) == [Event.HUNG_FOUND, Event.HUNG_LEFT]
    assert ends(ticks) == []
    assert ticks.see(it) == []


@pytest.mark.parametrize("how", ["observe", "paused", "blind", "tell_only"])
def test_what_holds_a_reload_holds_an_end_too(how: str) -> None:
    using = config(tell_only=(Kind.HUNG,)) if how == "tell_only" else config()
    ticks = Ticks(replace(using, mode=Mode.OBSERVE) if how == "observe" else using)
    it = instance(well(2), hung(3))
    ticks.see(it, ask=Verb.PAUSE if how == "paused" else None, blind="sockets" if how == "blind" else None)
    assert ends(ticks) == []


@pytest.mark.parametrize(
    ("changes", "may"),
    [
        ({"met": frozenset({"main"}), "uid": 33}, True),
        ({"uid": 33}, False),
        ({"met": frozenset({"main"}), "uid": 0}, False),
    ],
)
def test_of_a_found_instance_only_who_uses_mongodb_and_is_not_roots_is_ended(
    changes: dict[str, object], *, may: bool
) -> None:
    it = instance(well(2), hung(3), **changes)
    assert bool(to_end(case(snapshot(it), using=replace(config(), instances=None)))) is may


def who_ends_3(using: Config, *, kind: Hang = Hang.GIL, **changes: object) -> str:
    it = instance(well(2), hung(3, kind), **changes)
    return who_ends(case(snapshot(it), using=using))[pid(3)]


def test_of_each_that_hangs_it_is_said_what_ends_it() -> None:
    safe = "`kill -9 3` is safe: it has no request, and uWSGI makes it anew"
    named, found = config(), replace(config(), instances=None)
    assert who_ends_3(named) == "the daemon ends it, and uWSGI makes it anew"
    assert who_ends_3(config(tell_only=(Kind.HUNG,))) == safe
    assert who_ends_3(found) == f"{safe}; named under `uwsgi:` it is ended by the daemon"
    assert who_ends_3(found, met=frozenset({"main"})) == "the daemon ends it, and uWSGI makes it anew"
    assert who_ends_3(replace(named, mode=Mode.OBSERVE)).startswith(
        f"{safe}; the daemon does not end it: mode is observe"
    )
    assert who_ends_3(named, kind=Hang.OWN_CODE).endswith("look into the app")
    assert "`enable-threads`" in who_ends_3(named, threads_off=True)
    left = InstanceState(ends=Ends(left="process 3 is of another user: `kill -9 3` is safe"))
    it = instance(well(2), hung(3))
    assert who_ends(case(snapshot(it), state=left))[pid(3)] == left.ends.left
    assert who_ends(case(snapshot(instance(well(2))))) == {}


def test_a_deadlocked_worker_of_the_first_generation_does_not_hold_a_reload_of_the_workers() -> None:
    first = instance(waits(worker(2), BACK + 6, BACK + 9), hung(3, Hang.OWN_CODE, ignores_hup=True))
    assert "not_ready" not in [one.gate for one in blocked_by(case(snapshot(first, connection(1))), WORKERS)]
    later = instance(waits(worker(2), BACK + 6, BACK + 9), hung(3, Hang.OWN_CODE, ignores_hup=False))
    assert "not_ready" in [one.gate for one in blocked_by(case(snapshot(later, connection(1))), WORKERS)]


def test_what_cannot_be_judged_is_said_so_with_the_mend() -> None:
    it = instance(well(2), replace(worker(3, ready=None), threads=1, unjudged="CAP_SYS_PTRACE is missing"))
    said = case(snapshot(it)).not_ready
    assert "whether worker 3 hangs cannot be seen: CAP_SYS_PTRACE is missing" in said
    assert "`kill -9 3`" in said


# ---- how closely it is looked at


def test_after_a_return_it_is_looked_at_closely_for_90_s_and_longer_only_for_who_is_stuck() -> None:
    assert find(snapshot(instance(well(2)))).suspected_until == BACK + 90
    assert find(snapshot(instance(well(2)), members=[down()])).suspected_until == -math.inf
    assert find(snapshot(lonely(), OWN, members=elected()), idle=Idle.LEAVE).suspected_until == math.inf


def test_where_threads_are_off_it_is_told_once_nobody_is_ended_and_only_a_restart_helps() -> None:
    ticks = Ticks(config([WORKERS, RESTART]))
    calm = instance(well(2), threads_off=True)
    assert ticks.see(calm) == [Event.THREADS_OFF]
    assert ticks.see(calm) == []
    assert ticks.see(replace(calm, workers=(well(2), hung(3)))) == [Event.HUNG_FOUND, Event.HUNG_LEFT]
    assert ends(ticks) == []
    stuck = instance(worker(2, used=BACK + 1), worker(3, used=BACK + 1), threads_off=True)
    ticks = Ticks(config([WORKERS, RESTART]))
    ticks.see(stuck, leftover(2, 3))
    assert ticks.sent
    assert ticks.sent.command is RESTART
