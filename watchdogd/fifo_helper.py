"""Writes into master FIFOs for the daemon, which may not: a program of its own, with CAP_DAC_OVERRIDE and nothing else.

Whoever asks may have been taken over. So it must never write anything but w, c or r, nor to a FIFO or by a way of
reloading that the configuration does not allow, nor after the client has stopped waiting; and it must never wait for
a client. docs/rights.md says what it can prove, and what not. Run by mongo-watchdog-fifo.service:

    python -m watchdogd.fifo_helper USER CONFIG    standard input is the listening socket (SOCK_SEQPACKET)

One message a connection, `COMMAND UNTIL UID PATH`: UNTIL is the CLOCK_MONOTONIC time after which nothing may be written
any more, UID the effective one of the process that has the FIFO open. The answer: `RESULT SENTENCE`, as act/fifo.py.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import struct
import sys
import time
from pathlib import Path, PurePath
from typing import Any

import yaml

from watchdogd.act.fifo import attempt
from watchdogd.model import CHAIN, RESTART, WORKERS, Command, Result

IDLE_S = 60.0
"""Without a client for so long it ends: systemd goes on listening and starts it again (0.2 s on a quiet machine)."""

PATIENCE_S = 1.0
"""For a client to send its message."""

_MAX_REQUEST = 8192  # PATH_MAX is 4096
_MAX_CONFIG = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH  # an ACL that lets somebody write shows as the group's bit
_WAYS = {"workers": WORKERS, "chain": CHAIN, "restart": RESTART}
_ALLOWED_WAYS = ("workers", "chain")  # the default of `reloads`
_WRONG_CALLER = "only the user of mongo-watchdog may ask for a write"


class _RefusedError(Exception):
    """What is asked may not be done; the text says why."""


def main(arguments: list[str]) -> int:
    """Serve one client after the other until none comes for IDLE_S."""
    user, config = arguments
    caller = pwd.getpwnam(user).pw_uid
    with contextlib.suppress(OSError):
        os.set_blocking(2, False)  # a stuck journald must not hold up a reload
    with socket.socket(fileno=0) as listener:
        listener.settimeout(IDLE_S)
        while True:
            try:
                client, _ = listener.accept()
            except TimeoutError:
                return 0
            with client, contextlib.suppress(OSError):  # it is silent, or has gone
                client.settimeout(PATIENCE_S)
                _serve(client, caller, config)


def _serve(client: socket.socket, caller: int, config: str) -> None:
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    request = client.recv(_MAX_REQUEST)
    if not request:
        return
    try:
        result, sentence = _perform(request, config) if uid == caller else (Result.REFUSED, _WRONG_CALLER)
    except _RefusedError as refused:
        result, sentence = Result.REFUSED, str(refused)
    _log(uid, request, result, sentence)
    client.send(f"{result.value} {sentence}".encode(errors="surrogateescape"))


def _perform(request: bytes, config: str) -> tuple[Result, str]:
    try:
        word, until, user, path = os.fsdecode(request).split(" ", 3)
        command, uid, deadline = Command(word), int(user), float(until)
    except ValueError:
        raise _RefusedError("a request is `COMMAND UNTIL UID PATH`") from None
    if objection := _objection(command, uid, path, _read(config)):
        raise _RefusedError(objection)
    if not time.monotonic() <= deadline:  # nor when it is no number
        return Result.TRY_AGAIN, "the request came to its turn too late, and nothing was written"
    return attempt(path, command, uid)


def _objection(command: Command, uid: int, path: str, config: dict[str, Any]) -> str | None:
    """Say why this command may not be written to this path; None when it may."""
    if command not in _WAYS.values():
        return f"{command!r} is not a reload: only w, c and r are ever written"
    if config.get("mode", "act") != "act":
        return "the configuration does not say `mode: act`, so nothing is written"
    if "uwsgi" not in config:
        return _objection_to_found(command, uid, path)
    instances = config["uwsgi"] if isinstance(config["uwsgi"], list) else []
    named = [one for one in instances if isinstance(one, dict) and _is(one.get("master_fifo"), path)]
    if not named:
        return f"the configuration names no `master_fifo: {path}`"
    ways = named[0].get("reloads", _ALLOWED_WAYS)
    if not isinstance(ways, list | tuple) or command not in [_WAYS.get(way) for way in ways if isinstance(way, str)]:
        return f"`reloads` of {path} does not allow {command}"
    return None


def _objection_to_found(command: Command, uid: int, path: str) -> str | None:
    """Judge a FIFO that the configuration leaves to be found: `attempt` proves that it is of `uid` and has a reader."""
    if uid == 0:
        return f"{path} is root's, and the configuration does not name it: add it under `uwsgi:`"
    if command not in [_WAYS[way] for way in _ALLOWED_WAYS]:
        return f"{command} is not allowed for an instance that is not under `uwsgi:`"
    return None if path.startswith("/") else f"{path!r} is not an absolute path"


def _is(named: object, path: str) -> bool:
    return isinstance(named, str) and named.startswith("/") and str(PurePath(named)) == path


def _read(config: str) -> dict[str, Any]:
    """Return the configuration, if it is certain that root alone wrote it."""
    folder = Path(config).parent
    try:
        with os.fdopen(os.open(config, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            for place, seen in ((folder, folder.stat()), (config, os.fstat(file.fileno()))):
                if seen.st_uid != 0 or seen.st_mode & _WRITABLE_BY_OTHERS:
                    raise _RefusedError(f"{place} is not root's, or others may write it: chown root, chmod go-w")
            document = yaml.safe_load(file.read(_MAX_CONFIG))
    except OSError as error:
        raise _RefusedError(f"{config} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # its text may quote a URI with a password
        raise _RefusedError(f"{config} is not valid: `mongo-watchdog check` says why") from None
    return document if isinstance(document, dict) else {"uwsgi": None}  # which names nothing


def _log(uid: int, request: bytes, result: Result, sentence: str) -> None:
    level = 4 if result is Result.REFUSED else 5  # syslog's warning and notice
    text = f"<{level}>user id {uid} asked {request[:200]!r}: {result.value} {sentence!r}\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
