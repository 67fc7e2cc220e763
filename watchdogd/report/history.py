"""Keeps a record of each incident: what was seen and told of it, at each change, in a file of its own (record.py).

It is a sink that also takes what each tick has found and decided. Nothing is written before a tick's effects are
performed, and at rest nothing at all. It must never raise for the disk's sake nor hold a cure: what cannot be written
is kept, tried again in the next tick, and told as `deaf`; what has no room any more is counted. Nothing is synced: a
power cut may cost the last half minute, and a crash of the daemon its last tick.

Bounded are a record, all of them together, and how long they are kept; the oldest go first, and never an open one.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from watchdogd.config import Config
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.decided import Decision, Outlook
from watchdogd.model.found import Finding
from watchdogd.model.remembered import Ending, Incident
from watchdogd.model.seen import Instance, Snapshot
from watchdogd.model.text import Outside
from watchdogd.model.told import Event, Tell
from watchdogd.report.events import sentence
from watchdogd.report.record import FOLDER, SUFFIX, Gate, Line, Seen, Sign, Told, Value, file_name
from watchdogd.report.words import IN_A_SENTENCE, plain

MAX_RECORD = 512 * 1024
"""Bytes of one record. What is seen has no more than the first half, what must not be missed the last quarter alone."""
MAX_TOTAL = 32 * 1024 * 1024
MAX_RECORDS = 2000
"""Of all records: bytes, and files."""
MAX_WAITING = 500
"""Lines that wait for room on the disk."""
BEFORE_S = 30.0
"""What was told of MongoDB so shortly before an incident belongs to it."""
SWEEP_EVERY_S = 60.0
CHANGES = 60
"""So often what is seen is kept, however fast it changes."""
CALMER = 20
"""Then at most every 20th part of the incident's age: some 190 lines in a day of endless change."""

_ENDINGS = frozenset({Event(one.value) for one in Ending} | {Event.MULE_RENEWED, Event.MULE_LEFT})
_KEPT = _ENDINGS | {Event.RELOAD_SENT, Event.GAVE_UP, Event.HUNG_ENDED, Event.MULE_ENDED, Event.RELOAD_FAILED}
"""What a record has room for when it is full."""
_EVERYBODYS = frozenset(
    {
        Event.STARTED,
        Event.STOPPING,
        Event.PAUSED,
        Event.RESUMED,
        Event.CONFIG_RELOADED,
        Event.CONFIG_REJECTED,
        Event.BLIND,
        Event.SEEING_AGAIN,
    }
)
"""What is told of nobody, and concerns every incident that goes on."""


@dataclass(slots=True)
class _Record:
    """One that is open. `key`: what counts of what was seen last; `changes`: how often. `size`: with what waits."""

    incident: str
    instance: str
    path: Path
    size: int
    deployments: tuple[str, ...] = ()
    key: object = None
    seen_at: Mono = -math.inf
    changes: int = 0
    left_out: int = 0
    ending: str | None = None
    told_at: float = 0.0


