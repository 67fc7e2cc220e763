"""Whatever would keep one instance from being cured tonight, in sentences with their mends.

Left out is what passes by itself within minutes (linger, a worker that loads), and what holds every instance alike (the
mode, a pause, MongoDB away): that is said once, of all. Pure: no I/O, no clock, no logging.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from watchdogd.core.case import Case
from watchdogd.core.ends import in_vain
from watchdogd.core.gates import budget_spent
from watchdogd.core.outlook import only_shown
from watchdogd.model.base import Command, Mono
from watchdogd.model.decided import Blocked
from watchdogd.model.found import Kind
from watchdogd.model.remembered import Stand
from watchdogd.model.text import THREADS_OFF

_UNTIL_MENDED = frozenset({"no_restart", "not_allowed"})
"""Of the gates that are asked only of a reload that is due."""


class Objection(NamedTuple):
    """One of them. `until`: when it is over by itself, by CLOCK_MONOTONIC; None where it is not."""

    why: str
    until: Mono | None = None


def objections(c: Case, blocked: Iterable[Blocked] = ()) -> Iterator[Objection]:
    """Yield what is seen and remembered against a cure of it. `blocked`: the gates that hold a reload which is due."""
    yield from map(Objection, (*_of_what_is_seen(c), *_of_hung(c), *c.instance.blind))
    if not any(command in c.limits.reloads for command in Command):
        yield Objection(f"`reloads` of {c.instance.name} allows no command; add `workers` and `chain`")
    standing = c.state.standing
    if standing.stand is Stand.GAVE_UP:
        mend = f"once that is mended, `mongo-watchdog reload {c.instance.name}` tries again at once"
        until = standing.since + c.config.policy.half_open_after_s
        yield Objection(f"it was given up: {standing.why}; {mend}", until)
    if spent := budget_spent(c):
        yield Objection(f"its budget is spent: {spent.reason}; `policy.budget` may allow more", spent.until)
    yield from [Objection(one.reason, one.until) for one in blocked if one.gate in _UNTIL_MENDED]


def _of_what_is_seen(c: Case) -> Iterator[str]:
    instance = c.instance
    if instance.master is None and not instance.blind:
        or_else = instance.meant or f"is uWSGI running with `master-fifo = {instance.fifo}`?"
        yield f"absent: no process has {instance.fifo} open; {or_else}"
    if instance.fifo_problem:
        yield instance.fifo_problem
    if reason := only_shown(c):
        yield reason
    if instance.threads_off and instance.master:
        yield THREADS_OFF.format(pid=instance.master.pid)


def _of_hung(c: Case) -> Iterator[str]:
    for one in c.finding.evidence:
        if one.kind is Kind.HUNG:
            safe = f"`kill -9 {one.worker.pid}` is safe, and the service does the same where it may act"
            yield f"{one.sentence}; {in_vain(one, c.instance) or safe}"
    for worker in c.instance.workers:
        if worker.unjudged:
            yield f"whether worker {worker.id.pid} hangs cannot be seen: {worker.unjudged}"
