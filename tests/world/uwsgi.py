"""uWSGI instances in a world of values: masters and their FIFOs as the test says.

It stands for `watchdogd.observe.uwsgi.ProcUwsgi`; tests/integration/test_uwsgi.py runs the same assertions on both.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.world.processes import OUR_NETNS, FakeProcess, FakeProcesses
from watchdogd.model.base import ProcessId
from watchdogd.model.done import Result
from watchdogd.model.seen import Blind, Role
from watchdogd.observe.uwsgi import Master


@dataclass
class FakeUwsgi:
    """All uWSGI instances of a host, among its processes."""

    processes: FakeProcesses = field(default_factory=FakeProcesses)
    handed: dict[ProcessId, str] = field(default_factory=dict)  # why these may not be restarted
    _started: dict[ProcessId, Master] = field(default_factory=dict)

    @property
    def masters(self) -> dict[ProcessId, Master]:
        """Those that have not ended."""
        alive = {process.id for process in self.processes.alive.values()}
        return {id_: _alone(one, alive) for id_, one in self._started.items() if id_ in alive}

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
        process = self.processes.start(Role.MASTER)
        self._started[process.id] = Master(process.id, fifo, uid, netns, fd=21 if fifo else -1, link=fifo)
        for _ in range(workers):
            self.processes.fork(process, role)
        return process

    def fork_master(self, master: FakeProcess, workers: int = 2) -> FakeProcess:
        """What the FIFO command `f` does: another master, the child of this one, makes the FIFO at the path anew."""
        forked = self.processes.fork(master, Role.MASTER)
        self._started[forked.id] = replace(self.masters[master.id], id=forked.id)
        for _ in range(workers):
            self.processes.fork(forked)
        self.take_path(forked, master)
        return forked

    def take_path(self, master: FakeProcess, other: FakeProcess) -> None:
        """One of two masters makes the FIFO at the path of both anew."""
        self.remove_fifo(other)
        self.renew_fifo(master)
        fifo = self.masters[master.id].fifo
        problem = f"two masters: {fifo} is read by master {master.id.pid}, and not by {other.id.pid}"
        self._started[master.id] = replace(self._started[master.id], fifo_problem=problem, rivals=(other.id,))

    def restart(self, master: FakeProcess) -> None:
        """What `r` begins: the master executes itself, with no child, socket or FIFO until `started`."""
        self.processes.end(*self.processes.children(master))
        master.sockets.clear()
        problem = f"closed: master {master.id.pid} has no FIFO open; it opens it at the end of its start or restart"
        self._change(master, fifo_problem=problem, fd=-1, link="")

    def started(self, master: FakeProcess, workers: int = 2) -> None:
        """What `r` ends with."""
        for _ in range(workers):
            self.processes.fork(master)
        self.renew_fifo(master)

    def remove_fifo(self, master: FakeProcess) -> None:
        """Somebody removes or replaces the name of the FIFO."""
        fifo = self.masters[master.id].fifo
        problem = f"deleted: {fifo} is gone, and master {master.id.pid} still reads the old one"
        self._change(master, fifo_problem=problem, link=f"{fifo} (deleted)")

    def renew_fifo(self, master: FakeProcess) -> None:
        """The master makes its FIFO anew, as it does after every byte."""
        self._change(master, fifo_problem=None, fd=21, link=self.masters[master.id].fifo)

    def _change(self, master: FakeProcess, *, fifo_problem: str | None, link: str, fd: int = 21) -> None:
        known = self._started[master.id]
        self._started[master.id] = replace(known, fifo_problem=fifo_problem, link=link, fd=fd, rivals=())

    # -- the edge

    def find(self, fifo: str, trusted: frozenset[int]) -> Master | Blind | None:
        refusals = {master: self.processes.alive[master.pid].refused for master in self.masters}
        reading = [one for one in self.masters.values() if one.fifo == fifo and one.link and not refusals[one.id]]
        if reading:
            best = min(reading, key=lambda one: one.fifo_problem is not None and not one.rivals)
            return replace(best, trusted=trusted)
        why = next(filter(None, refusals.values()), self.processes.blind)
        return Blind(why) if why else None

    def check(self, master: Master) -> Master | Blind | None:
        if master.id not in self.masters:
            return None
        refused = self.processes.alive[master.id.pid].refused
        return Blind(refused) if refused else replace(self.masters[master.id], trusted=master.trusted)

    def descriptor(self, master: Master) -> int | tuple[Result, str]:
        if master.id not in self.masters:
            return Result.CHANGED, f"master {master.id.pid} has ended"
        real = Path(master.fifo)  # of a test that has one; whoever takes it closes it
        return os.open(real if real.exists() else os.devnull, os.O_PATH | os.O_CLOEXEC)

    def discover(self) -> tuple[Master, ...] | Blind:
        found = []
        for master in self.masters.values():
            if refused := self.processes.alive[master.id.pid].refused:
                found.append(replace(master, fifo="", fifo_problem=f"unreadable: {refused}", fd=-1, link=""))
            elif master.link or not master.fifo:
                found.append(replace(master, here=not master.link.endswith("(deleted)")))
        return Blind(self.processes.blind) if self.processes.blind and not found else tuple(found)

    def no_restart(self, masters: Iterable[ProcessId]) -> Mapping[ProcessId, str]:
        return {one: self.handed[one] for one in masters if one in self.handed}


def _alone(master: Master, alive: set[ProcessId]) -> Master:
    """Of two masters, one has ended."""
    return replace(master, fifo_problem=None, rivals=()) if master.rivals and not alive & {*master.rivals} else master
