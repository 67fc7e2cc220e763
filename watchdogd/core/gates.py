"""What may hold a reload that is due: one table. All of them are asked, and each that is shut is told and shown.

A gate names what would open it, and the instant where that is known. Whether a reload is due at all stands in due.py.
An operator who says `--now` knows better than those in PASSED_NOW, and than no other one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from watchdogd.config import Mode
from watchdogd.core.case import Case
from watchdogd.core.due import due, is_roots, why_restart
from watchdogd.model.base import MULES, RESTART, WORKERS, Command
from watchdogd.model.decided import Blocked
from watchdogd.model.found import Kind
from watchdogd.model.remembered import Reload
from watchdogd.model.seen import Hang, Trust

ROOTS = "root runs it, and what root runs is acted on only where `uwsgi:` of the configuration names it"


def _mode(c: Case, _: Command) -> Blocked | None:
    return Blocked("mode", "mode is observe: nothing is ever sent") if c.config.mode is Mode.OBSERVE else None


def _paused(c: Case, _: Command) -> Blocked | None:
    pause = c.whole.paused
    if pause is None:
        return None
    end = "" if pause.until is not None else " until `mongo-watchdog resume`"
    who, why = pause.by or "an operator", pause.reason or "no reason given"
    return Blocked("paused", f"paused by {who}{end}: {why}", pause.until)


def _blind(c: Case, _: Command) -> Blocked | None:
    return None if c.blind is None else Blocked("blind", c.blind)


def _no_deployment(c: Case, _: Command) -> Blocked | None:
    if c.instance.deployments:
        return None
    return Blocked("no_deployment", f"name the deployment of {c.instance.name} under `uwsgi:`: it is only shown")


def _not_named(c: Case, _: Command) -> Blocked | None:
    return Blocked("not_named", ROOTS) if is_roots(c) else None


def _fifo(c: Case, _: Command) -> Blocked | None:
    return Blocked("fifo", c.instance.fifo_problem) if c.instance.fifo_problem else None


def _not_serving(c: Case, _: Command) -> Blocked | None:
    return None if c.finding.is_serving else Blocked("not_serving", "MongoDB does not serve")


def _linger(c: Case, _: Command) -> Blocked | None:
    settled = c.settled_at
    if settled is None or settled <= c.at or c.early:
        return None
    if c.returned:
        return Blocked("linger", "MongoDB has only just come back", settled)
    # It may have served for months: nobody has watched it before.
    return Blocked("linger", "MongoDB has not been watched for as long as linger yet", settled)


def _not_ready(c: Case, command: Command) -> Blocked | None:
    # `w` at a worker that still loads its app kills uWSGI's http router and, after mercy, healthy workers. One that is
    # deadlocked in its own code and ignores SIGHUP is gone at mercy without harm (9 of 9).
    others = [one for one in c.instance.workers if not one.ready]
    harmless = [one for one in others if one.hung and one.hung.kind is Hang.OWN_CODE and one.ignores_hup]
    if not c.not_ready or (command is WORKERS and c.ready and len(harmless) == len(others)):
        return None
    return Blocked("not_ready", c.not_ready)


def _fork_unsafe(c: Case, command: Command) -> Blocked | None:
    if c.finding.fork.unsafe is None or command == RESTART:  # `r` executes uWSGI anew: nothing is handed on
        return None
    return Blocked("fork_unsafe", f"a fork is not safe: {c.finding.fork.unsafe}", c.finding.fork.safe_at)


def _no_restart(c: Case, command: Command) -> Blocked | None:
    if command is not RESTART or c.instance.no_restart is None:
        return None
    return Blocked("no_restart", f"{_why(c)}, and a restart would end it: {c.instance.no_restart}{_mend(c)}")


def _why(c: Case) -> str:
    """Say why it is to be a restart: nothing else helps, or an operator wants one."""
    return why_restart(c) if due(c).command is RESTART else "a restart was asked for"


def _mend(c: Case) -> str:
    """Return what else would help where only mules are stuck."""
    only_mules = bool(due(c).evidence) and due(c).only_mules
    return f"; add `{MULES.word}` to `reloads` of {c.instance.name} to have it ended" if only_mules else ""


def _not_allowed(c: Case, command: Command) -> Blocked | None:
    if command in c.limits.reloads or (command is RESTART and c.instance.no_restart):
        return None
    if mend := _mend(c):
        return Blocked("not_allowed", f"{_why(c)}{mend}, or restart uWSGI yourself")
    return Blocked("not_allowed", f"{_why(c)}; add `{command.word}` to `reloads` of {c.instance.name} to allow it")


def _in_flight(c: Case, _: Command) -> Blocked | None:
    reload, outrun = c.state.reload, c.state.outrun
    if reload is not None and reload.in_flight:
        return Blocked("in_flight", "a reload is in flight", reload.deadline)
    if outrun and outrun.until > c.at and any(worker.id in outrun.workers for worker in c.instance.workers):
        return Blocked("in_flight", "the reload that an outage overtook may still be at work", outrun.until)
    return None


def _cooldown(c: Case, _: Command) -> Blocked | None:
    retry = c.state.retry_at
    if retry is None or retry <= c.at:
        return None
    return Blocked("cooldown", "the last reload is too young", retry)


def _budget(c: Case, _: Command) -> Blocked | None:
    return budget_spent(c)


def budget_spent(c: Case) -> Blocked | None:
    """Say which part of the budget is spent; None where there is some left."""
    budget = c.config.policy.budget
    unproven = [one for one in c.spent if not one.proven]
    for ones, most, what in ((unproven, budget.unproven, "unproven "), (c.spent, budget.total, "")):
        if len(ones) >= most:
            until = ones[-most].at + budget.per_s
            return Blocked("budget", f"{len(ones)} {what}reloads, of {most} allowed", until)
    return None


def _parallel(c: Case, _: Command) -> Blocked | None:
    names = {instance.id: instance.name for instance in c.snapshot.instances}
    busy = {
        names.get(one, one): state.reload.deadline
        for one, state in c.whole.instances.items()
        if one != c.instance.id and state.reload and state.reload.is_at_work(c.at)
    }
    most = c.config.policy.max_parallel
    if len(busy) < most:
        return None
    until = sorted(busy.values())[len(busy) - most]  # at the latest
    return Blocked("parallel", f"{len(busy)} other instances are reloading: {', '.join(busy)}", until)


def _answers(c: Case, _: Command) -> Blocked | None:
    """Visitors get good answers, by MongoDB: who looks stuck is not. Requests that wait prove otherwise."""
    health, asked, found = c.instance.health, c.answers, due(c)
    if asked is None or health is None or health.trust is not Trust.DEPENDENT:
        return None
    if not found.evidence or found.only_mules or c.evidence(Kind.WAITING):
        return None
    return Blocked("answers", f"the app answers well: {asked.good} of {asked.size} health requests, which need MongoDB")


def answers_hold(case: Case) -> bool:
    """Say whether it answers too well to be reloaded."""
    return _answers(case, WORKERS) is not None


GATES: tuple[tuple[str, Callable[[Case, Command], Blocked | None]], ...] = (
    ("mode", _mode),
    ("paused", _paused),
    ("blind", _blind),
    ("no_deployment", _no_deployment),
    ("not_named", _not_named),
    ("not_serving", _not_serving),
    ("linger", _linger),
    ("in_flight", _in_flight),
    ("fifo", _fifo),
    ("not_ready", _not_ready),
    ("fork_unsafe", _fork_unsafe),
    ("no_restart", _no_restart),
    ("not_allowed", _not_allowed),
    ("cooldown", _cooldown),
    ("budget", _budget),
    ("parallel", _parallel),
    ("answers", _answers),
)

PASSED_ASKED = frozenset({"answers"})
"""What an operator passes, however well the app answers: he knows why."""

PASSED_NOW = frozenset({"linger", "cooldown", "budget"})
"""What gives an app and MongoDB time, which is over when somebody has mended it. All others say that a reload would do
harm, or that somebody forbids it: the configuration, which is root's word, or a pause."""


