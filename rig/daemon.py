"""A daemon of mongo-watchdog as the demo and the measurements need it: beside some apps, with a log to be read."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import yaml

from rig.processes import Process, wait_for
from rig.uwsgi import Uwsgi

START_WITHIN_S = 30.0
VERB_WITHIN_S = 60.0


class Line(NamedTuple):
    """One line of its log: Unix time, event, and all of it."""

    at: float
    event: str
    text: str

    def is_of(self, instance: str) -> bool:
        """Whether it is about this instance."""
        return f" instance={instance} " in self.text.replace(":", " ")


class Daemon:
    """Watches these apps, each an instance by the name of its folder."""

    def __init__(
        self,
        folder: Path,
        uri: str,
        apps: Sequence[Uwsgi],
        *,
        policy: Mapping[str, object] | None = None,
        limits: Mapping[str, object] | None = None,
    ) -> None:
        (folder / "state").mkdir(parents=True)
        self.log = folder / "watchdog.log"
        self._config = folder / "config.yaml"
        self._control = folder / "control.sock"
        content = {
            "mongodb": [{"uri": uri}],
            "uwsgi": [{"name": one.folder.name, "master_fifo": str(one.fifo), **(limits or {})} for one in apps],
            "policy": dict(policy or {}),
            "state_dir": str(folder / "state"),
            "control_socket": str(self._control),
        }
        self._config.write_text(yaml.safe_dump(content))
        self._process = Process([sys.executable, "-m", "watchdogd", "run", "--config", str(self._config)], log=self.log)

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as failed:
            failed.enter_context(self._process)
            self._process.wait_until(self._control.exists, "the daemon answers", within=START_WITHIN_S)
            failed.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.end(signal.SIGTERM)

    def lines(self, event: str, instance: str) -> list[Line]:
        """What it has told until now of that kind, of that instance."""
        found = []
        for text in self.log.read_text(errors="replace").splitlines():
            words = text.split(maxsplit=3)
            if len(words) > 2 and words[2].rstrip(":") == event:  # noqa: PLR2004 - time, priority, event
                line = Line(datetime.fromisoformat(words[0]).timestamp(), event, text)
                if line.is_of(instance):
                    found.append(line)
        return found

    def wait_for(self, event: str, instance: str, *, within: float) -> Line:
        """The first of them, once it is told."""
        return wait_for(
            lambda: next(iter(self.lines(event, instance)), None), f"{event} of {instance}", within=within, log=self.log
        )

    def reload(self, app: Uwsgi) -> None:
        """What an operator asks for; tried again while it is held, as after a start."""
        verb = [sys.executable, "-m", "watchdogd", "reload", app.folder.name, "--config", str(self._config)]

        def begun() -> bool:
            done = subprocess.run(verb, capture_output=True, text=True, check=False, timeout=VERB_WITHIN_S)
            return done.returncode == 0

        wait_for(begun, f"the daemon reloads {app.folder.name}", within=VERB_WITHIN_S, log=self.log)
