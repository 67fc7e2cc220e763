import os
import select
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from rig.processes import wait_for
from rig.uwsgi import App, Uwsgi
from tests.world.fifo import FakeFifo
from watchdogd.act.fifo import FLAGS, LOOK_BEFORE_S, PASSED, attempt, perform
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command, InstanceId, ProcessId
from watchdogd.model.done import Moment, Result, SendFifo
from watchdogd.model.seen import Blind
from watchdogd.observe import procfs
from watchdogd.observe.uwsgi import Master, ProcUwsgi

ROOT = Path(__file__).resolve().parents[2]
ME = os.geteuid()
NOBODY = 65534
needs_root = pytest.mark.skipif(ME != 0, reason="only root can be, or give a file to, somebody else")


@contextmanager
def held(path: str | Path) -> Iterator[int]:
    """A descriptor of what is at the path, as the daemon has one: O_PATH, which nobody notices."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attempt_at(path: str | Path, command: Command, uid: int | None) -> tuple[Result, str]:
    """One attempt by a descriptor of what is at the path now."""
    with held(path) as fifo:
        return attempt(fifo, str(path), command, uid)


class RealFifo:
    """A FIFO on the disk with a reader that stays."""

    def __init__(self, path: Path, *, read: bool = True, is_fifo: bool = True) -> None:
        self.path = str(path)
        self.owner = ME
        self._reader: int | None = None
        if is_fifo:
            os.mkfifo(path, 0o600)
        else:
            path.touch()
        self.fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if read and is_fifo:
            self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def commands(self) -> list[Command]:
        """What arrived, each once: uWSGI takes a byte at a time."""
        assert self._reader is not None
        return [Command(chr(byte)) for byte in os.read(self._reader, 65536)]

    def write(self, command: Command, uid: int | None = ME) -> tuple[Result, str]:
        return attempt(self.fd, self.path, command, uid)

    def lose_its_reader(self) -> None:
        if self._reader is not None:
            os.close(self._reader)
            self._reader = None

    def close(self) -> None:
        self.lose_its_reader()
        os.close(self.fd)


class Edge(Protocol):
    """What the fake and the real one share."""

    owner: int

    @property
    def commands(self) -> list[Command]: ...
    def write(self, command: Command, uid: int | None) -> tuple[Result, str]: ...


class InTheWorld:
    """The fake, with a descriptor that means nothing there."""

    def __init__(self, **kind: bool) -> None:
        self._fake = FakeFifo("/run/uwsgi/fifo")
        vars(self._fake).update(kind)
        self.owner, self.commands = self._fake.owner, self._fake.commands

    def write(self, command: Command, uid: int | None) -> tuple[Result, str]:
        return self._fake.attempt(-1, self._fake.path, command, uid)


@pytest.fixture(params=["fake", "real"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Edge]]:
    """Makes a FIFO of the kind that the test asks for, in the world and on the disk."""
    with ExitStack() as at_end:

        def make(**kind: bool) -> Edge:
            if request.param == "fake":
                return InTheWorld(**kind)
            return at_end.enter_context(closing(RealFifo(tmp_path / "fifo", **kind)))

        yield make


@pytest.mark.parametrize("command", Command)
def test_a_command_arrives_as_exactly_one_byte(edge: Callable[..., Edge], command: Command) -> None:
    fifo = edge()
    assert fifo.write(command, fifo.owner) == (Result.WRITTEN, "")
    assert fifo.commands == [command]


@pytest.mark.parametrize("byte", ["q", "Q", "W", "R", "f", "C", "p", "s", "0", "", "ww", "w\n", "\0"])
def test_no_other_byte_is_a_command(byte: str) -> None:
    with pytest.raises(ValueError, match="is not a valid Command"):
        Command(byte)


def test_a_fifo_without_a_reader_is_tried_again(edge: Callable[..., Edge]) -> None:
    fifo = edge(read=False)
    assert fifo.write(WORKERS, fifo.owner)[0] is Result.TRY_AGAIN


def test_what_is_not_a_fifo_is_refused(edge: Callable[..., Edge]) -> None:
    fifo = edge(is_fifo=False)
    assert fifo.write(WORKERS, fifo.owner)[0] is Result.REFUSED


def test_a_fifo_of_somebody_else_than_its_reader_is_refused_and_left_alone(edge: Callable[..., Edge]) -> None:
    fifo = edge()
    assert fifo.write(WORKERS, fifo.owner + 1)[0] is Result.REFUSED
    assert fifo.write(CHAIN, fifo.owner)[0] is Result.WRITTEN
    assert fifo.commands == [CHAIN]


def test_without_a_known_reader_nothing_is_written(edge: Callable[..., Edge]) -> None:
    fifo = edge()
    assert fifo.write(WORKERS, None)[0] is Result.REFUSED


# ----------------------------------------------------------------------------------------- the real one alone


def test_a_path_that_was_taken_away_is_never_made_again(tmp_path: Path) -> None:
    assert not FLAGS & (os.O_CREAT | os.O_TRUNC)
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        Path(fifo.path).unlink()
        fifo.lose_its_reader()
        result, why = fifo.write(WORKERS, ME)
    assert (result, list(tmp_path.iterdir())) == (Result.TRY_AGAIN, [])
    assert fifo.path in why
    assert "no reader" in why


def test_whatever_has_come_to_stand_at_the_path_the_byte_goes_to_what_was_looked_at(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo, closing(RealFifo(tmp_path / "other")) as other:
        Path(fifo.path).unlink()
        Path(fifo.path).symlink_to(other.path)
        assert fifo.write(WORKERS, ME) == (Result.WRITTEN, "")
        assert other.write(CHAIN, ME) == (Result.WRITTEN, "")
        assert (fifo.commands, other.commands) == ([WORKERS], [CHAIN])


def test_a_regular_file_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    path.write_text("w\n")
    result, why = attempt_at(path, CHAIN, ME)
    assert (result, why) == (Result.REFUSED, f"{path} is not a FIFO")
    assert path.read_text() == "w\n"


def a_directory(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def a_link_to_a_fifo(path: Path) -> None:
    os.mkfifo(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("make", [a_directory, a_socket, a_link_to_a_fifo])
def test_a_descriptor_of_anything_else_is_refused(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "it")
    assert attempt_at(tmp_path / "it", WORKERS, ME) == (Result.REFUSED, f"{tmp_path}/it is not a FIFO")


def test_a_device_is_refused() -> None:
    assert attempt_at("/dev/null", WORKERS, 0) == (Result.REFUSED, "/dev/null is not a FIFO")


def test_a_descriptor_that_is_closed_by_now_is_no_crash(tmp_path: Path) -> None:
    with held(tmp_path) as descriptor:
        pass
    result, why = attempt(descriptor, "/run/uwsgi/fifo", WORKERS, ME)
    assert result is Result.TRY_AGAIN
    assert "/run/uwsgi/fifo cannot be written: Bad file descriptor" in why


def test_a_full_pipe_is_tried_again_at_once(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        filler = os.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(filler, b"s" * 65536)
        result, why = fifo.write(WORKERS, ME)
        os.close(filler)
    assert result is Result.TRY_AGAIN
    assert "full" in why


@needs_root
def test_a_fifo_that_somebody_else_made_is_refused_with_both_owners(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        os.chown(fifo.path, NOBODY, NOBODY)
        result, why = fifo.write(WORKERS, ME)
        assert result is Result.REFUSED
        assert f"uid {NOBODY}" in why
        assert f"uid {ME}" in why
        assert fifo.write(WORKERS, NOBODY)[0] is Result.WRITTEN


@needs_root
def test_without_the_right_to_write_it_says_which_user_or_capability_is_needed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with closing(RealFifo(Path(folder, "fifo"))) as fifo:
            os.seteuid(NOBODY)
            try:
                result, why = fifo.write(WORKERS, ME)
            finally:
                os.seteuid(ME)
    assert result is Result.REFUSED
    assert f"uid {NOBODY}" in why
    assert "CAP_DAC_OVERRIDE" in why


class Renewing(threading.Thread):
    """Reads a FIFO as uWSGI does (core/fifo.c): after every end of file close, unlink and mkfifo.

    It ends with an error where something stands at the path in that moment, as the master of uWSGI would.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.executed = 0
        self.renewed = 0
        self.broken: str | None = None
        self.leave = threading.Event()
        os.mkfifo(path, 0o600)
        self._fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        known = procfs.stat(os.getpid())
        assert known is not None
        self._master = Master(ProcessId(os.getpid(), known.start_ticks), str(path), ME, None, trusted=frozenset())

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        self._read_and_renew(poll)
        os.close(self._fifo)

    def write(self) -> Result:
        """One attempt as the daemon makes it: by the descriptor that the reader has open now."""
        return attempt_of(replace(self._master, fd=self._fifo))

    def wait_renewed(self, times: int) -> None:
        wait_for(lambda: self.renewed >= times or self.broken, f"the FIFO made anew {times} times", within=5)

    def _read_and_renew(self, poll: select.poll) -> None:
        while not self.leave.is_set():
            if not poll.poll(50):
                continue
            try:
                received = os.read(self._fifo, 1)
            except BlockingIOError:  # one writer closed, the next one has opened since
                continue
            if received:
                self.executed += received == b"w"
                continue
            poll.unregister(self._fifo)
            os.close(self._fifo)
            self.path.unlink()
            try:
                os.mkfifo(self.path, 0o600)
            except FileExistsError as error:
                self.broken = str(error)
            self._fifo = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)
            if self.broken:
                return
            self.renewed += 1
            poll.register(self._fifo, select.POLLIN)


