"""The deciding core through `decide` and `detect`: what no other test would miss, as mutation testing showed."""

from dataclasses import replace

import pytest

from tests.world.pieces import (
    AT,
    BACK,
    BLOG_FIFO,
    BLOG_ID,
    FIRST,
    SHOP_ID,
    by_leftovers,
    config,
    connection,
    down,
    exactly,
    find,
    idle,
    instance,
    leftover,
    member,
    pid,
    pids,
    ripe_at,
    secondary,
    sent_on,
    snapshot,
    stranded,
    well,
    worker,
)
from tests.world.ticks import Ticks
from tests.world.world import busy_app
from watchdogd.config import Budget, Cause, Config, Idle
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Incarnation
from watchdogd.model.done import Result
from watchdogd.model.found import Verdict
from watchdogd.model.remembered import InstanceState, Phase, ReloadOutcome, Spent, Stand, Standing, State
from watchdogd.model.seen import Instance, Member, Verb
from watchdogd.model.told import Event

STUCK = instance(stranded(2), stranded(3))
HELD = (leftover(2, 3), connection(1))
FINE = instance(well(2), well(3))
LONG_AGO = [member(served_since=exactly(AT - 130))]
"""So long without a connection of its own, and the master's monitor evidently does not run."""


def new(*numbers: int) -> Instance:
    """Ready, and not used yet."""
    return instance(*(worker(number, ready=AT) for number in numbers))


def remembering(using: Config | None = None, **memory: object) -> Ticks:
    """Ticks of a daemon that remembers this of the shop."""
    ticks = Ticks(using or config())
    ticks.state = State({SHOP_ID: InstanceState(**memory)})  # type: ignore[arg-type]
    return ticks


# ---- the budget


def reload_by_hand(ticks: Ticks, old: Instance, fresh: Instance) -> None:
    """An operator reloads it, which nothing proves: its new workers are not used."""
    ticks.see(old, ask=Verb.RELOAD)
    assert ticks.answer.ok, ticks.answer.text
    ticks.see(old)
    assert ticks.see(fresh) == [Event.RELOADED]


def test_the_fourth_unproven_reload_within_the_hour_is_held_by_the_budget() -> None:
    ticks = Ticks()
    reload_by_hand(ticks, FINE, new(4, 5))
    reload_by_hand(ticks, new(4, 5), new(6, 7))
    assert ticks.outlook.reloads_left == 1
    reload_by_hand(ticks, new(6, 7), new(8, 9))
    assert ticks.outlook.reloads_left == 0
    ticks.see(new(8, 9), ask=Verb.RELOAD)
    assert ticks.answered.startswith("held by budget: 3 unproven reloads, of 3 allowed")
    ticks.see(new(8, 9), ask=Verb.RELOAD, after=3600)
    assert ticks.answer.ok


def test_a_proven_reload_counts_as_that_and_leaves_the_others_as_they_are() -> None:
    ticks = Ticks()
    reload_by_hand(ticks, FINE, new(4, 5))
    reload_by_hand(ticks, new(4, 5), new(6, 7))
    ticks.see(instance(well(6), well(7)))
    assert [one.proven for one in ticks.shop.spent] == [False, True]
    assert ticks.outlook.reloads_left == 2


@pytest.mark.parametrize("result", [Result.CHANGED, Result.REFUSED])
def test_a_reload_without_a_byte_gives_back_its_own_place_in_the_budget_alone(result: Result) -> None:
    before = (Spent(AT - 200, proven=True), Spent(AT - 100))
    ticks = remembering(spent=before)
    ticks.result = result
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert ticks.shop.spent == before


def test_the_last_reload_of_the_budget_is_tried_again_where_its_byte_could_not_be_written() -> None:
    ticks = Ticks(config(budget=Budget(unproven=1, total=1)), result=Result.TRY_AGAIN)
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert ticks.sent


