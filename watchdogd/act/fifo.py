"""Writes one byte into the master FIFO of a uWSGI instance: the only thing that mongo-watchdog ever changes.

It writes through a descriptor that came from the master's own table (Uwsgi.descriptor), so no path is resolved here and
nobody can lead it elsewhere. It must never create a file (one that stands at the FIFO's path while uWSGI makes it anew
ends the master, core/fifo.c), never wait but for the moment of a byte, never repeat a write and never judge whether a
reload is right. A privileged helper imports this module and nothing else of watchdogd but model and paths: it stays
that light.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable
from typing import Protocol

from watchdogd.model.base import Command, Mono
from watchdogd.model.done import Moment, Outcome, Result, SendFifo

FLAGS = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC

_NO_PERMISSION = (
    "may not be written by uid {uid}: uWSGI makes it with mode 0600 and makes it anew after every command, "
    "so chmod, groups and ACLs do not last; start mongo-watchdog-fifo.socket, which has it written, "
    "or run mongo-watchdog as the user of the instance, or with CAP_DAC_OVERRIDE"
)

# Those that do not mend themselves; policy tries every other one again for some seconds.
_REFUSALS = {errno.EACCES: _NO_PERMISSION, errno.EPERM: _NO_PERMISSION}

# Normal while the master makes its FIFO anew, and after `r` for as long as the app loads (3.1 s measured).
_PASSING = {
    errno.ENXIO: "has no reader: the master is stopped, or executes itself anew",
    errno.EPIPE: "lost its reader: the master is making it anew",
    errno.EAGAIN: "is full: the master has not read it for 65536 commands",
}


WAIT_AT_MOST_S = 0.15
"""For the moment of a byte: who decides asks for one that is 0.1 s away at most (core/aim.py)."""

LOOK_BEFORE_S = 0.03
"""So long before its moment the last look is taken: 1 ms for 10 workers, and more on a busy machine."""

PASSED = "the moment at which uWSGI forks well has passed"
FAR_AWAY = "the moment at which uWSGI forks well is far away"


class Attempt(Protocol):
    """The edge: one try to deliver one command. `attempt` is the real one."""

    def __call__(
        self, fifo: int, path: str, command: Command, uid: int | None, moment: Moment | None = None
    ) -> tuple[Result, str]:
        """See `attempt`."""


def attempt(
    fifo: int, path: str, command: Command, uid: int | None, moment: Moment | None = None
) -> tuple[Result, str]:
    """Check the FIFO behind the descriptor and write the one byte of `command` into it, at its moment, if that is near.

    `fifo`: opened with O_PATH, which its reader does not notice. `path`: what it is called in a sentence. `uid`: the
    effective one of the process that reads it, who must own it. Gives WRITTEN (the byte is in the pipe: that proves
    delivery, not execution), else TRY_AGAIN or REFUSED with a sentence. It raises nothing.
    """
    if uid is None:
        return Result.REFUSED, f"{path}: nobody is known to have it open, so its owner cannot be checked"
    if moment is not None:
        _wait_until(moment.not_before)
        if early_or_late := _objection_to(moment):
            return Result.TRY_AGAIN, early_or_late
    try:
        objection = _deliver(fifo, command, uid)
    except OSError as error:
        return _failed(path, error)
    return (Result.REFUSED, f"{path} {objection}") if objection else (Result.WRITTEN, "")


def perform(
    effect: SendFifo,
    look: Callable[[SendFifo], int | tuple[Result, str]],
    clock: Callable[[], Mono],
    write: Attempt = attempt,
) -> Outcome:
    """Take the last look, then make one attempt, and tell what became of the effect.

    `look` gives the FIFO's descriptor while master, workers and readiness are what the effect expects, else why not. It
    must read anew: `w` while a worker loads its app kills the healthy ones after mercy.
    """
    if effect.moment is not None:
        _wait_until(effect.moment.not_before - LOOK_BEFORE_S)
    fifo = look(effect)
    if not isinstance(fifo, int):
        return Outcome(effect.id, fifo[0], clock(), fifo[1])
    try:
        result, detail = write(fifo, effect.fifo, effect.command, effect.uid, effect.moment)
    finally:
        os.close(fifo)
    return Outcome(effect.id, result, clock(), detail)


def _wait_until(at: Mono) -> None:
    """Wait, for WAIT_AT_MOST_S at most."""
    time.sleep(min(max(0.0, at - time.monotonic()), WAIT_AT_MOST_S))


def _objection_to(moment: Moment) -> str | None:
    """Say why it is not that moment; None where it is."""
    now = time.monotonic()
    if now > moment.not_after:
        return PASSED
    return FAR_AWAY if now < moment.not_before else None


def _deliver(fifo: int, command: Command, uid: int) -> str | None:
    """Write the byte, or say what is wrong with the thing behind the descriptor. Raises OSError."""
    # Looked at before it is opened to write: to open and close a FIFO already makes a uWSGI renew it.
    if objection := _objection(os.fstat(fifo), uid):
        return objection
    opened = os.open(f"/proc/self/fd/{fifo}", FLAGS)  # the very same one, wherever its path leads by now
    try:
        os.write(opened, command.value.encode("ascii"))
    finally:
        os.close(opened)
    return None


def _objection(seen: os.stat_result, uid: int) -> str | None:
    """Say why this is not a FIFO of that owner; None when it is."""
    if not stat.S_ISFIFO(seen.st_mode):
        return "is not a FIFO"
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
