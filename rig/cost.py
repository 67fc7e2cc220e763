"""`make cost`: what the watchdog costs on this machine, in CPU, memory and time, measured and printed as a table.

Everything in it is real: mongod, uWSGI, sockets, the daemon in a process of its own. No root. It must never measure an
imitation of the code, and leaves nothing running and no file outside the cache of downloads.
"""

import contextlib
import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import pymongo

from rig import RigError, apps
from rig.mongod import Mongod
from rig.processes import POLL_S, Process, last_lines, wait_for
from rig.strangers import strangers
from rig.uwsgi import App, Uwsgi
from watchdogd.config import Config, load
from watchdogd.model import Blind, Endpoint, Snapshot, Tcp
from watchdogd.observe.observer import Observer, open_edges
from watchdogd.observe.sockets import Sockets, Table

STRANGERS = 1000
WORKERS, DESCRIPTORS, CONNECTIONS = 8, 20, 8  # the latter two in each worker

HELD = WORKERS * CONNECTIONS

LOOKS = 500
REST_S = 30.0
STARTS = 5
WITHIN_S = 30.0

MORE_MEMBERS = 10

MOST_QUIET_LOOK_MS = 1.0
MOST_RSS_MB = 45.0

DEPLOYMENT = '  - {{name: "{number}", uri: "{uri}", endpoints: ["127.0.0.1:{port}"]}}'
# To observe costs the same; and a measurement under load, where mongod may look frozen, must not end in a reload.
CONFIG = """\
mode: observe
mongodb:
{deployments}
uwsgi:
  - name: shop
    master_fifo: {fifo}
    mongodb: ["0"]
state_dir: {folder}/state
control_socket: {folder}/control.sock
"""


@dataclass(frozen=True)
class Costs:
    """Milliseconds, of the same thing done several times."""

    ms: tuple[float, ...]

    @property
    def least(self) -> float:
        """What it takes when nothing is in the way."""
        return min(self.ms)

    @property
    def median(self) -> float:
        """What it usually takes."""
        return statistics.median(self.ms)


@dataclass(frozen=True)
class Host:
    """A host with a mongod, unrelated sockets, and an instance whose workers hold connections to an endpoint.

    `config`: of a daemon for it. `crowded`: the same, with the mongod as the member of 10 more deployments.
    """

    config: Path
    crowded: Path
    listener: socket.socket
    peers: list[socket.socket]

    @contextlib.contextmanager
    def another_connection(self) -> Iterator[None]:
        """One more connection to the endpoint, ours, for as long as the `with` lasts; its holder has to be found."""
        with socket.create_connection(self.listener.getsockname()), self.listener.accept()[0]:
            yield

    def end_connections(self) -> None:
        """Ends every connection of the workers from the far side: they are in CLOSE_WAIT from now on."""
        for peer in self.peers:
            peer.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def host(count: int = STRANGERS) -> Iterator[Host]:
    """Such a host with that many unrelated sockets, for as long as the `with` lasts."""
    with contextlib.ExitStack() as stack:
        # Not pytest's folder: a Unix socket's path has room for 107 bytes.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        stack.enter_context(strangers(count))
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=HELD))
        listener.settimeout(WITHIN_S)
        port = listener.getsockname()[1]
        mongod = stack.enter_context(Mongod(folder / "mongod"))
        born = int(time.time())
        # Its birth is known to the second: a connection that was made within it would look older than mongod.
        wait_for(lambda: int(time.time()) > born, "the second of mongod's birth is over", within=WITHIN_S)
        uwsgi = stack.enter_context(_busy_uwsgi(folder / "uwsgi", port))
        peers = [stack.enter_context(listener.accept()[0]) for _ in range(HELD)]
        config, crowded = folder / "config.yaml", folder / "crowded.yaml"
        for path, members in ((config, 1), (crowded, 1 + MORE_MEMBERS)):
            deployments = [DEPLOYMENT.format(number=number, uri=mongod.uri, port=port) for number in range(members)]
            path.write_text(CONFIG.format(deployments="\n".join(deployments), fifo=uwsgi.fifo, folder=folder))
        yield Host(config, crowded, listener, peers)


def _busy_uwsgi(folder: Path, port: int) -> Uwsgi:
    held = f"pyargv = {DESCRIPTORS} {CONNECTIONS} {port}"
    extra = [f"pythonpath = {Path(apps.__file__).parent}", "import = hold", held]
    return Uwsgi(folder, app=App.NO_CLIENT, processes=WORKERS, lazy_apps=True, warm=False, extra=extra)


