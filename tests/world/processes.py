"""Processes in a world of values: who forked whom, what each is, and which sockets it holds, as the test says.

It stands for `watchdogd.observe.processes.ProcProcesses`; tests/integration/test_processes.py and test_uwsgi.py run the
same assertions on both.
"""

import itertools
from dataclasses import dataclass, field
from typing import Final

from watchdogd.model.base import ProcessId
from watchdogd.model.seen import Blind, Role
from watchdogd.observe.processes import Process

OUR_NETNS: Final = 4026531833


@dataclass(eq=False)
class FakeProcess:
    """One process. `sockets`: inode by descriptor. While `refused` is set its descriptors may not be read."""

    id: ProcessId
    role: Role
    parent: ProcessId | None = None
    io: int = 0
    sockets: dict[int, int] = field(default_factory=dict)
    refused: str | None = None
    # Switches of each thread that is in a futex; None for one that waits for something else.
    threads: dict[int, int | None] = field(default_factory=lambda: {0: None})

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
        return tuple(Process(one.id, one.role, one.io) for one in (known, *self.children(known)))

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

    def protocol(self, pid: int, fd: int) -> str:
        known = self.alive.get(pid)
        return "" if known is None or known.refused or fd not in known.sockets else "TCP"

    def netns(self) -> int:
        return OUR_NETNS
