import os
import select
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Protocol

import pytest

from rig.processes import wait_for
from rig.uwsgi import App, Uwsgi
from tests.world.fifo import FakeFifo
from watchdogd.act.fifo import FLAGS, Attempt, attempt, perform
from watchdogd.model import CHAIN, RESTART, WORKERS, Command, ProcessId, Result, SendFifo

ROOT = Path(__file__).resolve().parents[2]
ME = os.geteuid()
NOBODY = 65534
needs_root = pytest.mark.skipif(ME != 0, reason="only root can be, or give a file to, somebody else")


class RealFifo:
    """A FIFO on the disk with a reader that stays."""

    def __init__(self, path: Path, *, exists: bool = True, read: bool = True, is_fifo: bool = True) -> None:
        self.path = str(path)
        self.owner = ME
        self.attempt: Attempt = attempt
        self._reader: int | None = None
        if exists and is_fifo:
            os.mkfifo(path, 0o600)
        elif exists:
            path.touch()
        if read and exists and is_fifo:
            self._reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)

    @property
    def commands(self) -> list[Command]:
        """What arrived, each once: uWSGI takes a byte at a time."""
        assert self._reader is not None
        return [Command(chr(byte)) for byte in os.read(self._reader, 65536)]

    def close(self) -> None:
        if self._reader is not None:
            os.close(self._reader)


class Edge(Protocol):
    """What the fake and the real one share."""

    path: str
    owner: int

    @property
    def attempt(self) -> Attempt: ...
    @property
    def commands(self) -> list[Command]: ...


@pytest.fixture(params=["fake", "real"])
def edge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Edge]]:
    """Makes a FIFO of the kind that the test asks for, in the world and on the disk."""
    with ExitStack() as at_end:

        def make(**kind: bool) -> Edge:
            if request.param == "fake":
                fake = FakeFifo("/run/uwsgi/fifo")
                vars(fake).update(kind)
                return fake
            return at_end.enter_context(closing(RealFifo(tmp_path / "fifo", **kind)))

        yield make


@pytest.mark.parametrize("command", [WORKERS, CHAIN, RESTART])
def test_a_command_arrives_as_exactly_one_byte(edge: Callable[..., Edge], command: Command) -> None:
    fifo = edge()
    assert fifo.attempt(fifo.path, command, fifo.owner) == (Result.WRITTEN, "")
    assert fifo.commands == [command]


@pytest.mark.parametrize("byte", ["q", "Q", "W", "R", "f", "C", "p", "s", "0", "", "ww", "w\n", "\0"])
def test_no_other_byte_is_ever_written(edge: Callable[..., Edge], byte: str) -> None:
    fifo = edge()
    result, why = fifo.attempt(fifo.path, Command(byte), fifo.owner)
    assert result is Result.REFUSED
    assert "only w, c and r" in why
    assert fifo.attempt(fifo.path, WORKERS, fifo.owner)[0] is Result.WRITTEN
    assert fifo.commands == [WORKERS]


def test_a_missing_fifo_is_tried_again(edge: Callable[..., Edge]) -> None:
    fifo = edge(exists=False)
    assert fifo.attempt(fifo.path, WORKERS, fifo.owner)[0] is Result.TRY_AGAIN


def test_a_fifo_without_a_reader_is_tried_again(edge: Callable[..., Edge]) -> None:
    fifo = edge(read=False)
    assert fifo.attempt(fifo.path, WORKERS, fifo.owner)[0] is Result.TRY_AGAIN


def test_what_is_not_a_fifo_is_refused(edge: Callable[..., Edge]) -> None:
    fifo = edge(is_fifo=False)
    assert fifo.attempt(fifo.path, WORKERS, fifo.owner)[0] is Result.REFUSED


def test_a_fifo_of_somebody_else_than_its_reader_is_refused_and_left_alone(edge: Callable[..., Edge]) -> None:
    fifo = edge()
    assert fifo.attempt(fifo.path, WORKERS, fifo.owner + 1)[0] is Result.REFUSED
    assert fifo.attempt(fifo.path, CHAIN, fifo.owner)[0] is Result.WRITTEN
    assert fifo.commands == [CHAIN]


