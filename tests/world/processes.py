"""uWSGI instances in a world of values: masters, workers and descriptors as the test says.

It stands for `watchdogd.observe.uwsgi.ProcFs`; tests/integration/test_uwsgi.py runs the same assertions on both.
"""

import itertools
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from watchdogd.model import Blind, ProcessId, Result, Role
from watchdogd.observe.uwsgi import Master, Process

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

    def holds(self, inode: int) -> int:
        """Opens or inherits a socket; returns the descriptor."""
        fd = next(fd for fd in itertools.count(3) if fd not in self.sockets)
        self.sockets[fd] = inode
        return fd

    def lets_go(self, inode: int) -> None:
        """Closes a socket."""
        self.sockets = {fd: held for fd, held in self.sockets.items() if held != inode}


@dataclass
class FakeUwsgi:
    """All uWSGI instances of a host; processes are numbered from 1000 and never get a number twice."""

    masters: dict[ProcessId, Master] = field(default_factory=dict)
    alive: dict[int, FakeProcess] = field(default_factory=dict)
    blind: str | None = None  # /proc hides the processes of others
    _pids: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1000))

    def start(
        self,
        fifo: str,
        workers: int = 2,
        *,
        uid: int = 33,
        netns: int | None = OUR_NETNS,
        role: Role = Role.READY,
    ) -> FakeProcess:
        """An instance starts; an empty path means that it has no master FIFO."""
        process = self._new(Role.MASTER)
        self.masters[process.id] = Master(process.id, fifo, uid, netns, fd=21 if fifo else -1, link=fifo)
        for _ in range(workers):
            self.fork(process, role)
        return process

    def fork(self, master: FakeProcess, role: Role = Role.READY) -> FakeProcess:
        """The master forks a worker or something else, which inherits its sockets."""
        process = self._new(role, master.id)
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
            self.masters.pop(process.id, None)

    def restart(self, master: FakeProcess) -> None:
        """What `r` begins: the master executes itself, with no child, socket or FIFO until `started`."""
        self.end(*self.children(master))
        master.sockets.clear()
        problem = f"closed: master {master.id.pid} has no FIFO open; it opens it at the end of its start or restart"
        self._change(master, fifo_problem=problem, fd=-1, link="")

    def started(self, master: FakeProcess, workers: int = 2) -> None:
        """What `r` ends with."""
        for _ in range(workers):
            self.fork(master)
        self.renew_fifo(master)

    def remove_fifo(self, master: FakeProcess) -> None:
        """Somebody removes or replaces the name of the FIFO."""
        fifo = self.masters[master.id].fifo
        problem = f"deleted: {fifo} is gone, and master {master.id.pid} still reads the old one"
        self._change(master, fifo_problem=problem, link=f"{fifo} (deleted)")

    def renew_fifo(self, master: FakeProcess) -> None:
        """The master makes its FIFO anew, as it does after every byte."""
        self._change(master, fifo_problem=None, fd=21, link=self.masters[master.id].fifo)

    def _new(self, role: Role, parent: ProcessId | None = None) -> FakeProcess:
        pid = next(self._pids)
        self.alive[pid] = FakeProcess(ProcessId(pid, 10 * pid), role, parent)
        return self.alive[pid]

    def _change(self, master: FakeProcess, *, fifo_problem: str | None, link: str, fd: int = 21) -> None:
        known = self.masters[master.id]
        self.masters[master.id] = replace(known, fifo_problem=fifo_problem, link=link, fd=fd)

    # -- the edge

    def find(self, fifo: str, trusted: frozenset[int]) -> Master | Blind | None:
        refusals = {master: self.alive[master.pid].refused for master in self.masters}
        reading = [one for one in self.masters.values() if one.fifo == fifo and one.link and not refusals[one.id]]
        if reading:
            return replace(min(reading, key=lambda master: master.fifo_problem is not None), trusted=trusted)
        why = next(filter(None, refusals.values()), self.blind)
        return Blind("", why) if why else None

    def check(self, master: Master) -> Master | Blind | None:
        if master.id not in self.masters:
            return None
        refused = self.alive[master.id.pid].refused
        return Blind("", refused) if refused else replace(self.masters[master.id], trusted=master.trusted)

    def descriptor(self, master: Master) -> int | tuple[Result, str]:
        if master.id not in self.masters:
            return Result.CHANGED, f"master {master.id.pid} has ended"
        real = Path(master.fifo)  # of a test that has one; whoever takes it closes it
        return os.open(real if real.exists() else os.devnull, os.O_PATH | os.O_CLOEXEC)

    def discover(self) -> tuple[Master, ...] | Blind:
        found = []
        for master in self.masters.values():
            if refused := self.alive[master.id.pid].refused:
                found.append(replace(master, fifo="", fifo_problem=f"unreadable: {refused}", fd=-1, link=""))
            elif master.link or not master.fifo:
                found.append(master)
        return Blind("", self.blind) if self.blind and not found else tuple(found)

    def processes(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        if self.blind:
            return Blind("", self.blind)
        known = self.alive.get(master.pid)
        if known is None or known.id != master:
            return ()
        return tuple(Process(one.id, one.role, one.io) for one in (known, *self.children(known)))

    def descriptors(self, pid: int) -> dict[int, int] | Blind:
        known = self.alive.get(pid)
        if known is None:
            return {}
        return Blind("", known.refused) if known.refused else dict(known.sockets)

    def still(self, pid: int, fd: int, inode: int) -> bool:
        known = self.alive.get(pid)
        return known is not None and (known.refused is not None or known.sockets.get(fd) == inode)

    def netns(self) -> int:
        return OUR_NETNS
