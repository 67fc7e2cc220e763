"""Somebody who watches a world: Snapshots as observe makes them, and a daemon that may be killed at any point.

What the real trackers remember (since when, latches) is remembered here, and lost when the daemon ends; what is saved
is not.
"""

import math
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.world.apps import App, Process, Socket
from tests.world.clock import Clock
from tests.world.mongo import Mongod
from tests.world.pieces import blind, sent_on
from watchdogd.act import fifo
from watchdogd.config import Config
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import Endpoint, Incarnation, InstanceId, Interval, MemberId, Mono, ProcessId
from watchdogd.model.decided import Decision, Effect, Outlook
from watchdogd.model.done import Outcome, Result, SendFifo
from watchdogd.model.found import Finding
from watchdogd.model.remembered import State
from watchdogd.model.seen import (
    OUT,
    Connection,
    Health,
    Instance,
    Member,
    MemberState,
    Request,
    Round,
    Snapshot,
    Tcp,
    Trust,
    Wakes,
    Worker,
)
from watchdogd.model.told import Tell
from watchdogd.observe.probes import ROUNDS_S
from watchdogd.observe.wakes import WATCH_S
from watchdogd.service.store import NAME, Store, StoreError

UID = 33
IN_MEMORY = "/dev/shm"
_WAKES = (0.1, 0.13)  # of a client's two threads in a master


@dataclass(eq=False)
class _Latches:
    """What is remembered of one master."""

    seen_at: Mono
    workers: dict[ProcessId, Worker] = field(default_factory=dict)
    held: frozenset[str] = frozenset()
    connected_at: Mono | None = None


