"""How times, durations, commands and the texts of others are written, for people and for programs: the same everywhere.

It must never read a clock: every time comes in. Nothing may be written anywhere that has not been through `plain`,
`lines` or `tree`: a text from outside is a type (model.Outside), but a join or a sum loses the type.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command
from watchdogd.model.text import LONGEST, shown

COMMANDS: Mapping[Command, str] = {
    WORKERS: "workers reload",
    CHAIN: "chain reload",
    RESTART: "restart of the whole stack",
}

UNSEEN = "whether requests succeed is not seen"
"""What is said wherever connections are all that was seen of an app."""

NO_INSTANCE = (
    "no uWSGI instance with a master FIFO was found, so nothing is watched; add "
    "`master-fifo = /run/uwsgi/app/NAME/fifo` to the configuration of uWSGI, and restart it"
)
"""What is told and shown where instances are to be found, and there is none."""

IN_A_SENTENCE = 1000
"""Characters of one value among the words of a sentence: two or three of them leave it shorter than LONGEST."""
MANY_LINES = 100

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


def when(at: str, now: str) -> str:
    """Write a time (RFC 3339) with what it means now: `2026-11-22T10:00:12.000Z (in 12 s)`."""
    seconds = (datetime.fromisoformat(at) - datetime.fromisoformat(now)).total_seconds()
    return f"{at} (in {duration(seconds)})" if seconds >= 0 else f"{at} ({duration(-seconds)} ago)"


def count(number: object, noun: str) -> str:
    """Write a number with its noun: `1 worker`, `3 workers`; what is not a number stands as it is."""
    if not isinstance(number, int | float) or isinstance(number, bool):
        return plain(number, IN_A_SENTENCE)
    return f"{number:g} {noun}" if number == 1 else f"{number:g} {noun}s"


def from_proc(why: str) -> str:
    """Say that sockets are read from /proc, what that means, and why it is so."""
    return f"sockets: read from /proc/net/tcp, which knows no ages and costs more: {why}"


def table(rows: Iterable[tuple[str, ...]], width: int = 80) -> list[str]:
    """Write rows as lines of at most `width` characters, the first row as the head; nothing of it is left out.

    What has no room in the line stands below it, indented: the last columns of every row alike.
    """
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    fitting = sum(sum(widths[:count]) + 2 * (count - 1) <= width for count in range(1, len(widths) + 1))
    return [line for row in rows for line in _row(row, widths, max(1, fitting), width)]


def _row(row: tuple[str, ...], widths: list[int], first: int, width: int) -> Iterator[str]:
    cells = ["  ".join(cell.ljust(most) for cell, most in zip(row[:first], widths[:first], strict=True)).rstrip()]
    cells.append("  ".join(cell.ljust(most) for cell, most in zip(row[first:], widths[first:], strict=True)).rstrip())
    for number, text in enumerate(cells):
        indent = "    " if number else ""
        room = width - len(indent)
        # Words are moved as a whole; what is longer than a line is broken, and nothing is cut.
        for line in textwrap.wrap(text, room, break_on_hyphens=False) if len(text) > room else [text] if text else ():
            yield f"{indent}{line}"


def plain(value: object, most: int = LONGEST) -> str:
    """Write a value as one line that drives no terminal, cut to `most` characters; a tuple as lines, each like that."""
    return lines(value, most) if isinstance(value, tuple) else shown(f"{value}", most)


def lines(texts: Iterable[str], most: int = LONGEST) -> str:
    """Write several texts, each as one line; the only line breaks there are. After MANY_LINES it says how many more."""
    written = [plain(text, most) for text in texts]
    more = len(written) - MANY_LINES + 1
    return "\n".join(written if more <= 1 else [*written[: MANY_LINES - 1], f"… ({more} lines left out)"])


def tree(value: Any) -> Any:  # noqa: ANN401 - of JSON
    """Write every text in a document like that. It is no matter of JSON, which escapes: `jq -r` does not."""
    if isinstance(value, dict):
        return {key: tree(item) for key, item in value.items()}
    if isinstance(value, list):
        return [tree(item) for item in value]
    return plain(value) if isinstance(value, str) else value


def also_at(address: str, learned: Iterable[str]) -> str:
    """Say at which further addresses a member was found."""
    return f"{address} is also at {', '.join(learned)} (the same process answers there)"
