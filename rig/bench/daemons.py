"""Whole programs over a minute each: what they take of a core and of memory, at rest and in an incident.

All daemons of one host run at the same time, beside monit and a shell loop; none of them takes more than a few percent,
so they disturb each other less than minutes one after the other would differ on a machine with neighbours.
"""

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple, Self

from rig import RigError
from rig.bench import packages
from rig.bench.sites import WITHIN_S, WORKERS, Load, Site, a_mongod, a_site, write_config
from rig.processes import Process, last_lines, wait_for
from rig.strangers import strangers
from watchdogd.core.detect import SUSPECTED_FOR_S
from watchdogd.core.evidence.waiting import SINGLE_S
from watchdogd.model.found import Kind
from watchdogd.service.control import Status, ask

UNRELATED = 1_000
HELD = Load(closing=64)
MEMBERS, INSTANCES = (1, 3, 50), (1, 50)
OVER_S = 60.0
SETTLED_S = 5.0
"""A daemon has then had its first full looks and its garbage collections, and monit its first cycle."""
AT_REST_S = SUSPECTED_FOR_S + SETTLED_S
"""It looks more closely until then, since it does not know what came before its start."""

SUSPECTED_WORKERS = (8, 64)
SUSPECTED_DESCRIPTORS = 100
"""Of other files, in each of them; and each has two connections."""

REST, INCIDENT = "at rest", "in an incident"
MONIT, SHELL = "monit, every second, with `ss`", "a shell loop, `ss` every second"
NEWEST, DEBIANS = "the pinned, newest pymongo", "Debian's packages"

SHELL_LOOP = 'while :; do ss -tnpH state close-wait "( dport = :$1 )" | grep -c uwsgi; sleep 1; done'
KIB = 1024 / 1e6  # in MB
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Memory:
    """In MB (10**6 bytes). `pss`: proportional set size: what is shared with n others counts 1/n.

    `alone`: the same, as if no other Python ran, which shares its program and libraries: the bench is one itself.
    `anonymous`: what is its own and of no file.
    """

    rss: float
    pss: float
    alone: float
    anonymous: float
    threads: int
    descriptors: int


