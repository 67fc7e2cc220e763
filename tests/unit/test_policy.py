import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings

from tests.world.chaos import Chaos
from tests.world.pieces import (
    AT,
    MASTER,
    SHOP_ID,
    config,
    connection,
    down,
    exactly,
    idle,
    instance,
    leftover,
    member,
    pids,
    snapshot,
    stranded,
    well,
    worker,
)
from tests.world.values import values
from watchdogd.config import Budget, Config, Mode
from watchdogd.core.decide import limits_of
from watchdogd.core.detect import detect
from watchdogd.core.policy import GATES, MOVES, PHASES, Case, IllegalMoveError, blocked_by, diagram, phase_of
from watchdogd.core.step import Step
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command, InstanceId
from watchdogd.model.found import Finding
from watchdogd.model.remembered import Incident, InstanceState, Pause, Phase, Reload, Spent, State
from watchdogd.model.seen import Blind, Instance, Snapshot, Worker
from watchdogd.model.text import Outside

DESIGN = Path(__file__).resolve().parents[2] / "docs" / "design.md"

STUCK = instance(stranded(2), stranded(3))
SEEN = snapshot(STUCK, leftover(2, 3), connection(1))  # a `w` is due, and every gate is open
RELOAD = Reload("r", WORKERS, MASTER, pids(2, 3), frozenset({7}), frozenset(), AT, AT, AT + 42, left=2)
NOTHING = InstanceState()


def case(
    seen: Snapshot = SEEN, state: InstanceState = NOTHING, using: Config | None = None, whole: State | None = None
) -> Case:
    using = using or config()
    (one,) = seen.instances
    return Case(seen, using, limits_of(one, using), one, detect(seen, using)[SHOP_ID], state, whole or State())


# ---- PHASES


@settings(max_examples=300)
@given(values(InstanceState), values(Finding), values(Instance))
def test_whatever_is_seen_and_remembered_there_is_a_phase(state: InstanceState, found: Finding, one: Instance) -> None:
    assert phase_of(replace(case(), state=state, finding=found, instance=one)) in Phase


def test_the_phases_are_those_of_the_model_in_its_order() -> None:
    assert [phase for phase, _ in PHASES] == list(Phase)


INCIDENT = Incident("i", 0.0)
CALM = snapshot(instance(well(2)))
JUST_BACK = [member(serving_since=exactly(AT - 5))]


@pytest.mark.parametrize(
    ("phase", "seen", "state"),
    [
        (Phase.WATCHING, CALM, NOTHING),
        (Phase.RELOADING, CALM, InstanceState(reload=RELOAD, gave_up_at=1.0)),
        (Phase.VERIFYING, SEEN, InstanceState(reload=replace(RELOAD, complete_at=AT), gave_up_at=1.0)),
        (Phase.GAVE_UP, SEEN, InstanceState(gave_up_at=1.0)),
        (Phase.ABSENT, snapshot(instance(master=None), members=[down()]), NOTHING),
        (Phase.OUTAGE, snapshot(STUCK, leftover(2, 3), members=[down()]), NOTHING),
        (Phase.OUTAGE, snapshot(STUCK, leftover(2, 3), members=[]), InstanceState(incident=INCIDENT)),
        (Phase.WATCHING, snapshot(STUCK, leftover(2, 3), members=[]), NOTHING),  # not heard of MongoDB yet
        (Phase.SETTLING, snapshot(STUCK, leftover(2, 3), members=JUST_BACK), NOTHING),
        (Phase.SETTLING, snapshot(instance(well(2)), members=JUST_BACK), InstanceState(incident=INCIDENT)),
        (Phase.WATCHING, snapshot(instance(well(2)), members=JUST_BACK), NOTHING),
        (Phase.DUE, SEEN, NOTHING),
        (Phase.DUE, CALM, InstanceState(escalate=True)),
        # A reload of ours ended without proof: workers that work without a connection count without any leftover.
        (Phase.DUE, snapshot(instance(stranded(2))), InstanceState(doubt=True)),
        (Phase.SETTLING, snapshot(instance(idle(2))), InstanceState(doubt=True)),
        (Phase.WATCHING, snapshot(instance(stranded(2))), NOTHING),
    ],
)
def test_a_phase_is_the_first_that_matches(phase: Phase, seen: Snapshot, state: InstanceState) -> None:
    assert phase_of(case(seen, state)) is phase


# ---- MOVES


