"""Has done what the daemon's own user may not do: by mongo-watchdog-fifo.service, and by mongo-watchdog-end.service.

It must never leave the outcome open: the helper does nothing after the time that the request names, and nobody here
waits longer than that and a little more. What it gets is a descriptor, of the FIFO or of the process: a path might lead
elsewhere, and a number might mean another one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import NamedTuple

from watchdogd.act import end as ender
from watchdogd.act import fifo as writer
from watchdogd.act.privileged import QUESTION
from watchdogd.model.base import Command
from watchdogd.model.done import EndProcess, Moment, Result


class Helper(NamedTuple):
    """One of the two. `name`: of its units. `socket`: where it listens."""

    name: str
    socket: str

    def mend(self) -> str:
        """Return what has it started when it is asked: its units, which may be masked."""
        socket_unit = f"{self.name}.socket"
        masked = [unit for unit in (socket_unit, f"{self.name}.service") if _is_masked(unit)]
        unmask = f"systemctl unmask {' '.join(masked)} && " if masked else ""
        return f"`{unmask}systemctl enable --now {socket_unit}`"


FIFO = Helper("mongo-watchdog-fifo", "/run/mongo-watchdog-fifo.socket")
END = Helper("mongo-watchdog-end", "/run/mongo-watchdog-end.socket")

WITHIN_S = 2.0
"""For the helper to act: it is started first when it does not run (docs/rights.md has the measured times)."""

_UNIT_FOLDERS = ("/etc/systemd/system", "/run/systemd/system")
_ANSWER_S = 0.5  # from the last moment in which it may act until its answer must be here
_MAX_ANSWER = 16384


def wake(uid: int | None, *, helper: Helper = FIFO) -> None:
    """Have the helper started that will be asked to write into a FIFO of this user: that takes 0.2 s and more."""
    if uid is not None and not _is_ours(uid, helper):
        with contextlib.suppress(OSError), _connection() as connection:
            connection.settimeout(0)
            connection.connect(helper.socket)


def attempt(  # noqa: PLR0913 - what Attempt takes, and whom to ask
    fifo: int,
    path: str,
    command: Command,
    uid: int | None,
    moment: Moment | None = None,
    *,
    helper: Helper = FIFO,
) -> tuple[Result, str]:
    """Make one attempt, as act.fifo.attempt: `write` of act.fifo.perform.

    Directly where the FIFO is of our own user or we are root, or where there is no helper (then a capability may
    help); else by the helper.
    """
    if uid is None or _is_ours(uid, helper):
        return writer.attempt(fifo, path, command, uid, moment)
    now = time.monotonic()
    begin, end = now, now + WITHIN_S
    if moment is not None:
        begin, end = max(begin, moment.not_before), min(end, moment.not_after)
    request = b"%s %.3f %.3f %d %s" % (command.value.encode(), begin, end, uid, os.fsencode(path))
    return _asked(helper, request, fifo, f"{path} belongs to user id {uid}")


def end(pidfd: int, effect: EndProcess, *, helper: Helper = END) -> tuple[Result, str]:
    """Make one attempt, as act.end.attempt: `end` of act.end.perform. By the helper where we may not."""
    result, why = ender.attempt(pidfd, effect)
    if result is not Result.REFUSED or not os.path.exists(helper.socket):  # noqa: PTH110 - it is this one call
        return result, why
    request = b"%.3f %s" % (time.monotonic() + WITHIN_S, os.fsencode(effect.instance))
    return _asked(helper, request, pidfd, f"process {effect.process.pid} belongs to user id {effect.uid}")


def question(helper: Helper, path: str, uid: int) -> tuple[Result, str]:
    """Ask whether it would act for the instance of this path, whose master runs as `uid`; nothing is done.

    Gives WILLING, else REFUSED or TRY_AGAIN with a sentence. It may take as long as an attempt.
    """
    request = b"%s %d %s" % (QUESTION.encode(), uid, os.fsencode(path))
    return _asked(helper, request, None, f"{path} belongs to user id {uid}")


def _asked(helper: Helper, request: bytes, descriptor: int | None, whose: str) -> tuple[Result, str]:
    """Send one request, and give what becomes of it. `whose`: the thing, for a sentence."""
    try:
        answer = _answer(helper.socket, request, [] if descriptor is None else [descriptor])
    except PermissionError:
        return Result.REFUSED, (
            f"{whose}, and {helper.socket} does not let user id {os.geteuid()} ask for it: "
            "it is for the user that its unit names as SocketUser="
        )
    except TimeoutError:
        return Result.TRY_AGAIN, f"{helper.name} did not answer within {WITHIN_S:g} s"
    except OSError as error:
        return Result.TRY_AGAIN, f"{helper.name} cannot be asked ({error.strerror}): {helper.mend()}"
    result, _, sentence = os.fsdecode(answer).partition(" ")
    try:
        return Result(result), sentence
    except ValueError:  # nothing: it ended before it had acted
        return Result.TRY_AGAIN, f"{helper.name} ended without an answer: see `systemctl status` of it"


def _is_masked(unit: str) -> bool:
    """Say whether systemd may not start it (systemctl(1), mask): it is a link to /dev/null."""
    return any(os.path.realpath(f"{folder}/{unit}") == os.devnull for folder in _UNIT_FOLDERS)


def _is_ours(uid: int, helper: Helper) -> bool:
    """Say whether we write ourselves what is of this user."""
    return os.geteuid() in {0, uid} or not os.path.exists(helper.socket)  # noqa: PTH110 - it is this one call


def _connection() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)


def _answer(socket_path: str, request: bytes, descriptors: list[int]) -> bytes:
    with _connection() as connection:
        connection.settimeout(WITHIN_S + _ANSWER_S)
        connection.connect(socket_path)
        socket.send_fds(connection, [request], descriptors)
        return connection.recv(_MAX_ANSWER)
