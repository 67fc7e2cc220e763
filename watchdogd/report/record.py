"""The record of one incident: a file of lines, each a document, as history.py writes and incidents.py reads them.

Each line says by itself what it is and of which version, so what is broken before or behind it does not matter.
schemas/record.schema.json is the format. Times are Unix times, to outlast a boot of the machine. It must never touch a
file, nor let anything but CodecError come of any line.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from watchdogd.codec import RECORD, CodecError, decode, encode, text

FOLDER = "incidents"
"""The folder of the records, in the state folder."""
SUFFIX = ".jsonl"
LONGEST_LINE = 64 * 1024
"""Bytes of a line: more is nothing that was written here."""

_PLAIN = re.compile(r"[^A-Za-z0-9_.@+-]")
_END_OF_TIME = 253402300800.0  # year 10000, which no datetime has
_NAME = 180  # characters of an incident's id in the name of its file: its end, which no other one has

Value = str | int | float | bool | None | list[str]
"""Of a field of an event; a list is several lines."""


@dataclass(frozen=True, slots=True)
class Told:
    """An event that was told: its name, its sentence, of which member, and its fields as the journal has them."""

    event: str
    text: str
    member: str | None = None
    fields: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sign:
    """Evidence that a process is stuck; `ripe`: from when on it counts, None while it waits for more than time."""

    kind: str
    pid: int
    since: float | None
    ripe: float | None
    text: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What holds a reload that is due, or would hold it."""

    gate: str
    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found and decided when one of these had changed.

    `phase`: where it stands. `serving`: whether MongoDB serves, None where that is not known. `workers`: how many there
    are of each verdict. `sockets`: how many connections to MongoDB its processes hold, by state. `leftovers`: how many
    an outage ended. `next`: what comes next.
    """

    phase: str
    serving: bool | None
    workers: Mapping[str, int]
    sockets: Mapping[str, int]
    leftovers: int
    evidence: tuple[Sign, ...] = ()
    held: tuple[Gate, ...] = ()
    next: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One line: what was told, or seen, or that the incident is `over`, by the event that told its ending.

    `began`: when the incident did, in the first line of what was seen; lines before it are of what led to it.
    `left_out`: how many lines before it could not be kept.
    """

    at: float
    incident: str
    instance: str
    told: Told | None = None
    seen: Seen | None = None
    over: str | None = None
    began: float | None = None
    left_out: int = 0

    def encoded(self) -> bytes:
        """Return it as it is written, with its line break; what says nothing is left out."""
        said = {name: value for name, value in encode(self).items() if value or name == "at"}
        return text(RECORD.document(**said)).encode() + b"\n"


def decoded(line: bytes) -> Line:
    """Read a line. Raises CodecError for what is none; a field that is not known is ignored."""
    if len(line) > LONGEST_LINE:
        raise CodecError(f"{RECORD.what} has {len(line)} bytes")
    document = RECORD.read(line)
    told, seen = _known(Told, document.get("told")), _known(Seen, document.get("seen"))
    values: Mapping[str, Value] = {}
    if isinstance(told, dict):
        values = _values(told.pop("fields", {}))
    if isinstance(seen, dict):
        seen |= {key: _each(kind, seen.get(key, [])) for key, kind in (("evidence", Sign), ("held", Gate))}
    found: Line = decode(Line, {**_known(Line, document), "told": told, "seen": seen}, "")
    signs = found.seen.evidence if found.seen else ()
    times = [found.at, found.began, *[time for one in signs for time in (one.since, one.ripe)]]
    for at in [one for one in times if one is not None]:
        if not 0 <= at < _END_OF_TIME:
            raise CodecError(f"at: expected Unix time, found {at:g}")
    return replace(found, told=replace(found.told, fields=values)) if found.told and values else found


def file_name(incident: str) -> str:
    """Return the name of its file: its id, as far as a name of a file may be like it."""
    return _PLAIN.sub("_", incident)[-_NAME:] + SUFFIX


def _known(kind: Any, data: Any) -> Any:  # noqa: ANN401 - of JSON
    """Leave out what this version does not know; what is no object is left for `decode` to refuse."""
    names = {one.name for one in fields(kind)}
    return {key: value for key, value in data.items() if key in names} if isinstance(data, dict) else data


def _each(kind: Any, data: Any) -> Any:  # noqa: ANN401 - of JSON
    return [_known(kind, one) for one in data] if isinstance(data, list) else data


def _values(data: Any) -> Mapping[str, Value]:  # noqa: ANN401 - of JSON
    if not isinstance(data, dict) or not all(_is_value(one) for one in data.values()):
        raise CodecError("told.fields: expected texts, numbers and lists of texts")
    return data


def _is_value(one: object) -> bool:
    if isinstance(one, list):
        return all(isinstance(each, str) for each in one)
    return isinstance(one, str | int | None) or (isinstance(one, float) and math.isfinite(one))
