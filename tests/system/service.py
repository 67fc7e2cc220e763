"""The service as it is installed, inside a box: its program, its units, its configuration, and what it tells.

Without the package the program comes as README's second way has it: a virtual environment at /opt/mongo-watchdog, made
with the system's Python from the wheel and its pinned requirements.
"""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rig.processes import wait_for
from tests.system.box import Box

ROOT = Path(__file__).resolve().parents[2]
INSIDE = "/opt/mongo-watchdog"
UNIT = "mongo-watchdog.service"
HELPER = "mongo-watchdog-fifo.service"
HELPER_SOCKET = "/run/mongo-watchdog-fifo.socket"
CONFIG = "/etc/mongo-watchdog/config.yaml"
STATUS_WITHIN_S = 30.0

_PYTHON = "/usr/bin/python3"
_UNITS = ("mongo-watchdog.service", "mongo-watchdog-fifo.service", "mongo-watchdog-fifo.socket")
# Short in proportion to the rig's apps, whose drivers ask their server every second.
QUICK: Mapping[str, object] = {"linger": "4s", "cooldown": "5s"}


def environment() -> Path:
    """The folder that is /opt/mongo-watchdog inside: made once, and again when the package or its pins change."""
    place = ROOT / ".build" / "system"
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stamp, content = place / "stamp", _content()
        if not stamp.exists() or stamp.read_text() != content:
            stamp.unlink(missing_ok=True)
            _make(place / "venv", place / "wheel")
            stamp.write_text(content)
    return place / "venv"


def _content() -> str:
    digest = hashlib.sha256()
    package = sorted((ROOT / "watchdogd").rglob("*.py"))
    for path in (ROOT / "requirements" / "runtime.txt", ROOT / "pyproject.toml", *package):
        digest.update(str(path).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _make(venv: Path, wheels: Path) -> None:
    pip = ("-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")
    pinned = ("install", "--require-hashes", "--no-build-isolation", "--use-pep517", "-r")
    python = str(venv / "bin" / "python3")
    if not venv.exists():
        _do(_PYTHON, "-m", "venv", "--copies", str(venv))
        for requirements in ("build.txt", "runtime.txt"):
            _do(python, *pip, *pinned, str(ROOT / "requirements" / requirements))
    shutil.rmtree(wheels, ignore_errors=True)
    _do(sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    (wheel,) = wheels.glob("*.whl")
    _do(python, *pip, "install", "--no-deps", "--no-index", "--force-reinstall", str(wheel))
    # Of the script alone the first line names the place where it was made.
    script = venv / "bin" / "mongo-watchdog"
    script.write_text(f"#!{INSIDE}/bin/python3\n" + script.read_text().partition("\n")[2])


def _do(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}{done.stderr}"


@dataclass(eq=False)
class Service:
    """mongo-watchdog, installed in a box, with its units as shipped; not started."""

    box: Box
    uri: str = "mongodb://127.0.0.1:27017/"
    fifos: Mapping[str, str] | None = None
    policy: Mapping[str, object] = field(default_factory=dict)
    limits: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _UNITS:
            self.box.write(f"/etc/systemd/system/{name}", unit(name))
        for folder in ("sysusers.d", "tmpfiles.d"):
            text = (ROOT / "systemd" / folder / "mongo-watchdog.conf").read_text()
            self.box.write(f"/usr/lib/{folder}/mongo-watchdog.conf", text)
        catalog = (ROOT / "systemd" / "mongo-watchdog.catalog").read_text()
        self.box.write("/usr/lib/systemd/catalog/mongo-watchdog.catalog", catalog)
        self.configure()
        self.box.run("systemd-sysusers")
        self.box.run("systemd-tmpfiles", "--create", "mongo-watchdog.conf")
        self.box.run("journalctl", "--update-catalog")
        self.box.systemctl("daemon-reload")

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
        self.box.run("sh", "-c", f"getent group mongo-watchdog >/dev/null && chgrp mongo-watchdog {CONFIG} || :")

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
        return self.box.run(f"{INSIDE}/bin/mongo-watchdog", *verb, check=check)

    def status(self) -> dict[str, Any]:
        """What `status --json` gives."""
        document: dict[str, Any] = json.loads(self.command("status", "--json", check=False).stdout)
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
            self.box.systemctl("status", UNIT, HELPER, check=False),
            self.command("status", check=False).stdout,
        )
        return "\n".join(texts)


def unit(name: str) -> str:
    """A unit file as shipped, for a program at /opt/mongo-watchdog: what `mongo-watchdog install` changes in it."""
    text = (ROOT / "systemd" / name).read_text()
    return text.replace("=/usr/bin/mongo-watchdog", f"={INSIDE}/bin/mongo-watchdog").replace(
        f"={_PYTHON} ", f"={INSIDE}/bin/python3 "
    )
