import ast
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import pytest

from rig.processes import wait_for
from tests.integration.nobody import DAC_READ_SEARCH, NOBODY, SYS_PTRACE, as_nobody, needs_root
from tests.world.processes import FakeProcesses
from watchdogd.model.seen import Role
from watchdogd.observe import procfs
from watchdogd.observe.processes import Processes, ProcProcesses

WITHIN_S = 20.0


# -- descriptors, of a process and in the world


class Holder(Protocol):
    """A process that holds one socket."""

    @property
    def pid(self) -> int: ...
    @property
    def fd(self) -> int: ...
    @property
    def inode(self) -> int: ...
    def lets_go(self) -> None: ...


class RealHolder:
    """Another process, which our socket is handed to."""

    def __init__(self, at_end: ExitStack, **options: int) -> None:
        with socket.socket() as one:
            self.fd, self.inode = one.fileno(), os.fstat(one.fileno()).st_ino
            self._process = at_end.enter_context(
                subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[self.fd], **options)  # type: ignore[call-overload]
            )
        self.pid: int = self._process.pid

    def lets_go(self) -> None:
        self._process.communicate(timeout=WITHIN_S)


class FakeHolder:
    """The same in a world of values."""

    def __init__(self, world: FakeProcesses) -> None:
        self._process = world.start(Role.READY)
        self.pid, self.inode = self._process.id.pid, 4711
        self.fd = self._process.holds(self.inode)

    def lets_go(self) -> None:
        self._process.lets_go(self.inode)


@pytest.fixture(params=["real", "fake"])
def holding(request: pytest.FixtureRequest) -> Iterator[tuple[Processes, Holder]]:
    with ExitStack() as at_end:
        world = FakeProcesses()
        fake = request.param == "fake"
        yield (world, FakeHolder(world)) if fake else (ProcProcesses(), RealHolder(at_end))


def test_a_socket_is_at_its_descriptor_as_long_as_it_is_held(holding: tuple[Processes, Holder]) -> None:
    edge, holder = holding
    assert edge.descriptors(holder.pid) == {holder.fd: holder.inode}
    assert edge.still(holder.pid, holder.fd, holder.inode)
    holder.lets_go()
    assert edge.descriptors(holder.pid) == {}
    assert not edge.still(holder.pid, holder.fd, holder.inode)


def test_another_socket_at_the_same_descriptor_is_not_still_the_first(holding: tuple[Processes, Holder]) -> None:
    edge, holder = holding
    assert not edge.still(holder.pid, holder.fd, holder.inode + 1)
    assert not edge.still(holder.pid, holder.fd + 1, holder.inode)


# -- threads

WAITS = """
import sys, threading, time
never = threading.Lock()
never.acquire()
def polls():
    while not never.acquire(timeout=0.02):
        pass
threading.Thread(target=never.acquire, daemon=True).start()
threading.Thread(target=polls, daemon=True).start()
print("ready", flush=True)
sys.stdin.read()
"""


