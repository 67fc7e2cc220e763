from dataclasses import replace
from typing import Any

import pytest

from tests.world.apps import Kind
from tests.world.pieces import (
    AT,
    BACK,
    FIFO,
    MASTER,
    SHOP_ID,
    config,
    connection,
    down,
    exactly,
    instance,
    leftover,
    member,
    pid,
    pids,
    snapshot,
    stranded,
    well,
    worker,
)
from tests.world.ticks import Ticks
from tests.world.world import World, busy_app
from watchdogd.config import Budget, Mode
from watchdogd.core.case import ACCESS_CAUSE_FOR_S
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command, Incarnation, ProcessId
from watchdogd.model.done import Outcome, Result, SendFifo
from watchdogd.model.remembered import FINE, Phase, ReloadOutcome, Stand
from watchdogd.model.seen import Access, Connection, Instance, MemberState, Verb
from watchdogd.model.told import Event

SPAN = 10.0 + 2.0 + 30.0  # mercy, two check intervals, loading
COOLDOWN = 60.0
HALF_OPEN = 1800.0

STUCK = instance(stranded(2), stranded(3))
HELD = (leftover(2, 3), connection(1))  # what STUCK holds, and what makes a fork safe


def new(*numbers: int, used: float | None = None, well: bool = False) -> Instance:
    """Workers that were forked by a reload just after AT."""
    reached = ["10.0.0.1"] if well else []
    return instance(*(worker(number, ready=AT + 1, used=used, reached=reached) for number in numbers))


def begun(ticks: Ticks | None = None) -> Ticks:
    """A `w` was decided at AT."""
    ticks = ticks or Ticks()
    told = ticks.see(STUCK, *HELD)
    assert told == [Event.LEFTOVERS_FOUND, Event.RELOAD_DUE]
    assert ticks.phase() is Phase.RELOADING
    return ticks


def verifying(ticks: Ticks | None = None) -> Ticks:
    """All processes are new; it is AT + 2."""
    ticks = begun(ticks)
    ticks.see(STUCK, *HELD)
    assert ticks.see(new(4, 5)) == [Event.RELOADED]
    assert ticks.phase() is Phase.VERIFYING
    return ticks


# ---- the whole story


def test_a_stuck_app_is_reloaded_once_when_linger_is_over_and_every_event_is_told_once() -> None:
    world = busy_app(Kind.PREFORK)
    world.outage(10)
    back = world.clock.now
    world.run_until(lambda: bool(world.daemon.sent))
    assert world.clock.now - back == pytest.approx(15, abs=1)
    world.run(600)
    assert world.apps[0].executed == [WORKERS]
    assert world.works(world.apps[0])
    assert world.events() == ["leftovers_found", "reload_due", "reload_sent", "reloaded", "recovered"]
    assert len({tell.incident for tell in world.daemon.told}) == 1
    assert world.last(Event.RECOVERED).fields["workers"] == 3


@pytest.mark.parametrize("kind", [Kind.LAZY, Kind.THREADS_OFF, Kind.RESIDUE])
def test_an_app_that_heals_is_left_alone(kind: Kind) -> None:
    world = busy_app(kind)
    world.outage(10)
    world.run(600)
    assert world.apps[0].executed == []
    assert "reload_due" not in world.events()


def test_a_restart_faster_than_any_look_is_no_other_story() -> None:
    world = busy_app(Kind.PREFORK)
    for one in world.apps[0].workers:
        one.stranded = True  # a request met the moment
    world.restart()
    world.run(60)
    assert world.apps[0].executed == [WORKERS]
    assert world.phase() is Phase.WATCHING


def test_after_the_first_daemon_is_killed_at_any_point_the_next_one_ends_the_story_with_the_same_single_reload() -> (
    None
):
    for effects in range(3):
        for later in range(13, 28, 2):  # from before it is due until it is proven
            world = busy_app(Kind.PREFORK)
            world.outage(10)
            world.run(later)
            world.daemon.dies_after = effects
            world.run(90)
            assert world.apps[0].executed == [WORKERS], (effects, later)
            assert world.phase() is Phase.WATCHING


# ---- the byte


def test_the_effect_names_the_world_that_it_was_decided_on() -> None:
    sent = begun().sent
    assert sent == SendFifo("shop-1790001000-2", SHOP_ID, FIFO, WORKERS, MASTER, pids(2, 3), 33)


def test_the_intent_is_in_the_memory_that_is_saved_before_the_byte() -> None:
    reload = begun().shop.reload
    assert reload
    assert (reload.old, reload.sent_at, reload.deadline) == (pids(2, 3), None, AT + SPAN)
    assert reload.cookies == {7}
    assert reload.incarnations == {"10.0.0.1#2"}


def test_that_it_was_sent_is_told_when_it_was() -> None:
    ticks = begun()
    assert ticks.see(STUCK, *HELD) == [Event.RELOAD_SENT]
    assert ticks.tells[0].fields == {"command": "w", "workers": 2, "resent": False, "fifo": FIFO}
    assert ticks.see(STUCK, *HELD) == []


@pytest.mark.parametrize("result", [Result.CHANGED, Result.REFUSED])
def test_an_operator_is_told_that_his_reload_was_not_sent(result: Result) -> None:
    ticks = Ticks(result=result, detail="worker 4 is new")
    ticks.see(instance(well(2)), connection(1), ask=Verb.RELOAD)
    assert ticks.answer.ok
    told = ticks.see(instance(well(2)), connection(1))
    assert told == [Event.RELOAD_UNSENT]
    assert ticks.tells[0].fields == {"command": "w", "reason": "worker 4 is new", "again": False}
    assert ticks.see(instance(well(2)), connection(1), after=COOLDOWN) == []
    assert ticks.shop.spent == ()


