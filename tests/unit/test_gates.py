from collections.abc import Iterable
from dataclasses import replace

import pytest

from tests.world.cases import RELOAD, SEEN, STUCK, case
from tests.world.pieces import (
    AT,
    answering,
    blind,
    config,
    connection,
    down,
    exactly,
    instance,
    leftover,
    member,
    snapshot,
    stranded,
    well,
    worker,
)
from watchdogd.config import Budget, Mode
from watchdogd.core.case import Case
from watchdogd.core.due import due, for_an_operator
from watchdogd.core.gates import GATES, blocked_anew, blocked_by, blocked_for_an_operator
from watchdogd.core.phases import phase_of
from watchdogd.model.base import CHAIN, RESTART, WORKERS, InstanceId, Interval, Way
from watchdogd.model.remembered import InstanceState, Outrun, Pause, Phase, Spent, State
from watchdogd.model.seen import Area, Blindness, Scope
from watchdogd.model.text import Outside

FINE = instance(well(2), well(3))
JUST_BACK = [member(served_since=exactly(AT - 5))]


def reloading(number: int) -> State:
    """So many other instances are reloading, and one is being verified, which does not count."""
    others = {InstanceId(f"other{n}"): InstanceState(reload=RELOAD) for n in range(number)}
    return State({**others, InstanceId("done"): InstanceState(reload=replace(RELOAD, complete_at=AT))})


SPENT = tuple(Spent(AT - 100 * n) for n in (3, 2, 1))
ONE_GATE: dict[str, tuple[Case, float | None]] = {
    "mode": (case(using=replace(config(), mode=Mode.OBSERVE)), None),
    "paused": (case(whole=State(paused=Pause(AT + 60, Outside("work")))), AT + 60),
    "blind": (case(replace(SEEN, blind=(Blindness(Scope(Area.SOCKETS), "no permission"),))), None),
    "no_deployment": (case(snapshot(replace(STUCK, deployments=()))), None),
    "not_named": (case(using=replace(config(), instances=None), seen=snapshot(replace(STUCK, uid=0))), None),
    "not_serving": (case(snapshot(STUCK, leftover(2, 3), members=[down()])), None),
    "linger": (
        case(snapshot(STUCK, leftover(2, 3), connection(1, since=exactly(AT - 4)), members=JUST_BACK)),
        AT + 10,
    ),
    "in_flight": (case(state=InstanceState(reload=RELOAD)), AT + 42),
    "fifo": (case(snapshot(replace(STUCK, fifo_problem="deleted: it is gone"), leftover(2, 3), connection(1))), None),
    "not_ready": (
        case(snapshot(instance(stranded(2), stranded(3), worker(4, ready=None)), leftover(2, 3), connection(1))),
        None,
    ),
    "fork_unsafe": (case(snapshot(STUCK, leftover(2, 3), connection(1, since=exactly(AT - 0.5)))), AT + 0.5),
    "no_restart": (
        case(snapshot(replace(STUCK, no_restart="it was handed its socket"), leftover(1, 2, 3), connection(1))),
        None,
    ),
    "not_allowed": (case(snapshot(STUCK, leftover(1, 2, 3), connection(1))), None),
    "cooldown": (case(state=InstanceState(retry_at=AT + 5)), AT + 5),
    "budget": (case(state=InstanceState(spent=SPENT)), AT - 300 + 3600),
    "parallel": (case(whole=reloading(4)), AT + 42),
    "answers": (
        case(snapshot(replace(STUCK, health=answering(AT - 5)), leftover(2, 3), connection(1))),
        None,
    ),
}


def test_with_every_gate_open_nothing_is_blocked() -> None:
    assert phase_of(case()) is Phase.DUE
    assert due(case()).command == WORKERS
    assert blocked_by(case(), WORKERS) == ()


def test_each_gate_has_its_case() -> None:
    assert list(ONE_GATE) == [name for name, _ in GATES]


@pytest.mark.parametrize("name", ONE_GATE)
def test_each_gate_blocks_alone_with_its_reason_and_until_when(name: str) -> None:
    one, until = ONE_GATE[name]
    (blocked,) = blocked_by(one, due(one).command)
    assert (blocked.gate, blocked.until) == (name, until)
    assert len(blocked.reason) > 10


@pytest.mark.parametrize("name", ONE_GATE)
def test_an_operators_now_passes_what_only_waits_and_nothing_else(name: str) -> None:
    one, _ = ONE_GATE[name]
    blocked = blocked_for_an_operator(one, due(one).command, now=True)
    assert [one.gate for one in blocked] == ([] if name in {"linger", "cooldown", "budget", "answers"} else [name])