def test_500_writes_to_a_fifo_that_is_made_anew_each_time_never_disturb_its_maker(tmp_path: Path) -> None:
    reader = Renewing(tmp_path / "fifo")
    reader.start()
    results = []
    try:
        for _ in range(500):
            renewed = reader.renewed
            result = reader.write()
            results.append(result)
            if result is Result.WRITTEN:
                reader.wait_renewed(renewed + 1)
    finally:
        reader.leave.set()
        reader.join(5)
    assert reader.broken is None
    assert set(results) <= {Result.WRITTEN, Result.TRY_AGAIN}
    assert reader.executed == results.count(Result.WRITTEN) > 250


def test_writing_into_the_moments_of_renewal_never_disturbs_the_maker(tmp_path: Path) -> None:
    reader = Renewing(tmp_path / "fifo")
    reader.start()
    try:
        results = [reader.write() for _ in range(3000)]
    finally:
        reader.leave.set()
        reader.join(5)
    assert reader.broken is None
    assert set(results) <= {Result.WRITTEN, Result.TRY_AGAIN}
    assert list(tmp_path.iterdir()) == [reader.path]
    assert stat.S_ISFIFO(reader.path.stat().st_mode)


READER = """
import collections, os, select, signal, sys
path, counted, go_on = sys.argv[1], collections.Counter(), True
def stop(*_):
    global go_on
    go_on = False
signal.signal(signal.SIGTERM, stop)
os.mkfifo(path, 0o600)
fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
print(fifo, flush=True)
while go_on or select.select([fifo], [], [], 0)[0]:
    if not select.select([fifo], [], [], 0.05)[0]:
        continue
    try:
        received = os.read(fifo, 1)
    except BlockingIOError:
        continue
    counted[received] += 1
    if not received:
        os.close(fifo)
        os.unlink(path)
        os.mkfifo(path, 0o600)
        fifo = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
print(counted[b"w"], counted[b"c"], flush=True)
"""
OTHER = """
import os, sys, time
while True:
    try:
        fifo = os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        continue
    try:
        os.write(fifo, b"s")
    except OSError:
        pass
    os.close(fifo)
    time.sleep(0.0003)
"""


