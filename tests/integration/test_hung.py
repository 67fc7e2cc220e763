"""Workers that hang, that load and that are held, on a real uWSGI: what the observer says of each."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rig.hang import BESIDE, HANG, Hang
from rig.processes import DeadlineError, stat_fields, wait_for
from rig.uwsgi import App, Uwsgi
from tests.integration.masters import Watch, entry
from tests.integration.nobody import DAC_READ_SEARCH, SYS_PTRACE, as_nobody, needs_root
from watchdogd.model.seen import Hang as HangsBy
from watchdogd.model.seen import Role, Worker
from watchdogd.observe.locks import Lock
from watchdogd.observe.processes import ProcProcesses

# Three looks, half a second apart at least; the rest is for a loaded machine.
JUDGED_WITHIN_S = 20.0
# For so long those that must not be judged are looked at, 50 times a second: some eight looks that count.
WATCHED_S = 4.0

DEADLOCKED = """
import threading, uwsgidecorators
lock = threading.Lock()
lock.acquire()  # as by a thread of the master, which is not there in a fork

@uwsgidecorators.postfork
def use_it():
    with lock:
        pass

def application(_, start_response):
    start_response("200 OK", [])
    return [b""]
"""

# Each worker loads its app in another way, and never comes to an end of it.
LOADING = """
import socket, threading, time, uwsgi

def sleeps():
    time.sleep(3600)

def computes():
    while True:
        pass

def connects():
    listener = socket.create_server(("127.0.0.1", 0), backlog=0)
    clients = []
    while True:  # the second or third is not answered
        clients.append(socket.socket())
        clients[-1].connect(listener.getsockname())

def polls():
    while True:
        threading.Event().wait(0.005)  # 193 times a second, as who waits for the GIL

def joins():
    thread = threading.Thread(target=time.sleep, args=(3600,))
    thread.start()
    thread.join()

(sleeps, computes, connects, polls, joins)[uwsgi.worker_id() - 1]()
"""


def an_app(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "app.py"
    file.write_text(text)
    return file


@contextmanager
def launched(folder: Path, **options: object) -> Iterator[Uwsgi]:
    """An instance whose workers need not ever be ready."""
    with ExitStack() as stack:
        app = Uwsgi(folder, app=App.NO_CLIENT, **options)  # type: ignore[arg-type]
        stack.callback(app.kill)
        app.launch()
        yield app


@contextmanager
def with_a_hung_worker(folder: Path, **options: object) -> Iterator[tuple[Uwsgi, int]]:
    """An instance of three, one of which hangs since its fork; and its pid."""
    settings = {"app": App.NO_CLIENT, "warm": False, "wsgi_file": HANG, **options}
    with Hang(folder) as hang, Uwsgi(folder, **settings) as app:  # type: ignore[arg-type]
        yield app, hang.worker_of(app)


class Looks:
    """Looks at one instance, 50 times a second while something is waited for."""

    def __init__(self, app: Uwsgi) -> None:
        self._watch = Watch((entry("shop", app.fifo),))

    def workers(self) -> dict[int, Worker]:
        return {worker.id.pid: worker for worker in self._watch.seen("shop").workers}

    def until(self, holds: Callable[[dict[int, Worker]], bool], what: str) -> dict[int, Worker]:
        def seen() -> dict[int, Worker] | None:
            workers = self.workers()
            return workers if holds(workers) else None

        try:
            return wait_for(seen, what, within=JUDGED_WITHIN_S)
        except DeadlineError as error:
            raise DeadlineError(f"{error}; seen: {self.workers()}") from error

    def never(self, pids: list[int]) -> dict[int, Worker]:
        """Looks for a time, in which none of them is found to hang."""
        until = time.monotonic() + WATCHED_S
        found: set[int] = set()

        def over() -> bool:
            found.update(pid for pid, worker in self.workers().items() if worker.hung)
            return time.monotonic() >= until

        wait_for(over, "the end of the looks", within=WATCHED_S + JUDGED_WITHIN_S)
        assert found & set(pids) == set()
        return self.workers()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"threads": 4},
        {"version": "2.0.26", "extra": ("enable-threads = true",)},
        {"extra": ("thunder-lock = true",)},
    ],
    ids=["2.0.30", "threads", "2.0.26", "thunder lock"],
)
def test_a_worker_of_a_later_generation_that_hangs_is_told_and_no_other_one(
    options: dict[str, object], tmp_path: Path
) -> None:
    with with_a_hung_worker(tmp_path, **options) as (app, hung):
        before = time.monotonic()
        looks = Looks(app)
        found = looks.until(lambda workers: workers[hung].hung is not None, "it is told")
        one = found.pop(hung)
        assert one.hung is not None
        assert one.hung.kind is HangsBy.GIL
        assert one.hung.since.lo <= one.hung.since.hi < time.monotonic()
        assert one.hung.since.hi >= before
        assert (one.threads, one.ignores_hup, one.unjudged, one.ready) == (1, False, "", False)
        assert len(found) == 2
        for ready in found.values():
            assert ready.ready
            assert (ready.threads, ready.ignores_hup, ready.hung, ready.unjudged) == (None, None, None, "")


def test_the_workers_of_a_first_generation_that_hang_are_told_and_ignore_sighup(tmp_path: Path) -> None:
    with Hang(tmp_path) as hang, ExitStack() as stack:
        app = Uwsgi(tmp_path, app=App.NO_CLIENT, wsgi_file=HANG, processes=8)
        stack.callback(app.kill)
        hung = hang.first_of(app)
        found = Looks(app).until(
            lambda workers: [pid for pid in sorted(workers) if workers[pid].hung] == hung, "they are told, and no other"
        )
        told = [worker for worker in found.values() if worker.hung]
        assert {worker.hung.kind for worker in told if worker.hung} == {HangsBy.GIL}
        assert {(worker.threads, worker.ignores_hup) for worker in told} == {(1, True)}


def test_a_deadlock_of_the_apps_own_is_told_apart(tmp_path: Path) -> None:
    with launched(tmp_path, wsgi_file=an_app(tmp_path, DEADLOCKED), processes=2) as app:
        wait_for(lambda: len(app.workers()) == 2 and app.fifo.exists(), "both are forked", within=20)
        found = Looks(app).until(lambda workers: all(one.hung for one in workers.values()), "both are told")
        assert {worker.hung.kind for worker in found.values() if worker.hung} == {HangsBy.OWN_CODE}
        assert {worker.ignores_hup for worker in found.values()} == {True}


def test_whoever_loads_its_app_for_long_is_never_found_to_hang(tmp_path: Path) -> None:
    file = an_app(tmp_path, LOADING)
    with launched(tmp_path, wsgi_file=file, processes=5, lazy_apps=True) as app:
        wait_for(lambda: len(app.workers()) == 5 and app.fifo.exists(), "all are forked", within=20)
        looks = Looks(app)
        found = looks.until(
            lambda workers: sorted(one.threads or 0 for one in workers.values()) == [1, 1, 1, 1, 2], "each loads"
        )
        found = looks.never(list(found))
        assert len(found) == 5
        assert {(worker.ready, worker.unjudged) for worker in found.values()} == {(False, "")}


def test_workers_that_come_and_go_by_reloads_are_never_found_to_hang(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT, warm=False) as app:
        looks = Looks(app)
        for _ in range(3):
            old = app.ready_workers()
            app.send(b"w")
            looks.until(
                lambda workers, old=old: (
                    len(workers) == 3  # type: ignore[misc]
                    and not set(workers) & set(old)
                    and not any(one.hung or one.unjudged for one in workers.values())
                    and all(one.ready for one in workers.values())
                ),
                "the new ones are ready",
            )


def test_a_stopped_worker_is_not_judged_until_it_goes_on(tmp_path: Path) -> None:
    with with_a_hung_worker(tmp_path) as (app, hung):
        looks = Looks(app)
        looks.until(lambda workers: workers[hung].hung is not None, "it is told")
        os.kill(hung, signal.SIGSTOP)
        wait_for(lambda: (stat_fields(hung) or "?")[0] == "T", "it is stopped", within=10)
        assert "SIGSTOP" in looks.never([hung])[hung].unjudged
        os.kill(hung, signal.SIGCONT)
        looks.until(lambda workers: workers[hung].hung is not None, "it is told again")


TRACER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.ptrace(0x4206, int(sys.argv[1]), None, None) == 0, ctypes.get_errno()  # PTRACE_SEIZE: it goes on
print("holds it", flush=True)
sys.stdin.read()
"""


