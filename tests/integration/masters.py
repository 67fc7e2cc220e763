"""Real uWSGI instances of different users on one host, and an Observer that sees them. Needs root.

What is not uWSGI is of the world of values: the members of MongoDB are silent, and nobody has a connection.
"""

import fcntl
import os
import pwd
import signal
import struct
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rig.processes import wait_for
from rig.uwsgi import App
from rig.uwsgi import Uwsgi as RigUwsgi
from tests.world.host import MAIN, Host
from watchdogd.act.fifo import Attempt, attempt, perform
from watchdogd.config import Config, DeploymentConfig, InstanceConfig
from watchdogd.model.base import WORKERS, Command
from watchdogd.model.done import Outcome, SendFifo
from watchdogd.model.seen import Blind, Instance, Snapshot
from watchdogd.observe import procfs
from watchdogd.observe.observer import Observer
from watchdogd.observe.processes import ProcProcesses
from watchdogd.observe.uwsgi import Master, ProcUwsgi

WITHIN_S = 20.0
# On every Debian; they stand for the people of the sentences.
ANNA, BERT, DEPLOY = 1, 33, 5
ANNA_NAME, BERT_NAME, DEPLOY_NAME = [pwd.getpwuid(uid).pw_name for uid in (ANNA, BERT, DEPLOY)]


@dataclass(eq=False)
class Uwsgi(RigUwsgi):
    """One uWSGI without MongoDB. `user`: who runs it; what its `prefix` executes may fork it.

    `at`: the path of its FIFO as it sees it itself, where that is not in its folder; then `fifo` is how we come there.
    """

    user: int = 0
    at: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        end = len(self.prefix)
        self._process.argv[end:end] = as_user(self.user) if self.user else ()
        os.chown(self.folder, self.user, self.user)

    @property
    def master(self) -> int:
        """Of `unshare --fork` it is the child."""
        pid = self._process.pid
        return max(procfs.children(pid), default=pid) if "--fork" in self.prefix else pid

    def workers(self) -> list[int]:
        """As of any; asked all the time while it is waited for."""
        if self.at:
            self.fifo = Path(f"/proc/{self.master}/root{self.at}")
        return super().workers()

    def _options(self, *, python: str) -> list[str]:
        self.fifo = self.at or self.fifo
        return super()._options(python=python)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Its master does not come to read: what is written meanwhile can be counted (`unread`)."""
        os.kill(self.master, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.master, signal.SIGCONT)

    def unread(self) -> int:
        """How many bytes stand in the FIFO that its master has open."""
        found = [
            path
            for path in Path(f"/proc/{self.master}/fd").iterdir()
            if str(path.readlink()).removesuffix(" (deleted)").startswith("/") and path.is_fifo()
        ]
        (fifo,) = found
        reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        try:
            return int(struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, b"\0" * 4))[0])
        finally:
            os.close(reading)


def as_user(uid: int) -> tuple[str, ...]:
    """Makes a command this user's, who may read all (Python and the app may be in the folder of another one)."""
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    return ("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", *reads)


@dataclass(eq=False)
class Site:
    """A folder of root where users have theirs."""

    folder: Path
    stack: ExitStack

    def app(self, name: str, user: int, **options: Any) -> Uwsgi:  # noqa: ANN401 - what Uwsgi takes
        """An instance that runs, in a folder of its user."""
        quick: dict[str, Any] = {"app": App.NO_CLIENT, "processes": 1, "warm": False}
        return self.stack.enter_context(Uwsgi(self.folder / name, user=user, **{**quick, **options}))

    def home(self, name: str, user: int) -> Path:
        """A folder of that user."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True, parents=True)
        os.chown(folder, user, user)
        return folder

    def watch(self, *instances: InstanceConfig) -> "Watch":
        """An Observer of these; of what it finds, without any."""
        return Watch(instances or None)


def entry(name: str, fifo: Path | str, *trusted: int) -> InstanceConfig:
    """One entry under `uwsgi:`."""
    return InstanceConfig(name, Path(fifo), (MAIN,), trust_owners=frozenset(trusted))


def turn(link: Path, to: Path | str, owner: int) -> Path:
    """Makes a symbolic link of that user, or turns it at once, as `ln -sfn` and Capistrano do."""
    new = link.with_name(f"{link.name}.new")
    new.symlink_to(to)
    os.lchown(new, owner, owner)
    new.rename(link)
    return link


class Watch:
    """An Observer with the real edges to uWSGI and to processes."""

    def __init__(self, instances: tuple[InstanceConfig, ...] | None) -> None:
        real: dict[str, Any] = {"uwsgi": ProcUwsgi(), "processes": ProcProcesses()}
        edges = replace(Host().edges(), **real, clock=time.monotonic, wall=time.time)
        self.observer = Observer(config_with(instances), edges)

    def reconfigure(self, *instances: InstanceConfig) -> None:
        self.observer.reconfigure(config_with(instances))

    def look(self) -> Snapshot:
        return self.observer.look(full=True)

    def seen(self, which: str | Path) -> Instance:
        """The instance of that name or FIFO, at another look. A found one may be called after more of its path."""
        return next(one for one in self.look().instances if str(which) in {one.name, one.fifo})

    def ready(self, which: str | Path, app: RigUwsgi) -> Instance:
        """The same, once it is seen to be this uWSGI, with its FIFO and all its workers."""

        def seen() -> Instance | None:
            one = self.seen(which)
            pids = [worker.id.pid for worker in one.workers if worker.ready]
            there = one.master and one.master.pid == app.master and pids == app.workers() and not one.fifo_problem
            return one if there and not one.blind else None

        return wait_for(seen, f"{which} is seen with its master {app.master}", within=WITHIN_S)

    def send(self, to: Instance, command: Command = WORKERS, write: Attempt = attempt) -> Outcome:
        """Writes one byte as the daemon does, of a decision on what was seen."""
        assert to.master is not None
        workers = frozenset(worker.id for worker in to.workers)
        effect = SendFifo(f"{to.name}-1", to.id, to.fifo, command, to.master, workers, to.uid)
        return perform(effect, self.observer.last_look, time.monotonic, write)


def config_with(instances: tuple[InstanceConfig, ...] | None) -> Config:
    return Config((DeploymentConfig(MAIN, "mongodb://10.0.0.1:27017/"),), instances)


def reloaded(app: RigUwsgi, old: list[int]) -> bool:
    """Waits for new workers, which are the proof that a byte arrived."""
    return app.wait_ready(other_than=old) != old


def found_by(fifo: Path | str, *trusted: int) -> Master | Blind | None:
    """What ProcUwsgi finds at a path."""
    return ProcUwsgi().find(str(fifo), frozenset(trusted))
