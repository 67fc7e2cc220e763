"""The daemon as a user runs it: its own process, its configuration file, its lines on stderr and its command line.

It reads nothing of the daemon's inside: what a story proves must show in the log, in `status`, or in uWSGI itself.
"""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import yaml

from rig.processes import DeadlineError, Process, wait_for
from tests.world.schemas import strict

# `run` is there after 0.5 s on a quiet machine (pymongo's import takes most of it); the rest is for a loaded one.
START_WITHIN_S = 30.0
VERB_WITHIN_S = 60.0
# SIGTERM must end the daemon in 2 s; the rest is for a loaded machine. Then the whole group is killed.
END_WITHIN_S = 10.0

PROGRAM = (sys.executable, "-m", "watchdogd")
STATUS = strict("status")

_LINE = re.compile(
    r"(?P<time>\S+) (?P<priority>\w+) (?P<name>\w+)"
    r"(?P<fields>(?: \w+=(?:\"(?:[^\"\\]|\\.)*\"|[^\s\"]*[^\s\":]))*): (?P<sentence>.*)"
)
_FIELD = re.compile(r" (\w+)=(\"(?:[^\"\\]|\\.)*\"|\S*)")


class Told(NamedTuple):
    """One line of the daemon; `at` is Unix time in seconds."""

    at: float
    priority: str
    name: str
    fields: Mapping[str, str]
    sentence: str

    @property
    def instance(self) -> str | None:
        """The instance that it is about."""
        return self.fields.get("instance")