def test_a_byte_that_was_sent_twice_has_cost_a_reload_whatever_becomes_of_the_second_one() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.result = Result.REFUSED
    ticks.see(STUCK, *HELD, after=60)  # every old worker is still there
    assert ticks.sent
    assert Event.RELOAD_UNSENT in ticks.see(STUCK, *HELD)
    assert len(ticks.shop.spent) == 1


def test_a_byte_that_was_lost_has_cost_a_reload_though_the_app_heals_before_it_is_sent_again() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.result = Result.TRY_AGAIN
    ticks.see(STUCK, *HELD, after=60)  # every old worker is still there
    ticks.see(STUCK, *HELD)
    assert ticks.see(FINE) == [Event.HEALED]
    assert len(ticks.shop.spent) == 1


def test_a_reload_in_flight_is_followed_though_its_instance_was_not_seen_and_its_budget_is_free_again() -> None:
    ticks = Ticks(config(budget=Budget(per_s=10)))
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.see(replace(FINE, name="blog", fifo=BLOG_FIFO, master=pid(9)), after=20)
    assert ticks.see(new(4, 5)) == [Event.RELOADED]


# ---- never twice, never for nothing


def test_a_daemon_killed_before_the_byte_of_a_second_try_does_not_send_it_at_once() -> None:
    ticks = Ticks(result=Result.TRY_AGAIN)
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.result = None  # saved, and then it dies: nobody knows whether the byte was written
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert ticks.sent is None
    assert ticks.phase() is Phase.RELOADING


def test_a_second_try_is_dropped_where_the_app_has_healed_meanwhile() -> None:
    ticks = Ticks(result=Result.TRY_AGAIN)
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert ticks.see(FINE) == [Event.HEALED]
    assert (ticks.sent, ticks.shop.reload, ticks.shop.spent) == (None, None, ())


def test_no_second_restart_is_sent_for_one_life_of_mongod_when_the_first_was_overtaken() -> None:
    ticks = Ticks(config([WORKERS, RESTART]))
    ticks.see(STUCK, leftover(2, 3), members=LONG_AGO)
    assert ticks.sent
    assert ticks.sent.command == RESTART
    ticks.see(STUCK, leftover(2, 3), members=LONG_AGO)
    assert ticks.see(STUCK, leftover(2, 3), members=[down()]) == [Event.OVERTAKEN]
    told = ticks.see(STUCK, leftover(2, 3), members=LONG_AGO, after=200)
    assert Event.GAVE_UP in told
    assert not ticks.told.count(Event.RELOAD_SENT)
    assert ticks.phase() is Phase.GAVE_UP


def test_a_life_has_had_its_restart_also_under_the_name_that_a_new_daemon_gives_it() -> None:
    ticks = remembering(config([WORKERS, RESTART]), restarted=frozenset({Incarnation("10.0.0.1:27017@5.000")}))
    unnamed = replace(LONG_AGO[0], incarnation=Incarnation("10.0.0.1:27017@start"), process_id=None)
    assert Event.GAVE_UP in ticks.see(STUCK, leftover(2, 3), members=[unnamed])
    assert ticks.sent is None


def test_a_restart_that_was_owed_is_not_owed_any_more_once_it_was_overtaken() -> None:
    ticks = remembering(config([WORKERS, RESTART]), standing=Standing(Stand.ESCALATING), master=pid(1))
    ticks.see(new(4, 5))
    ticks.see(new(4, 5))
    ticks.see(new(4, 5), members=[down()])
    ticks.see(new(4, 5), after=300)
    assert ticks.sent is None
    assert ticks.phase() is Phase.SETTLING


def test_a_restart_that_is_owed_after_a_failed_reload_waits_for_no_traffic() -> None:
    ticks = remembering(config([WORKERS, RESTART]), standing=Standing(Stand.ESCALATING), master=pid(1))
    ticks.see(new(4, 5))
    assert ticks.sent
    assert ticks.sent.command == RESTART


