"""Starts a process in a session of its own, with its output in a log file, and ends the whole group again.

Whoever starts something with this gets all of it gone at the end of the `with`: master, workers and
stragglers. It must never signal anything but the groups it made, and never wait without a deadline.
"""

import atexit
import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from rig import RigError, guard

POLL_S = 0.02
T = TypeVar("T")


class DeadlineError(RigError):
    """A condition did not come true before its deadline."""


class EndedError(RigError):
    """A process ended while it was waited for."""


def wait_for(condition: Callable[[], T | None], what: str, *, within: float, log: Path | None = None) -> T:
    """Polls until the condition is truthy and gives its value; DeadlineError after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        if value := condition():
            return value
        if time.monotonic() >= deadline:
            raise DeadlineError(f"not within {within:g} s: {what}{last_lines(log)}")
        time.sleep(POLL_S)


def last_lines(log: Path | None, count: int = 15) -> str:
    """The end of a log, indented for an error message; empty without a log."""
    if log is None or not log.exists():
        return ""
    lines = log.read_text(errors="replace").splitlines()[-count:]
    return "".join(f"\n  {log.name}: {line}" for line in lines)


class Process:
    """One command, which can be started again after its end; as a context manager it starts and ends it."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._cwd = cwd
        self._popen: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end(signal.SIGKILL)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process id, which is the id of its session and group too."""
        if self._popen is None:
            raise RigError(f"{self.argv[0]} is not started")
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended (a stopped process runs, a zombie does not)."""
        return self._popen is not None and _ended(self._popen.pid) is None

    def start(self) -> None:
        """Starts it; the log is appended to, so that it shows a restart too."""
        if self._popen is not None:
            raise RigError(f"{self.argv[0]} is started already (pid {self._popen.pid})")
        _guard()  # before there is anything to guard
        # By a thread, which no Ctrl-C interrupts between the start and the guard's hearing of it. It is in the network
        # namespace of the calling one.
        with ThreadPoolExecutor(1) as starter:
            starter.submit(self._start).result()

    def _start(self) -> None:
        with self.log.open("ab") as log:
            self._popen = subprocess.Popen(
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        _tell_guard(f"+{self._popen.pid}")

    def send(self, number: signal.Signals) -> None:
        """Signals the first process only."""
        os.kill(self.pid, number)

    def send_to_group(self, number: signal.Signals) -> None:
        """Signals it and everything it started."""
        os.killpg(self.pid, number)

    def wait_until(self, ready: Callable[[], bool], what: str, *, within: float) -> None:
        """Waits for a condition of the running process; raises EndedError at once when it ends instead."""

        def ready_or_dead() -> bool:
            return ready() or not self.running

        wait_for(ready_or_dead, what, within=within, log=self.log)
        if not self.running:
            raise EndedError(f"{self.argv[0]} ended instead: {what}{last_lines(self.log)}")

    def wait_ended(self, *, within: float) -> int:
        """The exit code (negative: the signal that ended it); it stays a zombie until `end`."""
        return wait_for(lambda: _ended(self.pid), f"the end of {self.argv[0]}", within=within, log=self.log)[0]

    def end(self, by: signal.Signals = signal.SIGTERM, *, grace: float = 5.0) -> int | None:
        """Asks the first process to end, and kills the whole group once it did, at the latest after `grace`
        seconds.

        Gives its exit code (negative: the signal that ended it), or None when it was not started. The first
        process stays a zombie until its group is gone, so that the group's id cannot mean anything else yet.
        """
        if self._popen is None:
            return None
        pid = self._popen.pid
        if self.running:
            self.send(by)
            self.send(signal.SIGCONT)  # a frozen process would take the signal only then
            with contextlib.suppress(DeadlineError):
                self.wait_ended(within=grace)
        self.send_to_group(signal.SIGKILL)
        wait_for(lambda: not _alive_in_group(pid), f"the end of the group of {self.argv[0]}", within=10)
        code = self._popen.wait(timeout=10)
        self._popen = None
        _tell_guard(f"-{pid}")
        return code


def _ended(pid: int) -> tuple[int] | None:
    """The exit code in a tuple once our child is a zombie, which it stays."""
    result = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    if result is None:
        return None
    return (result.si_status if result.si_code == os.CLD_EXITED else -result.si_status,)


def stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on (state, ppid, pgrp, ...); None when it is gone."""
    try:
        # A process may have any bytes for its name.
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def all_pids() -> list[int]:
    """Every process that this process can see."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _alive_in_group(group: int) -> bool:
    for pid in all_pids():
        fields = stat_fields(pid)
        if fields is not None and int(fields[2]) == group and fields[0] not in "ZX":
            return True
    return False


@functools.cache
def _guard() -> subprocess.Popen[bytes]:
    one = subprocess.Popen(
        [sys.executable, "-I", "-S", guard.__file__], stdin=subprocess.PIPE, start_new_session=True, bufsize=0
    )
    atexit.register(one.communicate, timeout=5)  # closes the pipe, which tells it of our end
    return one


def _tell_guard(line: str) -> None:
    pipe = _guard().stdin
    assert pipe is not None
    pipe.write(f"{line}\n".encode())