@pytest.mark.parametrize(("now", "gates"), [(False, "MongoDB has only just come back"), (True, "")])
def test_what_is_asked_once_more_right_before_the_byte_is_asked_by_the_same_rule(*, now: bool, gates: str) -> None:
    just_back = replace(JUST_BACK[0], outages=(Interval(AT - 9, AT - 5),))
    one = case(snapshot(FINE, connection(1, since=exactly(AT - 4)), members=[just_back]))
    assert blocked_anew(one, replace(RELOAD, operator="request", now=now)) == gates


@pytest.mark.parametrize(("reloads", "gates"), [([WORKERS], ["not_allowed"]), ([WORKERS, RESTART], [])])
def test_a_restart_that_an_operator_wants_is_still_for_the_configuration_to_allow(
    reloads: list[Way], gates: list[str]
) -> None:
    one = case(using=config(reloads))
    blocked = blocked_for_an_operator(one, for_an_operator(one, restart=True), now=True)
    assert [one.gate for one in blocked] == gates
    for gate in blocked:
        assert gate.reason == "a restart was asked for; add `restart` to `reloads` of shop to allow it"


@pytest.mark.parametrize(
    ("scope", "blocks"),
    [
        ("sockets", True),
        ("state", True),
        ("processes", True),
        ("resolver", True),
        ("heartbeats", True),
        ("sink journal", False),
        ("deployment main", True),
        ("deployment other", False),
        ("member 10.0.0.2:27017", False),
        ("instance other", False),
    ],
)
def test_a_blindness_blocks_those_whom_it_concerns(scope: str, blocks: bool) -> None:
    unseen = case(replace(SEEN, blind=(blind(scope),)))
    assert [one.gate for one in blocked_by(unseen, WORKERS)] == ["blind"] * blocks


def test_what_cannot_be_read_of_an_instance_blocks_it() -> None:
    blind = case(snapshot(replace(STUCK, blind=("no permission",)), leftover(2, 3), connection(1)))
    assert [(one.gate, one.reason) for one in blocked_by(blind, WORKERS)] == [("blind", "no permission")]


def test_without_any_worker_nothing_is_sent() -> None:
    assert [one.gate for one in blocked_by(case(snapshot(instance())), WORKERS)] == ["not_ready"]


def test_a_restart_hands_nothing_on_so_it_need_not_wait_for_a_safe_fork() -> None:
    unsafe = case(snapshot(STUCK, leftover(2, 3)), using=config([WORKERS, RESTART]))
    assert [one.gate for one in blocked_by(unsafe, WORKERS)] == ["fork_unsafe"]
    assert blocked_by(unsafe, RESTART) == ()


@pytest.mark.parametrize(
    ("spent", "until"),
    [
        ([(300, False), (200, True), (100, False)], None),
        ([(300, False), (200, True), (100, False), (50, False)], AT - 300 + 3600),
        ([(3600, False), (200, False), (100, False)], None),  # the first one counts no more
        ([(400, False), (300, False), (200, False), (100, False)], AT - 300 + 3600),
        ([(5 * n, True) for n in range(11, 0, -1)], None),
        ([(5 * n, True) for n in range(12, 0, -1)], AT - 60 + 3600),
    ],
)
def test_the_budget_counts_what_was_not_proven_and_the_ceiling_counts_all(
    spent: Iterable[tuple[float, bool]], until: float | None
) -> None:
    remembered = InstanceState(spent=tuple(Spent(AT - ago, proven) for ago, proven in spent))
    blocked = blocked_by(case(state=remembered), WORKERS)
    assert [one.until for one in blocked] == ([] if until is None else [until])


def test_the_budget_is_what_the_configuration_says() -> None:
    one = case(state=InstanceState(spent=SPENT[2:]), using=config(budget=Budget(1, 12, 3600)))
    assert [one.reason for one in blocked_by(one, WORKERS)] == ["1 unproven reloads, of 1 allowed"]


def test_every_shut_gate_is_shown_in_the_order_of_the_table() -> None:
    one = case(
        snapshot(replace(STUCK, fifo_problem="deleted: it is gone", blind=("no permission",)), leftover(2, 3)),
        state=InstanceState(retry_at=AT + 5),
        using=replace(config([CHAIN]), mode=Mode.OBSERVE),
    )
    assert [one.gate for one in blocked_by(one, WORKERS)] == [
        "mode", "blind", "fifo", "fork_unsafe", "not_allowed", "cooldown",
    ]  # fmt: skip


def test_a_reload_that_was_overtaken_holds_until_its_workers_are_gone_or_its_time_is_over() -> None:
    until = Outrun(frozenset({STUCK.workers[0].id}), AT + 30)
    (blocked,) = blocked_by(case(state=InstanceState(outrun=until)), WORKERS)
    assert (blocked.gate, blocked.until) == ("in_flight", AT + 30)
    assert blocked_by(case(state=InstanceState(outrun=replace(until, until=AT))), WORKERS) == ()
    assert blocked_by(case(state=InstanceState(outrun=replace(until, workers=frozenset()))), WORKERS) == ()
