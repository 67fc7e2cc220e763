"""Ends hung workers and stuck mules for the daemon, which may not: a program of its own, with CAP_KILL alone.

It must never send anything but SIGKILL, nor to anybody but a worker of uWSGI that is not ready and has one thread, or a
mule or spooler where `reloads` has `mules`, of an instance that the configuration leads to; nor more than MOST in a
minute. What such a process waits for or holds it cannot see: that takes the rights of the daemon. Run by
mongo-watchdog-end.service:

    python -m watchdogd.act.end_helper USER CONFIG    standard input is the listening socket (SOCK_SEQPACKET)

One message a connection, `NOT_AFTER PATH` with one descriptor (SCM_RIGHTS): the pidfd of the process. Nobody is ended
after that time of CLOCK_MONOTONIC. PATH is the instance's identity. The answer: `RESULT SENTENCE`, as act/end.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

from watchdogd.act.end import kill
from watchdogd.act.privileged import (
    IDLE_S,
    RefusedError,
    acting,
    check_place,
    named,
    objection_to_time,
    serve,
    texts,
)
from watchdogd.handlers import is_forked, is_master, is_mule, is_ready, is_spooler, is_worker
from watchdogd.model.base import MULES
from watchdogd.model.done import Result
from watchdogd.model.text import Outside

MOST = 60
"""Processes that are ended in WITHIN_S: all eight workers of seven instances at once."""

WITHIN_S = IDLE_S
"""No more than IDLE_S: then it has ended, and whoever starts it anew finds nothing to count."""

_ended: deque[float] = deque(maxlen=MOST)
Status = dict[str, str]


def perform(request: bytes, descriptors: list[int], config: str) -> tuple[Result, str]:
    """End the process that a request asks for, or say why not. Raises RefusedError."""
    try:
        latest, path = os.fsdecode(request).split(" ", 1)
        not_after, (pidfd,), path = float(latest), descriptors, Outside(path)
    except ValueError:
        raise RefusedError("a request is `NOT_AFTER PATH` with one descriptor") from None
    instance = named(acting(config), path)
    pid = _pid(pidfd)
    worker = _status(pid)
    master = _status(int(worker["PPid"]))
    if _pid(pidfd) != pid or _status(pid)["PPid"] != worker["PPid"]:  # else what was read may be of somebody else
        raise RefusedError(f"process {pid} has ended meanwhile, or its parent has")
    if objection := _objection(worker, master, instance):
        raise RefusedError(f"process {pid} {objection}")
    uid = int(master["Uid"].split()[1])
    if instance is None and uid == 0:
        raise RefusedError(f"process {pid} is of a master of root, and no instance is named: add it under `uwsgi:`")
    if why := (instance and check_place(path, uid, instance)) or objection_to_time(not_after) or _too_many():
        return Result.TRY_AGAIN, why
    _ended.append(time.monotonic())
    result, why = kill(pidfd, pid, uid)
    return result, why or f"process {pid} of user id {uid} was ended"


def _too_many() -> str | None:
    if len(_ended) < MOST or time.monotonic() - _ended[0] >= WITHIN_S:
        return None
    return f"{MOST} processes were ended in {WITHIN_S:g} s, and no more are before these are over"


def _objection(worker: Status, master: Status, instance: dict[str, Any] | None) -> str | None:
    """Say why this is neither a mule that may be ended, nor a worker that can hang by the rule; None where it is one.

    As far as everybody may see. `instance`: what the configuration says of it, None where it names none.
    """
    caught = int(worker["SigCgt"], 16)
    mule = is_forked(int(worker["Flags"])) and (is_mule(caught) or is_spooler(caught))
    if mule and MULES.word not in texts((instance or {}).get("reloads")):
        return f"is a mule or spooler, and `reloads` of its instance has no `{MULES.word}`"
    if not mule and (not is_worker(caught) or is_ready(caught)):
        return "is no worker of uWSGI that is still to become ready"
    if not mule and worker["Threads"] != "1":
        return f"has {worker['Threads']} threads, and each could release what another one waits for"
    if worker["TracerPid"] != "0":
        return f"is debugged by process {worker['TracerPid']}"
    return (
        None if is_master(int(master["SigCgt"], 16)) else f"is the child of {worker['PPid']}, which is no uWSGI master"
    )


def _pid(pidfd: int) -> int:
    """Return which process a pidfd means (proc_pid_fdinfo(5)): no other one, until somebody has waited for it."""
    pid = int(_fields(f"/proc/self/fdinfo/{pidfd}").get("Pid", 0))
    if pid <= 0:
        raise RefusedError("the descriptor is no pidfd, or its process has ended, or is not to be seen from here")
    return pid


def _status(pid: int) -> Status:
    found = _fields(f"/proc/{pid}/status")
    if not found.keys() >= {"PPid", "Threads", "TracerPid", "Uid", "SigCgt"}:
        raise RefusedError(f"/proc/{pid}/status does not show what it is")
    return {**found, "Flags": _read(f"/proc/{pid}/stat").rpartition(")")[2].split()[6]}


def _fields(path: str) -> Status:
    return dict(line.split(":\t", 1) for line in _read(path).split("\n") if ":\t" in line)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RefusedError(f"{path}: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:], perform))