@needs_root
def test_a_worker_in_a_debugger_is_not_judged(tmp_path: Path) -> None:
    with with_a_hung_worker(tmp_path) as (app, hung):
        looks = Looks(app)
        looks.until(lambda workers: workers[hung].hung is not None, "it is told")
        command = [sys.executable, "-c", TRACER, str(hung)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
            assert tracer.stdout is not None
            assert tracer.stdout.readline() == b"holds it\n"
            assert f"process {tracer.pid} is debugging it" in looks.never([hung])[hung].unjudged
            tracer.communicate(timeout=10)
        looks.until(lambda workers: workers[hung].hung is not None, "it is told again")


@needs_root
@pytest.mark.parametrize(
    ("rights", "told"),
    [
        (0, "CAP_DAC_READ_SEARCH is missing"),
        (SYS_PTRACE, "CAP_DAC_READ_SEARCH is missing"),
        (DAC_READ_SEARCH, "CAP_SYS_PTRACE is missing"),
        (DAC_READ_SEARCH | SYS_PTRACE, "in_python=True"),
    ],
)
def test_without_a_right_it_is_not_seen_which_is_not_the_same_as_well(rights: int, told: str, tmp_path: Path) -> None:
    """What else is known of it takes no right."""
    with with_a_hung_worker(tmp_path) as (app, hung):
        start = int((stat_fields(app.master) or [])[19])
        pick = "next(repr(one.wait) for one in ProcProcesses().of(ProcessId({}, {})) if one.id.pid == {})"

        def look() -> str | None:
            """What one look says; none that saw it awake, as it is for an instant every 5 ms."""
            answer = as_nobody(f"({pick.format(app.master, start, hung)} for _ in range(1)).__next__()", rights)
            return None if "state='R'" in answer else answer

        answer = wait_for(look, "a look while it waits", within=20)
        assert told in answer
        assert (
            f"process {hung} of user id 0 hides what it waits for" in answer or rights == DAC_READ_SEARCH | SYS_PTRACE
        )
        assert "threads=1" in answer


def test_beside_an_app_with_a_client_it_is_read_as_it_is(tmp_path: Path) -> None:
    with with_a_hung_worker(tmp_path, wsgi_file=Uwsgi.wsgi_file, extra=BESIDE) as (app, hung):
        edge = ProcProcesses()
        watch = Watch((entry("shop", app.fifo),))
        master = watch.seen("shop").master
        assert master is not None

        def lock() -> Lock | None:
            processes = edge.of(master)
            assert isinstance(processes, tuple)
            assert {one.wait for one in processes if one.role is not Role.LOADING} == {None}
            (one,) = [one for one in processes if one.id.pid == hung]
            return one.wait.lock if one.wait and isinstance(one.wait.lock, Lock) else None

        found = wait_for(lock, "it is at its lock", within=JUDGED_WITHIN_S)
        assert found.in_python
