"""What comes next of an instance: what is waited for, until when, and at which instants to look again."""

from __future__ import annotations

import math
from collections.abc import Iterator

from watchdogd.core.aim import is_soon
from watchdogd.core.case import ANSWERS_FOR_S, FORK_UNSAFE_FOR_S, RENEWED_WITHIN_S, UNPROVEN_FOR_S, Case
from watchdogd.core.due import due, is_roots, is_unmet
from watchdogd.core.ends import who_ends
from watchdogd.core.evidence.unconnected import USED_UNPROVEN_S
from watchdogd.core.evidence.waiting import SINGLE_S
from watchdogd.core.gates import ROOTS
from watchdogd.core.phases import QUIET
from watchdogd.core.reload import ANSWERED_WITHIN_S, CHEAPER_SETTLED_S
from watchdogd.core.reminder import next_at
from watchdogd.model.base import Beside, Command, Mono
from watchdogd.model.decided import Blocked, Outlook
from watchdogd.model.found import Kind, Verdict
from watchdogd.model.remembered import Phase

NO_DEPLOYMENT = "which MongoDB deployment it uses is not known; name it under `uwsgi:`, with its `mongodb:`"

UNMET = (
    "it was not seen with a connection to MongoDB yet; it is watched from the first one on, or where `uwsgi:` names it"
)


def outlook(c: Case, blocked: tuple[Blocked, ...]) -> Outlook:
    """Return what the status shows of its future; `blocked`: the gates that are shut."""
    budget = c.config.policy.budget
    unproven = sum(1 for one in c.spent if not one.proven)
    left = max(0, min(budget.unproven - unproven, budget.total - len(c.spent)))
    what, at = _next(c, blocked)
    at = at if at is not None and at > c.at else None
    suspected = c.state.phase not in QUIET or c.finding.suspected_until > c.at
    return Outlook(
        phase=c.state.phase,
        next_what=what,
        next_at=at,
        blocked_by=blocked,
        reloads_left=left,
        suspected=suspected,
        soon=is_soon(c, blocked),
        only_shown=only_shown(c),
        ways=tuple([way.word for way in (*Command, *Beside) if way in c.limits.reloads]),
        ends=who_ends(c),
        rounds=suspected and _is_to_be_asked(c),
    )


def only_shown(c: Case) -> str:
    """Say why nothing is ever done to this instance as it is, with what changes that; empty where something may be."""
    if c.instance.master is None:
        return ""
    if not c.instance.deployments:
        return NO_DEPLOYMENT
    if is_roots(c):
        return ROOTS
    return UNMET if is_unmet(c) else ""


def _is_to_be_asked(c: Case) -> bool:
    """Say whether how all its workers answer would say something now: MongoDB serves, and a healthy driver has had its
    time.
    """
    since = c.finding.served_since
    if since is None or c.at < since + SINGLE_S or not c.asks:
        return False
    if c.state.phase is Phase.WATCHING:  # when the daemon is started nothing has happened
        return c.returned
    return c.state.phase in {Phase.SETTLING, Phase.DUE, Phase.VERIFYING}


def _next(c: Case, blocked: tuple[Blocked, ...]) -> tuple[str, Mono | None]:
    """Return what is waited for, and until when."""
    state, at = c.state, None
    match state.phase:
        case Phase.RELOADING if state.reload and state.reload.try_at is not None:
            what, at = "a moment in which uWSGI forks well", state.reload.try_at
        case Phase.RELOADING:
            what = "the old workers to be gone and the new ones ready"
            at = state.reload.deadline if state.reload else None
        case Phase.VERIFYING:
            what = "a request to prove that it helped"
        case Phase.GAVE_UP:
            what = f"one more try; {state.standing.why}"
            at = state.standing.since + c.config.policy.half_open_after_s
        case Phase.ABSENT:
            what = "uWSGI to be started" + (f"; {c.instance.meant}" if c.instance.meant else "")
        case Phase.OUTAGE:
            what = "MongoDB to serve again"
        case Phase.SETTLING:
            what, at = _settling(c)
        case Phase.DUE:
            what = "the end of the stuck mule" if due(c).by_end else f"reload {due(c).command.value}"
            at = max((one.until for one in blocked if one.until is not None), default=None)
        case _:
            what = waiting_for(c)
    return what, at


def _settling(c: Case) -> tuple[str, Mono | None]:
    found, mules = due(c), c.state.mules
    if found.at is None and c.state.standing.in_doubt:
        return "a request to show whether the last reload helped", None
    if found.at is None and mules.ended:
        return "a task of the new mule to show that it reaches MongoDB", mules.ended_at + RENEWED_WITHIN_S
    if found.at is None and c.answers_badly is not None:
        return "good answers to its health requests", None
    at = max((time for time in (found.at, c.settled_at) if time is not None), default=None)
    return waiting_for(c) or "linger to be over", at


def waiting_for(c: Case) -> str:
    """Say what has to come before anything is due; empty where nothing has to."""
    if not c.instance.deployments:
        return ""
    if not c.finding.is_serving:
        return "MongoDB to serve again"
    if due(c).at is not None:
        return "linger: a healthy driver heals itself within it"
    if any(one.kind is Kind.LEFTOVER for one in c.finding.evidence):
        return "idle workers to be used"
    if any(c.finding.verdicts.get(mule.id) is Verdict.IDLE for mule in c.instance.mules):
        return "idle mules to have a task"
    unproven = c.state.incident is not None and c.state.phase is Phase.WATCHING
    return "a request to show whether it reaches MongoDB" if unproven else ""


def wake_times(c: Case, shown: Outlook) -> Iterator[Mono]:
    """Yield the instants at which something may change without anything being seen to change."""
    state, fork, reload = c.state, c.finding.fork, c.state.reload
    times = [due(c).at, c.finding.suspected_until, fork.safe_at, c.settled_at, shown.next_at, state.retry_at]
    times += [blocked.until for blocked in shown.blocked_by]
    times += [next_at(state.incident)] if state.incident else []
    times += [state.mules.ended_at + RENEWED_WITHIN_S] if state.mules.ended else []
    times += [one.ripe_at for one in c.evidence(Kind.MULE)]
    if reload and reload.in_flight:
        times += [reload.try_at, reload.deadline, reload.progress_at + CHEAPER_SETTLED_S]
    if fork.unsafe_since is not None:
        times.append(fork.unsafe_since + FORK_UNSAFE_FOR_S)
    if reload or state.standing.in_doubt:
        times += [worker.used.hi + USED_UNPROVEN_S for worker in c.ready if worker.used]
    if c.asks and c.finding.served_since is not None:
        times.append(c.finding.served_since + SINGLE_S)
    if c.asks and reload and reload.complete_at is not None:
        times.append(reload.complete_at + ANSWERED_WITHIN_S)
    if c.answers:
        times.append(c.answers.ended + ANSWERS_FOR_S)
    if c.unproven and c.finding.served_since is not None:
        times.append(c.finding.served_since + UNPROVEN_FOR_S)
    times += [c.resumes_by] if state.incident else []
    return (time for time in times if time is not None and math.isfinite(time))
