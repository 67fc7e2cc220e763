"""The life of a reload: the intent, the byte, the old workers' end, the proof; and what comes of one that fails.

Pure like policy.py, whose essay explains it. A reload ends once, in one of these ways: recovered, failed, overtaken
by an outage, replaced (another master), or dropped before a byte of it was written.
"""

from __future__ import annotations

from dataclasses import replace

from watchdogd.core.policy import USED_UNPROVEN_S, Case, blocked_by
from watchdogd.core.step import Step
from watchdogd.model.base import CHAIN, RESTART, Command, ProcessId
from watchdogd.model.done import Outcome, Result, SendFifo
from watchdogd.model.remembered import LastReload, Reload, ReloadOutcome, Spent
from watchdogd.model.seen import Tcp, Worker
from watchdogd.model.told import Event

CHECK_INTERVAL_S = 1.0  # uWSGI's default --check-interval: dead workers are reaped and made anew once in it
LOAD_S = 30.0  # an app's import, which nobody tells us beforehand
FIFO_TRIES_S = 5.0  # the master makes its FIFO anew after every write; longer absences are not that
TRY_EVERY_S = 0.25
HEALED = "the app has healed by itself"
LOOK_AGAIN_S = 1.0  # what changed right before the byte has settled by the next ordinary look
CHEAPER_SETTLED_S = 3.0  # with --cheaper fewer come back: no news for 3 check intervals is all of them


def span_s(case: Case) -> float:
    """Return how long old workers may take to end and new ones to be ready."""
    return case.limits.mercy_s + 2 * CHECK_INTERVAL_S + LOAD_S


def begin(step: Step, command: Command, *, operator: str | None = None) -> Reload | None:
    """Decide a reload: the intent into the memory, the byte into the effects. None where there is no master."""
    c, master = step.case, step.case.instance.master
    if master is None:
        return None
    step.serial += 1
    concerned = c.finding.concerned or c.finding.served.keys()
    old = frozenset(worker.id for worker in c.instance.workers)
    reload = Reload(
        id=f"{c.instance.name}-{int(c.snapshot.wall)}-{step.serial}",
        command=command,
        master=master,
        old=old,
        cookies=c.finding.leftovers,
        incarnations=frozenset().union(*[c.finding.served[name] for name in concerned]),
        asked_at=c.at,
        progress_at=c.at,
        deadline=c.at + span_s(c),
        left=len(old),
        operator=operator,
    )
    step.state = replace(
        step.state,
        spent=(*c.spent, Spent(c.at)),
        gave_up_at=None,
        held=(),
        last=LastReload(reload.id, command, c.at, c.snapshot.wall, ReloadOutcome.RELOADING),
        master=master,
    )
    _send(step, reload)
    return reload


def follow(step: Step) -> None:
    """Take what became of the byte, then see how far the reload is."""
    for outcome in step.case.snapshot.outcomes:
        reload = step.state.reload
        if reload and reload.id == outcome.id and reload.complete_at is None:
            _take(step, reload, outcome)
    c, reload = step.case, step.state.reload
    if reload is None:
        return
    if c.instance.master != reload.master:
        why = "uWSGI was stopped, or started anew by somebody else"
        _end(step, ReloadOutcome.REPLACED, why)
        step.state = replace(step.state, doubt=False)
        step.replaced(f"{why}, while it was being reloaded")
    elif c.finding.outage or (c.finding.serves and not reload.incarnations <= c.finding.incarnations):
        _overtake(step, reload)
    elif reload.try_at is not None:
        if reload.try_at <= c.at:
            _try_again(step, reload)
    elif reload.complete_at is None:
        _follow_processes(step, reload)
    elif c.finding.serves and c.blind is None:
        _prove(step, reload)


def give_up(step: Step, why: str) -> None:
    """Do nothing more for this instance until it recovers, another incarnation serves, or half-open."""
    c = step.case
    tried = step.state.tried | c.finding.incarnations
    step.state = replace(
        step.state, gave_up_at=c.at, gave_up_why=why, tried=tried, escalate=False, master=c.instance.master
    )
    step.say(Event.GAVE_UP, reason=why, until_s=c.config.policy.half_open_after_s)


# ---- the byte


def _send(step: Step, reload: Reload) -> None:
    it, at = step.case.instance, step.case.at
    step.state = replace(step.state, reload=reload, spent=(*step.state.spent[:-1], Spent(at)))
    step.effects.append(SendFifo(reload.id, it.id, it.fifo, reload.command, reload.master, reload.old, it.uid))


