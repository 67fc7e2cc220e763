"""The program that ends hung workers for the daemon: whom it ends, and whom never."""

import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.hang import HANG, Hang
from rig.processes import stat_fields, wait_for
from tests.integration.masters import BERT, Site
from tests.integration.test_end import Ender
from tests.integration.test_fifo import RealFifo
from tests.integration.test_fifo_helper import DAEMON, FOREVER, Place, acting_as, refused
from tests.integration.test_hung import TRACER
from watchdogd.act import end_helper
from watchdogd.act.end_helper import MOST, WITHIN_S
from watchdogd.act.helper import END, end
from watchdogd.model.base import InstanceId, ProcessId
from watchdogd.model.done import EndProcess, Result

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can start the helper for another user, and own what it believes"
)

STARTED_WITHIN_S = 20.0

# A master and its child, by their handlers; the user, and then each argument changes one thing.
TREE = """
import os, signal, sys, threading, time

def handles(*names):
    for name in names:
        signal.signal(getattr(signal, "SIG" + name), lambda *_: None)

user = int(sys.argv[1])
if "attached" in sys.argv and os.fork() == 0:
    os.execv(sys.executable, [one.replace("attached", "executed") for one in sys.orig_argv])
os.setresuid(user, user, user)
if "no master" not in sys.argv:
    handles("HUP", "QUIT", "USR1", "TERM", "TSTP")
if "executed" in sys.argv or ("attached" not in sys.argv and os.fork() == 0):
    if "mule" in sys.argv or "spooler" in sys.argv:
        handles("INT", "FPE", "SEGV")
        for name in ("TSTP", "HUP" if "spooler" in sys.argv else "USR1"):
            signal.signal(getattr(signal, "SIG" + name), signal.SIG_DFL)
    elif "no worker" not in sys.argv:
        handles("WINCH")
    if "ready" in sys.argv:
        handles("USR2")
    if "threads" in sys.argv:
        threading.Thread(target=time.sleep, args=(3600,)).start()
    print(os.getpid(), flush=True)
    time.sleep(3600)
signal.pause()
while True:
    time.sleep(3600)
"""


@dataclass(eq=False)
class Ending(Place):
    """A place with the helper that ends; its FIFO is of the user BERT."""

    program: str = "watchdogd.act.end_helper"

    def __post_init__(self) -> None:
        super().__post_init__()
        os.chown(self.fifo.path, BERT, BERT)

    def worker(self, *changes: str, user: int = BERT) -> "Worker":
        """What looks like a worker that is loading, below a master of that user."""
        tree = subprocess.Popen(
            [sys.executable, "-I", "-c", TREE, str(user), *changes], stdout=subprocess.PIPE, start_new_session=True
        )
        self.stack.callback(tree.wait)
        self.stack.callback(os.killpg, tree.pid, signal.SIGKILL)
        assert tree.stdout is not None
        self.stack.callback(tree.stdout.close)
        return Worker(self, int(tree.stdout.readline()), tree.pid)


@dataclass(eq=False)
class Worker:
    place: Ending
    pid: int
    parent: int

    def __post_init__(self) -> None:
        self.pidfd = os.pidfd_open(self.pid)
        self.place.stack.callback(os.close, self.pidfd)

    @property
    def alive(self) -> bool:
        fields = stat_fields(self.pid)
        return fields is not None and fields[0] not in "ZX"

    def ask(self, path: str | None = None, *, until: float = FOREVER, uid: int = DAEMON) -> str:
        """Asks for its end."""
        return self.place.raw(f"{until} {path or self.place.fifo.path}".encode(), self.pidfd, uid=uid)

    def end(self) -> tuple[Result, str]:
        """Has it ended as the daemon does."""
        effect = EndProcess(
            "shop-1", InstanceId(self.place.fifo.path), ProcessId(self.parent, 1), ProcessId(self.pid, 1), BERT
        )
        with acting_as(DAEMON):
            return end(self.pidfd, effect, helper=END._replace(socket=str(self.place.socket)))


