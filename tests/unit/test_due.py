from dataclasses import replace

import pytest

from tests.world.cases import DOUBTFUL, ESCALATING, NOTHING, SEEN, STUCK, case
from tests.world.pieces import (
    AT,
    FIRST,
    config,
    connection,
    down,
    exactly,
    idle,
    instance,
    leftover,
    member,
    snapshot,
    stranded,
    well,
    worker,
)
from watchdogd.core.due import due, hopeless, restart_left
from watchdogd.core.gates import blocked_by
from watchdogd.core.tick import limits_of
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command
from watchdogd.model.found import Kind
from watchdogd.model.remembered import InstanceState
from watchdogd.model.seen import Area, Blindness, Scope, Snapshot, Worker

CALM = snapshot(instance(well(2)))


@pytest.mark.parametrize(
    ("workers", "command"),
    [
        ([stranded(2), stranded(3)], WORKERS),
        ([stranded(2), idle(3)], WORKERS),
        ([stranded(2), worker(4, ready=None)], WORKERS),  # every one that is ready
        ([stranded(2), well(3)], CHAIN),  # keeps the one that is fine serving
        ([well(2), well(3)], CHAIN),  # an operator's
        ([well(2)], WORKERS),  # a chain of one is no better
    ],
)
def test_all_workers_due_are_reloaded_at_once_and_some_one_by_one(workers: list[Worker], command: Command) -> None:
    assert due(case(snapshot(instance(*workers), leftover(2, 3), connection(1)))).command == command


@pytest.mark.parametrize(
    ("allowed", "all_due", "some_due"),
    [
        ([WORKERS, CHAIN, RESTART], WORKERS, CHAIN),
        ([WORKERS], WORKERS, WORKERS),
        ([CHAIN], CHAIN, CHAIN),
        ([RESTART], RESTART, RESTART),
    ],
)
def test_what_is_not_allowed_is_replaced_by_the_mildest_that_is(
    allowed: list[Command], all_due: Command, some_due: Command
) -> None:
    some = snapshot(instance(stranded(2), well(3)), leftover(2, 3), connection(1))
    assert due(case(using=config(allowed))).command == all_due
    assert due(case(some, using=config(allowed))).command == some_due


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (snapshot(STUCK, leftover(1, 2, 3)), NOTHING),
        (SEEN, InstanceState(standing=ESCALATING)),
        (snapshot(STUCK, leftover(2, 3), members=[member(served_since=exactly(AT - 120))]), NOTHING),
    ],
    ids=["inherited", "escalated", "no safe fork for 120 s"],
)
@pytest.mark.parametrize("allowed", [[WORKERS], [WORKERS, RESTART]])
def test_only_a_restart_ends_what_the_master_has(seen: Snapshot, state: InstanceState, allowed: list[Command]) -> None:
    one = case(seen, state, config(allowed))
    assert due(one).command == RESTART
    gates = [blocked.gate for blocked in blocked_by(one, RESTART)]
    assert gates == ([] if RESTART in allowed else ["not_allowed"])


def test_who_may_never_be_restarted_is_given_up_instead_and_told_why() -> None:
    handed = replace(STUCK, no_restart="it was handed its socket")
    seen = snapshot(handed, leftover(2, 3), members=[member(served_since=exactly(AT - 120))])
    assert "a restart would end it: it was handed its socket" in str(hopeless(case(seen, using=config([RESTART]))))
    assert not restart_left(case(seen, using=config([RESTART])), frozenset({FIRST}))
    assert restart_left(case(using=config([RESTART])), frozenset({FIRST}))


def test_in_doubt_workers_that_work_without_a_connection_choose_the_command_too() -> None:
    alone = snapshot(instance(stranded(2), stranded(3)))
    mixed = snapshot(instance(stranded(2), well(3)))
    assert due(case(alone, InstanceState(standing=DOUBTFUL))).command == WORKERS
    assert due(case(mixed, InstanceState(standing=DOUBTFUL))).command == CHAIN


# ---- what is seen of health


def test_an_app_is_well_when_it_works_and_all_that_work_have_connections() -> None:
    assert case(snapshot(instance(well(2), idle(3)))).well
    assert not case(snapshot(instance(idle(2), idle(3)))).well  # nothing was seen
    assert not case(snapshot(instance(well(2), stranded(3)))).well
    assert not case(snapshot(instance(well(2)), members=[down()])).well
    assert not case(replace(CALM, blind=(Blindness(Scope(Area.SOCKETS), "no permission"),))).well


def test_with_several_deployments_every_one_must_be_reached() -> None:
    both = ("main", "other")
    members = [member(), member("10.0.1.1", "other")]
    half = instance(well(2), deployments=both)
    whole = instance(worker(2, used=AT - 50, reached=["10.0.0.1", "10.0.1.1"]), deployments=both)
    using = config(deployments=both)
    assert not case(snapshot(half, members=members), using=using).well
    assert case(snapshot(whole, members=members), using=using).well


@pytest.mark.parametrize(("ago", "stuck"), [(14.9, True), (15.0, True), (15.0, False)])
def test_a_worker_is_unconnected_that_has_worked_for_15_s_without_any_connection(ago: float, stuck: bool) -> None:
    one = worker(2, used=AT - ago, reached=[] if stuck else ["10.0.0.1"])
    ripe = case(snapshot(instance(one))).ripe(Kind.UNCONNECTED)
    assert [it.worker for it in ripe] == ([one.id] if stuck and ago >= 15 else [])


def test_found_instances_have_the_defaults() -> None:
    found = limits_of(replace(STUCK, name="blog", fifo="/run/blog/fifo"), config([RESTART]))
    assert found.reloads == {WORKERS, CHAIN}
    assert (found.mercy_s, str(found.master_fifo)) == (60.0, "/run/blog/fifo")
