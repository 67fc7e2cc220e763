"""The sentence with which the daemon answers an operator: what was done or what holds it, by whom, and until when.

It must never leave out an end that is known, nor by whom a reload was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.model.base import Mono
from watchdogd.model.decided import Answer
from watchdogd.model.remembered import Pause
from watchdogd.report.words import timestamp, when


def sentence(answer: Answer, at: Mono, wall: float) -> str:
    """Say it. `at`: now by CLOCK_MONOTONIC, `wall`: now as Unix time."""
    return "; ".join(_parts(answer, at, wall))


def _parts(answer: Answer, at: Mono, wall: float) -> Iterator[str]:
    text = answer.text
    if answer.blocked_by:
        gates = [f"{one.gate}: {one.reason}{_until(one.until, at, wall, ', ')}" for one in answer.blocked_by]
        text = f"{text} {'; '.join(gates)}"
    text += f" for {answer.by}" if answer.by else ""
    text += f", past {', '.join(answer.past)}" if answer.past else ""
    yield f"{text} {until_when(answer.pause, at, wall)}" if answer.pause else text
    if answer.now_helps:
        yield "`reload --now` goes past that"
    if answer.before:
        what = "that takes the place of" if answer.pause else "that ends"
        yield f"{what} the pause {until_when(answer.before, at, wall)}"


def until_when(pause: Pause, at: Mono, wall: float) -> str:
    """Say until when a pause is, by whom and why."""
    end = _until(pause.until, at, wall) or "until `mongo-watchdog resume`"
    return end + (f", by {pause.by}" if pause.by else "") + (f": {pause.reason}" if pause.reason else "")


def _until(until: Mono | None, at: Mono, wall: float, before: str = "") -> str:
    return "" if until is None else f"{before}until {when(timestamp(wall + until - at), timestamp(wall))}"