@pytest.fixture
def quiet_place() -> Iterator[Ending]:
    with tempfile.TemporaryDirectory(prefix="mw-ender-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        yield Ending(Path(folder), stack)


@pytest.fixture
def place(quiet_place: Ending) -> Ending:
    quiet_place.listen()
    return quiet_place


# -- whom it ends


def test_a_hung_worker_of_another_user_is_ended_for_the_daemon(place: Ending) -> None:
    folder = place.folder / "shop"
    with Hang(folder) as hang:
        app = Site(place.folder, place.stack).app("shop", BERT, wsgi_file=HANG, processes=2)
        others = app.ready_workers()[:-1]
        hung = hang.worker_of(app)
        (effect,) = Ender(app).hung(hung)
        place.configure(f"uwsgi: [{{master_fifo: {app.fifo}}}]")
        pidfd = os.pidfd_open(hung)
        try:
            with acting_as(DAEMON):
                result, why = end(pidfd, effect, helper=END._replace(socket=str(place.socket)))
        finally:
            os.close(pidfd)
        assert (result, why) == (Result.ENDED, f"process {hung} of user id {BERT} was ended")
        assert set(app.wait_ready(other_than=[hung])) > set(others)


def test_one_helper_ends_one_after_the_other(place: Ending) -> None:
    for _ in range(2):
        worker = place.worker()
        assert worker.ask() == f"ended process {worker.pid} of user id {BERT} was ended"
        assert not worker.alive


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("ready", "is no worker of uWSGI that is still to become ready"),
        ("no worker", "is no worker of uWSGI that is still to become ready"),
        ("threads", "has 2 threads"),
        ("no master", "which is no uWSGI master"),
    ],
)
def test_who_cannot_hang_by_the_rule_is_not_ended(place: Ending, change: str, why: str) -> None:
    worker = place.worker(change)
    assert refused(worker.ask(), f"process {worker.pid} ", why)
    assert worker.alive


@pytest.mark.parametrize("what", ["mule", "spooler"])
def test_a_mule_is_ended_where_reloads_has_mules_and_nowhere_else(place: Ending, what: str) -> None:
    mule = place.worker(what, "threads")
    entry = f"{{master_fifo: {place.fifo.path}}}"
    for uwsgi in (f"uwsgi: [{entry}]", f"uwsgi: [{entry[:-1]}, reloads: [workers, chain, restart]}}]", "{}"):
        place.configure(uwsgi)
        assert refused(
            mule.ask(), f"process {mule.pid} is a mule or spooler", "`reloads` of its instance has no `mules`"
        )
    assert mule.alive
    place.configure(f"uwsgi: [{entry[:-1]}, reloads: [workers, mules]}}]")
    assert mule.ask() == f"ended process {mule.pid} of user id {BERT} was ended"
    worker = place.worker("ready")  # `mules` allows nothing else
    assert refused(worker.ask(), "is no worker of uWSGI that is still to become ready")


def test_a_program_that_uwsgi_has_attached_is_no_mule(place: Ending) -> None:
    place.configure(f"uwsgi: [{{master_fifo: {place.fifo.path}, reloads: [workers, mules]}}]")
    attached = place.worker("mule", "attached")
    assert refused(attached.ask(), "is no worker of uWSGI that is still to become ready")
    assert attached.alive


