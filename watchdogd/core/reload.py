"""One reload from its intent to its ending: the byte, the old workers' end, the proof.

`follow` is shown a reload and gives back either the reload as it now is (Going), or its ending (Ended): one, once. What
follows from that (does it count, when may the next one be, what is told) stands in after.py and nowhere here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from watchdogd.core.aim import aim
from watchdogd.core.case import Case
from watchdogd.core.due import due, wanted
from watchdogd.core.evidence.unconnected import USED_UNPROVEN_S
from watchdogd.core.gates import blocked_anew
from watchdogd.model.base import CHAIN, Command, Mono, ProcessId
from watchdogd.model.done import Outcome, Result, SendFifo
from watchdogd.model.found import Kind
from watchdogd.model.remembered import Reload, ReloadOutcome
from watchdogd.model.seen import Request, Tcp, Worker
from watchdogd.model.told import Reloaded, ReloadSent, What

CHECK_INTERVAL_S = 1.0  # uWSGI's default --check-interval: dead workers are reaped and made anew once in it
LOAD_S = 30.0  # an app's import, which nobody tells us beforehand
FIFO_TRIES_S = 5.0  # the master makes its FIFO anew after every write; longer absences are not that
TRY_EVERY_S = 0.25
NOT_NEEDED = "what it was for is gone"
STRICT = frozenset({Kind.WAITING, Kind.ORPHANED})
ANSWERED_WITHIN_S = 60.0
"""So long good answers are waited for where all else is proven: several rounds, and what an app does once when new."""
CHEAPER_SETTLED_S = 3.0  # with --cheaper fewer come back: no news for 3 check intervals is all of them


@dataclass(frozen=True, slots=True)
class Going:
    """A reload goes on. `send`: its byte is to be written now; `told`: what has happened to it."""

    reload: Reload
    send: SendFifo | None = None
    told: tuple[What, ...] = ()


@dataclass(frozen=True, slots=True)
class Ended:
    """A reload has ended, by `outcome`, for this reason.

    `written`: a byte of it may have been, whatever the outcome says of its last one. `reached`: how many workers were
    seen to reach MongoDB; `answers`: how many health requests were answered well at once, 0 where that was not seen.
    `final`: no other cure would help either.
    """

    reload: Reload
    outcome: ReloadOutcome
    why: str = ""
    written: bool = False
    reached: int = 0
    final: bool = False
    answers: int = 0


def span_s(c: Case) -> float:
    """Return how long old workers may take to end and new ones to be ready."""
    return c.limits.mercy_s + 2 * CHECK_INTERVAL_S + LOAD_S


def begin(c: Case, id_: str, master: ProcessId, command: Command, request: Request | None) -> Going:
    """Decide a reload: the intent, and its byte. `request`: the operator's who asked for it."""
    evidence = due(c).evidence
    concerned = frozenset().union(*[one.deployments for one in evidence]) or c.finding.served.keys()
    old = frozenset(worker.id for worker in c.instance.workers)
    reload = Reload(
        id=id_,
        command=command,
        master=master,
        old=old,
        cookies=c.finding.leftovers,
        incarnations=frozenset().union(*[c.finding.served[name] for name in concerned]),
        asked_at=c.at,
        progress_at=c.at,
        deadline=c.at + span_s(c),
        left=len(old),
        operator=request.id if request else None,
        because=frozenset(one.kind for one in evidence),
        now=request is not None and request.now,
    )
    return _sent(c, reload)


def follow(c: Case, reload: Reload) -> Going | Ended:
    """Take what became of the byte, then see how far the reload is."""
    told: tuple[What, ...] = ()
    for outcome in c.snapshot.outcomes:
        if outcome.id == reload.id and reload.in_flight:
            taken = _taken(c, reload, outcome)
            if isinstance(taken, Ended):
                return taken
            reload, told = taken.reload, (*told, *taken.told)
    then = _then(c, reload)
    return replace(then, told=(*told, *then.told)) if isinstance(then, Going) else then


def _then(c: Case, reload: Reload) -> Going | Ended:
    if c.instance.master != reload.master:
        return _without_its_master(c, reload)
    if c.finding.outage or (c.finding.is_serving and not reload.incarnations <= c.finding.incarnations):
        before_its_byte = reload.try_at is not None and not reload.resent
        outcome = ReloadOutcome.DROPPED if before_its_byte else ReloadOutcome.OVERTAKEN
        return Ended(reload, outcome, "MongoDB failed again before its workers were seen to reach it")
    if reload.try_at is not None:
        return _tried_again(c, reload) if reload.try_at <= c.at else Going(reload)
    if reload.in_flight:
        return _processes(c, reload)
    if c.finding.is_serving and c.blind is None:
        return _proof(c, reload)
    return Going(reload)


