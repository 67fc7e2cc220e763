"""Apps under uWSGI in a world of values: what their drivers, forks and commands do with connections.

The kinds are those that were measured (docs/design.md): they differ in where the client is made, in whose monitor runs,
and in what ends a worker's helplessness.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.world.clock import Clock
from tests.world.fifo import FakeFifo
from tests.world.mongo import Mongod
from watchdogd.model.base import CHAIN, RESTART, Command, InstanceId, Mono, ProcessId
from watchdogd.model.seen import MemberState

CHECK_S = 1.0  # uWSGI's check interval: an idle worker is gone and replaced within it
MONITOR_S = 6.0  # until the monitor of a client that lost a member sees it again


class Heals(enum.Enum):
    """What makes a worker well that was used during an outage."""

    NEVER = "nothing"
    USED = "the next request"
    STARTED = "its own monitor, which its first request starts"
    SELF = "its own monitor"


class Traits(NamedTuple):
    """`in_master`: the client is made before the fork. `monitored`: that client's monitor runs in the master."""

    in_master: bool
    monitored: bool
    heals: Heals
    curable: bool = True


class Kind(enum.Enum):
    """The apps. HOPELESS: after its first outage no new worker ever connects, whatever is reloaded."""

    PREFORK = Traits(in_master=True, monitored=True, heals=Heals.NEVER)
    HOPELESS = Traits(in_master=True, monitored=True, heals=Heals.NEVER, curable=False)
    MASTER_HELD = Traits(in_master=True, monitored=False, heals=Heals.NEVER)
    RESIDUE = Traits(in_master=True, monitored=True, heals=Heals.STARTED)
    THREADS_OFF = Traits(in_master=False, monitored=False, heals=Heals.USED)
    LAZY = Traits(in_master=False, monitored=False, heals=Heals.SELF)


@dataclass(eq=False)
class Socket:
    """One connection to a member; `closed_at`: when the member closed its end."""

    cookie: int
    to: Mongod
    opened_at: Mono
    last_data: Mono
    holders: set[ProcessId]
    closed_at: Mono | None = None


@dataclass(eq=False)
class Process:
    """A master or a worker. `stranded`: its client believes the server gone. `ends_at`: it was told to end."""

    id: ProcessId
    ready_at: Mono
    stranded: bool = False
    ends_at: Mono | None = None
    worked_at: Mono | None = None
    hangs: bool = False


