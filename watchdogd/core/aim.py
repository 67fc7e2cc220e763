"""When the byte of a reload is best written: so that uWSGI forks between two wakes of its MongoDB client's threads.

uWSGI forks without taking Python's GIL. A fork hangs for ever where a thread of the master holds the GIL in that
instant (hung.py). A driver's threads hold it when they wake, which they do every 0.5 s, all near the same phase. uWSGI
forks whole seconds after the byte: the byte wakes its master, which then waits one --check-interval after the other. So
the phase of the forks can be chosen. At a wake 101 of 1 680 forks hung, between them 0 of 1 680.

Pure. The wakes are watched while a reload ripens (observe/wakes.py); nothing is known of a restart, which loads anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from watchdogd.core.case import Case
from watchdogd.core.due import due
from watchdogd.model.base import RESTART, Mono
from watchdogd.model.decided import Blocked
from watchdogd.model.done import Moment
from watchdogd.model.found import Kind
from watchdogd.model.remembered import Phase, Reload
from watchdogd.model.seen import Wakes

GRID_S = 0.5
"""pymongo's threads wait in steps of so long, each of them: 0.5003 to 0.5006 were seen (3.13, 4.14 and 4.20)."""

LATE_S = 0.004
"""So much later than whole seconds after the byte are the first forks: 2 to 7 ms."""

DANGER_S = 0.02
"""After a wake its thread may hold the GIL for so long: forks up to 15 ms after one hung."""

BEGIN, END = 0.25, 0.6
"""The part of a gap in which forks are to begin. A thread that is preempted while it holds the GIL holds it for longer,
on a busy machine; and forks come 0.01 to 0.07 s later than whole seconds after the byte, one after the other."""

WORTH_S = 0.06
"""With a narrower gap between two wakes aiming is of no use (8 clients, 24 threads: 3 of 176 forks hung either way)."""

LEAD_S = 0.1
"""A byte whose moment is no farther is handed to act, which waits for it: a tick takes its time, too."""

FRESH_S = 5.0
"""In so long the phase of a wake moves by 6 ms at most."""

WITHIN_S = 2.0
"""A reload waits no longer for its moment: to watch takes 1.1 s, and one wake comes every 0.5 s."""

ASK_EVERY_S = 0.1

SOON_S = 3.0
"""So long before a byte may be written the wakes are watched: then the reload does not wait for that."""


def moment(wakes: Wakes, at: Mono) -> Moment | None:
    """Return the next moment from `at` on that puts the forks in the middle of the widest gap between two wakes.

    It is GRID_S away at most. None where no moment is better than any other.
    """
    phases = sorted({one % GRID_S for one in wakes.times})
    if not phases:
        return None
    gaps = [(after - phase, phase) for phase, after in zip(phases, [*phases[1:], phases[0] + GRID_S], strict=True)]
    gap_s, wake = max(gaps)
    if gap_s < WORTH_S:
        return None
    after_s = max(DANGER_S, BEGIN * gap_s)
    length_s = END * gap_s - after_s
    first = wake + after_s - LATE_S  # as a phase of the byte
    begin = at + (first - at) % GRID_S
    if begin - GRID_S + length_s > at:  # it is that moment just now
        begin -= GRID_S
    return Moment(max(at, begin), begin + length_s)


def is_soon(c: Case, blocked: Sequence[Blocked]) -> bool:
    """Say whether a byte may be written within seconds, so that the wakes of the master's threads are to be watched.

    `blocked`: the gates that hold it.
    """
    state, until = c.state, c.at + SOON_S
    if state.reload is not None:
        return state.reload.in_flight and state.reload.try_at is not None
    if state.phase is Phase.DUE:
        return all(gate.until is not None and gate.until <= until for gate in blocked)
    due_at = due(c).at
    return c.finding.is_serving and (
        any(one.kind is Kind.WAITING for one in c.finding.evidence) or (due_at is not None and due_at <= until)
    )


def aim(c: Case, reload: Reload) -> Moment | Mono | None:
    """Return the moment for its byte; an instant to ask again at; or None: there is nothing to wait for."""
    threads = c.instance.master_threads
    if reload.command is RESTART or threads is None or threads < 2 or c.at >= reload.asked_at + WITHIN_S:  # noqa: PLR2004 - its own
        return None
    wakes = c.instance.wakes
    if wakes is None or wakes.at + FRESH_S < c.at:
        return c.at + ASK_EVERY_S
    best = moment(wakes, c.at)
    if best is None or best.not_before <= c.at + LEAD_S:
        return best
    return best.not_before - LEAD_S / 2
