"""What people use today to see such sockets, and the least that the kernel allows: the same dump in C."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

from rig import RigError
from rig.bench.samples import Contender
from watchdogd.model.base import Endpoint
from watchdogd.observe.tcp.sock_diag import CLOSE_WAIT, ESTABLISHED, request, stamp
from watchdogd.observe.tcp.sockets import ProcNetTcp, Table

C_DUMP = "the same dump in C"
LSOF = "lsof -i:PORT"
SS = "ss -tnp state close-wait"
PSUTIL = "psutil.net_connections"
PROC_PARSE = "/proc/net/tcp parsed"
BUILD_WITHIN_S = 60.0


def rivals(endpoints: frozenset[Endpoint], port: int) -> Iterator[Contender | tuple[str, str]]:
    """What can be had here; name and reason of what cannot."""
    for name, command in (
        (LSOF, ["lsof", f"-i:{port}"]),
        (SS, ["ss", "-tnp", "state", "close-wait"]),
    ):
        if shutil.which(command[0]):
            yield Contender(name, _of_command(command))
        else:
            yield name, f"there is no {command[0]} here"
    yield Contender(PSUTIL, _of_call(lambda: _by_psutil(port)))
    proc = ProcNetTcp()
    yield Contender(PROC_PARSE, _of_call(lambda: _read(proc, endpoints)))


def _of_command(command: Sequence[str]) -> Callable[[], float]:
    """Measures a program from its start to its end; what it takes to start it is not counted."""

    def measure() -> float:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _, status, used = os.wait4(child.pid, 0)
        except BaseException:
            child.kill()
            raise
        child.returncode = os.waitstatus_to_exitcode(status)
        return (used.ru_utime + used.ru_stime) * 1000

    return measure


def _of_call(call: Callable[[], object]) -> Callable[[], float]:
    def measure() -> float:
        begin = time.thread_time()
        call()
        return (time.thread_time() - begin) * 1000

    return measure


def _by_psutil(port: int) -> list[int | None]:
    return [
        one.pid
        for one in psutil.net_connections("tcp")
        if one.status == psutil.CONN_CLOSE_WAIT and one.raddr and one.raddr.port == port
    ]


def _read(proc: ProcNetTcp, endpoints: frozenset[Endpoint]) -> None:
    table = proc.read(endpoints, established=False)
    assert isinstance(table, Table), table


class Dump:
    """dump.c, running: it asks the kernel what we ask, byte for byte, and reads the same fields."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self.rows = 0

    def cpu_ms(self, count: int) -> list[float]:
        """Dumps so many times; gives the CPU of each."""
        asked, answers = self._process.stdin, self._process.stdout
        assert asked is not None
        assert answers is not None
        asked.write(b"%d\n" % count)
        *taken, rows = map(int, answers.readline().split())
        self.rows = rows
        return [one / 1e6 for one in taken]


@contextlib.contextmanager
def built_dump() -> Iterator[Path | str]:
    """The program, built for as long as the `with` lasts; the reason where it cannot be."""
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    with tempfile.TemporaryDirectory(prefix="mwd-") as folder:
        program = Path(folder) / "dump"
        if compiler is None:
            yield "there is no C compiler here"
            return
        source = Path(__file__).with_name("dump.c")
        done = subprocess.run(
            [compiler, "-O2", "-o", str(program), str(source)],
            capture_output=True, text=True, check=False, timeout=BUILD_WITHIN_S,
        )  # fmt: skip
        yield program if done.returncode == 0 else f"it cannot be built here: {done.stderr.strip().splitlines()[-1]}"


@contextlib.contextmanager
def dumping(program: Path, endpoints: frozenset[Endpoint], *, established: bool) -> Iterator[Dump]:
    """The program, asking for these endpoints, for as long as the `with` lasts."""
    question = request(endpoints)
    stamp(question, 1, 1 << CLOSE_WAIT | established << ESTABLISHED)
    process = subprocess.Popen([str(program), question.hex()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    try:
        dump = Dump(process)
        if not dump.cpu_ms(1):
            raise RigError("the dump in C does not answer")
        yield dump
    finally:
        process.kill()
        process.communicate()
