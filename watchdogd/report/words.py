"""How times, durations and commands are written, for people and for programs: the same everywhere.

It must never read a clock: every time comes in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from watchdogd.model import CHAIN, RESTART, WORKERS, Command

COMMANDS: Mapping[Command, str] = {
    WORKERS: "workers reload",
    CHAIN: "chain reload",
    RESTART: "restart of the whole stack",
}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE, _HOUR, _DAY = 60, 3600, 86400


def timestamp(wall: float) -> str:
    """Write Unix time as RFC 3339 in UTC with milliseconds: `2026-11-22T10:00:00.123Z`."""
    instant = _EPOCH + timedelta(milliseconds=math.floor(wall * 1000))
    return instant.strftime("%Y-%m-%dT%H:%M:%S.") + f"{instant.microsecond // 1000:03}Z"


def duration(seconds: float) -> str:
    """Write a duration for people, in its two largest units: `0.4 s`, `15 s`, `2 min 5 s`, `1 h 3 min`."""
    if seconds < 0 or not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 10:  # noqa: PLR2004 - below, a tenth says something
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    for large, small, names in ((_DAY, _HOUR, "d h"), (_HOUR, _MINUTE, "h min"), (_MINUTE, 1, "min s")):
        if whole >= large:
            first, second = names.split()
            rest = whole % large // small
            return f"{whole // large} {first}" + (f" {rest} {second}" if rest else "")
    return f"{whole} s"


def count(number: object, noun: str) -> str:
    """Write a number with its noun: `1 worker`, `3 workers`; what is not a number stands as it is."""
    if not isinstance(number, int | float) or isinstance(number, bool):
        return f"{number}"
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def printable(text: str) -> str:
    """Make a text of others (a process title, a server's error) one line that drives no terminal."""
    return "".join(char if char.isprintable() else " " for char in text)