def test_a_fifo_that_is_being_made_anew_is_tried_again_for_5_s() -> None:
    ticks = begun(Ticks(result=Result.TRY_AGAIN))
    tries = 0
    while ticks.phase() is Phase.RELOADING:
        ticks.see(STUCK, *HELD, after=0.1)
        tries += ticks.sent is not None
    assert ticks.told == [Event.RELOAD_UNSENT]
    assert ticks.at == pytest.approx(AT + 5, abs=0.5)
    assert 10 < tries < 20  # one in 0.25 s, and not one in every tick
    assert not ticks.shop.standing.in_doubt
    assert [one.gate for one in ticks.outlook.blocked_by] == ["cooldown"]
    ticks.see(STUCK, *HELD)
    assert ticks.sent


def test_when_a_later_try_arrives_the_reload_goes_on_as_usual() -> None:
    ticks = begun(Ticks(result=Result.TRY_AGAIN))
    ticks.see(STUCK, *HELD, after=0.01)
    assert ticks.sent is None
    assert ticks.decision
    assert ticks.decision.wake_at == pytest.approx(AT + 0.26)
    ticks.result = Result.WRITTEN
    ticks.see(STUCK, *HELD)
    assert ticks.sent
    assert ticks.see(STUCK, *HELD) == [Event.RELOAD_SENT]
    assert len(ticks.shop.spent) == 1


@pytest.mark.parametrize("why", ["paused", "observed", "blind", "outage", "healed"])
def test_between_two_tries_everything_is_asked_again(why: str) -> None:
    ticks = begun(Ticks(result=Result.TRY_AGAIN))
    if why == "observed":
        ticks.config = replace(ticks.config, mode=Mode.OBSERVE)
    one, members = (instance(well(2), well(3)), None) if why == "healed" else (STUCK, None)
    ticks.see(STUCK, *HELD, after=0.01)
    ticks.see(
        one,
        *HELD,
        ask=Verb.PAUSE if why == "paused" else None,
        blind="sockets" if why == "blind" else None,
        members=[down()] if why == "outage" else members,
    )
    assert ticks.sent is None
    assert ticks.shop.reload is None
    assert (ticks.shop.spent, ticks.shop.standing) == ((), FINE)
    assert Event.RELOAD_FAILED not in ticks.told
    assert Event.OVERTAKEN not in ticks.told


def test_what_became_of_another_reload_is_not_taken_for_this_one() -> None:
    ticks = begun()
    other = Outcome("another-1", Result.REFUSED, AT, "not a FIFO")
    seen = replace(snapshot(STUCK, *HELD), at=AT + 1, outcomes=(other,))
    decision = decide(ticks.state, detect(seen, ticks.config), seen, ticks.config)
    assert decision.state.instances[SHOP_ID].reload == ticks.shop.reload
    assert decision.effects == ()


def test_what_an_operator_asked_for_is_tried_again_though_nothing_is_due() -> None:
    fine = instance(well(2), well(3))
    ticks = Ticks(result=Result.TRY_AGAIN)
    ticks.see(fine, ask=Verb.RELOAD)
    ticks.see(fine, after=0.01)
    ticks.result = Result.WRITTEN
    ticks.see(fine, after=0.25)
    assert ticks.sent
    assert ticks.see(fine) == [Event.RELOAD_SENT]


def test_an_app_that_heals_before_the_byte_could_be_written_is_told_to_be_healed() -> None:
    ticks = begun(Ticks(result=Result.TRY_AGAIN))
    ticks.see(STUCK, *HELD, after=0.01)
    assert ticks.see(instance(well(2), well(3)), *HELD) == [Event.HEALED]
    assert ticks.phase() is Phase.WATCHING


def test_what_changed_right_before_the_byte_is_as_if_nothing_had_been_decided() -> None:
    ticks = begun(Ticks(result=Result.CHANGED))
    respawned = instance(stranded(2), worker(4, ready=AT))
    assert ticks.see(respawned, *HELD, after=0.01) == []
    assert (ticks.phase(), ticks.shop.reload, ticks.shop.spent) == (Phase.DUE, None, ())
    assert ticks.shop.last
    assert ticks.shop.last.outcome is ReloadOutcome.DROPPED
    ticks.see(respawned, *HELD, after=1)
    assert ticks.sent
    assert ticks.sent.workers == pids(2, 4)


def test_what_changes_at_every_look_is_neither_a_hot_loop_nor_a_line_per_second() -> None:
    ticks = begun(Ticks(result=Result.CHANGED))
    sent = told = 0
    for _ in range(100):
        told += len(ticks.see(STUCK, *HELD, after=0.1))
        sent += ticks.sent is not None
    assert 5 < sent <= 10
    assert told == 0


def test_a_refused_byte_is_no_reload_and_says_nothing_of_what_it_would_have_cured() -> None:
    ticks = begun(Ticks(result=Result.REFUSED))
    assert ticks.see(STUCK, *HELD) == [Event.RELOAD_UNSENT]
    assert ticks.tells[0].fields["reason"] == "as it is"
    assert (ticks.shop.standing, ticks.shop.spent) == (FINE, ())
    assert [one.gate for one in ticks.outlook.blocked_by] == ["cooldown"]


def test_bytes_that_are_refused_are_told_once_and_tried_ever_more_seldom_until_one_is_written() -> None:
    ticks = begun(Ticks(result=Result.REFUSED))
    waits: list[float] = []
    told: list[Event] = []
    since = ticks.at
    while len(waits) < 8:
        told += ticks.see(STUCK, *HELD, after=0.5)
        if ticks.sent:
            waits.append(ticks.at - since)
            since = ticks.at
    assert waits == [pytest.approx(one, abs=1.1) for one in [1, 2, 4, 8, 16, 32, 60, 60]]
    assert told == [Event.RELOAD_UNSENT]
    assert len(ticks.shop.spent) == 1  # of the one that is in flight
    ticks.result = Result.WRITTEN
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD, after=60)
    assert ticks.see(STUCK, *HELD) == [Event.RELOAD_SENT]
    assert (ticks.shop.unsent, len(ticks.shop.spent)) == (None, 1)


