"""Tells a worker that hangs since its fork from one that is loading its app: by what its only thread waits for.

Pure: it takes what waits.py read, and keeps what it saw before. It must never say of a worker that cannot be seen, or
that somebody holds (a debugger, SIGSTOP), that it hangs, nor that it does not. Why these rules and no other ones, with
their counts: docs/design.md, hung workers.
"""

from __future__ import annotations

import math

from watchdogd.model.base import Interval, Mono
from watchdogd.model.done import Result
from watchdogd.model.seen import Blind, Hang, Hung
from watchdogd.observe.locks import Lock, Wait

LOOKS = 3
"""So many must find it at the same lock: the first told all 90 of 90 hung ones, and a lock may be short."""

APART_S = 0.5
"""Looks that are closer together count as one: an operator's requests may come at any pace."""

_RUNNING, _ASLEEP = "R", "S"
_HELD = {"T": "it is stopped (SIGSTOP)", "t": "a debugger holds it"}


def rule(wait: Wait) -> Hang | None:
    """Return the rule that one look satisfies, None for neither."""
    if wait.state != _ASLEEP or wait.threads != 1 or wait.tracer or not isinstance(wait.lock, Lock):
        return None
    if wait.lock.in_python:
        return Hang.GIL
    # Its alarm would end an endless wait: alarm() and Event().wait() (8 of 8 told apart).
    return Hang.OWN_CODE if wait.lock.forever and not wait.catches_alrm else None


def is_running(wait: Wait) -> bool:
    """Say whether this look is no evidence either way: who waits for the GIL wakes up 195 times a second."""
    return wait.state == _RUNNING


def unproven(pid: int, wait: Wait | None) -> tuple[Result, str] | None:
    """Say why this look does not confirm that a process hangs by rule G, which is found already; None where it does."""
    if wait is None:
        return Result.CHANGED, f"process {pid} is no worker that is still to become ready"
    if why := _unjudged(wait):
        return Result.CHANGED, f"it cannot be seen whether process {pid} hangs: {why}"
    if is_running(wait):
        return Result.TRY_AGAIN, f"process {pid} was just running, so nobody could see what it waits for"
    if rule(wait) is not Hang.GIL:
        return Result.CHANGED, f"process {pid} does not wait for Python's GIL alone any more"
    return None


class Waiting:
    """One worker from its fork until it is ready."""

    def __init__(self) -> None:
        self._kind: Hang | None = None
        self._address = 0
        self._since = Interval(-math.inf, math.inf)
        self._looks = 0
        self._counted_at: Mono = -math.inf
        self.unjudged = ""

    @property
    def hung(self) -> Hung | None:
        """Whether it hangs, and how; None as long as that is not proven."""
        return Hung(self._kind, self._since) if self._kind and self._looks >= LOOKS else None

    @property
    def suspected(self) -> bool:
        """Say whether more looks, soon, would prove it."""
        return 0 < self._looks < LOOKS

    def fold(self, wait: Wait | None, before: Mono, at: Mono) -> None:
        """Take one look of this time; `before`: the time of the look before it."""
        self.unjudged = _unjudged(wait)
        if wait and is_running(wait) and wait.threads == 1 and not self.unjudged:
            return
        kind = rule(wait) if wait else None
        if wait is None or kind is None or not isinstance(wait.lock, Lock):
            self._forget()
            return
        if (kind, wait.lock.address) != (self._kind, self._address):
            self._forget()
            self._kind, self._address, self._since = kind, wait.lock.address, Interval(before, at)
        if at - self._counted_at >= APART_S:
            self._looks, self._counted_at = self._looks + 1, at

    def _forget(self) -> None:
        self._kind, self._looks, self._counted_at = None, 0, -math.inf


def _unjudged(wait: Wait | None) -> str:
    """Say why this look can say nothing of a worker; empty where it can."""
    if wait is None:
        return "it was not looked at"
    if isinstance(wait.lock, Blind):
        return wait.lock.why
    return f"process {wait.tracer} is debugging it" if wait.tracer else _HELD.get(wait.state, "")
