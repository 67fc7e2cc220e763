"""Where an instance stands: PHASES, of which the first rule that matches decides; and ARROWS, how it goes on.

A phase is not remembered to decide by it: it follows from what is seen, found and remembered at each tick. So there is
no machine that could be in the wrong state; ARROWS is what the tests see it do, and what docs/design.md draws:

    python -m watchdogd.core.phases
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from watchdogd.core.after import AFTER
from watchdogd.core.case import Case
from watchdogd.core.due import due
from watchdogd.model.remembered import Phase, ReloadOutcome, Stand


def _is_outage(c: Case) -> bool:
    return c.finding.outage or (c.state.incident is not None and not c.finding.is_serving)


def _is_settling(c: Case) -> bool:
    at, standing = due(c).at, c.state.standing
    open_ = c.state.incident is not None or standing.in_doubt
    if c.early:
        return False
    if at is not None and at > c.at:
        return True
    if open_ and c.settled_at is not None and c.settled_at > c.at:
        return True
    if c.state.incident is not None and at is None and (c.unproven or c.resumes_by > c.at):
        return True
    return (standing.stand is Stand.DOUBTFUL or bool(c.state.mules.ended)) and at is None


PHASES: tuple[tuple[Phase, Callable[[Case], bool]], ...] = (
    (Phase.RELOADING, lambda c: c.state.reload is not None and c.state.reload.in_flight),
    (Phase.VERIFYING, lambda c: c.state.reload is not None),
    (Phase.GAVE_UP, lambda c: c.state.standing.stand is Stand.GAVE_UP),
    (Phase.ABSENT, lambda c: c.instance.master is None),
    (Phase.OUTAGE, _is_outage),
    (Phase.SETTLING, _is_settling),
    (Phase.DUE, lambda c: due(c).at is not None or c.state.standing.stand is Stand.ESCALATING),
    (Phase.WATCHING, lambda _: True),
)


QUIET = frozenset({Phase.WATCHING, Phase.ABSENT})
"""Phases in which there is nothing to follow: a quiet look will do."""


def phase_of(case: Case) -> Phase:
    """Return the first phase whose rule matches; the last one always does."""
    return next(phase for phase, holds in PHASES if holds(case))


# ---- the diagram

STAGES: Mapping[str, frozenset[Phase]] = {
    "at_rest": frozenset({Phase.WATCHING}),
    "suspected": frozenset({Phase.OUTAGE, Phase.SETTLING}),
    "due": frozenset({Phase.DUE}),
    "gave_up": frozenset({Phase.GAVE_UP}),
    "curing": frozenset({Phase.RELOADING}),
    "proving": frozenset({Phase.VERIFYING}),
    "absent": frozenset({Phase.ABSENT}),
}
"""What a person calls the phases in a drawing: an outage and linger are both a suspicion."""

GROUPS: Mapping[str, tuple[str, ...]] = {
    "in_trouble": ("suspected", "due", "gave_up"),
    "running": ("at_rest", "in_trouble", "curing", "proving"),
}

_AT_WORK = ReloadOutcome.RECOVERED, ReloadOutcome.REPLACED, ReloadOutcome.ENDED_BY_US


def _told_of(*but: ReloadOutcome) -> str:
    return ", ".join(outcome.name for outcome in AFTER if outcome not in but)


ARROWS: tuple[tuple[str, str, str], ...] = (
    ("at_rest", "in_trouble", "an outage, or a worker that is stuck"),
    ("in_trouble", "at_rest", "healed, or nobody has used it yet"),
    ("suspected", "due", "the evidence is ripe"),
    ("due", "suspected", "MongoDB went away, or came back just now"),
    ("due", "gave_up", "nothing that is allowed would help"),
    ("gave_up", "suspected", "another life of MongoDB"),
    ("gave_up", "due", "half_open_after"),
    ("in_trouble", "curing", "every gate is open"),
    ("at_rest", "curing", "an operator asks"),
    ("curing", "proving", "all processes are new"),
    ("curing", "in_trouble", _told_of(*_AT_WORK, ReloadOutcome.UNPROVEN)),
    ("curing", "at_rest", "nothing is stuck any more, before its byte was written"),
    ("proving", "at_rest", "RECOVERED"),
    ("proving", "in_trouble", "FAILED, OVERTAKEN"),
    ("proving", "curing", "UNPROVEN: an operator asks"),
    ("running", "absent", "REPLACED, ENDED_BY_US"),
    ("absent", "running", "a master has the FIFO open"),
)
"""From where, to where, and why. The endings in capitals are the rows of AFTER."""


def stages(name: str) -> frozenset[str]:
    """Return the stages that a stage, or a group of them, stands for."""
    return frozenset({name}) if name in STAGES else frozenset().union(*map(stages, GROUPS[name]))


def diagram() -> str:
    """Return ARROWS as a Mermaid state diagram; docs/design.md holds it, and a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> absent"]
    lines += _drawn("running", "    ")
    lines += [f"    {start} --> {end} : {why}" for start, end, why in ARROWS]
    return "\n".join(lines)


def _drawn(group: str, indent: str) -> list[str]:
    inside = [line for name in GROUPS[group] for line in (_drawn(name, indent + "    ") if name in GROUPS else ())]
    plain = [f"{indent}    {name}" for name in GROUPS[group] if name not in GROUPS]
    return [f"{indent}state {group} {{", *plain, *inside, f"{indent}}}"]


if __name__ == "__main__":
    print(diagram())  # noqa: T201 - this is the command that makes the diagram
