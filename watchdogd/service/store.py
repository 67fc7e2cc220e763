"""The saved state: what policy remembers and which ended connections are known, over restarts of the daemon.

It must never lose what was saved before (a new file replaces the old one in one step, after it is on the disk),
never overwrite a state that it cannot read (that is kept aside and blocks reloads until an operator has looked),
and never let two daemons share a folder. tests/schema/state.schema.json is the format.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import functools
import json
import math
import os
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from watchdogd.model import (
    AlreadyRunning,
    Connection,
    InstanceState,
    Mono,
    Outside,
    Phase,
    State,
    WatchdogError,
)

VERSION = 2
FIRST_EDITION = 1  # remembered instances by their names
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

# A clock that was set (NTP after a boot without a clock) makes the saved pair of times worthless: it is saved anew.
CLOCK_STEP_S = 5.0


class StoreError(WatchdogError):
    """The state folder cannot be read or written; names the path, the user and the mend."""


class CodecError(ValueError):
    """A saved value is not what the model says; the text begins with where it stands."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was saved. A `problem` means that a state could not be read: reloads are blocked (see Store.problem)."""

    state: State = field(default_factory=State)
    observed: tuple[Connection, ...] = ()
    problem: str | None = None


class Store:
    """One folder with `state.json`, held exclusively until this process ends or `close` is called.

    Raises AlreadyRunning where another daemon holds it, StoreError where it cannot be used. `boot_id` tells this boot
    of the machine from the others.
    """

    def __init__(self, state_dir: Path, boot_id: str | None = None) -> None:
        self._dir = state_dir
        self._file = state_dir / "state.json"
        self._boot_id = boot_id or BOOT_ID.read_text().strip()
        self._saved: tuple[State, tuple[Connection, ...]] | None = None
        self._skew = math.inf  # wall - monotonic, as it stands in the file
        self._whys: dict[str, str] = {}  # of the files that this process kept aside
        with self._explained(state_dir):
            with contextlib.suppress(FileExistsError):
                state_dir.mkdir(mode=0o750)
            self._lock = _lock(state_dir / "lock")

    def load(self, now: Mono, wall: float) -> Loaded:
        """Read what was saved, with its times on this boot's clock. `now`: CLOCK_MONOTONIC, `wall`: Unix time.

        After another boot the processes are gone: a reload counts as replaced, and no connection is known.
        """
        with self._explained(self._file):
            try:
                content = self._file.read_bytes()
            except FileNotFoundError:
                return Loaded(problem=self.problem())
        try:
            return Loaded(*self._decoded(content, now, wall), self.problem())
        except CodecError as error:
            with self._explained(self._file):
                self._keep_aside(error, wall)
            return Loaded(problem=self.problem())

    def save(self, state: State, observed: Iterable[Connection], now: Mono, wall: float) -> None:
        """Make it what the next `load` gives, on the disk when this returns; nothing is written if nothing changed.

        Raises StoreError; then what was saved before is still there.
        """
        content = state, tuple(observed)
        if content == self._saved and abs(wall - now - self._skew) < CLOCK_STEP_S:
            return
        document = {
            "version": VERSION,
            "boot_id": self._boot_id,
            "saved": {"monotonic": now, "wall": wall},
            "state": encode(state),
            "observed": encode(content[1]),
        }
        with self._explained(self._file):
            _replace(self._file, json.dumps(document, allow_nan=False, separators=(",", ":")).encode() + b"\n")
        self._saved, self._skew = content, wall - now

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

    def _decoded(self, content: bytes, now: Mono, wall: float) -> tuple[State, tuple[Connection, ...]]:
        """Raises CodecError."""
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise CodecError(f"it is not JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("version"), int):
            raise CodecError("it has no version")
        if document["version"] not in {VERSION, FIRST_EDITION}:
            raise _UnknownVersionError(document["version"])
        missing = {"boot_id", "saved", "state", "observed"} - document.keys()
        if missing:
            raise CodecError(f"it has no {', '.join(sorted(missing))}")
        if document["version"] == FIRST_EDITION:
            document["state"] = _by_name(_of(dict, document["state"], "state"))
        saved = decode(_Saved, document["saved"], "saved")
        state = decode(State, document["state"], "state")
        observed = decode(tuple[Connection, ...], document["observed"], "observed")
        if document["boot_id"] == self._boot_id and saved.monotonic <= now:
            return state, observed
        # Where the clock is behind what was saved (no battery, no NTP yet), no time at all has passed for certain.
        passed = max(0.0, wall - saved.wall)
        state = shift(state, now - saved.monotonic - passed)
        return replace(
            state,
            instances={id_: _replaced(one) for id_, one in state.instances.items()},
            unclaimed={name: _replaced(one) for name, one in state.unclaimed.items()},
        ), ()

    def _keep_aside(self, error: CodecError, wall: float) -> None:
        version = error.version if isinstance(error, _UnknownVersionError) else None
        name = f"state.json.corrupt-{wall:.0f}" if version is None else f"state.json.unknown-{version}"
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


class _UnknownVersionError(CodecError):
    def __init__(self, version: int) -> None:
        super().__init__(f"it is of version {version}, and this mongo-watchdog knows version {VERSION}")
        self.version = version


def _by_name(state: dict[str, Any]) -> dict[str, Any]:
    """Read what the first edition remembered: claims.py gives each its instance once that is seen."""
    blind = [one for one in _of(list, state.get("blind", []), "state.blind") if not _is_of_an_instance(one)]
    return {**state, "instances": {}, "unclaimed": state.get("instances", {}), "blind": blind}


def _is_of_an_instance(blind: object) -> bool:
    return isinstance(blind, dict) and str(blind.get("scope")).startswith("instance ")


def _replaced(instance: InstanceState) -> InstanceState:
    """Drop a reload: its processes went with the other boot."""
    if instance.reload is None:
        return instance
    last = instance.last
    if last is not None and last.id == instance.reload.id:
        last = replace(last, outcome="replaced", detail="the machine was started anew")
    return replace(instance, reload=None, last=last, phase=Phase.WATCHING)


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


# ------------------------------------------------------------------------- the codec: values of model.py as JSON


def encode(value: object) -> Any:  # noqa: ANN401, PLR0911 - JSON; one return for each kind
    """Write a value of the model as JSON: dataclasses as objects, named tuples as lists, infinity as `"inf"`."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if is_dataclass(value):
        return {one.name: encode(getattr(value, one.name)) for one in _fields(value.__class__)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted((encode(item) for item in value), key=json.dumps)
    if isinstance(value, tuple):
        return [encode(item) for item in value]
    raise TypeError(f"{value!r} is not a value of the model")


def decode(kind: Any, data: Any, where: str, shift_s: float = 0.0) -> Any:  # noqa: ANN401, PLR0911 - as `kind` says; one return for each
    """Read a value of the type `kind` back; every time of CLOCK_MONOTONIC in it is moved by `shift_s` seconds.

    Strict: raises CodecError for whatever `encode` would not have written. `where` names the value in it.
    """
    if kind == Mono:
        return _float(data, where) + shift_s
    if isinstance(kind, typing.NewType):
        return decode(kind.__supertype__, data, where, shift_s)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in {typing.Union, types.UnionType}:
        (inner,) = (one for one in arguments if one is not types.NoneType)
        return None if data is None else decode(inner, data, where, shift_s)
    if origin in {tuple, frozenset}:
        items = _of(list, data, where)
        return origin([decode(arguments[0], item, f"{where}[{i}]", shift_s) for i, item in enumerate(items)])
    if origin is not None and issubclass(origin, Mapping):
        pairs = _of(dict, data, where).items()
        return {key: decode(arguments[1], item, f"{where}.{key}", shift_s) for key, item in pairs}
    if kind is Outside:
        return Outside(_of(str, data, where))
    if is_dataclass(kind):
        return _decode_dataclass(kind, _of(dict, data, where), where, shift_s)
    if issubclass(kind, tuple):
        return _decode_named_tuple(kind, _of(list, data, where), where, shift_s)
    if issubclass(kind, enum.Enum):
        return _decode_enum(kind, data, where)
    return _float(data, where) if kind is float else _of(kind, data, where)


def shift(state: State, seconds: float) -> State:
    """Move every time of CLOCK_MONOTONIC in a state by so many seconds."""
    moved: State = decode(State, encode(state), "state", seconds)
    return moved


def _decode_dataclass(kind: Any, data: dict[str, Any], where: str, shift_s: float) -> Any:  # noqa: ANN401
    known = {one.name: one for one in _fields(kind)}
    if unknown := data.keys() - known.keys():
        _wrong(where, f"none of {', '.join(sorted(unknown))}", data)
    needed = {n for n, one in known.items() if one.default is MISSING and one.default_factory is MISSING}
    if missing := needed - data.keys():
        _wrong(where, f"{', '.join(sorted(missing))} in it", data)
    hints = _hints(kind)
    return kind(**{name: decode(hints[name], item, f"{where}.{name}", shift_s) for name, item in data.items()})


def _decode_named_tuple(kind: Any, data: list[Any], where: str, shift_s: float) -> Any:  # noqa: ANN401
    hints = _hints(kind)
    if len(data) != len(hints):
        _wrong(where, f"{len(hints)} values", data)
    return kind(
        *[decode(hints[name], item, f"{where}.{name}", shift_s) for name, item in zip(hints, data, strict=True)]
    )


def _decode_enum(kind: type[enum.Enum], data: Any, where: str) -> enum.Enum:  # noqa: ANN401
    try:
        return kind(data)
    except ValueError:
        return _wrong(where, f"one of {', '.join(str(one.value) for one in kind)}", data)


def _float(data: Any, where: str) -> float:  # noqa: ANN401
    if data in ("inf", "-inf"):
        return float(data)
    if isinstance(data, int | float) and not isinstance(data, bool) and math.isfinite(data):
        return float(data)
    return _wrong(where, "a number", data)


def _of(kind: type, data: Any, where: str) -> Any:  # noqa: ANN401
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        _wrong(where, kind.__name__, data)
    return data


def _wrong(where: str, expected: str, data: object) -> NoReturn:
    raise CodecError(f"{where}: expected {expected}, found {str(data)[:80]!r}")


@functools.cache
def _fields(kind: Any) -> tuple[Field[Any], ...]:  # noqa: ANN401
    return fields(kind)  # makes the tuple anew, and of a generator, each time it is asked


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind, include_extras=True)