def test_beside_another_writer_a_byte_that_is_called_written_is_hardly_ever_lost(tmp_path: Path) -> None:
    """As by a path: a writer that opens the FIFO while its reader closes it writes for nobody (2 of 20 673).

    Where reader or writer are preempted in between, more often: 37 of 2 424 on a busy machine. So each byte by the
    descriptor has one by the path beside it, and what these lose in the same run is allowed for.
    """
    path = tmp_path / "fifo"
    with ExitStack() as at_end:

        def start(script: str) -> "subprocess.Popen[str]":
            command = [sys.executable, "-c", script, str(path)]
            one = at_end.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            at_end.callback(one.kill)
            return one

        reader = start(READER)
        assert reader.stdout is not None
        fd = int(reader.stdout.readline())
        other = start(OTHER)
        known = procfs.stat(reader.pid)
        assert known is not None
        master = Master(ProcessId(reader.pid, known.start_ticks), str(path), ME, None, fd=fd, trusted=frozenset())
        both = [(attempt_of(master), attempt_by_path(path)) for _ in range(3000)]
        other.kill()
        reader.terminate()
        executed, by_path = map(int, reader.stdout.readline().split())
    results, beside = zip(*both, strict=True)
    assert set(results) == {Result.WRITTEN, Result.TRY_AGAIN}
    written = results.count(Result.WRITTEN)
    assert written > 100
    lost_by_path = beside.count(Result.WRITTEN) - by_path
    assert 0 <= written - executed <= 3 + 0.005 * written + 2 * lost_by_path


