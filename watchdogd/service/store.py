"""The saved state, over restarts of the daemon: what policy remembers, and what observe has seen and cannot see again.

Two places: the state folder, and the runtime folder while that one takes nothing (a full disk, a file system that is
read-only), for then an app is stuck as well. Each save tries the state folder first; when it took one, the other is
removed. So after a crash at any point the newer of both is what was saved last.

It must never lose what was saved before (a new file replaces the old one in one step, after it is on the disk),
never overwrite a state that it cannot read (that is kept aside and blocks reloads until an operator has looked),
and never let two daemons share a folder. schemas/state.schema.json is the format.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import math
import os
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_IWGRP, S_IWOTH
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

BACK_EVERY_S = 10.0
"""So often it is tried whether the state folder works again, where nothing has changed."""

NAME = "state.json"


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
    of the machine from the others. `runtime_dir`: where it is kept while the folder takes nothing; None: nowhere.
    """

    def __init__(self, state_dir: Path, boot_id: str | None = None, *, runtime_dir: Path | None = None) -> None:
        self._dir = state_dir
        self._file = state_dir / NAME
        self._runtime_dir = runtime_dir
        self._degraded: str | None = None
        self._back_at = -math.inf
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

        Of two that were saved the newer one counts, and one that cannot be read is kept aside. After another boot the
        processes are gone: a reload counts as replaced, and no connection is known. What members told of their access
        control is.
        """
        found = {folder: one for folder in self._folders() if (one := self._read(folder / NAME, wall))}
        if not found:
            return Loaded(problem=self.problem())
        newest = functools.reduce(self._newer, found.values())
        if newest is not found.get(self._dir):
            self._degraded = f"it was kept in {self._runtime_dir} when this daemon began"
        state, observed, access = self._as_of(newest, now, wall)
        return Loaded(state, observed, self.problem(), access)

    def save(
        self, state: State, observed: Iterable[Connection], now: Mono, wall: float, access: Iterable[Access] = ()
    ) -> None:
        """Make it what the next `load` gives, on the disk when this returns; nothing is written if nothing changed.

        On a disk in memory where the state folder takes nothing (see `degraded`). Raises StoreError where neither
        place does; then what was saved before is still there.
        """
        content = state, tuple(observed), tuple(access)
        known = content == self._saved and abs(wall - now - self._skew) < CLOCK_STEP_S
        if known and (self._degraded is None or now < self._back_at):
            return
        document = STATE.document(**encode(_Content(self._boot_id, _Saved(now, wall), *content)))
        line = codec.text(document).encode() + b"\n"
        try:
            with self._explained(self._file):
                _replace(self._file, line)
        except StoreError as error:
            self._back_at = now + BACK_EVERY_S
            if known:
                return
            self._degraded = self._save_elsewhere(line, error)
        else:
            self._degraded = None
            if elsewhere := self._elsewhere():  # older now, so nothing is lost where it stays
                with contextlib.suppress(OSError):
                    (elsewhere / NAME).unlink(missing_ok=True)
        self._saved, self._skew = content, wall - now

    def doubt(self) -> None:
        """Have each `save` write, whatever has changed, until one has: only that shows whether it can be done."""
        self._saved = None

    @property
    def degraded(self) -> str | None:
        """Say why what is remembered is in the runtime folder; None where it is not."""
        return self._degraded

    def _save_elsewhere(self, line: bytes, error: StoreError) -> str:
        """Save it in the runtime folder; return why."""
        elsewhere = self._elsewhere()
        if elsewhere is None:
            raise error
        try:
            _replace(elsewhere / NAME, line)
        except OSError as second:
            raise StoreError(f"{error}; nor does {elsewhere} take it: {second.strerror or second}") from error
        return f"it is kept in {elsewhere}, which the next boot of the machine empties, since {error}"

    def _elsewhere(self) -> Path | None:
        """Return the runtime folder, where nobody else could have put a state into it."""
        folder = self._runtime_dir
        try:
            if folder is None or folder.samefile(self._dir):
                return None
            seen = folder.stat()
        except OSError:
            return None
        return folder if seen.st_uid in {0, os.geteuid()} and not seen.st_mode & (S_IWGRP | S_IWOTH) else None

    def _folders(self) -> list[Path]:
        elsewhere = self._elsewhere()
        return [self._dir] if elsewhere is None else [self._dir, elsewhere]

    def _read(self, file: Path, wall: float) -> _Content | None:
        with self._explained(file):
            try:
                content = file.read_bytes()
            except FileNotFoundError:
                return None
        try:
            return _decoded(content)
        except CodecError as error:
            with self._explained(file):
                self._keep_aside(file, error, wall)
            return None

    def _newer(self, one: _Content, other: _Content) -> _Content:
        """Return which was saved later: by the boot's own clock, which nobody sets, where both are of one boot."""
        if one.boot_id == other.boot_id:
            return other if other.saved.monotonic > one.saved.monotonic else one
        if self._boot_id in {one.boot_id, other.boot_id}:
            return one if one.boot_id == self._boot_id else other
        return other if other.saved.wall > one.saved.wall else one

    def problem(self) -> str | None:
        """Say which states are kept aside, unread. While there are some nothing may be reloaded, also after a restart:
        what tells is the files themselves, so moving them away is what resolves it.
        """
        with self._explained(self._dir):
            aside = [path for folder in self._folders() for path in sorted(folder.glob(f"{NAME}.*-*"))]
        if not aside:
            return None
        named = "; ".join(f"{path} ({self._whys.get(str(path), 'not read')})" for path in aside)
        return (
            f"saved state could not be read, and is kept as {named}: it may tell of a reload that is under way; "
            "see that all workers are ready, then move it out of the folder"
        )

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._lock)

    def _as_of(
        self, found: _Content, now: Mono, wall: float
    ) -> tuple[State, tuple[Connection, ...], tuple[Access, ...]]:
        """Move its times to this boot's clock."""
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

    def _keep_aside(self, file: Path, error: CodecError, wall: float) -> None:
        version = error.version if isinstance(error, VersionError) else None
        # A number may have as many digits as no name of a file.
        name = f"{NAME}.corrupt-{wall:.0f}" if version is None else f"{NAME}.unknown-{str(version)[:20]}"
        count, aside = 1, file.with_name(name)
        while aside.exists():  # we hold the lock: nobody else makes one meanwhile
            count += 1
            aside = file.with_name(f"{name}.{count}")
        file.rename(aside)
        _sync(file.parent)
        self._whys[str(aside)] = Outside(str(error))

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


def _decoded(content: bytes) -> _Content:
    """Raises CodecError."""
    document = STATE.read(content)
    version = document.pop("version")
    if version == BY_NAME:
        document = _by_name(document)
    if version != TODAYS:
        document = _with_standings(document)
    found: _Content = decode(_Content, document, "")
    return found


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
        document = STATE.read((state_dir / NAME).read_bytes())
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
    """Take the lock and write our pid into it, for people, where the disk takes it; gives the descriptor."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        lock = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with contextlib.suppress(OSError):
            os.ftruncate(lock, os.pwrite(lock, str(os.getpid()).encode(), 0))
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
        try:
            rest = memoryview(content)
            while rest:
                rest = rest[os.write(file, rest) :]
            os.fsync(file)
        finally:
            os.close(file)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # a full disk is fuller by what was written of it
            new.unlink()
        raise
    _sync(path.parent)


def _sync(folder: Path) -> None:
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
