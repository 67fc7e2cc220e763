"""Has the byte written by mongo-watchdog-fifo.service where the daemon's own user may not write it.

It must never leave the outcome open: the helper writes nothing after the time that the request names, and nobody here
waits longer than that and a little more. What it gets is the descriptor of the FIFO: a path might lead elsewhere.
"""

from __future__ import annotations

import os
import socket
import time

from watchdogd.act import fifo as writer
from watchdogd.model.base import Command
from watchdogd.model.done import Result

SOCKET = "/run/mongo-watchdog-fifo.socket"

WITHIN_S = 2.0
"""For the helper to write: it is started first when it does not run (docs/rights.md has the measured times)."""

_ANSWER_S = 0.5  # from the last moment in which it may write until its answer must be here
_MAX_ANSWER = 16384
_START = "`systemctl enable --now mongo-watchdog-fifo.socket`"


def attempt(fifo: int, path: str, command: Command, uid: int | None, *, helper: str = SOCKET) -> tuple[Result, str]:
    """Make one attempt, as act.fifo.attempt: `write` of act.fifo.perform.

    Directly where the FIFO is of our own user or we are root, or where there is no helper (then a capability may
    help); else by the helper.
    """
    if uid is None or os.geteuid() in {0, uid} or not os.path.exists(helper):  # noqa: PTH110 - it is this one call
        return writer.attempt(fifo, path, command, uid)
    now = time.monotonic()
    request = b"%s %.3f %.3f %d %s" % (command.value.encode(), now, now + WITHIN_S, uid, os.fsencode(path))
    try:
        answer = _asked(helper, request, fifo)
    except PermissionError:
        return Result.REFUSED, (
            f"{path} belongs to user id {uid}, and {helper} does not let user id {os.geteuid()} ask for the write: "
            "it is for the user that its unit names as SocketUser="
        )
    except TimeoutError:
        return Result.TRY_AGAIN, f"mongo-watchdog-fifo did not answer within {WITHIN_S:g} s"
    except OSError as error:
        return Result.TRY_AGAIN, f"mongo-watchdog-fifo cannot be asked ({error.strerror}): {_START}"
    result, _, sentence = os.fsdecode(answer).partition(" ")
    try:
        return Result(result), sentence
    except ValueError:  # nothing: it ended before it had written
        return Result.TRY_AGAIN, "mongo-watchdog-fifo ended without an answer: see `systemctl status` of it"


def _asked(helper: str, request: bytes, fifo: int) -> bytes:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(WITHIN_S + _ANSWER_S)
        connection.connect(helper)
        socket.send_fds(connection, [request], [fifo])
        return connection.recv(_MAX_ANSWER)