def test_another_reason_why_a_byte_is_refused_is_told_too() -> None:
    ticks = begun(Ticks(result=Result.REFUSED))
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.detail = "another one"
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD, after=10)
    assert ticks.see(STUCK, *HELD) == [Event.RELOAD_UNSENT]
    assert ticks.tells[0].fields["reason"] == "another one"


# ---- a byte that was lost


def test_a_byte_that_was_lost_is_sent_once_more_at_the_deadline_and_never_a_third_time() -> None:
    ticks = begun()
    assert ticks.sent
    first = ticks.sent.id
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD, after=SPAN - 1.1)
    assert ticks.sent is None
    ticks.see(STUCK, *HELD, after=0.2)
    assert ticks.sent
    assert ticks.shop.reload
    assert ticks.sent.id == ticks.shop.reload.id == first
    assert ticks.see(STUCK, *HELD) == [Event.RELOAD_SENT]
    assert ticks.tells[0].fields["resent"] is True
    assert len(ticks.shop.spent) == 1
    assert ticks.see(STUCK, *HELD, after=SPAN) == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert ticks.tells[0].fields["reason"] == "2 of 2 old workers are still there"
    assert ticks.sent is None


def test_after_a_crash_between_save_and_write_it_is_the_same() -> None:
    ticks = begun(Ticks(result=None))
    ticks.see(STUCK, *HELD, after=SPAN - 1)
    assert ticks.sent is None
    ticks.see(STUCK, *HELD)
    assert ticks.sent


def test_a_byte_of_which_nobody_knows_is_not_sent_again_where_it_had_its_effect() -> None:
    ticks = begun(Ticks(result=None))
    assert ticks.see(new(4, 5), after=5) == [Event.RELOADED]


def test_what_is_sent_once_more_is_for_the_workers_that_are_there_now() -> None:
    ticks = begun()
    grown = instance(stranded(2), stranded(3), stranded(4))
    ticks.see(grown, *HELD, after=SPAN + 1)
    assert ticks.sent
    assert ticks.sent.workers == pids(2, 3, 4)


def test_one_old_worker_that_is_gone_shows_that_the_byte_was_not_lost() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    partly = instance(stranded(2), worker(4, ready=AT))
    ticks.see(partly, *HELD, after=5)
    assert ticks.see(partly, *HELD, after=SPAN) == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert ticks.tells[0].fields["reason"] == "1 of 2 old workers are still there"


def test_an_app_that_healed_before_the_deadline_is_not_sent_a_second_byte() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(instance(well(2), well(3)), *HELD, after=SPAN) == [Event.HEALED]
    assert (ticks.phase(), len(ticks.shop.spent)) == (Phase.WATCHING, 1)


@pytest.mark.parametrize("result", [Result.WRITTEN, None], ids=["written", "nobody knows"])
def test_a_lost_byte_that_may_not_be_sent_again_now_has_spent_its_reload(result: Result | None) -> None:
    ticks = begun(Ticks(result=result))
    ticks.see(STUCK, *HELD)
    assert ticks.see(STUCK, *HELD, after=SPAN, ask=Verb.PAUSE)[:2] == [Event.PAUSED, Event.RELOAD_UNSENT]
    assert len(ticks.shop.spent) == 1


def test_an_app_that_healed_while_nobody_knew_of_its_byte_has_spent_its_reload() -> None:
    ticks = begun(Ticks(result=None))
    assert ticks.see(instance(well(2), well(3)), *HELD, after=SPAN) == [Event.HEALED]
    assert len(ticks.shop.spent) == 1


def test_a_lost_byte_that_may_not_be_sent_again_now_is_not_given_up_for() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD, ask=Verb.PAUSE)
    assert ticks.see(STUCK, *HELD, after=SPAN) == [Event.RELOAD_UNSENT, Event.RELOAD_HELD]
    assert "paused" in str(ticks.tells[0].fields["reason"])
    assert ticks.sent is None
    assert ticks.phase() is Phase.DUE
    ticks.see(STUCK, *HELD, ask=Verb.RESUME)
    ticks.see(STUCK, *HELD, after=COOLDOWN)
    assert ticks.sent


def test_a_change_at_the_second_byte_is_the_late_work_of_the_first() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    ticks.result = Result.CHANGED
    ticks.see(STUCK, *HELD, after=SPAN)
    assert ticks.sent
    ticks.see(instance(stranded(2)), *HELD)
    assert ticks.phase() is Phase.RELOADING
    assert ticks.see(new(4, 5)) == [Event.RELOADED]


def test_a_second_byte_that_cannot_be_written_ends_the_reload_unsent() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    ticks.result = Result.TRY_AGAIN
    ticks.see(STUCK, *HELD, after=SPAN)
    ticks.see(STUCK, *HELD, after=0.01)
    assert ticks.see(STUCK, *HELD, ask=Verb.PAUSE) == [Event.PAUSED, Event.RELOAD_UNSENT, Event.RELOAD_HELD]


@pytest.mark.parametrize("how", ["paused", "outage"])
def test_a_second_byte_that_could_not_be_written_gives_nothing_of_the_budget_back(how: str) -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    ticks.result = Result.TRY_AGAIN
    ticks.see(STUCK, *HELD, after=SPAN)
    assert ticks.sent
    ticks.see(STUCK, *HELD, after=0.01)
    if how == "paused":
        assert Event.RELOAD_UNSENT in ticks.see(STUCK, *HELD, ask=Verb.PAUSE)
    else:
        assert Event.OVERTAKEN in ticks.see(STUCK, *HELD, members=[down()])
    assert ticks.outlook.reloads_left == 2


# ---- the budget


def spend(ticks: Ticks, number: int) -> None:
    """So many reloads that an operator asks for, and that nobody sees the proof of: no request comes."""
    for one in range(number):
        old = new(20 + 2 * one, 21 + 2 * one)
        ticks.see(old, ask=Verb.RELOAD)
        assert ticks.sent
        ticks.see(old)
        assert Event.RELOADED in ticks.see(new(22 + 2 * one, 23 + 2 * one))