@dataclass(eq=False)
class Watch:
    """Looks at members and apps. `blind` has scopes: `sockets`, `instance NAME`, `deployment NAME`.

    `taken_out`: the apps that are in the configuration no more; `unnamed`: those that it names no deployment for.
    """

    members: list[Mongod]
    apps: list[App]
    blind: set[str] = field(default_factory=set)
    taken_out: set[str] = field(default_factory=set)
    unnamed: set[str] = field(default_factory=set)
    _masters: dict[ProcessId, _Latches] = field(default_factory=dict)
    _instances: dict[str, Instance] = field(default_factory=dict)
    _connections: tuple[Connection, ...] = ()
    _looked_at: Mono = -math.inf
    _outages: int = 0
    _rounds: dict[str, Round] = field(default_factory=dict)
    _watched: dict[ProcessId, Mono] = field(default_factory=dict)  # whose threads, and since when

    def look(
        self,
        outcomes: tuple[Outcome, ...] = (),
        requests: tuple[Request, ...] = (),
        soon: Collection[InstanceId] = (),
        rounds: Collection[InstanceId] = (),
    ) -> Snapshot:
        clock = self.apps[0].clock
        at = clock.now
        for app in self.apps:
            if app.id in rounds:
                self._ask(app, at)
        members = {member.id: self._member(member) for member in self.members}
        if "sockets" not in self.blind:
            sockets = [socket for app in self.apps for socket in app.sockets if socket.holders]
            self._connections = tuple(_connection(socket) for socket in sockets)
        outages = sum(len(member.outages) for member in self.members)
        for app in self.apps:
            if f"instance {app.name}" in self.blind and app.name in self._instances:
                self._instances[app.name] = replace(self._instances[app.name], blind=("no permission",))
            else:
                begun = outages != self._outages
                self._instances[app.name] = self._instance(app, at, members, soon, begun=begun)
        self._outages, self._looked_at = outages, at
        return Snapshot(
            at=at,
            wall=clock.wall(),
            members=members,
            instances=tuple(self._instances[app.name] for app in self.apps if app.name not in self.taken_out),
            connections=self._connections,
            blind=tuple(blind(scope) for scope in sorted(self.blind) if not scope.startswith("instance")),
            outcomes=outcomes,
            requests=requests,
        )

    def last_look(self, effect: SendFifo) -> int | tuple[Result, str]:
        """The last look before the byte."""
        app = next(one for one in self.apps if one.fifo.path == effect.instance)
        if app.master is None or app.master.id != effect.master:
            return Result.CHANGED, "the master has changed"
        if {worker.id for worker in app.workers} != effect.workers:
            return Result.CHANGED, "the workers have changed"
        if len(app.ready) < len(app.workers):
            return Result.CHANGED, "a worker is loading the app"
        return os.open(os.devnull, os.O_PATH | os.O_CLOEXEC)

    def _member(self, member: Mongod) -> Member:
        seen = member.view()
        if f"deployment {member.id.deployment}" in self.blind:
            return replace(seen, state=MemberState.UNREACHABLE, detail="no permission")
        return seen

    def _instance(
        self, app: App, at: Mono, members: dict[MemberId, Member], soon: Collection[InstanceId], *, begun: bool
    ) -> Instance:
        named = app.members if app.name not in self.unnamed else []
        deployments = tuple(sorted({member.id.deployment for member in named}))
        if app.master is None:
            return Instance(app.name, app.fifo.path, deployments, seen_at=at)
        latches = self._masters.setdefault(app.master.id, _Latches(at))
        mine = [one for one in self._connections if app.master.id in one.holders]
        by_endpoint = {endpoint: one for one in members.values() for endpoint in one.endpoints}
        latches.held |= {by_endpoint[one.remote].id.deployment for one in mine}
        if any(one.tcp is Tcp.ESTABLISHED and by_endpoint[one.remote].is_serving for one in mine):
            latches.connected_at = at
        latches.workers = {
            one.id: self._worker(app, one, latches.workers.get(one.id), by_endpoint, at, begun=begun)
            for one in app.workers
        }
        return Instance(
            name=app.name,
            fifo=app.fifo.path,
            deployments=deployments,
            master=app.master.id,
            workers=tuple(latches.workers.values()),
            seen_at=latches.seen_at,
            held_by_master=latches.held,
            master_connected_at=latches.connected_at,
            master_sent=sent_on(app.master.id, mine, list(by_endpoint.values())),
            no_restart="it was handed its socket" if app.handed else None,
            master_threads=1 + len(_WAKES) if app.traits.monitored else 1,
            wakes=self._wakes(app.master.id, at) if InstanceId(app.fifo.path) in soon else None,
            fifo_problem=None if app.fifo.exists and not app.executing else "closed, or deleted",
            uid=UID,
            health=self._health(app, by_endpoint.values(), latches.workers.values()),
        )

    def _ask(self, app: App, at: Mono) -> None:
        """Each worker that is reached answers twice: so many requests at once as observe makes.

        Who is busy takes none. Where all are, they would be called unanswered (docs/promises.md, known to be wrong).
        """
        known = self._rounds.get(app.name)
        if known is None or at >= known.began + ROUNDS_S[0]:
            free = [one for one in app.ready if not one.hangs and one.ends_at is None]
            first = int(at / 20) % max(1, len(free))
            reached = [*free[first:], *free[:first]][: app.asked]
            answers = [app.work(one) for _ in range(2) for one in reached]
            size = 2 * len(reached)
            good = sum(answers)
            if size:
                self._rounds[app.name] = Round(at, at, size, good, size - good, "200" if good == size else "500")

    def _health(self, app: App, members: Iterable[Member], workers: Iterable[Worker]) -> Health | None:
        """They are known to depend on MongoDB."""
        if not app.asked:
            return None
        asked = self._rounds.get(app.name)
        served = max((one.served_since.hi for one in members if one.served_since), default=math.inf)
        ready = max((one.ready_since.hi if one.ready_since else math.inf for one in workers), default=0.0)
        return Health("/ping", Trust.DEPENDENT, round=asked if asked and asked.began >= max(served, ready) else None)

    def _wakes(self, master: ProcessId, at: Mono) -> Wakes | None:
        """It takes a while to see them, from when they are asked for on."""
        return Wakes(at, _WAKES) if at >= self._watched.setdefault(master, at) + WATCH_S else None

    def _worker(
        self,
        app: App,
        process: Process,
        known: Worker | None,
        members: dict[Endpoint, Member],
        at: Mono,
        *,
        begun: bool,
    ) -> Worker:
        if process.ready_at > app.clock.now:
            return Worker(process.id)
        first = known is None or not known.ready
        seen = known if known and not first else Worker(process.id, Interval(self._looked_at, at))
        held = [one for one in self._connections if process.id in one.holders]
        if begun and (seen.reconnected or all(one.tcp is Tcp.ESTABLISHED for one in held)):
            seen = replace(seen, used=None)
        worked = process.worked_at is not None and process.worked_at > self._looked_at
        if worked and not first and seen.used is None:
            seen = replace(seen, used=Interval(self._looked_at, at))
        serving = {one.incarnation for one in members.values() if one.is_serving and one.state not in OUT}
        return replace(seen, reconnected=_reached(process.id, held, members) | (seen.reconnected & serving))


def _reached(worker: ProcessId, held: list[Connection], members: dict[Endpoint, Member]) -> frozenset[Incarnation]:
    found = set()
    for one in held:
        member = members[one.remote]
        since = member.served_since
        own = one.tcp is Tcp.ESTABLISHED and one.holders == {worker} and member.state is MemberState.UP
        if own and member.is_serving and since and one.last_data.hi >= since.lo and member.incarnation:
            found.add(member.incarnation)
    return frozenset(found)


def _connection(socket: Socket) -> Connection:
    data = Interval(socket.last_data - 0.01, socket.last_data)
    return Connection(
        cookie=socket.cookie,
        inode=socket.cookie,
        local=Endpoint("127.0.0.1", 40_000),
        remote=socket.to.endpoint,
        tcp=Tcp.ESTABLISHED if socket.closed_at is None else Tcp.CLOSE_WAIT,
        since=Interval(socket.opened_at, socket.opened_at),
        last_data=data,
        closed=None if socket.closed_at is None else Interval(socket.last_data, socket.closed_at),
        rqueue=0 if socket.closed_at is None else 1,
        holders=frozenset(socket.holders),
    )


