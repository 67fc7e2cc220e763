"""Writes one byte into the master FIFO of a uWSGI instance: the only thing that mongo-watchdog ever changes.

It must never create a file (one that stands at the FIFO's path while uWSGI makes it anew ends the master,
core/fifo.c), never wait, never repeat a write and never judge whether a reload is right. A privileged helper
imports this module and nothing else of watchdogd but model: it stays that light.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import Protocol

from watchdogd.model import CHAIN, RESTART, WORKERS, Command, Mono, Outcome, Result, SendFifo

FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC

_COMMANDS = frozenset({WORKERS, CHAIN, RESTART})

_LINK = "is a symbolic link, which is never followed: give the path of the FIFO itself as `master_fifo`"
_DIRECTORY = "is a directory: give the path of the FIFO itself as `master_fifo`"
_NO_FIFO = "is not a FIFO: `master_fifo` must be the path that uWSGI's option `master-fifo` names"
_KINDS = {
    stat.S_IFLNK: _LINK,
    stat.S_IFDIR: _DIRECTORY,
    stat.S_IFREG: (
        "is a regular file: somebody wrote to it while uWSGI was stopped; remove it and restart the instance"
    ),
}

_NO_PERMISSION = (
    "may not be written by uid {uid}: uWSGI makes it with mode 0600 and makes it anew after every command, "
    "so chmod, groups and ACLs do not last; start mongo-watchdog-fifo.socket, which has it written, "
    "or run mongo-watchdog as the user of the instance, or with CAP_DAC_OVERRIDE"
)

# Those that do not mend themselves; policy tries every other one again for some seconds.
_REFUSALS = {
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.ELOOP: _LINK,
    errno.EISDIR: _DIRECTORY,
    errno.ENOTDIR: "is below something that is not a directory: correct `master_fifo`",
    errno.ENAMETOOLONG: "is too long for a path: correct `master_fifo`",
}

# Normal while the master makes its FIFO anew, and after `r` for as long as the app loads (3.1 s measured).
_PASSING = {
    errno.ENOENT: "does not exist: the master is stopped, or is making it anew",
    errno.ENXIO: "has no reader: the master is stopped, or executes itself anew",
    errno.EPIPE: "lost its reader: the master is making it anew",
    errno.EAGAIN: "is full: the master has not read it for 65536 commands",
}


class Attempt(Protocol):
    """The edge: one try to deliver one command. `attempt` is the real one."""

    def __call__(self, path: str, command: Command, uid: int | None) -> tuple[Result, str]:
        """See `attempt`."""


def attempt(path: str, command: Command, uid: int | None) -> tuple[Result, str]:
    """Open `path`, check it and write the one byte of `command`, without ever waiting.

    `uid` is the effective uid of the process that has the FIFO open, who must own it. Gives WRITTEN (the byte
    is in the pipe: that proves delivery, not execution), else TRY_AGAIN or REFUSED with a sentence. It raises
    nothing.
    """
    if command not in _COMMANDS:
        return Result.REFUSED, f"{command!r} is not a reload: only w, c and r are ever written to {path}"
    if uid is None:
        return Result.REFUSED, f"{path}: nobody is known to have it open, so its owner cannot be checked"
    try:
        objection = _deliver(path, command, uid)
    except OSError as error:
        return _failed(path, error)
    except ValueError as error:  # a NUL in the path
        objection = f"is not a path: {error}"
    return (Result.REFUSED, f"{path} {objection}") if objection else (Result.WRITTEN, "")


def perform(
    effect: SendFifo,
    look: Callable[[SendFifo], str | None],
    clock: Callable[[], Mono],
    write: Attempt = attempt,
) -> Outcome:
    """Take the last look, then make one attempt, and tell what became of the effect.

    `look` gives None while master, workers and readiness are what the effect expects, else what changed. It
    must read anew: `w` while a worker loads its app kills the healthy ones after mercy.
    """
    changed = look(effect)
    if changed is not None:
        return Outcome(effect.id, Result.CHANGED, clock(), changed)
    result, detail = write(effect.fifo, effect.command, effect.uid)
    return Outcome(effect.id, result, clock(), detail)


def _deliver(path: str, command: Command, uid: int) -> str | None:
    """Write the byte, or say what is wrong with the thing at the path. Raises OSError and ValueError."""
    # Looked at before it is opened, too: to open and close a FIFO already makes a uWSGI renew it.
    if objection := _objection(os.lstat(path), uid):
        return objection
    fifo = os.open(path, FLAGS)
    try:
        if objection := _objection(os.fstat(fifo), uid):
            return objection
        os.write(fifo, command.encode("ascii"))
    finally:
        os.close(fifo)
    return None


def _objection(seen: os.stat_result, uid: int) -> str | None:
    """Say why this is not a FIFO of that owner; None when it is."""
    if not stat.S_ISFIFO(seen.st_mode):
        return _KINDS.get(stat.S_IFMT(seen.st_mode), _NO_FIFO)
    if seen.st_uid != uid:
        return (
            f"belongs to uid {seen.st_uid}, but the process that has it open is uid {uid}: "
            "somebody else made it; remove it and restart the instance"
        )
    return None


def _failed(path: str, error: OSError) -> tuple[Result, str]:
    """Sort an error into what mends itself and what does not."""
    number = error.errno or 0
    if refusal := _REFUSALS.get(number):
        return Result.REFUSED, f"{path} {refusal.format(uid=os.geteuid())}"
    return Result.TRY_AGAIN, f"{path} {_PASSING.get(number) or f'cannot be written: {os.strerror(number)}'}"
