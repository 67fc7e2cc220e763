"""One host in a world of values: every edge that an Observer reads, and what mongod, apps and the kernel do there."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.world.asker import FakeAsker
from tests.world.clock import Clock
from tests.world.heartbeats import FakeHeartbeats
from tests.world.prober import FakeProber
from tests.world.processes import OUR_NETNS, FakeProcess, FakeProcesses
from tests.world.resolver import FakeResolver
from tests.world.sockets import FakeSocket, FakeSockets
from tests.world.uwsgi import FakeUwsgi
from tests.world.wakes import FakeWatched
from watchdogd.config import Config, DeploymentConfig, InstanceConfig
from watchdogd.core.conclude import Conclusions
from watchdogd.core.coverage import Coverage
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import Endpoint, InstanceId, Interval, MemberId
from watchdogd.model.decided import Outlook
from watchdogd.model.done import SendFifo
from watchdogd.model.found import Finding
from watchdogd.model.remembered import State
from watchdogd.model.seen import Backend, MemberState, Snapshot
from watchdogd.model.told import Event, Tell
from watchdogd.observe.mongod.heartbeats import Heartbeat
from watchdogd.observe.observer import Edges, Observer
from watchdogd.observe.tcp.sockets import Sockets
from watchdogd.report import status

MAIN = "main"
ADDRESS = "10.0.0.1:27017"
MONGOD = Endpoint("10.0.0.1", 27017)
FIFO = "/run/uwsgi/app/shop/fifo"


class Call(NamedTuple):
    """What an edge was asked."""

    name: str
    arguments: tuple[Any, ...]
    named: dict[str, Any]


class Spied:
    """An edge that keeps what it was asked, and raises when a method in `broken` is called."""

    def __init__(self, edge: object) -> None:
        self._edge = edge
        self.calls: list[Call] = []
        self.broken: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.calls]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._edge, name)
        if not callable(method):
            return method  # type: ignore[no-any-return]

        def call(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - what the edge takes and gives
            self.calls.append(Call(name, arguments, named))
            if name in self.broken:
                raise RuntimeError(f"{name} is broken")
            return method(*arguments, **named)

        return call


@dataclass(eq=False)
class Host:
    """`fallback`: there is no netlink, /proc/net/tcp is read instead. What the edges are asked stands in `spied`."""

    clock: Clock = field(default_factory=Clock)
    _: KW_ONLY
    fallback: bool = False
    wake: Callable[[], None] = lambda: None
    processes: FakeProcesses = field(default_factory=FakeProcesses)
    spied: dict[str, Spied] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.uwsgi = FakeUwsgi(self.processes)
        self.heartbeats = FakeHeartbeats(self.wake)
        self.resolver = FakeResolver(self.wake)
        self.asker = FakeAsker(self.wake)
        self.sockets = (
            FakeSockets(self.clock, backend=Backend.PROC, why="netlink is forbidden")
            if self.fallback
            else FakeSockets(self.clock)
        )
        self.tables = {OUR_NETNS: self.sockets}
        self.lives: Counter[str] = Counter()
        self.births: dict[str, Interval] = {}
        self.wakes = FakeWatched()
        self.prober = FakeProber(self.clock)
        edges = ("heartbeats", "resolver", "asker", "sockets", "uwsgi", "processes", "wakes", "prober")
        self.spied |= {name: Spied(getattr(self, name)) for name in edges}

    def edges(self) -> Edges:
        spied: dict[str, Any] = dict(self.spied)
        return Edges(
            heartbeats=spied["heartbeats"],
            resolver=spied["resolver"],
            asker=spied["asker"],
            sockets=spied["sockets"],
            uwsgi=spied["uwsgi"],
            processes=spied["processes"],
            wakes=spied["wakes"],
            prober=spied["prober"],
            foreign=self.foreign,
            clock=self.clock,
            wall=self.clock.wall,
        )

    def foreign(self, pid: int) -> Sockets:
        """The reader of a process's network namespace, as /proc gives it."""
        if pid not in self.processes.alive:
            return FakeSockets(self.clock, blind=f"/proc/{pid}/net/tcp cannot be read: No such file or directory")
        netns = self.uwsgi.masters[self.processes.alive[pid].id].netns
        reader: Any = self.spied[f"namespace {netns}"]
        return reader  # type: ignore[no-any-return]

    def namespace(self, netns: int) -> FakeSockets:
        """Another network namespace."""
        first = 1000 * len(self.tables)
        table = FakeSockets(self.clock, backend=Backend.PROC, why="it lives elsewhere", first=first)
        self.tables[netns] = table
        self.spied[f"namespace {netns}"] = Spied(table)
        return table

    # -- MongoDB

    def start_mongod(self, address: str = ADDRESS, *, deployment: str = MAIN, **says: Any) -> None:  # noqa: ANN401
        """Another mongod process answers there."""
        self.lives[address] += 1
        self.say(address, deployment=deployment, **says)

    def say(self, address: str = ADDRESS, *, deployment: str = MAIN, **says: Any) -> None:  # noqa: ANN401
        """The mongod of that address answers like this from now on."""
        now, life = self.clock.now, self.lives[address]
        process_id = f"{address}#{life}"
        born = self.births.setdefault(process_id, Interval(now, now))
        said = {"process_id": process_id, "born": born, "is_serving": True, **says}
        self.heartbeats.say(Heartbeat(MemberId(deployment, address), now, MemberState.UP, **said))

    def stop_mongod(self, address: str = ADDRESS, state: MemberState = MemberState.DOWN) -> None:
        """It ends, and the kernel closes its connections; or it freezes, and nobody does."""
        member, host = MemberId(MAIN, address), address.rpartition(":")[0].strip("[]")
        self.heartbeats.say(Heartbeat(member, self.clock.now, state, detail="Connection refused"))
        for table in self.tables.values() if state is MemberState.DOWN else ():
            for socket in table.sockets:
                if socket.remote.host == host and not socket.close_wait:
                    socket.is_left()

    # -- apps

    def app(self, fifo: str = FIFO, workers: int = 2, **options: Any) -> tuple[FakeProcess, list[FakeProcess]]:  # noqa: ANN401
        """A uWSGI instance: its master and workers."""
        master = self.uwsgi.start(fifo, workers, **options)
        return master, self.processes.children(master)

    def connect(self, *holders: FakeProcess, to: Endpoint = MONGOD, netns: int = OUR_NETNS) -> FakeSocket:
        """One connection that all of these hold."""
        socket = self.tables[netns].connect(to)
        for holder in holders:
            holder.holds(socket.inode)
        return socket

    def hang_up(self, socket: FakeSocket, *holders: FakeProcess) -> None:
        """All who hold it close it."""
        for holder in holders:
            holder.lets_go(socket.inode)
        socket.closes()

    def pass_time(self, seconds: float) -> None:
        """Every mongod beats once more at the end of it."""
        self.clock.move(seconds)
        self.heartbeats.beat(self.clock.now)