# ---- one look


class _Depth:
    """Passes readings on, and remembers whether ESTABLISHED was asked for: so a look is known to be a full one."""

    def __init__(self, sockets: Sockets) -> None:
        self.backend, self.why = sockets.backend, sockets.why
        self._sockets = sockets
        self.full = False

    def read(self, endpoints: frozenset[Endpoint], *, established: bool) -> Table | Blind:
        """See Sockets.read."""
        self.full |= established
        return self._sockets.read(endpoints, established=established)

    def close(self) -> None:
        """See Sockets.close."""
        self._sockets.close()


class Looks:
    """An Observer with the real edges, which looks as the daemon's does; CPU is that of the thread that looks."""

    def __init__(self, config: Config) -> None:
        edges = open_edges(lambda: None)
        self._depth = _Depth(edges.sockets)
        self._heartbeats = edges.heartbeats
        self._observer = Observer(config, replace(edges, sockets=self._depth))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._heartbeats.close()
        self._depth.close()

    def wait_until(self, seen: Callable[[Snapshot], bool], what: str) -> None:
        """Looks fully until that is seen; raises RigError with what was seen last."""
        deadline = time.monotonic() + WITHIN_S
        while not seen(snapshot := self._observer.look(full=True)):
            if time.monotonic() > deadline:
                connections = Counter((one.tcp.value, len(one.holders)) for one in snapshot.connections)
                why = f"connections by state and holders: {dict(connections)}, members: {snapshot.members}"
                raise RigError(
                    f"not within {WITHIN_S:g} s: {what}; {why}, blind: {snapshot.blind}, {snapshot.instances}"
                )
            time.sleep(POLL_S)

    def quiet(self, count: int = LOOKS) -> Costs:
        """That many quiet looks, the full one of every 10 s left out."""
        return self._costs(count, contextlib.nullcontext, full=False)

    def full(self, count: int = LOOKS) -> Costs:
        """That many full looks, with nothing new to be seen."""
        return self._costs(count, contextlib.nullcontext, full=True)

    def scanning(self, on: Host, count: int = LOOKS) -> Costs:
        """That many full looks with a new connection each, so that every descriptor of every process is read."""
        return self._costs(count, on.another_connection, full=True)

    def _costs(self, count: int, during: Callable[[], AbstractContextManager[None]], *, full: bool) -> Costs:
        costs: list[float] = []
        while len(costs) < count:
            self._depth.full = False
            with during():
                begin = time.thread_time()
                self._observer.look(full=full)
                end = time.thread_time()
            if self._depth.full is full:
                costs.append((end - begin) * 1000)
        return Costs(tuple(costs))


def all_seen(tcp: Tcp) -> Callable[[Snapshot], bool]:
    """Says of a Snapshot whether mongod serves, and the workers hold all their connections, in that state."""

    def seen(snapshot: Snapshot) -> bool:
        held = [one for one in snapshot.connections if one.holders]
        serving = any(member.serving for member in snapshot.members.values())
        return serving and len(held) == HELD and all(one.tcp is tcp for one in held)

    return seen


# ---- the daemon


@dataclass(frozen=True)
class Running:
    """What the running daemon took: memory in MB (10**6 bytes), CPU in percent of one core."""

    rss_mb: float
    pss_mb: float
    threads: int
    cpu_percent: float


