"""The end of a hung worker of a real uWSGI, and of nobody else."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from rig.hang import BESIDE, HANG, Hang
from rig.processes import stat_fields, wait_for
from rig.traffic import Traffic
from rig.uwsgi import App, Uwsgi
from tests.integration.masters import Watch, entry
from tests.integration.nobody import DAC_READ_SEARCH, NOBODY, as_nobody, needs_root
from tests.integration.test_hung import DEADLOCKED, JUDGED_WITHIN_S, an_app, launched, with_a_hung_worker
from watchdogd.act.end import kill, perform
from watchdogd.model.base import ProcessId
from watchdogd.model.done import EndProcess, Outcome, Result
from watchdogd.model.seen import Instance

# From the end of a hung worker until another one is ready: 0.3 to 0.6 s were measured, and uWSGI's tick is 1 s.
REPLACED_WITHIN_S = 2.0


@dataclass(eq=False)
class Ender:
    """Sees one instance, and ends what hangs of it as the daemon does."""

    app: Uwsgi

    def __post_init__(self) -> None:
        self._watch = Watch((entry("shop", self.app.fifo),))

    def hung(self, *pids: int) -> list[EndProcess]:
        """What to do about these, once they are seen to hang."""

        def seen() -> Instance | None:
            one = self._watch.seen("shop")
            found = {worker.id.pid for worker in one.workers if worker.hung}
            return one if found == set(pids) else None

        one = wait_for(seen, f"{pids} are seen to hang", within=JUDGED_WITHIN_S)
        return [self.about(worker.id.pid, one) for worker in one.workers if worker.hung]

    def about(self, pid: int, one: Instance | None = None) -> EndProcess:
        """What it would be about any of its workers."""
        one = one or self._watch.seen("shop")
        assert one.master is not None
        (process,) = [worker.id for worker in one.workers if worker.id.pid == pid]
        return EndProcess(f"shop-{pid}", one.id, one.master, process, one.uid)

    def end(self, effect: EndProcess) -> Outcome:
        """As the daemon does at each tick, again where it was just running."""

        def tried() -> Outcome | None:
            outcome = perform(effect, self._watch.observer.last_look_to_end, time.monotonic)
            return None if outcome.result is Result.TRY_AGAIN else outcome

        return wait_for(tried, "an outcome that is not TRY_AGAIN", within=5)


def alive(pid: int) -> bool:
    fields = stat_fields(pid)
    return fields is not None and fields[0] not in "ZX"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "3600"]) as process:
        yield process
        process.kill()


# -- a hung worker of uWSGI


def test_a_hung_worker_is_ended_and_replaced_and_no_request_of_the_others_fails(tmp_path: Path) -> None:
    with with_a_hung_worker(tmp_path, wsgi_file=Uwsgi.wsgi_file, extra=BESIDE) as (app, hung):
        ender = Ender(app)
        (effect,) = ender.hung(hung)
        others = app.ready_workers()
        begun = time.monotonic()
        with Traffic(app.address, rate=20) as traffic, app.busy(1) as busy:
            wait_for(lambda: len(traffic.requests) >= 10, "traffic", within=10)
            assert ender.end(effect).result is Result.ENDED
            ended = time.monotonic()
            assert not alive(hung)
            new = app.wait_ready(other_than=[hung], within=10)
            assert time.monotonic() - ended < REPLACED_WITHIN_S
            assert set(others) < set(new)
            assert set(busy) <= set(others)
            wait_for(lambda: any(one.worker in set(new) - set(others) for one in traffic.requests), "work", within=10)
        assert traffic.failed_between(begun, time.monotonic()) == []
        assert app.ready_workers() == new


def test_all_of_a_first_generation_that_hang_are_ended_in_one_go(tmp_path: Path) -> None:
    with Hang(tmp_path) as hang, ExitStack() as stack:
        app = Uwsgi(tmp_path, app=App.NO_CLIENT, wsgi_file=HANG, processes=4)
        stack.callback(app.kill)
        hung = hang.first_of(app)
        ender = Ender(app)
        effects = ender.hung(*hung)
        others = app.ready_workers()
        hang.let_go()
        assert [ender.end(effect).result for effect in effects] == [Result.ENDED] * len(hung)
        assert set(app.wait_ready(other_than=hung)) > set(others)


def test_what_is_deadlocked_in_its_own_code_is_not_ended(tmp_path: Path) -> None:
    with launched(tmp_path, wsgi_file=an_app(tmp_path, DEADLOCKED), processes=1) as app:
        wait_for(lambda: app.workers() and app.fifo.exists(), "it is forked", within=20)
        (pid,) = app.workers()
        ender = Ender(app)
        (effect,) = ender.hung(pid)
        outcome = ender.end(effect)
        assert outcome.result is Result.CHANGED
        assert outcome.detail == f"process {pid} does not wait for Python's GIL alone any more"
        assert alive(pid)


def test_a_worker_that_is_ready_is_not_ended(tmp_path: Path) -> None:
    with Uwsgi(tmp_path, app=App.NO_CLIENT, warm=False) as app:
        pid = app.ready_workers()[0]
        ender = Ender(app)
        assert ender.end(ender.about(pid)).result is Result.CHANGED
        assert alive(pid)


def test_another_process_of_its_number_is_not_ended_nor_one_that_has_another_master(tmp_path: Path) -> None:
    with with_a_hung_worker(tmp_path) as (app, hung):
        ender = Ender(app)
        (effect,) = ender.hung(hung)
        earlier = ProcessId(hung, effect.process.start_ticks - 1)
        for other in (
            replace(effect, process=earlier),
            replace(effect, master=ProcessId(app.master, effect.master.start_ticks - 1)),
            replace(effect, master=ProcessId(os.getpid(), effect.master.start_ticks)),
        ):
            assert ender.end(other).result is Result.CHANGED
        assert alive(hung)
        os.kill(hung, signal.SIGKILL)
        new = app.wait_ready(other_than=[hung])
        outcome = ender.end(effect)
        assert outcome.result is Result.CHANGED
        assert app.ready_workers() == new


def test_one_that_somebody_stopped_is_not_ended(tmp_path: Path) -> None:
    with with_a_hung_worker(tmp_path) as (app, hung):
        ender = Ender(app)
        (effect,) = ender.hung(hung)
        os.kill(hung, signal.SIGSTOP)
        wait_for(lambda: (stat_fields(hung) or "?")[0] == "T", "it is stopped", within=10)
        outcome = ender.end(effect)
        assert outcome.result is Result.CHANGED
        assert "SIGSTOP" in outcome.detail
        assert alive(hung)


# -- any process, by its pidfd


@contextmanager
def pidfd_of(process: "subprocess.Popen[bytes]") -> Iterator[int]:
    pidfd = os.pidfd_open(process.pid)
    try:
        yield pidfd
    finally:
        os.close(pidfd)


def test_what_is_told_to_be_ended_is_dead(sleeper: "subprocess.Popen[bytes]") -> None:
    with pidfd_of(sleeper) as pidfd:
        assert kill(pidfd, sleeper.pid, 0) == (Result.ENDED, "")
        assert not alive(sleeper.pid)
        assert kill(pidfd, sleeper.pid, 0) == (Result.ENDED, "")  # dead, and nobody has asked after it yet
        assert sleeper.wait(timeout=10) == -signal.SIGKILL
        result, why = kill(pidfd, sleeper.pid, 0)
    assert result is Result.CHANGED
    assert why == f"process {sleeper.pid} had ended by itself"


@needs_root
def test_who_may_not_end_it_says_who_could_and_that_it_is_safe(sleeper: "subprocess.Popen[bytes]") -> None:
    killing = "__import__('watchdogd.act.end').act.end.kill(os.pidfd_open({0}), {0}, 0)"
    answer = as_nobody(killing.format(sleeper.pid), DAC_READ_SEARCH)  # to load Python, wherever it is
    assert "Result.REFUSED" in answer
    assert f"user id {NOBODY} may not end it" in answer
    assert f"`kill -9 {sleeper.pid}`" in answer
    assert alive(sleeper.pid)


def test_one_that_is_not_dead_in_time_is_tried_again(
    sleeper: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "pidfd_send_signal", lambda *_: None)
    with pidfd_of(sleeper) as pidfd:
        result, why = kill(pidfd, sleeper.pid, 0)
    assert result is Result.TRY_AGAIN
    assert "not dead yet" in why


def test_what_is_no_pidfd_is_refused(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_PATH)
    try:
        assert kill(descriptor, 4711, 0)[0] is Result.REFUSED
    finally:
        os.close(descriptor)
