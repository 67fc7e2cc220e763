"""The service that is installed in a box: its configuration, its state, and what it tells."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from rig.processes import wait_for
from tests.system.box import Box
from tests.world.schemas import strict

UNIT = "mongo-watchdog.service"
HELPER = "mongo-watchdog-fifo.service"
HELPER_SOCKET = "/run/mongo-watchdog-fifo.socket"
ENDER = "mongo-watchdog-end.service"
ENDER_SOCKET = "/run/mongo-watchdog-end.socket"
CONFIG = "/etc/mongo-watchdog/config.yaml"
STATUS_WITHIN_S = 30.0
STATUS = strict("status")

# Short in proportion to the rig's apps, whose drivers ask their server every second.
QUICK: Mapping[str, object] = {"linger": "4s", "cooldown": "5s"}


@dataclass(eq=False)
class Service:
    """mongo-watchdog, as it was installed in this box; it has its configuration once `configure` was called."""

    box: Box
    uri: str = "mongodb://127.0.0.1:27017/"
    fifos: Mapping[str, str] | None = None
    policy: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, object] = field(default_factory=dict)

    # -- configuration

    def configure(self, **changes: object) -> None:
        """Writes the configuration as root, with other top-level keys where they are given (None: left out)."""
        content: dict[str, object] = {"mongodb": [{"uri": self.uri}], "policy": {**QUICK, **self.policy}}
        if self.fifos is not None:
            limits = {"worker_reload_mercy": "4s", **self.limits}
            content["uwsgi"] = [{"name": name, "master_fifo": fifo, **limits} for name, fifo in self.fifos.items()]
        content = {key: value for key, value in {**content, **changes}.items() if value is not None}
        self.write_config(yaml.safe_dump(content, sort_keys=False))

    def write_config(self, text: str) -> None:
        """Writes it as it is, as an editor does: another file of the same owner and mode."""
        self.box.write(CONFIG, text, 0o640)
        self.box.run("chgrp", "mongo-watchdog", CONFIG)

    def drop_in(self, text: str, unit: str = UNIT, name: str = "test.conf") -> None:
        """Adds a drop-in; it holds from the next start."""
        self.box.write(f"/etc/systemd/system/{unit}.d/{name}", text)
        self.box.systemctl("daemon-reload")

    # -- the daemon

    @property
    def pid(self) -> int:
        """Its main process, inside; 0 when it does not run."""
        return int(self.box.show(UNIT, "MainPID"))

    @property
    def restarts(self) -> int:
        """How often systemd has started it again by itself."""
        return int(self.box.show(UNIT, "NRestarts"))

    @property
    def state(self) -> str:
        """Its ActiveState."""
        return self.box.show(UNIT, "ActiveState")

    def start(self) -> None:
        """What a user types; it returns when the daemon is ready."""
        self.box.systemctl("start", UNIT)

    def command(self, *verb: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """One verb of its command line, as root."""
        return self.box.run("mongo-watchdog", *verb, check=check)

    def status(self) -> dict[str, Any]:
        """What `status --json` gives."""
        document: dict[str, Any] = json.loads(self.command("status", "--json", check=False).stdout)
        STATUS.validate(document)
        return document

    # -- what it tells

    def events(self, name: str) -> list[dict[str, Any]]:
        """The journal's entries of one event."""
        return self.box.journal(f"MW_EVENT={name}")

    def order(self, *names: str) -> list[str]:
        """The events among `names`, in their order."""
        return [entry["MW_EVENT"] for entry in self.box.journal(*[f"MW_EVENT={name}" for name in names])]

    def wait_event(self, name: str, *, within: float, count: int = 1) -> dict[str, Any]:
        """The `count`th event of that name."""

        def found() -> list[dict[str, Any]]:
            return self.events(name)[count - 1 :]

        return wait_for(found, f"{name} in the journal", within=within)[0]

    def log(self, unit: str = UNIT) -> str:
        """The messages of the journal about a unit, of it and of systemd."""
        return self.box.run("journalctl", "--output=cat", "--quiet", f"--unit={unit}").stdout

    def report(self) -> str:
        """What happened, for a test that failed."""
        texts: Sequence[str] = (
            self.box.run("journalctl", "--output=short-precise", "--lines=150", "--quiet", check=False).stdout,
            self.box.systemctl("status", UNIT, HELPER, ENDER, check=False),
            self.command("status", check=False).stdout if self.box.path("/usr/bin/mongo-watchdog").exists() else "",
        )
        return "\n".join(texts)
