import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from typing import Protocol

import pytest

from rig import fetch
from rig.netns import Namespace
from rig.ports import free_port
from rig.processes import Process as Started
from rig.processes import stat_fields, wait_for
from rig.traffic import Traffic
from rig.uwsgi import WEB, App
from rig.uwsgi import Uwsgi as RigUwsgi
from tests.integration.masters import Watch, entry
from tests.integration.nobody import as_nobody, needs_root
from tests.world.processes import FakeProcess
from tests.world.uwsgi import FakeUwsgi
from watchdogd.model.base import ProcessId
from watchdogd.model.seen import Blind, Role
from watchdogd.observe import procfs
from watchdogd.observe.processes import Process, Processes, ProcProcesses
from watchdogd.observe.roles import role
from watchdogd.observe.uwsgi import Master, ProcUwsgi, Uwsgi

WITHIN_S = 20.0
SOMEBODY = 64321
ROOTS_OWN = frozenset[int]()  # nobody's links count but root's, and those of the FIFO's owner


# -- one instance, real and in the world


class Instance(Protocol):
    """What the shared assertions do to an instance; each change is over when the method returns."""

    @property
    def fifo(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def lose_worker(self) -> None: ...
    def remove_fifo(self) -> None: ...
    def renew_fifo(self) -> None: ...
    def begin_restart(self) -> None: ...
    def wait_restarted(self) -> None: ...
    def start_again(self) -> None: ...
    def stop(self) -> None: ...


class RealInstance:
    """A real uWSGI without MongoDB, two workers."""

    def __init__(self, rig: RigUwsgi) -> None:
        self.rig = rig
        self.fifo = str(rig.fifo)

    @property
    def pid(self) -> int:
        return self.rig.master

    def lose_worker(self) -> None:
        lost = self.rig.workers()[0]
        os.kill(lost, signal.SIGKILL)
        wait_for(lambda: lost not in self.rig.workers() and self.rig.wait_ready(), "a new worker", within=WITHIN_S)

    def remove_fifo(self) -> None:
        self.rig.fifo.unlink()

    def renew_fifo(self) -> None:
        """By the mend that the problem names."""
        before = self.rig.workers()
        (mend,) = mends(ProcUwsgi().find(self.fifo, ROOTS_OWN))
        run(mend)
        self.rig.wait_ready(other_than=before)

    def begin_restart(self) -> None:
        self.rig.send(b"r")
        wait_for(
            lambda: ProcUwsgi().find(self.fifo, ROOTS_OWN) is None, "the master has closed its FIFO", within=WITHIN_S
        )

    def wait_restarted(self) -> None:
        self.rig.wait_ready()

    def start_again(self) -> None:
        self.rig.kill()
        self.rig.start()

    def stop(self) -> None:
        self.rig.stop()


@dataclass
class FakeInstance:
    """The same in a world of values."""

    world: FakeUwsgi
    fifo: str = "/run/uwsgi/app/shop/fifo"
    master: FakeProcess = field(init=False)

    def __post_init__(self) -> None:
        self.master = self.world.start(self.fifo)

    @property
    def pid(self) -> int:
        return self.master.id.pid

    def lose_worker(self) -> None:
        self.world.processes.end(self.world.processes.children(self.master)[0])
        self.world.processes.fork(self.master)

    def remove_fifo(self) -> None:
        self.world.remove_fifo(self.master)

    def renew_fifo(self) -> None:
        self.world.renew_fifo(self.master)

    def begin_restart(self) -> None:
        self.world.restart(self.master)

    def wait_restarted(self) -> None:
        self.world.started(self.master)

    def start_again(self) -> None:
        self.stop()
        self.master = self.world.start(self.fifo)

    def stop(self) -> None:
        self.world.processes.end(self.master)


@dataclass
class Place:
    """The edges with one instance that they see."""

    edge: Uwsgi
    processes: Processes
    instance: Instance

    def master(self) -> Master:
        return master_of(self.edge, self.instance.fifo)


@pytest.fixture(params=["real", "fake"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    if request.param == "fake":
        world = FakeUwsgi()
        yield Place(world, world.processes, FakeInstance(world))
        return
    with RigUwsgi(tmp_path / "shop", app=App.NO_CLIENT, processes=2, warm=False) as rig:
        yield Place(ProcUwsgi(), ProcProcesses(), RealInstance(rig))


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RigUwsgi]]:
    """Starts a real instance with these options."""
    with ExitStack() as at_end:

        def make(name: str = "shop", *, app: App = App.NO_CLIENT, **options: object) -> RigUwsgi:
            rig = RigUwsgi(tmp_path / name, app=app, warm=False, **options)  # type: ignore[arg-type]
            return at_end.enter_context(rig)

        yield make


def master_of(edge: Uwsgi, fifo: str | Path) -> Master:
    found = edge.find(str(fifo), ROOTS_OWN)
    assert isinstance(found, Master)
    return found


def processes_of(processes: Processes, master: Master) -> tuple[Process, ...]:
    found = processes.of(master.id)
    assert not isinstance(found, Blind)
    return found


def roles_of(master: Master) -> dict[int, Role]:
    return {process.id.pid: process.role for process in processes_of(ProcProcesses(), master)}


def masters_of(edge: Uwsgi) -> dict[int, Master]:
    found = edge.discover()
    assert not isinstance(found, Blind)
    return {master.id.pid: master for master in found}


def problem_of(found: Master | Blind | None) -> str | None:
    assert isinstance(found, Master)
    return found.fifo_problem


def mends(found: Master | Blind | None) -> list[str]:
    """The commands that a problem names, none of which writes into /proc."""
    problem = problem_of(found)
    assert problem is not None
    assert "/proc" not in problem
    return re.findall("`(kill [^`]*)`", problem)


def reader(fifo: str | Path) -> int | None:
    """The pid of the master that a byte at this path reaches, where that is certain."""
    found = ProcUwsgi().find(str(fifo), ROOTS_OWN)
    return found.id.pid if isinstance(found, Master) and found.fifo_problem is None else None


def run(command: str) -> None:
    subprocess.run(["sh", "-c", command], check=True, timeout=WITHIN_S)


# -- what the fake and the real one share


def test_the_master_that_reads_a_fifo_is_found(place: Place) -> None:
    master = place.master()
    assert (master.id.pid, master.fifo, master.fifo_problem) == (
        place.instance.pid,
        place.instance.fifo,
        None,
    )
    assert master.netns == place.processes.netns()


def test_nobody_is_found_at_a_path_that_nobody_reads(place: Place) -> None:
    assert place.edge.find("/run/uwsgi/app/other/fifo", ROOTS_OWN) is None


def test_the_master_comes_first_and_its_workers_are_ready(place: Place) -> None:
    master = place.master()
    first, *workers = processes_of(place.processes, master)
    assert (first.id, first.role) == (master.id, Role.MASTER)
    assert [worker.role for worker in workers] == [Role.READY, Role.READY]
    assert all(worker.io is not None for worker in workers)


def test_a_master_that_goes_on_is_the_same(place: Place) -> None:
    master = place.master()
    assert place.edge.check(master) == master


def test_a_worker_that_ended_is_absent_and_its_successor_is_another(place: Place) -> None:
    before = {process.id for process in processes_of(place.processes, place.master())}
    place.instance.lose_worker()
    after = {process.id for process in processes_of(place.processes, place.master())}
    assert len(after) == len(before) == 3
    assert len(after & before) == 2


def test_a_master_is_discovered_with_its_fifo(place: Place) -> None:
    found = masters_of(place.edge)[place.instance.pid]
    assert found == replace(place.master(), trusted=None)  # it named its path itself, and no link matters


def test_a_fifo_without_its_name_is_a_problem_until_it_is_made_anew(place: Place) -> None:
    master = place.master()
    place.instance.remove_fifo()
    without = place.edge.check(master)
    assert (problem_of(without) or "").startswith("deleted: ")
    assert place.edge.find(place.instance.fifo, ROOTS_OWN) == without
    assert (problem_of(masters_of(place.edge)[master.id.pid]) or "").startswith("deleted: ")
    place.instance.renew_fifo()
    assert isinstance(without, Master)
    assert problem_of(place.edge.check(without)) is None


def test_after_its_end_nothing_is_left_of_an_instance(place: Place) -> None:
    master = place.master()
    place.instance.stop()
    assert place.edge.check(master) is None
    assert place.edge.find(place.instance.fifo, ROOTS_OWN) is None
    assert place.processes.of(master.id) == ()
    assert place.processes.descriptors(master.id.pid) == {}
    assert master.id.pid not in masters_of(place.edge)


def test_another_master_at_the_same_path_is_another(place: Place) -> None:
    first = place.master()
    place.instance.start_again()
    assert place.edge.check(first) is None
    second = place.master()
    assert second.id != first.id
    assert place.processes.of(first.id) == ()


def test_a_restart_keeps_the_process_and_its_fifo_is_closed_in_between(place: Place) -> None:
    before = place.master()
    workers = set(processes_of(place.processes, before)[1:])
    place.instance.begin_restart()
    between = place.edge.check(before)
    assert isinstance(between, Master)
    assert between.id == before.id
    assert (between.fifo_problem or "").startswith("closed: ")
    assert place.edge.find(place.instance.fifo, ROOTS_OWN) is None
    place.instance.wait_restarted()
    after = place.edge.check(between)
    assert isinstance(after, Master)
    assert (after.id, after.fifo_problem) == (before.id, None)
    assert not {process.id for process in processes_of(place.processes, after)} & {process.id for process in workers}


# -- roles, on a real uWSGI


def test_a_worker_is_loading_until_it_has_imported_the_app(start: Callable[..., RigUwsgi]) -> None:
    options = {"app": App.IMPORT_CLIENT, "mongo_uri": "mongodb://127.0.0.1:1", "import_pause_s": 1.0}
    rig = start(lazy_apps=True, processes=1, **options)
    master = master_of(ProcUwsgi(), rig.fifo)
    (old,) = rig.workers()
    rig.send(b"w")
    seen: list[Role] = []

    def loaded() -> bool:
        new = [role for pid, role in roles_of(master).items() if pid not in {old, master.id.pid}]
        seen.extend(new)
        return new == [Role.READY]

    wait_for(loaded, "the new worker is ready", within=WITHIN_S)
    assert set(seen) == {Role.LOADING, Role.READY}
    assert seen == sorted(seen, key=[Role.LOADING, Role.READY].index)


def test_mules_and_routers_are_neither_workers_nor_masters(start: Callable[..., RigUwsgi]) -> None:
    rig = start(processes=2, extra=["mule = true", f"http = 127.0.0.1:{free_port()}"])
    edge, master = ProcUwsgi(), master_of(ProcUwsgi(), rig.fifo)

    def settled() -> bool:
        return sorted(role.value for role in roles_of(master).values()) == [
            "master",
            "mule",
            "other",
            "ready",
            "ready",
        ]

    wait_for(settled, "two workers, a mule and a router", within=WITHIN_S)
    assert [pid for pid, role in roles_of(master).items() if role is Role.READY] == rig.ready_workers()
    assert not set(masters_of(edge)) & set(rig.workers())


def test_a_zombie_is_gone(start: Callable[..., RigUwsgi]) -> None:
    rig = start(processes=2)
    edge, master = ProcUwsgi(), master_of(ProcUwsgi(), rig.fifo)
    dead, alive = rig.workers()
    os.kill(master.id.pid, signal.SIGSTOP)  # so that nobody buries it
    try:
        os.kill(dead, signal.SIGKILL)
        wait_for(lambda: (stat_fields(dead) or [""])[0] == "Z", "it is a zombie", within=WITHIN_S)
        assert list(roles_of(master)) == [master.id.pid, alive]
        assert ProcProcesses().descriptors(dead) == {}
        assert edge.check(master) == master  # a stopped master is there
    finally:
        os.kill(master.id.pid, signal.SIGCONT)


@pytest.mark.parametrize("threads", [None, 3])
def test_io_moves_with_the_worker_that_serves_and_with_no_other(
    start: Callable[..., RigUwsgi], threads: int | None
) -> None:
    rig = start(processes=3, threads=threads)
    master = master_of(ProcUwsgi(), rig.fifo)

    def io() -> dict[int, int | None]:
        return {process.id.pid: process.io for process in processes_of(ProcProcesses(), master)[1:]}

    before = io()
    served = {rig.get("/healthz").worker for _ in range(4)}
    after = io()
    assert {pid for pid in after if after[pid] != before[pid]} == served


def test_workers_that_a_master_has_just_forked_are_loading_and_no_masters(tmp_path: Path) -> None:
    """Before it comes to run, a worker has its master's handlers and FIFO; here it never does, and becomes a rival."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with Started([sys.executable, "-c", IMITATION, str(fifo)], log=tmp_path / "log") as started:
        edge = ProcUwsgi()
        master = wait_for(lambda: edge.find(str(fifo), ROOTS_OWN), "the master reads its FIFO", within=WITHIN_S)
        assert isinstance(master, Master)
        assert master.id.pid == started.pid
        child = wait_for(lambda: procfs.children(started.pid), "the child", within=WITHIN_S).pop()
        seen, listed = roles_of(master)[child], child in masters_of(edge)
        born = procfs.stat(child)
        assert born is not None
        if procfs.age_s(born.start_ticks) < 2:  # a slow machine may see only what is no newborn any more
            assert (seen, listed) == (Role.LOADING, False)
        wait_for(lambda: roles_of(master)[child] is Role.MASTER, "it is older", within=WITHIN_S)


IMITATION = """
import os, signal, sys
for one in "HUP", "QUIT", "USR1", "TERM", "TSTP":
    signal.signal(getattr(signal, "SIG" + one), lambda *_: os._exit(0))
os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)
os.fork()
while True:
    signal.pause()
