"""Processes in a world of values: who forked whom, what each is, and which sockets it holds, as the test says.

It stands for `watchdogd.observe.processes.ProcProcesses`; tests/integration/test_processes.py and test_uwsgi.py run the
same assertions on both.
"""

import itertools
import os
from dataclasses import dataclass, field
from typing import Final

from watchdogd.model.base import ProcessId
from watchdogd.model.done import Result
from watchdogd.model.seen import Blind, Role
from watchdogd.observe.locks import Lock, Wait
from watchdogd.observe.processes import JUDGED, Process

COMPUTES: Final = Wait("R", 1, 0, ignores_hup=False, catches_alrm=False)
SLEEPS: Final = COMPUTES._replace(state="S")
FOR_THE_GIL: Final = SLEEPS._replace(lock=Lock(0x7F00_0000_1000, in_python=True, forever=False))
FOR_ITS_OWN: Final = SLEEPS._replace(lock=Lock(0x5500_0000_1000, in_python=False, forever=True))

OUR_NETNS: Final = 4026531833


@dataclass(eq=False)
class FakeProcess:
    """One process. `sockets`: inode by descriptor. While `refused` is set its descriptors may not be read.

    `wait`: what it waits for while it is a worker that is not ready, or a mule.
    """

    id: ProcessId
    role: Role
    parent: ProcessId | None = None
    io: int = 0
    sockets: dict[int, int] = field(default_factory=dict)
    refused: str | None = None
    # Switches of each thread that is in a futex; None for one that waits for something else.
    threads: dict[int, int | None] = field(default_factory=lambda: {0: None})
    wait: Wait = SLEEPS
    # How often each thread was switched away; None for one that runs.
    runs: dict[int, int | None] = field(default_factory=dict)

    def read(self) -> Process:
        """What a look shows of it."""
        return Process(self.id, self.role, self.io, self.wait if self.role in JUDGED else None)

    def holds(self, inode: int) -> int:
        """Opens or inherits a socket; returns the descriptor."""
        fd = next(fd for fd in itertools.count(3) if fd not in self.sockets)
        self.sockets[fd] = inode
        return fd

    def lets_go(self, inode: int) -> None:
        """Closes a socket."""
        self.sockets = {fd: held for fd, held in self.sockets.items() if held != inode}


@dataclass
class FakeProcesses:
    """All processes of a host, numbered from 1000; none ever gets the number of another one."""

    alive: dict[int, FakeProcess] = field(default_factory=dict)
    blind: str | None = None  # /proc hides the processes of others
    _pids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1000))

    def start(self, role: Role, parent: ProcessId | None = None) -> FakeProcess:
        """A process starts, and holds nothing."""
        pid = next(self._pids)
        self.alive[pid] = FakeProcess(ProcessId(pid, 10 * pid), role, parent)
        return self.alive[pid]

    def fork(self, master: FakeProcess, role: Role = Role.READY) -> FakeProcess:
        """The master forks a worker or something else, which inherits its sockets."""
        process = self.start(role, master.id)
        process.sockets = dict(master.sockets)
        return process

    def children(self, master: FakeProcess) -> list[FakeProcess]:
        """The master's children, in the order of their birth."""
        return [process for process in self.alive.values() if process.parent == master.id]

    def end(self, *processes: FakeProcess) -> None:
        """They end, and a master's children with it."""
        for process in processes:
            self.end(*self.children(process))
            self.alive.pop(process.id.pid, None)

    # -- the edge

    def of(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        if self.blind:
            return Blind(self.blind)
        known = self.alive.get(master.pid)
        if known is None or known.id != master:
            return ()
        return tuple(one.read() for one in (known, *self.children(known)))

    def descriptors(self, pid: int) -> dict[int, int] | Blind:
        known = self.alive.get(pid)
        if known is None:
            return {}
        return Blind(known.refused) if known.refused else dict(known.sockets)

    def still(self, pid: int, fd: int, inode: int) -> bool:
        known = self.alive.get(pid)
        return known is not None and (known.refused is not None or known.sockets.get(fd) == inode)

    def threads(self, pid: int) -> dict[int, int | None] | Blind:
        known = self.alive.get(pid)
        if known is None:
            return {}
        return Blind(known.refused) if known.refused else dict(known.threads)

    def runs(self, pid: int) -> dict[int, int | None]:
        known = self.alive.get(pid)
        return dict(known.runs) if known else {}

    def protocol(self, pid: int, fd: int) -> str:
        known = self.alive.get(pid)
        return "" if known is None or known.refused or fd not in known.sockets else "TCP"

    def pidfd(self, pid: int) -> int | tuple[Result, str]:
        """One that is never signalled here: of our own process."""
        return os.pidfd_open(os.getpid()) if pid in self.alive else (Result.CHANGED, f"process {pid} has ended")

    def netns(self) -> int:
        return OUR_NETNS