def test_a_daemon_that_has_just_started_gives_the_masters_monitor_its_120_seconds() -> None:
    late = instance(stranded(2), stranded(3), seen_at=AT - 10)
    assert find(snapshot(late, leftover(2, 3), members=LONG_AGO)).fork.unsafe_since == AT - 10
    ticks = Ticks()
    assert Event.GAVE_UP not in ticks.see(replace(late, seen_at=AT - 60), leftover(2, 3), members=LONG_AGO)


# ---- who is due


@pytest.mark.parametrize(
    ("workers", "handling"),
    [((well(2), stranded(3)), Idle.RELOAD), ((idle(2), stranded(3)), Idle.LEAVE), ((well(2), idle(3)), Idle.LEAVE)],
)
def test_a_stuck_worker_is_due_wherever_it_stands_in_the_list(workers: tuple[object, ...], handling: Idle) -> None:
    one = instance(*workers)  # type: ignore[arg-type]
    expected = pids(3) if workers[1] == stranded(3) else frozenset()
    assert by_leftovers(find(snapshot(one, leftover(2, 3), connection(2, cookie=9)), idle=handling)) == expected


def test_the_only_worker_is_stranded_by_what_it_shared_with_its_master_and_now_holds_alone() -> None:
    finding = find(snapshot(instance(stranded(2)), leftover(2, shared=True)), idle=Idle.LEAVE)
    assert finding.verdicts == {pid(2): Verdict.STRANDED}
    assert by_leftovers(finding) == pids(2)


def archive(**changes: object) -> Member:
    """The member of a second deployment."""
    return member("10.0.0.2", "archive", **changes)


def of_two(*workers: object, **changes: object) -> Instance:
    return instance(*workers, deployments=("main", "archive"), **changes)  # type: ignore[arg-type]


def test_a_sibling_that_healed_in_one_deployment_excuses_nobody_who_is_stuck_in_the_other() -> None:
    one = of_two(idle(2), well(3))
    seen = snapshot(one, leftover(2), leftover(2, cookie=8, host="10.0.0.2"), members=[member(), archive()])
    assert by_leftovers(detect(seen, config(deployments=("main", "archive")))[SHOP_ID]) == pids(2)


def test_a_sibling_that_healed_in_an_earlier_life_of_mongod_excuses_nobody() -> None:
    before = replace(well(3), reconnected=frozenset({Incarnation("10.0.0.1#1")}))
    assert by_leftovers(find(snapshot(instance(idle(2), before), leftover(2)))) == pids(2)
    now = replace(before, reconnected=frozenset({FIRST}))
    assert by_leftovers(find(snapshot(instance(idle(2), now), leftover(2)))) == frozenset()


def test_linger_counts_from_mongods_return_for_who_was_used_before_it() -> None:
    used = worker(2, used=BACK - 5)
    assert ripe_at(find(snapshot(instance(used), leftover(2, shared=True)), idle=Idle.LEAVE)) == BACK + 15


def test_a_connection_that_is_well_is_neither_unexplained_nor_a_leftover() -> None:
    healthy = connection(2, since=exactly(10.0), last_data=exactly(BACK - 20))
    for held in ((healthy, leftover(2, cookie=9)), (leftover(2, cookie=9), healthy)):
        for cause in Cause:
            finding = find(snapshot(instance(stranded(2)), *held), cause=cause)
            assert not finding.unexplained, "an outage explains the other one"
            assert finding.leftovers == {9}


def test_a_deployment_without_a_primary_does_not_serve_though_every_member_answers() -> None:
    finding = find(snapshot(FINE, members=[secondary("10.0.0.1"), secondary("10.0.0.2")]))
    assert (finding.outage, finding.is_serving) == (True, False)