def attempt_by_path(path: Path) -> Result | None:
    """What becomes of a byte by what is at the path; None where nothing is."""
    try:
        return attempt_at(path, CHAIN, ME)[0]
    except FileNotFoundError:
        return None


def attempt_of(master: Master) -> Result:
    fifo = ProcUwsgi().descriptor(master)
    if not isinstance(fifo, int):
        return fifo[0]
    try:
        return attempt(fifo, master.fifo, WORKERS, ME)[0]
    finally:
        os.close(fifo)


# ------------------------------------------------------------------------------------------------- real uWSGI


@pytest.fixture(scope="module")
def uwsgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uwsgi]:
    with Uwsgi(tmp_path_factory.mktemp("uwsgi"), app=App.NO_CLIENT, processes=2) as instance:
        yield instance


@pytest.mark.parametrize("command", Command)
def test_one_command_gives_a_real_uwsgi_new_workers_under_the_same_master(uwsgi: Uwsgi, command: Command) -> None:
    master, old = uwsgi.master, uwsgi.wait_ready()
    assert written(uwsgi, command) is Result.WRITTEN
    new = uwsgi.wait_ready(other_than=old)
    assert len(new) == len(old)
    assert uwsgi.master == master
    assert uwsgi.running
    assert uwsgi.get().status == 200


def test_what_is_refused_leaves_a_real_uwsgi_and_its_fifo_untouched(uwsgi: Uwsgi) -> None:
    workers = uwsgi.wait_ready()
    made_at = uwsgi.fifo.stat().st_ctime_ns
    assert attempt_on(uwsgi, WORKERS, ME + 1)[0] is Result.REFUSED
    time.sleep(1.1)  # a tick of the master's loop: the claim is that nothing happens in it
    assert uwsgi.workers() == workers
    assert uwsgi.fifo.stat().st_ctime_ns == made_at


def test_to_take_a_descriptor_of_its_fifo_is_nothing_that_a_real_uwsgi_notices(uwsgi: Uwsgi) -> None:
    """To open and close it would: then it makes it anew."""
    uwsgi.wait_ready()
    made_at, master = uwsgi.fifo.stat().st_ctime_ns, master_of(uwsgi)
    for _ in range(100):
        fifo = ProcUwsgi().descriptor(master)
        assert isinstance(fifo, int)
        os.close(fifo)
    time.sleep(1.1)  # as above
    assert uwsgi.fifo.stat().st_ctime_ns == made_at


def test_a_fifo_that_its_master_has_made_anew_since_the_look_is_tried_again(uwsgi: Uwsgi) -> None:
    old = uwsgi.wait_ready()
    looked_at = wait_for(lambda: descriptor_of(uwsgi), "a descriptor of its FIFO", within=5)
    try:
        uwsgi.send(b"s")
        wait_for(lambda: os.fstat(looked_at).st_nlink == 0, "another FIFO", within=5)
        wait_for(lambda: descriptor_of(uwsgi, close=True), "it is read", within=5)
        result, why = attempt(looked_at, str(uwsgi.fifo), WORKERS, ME)
        assert result is Result.TRY_AGAIN
        assert "no reader" in why
    finally:
        os.close(looked_at)
    assert uwsgi.workers() == old
    assert written(uwsgi, WORKERS) is Result.WRITTEN
    uwsgi.wait_ready(other_than=old)