def _take(step: Step, reload: Reload, outcome: Outcome) -> None:
    """Take what became of one attempt to write the byte."""
    c = step.case
    if outcome.result is Result.WRITTEN:
        at = outcome.at
        sent = replace(reload, sent_at=at, progress_at=at, deadline=at + span_s(c), try_at=None)
        step.state = replace(step.state, reload=sent, unsent=0)
        step.tell(
            Event.RELOAD_SENT,
            reload.command,
            workers=reload.left,
            resent=reload.resent,
            fifo=c.instance.fifo,
        )
    elif outcome.result is Result.CHANGED:
        if not reload.resent:
            _drop(step, outcome.detail, spent=False)
        # Else the first byte was only late, and what changed is its work: the reload is followed to its deadline.
    elif outcome.result is Result.TRY_AGAIN and c.at - reload.asked_at < FIFO_TRIES_S:
        step.state = replace(step.state, reload=replace(reload, try_at=c.at + TRY_EVERY_S))
    else:
        _fail_unsent(step, reload, outcome.detail, spent=reload.resent)


def _try_again(step: Step, reload: Reload) -> None:
    """Send what could not be written, if it still is to be sent."""
    if not _wanted(step.case, reload):
        _drop(step, HEALED, spent=reload.resent)
    elif not (blocked := _blocked_anew(step.case, reload.command)):
        _send(step, replace(reload, try_at=None))
    elif reload.resent:
        _fail_unsent(step, reload, blocked, spent=True)
    else:
        _drop(step, blocked, spent=False)


def _wanted(c: Case, reload: Reload) -> bool:
    """Say whether what this reload is for is still there: an app that has healed meanwhile is left alone."""
    return reload.operator is not None or c.due or c.state.escalate


def _blocked_anew(c: Case, command: Command) -> str:
    """Return what would hold this reload if it were decided now; it has paid for cooldown and budget already."""
    as_new = replace(c, state=replace(c.state, reload=None, retry_at=None, spent=()))
    return ", ".join(blocked.reason for blocked in blocked_by(as_new, command))


def _drop(step: Step, why: str, *, spent: bool) -> None:
    """End a reload that had no effect: as if nothing had been decided. `spent`: a byte of it may have been written."""
    state = step.state
    last = state.last and replace(state.last, outcome=ReloadOutcome.CHANGED, detail=why)
    retry_at = step.case.at + LOOK_AGAIN_S
    step.state = replace(
        state, reload=None, spent=state.spent if spent else state.spent[:-1], retry_at=retry_at, last=last
    )


def _fail_unsent(step: Step, reload: Reload, why: str, *, spent: bool) -> None:
    """End a reload whose byte does not arrive; nothing is said by that of what it would have cured.

    `spent`: a byte of it may have been written, which counts against the budget. Each in a row waits twice as long for
    the next one.
    """
    state, policy = step.state, step.case.config.policy
    wait_s = min(policy.cooldown_s * 2 ** min(state.unsent, 10), max(policy.half_open_after_s, policy.cooldown_s))
    last = state.last and replace(state.last, outcome=ReloadOutcome.FAILED, detail=why)
    step.state = replace(
        state,
        reload=None,
        retry_at=step.case.at + wait_s,
        last=last,
        spent=state.spent if spent else state.spent[:-1],
        unsent=state.unsent + 1,
    )
    step.say(Event.RELOAD_FAILED, reload.command, reason=why)


# ---- the processes


def _follow_processes(step: Step, reload: Reload) -> None:
    c = step.case
    left = reload.old & {worker.id for worker in c.instance.workers}
    new = _new(c, reload)
    if len(left) < reload.left:
        deadline = c.at + span_s(c) if reload.command == CHAIN else reload.deadline
        reload = replace(reload, left=len(left), progress_at=c.at, deadline=deadline)
        step.state = replace(step.state, reload=reload)
    if c.blind is not None:
        return
    held = _held(c, reload, new)
    settled = len(new) == len(c.instance.workers) and c.at - reload.progress_at >= CHEAPER_SETTLED_S
    if new and not left and not held and (len(new) >= len(reload.old) or settled):
        last = step.state.last and replace(step.state.last, outcome=ReloadOutcome.RELOADED)
        step.state = replace(step.state, reload=replace(reload, complete_at=c.at), last=last)
        seconds = round(c.at - reload.asked_at, 1)
        step.say(Event.RELOADED, reload.command, seconds=seconds, workers=len(new))
    elif c.at >= reload.deadline and c.finding.serves:
        _miss(step, reload, left, held)