def parse(line: str) -> Told | None:
    """One line of the log as what was told; None for any other line (a traceback, say)."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    values = {name: json.loads(value) if value[:1] == '"' else value for name, value in _FIELD.findall(found["fields"])}
    at = datetime.fromisoformat(found["time"]).timestamp()
    return Told(at, found["priority"], found["name"], values, found["sentence"])


@dataclass(eq=False)
class Watchdog:
    """One daemon with its configuration in a folder; as a context manager it is started, and always ended.

    `uri`: of the deployment `main`, or of several by name. `instances`: name -> FIFO; None: it finds them itself.
    `limits`: more keys for every instance, and `top` for the file. `prefix` goes before the command (setpriv, unshare).
    """

    folder: Path
    uri: str | Mapping[str, str]
    instances: Mapping[str, Path] | None = None
    _: KW_ONLY
    policy: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, object] = field(default_factory=dict)
    top: Mapping[str, object] = field(default_factory=dict)
    mode: str = "act"
    prefix: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config = self.folder / "config.yaml"
        self.log = self.folder / "watchdog.log"
        self.state_dir = Path(str(self.top.get("state_dir", self.folder / "state")))
        # sun_path has 108 bytes, and pytest's folders have long names.
        self._socket_folder = Path(tempfile.mkdtemp(prefix="mw-"))
        self.socket = self._socket_folder / "control.sock"
        self._told: list[Told] = []
        self._read = 0
        self.write()
        self._process = Process([*self.prefix, *PROGRAM, "run", "--config", str(self.config)], log=self.log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends whatever runs of it, and removes the socket's folder."""
        self._process.end(signal.SIGTERM, grace=END_WITHIN_S)
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    # -- configuration

    def write(self, **changes: object) -> None:
        """Writes the configuration file, with other top-level keys where they are given."""
        uris = {"main": self.uri} if isinstance(self.uri, str) else self.uri
        content: dict[str, object] = {
            "mode": self.mode,
            "mongodb": [{"name": name, "uri": uri} for name, uri in uris.items()],
            "policy": dict(self.policy),
            "state_dir": str(self.state_dir),
            "control_socket": str(self.socket),
        }
        if self.instances is not None:
            content["uwsgi"] = [
                {"name": name, "master_fifo": str(fifo), **self.limits} for name, fifo in self.instances.items()
            ]
        self.config.write_text(yaml.safe_dump({**content, **self.top, **changes}, sort_keys=False))

    # -- the process

    @property
    def pid(self) -> int:
        """The daemon's process id (of its prefix, where that does not execute it in its place)."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process.running

    def start(self, *, heard: bool = True) -> None:
        """Starts it, and returns when it says that it has started (and has heard of every member, good or bad)."""
        before = len(self.events("started"))
        self._process.start()
        self._process.wait_until(
            lambda: len(self.events("started")) > before, "the daemon starts", within=START_WITHIN_S
        )
        if heard:
            self._process.wait_until(self._has_heard, "the daemon hears of every member", within=START_WITHIN_S)

    def send(self, number: signal.Signals) -> None:
        """Signals it."""
        self._process.send(number)

    def kill(self) -> None:
        """Ends it at once, as a crash or the kernel's OOM killer does; `start` starts it again."""
        self._process.end(signal.SIGKILL)

    def terminate(self) -> tuple[int | None, float]:
        """Asks it to end, and gives its exit code and the seconds that it took."""
        begun = time.monotonic()
        code = self._process.end(signal.SIGTERM, grace=END_WITHIN_S)
        return code, time.monotonic() - begun

    def wait_ended(self, *, within: float) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait_ended(within=within)

    def restart(self) -> None:
        """A clean restart, as `systemctl restart` does."""
        self.terminate()
        self.start()

    # -- what it says

    def lines(self) -> list[str]:
        """Its whole log, over all its starts."""
        return self.log.read_text(errors="replace").splitlines() if self.log.exists() else []

    def told(self) -> list[Told]:
        """Everything that it told, over all its starts, in order."""
        size = self.log.stat().st_size if self.log.exists() else 0
        if size != self._read:  # asked 50 times a second by those who wait
            self._told = [told for line in self.lines() if (told := parse(line)) is not None]
            self._read = size
        return self._told

    def events(self, name: str, instance: str | None = None) -> list[Told]:
        """The events of that name (and of that instance)."""
        return [told for told in self.told() if told.name == name and instance in {None, told.instance}]

    def order(self, *names: str, instance: str | None = None) -> list[str]:
        """The names of the events among `names`, in the order in which they were told."""
        return [told.name for told in self.told() if told.name in names and instance in {None, told.instance}]

    def wait_event(self, name: str, instance: str | None = None, *, within: float, count: int = 1) -> Told:
        """The `count`th event of that name, once it was told. Fails with the log's end when the daemon has ended."""

        def found() -> list[Told]:
            return self.events(name, instance)[count - 1 :]

        self._process.wait_until(lambda: bool(found()), f"{name} is told", within=within)
        return found()[0]

    def faults(self) -> list[str]:
        """The lines that no daemon should ever write: tracebacks and internal errors."""
        return [line for line in self.lines() if "Traceback" in line or "internal error" in line]

    # -- what it answers

    def run(self, *verb: str, within: float = VERB_WITHIN_S) -> "subprocess.CompletedProcess[str]":
        """One verb of its command line, with this configuration."""
        command = [*PROGRAM, verb[0], "--config", str(self.config), *verb[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)

    def status(self) -> dict[str, Any]:
        """What `status --json` gives."""
        answer = self.run("status", "--json")
        assert answer.stdout, f"status gave nothing (exit {answer.returncode}): {answer.stderr}"
        document: dict[str, Any] = json.loads(answer.stdout)
        STATUS.validate(document)
        return document

    def instance(self, name: str = "shop") -> dict[str, Any]:
        """What `status --json` says of one instance."""
        (one,) = [one for one in self.status()["instances"] if one["name"] == name]
        return dict(one)

    def wait_state(self, state: str, name: str = "shop", *, within: float) -> dict[str, Any]:
        """What the status says of the instance, once it stands there."""

        def there() -> dict[str, Any] | None:
            one = self.instance(name)
            return one if one["state"] == state else None

        return wait_for(there, f"{name} is {state}", within=within, log=self.log)

    def tells_none(self, *names: str, instance: str | None = None, seconds: float) -> bool:
        """Whether it tells none of these (further) for so long, and goes on running."""
        before = len(self.order(*names, instance=instance))
        with contextlib.suppress(DeadlineError):
            wait_for(
                lambda: len(self.order(*names, instance=instance)) > before or not self.running,
                f"one of {', '.join(names)}",
                within=seconds,
            )
            return False
        return True

    def _has_heard(self) -> bool:
        answer = self.run("status", "--json")
        if not answer.stdout:  # it has ended, or is about to: its log tells
            return False
        document = json.loads(answer.stdout)
        unheard = [one for one in document["deployments"] if not one["members"]]
        states = [member["state"] for one in document["deployments"] for member in one["members"]]
        return "unknown" not in states and (not unheard or bool(document["blind"]))


def shown(watchdog: Watchdog) -> str:
    """What the status says now, or why there is none: for the report of a failed story."""
    if not watchdog.running:
        return "the daemon does not run"
    try:
        answer = watchdog.run("status", within=10)
    except subprocess.TimeoutExpired:
        return "no answer within 10 s"
    return answer.stdout + answer.stderr