def test_an_app_that_every_reload_cures_is_not_reloaded_more_often_than_the_ceiling() -> None:
    world = busy_app(Kind.PREFORK)
    world.change(budget=Budget(unproven=2, total=3, per_s=3600.0))
    for _ in range(5):
        world.outage(10)
        world.run(120)
    assert world.events().count("recovered") == 3
    assert world.apps[0].executed == [WORKERS] * 3
    assert world.last(Event.RELOAD_HELD).fields.get("blocked_by") == "budget"


@pytest.mark.parametrize("how", ["proven", "dropped", "refused"])
def test_a_reload_that_costs_nothing_unproven_leaves_the_others_in_the_budget(how: str) -> None:
    ticks = Ticks(config(budget=Budget(unproven=4, total=12, per_s=3600.0)))
    spend(ticks, 1)
    first_at = ticks.at - 2
    ticks.at += 1000
    spend(ticks, 1)
    ticks.result = {"proven": Result.WRITTEN, "dropped": Result.CHANGED, "refused": Result.REFUSED}[how]
    fine = new(30, 31)
    ticks.see(fine, ask=Verb.RELOAD)
    ticks.see(fine)
    if how == "proven":
        ticks.see(new(32, 33))
        assert ticks.see(new(32, 33, used=ticks.at, well=True)) == [Event.RECOVERED]
    assert ticks.outlook.reloads_left == 2
    ticks.see(fine, after=first_at + 3600 - ticks.at)
    assert ticks.outlook.reloads_left == 3, "the first one counts no more, and the second one does"


@pytest.mark.parametrize(
    ("budget", "left"),
    [(Budget(3, 12, 3600), 1), (Budget(9, 3, 3600), 1), (Budget(1, 12, 3600), 0), (Budget(9, 1, 3600), 0)],
)
def test_as_many_reloads_are_left_as_the_budget_and_its_ceiling_both_allow(budget: Budget, left: int) -> None:
    ticks = Ticks()
    spend(ticks, 2)
    ticks.config = config(budget=budget)
    ticks.see(new(24, 25))
    assert ticks.outlook.reloads_left == left


# ---- the processes


@pytest.mark.parametrize(
    ("now", "connections"),
    [
        (instance(worker(4, ready=AT + 1), stranded(3)), ()),  # an old one is still there
        (instance(worker(4, ready=AT + 1), worker(5, ready=AT + 1), stranded(3)), ()),  # beside as many new ones
        (instance(worker(4, ready=AT + 1), worker(5, ready=None)), ()),  # one loads its app
        (instance(), ()),  # all are gone, and none has come
        (new(4, 5), (leftover(4, 5),)),  # they hold what the old ones held
    ],
)
def test_a_reload_is_complete_only_with_as_many_ready_new_workers_that_hold_nothing_old(
    now: Instance, connections: tuple[Connection, ...]
) -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(now, *connections) == []
    assert ticks.see(now, *connections, after=5.0) == []  # though nothing has moved for longer than with cheaper
    assert ticks.phase() is Phase.RELOADING


def test_other_connections_of_the_new_workers_do_not_matter() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(new(4, 5), leftover(4, 5, cookie=99), connection(4)) == [Event.RELOADED]


def test_with_cheaper_fewer_come_back_and_3_s_without_news_are_all_of_them() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(new(4)) == []
    assert ticks.see(new(4), after=2.9) == []
    assert ticks.see(new(4), after=0.2) == [Event.RELOADED]


def test_what_cannot_be_seen_is_neither_complete_nor_failed() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(new(4, 5), blind="sockets") == [Event.BLIND]
    assert ticks.see(new(4, 5), blind="sockets", after=2 * SPAN) == []
    assert ticks.phase() is Phase.RELOADING
    assert ticks.see(new(4, 5)) == [Event.SEEING_AGAIN, Event.RELOADED]


def test_before_anything_was_heard_of_mongodb_again_nothing_is_missed() -> None:
    ticks = begun()
    assert ticks.see(STUCK, *HELD, after=SPAN + 1, members=[]) == [Event.RELOAD_SENT]
    ticks.see(STUCK, *HELD, after=SPAN + 1, members=[])
    assert (ticks.phase(), ticks.sent) == (Phase.RELOADING, None)


def test_each_worker_of_a_chain_has_the_whole_time_again() -> None:
    ticks = Ticks()
    workers = [stranded(2), stranded(3), well(4)]
    ticks.see(instance(*workers), *HELD)
    assert ticks.sent
    assert ticks.sent.command == CHAIN
    ticks.see(instance(*workers), *HELD)
    for number in (2, 3, 4):
        workers = [worker(10 + number, ready=AT + 1), *workers[:-1]]
        ticks.see(instance(*workers), after=SPAN - 1)
        assert ticks.phase() is (Phase.VERIFYING if number == 4 else Phase.RELOADING)


def test_a_chain_that_stands_still_has_failed() -> None:
    ticks = Ticks()
    ticks.see(instance(stranded(2), well(3)), *HELD)
    ticks.see(instance(worker(4, ready=AT), well(3)), *HELD)
    assert ticks.see(instance(worker(4, ready=AT), well(3)), *HELD, after=SPAN)[:1] == [Event.RELOAD_FAILED]


@pytest.mark.parametrize(
    ("now", "connections", "reason"),
    [
        (new(4, 5), (leftover(1, 4, 5),), "the new workers hold the old connection too: they have it from the master"),
        (
            instance(worker(4, ready=AT), worker(5, ready=None)),
            (),
            ("the new workers did not become ready: 1 of 2 workers are loading the app"),
        ),
        (instance(), (), "the new workers did not become ready: there is no worker"),
    ],
)
def test_a_missed_deadline_has_its_reason(now: Instance, connections: tuple[Connection, ...], reason: str) -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(now, *connections, after=SPAN) == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert ticks.tells[0].fields["reason"] == reason