def _new(c: Case, reload: Reload) -> list[Worker]:
    return [worker for worker in c.ready if worker.id not in reload.old]


def _held(c: Case, reload: Reload, new: list[Worker]) -> bool:
    """Say whether a new worker holds what the old ones left: then it has it from the master."""
    ids = {worker.id for worker in new}
    return any(
        one.cookie in reload.cookies and one.tcp is not Tcp.ESTABLISHED and not one.holders.isdisjoint(ids)
        for one in c.snapshot.connections
    )


def _miss(step: Step, reload: Reload, left: frozenset[ProcessId], held: bool) -> None:  # noqa: FBT001 - a fact
    """The deadline has passed."""
    c = step.case
    if left == reload.old and not reload.resent:
        if not _wanted(c, reload):
            _drop(step, HEALED, spent=True)
        elif blocked := _blocked_anew(c, reload.command):
            _fail_unsent(step, reload, f"the command was lost, and cannot be sent again now: {blocked}", spent=True)
        else:
            _resend(step, reload)
    elif left:
        _fail(step, reload, f"{len(left)} of {len(reload.old)} old workers are still there")
    elif held:
        _fail(step, reload, "the new workers hold the old connection too: they have it from the master")
    else:
        _fail(step, reload, f"the new workers did not become ready: {c.not_ready or 'there are fewer than before'}")


def _resend(step: Step, reload: Reload) -> None:
    """Send a command that was lost once more, to the workers that are there now."""
    c = step.case
    old = frozenset(worker.id for worker in c.instance.workers)
    again = replace(
        reload,
        old=old,
        left=len(old),
        resent=True,
        sent_at=None,
        asked_at=c.at,
        progress_at=c.at,
        deadline=c.at + span_s(c),
    )
    _send(step, again)


# ---- the proof, and the ends


def _prove(step: Step, reload: Reload) -> None:
    c = step.case
    new = _new(c, reload)
    own = [worker for worker in new if c.reaches(worker, reload.incarnations)]
    waiting = [worker for worker in new if worker.used and worker not in own]
    stuck = [worker for worker in c.stuck if worker in waiting]
    if own and not waiting:
        _recover(step, reload, len(own))
    elif stuck:
        _fail(step, reload, f"{len(stuck)} new workers work for {USED_UNPROVEN_S:.0f} s without a connection")


def _recover(step: Step, reload: Reload, workers: int) -> None:
    c, incident = step.case, step.state.incident
    since = incident.since if incident else reload.asked_at
    step.say(Event.RECOVERED, reload.command, seconds=round(c.at - since, 1), workers=workers)
    _end(step, ReloadOutcome.RECOVERED, proven=True)
    step.state = replace(
        step.state,
        spent=(*step.state.spent[:-1], replace(step.state.spent[-1], proven=True)),
        retry_at=c.at + c.config.policy.cooldown_s,
        tried=frozenset(),
        restarted=frozenset(),
        doubt=False,
        incident=None,
    )


def _overtake(step: Step, reload: Reload) -> None:
    c = step.case
    if reload.try_at is not None and not reload.resent:
        _drop(step, "MongoDB failed again", spent=False)
        return
    # Its byte may still be at work: nothing more is sent before it must have ended.
    wait = reload.deadline if reload.complete_at is None else c.at
    step.say(Event.OVERTAKEN, reload.command)
    _end(step, ReloadOutcome.OVERTAKEN, "MongoDB failed again before it was proven")
    step.state = replace(step.state, retry_at=max(wait, step.state.retry_at or wait), doubt=True)


def _fail(step: Step, reload: Reload, reason: str) -> None:
    c = step.case
    step.say(Event.RELOAD_FAILED, reload.command, reason=reason)
    _end(step, ReloadOutcome.FAILED, reason)
    step.state = replace(step.state, retry_at=c.at + c.config.policy.cooldown_s, doubt=True)
    if RESTART in c.limits.reloads and not reload.incarnations <= step.state.restarted:
        step.state = replace(step.state, escalate=True)
    else:
        give_up(step, f"the reload did not help: {reason}")


def _end(step: Step, outcome: ReloadOutcome, detail: str = "", *, proven: bool = False) -> None:
    """End a reload whose byte may have been written."""
    state, reload = step.state, step.state.reload
    restarted = state.restarted
    if reload and reload.command == RESTART:
        restarted |= reload.incarnations
    last = state.last and replace(state.last, outcome=outcome, detail=detail, proven=proven)
    step.state = replace(state, reload=None, restarted=restarted, escalate=False, last=last)
