"""A whole world that a test scripts: MongoDB, apps, traffic and a watchdog, on a clock that moves only when told."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.world.apps import App, Kind, Process
from tests.world.clock import Clock
from tests.world.mongo import Mongod
from tests.world.pieces import ALICE
from tests.world.watch import Daemon, Turn, Watch
from watchdogd.config import Config, DeploymentConfig, Idle, InstanceConfig, PolicyConfig
from watchdogd.model.base import CHAIN, WORKERS, Command, Endpoint, InstanceId, MemberId
from watchdogd.model.remembered import Phase
from watchdogd.model.seen import MemberState, Request, Verb
from watchdogd.model.told import Event, Tell

INTERVAL_S = 1.0
MAIN = "main"


@dataclass(eq=False)
class World:
    """One deployment with `members` members (the first is the primary) and an app of each of `kinds`.

    `traffic` says which workers of an app get a request in each second: all, the first one, or none.
    """

    kinds: Iterable[Kind] = (Kind.PREFORK,)
    members: int = 1
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    reloads: frozenset[Command] = frozenset({WORKERS, CHAIN})
    mercy_s: float = 5.0
    clock: Clock = field(default_factory=Clock)
    check: Callable[[Turn], None] = lambda _: None
    _requests: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        numbers = itertools.count(100)
        now = self.clock.now
        self.mongods = [
            Mongod(
                self.clock,
                MemberId(MAIN, f"10.0.0.{number}:27017"),
                Endpoint(f"10.0.0.{number}", 27017),
                primary=number == 1,
                born=now - 1000,
                up_from=now - 1000,
                served_from=now - 1000,
                watched_from=now - 1000,
            )
            for number in range(1, self.members + 1)
        ]
        self.apps = [
            App(self.clock, kind.name.lower(), kind, self.mongods, numbers, mercy_s=self.mercy_s) for kind in self.kinds
        ]
        self.traffic = dict.fromkeys((app.name for app in self.apps), 0)
        self.daemon = Daemon(Watch(self.mongods, self.apps), self._config(), check=self.check)

    def _config(self) -> Config:
        return Config(
            deployments=(DeploymentConfig(MAIN, "mongodb://10.0.0.1"),),
            instances=tuple(
                InstanceConfig(app.name, Path(app.fifo.path), (MAIN,), self.reloads, self.mercy_s) for app in self.apps
            ),
            policy=self.policy,
        )

    # -- time

    def run(self, seconds: float, *, every: float = INTERVAL_S) -> None:
        """Let time pass; the daemon ticks at each interval, and when it wanted to be woken."""
        until = self.clock.now + seconds
        while self.clock.now < until:
            wake_at = until if self.daemon.wake_at is None else self.daemon.wake_at
            if self.daemon.outcomes:
                wake_at = self.clock.now
            self.pass_time(max(0.0, min(until, self.clock.now + every, wake_at) - self.clock.now) or 0.01)
            self.daemon.tick()

    def run_until(self, holds: Callable[[], bool], within: float = 600.0) -> None:
        """Let time pass until something holds; fails when it does not in `within` seconds."""
        until = self.clock.now + within
        while not holds():
            assert self.clock.now < until, f"not within {within} s; told: {self.events()}"
            self.run(INTERVAL_S)

    def pass_time(self, seconds: float) -> None:
        """Let the world go on without the daemon."""
        self.clock.move(seconds)
        for app in self.apps:
            app.advance()
            for worker in app.ready[: self.traffic[app.name]]:
                if worker.ends_at is None and not worker.hangs:
                    app.work(worker)

    # -- MongoDB

    def stop(self, member: int = 0) -> None:
        if self.mongods[member].state is MemberState.UP:
            self.mongods[member].stop()
            self._interrupted(self.mongods[member], closed=True)

    def freeze(self, member: int = 0) -> None:
        if self.mongods[member].state is MemberState.UP:
            self.mongods[member].stop(MemberState.FROZEN)
            self._interrupted(self.mongods[member], closed=False)

    def start(self, member: int = 0) -> None:
        if self.mongods[member].state is not MemberState.UP:
            self.mongods[member].start()

    def restart(self, member: int = 0) -> None:
        """Restart it faster than any look."""
        if self.mongods[member].state is MemberState.UP:
            self._interrupted(self.mongods[member], closed=True)
            self.mongods[member].restart()

    def elect(self, member: int) -> None:
        """Make another member the primary."""
        for number, one in enumerate(self.mongods):
            one.promote(primary=number == member)

    def outage(self, seconds: float = 10.0, member: int = 0) -> None:
        """Stop a member, wait, and start it again."""
        self.stop(member)
        self.run(seconds)
        self.start(member)

    def _interrupted(self, member: Mongod, *, closed: bool) -> None:
        for app in self.apps:
            app.interrupted(member, closed=closed)

    # -- operators, and what is seen

    def ask(
        self,
        verb: Verb,
        instance: InstanceId | None = None,
        seconds: float | None = None,
        *,
        now: bool = False,
        restart: bool = False,
    ) -> None:
        until = None if seconds is None else self.clock.now + seconds
        id_ = f"request-{next(self._requests)}"
        self.daemon.requests.append(Request(id_, verb, instance, until, by=ALICE, now=now, restart=restart))

    def change(self, **policy: object) -> None:
        """Change the policy's configuration between two ticks."""
        changed = replace(self.daemon.config.policy, **policy)  # type: ignore[arg-type]
        self.daemon.config = replace(self.daemon.config, policy=changed)

    def app(self, kind: Kind) -> App:
        return next(app for app in self.apps if app.kind is kind)

    def phase(self, kind: Kind = Kind.PREFORK) -> Phase:
        return self.daemon.state.instances[self.app(kind).id].phase

    def events(self) -> list[str]:
        return [tell.event.value for tell in self.daemon.told]

    def last(self, event: Event) -> Tell:
        return next(tell for tell in reversed(self.daemon.told) if tell.event is event)

    def works(self, app: App) -> bool:
        """Whether every worker of the app answers a request well now."""
        return all(app.work(worker) for worker in app.ready)


def busy_app(kind: Kind = Kind.PREFORK, **world: object) -> World:
    """A world whose apps have had traffic for a while."""
    made = World(kinds=(kind,), **world)  # type: ignore[arg-type]
    made.traffic = dict.fromkeys(made.traffic, made.apps[0].size)
    made.run(5)
    return made


__all__ = ["Idle", "Process", "World", "busy_app"]
