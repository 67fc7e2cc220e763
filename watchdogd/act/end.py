"""Ends one process that hangs, or a mule that is stuck, by SIGKILL: the only signal that mongo-watchdog ever sends.

It signals through a pidfd that was opened before the process was looked at for the last time, so it can never meet
another one of the same number. It must never signal by a number, never send anything but SIGKILL (a worker of a later
generation has its master's handlers, which end the http router and all other workers), and never judge whether ending
it is right. A privileged helper imports this module: it stays light.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from typing import Protocol

from watchdogd.model.base import Mono
from watchdogd.model.done import EndProcess, Outcome, Result

DEAD_WITHIN_MS = 500
"""From SIGKILL until a process must be dead: 0.8 ms were measured, and one with much memory takes longer."""


class Attempt(Protocol):
    """The edge: one try to end one process. `attempt` is the real one."""

    def __call__(self, pidfd: int, effect: EndProcess) -> tuple[Result, str]:
        """See `attempt`."""


def attempt(pidfd: int, effect: EndProcess) -> tuple[Result, str]:
    """Send SIGKILL to the process behind the descriptor, and wait until it is dead: see `kill`."""
    return kill(pidfd, effect.process.pid, effect.uid, "its tasks fail" if effect.stuck else HANGS)


HANGS = "it hangs since its fork and has no request"


def kill(pidfd: int, pid: int, uid: int | None, why_safe: str = HANGS) -> tuple[Result, str]:
    """Send SIGKILL to the process behind the descriptor, and wait until it is dead, DEAD_WITHIN_MS at most.

    `pid`, `uid`: what it and its instance's user are called in a sentence; `why_safe`: why to end it by hand is. Gives
    ENDED, CHANGED where it had ended before, TRY_AGAIN while it is not dead, REFUSED where we may not, each of these
    with a sentence. It raises nothing.
    """
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return Result.CHANGED, f"process {pid} had ended by itself"
    except PermissionError:
        return Result.REFUSED, (
            f"process {pid} is of an instance of user id {uid}, and user id {os.geteuid()} may not end it: "
            "start mongo-watchdog-end.socket, which has it ended, or run mongo-watchdog as the user of the instance, "
            f"or end it yourself: `kill -9 {pid}` is safe, since {why_safe}"
        )
    except OSError as error:
        return (
            Result.REFUSED,
            f"process {pid} cannot be ended ({os.strerror(error.errno or 0)}): `kill -9 {pid}` is safe",
        )
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)  # pidfd_open(2): readable once it has ended
    if poll.poll(DEAD_WITHIN_MS):
        return Result.ENDED, ""
    return Result.TRY_AGAIN, f"process {pid} was sent SIGKILL and is not dead yet: the kernel is still taking it down"


def perform(
    effect: EndProcess,
    look: Callable[[EndProcess], int | tuple[Result, str]],
    clock: Callable[[], Mono],
    end: Attempt = attempt,
) -> Outcome:
    """Take the last look, then make one attempt, and tell what became of the effect.

    `look` gives a pidfd that was opened before it looked, while process, master and proof are what the effect expects;
    else why not.
    """
    pidfd = look(effect)
    if not isinstance(pidfd, int):
        return Outcome(effect.id, pidfd[0], clock(), pidfd[1], effect.process)
    try:
        result, detail = end(pidfd, effect)
    finally:
        os.close(pidfd)
    return Outcome(effect.id, result, clock(), detail, effect.process)