@contextmanager
def waiting() -> Iterator["subprocess.Popen[str]"]:
    """A process whose main thread reads its input, beside one that waits for a lock for ever and one that polls one."""
    with subprocess.Popen(
        [sys.executable, "-c", WAITS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_threads_that_wait_for_a_lock_are_in_a_futex_and_wake_as_often_as_they_poll() -> None:
    with waiting() as process:
        edge = ProcProcesses()

        def settled() -> dict[int, int] | None:
            found = edge.threads(process.pid)
            assert isinstance(found, dict)
            assert len(found) == 3
            assert found[process.pid] is None or found[process.pid] == 0 or process.poll() is None
            futex = {thread: switches for thread, switches in found.items() if switches is not None}
            return futex if len(futex) == 2 and process.pid not in futex else None

        first = wait_for(settled, "two threads wait for a lock, and the main one for its input", within=WITHIN_S)

        def woken() -> dict[int, int] | None:
            now = settled()
            return now if now and max(now[one] - first[one] for one in first) >= 10 else None

        later = wait_for(woken, "one of them has woken ten times", within=WITHIN_S)
        assert min(later[one] - first[one] for one in first) == 0
        process.communicate(timeout=WITHIN_S)
    assert edge.threads(process.pid) == {}


def test_a_process_is_single_as_long_as_it_has_one_thread(holding: tuple[Processes, Holder]) -> None:
    edge, holder = holding
    assert edge.threads(holder.pid) == {holder.pid if isinstance(edge, ProcProcesses) else 0: None}


def test_a_thread_that_sleeps_does_not_run_and_one_that_polls_does() -> None:
    with waiting() as process:
        edge = ProcProcesses()

        def asleep() -> dict[int, int] | None:
            now = edge.runs(process.pid)
            found = {thread: count for thread, count in now.items() if count is not None}
            return found if len(found) == len(now) == 3 else None

        first = wait_for(asleep, "no thread runs just now", within=WITHIN_S)

        def run() -> dict[int, int] | None:
            now = asleep()
            return now if now and max(now[one] - first[one] for one in first) >= 10 else None

        later = wait_for(run, "one of them has run ten times", within=WITHIN_S)
        assert sorted(later[one] > first[one] for one in first if one != process.pid) == [False, True]
        process.communicate(timeout=WITHIN_S)
    assert edge.runs(process.pid) == {}


def test_a_thread_that_computes_is_seen_to_run() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            edge = ProcProcesses()
            wait_for(lambda: edge.runs(process.pid) == {process.pid: None}, "it computes", within=WITHIN_S)
        finally:
            process.kill()


# -- rights


@needs_root
@pytest.mark.parametrize(
    ("rights", "told"),
    [
        (0, "CAP_DAC_READ_SEARCH is missing"),
        (SYS_PTRACE, "CAP_DAC_READ_SEARCH is missing"),
        (DAC_READ_SEARCH, "CAP_SYS_PTRACE is missing"),
    ],
)
def test_descriptors_of_another_user_are_blind_and_the_missing_right_is_named(rights: int, told: str) -> None:
    with ExitStack() as at_end:
        holder = RealHolder(at_end)
        answer = as_nobody(f"ProcProcesses().descriptors({holder.pid})", rights)
        assert answer.startswith("Blind(")
        assert told in answer
        assert f"process {holder.pid} of user id 0" in answer
        assert as_nobody(f"ProcProcesses().still({holder.pid}, {holder.fd}, {holder.inode})", rights) == "True"


@needs_root
@pytest.mark.parametrize("rights", [0, SYS_PTRACE, DAC_READ_SEARCH])
def test_threads_of_another_user_are_blind_without_both_rights(rights: int) -> None:
    with ExitStack() as at_end:
        holder = RealHolder(at_end)
        answer = as_nobody(f"ProcProcesses().threads({holder.pid})", rights)
        assert answer.startswith("Blind(")
        assert "CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH" in answer
        both = as_nobody(f"ProcProcesses().threads({holder.pid})", SYS_PTRACE | DAC_READ_SEARCH)
        assert ast.literal_eval(both) == {holder.pid: None}


@needs_root
@pytest.mark.parametrize(
    ("user", "rights"),
    [(0, DAC_READ_SEARCH | SYS_PTRACE), (NOBODY, 0)],
    ids=["both capabilities", "same user"],
)
def test_both_capabilities_or_the_same_user_are_enough(user: int, rights: int) -> None:
    with ExitStack() as at_end:
        holder = RealHolder(at_end, user=user, group=user)
        answer = as_nobody(f"ProcProcesses().descriptors({holder.pid})", rights)
        assert ast.literal_eval(answer) == {holder.fd: holder.inode}
        assert as_nobody(f"ProcProcesses().protocol({holder.pid}, {holder.fd})", rights) == "'TCP'"


# -- /proc itself


def test_children_are_the_same_by_list_and_by_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as at_end:
        pids = {at_end.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE)).pid for _ in range(3)}
        listed = procfs.children(os.getpid())
        monkeypatch.setattr(procfs, "_listed_children", lambda _: None)  # a kernel without CONFIG_PROC_CHILDREN
        assert procfs.children(os.getpid()) == listed
        assert pids <= listed


def test_children_of_any_thread_are_found() -> None:
    with ExitStack() as at_end:
        born: list[int] = []
        go_on = threading.Event()

        def fork_in_a_thread() -> None:
            born.append(at_end.enter_context(subprocess.Popen(["cat"], stdin=subprocess.PIPE)).pid)
            go_on.wait(WITHIN_S)

        thread = threading.Thread(target=fork_in_a_thread)
        thread.start()
        try:
            wait_for(lambda: born, "the child", within=WITHIN_S)
            assert set(born) <= procfs.children(os.getpid())
        finally:
            go_on.set()
            thread.join()
