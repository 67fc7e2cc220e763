"""A world without physics: from one tick to the next anything that can be seen may have changed.

So it is after a long time without the daemon. It is for what must hold however the world moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

from tests.world.pieces import sent_on
from watchdogd.config import Budget, Config, DeploymentConfig, Idle, InstanceConfig, Mode, PolicyConfig
from watchdogd.core.detect import detect
from watchdogd.core.tick import decide
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Endpoint, Incarnation, Interval, MemberId, Mono, ProcessId
from watchdogd.model.done import Outcome, Result, SendFifo
from watchdogd.model.remembered import Phase, State
from watchdogd.model.seen import Connection, Instance, Member, MemberState, Request, Snapshot, Tcp, Verb, Worker

MEMBER = MemberId("main", "10.0.0.1:27017")
REMOTE, LOCAL = Endpoint("10.0.0.1", 27017), Endpoint("10.0.0.9", 40000)
STEPS_S = [0.3, 1, 1, 1, 5, 20, 40, 130]
NAME = "shop"


@dataclass(eq=False)
class Chaos:
    """One instance under one deployment; `tick` changes something and decides."""

    random: Random
    at: Mono = 1000.0
    life: int = 1
    served: Mono = 900.0
    up: MemberState = MemberState.UP
    pids: int = 100
    state: State = field(default_factory=State)
    outcomes: tuple[Outcome, ...] = ()
    requests: tuple[Request, ...] = ()
    connections: tuple[Connection, ...] = ()
    instance: Instance = field(default_factory=lambda: Instance(NAME, "/run/shop", ("main",), ProcessId(1, 1)))
    config: Config = field(
        default_factory=lambda: Config(
            (DeploymentConfig("main", "mongodb://10.0.0.1"),),
            (InstanceConfig(NAME, Path("/run/shop"), ("main",), frozenset({WORKERS, CHAIN}), 1.0),),
            policy=PolicyConfig(5.0, cooldown_s=5, budget=Budget(9, 9, 60), half_open_after_s=60),
        )
    )

    def tick(self) -> None:
        self.at += self.random.choice(STEPS_S)
        for _ in range(self.random.choice([0, 0, 1, 1, 2])):
            self.random.choice(self._likely() or CHANGES)(self)
        if self.random.random() < 0.1:  # the daemon was away
            self.at += self.random.choice(STEPS_S)
        snapshot = self._snapshot()
        self.outcomes, self.requests = (), ()
        decision = decide(self.state, detect(snapshot, self.config), snapshot, self.config)
        assert not decision.faults
        self.state = decision.state
        for effect in decision.effects:
            if isinstance(effect, SendFifo):
                result = self.random.choice([Result.WRITTEN, Result.WRITTEN, *Result])
                self.outcomes = (Outcome(effect.id, result, self.at),)

    def _snapshot(self) -> Snapshot:
        serving = self.up is MemberState.UP
        member = Member(
            MEMBER,
            self.up,
            is_serving=serving,
            incarnation=Incarnation(f"#{self.life}"),
            born=Interval(self.served, self.served),
            served_since=Interval(self.served, self.served) if serving else None,
            endpoints=frozenset({REMOTE}),
        )
        return Snapshot(
            self.at,
            self.at,
            members={MEMBER: member},
            instances=(replace(self.instance, master_sent=sent_on(self.instance.master, self.connections, [member])),),
            connections=self.connections,
            outcomes=self.outcomes,
            requests=self.requests,
        )

    def _likely(self) -> tuple[Callable[[Chaos], None], ...]:
        """Some phases are left too soon to see much of them, if nothing helps."""
        known = self.state.instances.get(self.instance.id)
        likely = {
            Phase.RELOADING: (Chaos.obey,),
            Phase.VERIFYING: (Chaos.use, Chaos.reconnect, Chaos.leave, Chaos.back, Chaos.ask, Chaos.master),
            Phase.ABSENT: (Chaos.reboot,),
            Phase.GAVE_UP: (Chaos.reboot, Chaos.connect_master, Chaos.ask),
            Phase.SETTLING: (Chaos.connect_master, Chaos.ask),
        }
        return likely.get(known.phase, ()) if known and self.random.random() < 0.5 else ()

    # -- what may change

    def outage(self) -> None:
        self.up = self.random.choice([*MemberState, MemberState.DOWN])

    def back(self) -> None:
        self.up, self.life, self.served = MemberState.UP, self.life + 1, self.at
        self._all(lambda one: replace(one, reconnected=frozenset()))

    def fork(self) -> None:
        """New workers, as after a reload."""
        number = self.random.choice([0, 1, 2, 2])
        workers = tuple(self._worker() for _ in range(number if self.instance.master else 0))
        self.instance = replace(self.instance, workers=workers)

    def obey(self) -> None:
        """What a reload is for: as many new workers, all ready, which hold nothing."""
        now = Interval(self.at, self.at)
        self.pids += 2
        pids = (self.pids - 1, self.pids) if self.instance.master else ()
        workers = tuple(Worker(ProcessId(pid, pid), now) for pid in pids)
        self.instance, self.connections = replace(self.instance, workers=workers), ()

    def master(self) -> None:
        """Another master, or none."""
        self.pids += 1
        master = self.random.choice([None, ProcessId(self.pids, self.pids)])
        self.instance = replace(self.instance, master=master, workers=())
        self.fork()

    def start(self) -> None:
        self.instance = replace(self.instance, master=self.instance.master or ProcessId(1, 1))
        self.fork()

    def reboot(self) -> None:
        """Much at once, as after a while without the daemon."""
        self.pids += 1
        self.instance = replace(self.instance, master=ProcessId(self.pids, self.pids))
        self.obey()
        self.leave()
        self.outage()

    def leave(self) -> None:
        """Leftovers in some workers, maybe in the master too."""
        holders = {one.id for one in self.instance.workers[self.random.choice([0, 0, 1]) :]}
        if self.instance.master and self.random.random() < 0.3:
            holders.add(self.instance.master)
        old = Interval(self.served - 1, self.served - 1)
        closed = self.random.choice([old, Interval(self.at, self.at)])
        self.pids += 1
        leftover = Connection(self.pids, 1, LOCAL, REMOTE, Tcp.CLOSE_WAIT, old, old, closed, 1, frozenset(holders))
        self.connections = (leftover,)

    def close(self) -> None:
        self.connections = ()

    def connect_master(self) -> None:
        """The master shows its own connection, so that its forks are safe."""
        master, now = self.instance.master, Interval(self.at, self.at)
        if master:
            own = Connection(1, 1, LOCAL, REMOTE, Tcp.ESTABLISHED, now, now, None, 0, frozenset({master}))
            self.connections = (*[one for one in self.connections if one.cookie != 1], own)

    def use(self) -> None:
        self._all(lambda one: replace(one, used=one.used or Interval(self.at, self.at)))

    def reconnect(self) -> None:
        """Some or all workers work, and reach MongoDB."""
        known, now = frozenset({Incarnation(f"#{self.life}")}), Interval(self.at, self.at)
        number = self.random.choice([0, 0, 1])
        well = tuple(
            replace(one, reconnected=known, used=one.used or now) if one.ready else one
            for one in self.instance.workers[number:]
        )
        self.instance = replace(self.instance, workers=(*self.instance.workers[:number], *well))

    def ask(self) -> None:
        verb = self.random.choice([Verb.RELOAD, Verb.RELOAD, Verb.RELOAD, Verb.PAUSE, Verb.RESUME])
        self.requests = (Request("request", verb, self.instance.id, self.at + 30),)

    def configure(self) -> None:
        """Another configuration, or what stood in the way is gone."""
        reloads = self.random.choice([{WORKERS}, {CHAIN, WORKERS}, {WORKERS, RESTART}])
        idle, mode = self.random.choice(list(Idle)), self.random.choice([Mode.ACT, Mode.ACT, Mode.OBSERVE])
        assert self.config.instances
        instances = (replace(self.config.instances[0], reloads=frozenset(reloads)),)
        policy = replace(self.config.policy, idle=idle)
        self.config = replace(self.config, instances=instances, policy=policy, mode=mode)

    def go_blind(self) -> None:
        self.instance = replace(self.instance, blind=() if self.instance.blind else ("no permission",))

    def _worker(self) -> Worker:
        self.pids += 1
        ready = self.random.choice([None, Interval(self.at, self.at), Interval(self.at, self.at)])
        return Worker(ProcessId(self.pids, self.pids), ready)

    def _all(self, change: Callable[[Worker], Worker]) -> None:
        workers = tuple(change(one) if one.ready else one for one in self.instance.workers)
        self.instance = replace(self.instance, workers=workers)


CHANGES: tuple[Callable[[Chaos], None], ...] = (
    Chaos.outage,
    Chaos.back,
    Chaos.back,
    Chaos.fork,
    Chaos.obey,
    Chaos.obey,
    Chaos.obey,
    Chaos.master,
    Chaos.start,
    Chaos.start,
    Chaos.reboot,
    Chaos.leave,
    Chaos.leave,
    Chaos.close,
    Chaos.connect_master,
    Chaos.use,
    Chaos.use,
    Chaos.reconnect,
    Chaos.ask,
    Chaos.configure,
    Chaos.go_blind,
)