def _without_its_master(c: Case, reload: Reload) -> Ended:
    at_work = reload.sent_at is not None and reload.in_flight
    if c.instance.master is None and at_work:
        return Ended(reload, ReloadOutcome.ENDED_BY_US, "uWSGI ended while the command was at work")
    while_ = "while it was being reloaded" if reload.in_flight else "before its workers were seen to reach MongoDB"
    return Ended(reload, ReloadOutcome.REPLACED, f"uWSGI was stopped, or started anew by somebody else, {while_}")


# ---- the byte


def _sent(c: Case, reload: Reload) -> Going:
    """Have the byte written, or wait for the moment at which it is best written."""
    it, best = c.instance, aim(c, reload)
    if isinstance(best, float):
        return Going(replace(reload, try_at=best))
    send = SendFifo(reload.id, it.id, it.fifo, reload.command, reload.master, reload.old, it.uid, best)
    return Going(replace(reload, try_at=None), send)


def _taken(c: Case, reload: Reload, outcome: Outcome) -> Going | Ended:
    """Take what became of one attempt to write the byte."""
    if outcome.result is Result.WRITTEN:
        at = outcome.at
        sent = replace(reload, sent_at=at, progress_at=at, deadline=at + span_s(c), try_at=None)
        return Going(sent, told=(ReloadSent(reload.command, reload.left, reload.resent, c.instance.fifo),))
    if outcome.result is Result.CHANGED:
        if not reload.resent:
            return Ended(reload, ReloadOutcome.DROPPED, outcome.detail)
        return Going(reload)  # the first byte was only late, and what changed is its work: followed to its deadline
    if outcome.result is Result.TRY_AGAIN and c.at - reload.asked_at < FIFO_TRIES_S:
        return Going(replace(reload, try_at=c.at + TRY_EVERY_S))
    return Ended(reload, ReloadOutcome.UNSENT, outcome.detail, reload.resent)


def _tried_again(c: Case, reload: Reload) -> Going | Ended:
    """Send what could not be written, if it still is to be sent."""
    if not wanted(c, reload):
        return Ended(reload, ReloadOutcome.DROPPED, NOT_NEEDED, reload.resent)
    if blocked := blocked_anew(c, reload):
        return Ended(reload, ReloadOutcome.UNSENT if reload.resent else ReloadOutcome.DROPPED, blocked, reload.resent)
    return _sent(c, reload)


def _resent(c: Case, reload: Reload) -> Going | Ended:
    """Send a command that was lost once more, to the workers that are there now."""
    if not wanted(c, reload):
        return Ended(reload, ReloadOutcome.DROPPED, NOT_NEEDED, written=True)
    if blocked := blocked_anew(c, reload):
        why = f"the command was lost, and cannot be sent again now: {blocked}"
        return Ended(reload, ReloadOutcome.UNSENT, why, written=True)
    old = frozenset(worker.id for worker in c.instance.workers)
    again = replace(reload, old=old, left=len(old), resent=True, sent_at=None, asked_at=c.at, progress_at=c.at)
    return _sent(c, replace(again, deadline=c.at + span_s(c)))


# ---- the processes


def _processes(c: Case, reload: Reload) -> Going | Ended:
    """See which old workers are gone, and which new ones are ready."""
    left = reload.old & {worker.id for worker in c.instance.workers}
    if len(left) < reload.left:
        deadline = c.at + span_s(c) if reload.command == CHAIN else reload.deadline
        reload = replace(reload, left=len(left), progress_at=c.at, deadline=deadline)
    if c.blind is not None:
        return Going(reload)
    new = _new(c, reload)
    held = _held(c, reload, new)
    settled = len(new) == len(c.instance.workers) and c.at - reload.progress_at >= CHEAPER_SETTLED_S
    if new and not left and not held and (len(new) >= len(reload.old) or settled):
        seconds = round(c.at - reload.asked_at, 1)
        return Going(replace(reload, complete_at=c.at), told=(Reloaded(reload.command, seconds, len(new)),))
    if c.at < reload.deadline or not c.finding.is_serving:
        return Going(reload)
    if left == reload.old and not reload.resent:
        return _resent(c, reload)
    if left:
        why = f"{len(left)} of {len(reload.old)} old workers are still there"
    elif held:
        why = "the new workers hold the old connection too: they have it from the master"
    else:
        why = f"the new workers did not become ready: {c.not_ready or 'there are fewer than before'}"
    return Ended(reload, ReloadOutcome.FAILED, why)


def _new(c: Case, reload: Reload) -> list[Worker]:
    return [worker for worker in c.ready if worker.id not in reload.old]


