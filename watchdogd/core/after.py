"""What follows from the ending of a reload: one table, AFTER. And what ends what it has led to.

Of each ending it says: does the reload count against the budget, is the incident over, when may the next reload be,
where does the instance stand with us, what is told. One that was not sent is no reload, and costs nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from watchdogd.core.case import Case
from watchdogd.core.due import due, restart_left
from watchdogd.core.reload import Ended, outrun_until
from watchdogd.model.base import RESTART, Incarnation, Mono
from watchdogd.model.found import Kind
from watchdogd.model.remembered import (
    FINE,
    InstanceState,
    Outrun,
    Reload,
    ReloadOutcome,
    Stand,
    Standing,
    Unsent,
)
from watchdogd.model.told import (
    EndedByUs,
    GaveUp,
    Overtaken,
    Recovered,
    ReloadFailed,
    ReloadUnproven,
    ReloadUnsent,
    Replaced,
    What,
)

LOOK_AGAIN_S = 1.0  # what changed right before the byte has settled by the next ordinary look
UNSENT_AGAIN_S = 60.0  # the longest that is waited before a byte that could not be written is tried again


class Counts(enum.Enum):
    """How a reload counts against the budget."""

    NOT = 0  # no byte of it was written, if what ended it does not say otherwise
    UNPROVEN = 1
    PROVEN = 2


@dataclass(frozen=True, slots=True)
class After:
    """One row. `next_at`: when the next reload may be. `closes`: the incident is over."""

    counts: Counts
    next_at: Callable[[Case], Mono | None]
    standing: Callable[[Case, Ended], Standing]
    told: Callable[[Case, Ended], What | None]
    closes: bool = False


def _cooldown(c: Case) -> Mono:
    return c.at + c.config.policy.cooldown_s


def _soon(c: Case) -> Mono:
    return c.at + LOOK_AGAIN_S


def _doubling(c: Case) -> Mono:
    """Try again soon, since whoever mends it should not have to wait, and ever more seldom, since each try costs."""
    count = c.state.unsent.count if c.state.unsent else 0
    return c.at + min(LOOK_AGAIN_S * 2.0 ** min(count, 10), UNSENT_AGAIN_S)


def _as_before(c: Case) -> Mono | None:
    return c.state.retry_at


def _fine(_: Case, __: Ended) -> Standing:
    return FINE


def _same(c: Case, _: Ended) -> Standing:
    return c.state.standing


def _doubtful(c: Case, _: Ended) -> Standing:
    return Standing(Stand.DOUBTFUL, c.at)


def _worse(c: Case, ended: Ended) -> Standing:
    """A restart is next where it is allowed and has not been against this life of MongoDB; else we give up."""
    after_it = replace(c, state=replace(c.state, restarted=_restarted(c.state, ended.reload)))
    if not ended.final and restart_left(after_it, ended.reload.incarnations):
        return Standing(Stand.ESCALATING, c.at)
    return Standing(Stand.GAVE_UP, c.at, f"the reload did not help: {ended.why}", unproven=True)


def _recovered(c: Case, ended: Ended) -> What:
    since = c.state.incident.since if c.state.incident else ended.reload.asked_at
    stuck = " and ".join(mule.called for mule in c.instance.mules if mule.id in c.stuck_mules)
    by_mules = ended.reload.because == {Kind.MULE}
    seconds, access = round(c.at - since, 1), c.access_turned_on or None
    shown = access, ended.answers or None, not by_mules and not ended.answers
    return Recovered(ended.reload.command, seconds, ended.reached, stuck or None, by_mules, *shown)


def _failed(_: Case, ended: Ended) -> What:
    return ReloadFailed(ended.reload.command, ended.why)


def _unproven(_: Case, ended: Ended) -> What:
    return ReloadUnproven(ended.reload.command, ended.why)


def _overtaken(_: Case, ended: Ended) -> What:
    return Overtaken(ended.reload.command)


def _replaced(_: Case, ended: Ended) -> What:
    return Replaced(ended.why)


def _ended_by_us(_: Case, ended: Ended) -> What:
    return EndedByUs(ended.reload.command)


def _unsent(c: Case, ended: Ended) -> What | None:
    """Tell it once for each reason, however often it is tried; and always where a first byte was written and lost."""
    if ended.reload.operator is not None:
        return _asked_in_vain(c, ended)
    known = not ended.written and c.state.unsent is not None and c.state.unsent.why == ended.why
    return None if known else ReloadUnsent(ended.reload.command, ended.why)


def _asked_in_vain(_: Case, ended: Ended) -> What | None:
    """Tell an operator, who was answered that it has begun. The daemon asks for nothing in his place."""
    return None if ended.reload.operator is None else ReloadUnsent(ended.reload.command, ended.why, again=False)


_NOT, _UNPROVEN, _PROVEN = Counts
AFTER: Mapping[ReloadOutcome, After] = {
    ReloadOutcome.RECOVERED: After(_PROVEN, _cooldown, _fine, _recovered, closes=True),
    ReloadOutcome.FAILED: After(_UNPROVEN, _cooldown, _worse, _failed),
    ReloadOutcome.UNPROVEN: After(_UNPROVEN, _as_before, _doubtful, _unproven),
    ReloadOutcome.OVERTAKEN: After(_UNPROVEN, _as_before, _doubtful, _overtaken),
    ReloadOutcome.REPLACED: After(_UNPROVEN, _as_before, _fine, _replaced, closes=True),
    ReloadOutcome.ENDED_BY_US: After(_UNPROVEN, _cooldown, _fine, _ended_by_us, closes=True),
    ReloadOutcome.UNSENT: After(_NOT, _doubling, _same, _unsent),
    ReloadOutcome.DROPPED: After(_NOT, _soon, _same, _asked_in_vain),
}


def after(c: Case, ended: Ended) -> tuple[InstanceState, list[What], bool]:
    """Return the memory after an ending, what is told of it, and whether the incident is over with that."""
    row, state, reload = AFTER[ended.outcome], c.state, ended.reload
    proven = row.counts is Counts.PROVEN
    spent = state.spent[:-1]
    if row.counts is not Counts.NOT or ended.written:
        spent = (*spent, *[replace(one, proven=proven) for one in state.spent[-1:]])
    standing, what = row.standing(c, ended), row.told(c, ended)
    told = [what] if what else []
    unsent = state.unsent
    if ended.outcome is ReloadOutcome.UNSENT:
        unsent = Unsent((state.unsent.count if state.unsent else 0) + 1, ended.why)
    state = replace(
        state,
        reload=None,
        spent=spent,
        retry_at=row.next_at(c),
        outrun=_outrun(c, ended),
        standing=standing,
        restarted=_restarted(state, reload) if row.counts is not Counts.NOT else state.restarted,
        unsent=unsent,
        last=state.last and replace(state.last, outcome=ended.outcome, detail=ended.why, proven=proven),
    )
    if proven:
        state = replace(state, tried=frozenset(), restarted=frozenset())
    if standing.stand is Stand.GAVE_UP:
        state, gave_up = given_up(replace(c, state=state), standing)
        told.append(gave_up)
    # A mule that is stuck goes on being what the incident is about.
    return state, told, row.closes and (ended.outcome is not ReloadOutcome.RECOVERED or not c.stuck_mules)


def given_up(c: Case, standing: Standing) -> tuple[InstanceState, What]:
    """Do nothing more for this instance until it recovers, another incarnation serves, or half-open."""
    tried = c.state.tried | c.finding.incarnations
    state = replace(c.state, standing=standing, tried=tried, master=c.instance.master)
    return state, GaveUp(standing.why, c.config.policy.half_open_after_s)


def _restarted(state: InstanceState, reload: Reload) -> frozenset[Incarnation]:
    return state.restarted | (reload.incarnations if reload.command is RESTART else frozenset())


def _outrun(c: Case, ended: Ended) -> Outrun | None:
    reload = ended.reload
    if ended.outcome is not ReloadOutcome.OVERTAKEN or not reload.in_flight:
        return None
    return Outrun(reload.old, outrun_until(c, reload))


def reconsidered(c: Case) -> InstanceState:
    """End a doubt, an escalation or a giving up when the app was seen to be well, or there is a new chance.

    `half_open_after`, a new incarnation, or its own recovery end a giving up; while a reload goes on, nothing does.
    """
    state, standing = c.state, c.state.standing
    if state.reload:
        return state
    if c.well:
        mules = replace(state.mules, restarted=frozenset())
        return replace(state, standing=FINE, tried=frozenset(), restarted=frozenset(), mules=mules)
    if standing.stand is not Stand.GAVE_UP or not c.finding.is_serving:
        return state
    again = Standing(Stand.DOUBTFUL, c.at) if standing.unproven else FINE
    if not c.finding.incarnations <= state.tried:
        return replace(state, standing=again)
    if due(c).at is not None and c.at >= standing.since + c.config.policy.half_open_after_s:
        return replace(state, standing=again, tried=frozenset(), restarted=frozenset())
    return state