@dataclass(eq=False)
class App:
    """One instance. After time has passed, `advance` does what is due; commands come by `fifo`."""

    clock: Clock
    name: str
    kind: Kind
    members: list[Mongod]
    numbers: Iterator[int]
    size: int = 3
    load_s: float = 0.5
    mercy_s: float = 5.0
    master: Process | None = None
    workers: list[Process] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    executed: list[Command] = field(default_factory=list)
    handed: bool = False  # its socket, by another master: a restart would end it
    asked: int = 0  # how many workers a round of its `health` reaches, each time others
    lose: int = 0  # so many bytes get lost after they were written
    _chain: list[Process] = field(default_factory=list)
    _exec_until: Mono | None = None
    _forks_stranded: bool = False

    def __post_init__(self) -> None:
        self.traits: Traits = self.kind.value
        self.fifo = FakeFifo(f"/run/uwsgi/app/{self.name}/fifo")
        self.start()

    # -- what is so

    @property
    def id(self) -> InstanceId:
        return InstanceId(self.fifo.path)

    @property
    def ready(self) -> list[Process]:
        return [worker for worker in self.workers if worker.ready_at <= self.clock.now]

    @property
    def busy(self) -> bool:
        """Whether a command is at work, or on its way."""
        ending = any(worker.ends_at is not None for worker in self.workers)
        return bool(self.fifo.commands or self._chain) or self._exec_until is not None or ending

    @property
    def executing(self) -> bool:
        """Whether the master executes itself anew, and has no FIFO."""
        return self._exec_until is not None and not self.workers

    @property
    def server(self) -> Mongod | None:
        return next((member for member in self.members if member.is_serving), None)

    @property
    def forks_stranded(self) -> bool:
        """Whether a worker that is forked now can never connect."""
        return (
            self.traits.in_master
            and self.traits.heals is Heals.NEVER
            and (self._forks_stranded or (self.master is not None and self.master.stranded))
        )

    def held(self, process: Process) -> list[Socket]:
        return [socket for socket in self.sockets if process.id in socket.holders]

    # -- uWSGI

    def start(self) -> None:
        self.fifo.exists = self.fifo.read = True
        self.master = Process(self._id(), self.clock.now)
        self._import(self.master)

    def stop(self) -> None:
        self.sockets, self.workers, self._chain = [], [], []
        self.fifo.commands.clear()
        self.master, self._exec_until, self.fifo.read = None, None, False

    def replace(self, worker: Process) -> None:
        """The worker ends, and another one is forked, unless the master is about to execute itself anew."""
        self._close_all(worker)
        if self._exec_until is None:
            self.workers[self.workers.index(worker)] = self._fork()
        else:
            self.workers.remove(worker)

    def advance(self) -> None:
        if self.master is None:
            return
        for command in self._take_commands():
            self.executed.append(command)
            if command == CHAIN:
                self._chain = list(self.workers)
                continue
            for worker in self.workers:
                self._end_soon(worker)
            if command == RESTART:
                self._exec_until = self.clock.now + CHECK_S + self.load_s
        self._work_off(self.master)
        self._monitor(self.master)
        self.sockets = [socket for socket in self.sockets if socket.holders]

    def _id(self) -> ProcessId:
        return ProcessId(next(self.numbers), int(self.clock.now * 100))

    def _import(self, master: Process) -> None:
        if self.traits.in_master:
            master.stranded = self.server is None
            for member in self.members:
                self._connect(master, member)
        self.workers = [self._fork() for _ in range(self.size)]

    def _fork(self) -> Process:
        assert self.master is not None
        worker = Process(self._id(), self.clock.now + self.load_s, stranded=self.forks_stranded)
        for socket in self.held(self.master):
            socket.holders.add(worker.id)
        return worker

    def _take_commands(self) -> list[Command]:
        commands, lost = list(self.fifo.commands), min(self.lose, len(self.fifo.commands))
        self.fifo.commands.clear()
        self.lose -= lost
        return commands[lost:]

    def _end_soon(self, worker: Process) -> None:
        worker.ends_at = self.clock.now + (self.mercy_s if worker.hangs else CHECK_S)

    def _work_off(self, master: Process) -> None:
        now = self.clock.now
        if self._chain and all(one.ends_at is None and one.ready_at <= now for one in self.workers):
            worker = self._chain.pop(0)
            if worker in self.workers:
                self._end_soon(worker)
        for worker in [one for one in self.workers if one.ends_at is not None and one.ends_at <= now]:
            self.replace(worker)
        if self._exec_until is not None and not self.workers:
            self._close_all(master)  # exec closes everything but uWSGI's own
            self.fifo.read = self._exec_until <= now
            if self.fifo.read:
                self._exec_until, self._chain = None, []
                self._import(master)

    # -- the driver

    def interrupted(self, member: Mongod, *, closed: bool) -> None:
        """A member is gone, and its process `closed` its connections, or only does not answer."""
        for socket in self.sockets:
            if closed and socket.to is member and socket.closed_at is None:
                socket.closed_at = self.clock.now
        if self.master and self.traits.in_master and member.primary:
            self.master.stranded = True
        self._forks_stranded |= not self.traits.curable

    def work(self, worker: Process) -> bool:
        """Serve one request with that worker; say whether it was good."""
        worker.worked_at = self.clock.now
        if self.server is None:
            worker.stranded |= self.traits.heals is Heals.NEVER
            self._close_own(worker, ended_only=False)
            return False
        self._close_own(worker, ended_only=True)
        if not worker.stranded:
            self._connect(worker, self.server)
        return not worker.stranded

    def _monitor(self, master: Process) -> None:
        """Do what happens without any request: monitors see that a member is back."""
        now = self.clock.now
        back = [m for m in self.members if m.state is MemberState.UP and now >= m.up_from + MONITOR_S]
        if self.traits.monitored and not self.executing:
            for socket in self.held(master):
                if socket.closed_at is not None and socket.to in back:
                    socket.holders.discard(master.id)
            for member in back:
                self._connect(master, member)
                master.stranded &= not member.primary
        if self.server in back:
            for worker in self.ready:
                if self.traits.heals is Heals.SELF or (self.traits.heals is Heals.STARTED and worker.worked_at):
                    self._close_own(worker, ended_only=True)
                    self._connect(worker, self.server)

    def _connect(self, process: Process, member: Mongod | None) -> None:
        """Use the connection that it has to this member, or make one; a worker knows nothing of what it inherited."""
        if member is None or member.state is not MemberState.UP:
            return
        now = self.clock.now
        for socket in self.held(process):
            if socket.to is member and socket.closed_at is None and (process is self.master or self._own(socket)):
                socket.last_data = now
                return
        self.sockets.append(Socket(next(self.numbers), member, now, now, {process.id}))

    def _close_own(self, process: Process, *, ended_only: bool) -> None:
        for socket in self.held(process):
            if self._own(socket) and (socket.closed_at is not None or not ended_only):
                socket.holders.discard(process.id)

    def _close_all(self, process: Process) -> None:
        for socket in self.held(process):
            socket.holders.discard(process.id)

    @staticmethod
    def _own(socket: Socket) -> bool:
        return len(socket.holders) == 1