def test_while_a_real_uwsgi_makes_its_fifo_anew_all_the_time_no_write_disturbs_it(uwsgi: Uwsgi) -> None:
    old, master = uwsgi.wait_ready(), uwsgi.master
    beside = {path.name for path in uwsgi.folder.iterdir()}
    with held(uwsgi.fifo) as first, subprocess.Popen([sys.executable, "-c", OTHER, str(uwsgi.fifo)]) as other:
        try:
            wait_for(
                lambda: os.fstat(first).st_nlink == 0, "a write of the other one, after which it is new", within=10
            )
            results = [attempt_on(uwsgi, WORKERS)[0] for _ in range(300)]
        finally:
            other.kill()
    assert {Result.WRITTEN} <= set(results) <= {Result.WRITTEN, Result.TRY_AGAIN}
    uwsgi.wait_ready(other_than=old)
    assert (uwsgi.master, uwsgi.running) == (master, True)
    assert {path.name for path in uwsgi.folder.iterdir()} == beside
    assert uwsgi.fifo.is_fifo()


def test_the_fifo_that_a_killed_master_left_is_tried_again_not_waited_for(tmp_path: Path) -> None:
    with Uwsgi(tmp_path / "uwsgi", app=App.NO_CLIENT, processes=1) as instance, held(instance.fifo) as fifo:
        instance.kill()
        assert instance.fifo.is_fifo()
        result, why = attempt(fifo, str(instance.fifo), WORKERS, ME)
    assert result is Result.TRY_AGAIN
    assert "no reader" in why


def master_of(uwsgi: Uwsgi) -> Master:
    def found() -> Master | None:
        master = ProcUwsgi().find(str(uwsgi.fifo), frozenset())
        assert not isinstance(master, Blind)
        return master

    return wait_for(found, "its master", within=5)


def descriptor_of(uwsgi: Uwsgi, *, close: bool = False) -> int | None:
    """From the master's own table; None while it makes its FIFO anew."""
    fifo = ProcUwsgi().descriptor(master_of(uwsgi))
    if not isinstance(fifo, int):
        assert fifo[0] is Result.TRY_AGAIN, fifo
        return None
    if close:
        os.close(fifo)
    return fifo


def attempt_on(uwsgi: Uwsgi, command: Command, uid: int = ME) -> tuple[Result, str]:
    """One attempt as the daemon makes it."""
    fifo = descriptor_of(uwsgi)
    if fifo is None:
        return Result.TRY_AGAIN, ""
    try:
        return attempt(fifo, str(uwsgi.fifo), command, uid)
    finally:
        os.close(fifo)


def written(uwsgi: Uwsgi, command: Command) -> Result:
    """Attempts as policy does: again while the master is just making its FIFO anew."""

    def tried() -> Result | None:
        result, _ = attempt_on(uwsgi, command)
        return None if result is Result.TRY_AGAIN else result

    return wait_for(tried, "an attempt that is not TRY_AGAIN", within=5)


# ---------------------------------------------------------------------------------------------------- perform


def effect(path: str, command: Command = WORKERS) -> SendFifo:
    master, worker = ProcessId(100, 1), ProcessId(101, 2)
    return SendFifo("shop-1", InstanceId(path), path, command, master, frozenset({worker}), ME)


@pytest.mark.parametrize("result", [Result.CHANGED, Result.TRY_AGAIN, Result.REFUSED])
def test_what_the_last_look_gives_instead_of_a_descriptor_is_told_and_nothing_is_written(
    tmp_path: Path, result: Result
) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        outcome = perform(effect(fifo.path), lambda _: (result, "worker 101 is gone"), lambda: 12.5)
        assert (outcome.id, outcome.result, outcome.at, outcome.detail) == (
            "shop-1",
            result,
            12.5,
            "worker 101 is gone",
        )
        assert fifo.write(CHAIN)[0] is Result.WRITTEN
        assert fifo.commands == [CHAIN]