def test_a_fork_is_not_safe_by_the_second_deployment_where_the_first_one_is_not_concerned() -> None:
    one = of_two(stranded(2), held_by_master=frozenset({"archive"}))
    seen = snapshot(one, leftover(2), members=[member(), archive()])
    unsafe = detect(seen, config(deployments=("main", "archive")))[SHOP_ID].fork.unsafe
    assert unsafe == "the master has not sent anything to 10.0.0.2:27017 since it serves"


# ---- where it stands


@pytest.mark.parametrize("master", [pid(1), None])
def test_a_blind_instance_is_told_neither_absent_nor_healed(master: object) -> None:
    ticks = Ticks(config(linger_s=200))
    ticks.see(STUCK, *HELD)
    assert ticks.phase() is Phase.SETTLING
    assert ticks.see(instance(master=master, blind=("no permission",))) == [Event.BLIND]
    assert ticks.phase() is Phase.SETTLING


def test_who_was_given_up_is_not_well_while_a_worker_loads() -> None:
    ticks = remembering(
        standing=Standing(Stand.GAVE_UP, AT - 10, "it did not help"), phase=Phase.GAVE_UP, tried=frozenset({FIRST})
    )
    ticks.see(instance(well(2), worker(3, ready=None)))
    assert ticks.phase() is Phase.GAVE_UP
    ticks.see(FINE)
    assert ticks.phase() is Phase.WATCHING


def test_an_instance_that_is_only_being_verified_holds_no_other_back() -> None:
    ticks = Ticks(config(max_parallel=1))
    reload_by_hand(ticks, FINE, new(4, 5))
    blog = replace(STUCK, name="blog", fifo=BLOG_FIFO, master=pid(9))
    seen = replace(
        snapshot(FINE, leftover(2, 3), connection(9)),
        at=ticks.at + 1,
        instances=(new(4, 5), replace(blog, master_sent=sent_on(pid(9), [connection(9)], [member()]))),
    )
    decision = decide(ticks.state, detect(seen, ticks.config), seen, ticks.config)
    assert [one.gate for one in decision.outlooks[BLOG_ID].blocked_by] == []


def test_an_outage_that_leaves_nothing_behind_ends_with_healed() -> None:
    ticks = Ticks()
    ticks.see(FINE, members=[down()])
    assert ticks.phase() is Phase.OUTAGE
    assert ticks.see(FINE, after=5) == [Event.HEALED]
    assert ticks.tells[0].fields["seconds"] == 5.0


def test_an_incident_that_has_healed_is_not_taken_up_by_the_next_outage() -> None:
    ticks = Ticks()
    healed: list[str | None] = []
    for _ in range(2):
        ticks.see(FINE, members=[down()])
        assert ticks.see(FINE, after=5) == [Event.HEALED]
        healed.append(ticks.tells[0].incident)
    assert None not in healed
    assert healed[0] != healed[1]


def test_an_incident_ends_with_healed_also_where_the_byte_of_its_reload_was_refused_meanwhile() -> None:
    ticks = Ticks(result=Result.REFUSED)
    ticks.see(STUCK, *HELD)
    assert ticks.see(FINE) == [Event.RELOAD_UNSENT, Event.HEALED]
    assert ticks.shop.incident is None


def test_an_instance_that_was_never_reloaded_is_forgotten_once_it_is_gone() -> None:
    ticks = Ticks()
    ticks.see(replace(FINE, name="blog", fifo=BLOG_FIFO))
    ticks.see(replace(FINE, master=pid(9)))
    assert ticks.state.instances.keys() == {SHOP_ID}


# ---- what people read


def test_what_holds_a_reload_is_told_again_in_the_next_incident() -> None:
    ticks = Ticks()
    inherited = (leftover(1, 2, 3), connection(1))
    assert Event.RELOAD_HELD in ticks.see(STUCK, *inherited)
    assert ticks.see(STUCK, *inherited) == []
    assert ticks.see(FINE) == [Event.HEALED]
    assert Event.RELOAD_HELD in ticks.see(STUCK, *inherited)


