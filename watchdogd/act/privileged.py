"""What the two programs that have a right share: whom they serve, what they believe, and what they say of it.

Whoever asks may have been taken over. So they must serve the daemon's user alone, one request of one message and one
descriptor at a time, never wait for a client, and believe of the configuration only what root alone can have written.
docs/rights.md says what they can prove, and what not. No document of codec.py: a program with rights reads no JSON.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import yaml

from watchdogd import paths
from watchdogd.model.done import Result
from watchdogd.model.text import Outside, shown

QUESTION = "?"
"""`? UID PATH`, without a descriptor: would the instance of this path, whose master runs as UID, be acted for?"""

IDLE_S = 60.0
"""Without a client for so long it ends: systemd goes on listening and starts it again (0.2 s on a quiet machine)."""

PATIENCE_S = 1.0
"""For a client to send its message."""

_MAX_REQUEST = 8192  # PATH_MAX is 4096
_MAX_CONFIG = 1 << 20
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH  # an ACL that lets somebody write shows as the group's bit
_WRONG_CALLER = "only the user of mongo-watchdog may ask for that"

Perform = Callable[[bytes, list[int], str], tuple[Result, str]]
"""What a program does about a request: its text, the descriptors that came with it, the path of the configuration."""


class RefusedError(Exception):
    """What is asked may not be done; the text says why."""


def serve(arguments: list[str], perform: Perform) -> int:
    """Serve one client after the other until none comes for IDLE_S: `USER CONFIG`, and the socket as standard input."""
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
                _serve(client, caller, config, perform)


def _serve(client: socket.socket, caller: int, config: str, perform: Perform) -> None:
    _, uid, _ = struct.unpack("3i", client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    # Room for a second one: a client that sends two is refused, not taken by the one that fits.
    request, descriptors, _, _ = socket.recv_fds(client, _MAX_REQUEST, 2)
    try:
        if not request:
            return
        try:
            if uid != caller:
                result, sentence = Result.REFUSED, _WRONG_CALLER
            elif request.partition(b" ")[0] == QUESTION.encode():
                result, sentence = answer(request, config)
            else:
                result, sentence = perform(request, descriptors, config)
        except RefusedError as refused:
            result, sentence = Result.REFUSED, str(refused)
        _log(uid, request, result, sentence)
        client.send(f"{result.value} {sentence}".encode(errors="surrogateescape"))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def answer(request: bytes, config: str) -> tuple[Result, str]:
    """Answer a QUESTION by all that can be told without doing it, and do nothing. Raises RefusedError."""
    try:
        _, user, path = os.fsdecode(request).split(" ", 2)
        uid = int(user)
    except ValueError:
        raise RefusedError(f"a question is `{QUESTION} UID PATH`") from None
    instance = named(acting(config), Outside(path))
    if instance is None and uid == 0:
        raise RefusedError(f"{Outside(path)} is root's, and the configuration does not name it: add it under `uwsgi:`")
    if why := instance and check_place(Outside(path), uid, instance):
        return Result.TRY_AGAIN, why
    return Result.WILLING, ""


def objection_to_time(not_after: float) -> str | None:
    """Say that a request came to its turn after this time of CLOCK_MONOTONIC; None where it is in time."""
    in_time = time.monotonic() <= not_after  # nor when it is no number
    return None if in_time else "the request came to its turn too late, and nothing was done"


def acting(config: str) -> dict[str, Any]:
    """Return the configuration, if it is certain that root alone wrote it, and it says `mode: act`. RefusedError."""
    document = _read(config)
    if document.get("mode", "act") != "act":
        raise RefusedError("the configuration does not say `mode: act`, so nothing is done")
    return document


def named(config: dict[str, Any], path: str) -> dict[str, Any] | None:
    """Return what the configuration says of the instance at this path; None where it leaves instances to be found.

    Raises RefusedError where it names others.
    """
    if "uwsgi" not in config:
        return None
    instances = config["uwsgi"] if isinstance(config["uwsgi"], list) else []
    for one in instances:
        if isinstance(one, dict) and _is(one.get("master_fifo"), path):
            return one
    raise RefusedError(f"the configuration names no `master_fifo: {path}`")


def follow(path: str) -> paths.Led:
    """Return where a configured path leads now. RefusedError where that cannot be seen from here."""
    try:
        return paths.follow(path)
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None


def check_place(path: str, uid: int, instance: dict[str, Any]) -> str | None:
    """Judge a master's user by whose FIFO the configured path leads to; say why that cannot be told just now.

    Raises RefusedError.
    """
    led = follow(path)
    if led.found is None:
        return f"{path} is just being made anew, or is gone"
    if not stat.S_ISFIFO(led.found.st_mode) or led.found.st_uid != uid:
        raise RefusedError(f"{path} is no FIFO of user id {uid}, whom the master runs as")
    check_links(led, uid, instance)
    return None


def check_links(led: paths.Led, owner: int, instance: dict[str, Any]) -> None:
    """Raise RefusedError where a link on the way to what `owner` owns does not count."""
    trusted = [uid for uid in map(paths.user_id, texts(instance.get("trust_owners", ()))) if uid is not None]
    if objection := paths.objection(led, owner, trusted):
        raise RefusedError(objection)


def texts(value: object) -> list[str]:
    """Return the texts of a list; nothing of what is none."""
    return [one for one in value if isinstance(one, str)] if isinstance(value, list | tuple) else []


def _is(configured: object, path: str) -> bool:
    return isinstance(configured, str) and configured.startswith("/") and str(PurePath(configured)) == path


def _read(config: str) -> dict[str, Any]:
    folder = Path(config).parent
    try:
        with os.fdopen(os.open(config, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            for place, seen in ((folder, folder.stat()), (config, os.fstat(file.fileno()))):
                if seen.st_uid != 0 or seen.st_mode & _WRITABLE_BY_OTHERS:
                    raise RefusedError(f"{place} is not root's, or others may write it: chown root, chmod go-w")
            document = yaml.safe_load(file.read(_MAX_CONFIG))
    except OSError as error:
        raise RefusedError(f"{config} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):  # its text may quote a URI with a password
        raise RefusedError(f"{config} is not valid: `mongo-watchdog check` says why") from None
    return document if isinstance(document, dict) else {"uwsgi": None}  # which names nothing


def _log(uid: int, request: bytes, result: Result, sentence: str) -> None:
    level = 4 if result is Result.REFUSED else 5  # syslog's warning and notice
    asked = shown(request.decode(errors="surrogateescape"))
    text = f"<{level}>user id {uid} asked `{asked}`: {result.value} {shown(sentence, 1000)}\n"
    with contextlib.suppress(OSError):
        os.write(2, text.encode(errors="backslashreplace"))