def config_of(*fifos: str, uri: str = f"mongodb://{ADDRESS}", **more: Any) -> Config:  # noqa: ANN401
    """One deployment and an instance for each FIFO, named by its folder; without any they are to be found."""
    instances = tuple(InstanceConfig(Path(fifo).parent.name, Path(fifo), (MAIN,)) for fifo in fifos)
    return Config(**{"deployments": (DeploymentConfig(MAIN, uri),), "instances": instances or None, **more})


@dataclass(eq=False)
class Watcher:
    """An Observer with the real decision behind it: what it sees, finds, tells and would send."""

    host: Host
    config: Config
    state: State = field(default_factory=State)
    told: list[Tell] = field(default_factory=list)
    sent: list[SendFifo] = field(default_factory=list)
    faults: bool = False  # whether a bug is what the test is about

    def __post_init__(self) -> None:
        self.observer = Observer(self.config, self.host.edges())
        self.observer.restore(())
        self.snapshot = Snapshot(-math.inf, 0.0)
        self.findings: Mapping[InstanceId, Finding] = {}
        self.outlooks: Mapping[InstanceId, Outlook] = {}
        self.conclusions = Conclusions()
        self.coverage = Coverage()
        self.listed: list[Tell] = []  # what that told of who is watched
        self.line = ""

    def tick(self, times: int = 1, *, every: float = 1.0) -> None:
        """Look and decide, after time has passed; nothing is ever written."""
        for _ in range(times):
            self.host.pass_time(every)
            suspected = [key for key, one in self.outlooks.items() if one.suspected]
            rounds = [key for key, one in self.outlooks.items() if one.rounds]
            self.observer.want_rounds(rounds)
            self.snapshot = self.observer.look(full=False, suspected=suspected)
            anew = decide(self.state, detect(self.snapshot, self.config), self.snapshot, self.config)
            self.findings, decision = self.conclusions.draw(self.state, self.snapshot, self.config)
            assert self.faults or not decision.faults
            assert decision == anew, "a conclusion was kept that does not hold any more"
            self.state, self.outlooks = decision.state, decision.outlooks
            self.listed += self.coverage.news(self.snapshot, decision, self.config)
            self.line = status.line(self.snapshot, self.findings, decision, self.config)
            self.told += self.snapshot.news
            self.told += [effect for effect in decision.effects if isinstance(effect, Tell)]
            self.sent += [effect for effect in decision.effects if isinstance(effect, SendFifo)]

    def until(self, holds: Callable[[], object], within: int = 200) -> None:
        """Tick until something holds."""
        for _ in range(within):
            if holds():
                return
            self.tick()
        raise AssertionError(f"not within {within} s; told: {self.events()}")

    def events(self, *only: Event) -> list[str]:
        return [tell.event.value for tell in self.told if not only or tell.event in only]

    def scopes(self, event: Event) -> list[str]:
        """Which blindness began or ended."""
        return [str(tell.fields["scope"]) for tell in self.told if tell.event is event]

    def blind(self) -> dict[str, str]:
        """What cannot be seen now, everywhere."""
        own = {f"instance {one.name}": why for one in self.snapshot.instances for why in one.blind}
        return {str(one.scope): one.why for one in self.snapshot.blind} | own


def stuck_app(host: Host, watcher: Watcher, fifo: str = FIFO) -> tuple[FakeProcess, list[FakeProcess]]:
    """A lazy app that does not heal: mongod was restarted, every worker holds its leftover and works without."""
    master, workers = host.app(fifo)
    for worker in workers:
        host.connect(worker)
    watcher.tick(4)
    host.stop_mongod()
    watcher.tick(3)
    host.start_mongod()
    watcher.tick()
    work(workers)
    return master, workers


def work(workers: Iterable[FakeProcess]) -> None:
    """Each serves a request."""
    for worker in workers:
        worker.io += 1000