def test_one_that_is_in_a_debugger_is_not_ended(place: Ending) -> None:
    worker = place.worker()
    command = [sys.executable, "-c", TRACER, str(worker.pid)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as tracer:
        assert tracer.stdout is not None
        assert tracer.stdout.readline() == b"holds it\n"
        assert refused(worker.ask(), f"is debugged by process {tracer.pid}")
        tracer.communicate(timeout=10)
    assert worker.alive


@pytest.mark.parametrize("user", [0, 1])
def test_a_worker_of_a_user_whose_instance_is_not_named_is_not_ended(place: Ending, user: int) -> None:
    worker = place.worker(user=user)
    assert refused(worker.ask(), f"{place.fifo.path} is no FIFO of user id {user}")
    assert worker.alive


def test_the_path_of_another_entry_does_not_open_it(place: Ending) -> None:
    worker = place.worker()
    with closing(RealFifo(place.folder / "roots")) as roots:
        place.configure(f"uwsgi: [{{master_fifo: {roots.path}}}]")
        assert refused(worker.ask(), f"names no `master_fifo: {place.fifo.path}`")
        assert refused(worker.ask(roots.path), "is no FIFO of user id 33")
        place.configure(f"uwsgi: [{{master_fifo: {roots.path}}}, {{master_fifo: {place.fifo.path}}}]")
        assert worker.alive
        assert worker.ask().startswith("ended ")


def test_a_link_counts_as_for_a_reload(place: Ending) -> None:
    worker = place.worker()
    link = place.folder / "current"
    link.symlink_to(place.folder)
    os.lchown(link, 1, 1)
    path = f"{link}/fifo"
    place.configure(f"uwsgi: [{{master_fifo: {path}}}]")
    assert refused(worker.ask(path), str(link), "trust_owners: [daemon]")
    place.configure(f"uwsgi: [{{master_fifo: {path}, trust_owners: [daemon]}}]")
    assert worker.ask(path).startswith("ended ")


def test_while_the_fifo_is_made_anew_it_is_to_be_tried_again(place: Ending) -> None:
    worker = place.worker()
    Path(place.fifo.path).unlink()
    assert worker.ask().startswith("try_again ")
    Path(place.fifo.path).touch()
    assert refused(worker.ask(), "is no FIFO")
    assert worker.alive


def test_where_instances_are_to_be_found_any_users_but_roots_are_ended(place: Ending) -> None:
    place.configure("mongodb: []")
    roots, berts = place.worker(user=0), place.worker()
    assert refused(roots.ask(), "add it under `uwsgi:`")
    assert berts.ask("/run/any/fifo").startswith("ended ")
    assert roots.alive


# -- what it believes


@pytest.mark.parametrize("text", ["mode: observe\nuwsgi: [{{master_fifo: {fifo}}}]", "uwsgi:", "uwsgi: [3]", "["])
def test_a_configuration_that_allows_nothing_has_nobody_ended(place: Ending, text: str) -> None:
    worker = place.worker()
    place.configure(text.format(fifo=place.fifo.path))
    assert worker.ask().startswith("refused ")
    assert worker.alive


def test_a_configuration_that_others_may_have_written_is_not_believed(place: Ending) -> None:
    worker = place.worker()
    place.config.chmod(0o660)
    assert refused(worker.ask(), "others may write it")
    assert worker.alive


@pytest.mark.parametrize("uid", [0, 1, BERT])
def test_nobody_else_gets_anybody_ended_not_even_root(place: Ending, uid: int) -> None:
    worker = place.worker()
    assert refused(worker.ask(uid=uid), "only the user of mongo-watchdog")
    assert worker.alive


@pytest.mark.parametrize("until", [0.0, math.nan, -math.inf])
def test_a_request_that_came_too_late_is_not_carried_out(place: Ending, until: float) -> None:
    worker = place.worker()
    assert worker.ask(until=until).startswith("try_again ")
    assert worker.alive


@pytest.mark.parametrize("message", [b"\0", b"1", b"x /fifo", b"\xff\xfe \n", b" " * 9000])
def test_what_is_not_a_request_is_refused_with_its_form(place: Ending, message: bytes) -> None:
    worker = place.worker()
    assert refused(place.raw(message, worker.pidfd), "`NOT_AFTER PATH` with one descriptor")
    assert worker.alive


def a_fifo(worker: Worker) -> int:
    return os.dup(worker.place.fifo.fd)


def its_folder_of_proc(worker: Worker) -> int:
    return os.open(f"/proc/{worker.pid}", os.O_RDONLY)  # which the kernel takes for a pidfd


def one_of_a_process_that_has_ended(_: Worker) -> int:
    with subprocess.Popen(["true"]) as ended:
        return os.pidfd_open(ended.pid)


@pytest.mark.parametrize("other", [a_fifo, its_folder_of_proc, one_of_a_process_that_has_ended])
def test_a_descriptor_that_is_no_pidfd_of_anybody_is_refused(place: Ending, other: Callable[[Worker], int]) -> None:
    worker = place.worker()
    descriptor = other(worker)
    try:
        answer = place.raw(f"{FOREVER} {place.fifo.path}".encode(), descriptor)
    finally:
        os.close(descriptor)
    assert refused(answer, "is no pidfd, or its process has ended")
    assert worker.alive


@pytest.mark.parametrize("count", [0, 2])
def test_a_request_has_one_descriptor_no_less_and_no_more(place: Ending, count: int) -> None:
    worker = place.worker()
    assert refused(place.raw(f"{FOREVER} {place.fifo.path}".encode(), *[worker.pidfd] * count), "with one descriptor")
    assert worker.alive


def test_no_more_are_ended_in_a_minute_than_a_host_may_need(
    quiet_place: Ending, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.monotonic()
    worker = quiet_place.worker()
    request = f"{FOREVER} {quiet_place.fifo.path}".encode()

    def asked() -> tuple[Result, str]:
        return end_helper.perform(request, [worker.pidfd], str(quiet_place.config))

    monkeypatch.setattr(end_helper, "_ended", deque([now] * MOST, MOST))
    result, why = asked()
    assert result is Result.TRY_AGAIN
    assert why.startswith(f"{MOST} processes were ended in {WITHIN_S:g} s")
    assert worker.alive
    monkeypatch.setattr(end_helper, "_ended", deque([now - WITHIN_S] + [now] * (MOST - 1), MOST))
    assert asked()[0] is Result.ENDED
    worker = quiet_place.worker()
    assert asked()[0] is Result.TRY_AGAIN


# -- the client


def test_the_daemon_has_the_worker_of_somebody_else_ended(place: Ending) -> None:
    worker = place.worker()
    assert worker.end()[0] is Result.ENDED
    place.configure("mode: observe")
    other = place.worker()
    result, why = other.end()
    assert result is Result.REFUSED
    assert "mode: act" in why
    assert other.alive


def test_without_a_helper_it_says_how_to_start_one_and_that_to_end_it_by_hand_is_safe(quiet_place: Ending) -> None:
    worker = quiet_place.worker()
    result, why = worker.end()
    assert result is Result.REFUSED
    assert "mongo-watchdog-end.socket" in why
    assert f"`kill -9 {worker.pid}` is safe" in why
    assert worker.alive


def test_a_helper_that_is_not_there_or_stuck_is_tried_again_and_one_for_somebody_else_is_named(
    quiet_place: Ending,
) -> None:
    worker = quiet_place.worker()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(quiet_place.socket))
        quiet_place.socket.chmod(0o600)
        result, why = worker.end()
        assert result is Result.REFUSED
        assert "SocketUser=" in why
        quiet_place.socket.chmod(0o666)
        assert "cannot be asked" in worker.end()[1]
        listener.listen()
        result, why = worker.end()
        assert result is Result.TRY_AGAIN
        assert "mongo-watchdog-end did not answer" in why
    assert worker.alive


def test_every_request_is_in_its_log(place: Ending) -> None:
    ready, worker = place.worker("ready"), place.worker()
    ready.ask()
    worker.ask()
    wait_for(lambda: not worker.alive, "its end", within=STARTED_WITHIN_S)
    place.helper.kill()
    assert place.helper.stderr is not None
    first, second = place.helper.stderr.read().decode().splitlines()
    assert first.startswith(f"<4>user id {DAEMON} asked `")
    assert f"process {ready.pid} is no worker" in first
    assert second.startswith(f"<5>user id {DAEMON} asked `")
    assert second.endswith(f"process {worker.pid} of user id {BERT} was ended")