def test_an_unchanged_world_gets_one_byte_after_the_last_look(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        wanted = effect(fifo.path, RESTART)
        looked: list[SendFifo] = []

        def look(effect: SendFifo) -> int:
            looked.append(effect)
            return os.dup(fifo.fd)

        outcome = perform(wanted, look, lambda: 12.5)
        assert (outcome.result, outcome.detail, outcome.at) == (Result.WRITTEN, "", 12.5)
        assert looked == [wanted]
        assert fifo.commands == [RESTART]


def test_a_failed_attempt_is_made_once_and_told(tmp_path: Path) -> None:
    fifo = FakeFifo("/run/uwsgi/fifo", scripted=[Result.TRY_AGAIN, Result.WRITTEN], owner=ME)
    outcome = perform(effect(fifo.path), lambda _: os.open(tmp_path, os.O_PATH), lambda: 1.0, fifo.attempt)
    assert outcome.result is Result.TRY_AGAIN
    assert fifo.commands == []


def test_a_byte_that_has_a_moment_is_written_in_it_after_a_look_right_before(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        begin = time.monotonic() + 0.1
        looked: list[float] = []

        def look(_: SendFifo) -> int:
            looked.append(time.monotonic())
            return os.dup(fifo.fd)

        def write(
            fifo: int, path: str, command: Command, uid: int | None, moment: Moment | None = None
        ) -> tuple[Result, str]:
            result = attempt(fifo, path, command, uid, moment)
            looked.append(time.monotonic())
            return result

        aimed = replace(effect(fifo.path), moment=Moment(begin, begin + 60))
        assert perform(aimed, look, time.monotonic, write).result is Result.WRITTEN
        assert looked[0] >= begin - LOOK_BEFORE_S - 0.001
        assert looked[1] >= begin
        assert fifo.commands == [WORKERS]


def test_a_byte_whose_moment_has_passed_is_not_written(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        now = time.monotonic()
        late = replace(effect(fifo.path), moment=Moment(now - 2, now - 1))
        outcome = perform(late, lambda _: os.dup(fifo.fd), time.monotonic)
        assert (outcome.result, outcome.detail) == (Result.TRY_AGAIN, PASSED)
        assert fifo.write(CHAIN)[0] is Result.WRITTEN
        assert fifo.commands == [CHAIN]


def test_a_moment_that_is_far_away_holds_nobody_up(tmp_path: Path) -> None:
    """Who decides asks for one that is near; whatever it asks for, a tick must go on."""
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        begun = time.monotonic()
        far = replace(effect(fifo.path), moment=Moment(begun + 600, begun + 601))
        assert perform(far, lambda _: os.dup(fifo.fd), time.monotonic).result is Result.TRY_AGAIN
        assert time.monotonic() - begun < 10
        assert fifo.write(CHAIN)[0] is Result.WRITTEN
        assert fifo.commands == [CHAIN]


def descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def raising(
    fifo: int, path: str, command: Command, uid: int | None, moment: Moment | None = None
) -> tuple[Result, str]:
    raise RuntimeError(fifo, path, command, uid, moment)


def test_the_descriptor_of_the_last_look_is_closed_whatever_becomes_of_the_attempt(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        before = descriptors()
        perform(effect(fifo.path), lambda _: os.dup(fifo.fd), lambda: 1.0)
        perform(replace(effect(fifo.path), uid=ME + 1), lambda _: os.dup(fifo.fd), lambda: 1.0)
        with pytest.raises(RuntimeError):
            perform(effect(fifo.path), lambda _: os.dup(fifo.fd), lambda: 1.0, raising)
        assert descriptors() == before


def test_a_privileged_helper_gets_nothing_but_the_model_with_it() -> None:
    shows = "import sys, watchdogd.act.fifo; print(*(one for one in sys.modules if one.startswith('watchdogd')))"
    command = [sys.executable, "-c", shows]
    imported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    words = {f"watchdogd.model{name}" for name in ("", ".base", ".done")}
    assert set(imported.split()) == {"watchdogd", "watchdogd.act", "watchdogd.act.fifo"} | words