def test_what_new_workers_hold_from_a_single_master_does_not_keep_their_reload_from_being_complete() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    assert ticks.see(replace(new(4, 5), master_single=True), leftover(1, 4, 5)) == [Event.RELOADED]
    works = replace(new(4, 5, used=AT + 3, well=True), master_single=True)
    assert ticks.see(works, leftover(1, 4, 5)) == [Event.RECOVERED]


# ---- the proof


def test_one_worker_that_is_used_and_connects_proves_recovery() -> None:
    ticks = verifying()
    one = instance(worker(4, ready=AT, used=AT + 3, reached=["10.0.0.1"]), worker(5, ready=AT))
    assert ticks.see(one) == [Event.RECOVERED]
    assert ticks.phase() is Phase.WATCHING
    assert [spent.proven for spent in ticks.shop.spent] == [True]
    assert ticks.shop.last
    assert (ticks.shop.last.outcome, ticks.shop.last.proven) == (ReloadOutcome.RECOVERED, True)
    assert ticks.shop.incident is None
    assert ticks.shop.retry_at == ticks.at + COOLDOWN


def test_the_seconds_to_recovery_count_from_the_first_sign_of_the_outage() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD, members=[down()])
    begun_at = ticks.at
    for now, held in ((STUCK, HELD), (STUCK, HELD), (new(4, 5), ()), (new(4, 5, used=AT + 3, well=True), ())):
        ticks.see(now, *held)
    assert ticks.told == [Event.RECOVERED]
    assert ticks.tells[0].fields["seconds"] == ticks.at - begun_at == 4.0


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"on": True, "turned_on": AT - 60}, "10.0.0.1:27017"),
        ({"on": True, "turned_on": AT - ACCESS_CAUSE_FOR_S}, None),
        ({"on": True}, None),
        ({"on": False}, None),
    ],
)
def test_recovered_names_the_access_control_that_was_turned_on_today(
    changes: dict[str, Any], cause: str | None
) -> None:
    usual = member()
    its = replace(usual, access=Access(usual.id, Incarnation("10.0.0.1#2"), **changes))
    ticks = verifying()
    assert ticks.see(new(4, 5, used=AT + 3, well=True), members=[its]) == [Event.RECOVERED]
    assert ticks.tells[0].fields["access"] == cause


def test_access_control_of_a_deployment_that_it_does_not_use_is_no_cause() -> None:
    other = member("10.0.1.1", "other")
    turned_on = replace(other, access=Access(other.id, Incarnation("10.0.1.1#2"), on=True, turned_on=AT))
    ticks = verifying()
    assert ticks.see(new(4, 5, used=AT + 3, well=True), members=[member(), turned_on]) == [Event.RECOVERED]
    assert ticks.tells[0].fields["access"] is None


def test_every_worker_that_is_used_must_have_connected() -> None:
    ticks = verifying()
    half = instance(worker(4, ready=AT, used=AT + 3, reached=["10.0.0.1"]), worker(5, ready=AT, used=AT + 3))
    assert ticks.see(half) == []
    assert ticks.see(new(4, 5, used=AT + 3, well=True)) == [Event.RECOVERED]


def test_without_traffic_it_stays_unproven_for_ever() -> None:
    ticks = verifying()
    assert ticks.see(new(4, 5), after=86400) == [Event.STILL_OPEN]
    assert ticks.phase() is Phase.VERIFYING
    assert ticks.shop.last
    assert (ticks.shop.last.outcome, ticks.shop.last.proven) == (ReloadOutcome.RELOADED, False)
    assert ticks.outlook.next_what == "a request to prove that it helped"


def test_to_be_used_for_15_s_without_a_connection_is_a_failure() -> None:
    ticks = verifying()
    used = ticks.at + 1
    assert ticks.see(new(4, 5, used=used)) == []
    assert ticks.see(new(4, 5, used=used), after=14.9) == []
    assert ticks.see(new(4, 5, used=used), after=0.2) == [Event.RELOAD_FAILED, Event.GAVE_UP]
    assert ticks.tells[0].fields["reason"] == "2 new workers work for 15 s without a connection"
    assert ticks.tells[1].fields["until_s"] == HALF_OPEN


def test_blindness_suspends_the_proof() -> None:
    ticks = verifying()
    used = ticks.at + 1
    assert ticks.see(new(4, 5, used=used), after=60, blind="deployment main") == [Event.BLIND]
    assert ticks.phase() is Phase.VERIFYING


def test_with_several_deployments_recovery_is_of_those_that_were_concerned() -> None:
    both = ("main", "other")
    members = [member(), member("10.0.1.1", "other")]
    of_other = (leftover(2, 3, host="10.0.1.1"), connection(1, host="10.0.1.1"))

    def workers(*numbers: int, ready: float, reached: list[str]) -> Instance:
        return instance(*(worker(n, used=BACK + 1, ready=ready, reached=reached) for n in numbers), deployments=both)

    ticks = Ticks(config(deployments=both))
    ticks.see(workers(2, 3, ready=0, reached=["10.0.0.1"]), *of_other, members=members)
    assert ticks.sent
    ticks.see(workers(4, 5, ready=AT, reached=["10.0.0.1"]), members=members)
    assert ticks.phase() is Phase.VERIFYING
    assert ticks.see(workers(4, 5, ready=AT, reached=["10.0.0.1"]), members=members, after=60) == []
    assert ticks.phase() is Phase.VERIFYING, "neither proven nor failed: the other deployment may not be needed"
    healed = workers(4, 5, ready=AT, reached=["10.0.1.1"])
    assert ticks.see(healed, members=members) == [Event.RECOVERED]


def test_after_a_proven_reload_comes_a_cooldown() -> None:
    ticks = verifying()
    ticks.see(new(4, 5, used=AT + 3, well=True))
    again = instance(stranded(4), stranded(5))
    held = (leftover(4, 5, cookie=9), connection(1))
    assert ticks.see(again, *held) == [Event.LEFTOVERS_FOUND, Event.RELOAD_DUE, Event.RELOAD_HELD]
    assert [(one.gate, one.until) for one in ticks.outlook.blocked_by] == [("cooldown", AT + 3 + COOLDOWN)]
    ticks.see(again, *held, after=COOLDOWN)
    assert ticks.sent