class Program:
    """A running program with what it starts; a daemon says on `manager` that it is ready."""

    def __init__(self, process: Process, ready_ms: float = 0.0) -> None:
        self.process = process
        self.ready_ms = ready_ms

    def cpu_s(self) -> float:
        """The CPU that it has taken, with that of its children that have ended."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        children = (int(fields[13]) + int(fields[14])) * _TICK_S
        # The clock of another process, as clock_getcpuclockid(3) has it: all its threads, and no ticks of 10 ms.
        return time.clock_gettime(~self.process.pid << 3 | 2) + children

    def memory(self) -> Memory:
        """What it has now, without its children."""
        rss, pss = (self._number("smaps_rollup", name) * KIB for name in ("Rss", "Pss"))
        return Memory(rss, pss, self._alone(), self.anonymous(), self.threads(), self.descriptors())

    def anonymous(self) -> float:
        """See Memory.anonymous."""
        return self._number("smaps_rollup", "Anonymous") * KIB

    def threads(self) -> int:
        """How many threads it has."""
        return self._number("status", "Threads")

    def descriptors(self) -> int:
        """How many descriptors it has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def _alone(self) -> float:
        total, counted = 0, "Pss:"
        for line in Path(f"/proc/{self.process.pid}/smaps").read_text().splitlines():
            name, *rest = line.split(maxsplit=5)
            if not name.endswith(":"):  # the head of a mapping, with the file's path as the last field
                counted = "Rss:" if "python" in rest[-1] else "Pss:"
            elif name == counted:
                total += int(rest[0])
        return total * KIB

    def _number(self, file: str, name: str) -> int:
        lines = Path(f"/proc/{self.process.pid}/{file}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


class Manager:
    """What systemd is to a daemon: hears READY=1, and counts WATCHDOG=1, which is one tick."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.2)  # how soon it shows that it is over
        self.ready = threading.Event()
        self.ready_at = 0.0
        self.ticks = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._hear)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._socket.close()

    def _hear(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                heard = self._socket.recv(4096)
                if heard == b"WATCHDOG=1":
                    self.ticks += 1
                elif heard == b"READY=1" and not self.ready.is_set():
                    self.ready_at = time.monotonic()
                    self.ready.set()


@contextlib.contextmanager
def daemon(
    config: Path, python: packages.Python | None = None, command: Sequence[str] = ("-m", "watchdogd", "run")
) -> Iterator[tuple[Program, Manager]]:
    """A daemon with this configuration, ready, for as long as the `with` lasts."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        manager = stack.enter_context(Manager(folder / "notify"))
        python = python or packages.our_python()
        argv = [str(python.executable), *command, "--config", str(config)]
        env = {"NOTIFY_SOCKET": str(folder / "notify"), **python.env}
        begin = time.monotonic()
        process = stack.enter_context(Process(argv, log=config.with_suffix(".log"), env=env))
        wait_for(lambda: manager.ready.is_set() or not process.running, "READY=1", within=WITHIN_S, log=process.log)
        if not manager.ready.is_set():
            raise RigError(f"the daemon does not say READY=1{last_lines(process.log)}")
        yield Program(process, (manager.ready_at - begin) * 1000), manager


class Taken(NamedTuple):
    """What one program took: CPU in percent of one core, and the memory that it had at the end."""

    what: str
    state: str
    members: int
    instances: int
    cpu_percent: float
    memory: Memory


@dataclass(frozen=True)
class Effort:
    """How much is measured, and for how long each."""

    members: Sequence[int] = MEMBERS
    instances: Sequence[int] = INSTANCES
    over_s: float = OVER_S


def measure(effort: Effort, say: Callable[[str], None]) -> Iterator[Taken | str]:
    """Measures every program on every host; a text is the reason why one cannot be had here."""
    members, over_s = effort.members, effort.over_s
    for count in effort.instances:
        say(f"{_instances(count)}, {over_s:g} s at rest and {over_s:g} s in an incident")
        with contextlib.ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
            stack.enter_context(strangers(UNRELATED))
            mongod = stack.enter_context(a_mongod(folder / "mongod", max(members)))
            site = stack.enter_context(a_site(mongod, HELD, count))
            programs: dict[tuple[str, int], Program] = {}
            for number in members:
                config = write_config(folder / f"m{number}.yaml", site, members=number, instances=count)
                programs["mongo-watchdog", number], _ = stack.enter_context(daemon(config))
            try:
                programs[MONIT, 1] = Program(stack.enter_context(_monit(folder / "monit", site)))
            except packages.MissingError as error:
                yield f"{MONIT}: {error}"
            if shutil.which("ss"):
                shell = Process(["sh", "-c", SHELL_LOOP, "sh", str(site.closing.port)], log=folder / "shell.log")
                programs[SHELL, 1] = Program(stack.enter_context(shell))
            else:
                yield f"{SHELL}: there is no ss here"
            yield from _minute(programs, REST, count, over_s)
            _begin_incident(site, [folder / f"m{number}.log" for number in members])
            yield from _minute(programs, INCIDENT, count, over_s)


class Suspicion(NamedTuple):
    """What a daemon took, in percent of one core: at rest, and while it suspected an instance of so many workers."""

    workers: int
    at_rest: float
    suspecting: float


def suspicion(say: Callable[[str], None], *, workers: Sequence[int], over_s: float) -> Iterator[Suspicion]:
    """What a look every second costs that also reads what is read of a suspected instance alone.

    Each worker has a request that waits as for a server: so its descriptors are read, which those of one that waits for
    a request are not. That is the most that suspecting can cost.
    """
    for count in workers:
        say(f"an instance of {count} workers, {over_s:g} s at rest and {over_s:g} s suspected")
        yield _suspected(count, over_s)


def _suspected(count: int, over_s: float) -> Suspicion:
    load = Load(established=2 * count, descriptors=SUSPECTED_DESCRIPTORS, workers=count)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        stack.enter_context(strangers(UNRELATED))
        site = stack.enter_context(a_site(stack.enter_context(a_mongod(folder / "mongod")), load))
        config = write_config(folder / "daemon.yaml", site)
        program, _ = stack.enter_context(daemon(config))
        programs = {("mongo-watchdog", 1): program}
        (rest,) = _minute(programs, REST, 1, over_s)
        site.mongod.restart()
        log = program.process.log
        wait_for(partial(_told, log, "member_up"), "member_up", within=WITHIN_S, log=log)
        time.sleep(SINGLE_S)  # what was seen to wait before does not count
        stack.enter_context(site.waiting())
        control = config.with_suffix("") / "control.sock"
        # In every look of that time it is read what they wait for: that is seen to the end.
        wait_for(
            lambda: _seen_to_wait(control) == count, "all are seen to wait", within=WITHIN_S, log=program.process.log
        )
        (more,) = _minute(programs, INCIDENT, 1, over_s)
        if (seen := _seen_to_wait(control)) < count:
            raise RigError(f"{seen} of {count} workers are seen to wait at the end")
    return Suspicion(count, rest.cpu_percent, more.cpu_percent)


def memory(say: Callable[[str], None], *, over_s: float) -> Iterator[tuple[str, Memory] | str]:
    """What a daemon with one member and one instance has after some time, on each pymongo that can be had here."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        stack.enter_context(strangers(UNRELATED))
        site = stack.enter_context(a_site(stack.enter_context(a_mongod(folder / "mongod")), HELD))
        for what, have in ((NEWEST, packages.our_python), (DEBIANS, packages.debian_python)):
            try:
                python = have()
            except packages.MissingError as error:
                yield f"{what}: {error}"
                continue
            say(f"memory on {what}")
            config = write_config(folder / f"{python.pymongo}.yaml", site)
            with daemon(config, python) as (program, _):
                yield f"{what}: {python.pymongo}", after(program, over_s)


def after(program: Program, seconds: float) -> Memory:
    """What it has after so long."""
    time.sleep(seconds)  # the time itself is what is measured: what it takes then is what it takes for ever
    return program.memory()


def _minute(programs: Mapping[tuple[str, int], Program], state: str, instances: int, over_s: float) -> Iterator[Taken]:
    # A smoke test is not worth that time, and measures what a start costs.
    time.sleep(AT_REST_S if state == REST and over_s >= SETTLED_S else min(SETTLED_S, over_s))
    before = {key: (program.cpu_s(), time.monotonic()) for key, program in programs.items()}
    time.sleep(over_s)  # the time itself is what is measured
    for (what, members), program in programs.items():
        used, begin = before[what, members]
        cpu = (program.cpu_s() - used) / (time.monotonic() - begin)
        yield Taken(what, state, members, instances, cpu * 100, program.memory())


def _begin_incident(site: Site, logs: Sequence[Path]) -> None:
    """Restarts mongod, as the far side of connections that all end with it: every worker holds leftovers then."""
    site.mongod.stop()
    site.closing.end()
    site.mongod.start()
    for log in logs:
        wait_for(partial(_told, log, "leftovers_found"), "leftovers_found", within=WITHIN_S, log=log)


def _seen_to_wait(control: Path) -> int:
    """Of how many workers the daemon has the evidence that their requests find no server."""
    (one,) = ask(control, Status())["status"]["instances"]
    return sum(evidence["kind"] == Kind.WAITING.value for evidence in one["evidence"])


def _told(log: Path, event: str) -> bool:
    return event in log.read_text()


@contextlib.contextmanager
def _monit(folder: Path, site: Site) -> Iterator[Process]:
    """Monit that looks at mongod, at every master, and at CLOSE_WAIT sockets, each second."""
    folder.mkdir()
    look = folder / "look"
    look.write_text(f"#!/bin/sh\n! ss -tnpH state close-wait '( dport = :{site.closing.port} )' | grep -q uwsgi\n")
    look.chmod(0o755)
    lines = [
        "set daemon 1",
        f"set logfile {folder / 'log'}",
        f"set pidfile {folder / 'pid'}",
        f"set idfile {folder / 'id'}",
        f"set statefile {folder / 'state'}",
        f"check host mongod address 127.0.0.1\n  if failed port {site.mongod.port} then alert",
        f"check program close_wait with path {look}\n  if status != 0 then alert",
    ]
    for number, one in enumerate(site.uwsgi):
        pidfile = folder / f"{number}.pid"
        pidfile.write_text(f"{one.master}\n")
        lines.append(f"check process app{number} with pidfile {pidfile}\n  if does not exist then alert")
    control = folder / "monitrc"
    control.write_text("\n".join(lines) + "\n")
    control.chmod(0o600)
    with Process([str(packages.monit()), "-I", "-c", str(control)], log=folder / "out") as process:
        yield process


def _instances(count: int) -> str:
    return f"{count} instance{'s' if count > 1 else ''} of {WORKERS} workers"