def blocked_by(case: Case, command: Command) -> tuple[Blocked, ...]:
    """Return every gate that is shut, in the order of GATES."""
    return _blocked(case, command, frozenset())


def blocked_for_an_operator(case: Case, command: Command, *, now: bool = False) -> tuple[Blocked, ...]:
    """Return what holds a reload that somebody asks for. `now`: by `--now`."""
    return _blocked(case, command, PASSED_ASKED | PASSED_NOW if now else PASSED_ASKED)


def blocked_anew(case: Case, reload: Reload) -> str:
    """Return what would hold this reload if it were decided now; it has paid for cooldown and budget already."""
    as_new = replace(case, state=replace(case.state, reload=None, retry_at=None, spent=()))
    if reload.operator is None:
        blocked = blocked_by(as_new, reload.command)
    else:
        blocked = blocked_for_an_operator(as_new, reload.command, now=reload.now)
    return ", ".join(one.reason for one in blocked)


def _blocked(case: Case, command: Command, passed: frozenset[str]) -> tuple[Blocked, ...]:
    asked = [why_not for name, why_not in GATES if name not in passed]
    return tuple([blocked for why_not in asked if (blocked := why_not(case, command))])


def may_not_end(case: Case) -> tuple[Blocked, ...]:
    """Return what holds the end of a process that hangs, as it holds a reload."""
    return tuple([blocked for gate in (_mode, _paused, _blind) if (blocked := gate(case, WORKERS))])


def may_not_end_mules(case: Case) -> tuple[Blocked, ...]:
    """Return what holds the end of a mule that is stuck: the one in its place is forked from the master as well."""
    gates = (_mode, _paused, _blind, _no_deployment, _not_serving, _linger, _in_flight, _fork_unsafe)
    return tuple([blocked for gate in gates if (blocked := gate(case, WORKERS))])


def foreseen(case: Case) -> tuple[Blocked, ...]:
    """Return what would hold a reload if one were due, and does not pass by itself: somebody can mend it beforehand."""
    return (Blocked("fifo", case.instance.fifo_problem),) if case.instance.fifo_problem else ()