@dataclass(eq=False)
class Disks:
    """A real store with both of its folders, each of which may take nothing."""

    base: Path

    def __post_init__(self) -> None:
        self.state_dir, self.runtime_dir = self.base / "state", self.base / "run"
        self.runtime_dir.mkdir()
        self.store = self._begun()

    def _begun(self) -> Store:
        return Store(self.state_dir, "boot", runtime_dir=self.runtime_dir)

    def fill(self, *folders: Path) -> None:
        """From now on these folders take nothing, and the others what comes."""
        for folder in (self.state_dir, self.runtime_dir):
            blocked = folder / f"{NAME}.new"
            if folder in folders:
                blocked.mkdir(exist_ok=True)
            elif blocked.exists():
                blocked.rmdir()

    def save(self, state: State, snapshot: Snapshot) -> str:
        """Save it; say why that could not be."""
        try:
            self.store.save(state, (), snapshot.at, snapshot.wall)
        except StoreError as error:
            return str(error)
        return ""

    def begin_anew(self, clock: Clock) -> State:
        """What the next daemon finds."""
        self.store.close()
        self.store = self._begun()
        found = self.store.load(clock.now, clock.wall())
        assert found.problem is None
        return found.state

    def close(self) -> None:
        self.store.close()
        shutil.rmtree(self.base)


@dataclass(frozen=True)
class Turn:
    """One tick of the daemon: what it was decided on, what was decided, and what of it is performed."""

    before: State
    snapshot: Snapshot
    findings: Mapping[InstanceId, Finding]
    decision: Decision
    performed: tuple[Effect, ...] = ()


@dataclass(eq=False)
class Daemon:
    """observe, detect, decide, save, perform. `dies_after`: it is killed after so many effects of a tick.

    `disks`: where it saves in truth; without them whatever it decided is saved.
    """

    watch: Watch
    config: Config
    state: State = field(default_factory=State)
    outcomes: tuple[Outcome, ...] = ()
    requests: list[Request] = field(default_factory=list)
    dies_after: int | None = None
    told: list[Tell] = field(default_factory=list)
    sent: list[SendFifo] = field(default_factory=list)
    written: list[tuple[Mono, SendFifo]] = field(default_factory=list)
    wake_at: Mono | None = None
    outlooks: Mapping[InstanceId, Outlook] = field(default_factory=dict)
    disks: Disks | None = None
    check: Callable[[Turn], None] = lambda _: None  # is shown every tick when it is saved, and nothing performed

    def tick(self) -> Turn:
        asked_for = {one.instance for one in self.requests if one.instance is not None}
        soon = asked_for | {key for key, one in self.outlooks.items() if one.soon}
        rounds = {key for key, one in self.outlooks.items() if one.rounds}
        snapshot = self.watch.look(self.outcomes, tuple(self.requests), soon, rounds)
        if self.disks:
            snapshot = replace(snapshot, degraded=self.disks.store.degraded)
        self.outcomes, self.requests = (), []
        findings = detect(snapshot, self.config)
        decision = decide(self.state, findings, snapshot, self.config)
        if self.disks and (why := self.disks.save(decision.state, snapshot)):
            snapshot = replace(snapshot, blind=(*snapshot.blind, blind("state", why)), unsaved=why)
            decision = decide(self.state, findings, snapshot, self.config)
        assert not decision.faults
        dies = self.dies_after is not None and len(decision.effects) >= self.dies_after
        performed = decision.effects[: self.dies_after] if dies else decision.effects
        turn = Turn(self.state, snapshot, findings, decision, performed)
        self.state, self.wake_at, self.outlooks = decision.state, decision.wake_at, decision.outlooks
        self.check(turn)
        for effect in turn.performed:
            self._perform(effect)
        if dies:
            self._die()
        return turn

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, SendFifo):
            self.sent.append(effect)
            app = next(one for one in self.watch.apps if one.fifo.path == effect.instance)
            now = replace(effect, moment=None)  # its moment is within the tick
            outcome = fifo.perform(now, self.watch.last_look, app.clock, app.fifo.attempt)
            self.outcomes = (*self.outcomes, outcome)
            if outcome.result is Result.WRITTEN:
                self.written.append((outcome.at, effect))
        elif isinstance(effect, Tell):
            self.told.append(effect)

    def _die(self) -> None:
        """What was saved stays; outcomes, latches and the history of the members are lost."""
        watch = self.watch
        self.watch = Watch(watch.members, watch.apps, watch.blind, watch.taken_out, watch.unnamed)
        self.outcomes, self.dies_after = (), None
        if self.disks:
            self.state = self.disks.begin_anew(watch.apps[0].clock)
        for member in self.watch.members:
            member.forget()