def test_without_a_known_reader_nothing_is_written(edge: Callable[..., Edge]) -> None:
    fifo = edge()
    assert fifo.attempt(fifo.path, WORKERS, None)[0] is Result.REFUSED


# ----------------------------------------------------------------------------------------- the real one alone


def test_a_missing_path_is_never_created(tmp_path: Path) -> None:
    assert not FLAGS & (os.O_CREAT | os.O_TRUNC)
    missing = tmp_path / "fifo"
    result, why = attempt(str(missing), WORKERS, ME)
    assert (result, list(tmp_path.iterdir())) == (Result.TRY_AGAIN, [])
    assert str(missing) in why
    assert "does not exist" in why


def test_a_regular_file_keeps_its_content_and_the_mend_is_said(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    path.write_text("w\n")
    result, why = attempt(str(path), WORKERS, ME)
    assert result is Result.REFUSED
    assert path.read_text() == "w\n"
    assert "regular file" in why
    assert "remove it and restart the instance" in why


def test_a_directory_is_refused(tmp_path: Path) -> None:
    result, why = attempt(str(tmp_path), WORKERS, ME)
    assert result is Result.REFUSED
    assert "directory" in why


def test_a_device_is_refused() -> None:
    result, why = attempt("/dev/null", WORKERS, 0)
    assert result is Result.REFUSED
    assert "not a FIFO" in why


def test_a_path_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert attempt(str(tmp_path / "file" / "fifo"), WORKERS, ME)[0] is Result.REFUSED


@pytest.mark.parametrize("path", ["/" + "x" * 5000, "/" + "x" * 300, "/tmp/a\0b"])
def test_what_cannot_be_a_path_is_refused(path: str) -> None:
    assert attempt(path, WORKERS, ME)[0] is Result.REFUSED


def test_a_symbolic_link_is_not_followed_even_to_a_good_fifo(tmp_path: Path) -> None:
    link = tmp_path / "link"
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        link.symlink_to(fifo.path)
        result, why = attempt(str(link), WORKERS, ME)
        assert result is Result.REFUSED
        assert "symbolic link" in why
        assert attempt(fifo.path, CHAIN, ME)[0] is Result.WRITTEN
        assert fifo.commands == [CHAIN]


def test_a_full_pipe_is_tried_again_at_once(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        filler = os.open(fifo.path, os.O_WRONLY | os.O_NONBLOCK)
        os.write(filler, b"s" * 65536)
        result, why = attempt(fifo.path, WORKERS, ME)
        os.close(filler)
    assert result is Result.TRY_AGAIN
    assert "full" in why


@needs_root
def test_a_fifo_that_somebody_else_made_is_refused_with_both_owners(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        os.chown(fifo.path, NOBODY, NOBODY)
        result, why = attempt(fifo.path, WORKERS, ME)
        assert result is Result.REFUSED
        assert f"uid {NOBODY}" in why
        assert f"uid {ME}" in why
        assert attempt(fifo.path, WORKERS, NOBODY)[0] is Result.WRITTEN


@needs_root
def test_without_the_right_to_write_it_says_which_user_or_capability_is_needed() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)
        with closing(RealFifo(Path(folder, "fifo"))) as fifo:
            os.seteuid(NOBODY)
            try:
                result, why = attempt(fifo.path, WORKERS, ME)
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

    def run(self) -> None:
        poll = select.poll()
        poll.register(self._fifo, select.POLLIN)
        self._read_and_renew(poll)
        os.close(self._fifo)

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
            result, _why = attempt(str(reader.path), WORKERS, ME)
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
        results = {attempt(str(reader.path), WORKERS, ME)[0] for _ in range(3000)}
    finally:
        reader.leave.set()
        reader.join(5)
    assert reader.broken is None
    assert results <= {Result.WRITTEN, Result.TRY_AGAIN}
    assert stat.S_ISFIFO(reader.path.stat().st_mode)


# ------------------------------------------------------------------------------------------------- real uWSGI


@pytest.fixture(scope="module")
def uwsgi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uwsgi]:
    with Uwsgi(tmp_path_factory.mktemp("uwsgi"), app=App.NO_CLIENT, processes=2) as instance:
        yield instance


@pytest.mark.parametrize("command", [WORKERS, CHAIN, RESTART])
def test_one_command_gives_a_real_uwsgi_new_workers_under_the_same_master(uwsgi: Uwsgi, command: Command) -> None:
    master, old = uwsgi.master, uwsgi.wait_ready()
    assert written(uwsgi, command) is Result.WRITTEN
    new = uwsgi.wait_ready(other_than=old)
    assert len(new) == len(old)
    assert uwsgi.master == master
    assert uwsgi.running
    assert uwsgi.get().status == 200


def test_what_is_refused_leaves_a_real_uwsgi_and_its_fifo_untouched(uwsgi: Uwsgi, tmp_path: Path) -> None:
    workers = uwsgi.wait_ready()
    made_at = uwsgi.fifo.stat().st_ctime_ns
    (tmp_path / "link").symlink_to(uwsgi.fifo)
    assert attempt(str(tmp_path / "link"), WORKERS, ME)[0] is Result.REFUSED
    assert attempt(str(uwsgi.fifo), WORKERS, ME + 1)[0] is Result.REFUSED
    assert attempt(str(uwsgi.fifo), Command("q"), ME)[0] is Result.REFUSED
    time.sleep(1.1)  # a tick of the master's loop: the claim is that nothing happens in it
    assert uwsgi.workers() == workers
    assert uwsgi.fifo.stat().st_ctime_ns == made_at


def test_the_fifo_that_a_killed_master_left_is_tried_again_not_waited_for(tmp_path: Path) -> None:
    with Uwsgi(tmp_path / "uwsgi", app=App.NO_CLIENT, processes=1) as instance:
        instance.kill()
        assert instance.fifo.is_fifo()
        result, why = attempt(str(instance.fifo), WORKERS, ME)
    assert result is Result.TRY_AGAIN
    assert "no reader" in why


def written(uwsgi: Uwsgi, command: Command) -> Result:
    """Attempts as policy does: again while the master is just making its FIFO anew."""

    def tried() -> Result | None:
        result, _ = attempt(str(uwsgi.fifo), command, ME)
        return None if result is Result.TRY_AGAIN else result

    return wait_for(tried, "an attempt that is not TRY_AGAIN", within=5)


# ---------------------------------------------------------------------------------------------------- perform


def effect(path: str, command: Command = WORKERS) -> SendFifo:
    master, worker = ProcessId(100, 1), ProcessId(101, 2)
    return SendFifo("shop-1", "shop", path, command, master, frozenset({worker}), ME)


def test_a_changed_world_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        outcome = perform(effect(fifo.path), lambda _: "worker 101 is gone", lambda: 12.5)
        assert outcome.result is Result.CHANGED
        assert (outcome.id, outcome.at, outcome.detail) == ("shop-1", 12.5, "worker 101 is gone")
        assert attempt(fifo.path, CHAIN, ME)[0] is Result.WRITTEN
        assert fifo.commands == [CHAIN]


def test_an_unchanged_world_gets_one_byte_after_the_last_look(tmp_path: Path) -> None:
    with closing(RealFifo(tmp_path / "fifo")) as fifo:
        wanted = effect(fifo.path, RESTART)
        looked: list[SendFifo] = []
        outcome = perform(wanted, looked.append, lambda: 12.5)
        assert (outcome.result, outcome.detail, outcome.at) == (Result.WRITTEN, "", 12.5)
        assert looked == [wanted]
        assert fifo.commands == [RESTART]


def test_a_failed_attempt_is_made_once_and_told() -> None:
    fifo = FakeFifo("/run/uwsgi/fifo", scripted=[Result.TRY_AGAIN, Result.WRITTEN], owner=ME)
    outcome = perform(effect(fifo.path), lambda _: None, lambda: 1.0, fifo.attempt)
    assert outcome.result is Result.TRY_AGAIN
    assert fifo.commands == []


def test_a_privileged_helper_gets_nothing_but_the_model_with_it() -> None:
    shows = "import sys, watchdogd.act.fifo; print(*(one for one in sys.modules if one.startswith('watchdogd')))"
    command = [sys.executable, "-c", shows]
    imported = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    assert set(imported.split()) == {"watchdogd", "watchdogd.model", "watchdogd.act", "watchdogd.act.fifo"}