class Daemon:
    """`mongo-watchdog run` as a process of its own, ready; `ready_ms`: from its start to READY=1."""

    def __init__(self, pid: int, ready_ms: float) -> None:
        self.ready_ms = ready_ms
        self._pid = pid

    def running(self, seconds: float) -> Running:
        """Gives the CPU that it takes in so many seconds, and its memory at the end of them."""
        used, begin = self._cpu_s(), time.monotonic()
        time.sleep(seconds)  # the time itself is what is measured
        cpu = (self._cpu_s() - used) / (time.monotonic() - begin)
        rss, pss = (self._number("smaps_rollup", name) * 1024 / 1e6 for name in ("Rss", "Pss"))
        return Running(rss, pss, self._number("status", "Threads"), cpu * 100)

    def _cpu_s(self) -> float:
        # The clock of another process, as clock_getcpuclockid(3) has it: all its threads, and no ticks of 10 ms.
        return time.clock_gettime(~self._pid << 3 | 2)

    def _number(self, file: str, name: str) -> int:
        lines = Path(f"/proc/{self._pid}/{file}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@contextlib.contextmanager
def daemon(config: Path) -> Iterator[Daemon]:
    """A daemon with this configuration, ready, for as long as the `with` lasts."""
    with contextlib.ExitStack() as stack:
        manager = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        manager.bind(str(folder / "notify"))
        command = [sys.executable, "-m", "watchdogd", "run", "--config", str(config)]
        env = {"NOTIFY_SOCKET": str(folder / "notify")}
        begin = time.monotonic()
        process = stack.enter_context(Process(command, log=config.with_suffix(".log"), env=env))
        _wait_ready(manager, process)
        ready_ms = (time.monotonic() - begin) * 1000
        stack.callback(manager.close)  # before the daemon's end: a full socket is a manager that hangs
        yield Daemon(process.pid, ready_ms)


def _wait_ready(manager: socket.socket, process: Process) -> None:
    manager.settimeout(0.5)  # how soon it shows that the daemon has ended instead
    deadline = time.monotonic() + WITHIN_S
    while process.running and time.monotonic() < deadline:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in manager.recv(4096):
                return
    raise RigError(f"the daemon does not say READY=1{last_lines(process.log)}")


# ---- the table


def measure() -> Iterator[tuple[str, str, str]]:
    """Measures everything; yields what it is, the figures, and the limit that they keep."""
    with host() as busy:
        with Looks(load(busy.config)) as looks:
            looks.wait_until(all_seen(Tcp.ESTABLISHED), "every connection of the workers")
            yield "a quiet look, CPU", _ms(looks.quiet()), f"< {MOST_QUIET_LOOK_MS:g} ms"
            yield f"a full look, {HELD} ESTABLISHED, CPU", _ms(looks.full()), ""
            yield "  with a new connection: all descriptors are read", _ms(looks.scanning(busy)), ""
        yield "from the start to READY=1", _ms(_starts(busy)), ""
        with daemon(busy.config) as one:
            rest = one.running(REST_S)
            yield f"the daemon after {REST_S:g} s at rest: RSS", f"{rest.rss_mb:.1f} MB", f"< {MOST_RSS_MB:g} MB"
            yield "  PSS", f"{rest.pss_mb:.1f} MB", ""
            yield "  threads", str(rest.threads), ""
            yield "  CPU, heartbeats included", _percent(rest), ""
        with daemon(busy.crowded) as many:
            more = many.running(REST_S)
            memory, cpu = more.rss_mb - rest.rss_mb, more.cpu_percent - rest.cpu_percent
            each = f"{memory / MORE_MEMBERS:.2f} MB, {cpu / MORE_MEMBERS:.2f} %"
            yield "  each further member: RSS, CPU", each, ""
        busy.end_connections()
        with daemon(busy.config) as one:
            yield f"  CPU with {HELD} CLOSE_WAIT: each look is a full one", _percent(one.running(REST_S)), ""
        with Looks(load(busy.config)) as looks:
            looks.wait_until(all_seen(Tcp.CLOSE_WAIT), "every connection of the workers in CLOSE_WAIT")
            yield f"a full look, {HELD} CLOSE_WAIT, CPU", _ms(looks.full()), ""


def _starts(busy: Host) -> Costs:
    ready = []
    for _ in range(STARTS):
        with daemon(busy.config) as one:
            ready.append(one.ready_ms)
    return Costs(tuple(ready))


def _ms(costs: Costs) -> str:
    return f"{costs.least:.2f} / {costs.median:.2f} ms"


def _percent(taken: Running) -> str:
    return f"{taken.cpu_percent:.2f} % of a core"


def main() -> int:
    """Prints the table; 1 when a component cannot be had here."""
    system = f"Linux {platform.release()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    print(f"{system}; CPython {platform.python_version()}, pymongo {pymongo.version}")
    print(f"{STRANGERS} unrelated ESTABLISHED sockets; 1 member; 1 instance with {WORKERS} workers, each with")
    print(f"{DESCRIPTORS} descriptors of its own and {CONNECTIONS} connections\n")
    print(f"{'':<54}{'least / median':<20}limit")
    try:
        for what, figures, limit in measure():
            print(f"{what:<54}{figures:<20}{limit}".rstrip(), flush=True)
    except RigError as error:
        print(f"it cannot be measured here: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