def _held(c: Case, reload: Reload, new: list[Worker]) -> bool:
    """Say whether a new worker holds what the old ones left: then it has it from the master.

    Of a single one that is harmless, and the proof comes from connections of its own.
    """
    if c.instance.master_single:
        return False
    ids = {worker.id for worker in new}
    return any(
        one.cookie in reload.cookies and one.tcp is not Tcp.ESTABLISHED and not one.holders.isdisjoint(ids)
        for one in c.snapshot.connections
    )


# ---- the proof


def _proof(c: Case, reload: Reload) -> Going | Ended:
    """See whether who is used reaches MongoDB: all of them prove it, one that works for 15 s without refutes it.

    Where a request that waits was the reason, connections prove less: a worker that reads from secondaries has some.
    Then nobody may have such a request for 15 s of use. One that has such a request after its cure polls, or has
    another MongoDB that is dead: no cure of ours would help.
    """
    new = _new(c, reload)
    ids = {worker.id for worker in new}
    waiting = [one for one in c.ripe(Kind.WAITING) if one.worker in ids]
    if waiting:
        return Ended(reload, ReloadOutcome.FAILED, f"after it {waiting[0].sentence}", final=True)
    if reload.because == {Kind.MULE}:
        return _proof_of_mules(c, reload)
    own = [worker for worker in new if c.reaches(worker, reload.incarnations)]
    without = {worker.id for worker in new if worker.used and worker not in own and not _needs_none(c, worker)}
    stuck = [one for one in c.ripe(Kind.UNCONNECTED) if one.worker in without]
    if own and not without and (not reload.because & STRICT or _worked_well(c, new)):
        return _by_its_answers(c, reload, len(own))
    unanswered = [one for one in c.ripe(Kind.UNANSWERED) if one.worker in ids]
    # What a new app does once may take longer than a request should.
    if unanswered and reload.complete_at is not None and c.at - reload.complete_at >= USED_UNPROVEN_S:
        return Ended(reload, ReloadOutcome.FAILED, f"after it {unanswered[0].sentence}")
    if stuck:
        why = f"{len(stuck)} new workers work for {USED_UNPROVEN_S:.0f} s without a connection"
        return Ended(reload, ReloadOutcome.FAILED, why)
    return Going(reload)


def _by_its_answers(c: Case, reload: Reload, reached: int) -> Going | Ended:
    """See, where the app is asked and can be believed, that it answers well too: every request of a whole round.

    Where nobody could be asked in that time, nothing is claimed of its answers. Where they are bad though every worker
    has a connection, something else is wrong, which no cure of ours ends.
    """
    since = reload.complete_at
    if not c.asks or since is None:
        return Ended(reload, ReloadOutcome.RECOVERED, reached=reached)
    asked = c.answers
    if asked and asked.began >= since:
        return Ended(reload, ReloadOutcome.RECOVERED, reached=reached, answers=asked.good)
    if c.at < since + ANSWERED_WITHIN_S:
        return Going(reload)
    bad = c.answers_badly
    if bad is None:
        return Ended(reload, ReloadOutcome.RECOVERED, reached=reached)
    why = f"every worker has a connection to MongoDB, and {bad.bad} of {bad.size} health requests failed ({bad.says})"
    return Ended(reload, ReloadOutcome.FAILED, why, final=True)


def _needs_none(c: Case, worker: Worker) -> bool:
    """Say whether a worker has worked long enough to show that it only hands tasks over."""
    used = worker.used
    return c.instance.is_bystander(worker) and used is not None and c.at - used.hi >= USED_UNPROVEN_S


def _proof_of_mules(c: Case, reload: Reload) -> Going | Ended:
    """See the same of the mules alone, which the restart was for: the workers may need no connection."""
    own = [mule for mule in c.instance.mules if c.reaches(mule, reload.incarnations)]
    if stuck := c.ripe(Kind.MULE):
        return Ended(reload, ReloadOutcome.FAILED, f"after it {stuck[0].sentence}", final=True)
    used = [mule for mule in c.instance.mules if mule.used and not c.instance.is_bystander(mule)]
    if own and all(mule in own for mule in used):
        return Ended(reload, ReloadOutcome.RECOVERED, reached=len(own))
    return Going(reload)


def _worked_well(c: Case, new: list[Worker]) -> bool:
    """Say whether a worker was used for 15 s, and none has a request that waits."""
    begun = min((worker.used.hi for worker in new if worker.used), default=None)
    quiet = not any(one.kind is Kind.WAITING for one in c.finding.evidence)
    return quiet and begun is not None and c.at - begun >= USED_UNPROVEN_S


def outrun_until(c: Case, reload: Reload) -> Mono:
    """Return when the byte of a reload must have ended its work. A chain takes its workers one by one."""
    return c.at + reload.left * span_s(c) if reload.command == CHAIN else reload.deadline
