"""What happened: the records of incidents, read and shown, as a table, one as a timeline, and as documents.

It needs no daemon. It must never fail because of what a file holds: a line that is broken is counted, and the others
are read. Nor may it claim what was not seen: whether requests failed is known only where something saw requests.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from watchdogd.codec import INCIDENTS, CodecError, Document, encode
from watchdogd.config import format_duration
from watchdogd.model.found import Kind
from watchdogd.model.remembered import Ending
from watchdogd.model.told import Event
from watchdogd.report.record import FOLDER, LONGEST_LINE, SUFFIX, Line, Seen, decoded
from watchdogd.report.words import COMMANDS, count, duration, table, timestamp, tree

LARGEST = 4 * 1024 * 1024
"""Bytes of a file that are read: more than any record has."""
WIDTH = 80

AT_ONCE_S = 1.0
"""What was told of MongoDB so soon was seen in the same look."""

NOT_SEEN = "whether requests failed was not seen"
_OF_REQUESTS = {Kind.WAITING.value: "waited", "unanswered": "failed"}
"""The kinds of evidence that are seen of requests, and what they did."""
_DID = {"waited": "wait for MongoDB", "failed": "fail"}
_SURE = frozenset(one.value for one in Ending if one is not Ending.RECOVERED)
"""The events that end an incident whatever else is known; the others may leave something of it."""
_SERVES = {True: "MongoDB serves", False: "MongoDB does not serve", None: "whether MongoDB serves is not known yet"}
_PHASES = {"gave_up": "given up", "due": "a reload is due"}


@dataclass(frozen=True, slots=True)
class Reload:
    """One reload of an incident: when its byte was sent, which it was, and what was told of it afterwards."""

    at: float
    command: str
    by: str | None
    outcome: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Requests:
    """What was seen of requests, from when to when; `end` None: to the end of what was recorded."""

    what: str
    begin: float
    end: float | None


@dataclass(frozen=True, slots=True)
class Happened:
    """An incident as its record has it, with its `lines` as they were written.

    `broken`: how many lines could not be read. `goes_on`: the daemon's memory has it; None where nobody can say.
    """

    id: str
    instance: str
    lines: tuple[Line, ...]
    broken: int = 0
    goes_on: bool | None = None

    @property
    def began(self) -> float:
        """When it did (Unix time, as all); what was told of MongoDB right before has an earlier time."""
        return next((one.began for one in self.lines if one.began is not None), self.lines[0].at)

    @property
    def ending(self) -> str | None:
        """The event that told its end; None where none is recorded."""
        over = [one.over for one in self.lines if one.over]
        told = [one.told.event for one in self.lines if one.told and one.told.event in _SURE]
        return next(iter((*reversed(over), *reversed(told))), None)

    @property
    def ended(self) -> float | None:
        """When that was told."""
        ends = [one.at for one in self.lines if one.over or (one.told and one.told.event in _SURE)]
        return ends[-1] if ends else None

    @property
    def seconds(self) -> float | None:
        """How long it was, with the number that was told where its ending has one."""
        if self.ended is None:
            return None
        told = [one.told.fields.get("seconds") for one in self.lines if one.told and one.told.event == self.ending]
        last = told[-1] if told else None
        return float(last) if isinstance(last, int | float) else round(self.ended - self.began, 1)

    @property
    def left_out(self) -> int:
        """How many lines there was no room for."""
        return sum(one.left_out for one in self.lines)

    @property
    def reloads(self) -> tuple[Reload, ...]:
        """The reloads whose byte was written, one for each that was not the first one once more."""
        found: list[Reload] = []
        for line in self.lines:
            told = line.told
            if told and told.event == Event.RELOAD_SENT.value and not (found and told.fields.get("resent")):
                by = told.fields.get("by")
                found.append(Reload(line.at, str(told.fields.get("command", "?")), by if isinstance(by, str) else None))
            elif told and found and told.event in _OUTCOMES:
                reason = told.fields.get("reason")
                found[-1] = replace(found[-1], outcome=told.event, reason=reason if isinstance(reason, str) else None)
        return tuple(found)

    @property
    def requests(self) -> Requests | None:
        """What was seen of requests; None where nothing was."""
        found: Requests | None = None
        for line in self.lines:
            if line.seen is None:
                continue
            signs = [one for one in line.seen.evidence if one.kind in _OF_REQUESTS]
            if signs:
                begin = min([line.at, *[one.since for one in signs if one.since is not None]])
                worst = max(signs, key=lambda one: list(_OF_REQUESTS).index(one.kind))
                found = Requests(_OF_REQUESTS[worst.kind], min(begin, found.begin if found else begin), None)
            elif found and found.end is None:
                found = replace(found, end=line.at)
        return found

    @property
    def operators(self) -> tuple[Line, ...]:
        """What operators did meanwhile."""
        return tuple([one for one in self.lines if one.told and _by(one)])


_OUTCOMES = frozenset(
    one.value
    for one in (
        Event.RELOADED,
        Event.RECOVERED,
        Event.RELOAD_FAILED,
        Event.RELOAD_UNSENT,
        Event.RELOAD_UNPROVEN,
        Event.OVERTAKEN,
        Event.REPLACED,
        Event.ENDED_BY_US,
    )
)


def _by(line: Line) -> str | None:
    by = line.told.fields.get("by") if line.told else None
    return by if isinstance(by, str) and by and by != "the end of the pause" else None


# ------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, slots=True)
class Read:
    """All records of a folder, the newest first, and why some could not be read, a sentence for each."""

    incidents: tuple[Happened, ...]
    problems: tuple[str, ...] = ()


def read(state_dir: Path, open_ones: frozenset[str] | None = None) -> Read:
    """Read them. `open_ones`: the incidents that the daemon's memory has, None where nobody knows.

    Raises OSError where the folder itself cannot be read; that it is not there is no error.
    """
    found: list[Happened] = []
    problems: list[str] = []
    folder = state_dir / FOLDER
    try:
        names = sorted(os.listdir(folder))  # noqa: PTH208 - a file may have any name
    except FileNotFoundError:
        names = []
        state_dir.stat()  # says who may not look
    for name in names:
        if not name.endswith(SUFFIX):
            continue
        try:
            one = _parsed(_content(folder / name))
        except OSError as error:
            problems.append(f"{folder / name}: {error.strerror or error}")
            continue
        if isinstance(one, str):
            problems.append(f"{folder / name}: {one}")
        else:
            found.append(replace(one, goes_on=None if open_ones is None else one.id in open_ones))
    found.sort(key=lambda one: one.began, reverse=True)
    return Read(tuple(found), tuple(problems))


def _content(path: Path) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(None, "is not a file")
        pieces, left = [], LARGEST
        while left and (piece := os.read(file, left)):
            pieces.append(piece)
            left -= len(piece)
    finally:
        os.close(file)
    return b"".join(pieces)


def _parsed(content: bytes) -> Happened | str:
    """Return what the lines of a file say, or why they say nothing."""
    lines: list[Line] = []
    broken, why = 0, "it is empty"
    for text in content.split(b"\n"):
        if not text.strip(b"\0 \t\r"):  # a crash of the machine leaves zeros
            broken += bool(text)
            continue
        try:
            lines.append(decoded(text[: LONGEST_LINE + 1]))
        except CodecError as error:
            broken, why = broken + 1, str(error)
    if not lines:
        return f"no line of it can be read: {why}"
    id_ = lines[0].incident
    mine = [one for one in lines if one.incident == id_]
    return Happened(id_, mine[0].instance, tuple(mine), broken + len(lines) - len(mine))


def nearest(wanted: str, found: Sequence[Happened]) -> list[str]:
    """Return the ids that may be meant: of the instance of that name, else those like it, else the newest."""
    ids = [one.id for one in found]
    of_it = [one.id for one in found if one.instance == wanted]
    return (of_it or difflib.get_close_matches(wanted, ids, 3, 0.7) or ids)[:3]


# ------------------------------------------------------------------------------------------------- for programs


def document(found: Iterable[Happened], problems: Iterable[str], *, whole: bool) -> Document:
    """Return what `incidents --json` prints. `whole`: with all that happened in them."""
    shown: Document = tree(
        INCIDENTS.document(incidents=[_document(one, whole=whole) for one in found], problems=list(problems))
    )
    return shown


def _document(one: Happened, *, whole: bool) -> Document:
    requests = one.requests
    first = _first_sign(one)
    said: Document = {
        "id": one.id,
        "instance": one.instance,
        "began": timestamp(one.began),
        "first_sign": first,
        "ended": None if one.ended is None else timestamp(one.ended),
        "seconds": one.seconds,
        "ending": one.ending,
        "goes_on": False if one.ending else one.goes_on,
        "reloads": [
            {
                "at": timestamp(reload.at),
                "command": reload.command,
                "by": reload.by,
                "outcome": reload.outcome,
                "reason": reload.reason,
            }
            for reload in one.reloads
        ],
        "requests": requests
        and {
            "what": requests.what,
            "from": timestamp(requests.begin),
            "to": None if requests.end is None else timestamp(requests.end),
        },
        "operators": [
            {"at": timestamp(line.at), "by": _by(line), "event": line.told.event, "text": line.told.text}
            for line in one.operators
            if line.told
        ],
        "left_out": one.left_out,
        "broken": one.broken,
    }
    return said | {"lines": [_line(one, line) for line in one.lines]} if whole else said


def _line(one: Happened, line: Line) -> Document:
    said: Document = {"at": timestamp(line.at), "seconds": round(line.at - one.began, 3)}
    if line.told:
        said["told"] = encode(line.told)
    if line.seen:
        evidence = [
            encode(sign)
            | {
                "since": None if sign.since is None else timestamp(sign.since),
                "ripe": None if sign.ripe is None else timestamp(sign.ripe),
            }
            for sign in line.seen.evidence
        ]
        said["seen"] = encode(line.seen) | {"evidence": evidence}
    return said | ({"over": line.over} if line.over else {}) | ({"left_out": line.left_out} if line.left_out else {})


# --------------------------------------------------------------------------------------------------- for people


def overview(found: Sequence[Happened], where: Path) -> list[str]:
    """Return the table, a line for each."""
    if not found:
        return [f"no incident is recorded in {where / FOLDER}"]
    head = ("BEGAN", "INSTANCE", "LASTED", "ENDING", "RELOADS", "ID")
    return table([head, *[_row(one) for one in found]], WIDTH)


def _row(one: Happened) -> tuple[str, ...]:
    lasted = "-" if one.seconds is None else format_duration(float(max(0, round(one.seconds))))
    return _second(one.began), one.instance, lasted, _ending(one), str(len(one.reloads)), one.id


def _ending(one: Happened) -> str:
    return one.ending or ("open" if one.goes_on else "not seen" if one.goes_on is False else "open?")


def _second(at: float) -> str:
    return re.sub(r"\.[0-9]{3}Z$", "Z", timestamp(at))


def story(one: Happened) -> list[str]:
    """Return one as a timeline, each line of at most 80 columns."""
    head = [f"incident {one.id} of {one.instance}", *_summary(one), ""]
    wrapped = [line for text in head for line in _wrapped("", text, len("requests  "))]
    return [*wrapped, *_timeline(one)]


def _summary(one: Happened) -> Iterator[str]:
    yield f"began     {timestamp(one.began)}: {_first_sign(one)}"
    if one.ended is not None and one.seconds is not None:
        yield f"ended     {timestamp(one.ended)}, after {duration(one.seconds)}: {_words(one.ending or '?')}"
    elif one.goes_on is False:
        yield "ended     not seen: mongo-watchdog does not remember it any more"
    else:
        yield "ended     not yet"
    sent = [f"{_command(each.command)} at {_second(each.at)}{_became(each)}" for each in one.reloads]
    yield f"reloads   {'; '.join(sent) or 'none'}"
    yield f"requests  {_requests(one)}"
    did = [f"{_by(line)} ({_words(line.told.event)}) at {_second(line.at)}" for line in one.operators if line.told]
    yield f"operators {'; '.join(did) or 'nobody did anything that was told'}"
    if one.left_out:
        yield f"left out  {count(one.left_out, 'line')}, for which there was no room"
    if one.broken:
        yield f"broken    {count(one.broken, 'line')} of the record could not be read"


def _first_sign(one: Happened) -> str:
    """Say what was seen first: what was told of MongoDB then, or what was found."""
    of_mongodb = [line for line in one.lines if line.told and line.told.member and line.at <= one.began + AT_ONCE_S]
    for line in (*of_mongodb, *one.lines):
        if line.told:
            return line.told.text
        if line.seen and line.seen.serving is False:
            return "MongoDB does not serve."
        if line.seen and line.seen.evidence:
            return f"{line.seen.evidence[0].text}."
    return "not recorded"


def _command(byte: str) -> str:
    return next((text for command, text in COMMANDS.items() if command.value == byte), byte)


def _became(reload: Reload) -> str:
    by = f", by {reload.by}" if reload.by else ""
    return f"{by} ({_words(reload.outcome)})" if reload.outcome else by


def _words(name: str) -> str:
    return name.replace("_", " ")


def _requests(one: Happened) -> str:
    seen = one.requests
    if seen is None:
        return NOT_SEEN
    if seen.end is None:
        return f"were seen to {_DID[seen.what]} from {_second(seen.begin)} on"
    return (
        f"were seen to {_DID[seen.what]} from {_second(seen.begin)} on, for {duration(seen.end - seen.begin)} at least"
    )


def _timeline(one: Happened) -> Iterator[str]:
    before: Seen | None = None
    for line in one.lines:
        texts = []
        if line.left_out:
            texts.append(f"({count(line.left_out, 'line')} before this had no room)")
        if line.told:
            texts.append(line.told.text)
        if line.seen:
            texts += _changes(before, line.seen, one.began)
            before = line.seen
        if line.over:
            texts.append(f"The incident is over: {_words(line.over)}.")
        head = f"{timestamp(line.at)} {line.at - one.began:+9.1f} s  "
        for text in texts:
            yield from _wrapped(head, text, len(head))
            head = " " * len(head)


def _changes(before: Seen | None, now: Seen, began: float) -> Iterator[str]:
    """Say what is seen, and of what was seen before only what has changed."""
    said = []
    if before is None or before.serving != now.serving:
        said.append(_SERVES[now.serving])
    if now.workers and (before is None or before.workers != now.workers):
        said.append(f"workers: {', '.join(f'{many} {_words(verdict)}' for verdict, many in now.workers.items())}")
    if before is None or before.leftovers != now.leftovers:
        said.append(count(now.leftovers, "dead connection"))
    if now.sockets and (before is None or before.sockets != now.sockets):
        said.append(f"sockets: {', '.join(f'{many} {state.upper()}' for state, many in now.sockets.items())}")
    if before is None or before.phase != now.phase:
        said.append(_PHASES.get(now.phase, _words(now.phase)))
    if said:
        yield f"Seen: {'; '.join(said)}."
    yield from _evidence(before, now, began)
    gates = [one.gate for one in before.held] if before else []
    if gates != [one.gate for one in now.held]:
        held = "; ".join(f"{_words(one.gate)}: {one.reason}" for one in now.held)
        yield f"Held by {held}." if held else "Nothing holds a reload."


def _evidence(before: Seen | None, now: Seen, began: float) -> Iterator[str]:
    """Say what is new of it: of each kind the first one, and of whom else the same is seen."""
    known = {(one.kind, one.pid, one.ripe is None) for one in before.evidence} if before else set()
    new = [one for one in now.evidence if (one.kind, one.pid, one.ripe is None) not in known]
    for kind in dict.fromkeys(one.kind for one in new):
        first, *others = [one for one in new if one.kind == kind]
        counts = "" if first.ripe is None else f" (ripe at {first.ripe - began:+.1f} s)"
        also = f" So it is with {', '.join(str(one.pid) for one in others)}." if others else ""
        yield f"{_words(kind)}: {first.text}{counts}.{also}"


def _wrapped(head: str, text: str, indent: int) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=" " * indent, break_on_hyphens=False) or [
        head.rstrip()
    ]