"""


# -- FIFOs, on a real uWSGI


def test_a_file_in_place_of_the_fifo_is_a_problem_with_a_mend_that_works(
    start: Callable[..., RigUwsgi],
) -> None:
    rig = start(processes=1)
    master = master_of(ProcUwsgi(), rig.fifo)
    rig.fifo.unlink()
    rig.fifo.write_text("w")
    found = ProcUwsgi().check(master)
    assert "is no FIFO any more" in (problem_of(found) or "")
    assert ProcUwsgi().find(str(rig.fifo), ROOTS_OWN) == found
    RealInstance(rig).renew_fifo()
    assert master_of(ProcUwsgi(), rig.fifo).id == master.id


def test_a_fifo_is_found_through_a_link_to_its_folder(start: Callable[..., RigUwsgi], tmp_path: Path) -> None:
    rig = start(processes=1)
    (tmp_path / "link").symlink_to(rig.fifo.parent)
    by_link = str(tmp_path / "link" / "fifo")
    assert ProcUwsgi().find(by_link, ROOTS_OWN) == replace(master_of(ProcUwsgi(), rig.fifo), fifo=by_link)


def test_a_master_that_switched_to_another_slot_does_not_read_the_first(
    start: Callable[..., RigUwsgi], tmp_path: Path
) -> None:
    second = tmp_path / "second"
    rig = start(processes=1, extra=[f"master-fifo = {second}"])
    edge, master = ProcUwsgi(), master_of(ProcUwsgi(), rig.fifo)
    rig.send(b"1")
    wait_for(lambda: edge.find(str(second), ROOTS_OWN), "the second slot is read", within=WITHIN_S)
    problem = problem_of(edge.check(master)) or ""
    assert problem.startswith("moved: ")
    assert str(second) in problem
    assert edge.find(str(rig.fifo), ROOTS_OWN) is None


def test_commands_do_not_disturb_what_is_known_of_the_master(start: Callable[..., RigUwsgi]) -> None:
    """It makes its FIFO anew after each byte."""
    rig = start(processes=1)
    edge, master = ProcUwsgi(), master_of(ProcUwsgi(), rig.fifo)
    for _ in range(20):
        old = os.open(rig.fifo, os.O_PATH)
        try:
            rig.send(b"s")
            wait_for(lambda old=old: os.fstat(old).st_nlink == 0, "a new FIFO", within=WITHIN_S)  # type: ignore[misc]
        finally:
            os.close(old)
        wait_for(lambda: edge.check(master) == master, "it is read", within=WITHIN_S)


def test_a_pipe_at_the_standard_input_is_no_master_fifo(tmp_path: Path) -> None:
    fifo = tmp_path / "input"
    os.mkfifo(fifo)
    reading = [sys.executable, "-c", IMITATION, str(tmp_path / "none")]
    script = IMITATION.replace("os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK)", "")
    descriptor = os.open(fifo, os.O_RDWR)
    command = f'exec "$0" -c "$1" < {fifo}'
    with Started(["sh", "-c", command, reading[0], script], log=tmp_path / "log") as started:
        wait_for(lambda: procfs.children(started.pid), "its handlers are set", within=WITHIN_S)
        os.close(descriptor)
        assert ProcUwsgi().find(str(fifo), ROOTS_OWN) is None
        assert started.pid not in masters_of(ProcUwsgi())


# -- two masters


@contextmanager
def forked(rig: RigUwsgi) -> Iterator[int]:
    """The pid of the master that `f` forks, in a session of its own, once it has the FIFO at the path."""
    rig.send(b"f")
    try:
        # Until it executes uWSGI anew it has what its parent has.
        wait_for(lambda: reads(rig.fifo, [rig.master]) is None, "the path is not the old one's", within=WITHIN_S)
        yield wait_for(lambda: reads(rig.fifo, procfs.children(rig.master)), "another master", within=WITHIN_S)
    finally:
        for pid in sessions_of(rig):
            os.killpg(pid, signal.SIGKILL)
        wait_for(lambda: not sessions_of(rig), "the end of the master that was forked", within=WITHIN_S)


def sessions_of(rig: RigUwsgi) -> list[int]:
    """The leaders of sessions but its own in its folder, where all of it is."""
    leaders = [pid for pid in procfs.pids() if pid != rig.master and (stat_fields(pid) or [""] * 4)[3] == str(pid)]
    return [pid for pid in leaders if (stat_fields(pid) or ["Z"])[0] != "Z" and folder_of(pid) == str(rig.folder)]


def folder_of(pid: int) -> str | None:
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return None


def reads(fifo: Path, pids: Iterable[int]) -> int | None:
    """Which of these processes has the FIFO at this path open."""
    return next((pid for pid in pids if str(fifo) in dict(procfs.links(pid)).values()), None)


def found_two(workers: set[int]) -> set[int] | None:
    return workers if len(workers) == 2 else None


def workers_of(master: int) -> set[int]:
    return {
        pid for pid in procfs.children(master) if role(procfs.caught(procfs.status(pid)), forked=True) is Role.READY
    }


def test_of_two_masters_the_one_that_hears_the_byte_is_found_and_the_other_one_is_told(
    start: Callable[..., RigUwsgi],
) -> None:
    rig = start(processes=2)
    edge, old = ProcUwsgi(), rig.master
    before = master_of(edge, rig.fifo)
    with forked(rig) as new:
        found = master_of(edge, rig.fifo)  # at once, though it is younger than NEWBORN_S
        assert (found.id.pid, [one.pid for one in found.rivals]) == (new, [old])
        said = f"two masters: {rig.fifo} is read by master {new}, which master {old} forked on the FIFO command `f`"
        assert (problem_of(found) or "").startswith(said)
        assert edge.check(found) == found
        assert replace(found, trusted=None) == masters_of(edge)[new]
        assert (problem_of(edge.check(before)) or "").startswith("deleted: ")

        wait_for(lambda: len(workers_of(new)) == 2, "its workers", within=WITHIN_S)
        others, its = workers_of(old), workers_of(new)
        rig.send(b"w")
        wait_for(lambda: len(workers_of(new) - its) == 2, "its new workers", within=WITHIN_S)
        assert workers_of(old) == others


def test_what_is_named_brings_two_masters_back_to_one_and_no_request_is_lost(start: Callable[..., RigUwsgi]) -> None:
    pid_file = "pidfile = master.pid"
    rig = start(processes=2, extra=[pid_file, "socket = other.sock"])
    old = rig.master
    with forked(rig) as new, Traffic(rig.address, rate=20, path="/healthz") as traffic:
        wait_for(lambda: len(workers_of(new)) == 2, "its workers", within=WITHIN_S)
        give_back, *end = mends(ProcUwsgi().find(str(rig.fifo), ROOTS_OWN))
        assert give_back == f"kill -HUP {old}"
        run(give_back)

        def back() -> Master | None:
            """The new one, which reads a FIFO that is gone, may be a worker for the first 2 s of its life."""
            one = ProcUwsgi().find(str(rig.fifo), ROOTS_OWN)
            return one if isinstance(one, Master) and (one.id.pid, len(one.rivals)) == (old, 1) else None

        found = wait_for(back, "the path is the old one's", within=WITHIN_S)
        said = f"two masters: {rig.fifo} is read by master {old}; master {new}, which it forked"
        assert (problem_of(found) or "").startswith(said)
        assert mends(found) == end == [f"kill -TSTP {new}", f"kill -INT {new}"]

        old_ones = wait_for(lambda: found_two(workers_of(old)), "the old one's new workers", within=WITHIN_S)
        run(end[0])
        last = 20  # in a row: those of the other one have answered what they had
        wait_for(
            lambda: len(done := traffic.requests[-last:]) == last and {one.worker for one in done} <= old_ones,
            "the old one's workers serve alone",
            within=WITHIN_S,
        )
        run(end[1])
        wait_for(lambda: reader(rig.fifo) == old, "the only one", within=WITHIN_S)
        assert not sessions_of(rig)
    assert all(one.status == HTTPStatus.OK for one in traffic.requests)
    assert (rig.folder / "master.pid").read_text().strip() == str(old)
    assert (rig.folder / "other.sock").is_socket()


def test_a_forked_master_that_cannot_start_leaves_a_path_that_nobody_reads_until_it_is_mended(
    start: Callable[..., RigUwsgi],
) -> None:
    """It makes the FIFO first, and ends where the port of the statistics is in use, which the old one has."""
    rig = start(processes=1, extra=[f"stats = 127.0.0.1:{free_port()}"])
    rig.send(b"f")
    wait_for(lambda: "exited with code 1" in rig.log.read_text(), "its end", within=WITHIN_S, log=rig.log)
    found = ProcUwsgi().find(str(rig.fifo), ROOTS_OWN)
    assert (problem_of(found) or "").startswith(f"deleted: {rig.fifo} is another FIFO")
    RealInstance(rig).renew_fifo()


def test_a_master_that_lost_its_path_to_a_stranger_is_told_with_who_has_it(start: Callable[..., RigUwsgi]) -> None:
    first = start("first", processes=1)
    second = start("second", processes=1, extra=[f"master-fifo = {first.fifo}"])
    second.send(b"1")  # the second one of its FIFOs
    wait_for(lambda: reads(first.fifo, [second.master]), "the path is another's", within=WITHIN_S)
    found = master_of(ProcUwsgi(), first.fifo)
    assert (found.id.pid, found.fifo_problem) == (second.master, None)  # which is certain
    assert [one.pid for one in found.rivals] == [first.master]
    watch = Watch((entry("shop", first.fifo),))
    (told,) = watch.look().not_covered
    assert told.startswith(
        f"uWSGI master {first.master} reads a FIFO {first.fifo} that is gone, since master {second.master}"
    )
    first.kill()
    checked = ProcUwsgi().check(found)
    assert isinstance(checked, Master)
    assert checked.rivals == ()
    assert watch.look().not_covered == ()


def test_two_that_have_the_very_same_fifo_are_told_since_nobody_knows_who_hears(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    script = IMITATION.replace("os.fork()", "")
    with ExitStack() as stack:
        both = [
            stack.enter_context(Started([sys.executable, "-c", script, str(fifo)], log=tmp_path / name))
            for name in ("first", "second")
        ]
        one, other = sorted(each.pid for each in both)
        edge = ProcUwsgi()

        def told() -> bool:
            found = edge.find(str(fifo), ROOTS_OWN)
            return isinstance(found, Master) and f"two masters: {one} and {other} both read" in (
                found.fifo_problem or ""
            )

        wait_for(told, "both are told", within=WITHIN_S)


# -- other instances on the host


def uwsgi(*options: str) -> list[str]:
    return [
        *fetch.uwsgi(),
        "--need-app",
        "--wsgi-file",
        str(WEB),
        "--pythonpath",
        str(fetch.pymongo()),
        *options,
    ]


@contextmanager
def running(argv: list[str], folder: Path) -> Iterator[int]:
    with Started(argv, log=folder / "log", env={"RIG_CLIENT": "none"}) as started:
        yield started.pid


def test_a_master_without_a_fifo_is_discovered_too(tmp_path: Path) -> None:
    with running(uwsgi("--master", "--http-socket", f"127.0.0.1:{free_port()}"), tmp_path) as pid:
        found = wait_for(lambda: masters_of(ProcUwsgi()).get(pid), "it is discovered", within=WITHIN_S)
        assert (found.fifo, found.fifo_problem) == ("", None)


def test_an_emperor_is_no_master_and_its_vassal_is_one(tmp_path: Path) -> None:
    vassals, wrapper, fifo = tmp_path / "vassals", tmp_path / "wrapper", tmp_path / "fifo"
    vassals.mkdir()
    options = uwsgi("--master", "--http-socket", f"127.0.0.1:{free_port()}", "--master-fifo", str(fifo))
    # By itself pyuwsgi would start Python as the vassal; uWSGI appends `--ini FILE`.
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(options)} "$@"\n')
    wrapper.chmod(0o755)
    (vassals / "shop.ini").write_text("[uwsgi]\n")
    emperor_options = ["--emperor", str(vassals), "--emperor-wrapper", str(wrapper)]
    with running([*fetch.uwsgi(), *emperor_options], tmp_path) as emperor:
        vassal = wait_for(lambda: ProcUwsgi().find(str(fifo), ROOTS_OWN), "the vassal", within=WITHIN_S)
        assert isinstance(vassal, Master)
        assert (procfs.stat(vassal.id.pid) or (None, None))[1] == emperor
        assert emperor not in masters_of(ProcUwsgi())


@pytest.mark.netns
def test_a_master_in_another_network_namespace_is_told_by_its_netns(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    with Namespace() as namespace:
        command = uwsgi("--master", "--http-socket", "127.0.0.1:8080", "--master-fifo", str(fifo))
        with namespace.entered(), ExitStack() as at_end:
            inside = Path("/proc/thread-self/ns/net").stat().st_ino
            at_end.enter_context(running(command, tmp_path))
            master = wait_for(lambda: ProcUwsgi().find(str(fifo), ROOTS_OWN), "the master", within=WITHIN_S)
            assert isinstance(master, Master)
            assert master.netns == inside


@needs_root
def test_a_fifo_is_found_in_another_mount_namespace_where_it_has_another_name(tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    mounted = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount --bind "$0" "$1" && shift && exec "$@"',
        str(ours),
        str(theirs),
    ]
    command = uwsgi("--master", "--http-socket", f"127.0.0.1:{free_port()}", "--master-fifo", str(theirs / "fifo"))
    with running([*mounted, *command], tmp_path):
        edge = ProcUwsgi()
        master = wait_for(lambda: edge.find(str(ours / "fifo"), ROOTS_OWN), "the master", within=WITHIN_S)
        assert isinstance(master, Master)
        assert master.fifo_problem is None
        assert edge.check(master) == master
        found = masters_of(edge)[master.id.pid]
        assert (found.fifo, found.here, found.fifo_problem) == (str(theirs / "fifo"), False, None)


# -- rights


@needs_root
def test_without_rights_a_master_is_blind_and_never_absent(start: Callable[..., RigUwsgi]) -> None:
    rig = start(processes=1)
    found = as_nobody(f"ProcUwsgi().find({str(rig.fifo)!r}, frozenset())")
    assert found.startswith("Blind(")
    assert "CAP_DAC_READ_SEARCH is missing" in found
    master = master_of(ProcUwsgi(), rig.fifo)
    check = f"ProcUwsgi().check({replace(master, fd=-1)!r})"
    assert as_nobody(check).startswith("Blind(")
    assert f"unreadable: process {master.id.pid} of user id 0" in as_nobody("ProcUwsgi().discover()")


@needs_root
def test_an_unreadable_master_is_not_taken_for_the_reader_of_another_users_fifo(
    start: Callable[..., RigUwsgi],
) -> None:
    start(processes=1)
    with tempfile.TemporaryDirectory() as folder:
        fifo = Path(folder) / "fifo"
        Path(folder).chmod(0o755)
        assert as_nobody(f"ProcUwsgi().find({str(fifo)!r}, frozenset())").startswith("Blind(")
        os.mkfifo(fifo)
        os.chown(fifo, SOMEBODY, SOMEBODY)
        assert as_nobody(f"ProcUwsgi().find({str(fifo)!r}, frozenset())") == "None"


@needs_root
def test_a_proc_that_hides_the_processes_of_others_is_blind() -> None:
    hidden = ("unshare", "--mount", "sh", "-c", 'mount -t proc -o hidepid=2 proc /proc && exec "$0" "$@"')
    for expression in ("ProcUwsgi().find('/run/uwsgi/fifo', frozenset())", "ProcUwsgi().discover()"):
        answer = as_nobody(expression, before=hidden)
        assert answer.startswith("Blind(")
        assert "hidepid" in answer


def test_a_process_id_that_means_another_process_by_now_is_gone(start: Callable[..., RigUwsgi]) -> None:
    rig = start(processes=1)
    master = master_of(ProcUwsgi(), rig.fifo)
    other = ProcessId(master.id.pid, master.id.start_ticks + 1)
    assert ProcProcesses().of(other) == ()
    assert ProcUwsgi().check(Master(other, master.fifo, 0, None, fd=master.fd, link=master.link)) is None