# ---- overtaken, replaced


@pytest.mark.parametrize("how", ["outage", "restart"])
def test_a_new_outage_overtakes_a_reload_and_nothing_is_sent_before_its_deadline(how: str) -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    sent_at = ticks.at - 1
    again = Incarnation("10.0.0.1#3")
    back = member(incarnation=again, served_since=exactly(AT + 3), born=exactly(AT + 3))
    assert ticks.see(STUCK, *HELD, members=[down()] if how == "outage" else [back]) == [Event.OVERTAKEN]
    assert ticks.phase() is (Phase.OUTAGE if how == "outage" else Phase.SETTLING)
    held = (leftover(2, 3), connection(1, since=exactly(AT + 8), last_data=exactly(AT + 20)))
    ticks.see(STUCK, *held, after=20, members=[back])
    assert ticks.phase() is Phase.DUE
    assert [(one.gate, one.until) for one in ticks.outlook.blocked_by] == [("in_flight", sent_at + SPAN)]
    ticks.see(STUCK, *held, after=SPAN, members=[back])
    assert ticks.sent


def test_what_was_overtaken_holds_nothing_any_more_once_its_old_workers_are_gone() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    back = member(incarnation=Incarnation("10.0.0.1#3"), served_since=exactly(AT + 3), born=exactly(AT + 3))
    ticks.see(STUCK, *HELD, members=[down()])
    held = (leftover(4, 5), connection(1, since=exactly(AT + 8), last_data=exactly(AT + 20)))
    ticks.see(instance(stranded(4), stranded(5)), *held, after=20, members=[back])
    assert ticks.sent


def test_a_chain_that_was_overtaken_may_still_take_one_worker_after_the_other() -> None:
    ticks = begun(Ticks(config([CHAIN])))
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD, members=[down()])
    assert ticks.shop.outrun
    assert ticks.shop.outrun.until == ticks.at + 2 * SPAN


def test_what_an_overtaken_reload_forked_is_in_doubt_until_it_shows_itself() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    ticks.see(instance(worker(4, ready=None), worker(5, ready=None)), members=[down()])
    back = [member(incarnation=Incarnation("#3"), served_since=exactly(AT + 5))]
    assert ticks.see(new(4, 5), after=3, members=back) == []
    assert ticks.see(new(4, 5), after=60, members=back) == []
    assert ticks.phase() is Phase.SETTLING, "no leftover, and nothing was seen that would be health"
    assert ticks.outlook.next_what == "a request to show whether the last reload helped"
    used = ticks.at
    assert ticks.see(new(4, 5, used=used), after=14, members=back) == []
    assert ticks.see(new(4, 5, used=used), after=2, members=back) == [Event.RELOAD_DUE]
    assert ticks.tells[0].fields["why"] == "2 workers of the last reload work without a connection to MongoDB"
    assert ticks.sent
    assert ticks.sent.command == WORKERS


def test_a_doubt_ends_when_the_app_is_seen_to_be_well() -> None:
    ticks = begun()
    ticks.see(STUCK, *HELD)
    ticks.see(new(4, 5), members=[down()])
    assert ticks.see(new(4, 5), after=60) == []
    assert ticks.see(new(4, 5, used=ticks.at, well=True)) == [Event.HEALED]
    assert not ticks.shop.standing.in_doubt


def test_an_outage_before_the_proof_overtakes_it_too() -> None:
    ticks = verifying()
    assert ticks.see(new(4, 5), members=[down()]) == [Event.OVERTAKEN]
    assert (ticks.phase(), ticks.shop.outrun) == (Phase.OUTAGE, None)


def test_a_secondary_that_fails_overtakes_nothing() -> None:
    ticks = verifying()
    assert ticks.see(new(4, 5), members=[member(), down("10.0.0.2")]) == []
    assert ticks.phase() is Phase.VERIFYING


@pytest.mark.parametrize(
    ("now", "told", "outcome"),
    [
        (pid(9), [Event.REPLACED], ReloadOutcome.REPLACED),
        (None, [Event.ENDED_BY_US, Event.INSTANCE_ABSENT], ReloadOutcome.ENDED_BY_US),
    ],
)
def test_another_master_ends_a_reload_and_its_incident_which_is_told_by_its_id(
    now: ProcessId | None, told: list[Event], outcome: ReloadOutcome
) -> None:
    ticks = begun()
    assert ticks.shop.incident
    id_ = ticks.shop.incident.id
    ticks.see(STUCK, *HELD)
    gone = instance(worker(12, ready=AT), master=now) if now else instance(master=None)
    assert ticks.see(gone) == told
    assert ticks.tells[0].incident == id_
    if now:
        assert "while it was being reloaded" in str(ticks.tells[0].fields["reason"])
    assert ticks.shop.incident is None
    assert (ticks.shop.reload, ticks.shop.standing, ticks.sent) == (None, FINE, None)
    assert ticks.shop.last
    assert ticks.shop.last.outcome is outcome


def test_who_stops_uwsgi_before_the_byte_or_after_all_processes_are_new_has_replaced_it() -> None:
    ticks = begun(Ticks(result=Result.TRY_AGAIN))
    ticks.see(STUCK, *HELD)
    assert ticks.see(instance(master=None)) == [Event.REPLACED, Event.INSTANCE_ABSENT]
    ticks = verifying()
    assert ticks.see(instance(master=None)) == [Event.REPLACED, Event.INSTANCE_ABSENT]
    assert "before its workers were seen to reach MongoDB" in str(ticks.tells[0].fields["reason"])


def test_a_reload_that_an_operator_asks_for_before_the_last_one_was_proven_ends_that_one_in_doubt() -> None:
    ticks = verifying()
    assert ticks.see(new(4, 5), ask=Verb.RELOAD) == [Event.RELOAD_UNPROVEN, Event.RELOAD_ASKED]
    assert ticks.sent
    assert ticks.shop.standing.stand is Stand.DOUBTFUL
    assert [one.proven for one in ticks.shop.spent] == [False, False]


