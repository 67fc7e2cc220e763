"""The saved state, over restarts of the daemon: what policy remembers, and what observe has seen and cannot see again.

It must never lose what was saved before (a new file replaces the old one in one step, after it is on the disk),
never overwrite a state that it cannot read (that is kept aside and blocks reloads until an operator has looked),
and never let two daemons share a folder. schemas/state.schema.json is the format.
"""

from __future__ import annotations

import contextlib
import fcntl
import math
import os
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from watchdogd import codec
from watchdogd.codec import STATE, CodecError, Document, VersionError, decode, encode
from watchdogd.model.base import Mono
from watchdogd.model.remembered import InstanceState, Phase, ReloadOutcome, Stand, State
from watchdogd.model.seen import Access, Connection
from watchdogd.model.text import AlreadyRunning, Outside, WatchdogError

BY_NAME = 1  # remembered instances by their names
TODAYS = codec.STATE.version
LOCKS = Path("/proc/locks")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# A clock that was set (NTP after a boot without a clock) makes the saved pair of times worthless: it is saved anew.
CLOCK_STEP_S = 5.0


class StoreError(WatchdogError):
    """The state folder cannot be read or written; names the path, the user and the mend."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was saved. A `problem` means that a state could not be read: reloads are blocked (see Store.problem)."""

    state: State = field(default_factory=State)
    observed: tuple[Connection, ...] = ()
    problem: str | None = None
    access: tuple[Access, ...] = ()


class Store:
    """One folder with `state.json`, held exclusively until this process ends or `close` is called.

    Raises AlreadyRunning where another daemon holds it, StoreError where it cannot be used. `boot_id` tells this boot
    of the machine from the others.
    """

    def __init__(self, state_dir: Path, boot_id: str | None = None) -> None:
        self._dir = state_dir
        self._file = state_dir / "state.json"
        self._boot_id = boot_id or BOOT_ID.read_text().strip()
        self._saved: tuple[State, tuple[Connection, ...], tuple[Access, ...]] | None = None
        self._skew = math.inf  # wall - monotonic, as it stands in the file
        self._whys: dict[str, str] = {}  # of the files that this process kept aside
        with self._explained(state_dir):
            with contextlib.suppress(FileExistsError):
                state_dir.mkdir(mode=0o750)
            self._lock = _lock(state_dir / "lock")

    def load(self, now: Mono, wall: float) -> Loaded:
        """Read what was saved, with its times on this boot's clock. `now`: CLOCK_MONOTONIC, `wall`: Unix time.

        After another boot the processes are gone: a reload counts as replaced, and no connection is known. What members
        told of their access control is.
        """
        with self._explained(self._file):
            try:
                content = self._file.read_bytes()
            except FileNotFoundError:
                return Loaded(problem=self.problem())
        try:
            state, observed, access = self._decoded(content, now, wall)
            return Loaded(state, observed, self.problem(), access)
        except CodecError as error:
            with self._explained(self._file):
                self._keep_aside(error, wall)
            return Loaded(problem=self.problem())

    def save(
        self, state: State, observed: Iterable[Connection], now: Mono, wall: float, access: Iterable[Access] = ()
    ) -> None:
        """Make it what the next `load` gives, on the disk when this returns; nothing is written if nothing changed.

        Raises StoreError; then what was saved before is still there.
        """
        content = state, tuple(observed), tuple(access)
        if content == self._saved and abs(wall - now - self._skew) < CLOCK_STEP_S:
            return
        document = STATE.document(**encode(_Content(self._boot_id, _Saved(now, wall), *content)))
        with self._explained(self._file):
            _replace(self._file, codec.text(document).encode() + b"\n")
        self._saved, self._skew = content, wall - now

    def doubt(self) -> None:
        """Have each `save` write, whatever has changed, until one has: only that shows whether it can be done."""
        self._saved = None

    def problem(self) -> str | None:
        """Say which states are kept aside, unread. While there are some nothing may be reloaded, also after a restart:
        what tells is the files themselves, so moving them away is what resolves it.
        """
        with self._explained(self._dir):
            aside = sorted(self._dir.glob("state.json.*-*"))
        if not aside:
            return None
        named = "; ".join(f"{path} ({self._whys.get(path.name, 'not read')})" for path in aside)
        return (
            f"saved state could not be read, and is kept as {named}: it may tell of a reload that is under way; "
            "see that all workers are ready, then move it out of the folder"
        )

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def _decoded(
        self, content: bytes, now: Mono, wall: float
    ) -> tuple[State, tuple[Connection, ...], tuple[Access, ...]]:
        """Raises CodecError."""
        document = STATE.read(content)
        version = document.pop("version")
        if version == BY_NAME:
            document = _by_name(document)
        if version != TODAYS:
            document = _with_standings(document)
        found: _Content = decode(_Content, document, "")
        saved, state = found.saved, found.state
        if found.boot_id == self._boot_id and saved.monotonic <= now:
            return state, found.observed, found.access
        # Where the clock is behind what was saved (no battery, no NTP yet), no time at all has passed for certain.
        passed = max(0.0, wall - saved.wall)
        state = shift(state, now - saved.monotonic - passed)
        state = replace(
            state,
            instances={id_: _replaced(one) for id_, one in state.instances.items()},
            unclaimed={name: _replaced(one) for name, one in state.unclaimed.items()},
        )
        access: tuple[Access, ...] = _shifted(tuple[Access, ...], found.access, now - saved.monotonic - passed)
        return state, (), access

    def _keep_aside(self, error: CodecError, wall: float) -> None:
        version = error.version if isinstance(error, VersionError) else None
        # A number may have as many digits as no name of a file.
        name = f"state.json.corrupt-{wall:.0f}" if version is None else f"state.json.unknown-{str(version)[:20]}"
        count, aside = 1, self._dir / name
        while aside.exists():  # we hold the lock: nobody else makes one meanwhile
            count += 1
            aside = self._dir / f"{name}.{count}"
        self._file.rename(aside)
        _sync(self._dir)
        self._whys[aside.name] = Outside(str(error))

    @contextlib.contextmanager
    def _explained(self, path: Path) -> typing.Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"{path}: {error.strerror or error} (uid {os.geteuid()}): `state_dir` must be a folder that "
                "this user may write and that has room"
            ) from error


