import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings

from tests.world.cases import DOUBTFUL, ESCALATING, GAVE_UP, NOTHING, RELOAD, SEEN, STUCK, case
from tests.world.chaos import Chaos
from tests.world.pieces import (
    AT,
    down,
    exactly,
    idle,
    instance,
    leftover,
    member,
    snapshot,
    stranded,
    well,
)
from tests.world.values import values
from watchdogd.core.instance import Tick
from watchdogd.core.phases import ARROWS, PHASES, STAGES, diagram, phase_of, stages
from watchdogd.model.found import Finding
from watchdogd.model.remembered import Incident, InstanceState, Phase
from watchdogd.model.seen import Instance, Snapshot

DESIGN = Path(__file__).resolve().parents[2] / "docs" / "design.md"


@settings(max_examples=300)
@given(values(InstanceState), values(Finding), values(Instance))
def test_whatever_is_seen_and_remembered_there_is_a_phase(state: InstanceState, found: Finding, one: Instance) -> None:
    assert phase_of(replace(case(), state=state, finding=found, instance=one)) in Phase


def test_the_phases_are_those_of_the_model_in_its_order() -> None:
    assert [phase for phase, _ in PHASES] == list(Phase)


INCIDENT = Incident("i", 0.0)
CALM = snapshot(instance(well(2)))
JUST_BACK = [member(served_since=exactly(AT - 5))]


@pytest.mark.parametrize(
    ("phase", "seen", "state"),
    [
        (Phase.WATCHING, CALM, NOTHING),
        (Phase.RELOADING, CALM, InstanceState(reload=RELOAD, standing=GAVE_UP)),
        (Phase.VERIFYING, SEEN, InstanceState(reload=replace(RELOAD, complete_at=AT), standing=GAVE_UP)),
        (Phase.GAVE_UP, SEEN, InstanceState(standing=GAVE_UP)),
        (Phase.ABSENT, snapshot(instance(master=None), members=[down()]), NOTHING),
        (Phase.OUTAGE, snapshot(STUCK, leftover(2, 3), members=[down()]), NOTHING),
        (Phase.OUTAGE, snapshot(STUCK, leftover(2, 3), members=[]), InstanceState(incident=INCIDENT)),
        (Phase.WATCHING, snapshot(STUCK, leftover(2, 3), members=[]), NOTHING),  # not heard of MongoDB yet
        (Phase.SETTLING, snapshot(STUCK, leftover(2, 3), members=JUST_BACK), NOTHING),
        (Phase.SETTLING, snapshot(instance(well(2)), members=JUST_BACK), InstanceState(incident=INCIDENT)),
        (Phase.WATCHING, snapshot(instance(well(2)), members=JUST_BACK), NOTHING),
        (Phase.DUE, SEEN, NOTHING),
        (Phase.DUE, CALM, InstanceState(standing=ESCALATING)),
        # A reload of ours ended without proof: workers that work without a connection count without any leftover.
        (Phase.DUE, snapshot(instance(stranded(2))), InstanceState(standing=DOUBTFUL)),
        (Phase.SETTLING, snapshot(instance(idle(2))), InstanceState(standing=DOUBTFUL)),
        (Phase.WATCHING, snapshot(instance(stranded(2))), NOTHING),
    ],
)
def test_a_phase_is_the_first_that_matches(phase: Phase, seen: Snapshot, state: InstanceState) -> None:
    assert phase_of(case(seen, state)) is phase


# ---- ARROWS


@pytest.mark.timeout(300)  # 7 s alone; beside six stories far more
def test_every_way_is_taken_in_some_world_and_no_other_one_in_any(monkeypatch: pytest.MonkeyPatch) -> None:
    made: Counter[tuple[str, str]] = Counter()
    stage = {phase: name for name, phases in STAGES.items() for phase in phases}
    keep = Tick._keep  # noqa: SLF001 - where a phase is remembered

    def recorded(tick: Tick, **changes: object) -> None:
        old, new = tick.state.phase, changes.get("phase")
        keep(tick, **changes)
        if isinstance(new, Phase) and stage[old] != stage[new]:
            made[stage[old], stage[new]] += 1

    monkeypatch.setattr(Tick, "_keep", recorded)
    for seed in range(60):
        world = Chaos(Random(seed))
        for _ in range(1000):
            world.tick()
    drawn = [{(old, new) for old in stages(start) for new in stages(end)} for start, end, _ in ARROWS]
    assert set(made) <= set().union(*drawn)
    assert [arrow for arrow, ways in zip(ARROWS, drawn, strict=True) if not ways & set(made)] == []


def test_each_phase_is_in_one_stage() -> None:
    assert sorted(phase.value for phases in STAGES.values() for phase in phases) == sorted(one.value for one in Phase)


def test_the_diagram_of_the_documentation_is_drawn_from_the_table() -> None:
    assert "    curing --> proving : all processes are new" in diagram()
    if DESIGN.exists():
        found = re.search(r"<!-- arrows -->\s*```mermaid\n(.*?)\n```\s*<!-- /arrows -->", DESIGN.read_text(), re.DOTALL)
        assert found, "docs/design.md has no diagram between its markers"
        assert found[1] == diagram(), "draw it anew: python -m watchdogd.core.phases"