def test_every_move_is_made_by_some_world_and_no_other_one_by_any(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Counter[tuple[Phase, Phase]] = Counter()
    enter = Step.enter

    def recorded(step: Step, phase: Phase) -> None:
        old = step.state.phase
        enter(step, phase)  # raises for what MOVES does not allow
        made[old, phase] += old is not phase

    monkeypatch.setattr(Step, "enter", recorded)
    for seed in range(60):
        world = Chaos(Random(seed))
        for _ in range(1000):
            world.tick()
    assert set(+made) == set(MOVES)


def test_a_move_that_is_not_in_the_table_raises() -> None:
    step = Step(case(CALM), serial=0)
    with pytest.raises(IllegalMoveError, match=r"shop: watching -> verifying, telling \[\]; MOVES allows no such move"):
        step.enter(Phase.VERIFYING)


def test_the_diagram_of_the_documentation_is_drawn_from_the_table() -> None:
    assert len(diagram().splitlines()) == 2 + len(MOVES)
    assert "    reloading --> verifying : reloaded" in diagram()
    if DESIGN.exists():
        found = re.search(r"<!-- moves -->\s*```mermaid\n(.*?)\n```\s*<!-- /moves -->", DESIGN.read_text(), re.DOTALL)
        assert found, "docs/design.md has no diagram between its markers"
        assert found[1] == diagram(), "draw it anew: python -m watchdogd.core.policy"


# ---- GATES


def reloading(number: int) -> State:
    """So many other instances are reloading, and one is being verified, which does not count."""
    others = {InstanceId(f"other{n}"): InstanceState(reload=RELOAD) for n in range(number)}
    return State({**others, InstanceId("done"): InstanceState(reload=replace(RELOAD, complete_at=AT))})


SPENT = tuple(Spent(AT - 100 * n) for n in (3, 2, 1))
ONE_GATE: dict[str, tuple[Case, float | None]] = {
    "mode": (case(using=replace(config(), mode=Mode.OBSERVE)), None),
    "paused": (case(whole=State(paused=Pause(AT + 60, Outside("work")))), AT + 60),
    "blind": (case(replace(SEEN, blind=(Blind("sockets", "no permission"),))), None),
    "no_deployment": (case(snapshot(replace(STUCK, deployments=()))), None),
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
    "not_allowed": (case(snapshot(STUCK, leftover(1, 2, 3), connection(1))), None),
    "cooldown": (case(state=InstanceState(retry_at=AT + 5)), AT + 5),
    "budget": (case(state=InstanceState(spent=SPENT)), AT - 300 + 3600),
    "parallel": (case(whole=reloading(4)), None),
}


def test_with_every_gate_open_nothing_is_blocked() -> None:
    assert phase_of(case()) is Phase.DUE
    assert case().command() == WORKERS
    assert blocked_by(case(), WORKERS) == ()


def test_each_gate_has_its_case() -> None:
    assert list(ONE_GATE) == [name for name, _ in GATES]


@pytest.mark.parametrize("name", ONE_GATE)
def test_each_gate_blocks_alone_with_its_reason_and_until_when(name: str) -> None:
    one, until = ONE_GATE[name]
    (blocked,) = blocked_by(one, one.command())
    assert (blocked.gate, blocked.until) == (name, until)
    assert len(blocked.reason) > 10


@pytest.mark.parametrize(
    ("scope", "blocks"),
    [
        ("sockets", True),
        ("state", True),
        ("network namespace 4026531833", True),
        ("deployment main", True),
        ("deployment other", False),
        ("member 10.0.0.2:27017", False),
        ("instance other", False),
    ],
)
def test_a_blindness_blocks_those_whom_it_concerns(scope: str, blocks: bool) -> None:
    blind = case(replace(SEEN, blind=(Blind(scope, "no permission"),)))
    assert [one.gate for one in blocked_by(blind, WORKERS)] == ["blind"] * blocks


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


# ---- the command


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
    assert case(snapshot(instance(*workers), leftover(2, 3), connection(1))).command() == command


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
    assert case(using=config(allowed)).command() == all_due
    assert case(some, using=config(allowed)).command() == some_due


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        (snapshot(STUCK, leftover(1, 2, 3)), NOTHING),
        (SEEN, InstanceState(escalate=True)),
        (snapshot(STUCK, leftover(2, 3), members=[member(serving_since=exactly(AT - 120))]), NOTHING),
    ],
    ids=["inherited", "escalated", "no safe fork for 120 s"],
)
@pytest.mark.parametrize("allowed", [[WORKERS], [WORKERS, RESTART]])
def test_only_a_restart_ends_what_the_master_has(seen: Snapshot, state: InstanceState, allowed: list[Command]) -> None:
    one = case(seen, state, config(allowed))
    assert one.command() == RESTART
    gates = [blocked.gate for blocked in blocked_by(one, RESTART)]
    assert gates == ([] if RESTART in allowed else ["not_allowed"])


def test_in_doubt_workers_that_work_without_a_connection_choose_the_command_too() -> None:
    alone = snapshot(instance(stranded(2), stranded(3)))
    mixed = snapshot(instance(stranded(2), well(3)))
    assert case(alone, InstanceState(doubt=True)).command() == WORKERS
    assert case(mixed, InstanceState(doubt=True)).command() == CHAIN


# ---- what is seen of health


def test_an_app_is_well_when_it_works_and_all_that_work_have_connections() -> None:
    assert case(snapshot(instance(well(2), idle(3)))).well
    assert not case(snapshot(instance(idle(2), idle(3)))).well  # nothing was seen
    assert not case(snapshot(instance(well(2), stranded(3)))).well
    assert not case(snapshot(instance(well(2)), members=[down()])).well
    assert not case(replace(CALM, blind=(Blind("sockets", "no permission"),))).well


def test_with_several_deployments_every_one_must_be_reached() -> None:
    both = ("main", "other")
    members = [member(), member("10.0.1.1", "other")]
    half = instance(well(2), deployments=both)
    whole = instance(worker(2, used=AT - 50, reached=["10.0.0.1", "10.0.1.1"]), deployments=both)
    using = config(deployments=both)
    assert not case(snapshot(half, members=members), using=using).well
    assert case(snapshot(whole, members=members), using=using).well


@pytest.mark.parametrize(("ago", "stuck"), [(14.9, True), (15.0, True), (15.0, False)])
def test_a_worker_is_stuck_that_has_worked_for_15_s_without_any_connection(ago: float, stuck: bool) -> None:
    one = worker(2, used=AT - ago, reached=[] if stuck else ["10.0.0.1"])
    assert case(snapshot(instance(one))).stuck == ([one] if stuck and ago >= 15 else [])


def test_found_instances_have_the_defaults() -> None:
    found = limits_of(replace(STUCK, name="blog", fifo="/run/blog/fifo"), config([RESTART]))
    assert found.reloads == {WORKERS, CHAIN}
    assert (found.mercy_s, str(found.master_fifo)) == (60.0, "/run/blog/fifo")
