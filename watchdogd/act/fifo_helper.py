"""Writes into master FIFOs for the daemon, which may not: a program of its own, with CAP_DAC_OVERRIDE and nothing else.

Whoever asks may have been taken over. So it must never write anything but w, c or r, nor to a FIFO or by a way of
reloading that the configuration does not allow, nor after the client has stopped waiting; and it must never wait for
a client. It writes through the descriptor that came with the request, and follows a path only to compare what is there.
docs/rights.md says what it can prove, and what not. Run by mongo-watchdog-fifo.service:

    python -m watchdogd.act.fifo_helper USER CONFIG    standard input is the listening socket (SOCK_SEQPACKET)

One message a connection, `COMMAND NOT_BEFORE NOT_AFTER UID PATH` with one descriptor (SCM_RIGHTS): the FIFO, opened
with O_PATH. Nothing is written before or after these times of CLOCK_MONOTONIC. UID is the effective one of the process
that has the FIFO open; PATH is the instance's identity. The answer: `RESULT SENTENCE`, as act/fifo.py. No document of
codec.py: so a program with rights reads no JSON.
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

from watchdogd import paths
from watchdogd.act.fifo import attempt
from watchdogd.model.base import Command
from watchdogd.model.done import Result
from watchdogd.model.text import Outside, shown

IDLE_S = 60.0
"""Without a client for so long it ends: systemd goes on listening and starts it again (0.2 s on a quiet machine)."""

PATIENCE_S = 1.0
"""For a client to send its message."""

AHEAD_S = 2.0
"""How long before its time a request may come: it is waited for, and nobody else is served meanwhile."""

_MAX_REQUEST = 8192  # PATH_MAX is 4096
_MAX_CONFIG = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH  # an ACL that lets somebody write shows as the group's bit
_ALLOWED_WAYS = (Command.WORKERS.word, Command.CHAIN.word)  # the default of `reloads`
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
    # Room for a second one: a client that sends two is refused, not taken by the one that fits.
    request, descriptors, _, _ = socket.recv_fds(client, _MAX_REQUEST, 2)
    try:
        if not request:
            return
        try:
            result, sentence = (
                _perform(request, descriptors, config) if uid == caller else (Result.REFUSED, _WRONG_CALLER)
            )
        except _RefusedError as refused:
            result, sentence = Result.REFUSED, str(refused)
        _log(uid, request, result, sentence)
        client.send(f"{result.value} {sentence}".encode(errors="surrogateescape"))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _perform(request: bytes, descriptors: list[int], config: str) -> tuple[Result, str]:
    try:
        word, earliest, latest, user, path = os.fsdecode(request).split(" ", 4)
        command, not_before, not_after, uid = Command(word), float(earliest), float(latest), int(user)
        (fifo,), path = descriptors, Outside(path)
    except ValueError:
        form = "`COMMAND NOT_BEFORE NOT_AFTER UID PATH` with one descriptor, and COMMAND is w, c or r"
        raise _RefusedError(f"a request is {form}") from None
    wait_s = not_before - time.monotonic()
    if not wait_s <= AHEAD_S:  # nor when it is no number
        raise _RefusedError(f"a request may come {AHEAD_S:g} s before its time at most")
    time.sleep(max(0.0, wait_s))
    document = _read(config)
    named = _named(document, path)
    if objection := _objection(command, uid, path, document, named):
        raise _RefusedError(objection)
    if os.fstat(fifo).st_nlink == 0:  # as it is after each command, of an operator say
        return Result.TRY_AGAIN, f"{path} was made anew, or removed, since it was looked at"
    if named and (objection := _objection_to_place(path, fifo, _texts(named.get("trust_owners", ())))):
        raise _RefusedError(objection)
    if not time.monotonic() <= not_after:  # same
        return Result.TRY_AGAIN, "the request came to its turn too late, and nothing was written"
    return attempt(fifo, path, command, uid)


def _named(config: dict[str, Any], path: str) -> dict[str, Any] | None:
    """Return what the configuration says of the instance at this path."""
    instances = config["uwsgi"] if isinstance(config.get("uwsgi"), list) else []
    return next((one for one in instances if isinstance(one, dict) and _is(one.get("master_fifo"), path)), None)


def _objection(
    command: Command, uid: int, path: str, config: dict[str, Any], named: dict[str, Any] | None
) -> str | None:
    """Say why this command may not be written to the instance of this path, wherever it leads; None when it may."""
    if config.get("mode", "act") != "act":
        return "the configuration does not say `mode: act`, so nothing is written"
    if "uwsgi" not in config:
        return _objection_to_found(command, uid, path)
    if named is None:
        return f"the configuration names no `master_fifo: {path}`"
    ways = _texts(named.get("reloads", _ALLOWED_WAYS))
    return None if command.word in ways else f"`reloads` of {path} does not allow {command.value}"


def _objection_to_place(path: str, fifo: int, trusted: list[str]) -> str | None:
    """Say why the FIFO behind the descriptor is not the one that the configured path may lead to."""
    try:
        led = paths.follow(path)
    except OSError as error:
        return f"{path}: {error.strerror}"
    opened = os.fstat(fifo)
    if led.found is None or not os.path.samestat(led.found, opened):
        return f"{path} leads to another file than what was handed over"
    return paths.objection(led, opened.st_uid, [uid for uid in map(paths.user_id, trusted) if uid is not None])


def _objection_to_found(command: Command, uid: int, path: str) -> str | None:
    """Judge a FIFO that the configuration leaves to be found: `attempt` proves that it is of `uid` and has a reader."""
    if uid == 0:
        return f"{path} is root's, and the configuration does not name it: add it under `uwsgi:`"
    if command.word not in _ALLOWED_WAYS:
        return f"{command.value} is not allowed for an instance that is not under `uwsgi:`"
    return None if path.startswith("/") else f"`{path}` is not an absolute path"


def _is(named: object, path: str) -> bool:
    return isinstance(named, str) and named.startswith("/") and str(PurePath(named)) == path


def _texts(value: object) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []


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
    text = f"<{level}>user id {uid} asked {request[:200]!r}: {result.value} {shown(sentence, 1000)}\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