@dataclass(slots=True)
class History:
    """The records in a state folder. `deaf`: why they cannot be written now; None while they can."""

    state_dir: Path
    name: str = "history"
    deaf: str | None = None
    _keep_s: float | None = None  # until a configuration was seen
    _open: dict[str, _Record] = field(default_factory=dict)
    _going_on: frozenset[str] = frozenset()
    _lately: deque[tuple[float, Tell]] = field(default_factory=lambda: deque(maxlen=32))
    _waiting: deque[tuple[_Record, bytes]] = field(default_factory=deque)
    _wall: float = 0.0
    _swept_at: float = -math.inf
    _sweep: bool = False

    def tell(self, tell: Tell, wall: float) -> None:
        """Take an event: to the record of its incident, or to all that are open where it concerns everybody."""
        if tell.incident:
            record = self._open.get(tell.incident) or self._begin(tell.incident, tell.instance or "")
            if record:
                self._tell(record, tell, wall)
            return
        if not (tell.instance or tell.member or tell.event in _EVERYBODYS):
            return
        if not tell.instance:
            self._lately.append((wall, tell))
        for record in self._open.values():
            if tell.instance in {None, record.instance} and _concerns(tell, record.deployments):
                self._tell(record, tell, wall)

    def look(
        self, snapshot: Snapshot, findings: Mapping[InstanceId, Finding], decision: Decision, config: Config
    ) -> None:
        """Take what one tick has seen, found and decided."""
        self._wall = snapshot.wall
        if config.history.keep_s != self._keep_s:
            self._keep_s, self._sweep, self._swept_at = config.history.keep_s, True, -math.inf
        if not self._keep_s:
            self._open.clear()
            return
        incidents = {id_: one.incident for id_, one in decision.state.instances.items() if one.incident}
        self._going_on = frozenset(one.id for one in incidents.values())
        for instance in snapshot.instances:
            if incident := incidents.get(instance.id):
                finding = findings.get(instance.id, Finding(instance.id))
                self._see(snapshot, instance, incident, finding, decision.outlooks.get(instance.id))

    def flush(self) -> None:
        """Write what waits, and end the records of incidents that are over."""
        for record in [one for id_, one in self._open.items() if id_ not in self._going_on]:
            self._put(record, Line(record.told_at, record.incident, record.instance, over=record.ending or "unknown"))
            del self._open[record.incident]
        errors = self._write_what_waits()
        if self._sweep and abs(self._wall - self._swept_at) >= SWEEP_EVERY_S:
            self._sweep, self._swept_at = False, self._wall
            with contextlib.suppress(OSError):  # that nothing can be done there, writing tells
                self._let_go()
        self.deaf = self._why(errors[0]) if errors else None

    def _write_what_waits(self) -> list[OSError]:
        """Write what can be written now; a record that cannot be is no trouble of the others."""
        errors: dict[Path, OSError] = {}
        for _ in range(len(self._waiting)):
            record, line = self._waiting.popleft()
            if record.path not in errors:
                try:
                    _append(record.path, line)
                    continue
                except OSError as error:
                    error.filename = error.filename or str(record.path)
                    errors[record.path] = error
            self._waiting.append((record, line))
        return list(errors.values())

    def _why(self, error: OSError) -> str:
        return (
            f"{Outside(error.filename or self.state_dir / FOLDER)}: {error.strerror or error} (uid {os.geteuid()}), "
            "so no record of an incident can be written. No reload waits for it, and the lines wait in memory until "
            "that folder can be written and has room"
        )

    # ---- what becomes a line

    def _begin(self, incident: str, instance: str) -> _Record | None:
        """Open a record, or one that an earlier daemon has begun; None where none is kept."""
        if not self._keep_s:
            return None
        path = self.state_dir / FOLDER / file_name(incident)
        size = 0
        with contextlib.suppress(OSError):  # it is not there, or nothing of it can be seen, which writing will tell
            size = path.stat().st_size
        record = self._open[incident] = _Record(incident, instance, path, size, told_at=self._wall)
        self._sweep = True
        return record

    def _tell(self, record: _Record, tell: Tell, wall: float) -> None:
        if tell.incident == record.incident:
            record.told_at = wall
            if tell.event in _ENDINGS:
                record.ending = tell.event.value
        told = Told(tell.event.value, plain(sentence(tell)), tell.member, _values(tell))
        self._put(record, Line(wall, record.incident, record.instance, told=told), kept=tell.event in _KEPT)

    def _see(
        self, snapshot: Snapshot, instance: Instance, incident: Incident, finding: Finding, outlook: Outlook | None
    ) -> None:
        record = self._open.get(incident.id)
        began = snapshot.wall - (snapshot.at - incident.since)
        if record is None:
            if (record := self._begin(incident.id, instance.name)) is None:
                return
            self._tell_what_led_to_it(record, instance, began)
        record.deployments = instance.deployments
        key = _key(instance, finding, outlook)
        calm = (snapshot.at - incident.since) / CALMER if record.changes >= CHANGES else 0.0
        if key != record.key and snapshot.at >= record.seen_at + calm:
            since = None if record.changes else began  # in its first line
            record.key, record.seen_at, record.changes = key, snapshot.at, record.changes + 1
            seen = _seen(snapshot, instance, finding, outlook)
            self._put(record, Line(snapshot.wall, record.incident, record.instance, seen=seen, began=since))

    def _tell_what_led_to_it(self, record: _Record, instance: Instance, began: float) -> None:
        """Of a new one what was told of its members right before; of one that an earlier daemon began, all since."""
        known = record.size > 0
        for wall, tell in self._lately:
            if began - BEFORE_S <= wall and (tell.member or known) and _concerns(tell, instance.deployments):
                self._tell(record, tell, wall)

    def _put(self, record: _Record, line: Line, *, kept: bool = False) -> None:
        """Have a line written, if there is room for it."""
        room, waiting = MAX_RECORD * 3 // 4, MAX_WAITING
        if kept or line.over:
            room, waiting = MAX_RECORD, MAX_WAITING * 2
        elif line.seen:
            room, waiting = MAX_RECORD // 2, MAX_WAITING // 2
        encoded = replace(line, left_out=record.left_out).encoded()
        if not line.over and (record.size + len(encoded) > room or len(self._waiting) >= waiting):
            record.left_out += 1
            return
        record.size += len(encoded)
        record.left_out = 0
        self._waiting.append((record, encoded))

    # ---- the disk

    def _let_go(self) -> None:
        """Remove what is too old, and the oldest of what is too much; an open one stays."""
        opened = {file_name(one) for one in (*self._open, *self._going_on)}
        with os.scandir(self.state_dir / FOLDER) as found:
            records = [one for one in found if one.name.endswith(SUFFIX) and one.is_file(follow_symlinks=False)]
        files = [(one.stat(follow_symlinks=False), one) for one in records]
        size, count = sum(stat.st_size for stat, _ in files), len(files)
        for stat, one in sorted(files, key=lambda file: file[0].st_mtime):
            old = not self._keep_s or self._wall - stat.st_mtime > self._keep_s
            if one.name not in opened and (old or size > MAX_TOTAL or count > MAX_RECORDS):
                Path(one.path).unlink(missing_ok=True)
                size, count = size - stat.st_size, count - 1


