"""Which masters may never be restarted: what a real uWSGI shows of a socket that it was handed, and what `r` does then.

Zerg mode is uWSGI's own; for socket activation a process does what systemd does (sd_listen_fds(3)).
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig import fetch
from rig.ports import free_port
from rig.processes import Process, wait_for
from rig.uwsgi import WEB
from tests.integration.masters import Watch, entry
from watchdogd.model.base import ProcessId
from watchdogd.model.seen import Blind, Role
from watchdogd.observe import procfs
from watchdogd.observe.processes import ProcProcesses
from watchdogd.observe.uwsgi import Master, ProcUwsgi

WITHIN_S = 20.0

ACTIVATES = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
child = os.fork()
if not child:
    os.dup2(listening.fileno(), 3)
    os.set_inheritable(3, True)
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
    os.execv(sys.argv[2], sys.argv[2:])
print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@dataclass
class Uwsgi:
    """A uWSGI with an app, a FIFO and just these options. `parent`: the command that starts it, if anything does."""

    folder: Path
    options: tuple[str, ...]
    parent: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.fifo, self.log = self.folder / "fifo", self.folder / "log"
        command = fetch.uwsgi()
        app = ["--wsgi-file", str(WEB), "--pythonpath", str(fetch.pymongo()), "--need-app", "--binary-path", command[0]]
        argv = [*self.parent, *command, "--master", "--master-fifo", str(self.fifo), *app, *self.options]
        self.process = Process(argv, log=self.log, env={"RIG_CLIENT": "none"}, cwd=self.folder)

    def master(self) -> Master:
        """Once it reads its FIFO."""

        def found() -> Master | None:
            one = ProcUwsgi().find(str(self.fifo), frozenset())
            return one if isinstance(one, Master) and one.fifo_problem is None else None

        return wait_for(found, f"{self.fifo} is read", within=WITHIN_S, log=self.log)

    def send(self, command: bytes) -> None:
        fifo = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(fifo, command)
        finally:
            os.close(fifo)

    def says(self, what: str) -> None:
        wait_for(lambda: what in self.log.read_text(errors="replace"), what, within=WITHIN_S, log=self.log)


Start = Callable[..., Uwsgi]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as at_end:

        def make(name: str, *options: str, parent: tuple[str, ...] = (), serves: bool = True) -> Uwsgi:
            one = Uwsgi(tmp_path / name, options, parent)
            at_end.enter_context(one.process)
            master = one.master().id
            wait_for(lambda: ready(master) or not serves, "its worker", within=WITHIN_S, log=one.log)
            return one

        yield make


def no_restart(*instances: Uwsgi) -> Mapping[ProcessId, str]:
    return ProcUwsgi().no_restart([one.master().id for one in instances])


def ready(master: ProcessId) -> set[int]:
    """The workers that serve."""
    processes = ProcProcesses().of(master)
    assert not isinstance(processes, Blind)
    return {one.id.pid for one in processes if one.role is Role.READY}


def port() -> str:
    return f"127.0.0.1:{free_port()}"


def zerg_server(start: Start, listens: str = "127.0.0.1:{}") -> tuple[Uwsgi, str]:
    """A uWSGI that hands out its listening socket, and the path at which it does."""
    one = start("server", "--http-socket", listens.format(free_port()), "--zerg-server", "zerg.sock")
    path = one.folder / "zerg.sock"
    wait_for(path.is_socket, "it hands out its socket", within=WITHIN_S)
    return one, str(path)


@pytest.mark.parametrize("listens", ["127.0.0.1:{}", "[::1]:{}", "app.sock"])
def test_a_zergling_and_its_server_may_not_be_restarted_for_a_restart_ends_the_zergling(
    start: Start, listens: str
) -> None:
    server, path = zerg_server(start, listens)
    zergling = start("zergling", "--zerg", path, "--protocol", "http")
    one, other = zergling.master().id, server.master().id
    assert no_restart(server, zergling).keys() == {one, other}
    assert f"master {one.pid} listens on a socket that master {other.pid} has too" in no_restart(zergling)[one]

    (old,) = ready(one)
    zergling.send(b"w")  # which is safe: it keeps the socket
    wait_for(lambda: ready(one) - {old}, "a new worker", within=WITHIN_S, log=zergling.log)
    zergling.send(b"r")  # at one that still loads it would wait for mercy
    assert zergling.process.wait_ended(within=WITHIN_S) == 1
    zergling.says("The -s/--socket option is missing")
    assert server.process.running
    assert no_restart(server) == {}


def test_a_zergling_of_a_pool_may_not_be_restarted(start: Start) -> None:
    pool = start("pool", "--zergpool", f"zerg.sock:{port()}", serves=False)
    zergling = start("zergling", "--zerg", str(pool.folder / "zerg.sock"), "--protocol", "http")
    assert zergling.master().id in no_restart(zergling)
    zergling.send(b"r")
    assert zergling.process.wait_ended(within=WITHIN_S) == 1
    assert pool.process.running


def test_a_server_that_was_seen_before_its_zerglings_may_be_restarted_and_they_never(start: Start) -> None:
    """It had the socket alone; and a zergling stays one when its server has ended."""
    server, path = zerg_server(start)
    zergling_fifo = server.folder.with_name("zergling") / "fifo"
    watch = Watch((entry("server", server.fifo), entry("zergling", zergling_fifo)))
    assert watch.seen("server").no_restart is None
    zergling = start("zergling", "--zerg", path, "--protocol", "http")
    assert watch.seen("server").no_restart is None
    assert "as in zerg mode" in (watch.seen("zergling").no_restart or "")
    server.process.end(signal.SIGKILL)
    seen = watch.seen("zergling")
    assert (seen.master, "as in zerg mode" in (seen.no_restart or "")) == (zergling.master().id, True)
    assert (watch.seen("server").master, watch.seen("server").no_restart) == (None, None)


@pytest.mark.parametrize("named", [False, True], ids=["not-named", "named"])
def test_one_that_was_activated_by_its_socket_may_not_be_restarted(start: Start, *, named: bool) -> None:
    """From outside it is the same whether its configuration names the socket: only then does it live on."""
    number = str(free_port())
    options = ("--http-socket", f"127.0.0.1:{number}") if named else ("--protocol", "http")
    one = start("shop", *options, parent=(sys.executable, "-c", ACTIVATES, number))
    master = one.master().id
    assert master.pid != one.process.pid
    why = no_restart(one)[master]
    assert f"of process {one.process.pid}, which started it (socket activation)" in why
    one.send(b"r")
    if named:
        one.says("gracefully (RE)spawned uWSGI master process")
    else:
        one.says("ended 1")


def test_ordinary_ones_may_be_restarted_mules_and_routers_or_not(start: Start) -> None:
    plain = start("plain", "--http-socket", port())
    more = start("more", "--http", port(), "--mule", "--stats", port(), "--socket", "uwsgi.sock")
    assert no_restart(plain, more) == {}


def test_two_masters_of_one_fork_may_be_restarted(start: Start) -> None:
    """The FIFO command `f` hands the sockets on too, but to one whose configuration names them."""
    one = start("shop", "--http-socket", port())
    old = one.master().id
    one.send(b"f")
    with ExitStack() as at_end:
        found = wait_for(lambda: another(one, old), "another master", within=WITHIN_S, log=one.log)
        at_end.callback(os.killpg, found.id.pid, signal.SIGKILL)
        assert ProcUwsgi().no_restart([old, found.id]) == {}
    wait_for(lambda: procfs.stat(found.id.pid) is None, "its end", within=WITHIN_S)


def another(one: Uwsgi, than: ProcessId) -> Master | None:
    found = ProcUwsgi().find(str(one.fifo), frozenset())
    return found if isinstance(found, Master) and found.id != than else None