def test_what_holds_a_reload_is_told_again_after_one_that_came_to_nothing() -> None:
    ticks = Ticks(result=Result.REFUSED)
    assert Event.RELOAD_HELD in ticks.see(STUCK, *HELD, ask=Verb.PAUSE)
    ticks.see(STUCK, *HELD, ask=Verb.RESUME)
    assert ticks.sent
    assert ticks.see(STUCK, *HELD, ask=Verb.PAUSE) == [Event.PAUSED, Event.RELOAD_UNSENT, Event.RELOAD_HELD]
    assert ticks.tells[-1].fields["blocked_by"] == "paused,cooldown"


def test_a_refused_reload_is_shown_as_unsent_with_its_reason() -> None:
    ticks = Ticks(result=Result.REFUSED)
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert ticks.shop.last
    assert (ticks.shop.last.outcome, ticks.shop.last.detail) == (ReloadOutcome.UNSENT, "as it is")


def test_a_reload_that_was_dropped_right_before_its_byte_is_shown_with_what_had_changed() -> None:
    ticks = Ticks(result=Result.CHANGED)
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    assert ticks.shop.last
    assert (ticks.shop.last.outcome, ticks.shop.last.detail) == (ReloadOutcome.DROPPED, "as it is")


def test_a_pause_is_told_with_the_seconds_that_are_left_of_it() -> None:
    world = busy_app()
    world.ask(Verb.PAUSE, seconds=60)
    world.run(1)
    assert world.last(Event.PAUSED).fields["until_s"] == 59.0


def test_what_was_found_is_told_with_its_numbers_and_until_when() -> None:
    ticks = Ticks(config(linger_s=120))
    one = instance(stranded(2), idle(3))
    ticks.see(one, *HELD)
    (found,) = ticks.tells
    assert found.fields == {"leftovers": 1, "workers": 2, "until_s": 20.0}
    assert ticks.outlook.next_at == BACK + 120
    ticks.see(one, *HELD, after=20)
    due = next(tell for tell in ticks.tells if tell.event is Event.RELOAD_DUE)
    assert due.fields == {"command": "w", "why": None, "stranded": 1, "idle": 1, "leftovers": 1}


def test_a_reload_that_is_held_says_for_how_long() -> None:
    ticks = remembering(retry_at=AT + 40)
    told = ticks.see(STUCK, *HELD)
    held = ticks.tells[told.index(Event.RELOAD_HELD)]
    assert (held.fields.get("blocked_by"), held.fields["until_s"]) == ("cooldown", 40.0)
    assert ticks.outlook.next_at == AT + 40


@pytest.mark.parametrize(
    ("held", "members", "why"),
    [
        ((leftover(1, 2, 3), connection(1)), [member()], "the master itself holds the old connection"),
        ((leftover(2, 3),), LONG_AGO, "the master's MongoDB client does not run"),
    ],
)
def test_what_would_have_to_be_allowed_is_said_with_its_own_reason(
    held: tuple[object, ...], members: list[Member], why: str
) -> None:
    ticks = Ticks(config([CHAIN]))
    ticks.see(STUCK, *held, members=members, ask=Verb.RELOAD)  # type: ignore[arg-type]
    assert why in ticks.answered


def test_recovered_says_how_many_workers_and_after_how_long() -> None:
    ticks = Ticks()
    ticks.see(STUCK, *HELD)
    ticks.see(STUCK, *HELD)
    ticks.see(new(4, 5))
    reloaded = ticks.tells[0]
    assert (reloaded.event, reloaded.fields) == (Event.RELOADED, {"command": "w", "seconds": 2.0, "workers": 2})
    assert ticks.see(instance(well(4), worker(5, ready=AT))) == [Event.RECOVERED]
    assert ticks.tells[0].fields == {
        "command": "w",
        "seconds": 3.0,
        "workers": 1,
        "mules": None,
        "by_mules": False,
        "access": None,
        "answers": None,
        "unseen": True,
    }