@dataclass(frozen=True, slots=True)
class _Saved:
    """When a state was saved. `monotonic` is not Mono: it is what the shift is reckoned from."""

    monotonic: float
    wall: float


@dataclass(frozen=True, slots=True)
class _Content:
    """What a saved state says, beside its version."""

    boot_id: str
    saved: _Saved
    state: State
    observed: tuple[Connection, ...]
    access: tuple[Access, ...] = ()


def _by_name(document: Document) -> Document:
    """Read what the first edition remembered: claims.py gives each its instance once that is seen."""
    state = document.get("state")
    if not isinstance(state, dict):
        return document
    return {
        **document,
        "state": {**state, "instances": {}, "unclaimed": state.get("instances", {})},
    }


def _with_standings(document: Document) -> Document:
    """Read flags as the standing that they meant. What is not as it was written then is left for `decode` to refuse.

    What could not be seen is told anew, if that is still so.
    """
    state = document.get("state")
    if not isinstance(state, dict):
        return document
    kinds = {kind: state.get(kind) for kind in ("instances", "unclaimed")}
    read = {
        kind: {key: _with_standing(one) if isinstance(one, dict) else one for key, one in those.items()}
        for kind, those in kinds.items()
        if isinstance(those, dict)
    }
    return {**document, "state": {**state, **read, "blind": []}}


def _with_standing(instance: Document) -> Document:
    flags = "escalate", "doubt", "gave_up_at", "gave_up_why", "unsent"
    rest = {name: value for name, value in instance.items() if name not in flags}
    doubt, gave_up_at = bool(instance.get("doubt")), instance.get("gave_up_at")
    standing: Document = {"stand": Stand.DOUBTFUL.value} if doubt else {}
    if gave_up_at is not None:
        why = instance.get("gave_up_why", "")
        standing = {"stand": Stand.GAVE_UP.value, "since": gave_up_at, "why": why, "unproven": doubt}
    elif instance.get("escalate"):
        standing = {"stand": Stand.ESCALATING.value}
    return {**rest, "standing": standing}


def _replaced(instance: InstanceState) -> InstanceState:
    """Drop a reload: its processes went with the other boot."""
    if instance.reload is None:
        return instance
    last = instance.last
    if last is not None and last.id == instance.reload.id:
        last = replace(last, outcome=ReloadOutcome.REPLACED, detail="the machine was started anew")
    return replace(instance, reload=None, last=last, phase=Phase.WATCHING)


def shift(state: State, seconds: float) -> State:
    """Move every time of CLOCK_MONOTONIC in a state by so many seconds."""
    moved: State = _shifted(State, state, seconds)
    return moved


def _shifted(kind: Any, value: object, seconds: float) -> Any:  # noqa: ANN401 - as `kind` says
    return decode(kind, encode(value), "", seconds)


def holder(state_dir: Path) -> int | None:
    """Return the pid of the daemon that holds this folder; None where none is seen. Takes no lock (proc_locks(5))."""
    try:
        lock = (state_dir / "lock").stat()
        lines = LOCKS.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    place = f"{os.major(lock.st_dev):02x}:{os.minor(lock.st_dev):02x}:{lock.st_ino}"
    held = [line.split() for line in lines if f" {place} " in line]
    return next((int(words[4]) for words in held if words[1] == "FLOCK"), None)


def open_incidents(state_dir: Path) -> frozenset[str] | None:
    """Return the ids of the incidents that the saved state has, as ids go; None where it cannot be read."""
    try:
        document = STATE.read((state_dir / "state.json").read_bytes())
    except FileNotFoundError:
        return frozenset()
    except (OSError, CodecError):
        return None
    found = list(_incidents_in(document.get("state")))
    return frozenset(found)


def _incidents_in(state: object) -> typing.Iterator[str]:
    """Yield each; nothing of it is acted on, so nothing else in the state matters."""
    instances = state.get("instances") if isinstance(state, dict) else None
    for one in instances.values() if isinstance(instances, dict) else ():
        incident = one.get("incident") if isinstance(one, dict) else None
        id_ = incident.get("id") if isinstance(incident, dict) else None
        if isinstance(id_, str):
            yield id_


def _lock(path: Path) -> int:
    """Take the lock and write our pid into it; gives the descriptor that holds it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.pwrite(lock, str(os.getpid()).encode(), 0)
    except BlockingIOError:
        pid = os.pread(lock, 20, 0).decode(errors="replace") or "?"
        os.close(lock)
        raise AlreadyRunning(
            f"another mongo-watchdog (pid {pid}) uses {path.parent}: stop it, or give this one another `state_dir`"
        ) from None
    except OSError:
        os.close(lock)
        raise
    return lock


def _replace(path: Path, content: bytes) -> None:
    """Replace a file in one step; it is on the disk when this returns (rename(2), fsync(2))."""
    new = path.with_name(path.name + ".new")
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o640)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]
        os.fsync(file)
    finally:
        os.close(file)
    new.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