def _append(path: Path, line: bytes) -> None:
    try:
        _write(path, line)
    except FileNotFoundError:
        path.parent.mkdir(mode=0o750)
        _write(path, line)


def _write(path: Path, line: bytes) -> None:
    """Append a line, whole or not at all; behind a half one, which a crash has left, it begins anew."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line
        whole = os.write(file, line) == len(line)
        if not whole:
            os.ftruncate(file, size)
    finally:
        os.close(file)
    if not whole:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# ---- what is seen


def _concerns(tell: Tell, deployments: tuple[str, ...]) -> bool:
    """Say whether an event is of a member of these, or of nobody: then it concerns everybody."""
    return not tell.member or getattr(tell.what, "deployment", None) in deployments


def _values(tell: Tell) -> Mapping[str, Value]:
    values: dict[str, Value] = {}
    for name, value in tell.fields.items():
        if isinstance(value, tuple):
            values[name] = [plain(one, IN_A_SENTENCE) for one in value[:10]]
        elif isinstance(value, float) and not math.isfinite(value):
            values[name] = None
        else:
            values[name] = plain(value, IN_A_SENTENCE) if isinstance(value, str) else value
    return values


def _key(instance: Instance, finding: Finding, outlook: Outlook | None) -> object:
    """Return what is worth a line when it is another one."""
    return (
        outlook and (outlook.phase, tuple([one.gate for one in outlook.blocked_by])),
        _serving(finding),
        _verdicts(instance, finding),
        len(finding.leftovers),
        frozenset((one.kind, one.worker, one.ripe_at is None) for one in finding.evidence),
    )


def _serving(finding: Finding) -> bool | None:
    """Say whether MongoDB serves; None where that was not seen yet."""
    return True if finding.is_serving else False if finding.outage else None


def _verdicts(instance: Instance, finding: Finding) -> dict[str, int]:
    counted: dict[str, int] = {}
    for worker in instance.workers:
        if verdict := finding.verdicts.get(worker.id):
            counted[verdict.value] = counted.get(verdict.value, 0) + 1
    return counted


def _seen(snapshot: Snapshot, instance: Instance, finding: Finding, outlook: Outlook | None) -> Seen:
    own = {one.id for one in (*instance.workers, *instance.mules)}
    states = [one.tcp.value for one in snapshot.connections if not one.holders.isdisjoint(own)]
    return Seen(
        phase=outlook.phase.value if outlook else "",
        serving=_serving(finding),
        workers=_verdicts(instance, finding),
        sockets={state: states.count(state) for state in sorted(set(states))},
        leftovers=len(finding.leftovers),
        evidence=tuple(_signs(snapshot, finding)),
        held=tuple([Gate(one.gate, plain(one.reason, IN_A_SENTENCE)) for one in outlook.blocked_by] if outlook else []),
        next=plain(outlook.next_what, IN_A_SENTENCE) if outlook else "",
    )


_SIGNS = 20  # of one line; a host may have hundreds of workers


def _signs(snapshot: Snapshot, finding: Finding) -> Iterator[Sign]:
    def wall(at: Mono | None) -> float | None:
        return None if at is None or not math.isfinite(at) else round(snapshot.wall + at - snapshot.at, 3)

    for one in finding.evidence[:_SIGNS]:
        text = plain(one.sentence, IN_A_SENTENCE)
        yield Sign(one.kind.value, one.worker.pid, wall(one.since), wall(one.ripe_at), text)
