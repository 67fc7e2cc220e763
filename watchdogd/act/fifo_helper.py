"""Writes into master FIFOs for the daemon, which may not: a program of its own, with CAP_DAC_OVERRIDE and nothing else.

It must never write anything but w, c or r, nor to a FIFO or by a way of reloading that the configuration does not
allow, nor after the client has stopped waiting. It writes through the descriptor that came with the request, and
follows a path only to compare what is there. Run by mongo-watchdog-fifo.service:

    python -m watchdogd.act.fifo_helper USER CONFIG    standard input is the listening socket (SOCK_SEQPACKET)

One message a connection, `COMMAND NOT_BEFORE NOT_AFTER UID PATH` with one descriptor (SCM_RIGHTS): the FIFO, opened
with O_PATH. Nothing is written before or after these times of CLOCK_MONOTONIC. UID is the effective one of the process
that has the FIFO open; PATH is the instance's identity. The answer: `RESULT SENTENCE`, as act/fifo.py.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from watchdogd.act.fifo import attempt
from watchdogd.act.privileged import RefusedError, acting, check_links, follow, named, objection_to_time, serve, texts
from watchdogd.model.base import Command
from watchdogd.model.done import Result
from watchdogd.model.text import Outside

AHEAD_S = 2.0
"""How long before its time a request may come: it is waited for, and nobody else is served meanwhile."""

CHECKS_S = 0.1
"""So long before its time a request is checked: to read the configuration takes time, and the moment may be short."""

_ALLOWED_WAYS = (Command.WORKERS.word, Command.CHAIN.word)  # the default of `reloads`


def perform(request: bytes, descriptors: list[int], config: str) -> tuple[Result, str]:
    """Write the byte that a request asks for, or say why not. Raises RefusedError."""
    try:
        word, earliest, latest, user, path = os.fsdecode(request).split(" ", 4)
        command, not_before, not_after, uid = Command(word), float(earliest), float(latest), int(user)
        (fifo,), path = descriptors, Outside(path)
    except ValueError:
        form = "`COMMAND NOT_BEFORE NOT_AFTER UID PATH` with one descriptor, and COMMAND is w, c or r"
        raise RefusedError(f"a request is {form}") from None
    if not not_before - time.monotonic() <= AHEAD_S:  # nor when it is no number
        raise RefusedError(f"a request may come {AHEAD_S:g} s before its time at most")
    _sleep_until(not_before - CHECKS_S)
    instance = named(acting(config), path)
    if instance is None:
        _check_found(command, uid, path)
    elif command.word not in texts(instance.get("reloads", _ALLOWED_WAYS)):
        raise RefusedError(f"`reloads` of {path} does not allow {command.value}")
    if os.fstat(fifo).st_nlink == 0:  # as it is after each command, of an operator say
        return Result.TRY_AGAIN, f"{path} was made anew, or removed, since it was looked at"
    if instance is not None:
        _check_place(path, os.fstat(fifo), instance)
    _sleep_until(not_before)
    if late := objection_to_time(not_after):
        return Result.TRY_AGAIN, late
    return attempt(fifo, path, command, uid)


def _sleep_until(at: float) -> None:
    time.sleep(max(0.0, at - time.monotonic()))


def _check_place(path: str, handed: os.stat_result, instance: dict[str, Any]) -> None:
    """Judge what was handed over by where the configured path leads now."""
    led = follow(path)
    if led.found is None or not os.path.samestat(led.found, handed):
        raise RefusedError(f"{path} leads to another file than what was handed over")
    check_links(led, handed.st_uid, instance)


def _check_found(command: Command, uid: int, path: str) -> None:
    """Judge a FIFO that the configuration leaves to be found: `attempt` proves that it is of `uid` and has a reader."""
    if uid == 0:
        raise RefusedError(f"{path} is root's, and the configuration does not name it: add it under `uwsgi:`")
    if command.word not in _ALLOWED_WAYS:
        raise RefusedError(f"{command.value} is not allowed for an instance that is not under `uwsgi:`")
    if not path.startswith("/"):
        raise RefusedError(f"`{path}` is not an absolute path")


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], perform))