def test_a_reload_outside_of_any_incident_that_is_replaced_is_told_too() -> None:
    ticks = Ticks()
    ticks.see(new(4, 5), ask=Verb.RELOAD)
    ticks.see(new(4, 5))
    assert ticks.see(instance(worker(12, ready=AT), master=pid(9))) == [Event.REPLACED]
    assert ticks.tells[0].incident is None


def test_two_incidents_of_one_second_have_two_ids() -> None:
    ticks, ids = Ticks(), []
    for _ in range(2):
        ticks.see(instance(well(2)), members=[down()], after=0.1)
        assert ticks.shop.incident
        ids.append(ticks.shop.incident.id)
        assert Event.HEALED in ticks.see(instance(well(2)), members=[member(served_since=exactly(0.0))], after=0.1)
    assert len(set(ids)) == 2


def test_a_restart_executes_the_same_master_anew_and_is_followed_through_it() -> None:
    ticks = Ticks(config([WORKERS, RESTART]))
    ticks.see(STUCK, leftover(1, 2, 3))
    assert ticks.sent
    assert ticks.sent.command == RESTART
    ticks.see(STUCK, leftover(1, 2, 3))
    assert ticks.see(instance(fifo_problem="closed")) == []
    assert ticks.see(new(4, 5)) == [Event.RELOADED]


# ---- what comes of a failure


def failed(allowed: tuple[Command, ...] = (WORKERS, CHAIN)) -> Ticks:
    """A `w` was proven not to help; the workers go on working without a connection, and hold nothing."""
    ticks = verifying(Ticks(config(allowed)))
    ticks.see(new(4, 5, used=ticks.at), after=15)
    assert Event.RELOAD_FAILED in ticks.told
    return ticks


def test_where_a_restart_is_allowed_it_is_next_once_for_each_incarnation() -> None:
    ticks = failed((WORKERS, RESTART))
    assert ticks.told == [Event.RELOAD_FAILED, Event.RELOAD_DUE, Event.RELOAD_HELD]
    assert ticks.tells[1].fields["why"] == "the last reload did not help"
    stuck = new(4, 5, used=ticks.at)
    ticks.see(stuck, after=COOLDOWN)
    assert ticks.sent
    assert ticks.sent.command == RESTART
    ticks.see(stuck)
    ticks.see(new(6, 7))
    assert ticks.phase() is Phase.VERIFYING
    assert ticks.see(new(6, 7, used=ticks.at), after=15) == [Event.RELOAD_FAILED, Event.GAVE_UP]
    ticks.see(new(6, 7, used=AT), after=COOLDOWN * 2)
    assert ticks.phase() is Phase.GAVE_UP
    assert ticks.sent is None


def test_an_app_that_heals_before_its_restart_is_spared_it() -> None:
    ticks = failed((WORKERS, RESTART))
    assert ticks.see(new(4, 5, used=AT + 3, well=True)) == [Event.HEALED]
    assert ticks.shop.standing == FINE
    ticks.see(new(4, 5, used=AT + 3, well=True), after=COOLDOWN)
    assert ticks.sent is None


def test_a_restart_that_was_due_is_not_sent_to_another_master() -> None:
    ticks = failed((WORKERS, RESTART))
    fresh = instance(worker(12, ready=AT), master=pid(9))
    ticks.see(fresh, after=COOLDOWN)
    assert (ticks.phase(), ticks.sent) == (Phase.WATCHING, None)


def test_a_restart_that_was_refused_is_still_the_next_one() -> None:
    ticks = failed((WORKERS, RESTART))
    ticks.result = Result.REFUSED
    stuck = new(4, 5, used=AT)
    ticks.see(stuck, after=COOLDOWN)
    ticks.see(stuck)
    ticks.see(stuck, after=COOLDOWN)
    assert ticks.sent
    assert ticks.sent.command == RESTART


def test_a_restart_that_is_owed_is_tried_again_though_no_worker_shows_the_need_for_it_now() -> None:
    ticks = failed((WORKERS, RESTART))
    ticks.result = Result.TRY_AGAIN
    ticks.see(new(6, 7), after=COOLDOWN)
    ticks.see(new(6, 7), after=0.01)
    ticks.see(new(6, 7), after=0.25)
    assert ticks.sent
    assert ticks.sent.command == RESTART


def test_a_restart_that_is_owed_and_no_longer_allowed_is_held_with_the_sentence_that_would_mend_it() -> None:
    ticks = failed((WORKERS, RESTART))
    ticks.config = config([WORKERS])
    ticks.see(new(6, 7), after=COOLDOWN)
    (held,) = ticks.outlook.blocked_by
    why = "a reload of the workers did not help; add `restart` to `reloads` of shop to allow it"
    assert (held.gate, held.reason) == ("not_allowed", why)


# A `w` helps no app whose master has no connection for 120 s: it gets a restart.
NEEDS_A_RESTART = (STUCK, leftover(2, 3))
FROZEN = [down(state=MemberState.FROZEN)]  # an outage that is no end of a life


def restarted() -> Ticks:
    """A restart was sent, and its byte written."""
    ticks = Ticks(config([WORKERS, RESTART]))
    ticks.see(*NEEDS_A_RESTART, after=BACK + 120 - ticks.at)
    assert ticks.sent
    assert ticks.sent.command == RESTART
    ticks.see(*NEEDS_A_RESTART)
    return ticks


def stuck_again(ticks: Ticks) -> Command | None:
    """What is sent after another outage in the same life of mongod, when a restart is needed again."""
    ticks.see(*NEEDS_A_RESTART, members=FROZEN)
    ticks.see(*NEEDS_A_RESTART, after=130, members=[member(served_since=exactly(ticks.at))])
    return ticks.sent.command if ticks.sent else None


