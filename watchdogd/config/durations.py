"""Durations as people write them: `500ms`, `15s`, `2m`, `1h30m`, `90d`.

Must never take a number without a unit: `15` is seconds to one reader and minutes to the next.
"""

from __future__ import annotations

import re

_DURATION = re.compile(r"(?:([0-9]{1,9})d)?(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m)?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
_UNITS_MS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))

# What is written by mistake, to say what would be right: 15, 1.5s, 15 sec, 2 Minutes, 1.5d.
_ALMOST = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,3})?)\s*(ms|milli|s|m|h|d)?([a-z]{0,8})\s*", re.IGNORECASE)
_ALMOST_S = {"ms": 0.001, "milli": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> float:
    """Return seconds; raises ValueError with what to write instead. The message does not repeat the text."""
    match = _DURATION.fullmatch(text)
    if text and match:
        days, hours, minutes, seconds, ms = (int(part or 0) for part in match.groups())
        return ((((days * 24 + hours) * 60 + minutes) * 60 + seconds) * 1000 + ms) / 1000
    almost = _ALMOST.fullmatch(text)
    if not almost or (almost[3] and not almost[2]):
        raise ValueError("is not a duration; write it like `15s`, `2m`, `1h30m`, `90d` or `500ms`")
    number, unit = float(almost[1]), almost[2]
    if not unit:
        whole = almost[1].isdigit()
        raise ValueError(f"has no unit; write `{almost[1] + 's' if whole else format_duration(number)}`")
    raise ValueError(f"is not a duration; write `{format_duration(number * _ALMOST_S[unit.lower()])}`")


def format_duration(seconds: float) -> str:
    """Return it as parse_duration reads it, to the millisecond: 90.5 -> `1m30s500ms`."""
    rest, written = round(seconds * 1000), ""
    for unit, size in _UNITS_MS:
        count, rest = divmod(rest, size)
        written += f"{count}{unit}" if count else ""
    return written or "0s"