@pytest.mark.parametrize("proven", [True, False])
def test_an_app_that_was_well_in_between_may_have_another_restart(proven: bool) -> None:
    ticks = restarted()
    if proven:
        ticks.see(new(4, 5))
        assert ticks.see(new(4, 5, used=ticks.at, well=True)) == [Event.RECOVERED]
    else:
        ticks.see(new(4, 5), members=FROZEN)
        back = [member(served_since=exactly(ticks.at))]
        ticks.see(new(4, 5, used=ticks.at, well=True), after=20, members=back)
        assert ticks.told == [Event.HEALED]
    assert stuck_again(ticks) == RESTART


def test_where_it_is_not_allowed_nothing_more_is_done_until_half_open() -> None:
    ticks = failed()
    assert ticks.phase() is Phase.GAVE_UP
    stuck = new(4, 5, used=AT)
    assert ticks.see(stuck, after=HALF_OPEN - 1) == [Event.STILL_OPEN]
    assert ticks.outlook.next_at == ticks.at + 1
    assert ticks.see(stuck) == [Event.RELOAD_DUE]
    assert ticks.sent
    assert ticks.sent.command == WORKERS


def test_half_open_has_nothing_to_try_while_nobody_uses_the_app() -> None:
    ticks = failed()
    ticks.see(new(6, 7), after=2 * HALF_OPEN)
    assert (ticks.phase(), ticks.told, ticks.sent) == (Phase.GAVE_UP, [Event.STILL_OPEN], None)


def test_what_was_given_up_ends_with_recovery() -> None:
    ticks = failed()
    assert ticks.see(new(4, 5, used=AT + 3, well=True)) == [Event.HEALED]
    assert (ticks.phase(), ticks.shop.tried, ticks.shop.standing) == (Phase.WATCHING, frozenset(), FINE)


def test_what_was_given_up_has_a_new_chance_with_a_new_incarnation() -> None:
    ticks = failed()
    assert ticks.see(new(4, 5, used=AT), members=[down()]) == []
    assert ticks.phase() is Phase.GAVE_UP
    back = [member(incarnation=Incarnation("#3"), served_since=exactly(ticks.at))]
    assert ticks.see(new(4, 5, used=AT), members=back) == []
    assert ticks.phase() is Phase.SETTLING
    assert ticks.see(new(4, 5, used=AT), members=back, after=15) == [Event.RELOAD_DUE, Event.RELOAD_HELD]


def test_what_was_given_up_is_forgotten_with_its_master() -> None:
    ticks = failed()
    assert ticks.see(instance(worker(12, ready=AT), master=pid(9))) == [Event.REPLACED]
    assert ticks.phase() is Phase.WATCHING
    assert ticks.shop.incident is None


def test_what_the_master_holds_too_is_held_with_the_sentence_that_would_mend_it() -> None:
    ticks = Ticks()
    told = ticks.see(STUCK, leftover(1, 2, 3), connection(1))
    assert told == [Event.LEFTOVERS_FOUND, Event.RELOAD_DUE, Event.RELOAD_HELD]
    held = ticks.tells[2]
    assert held.fields.get("blocked_by") == "not_allowed"
    assert "add `restart` to `reloads` of shop" in str(held.fields["reason"])


@pytest.mark.parametrize("allowed", [(WORKERS,), (WORKERS, RESTART)])
def test_a_master_whose_monitor_does_not_run_gets_a_restart_or_is_given_up(allowed: tuple[Command, ...]) -> None:
    ticks = Ticks(config(allowed))
    told = ticks.see(STUCK, leftover(2, 3))
    assert told == [Event.LEFTOVERS_FOUND, Event.RELOAD_DUE, Event.RELOAD_HELD]
    assert ticks.tells[2].fields.get("blocked_by") == "fork_unsafe"
    assert ticks.decision
    assert ticks.decision.wake_at == BACK + 120
    told = ticks.see(STUCK, leftover(2, 3), after=20)
    if RESTART in allowed:
        assert ticks.sent
        assert ticks.sent.command == RESTART
    else:
        assert told == [Event.GAVE_UP]
        assert "add `restart` to `reloads`, or give uWSGI `enable-threads` and `lazy-apps`" in str(
            ticks.tells[0].fields["reason"]
        )


def test_an_app_that_no_reload_cures_costs_one_reload_for_each_half_open() -> None:
    world = busy_app(Kind.HOPELESS)
    world.outage(10)
    world.run(4 * HALF_OPEN + 300, every=20)
    assert world.apps[0].executed == [WORKERS] * 5
    assert world.phase(Kind.HOPELESS) is Phase.GAVE_UP


# ---- in company


def test_no_more_instances_reload_at_once_than_allowed() -> None:
    world = World(kinds=(Kind.PREFORK, Kind.HOPELESS))
    world.change(max_parallel=1)
    world.traffic = dict.fromkeys(world.traffic, 3)
    world.run(5)
    world.outage(10)
    world.run_until(lambda: len(world.daemon.sent) == 1)
    assert [tell.fields.get("blocked_by") for tell in world.daemon.told if tell.event is Event.RELOAD_HELD] == [
        "parallel"
    ]
    world.run(60)
    assert {effect.instance for effect in world.daemon.sent} == {app.id for app in world.apps}


def test_a_reload_does_not_hold_back_its_own_retry() -> None:
    ticks = begun(Ticks(config(max_parallel=1), result=Result.TRY_AGAIN))
    ticks.see(STUCK, *HELD, after=0.01)
    ticks.see(STUCK, *HELD, after=0.25)
    assert ticks.sent


def test_reloads_by_others_cost_nothing_and_begin_linger_anew() -> None:
    world = busy_app(Kind.MASTER_HELD, reloads=frozenset({WORKERS, RESTART}))
    world.outage(10)
    world.run(12)
    world.apps[0].fifo.commands.append(WORKERS)
    world.run(14)
    assert world.daemon.sent == []
    assert world.daemon.state.instances[world.apps[0].id].spent == ()
    world.run(60)
    assert world.apps[0].executed == [WORKERS, RESTART]
    assert world.works(world.apps[0])
