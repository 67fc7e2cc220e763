"""Random stories of mules and spoolers: stuck, well, never using MongoDB; ended, cured by `r`, or only told.

What each one truly is, is known here, and every tick is held against it. At the end of each story all is calm, and what
can be cured must be cured; what cannot must have been told.
"""

import os
from collections import Counter
from dataclasses import dataclass, field, replace
from random import Random

import pytest

from tests.world.pieces import AT, config, connection, exactly, instance, leftover, member, pid
from tests.world.ticks import Ticks
from watchdogd.core.ends import ROUNDS, ROUNDS_IN_S
from watchdogd.model.base import CHAIN, MULES, RESTART, WORKERS, Incarnation, Interval, Mono, ProcessId, Way
from watchdogd.model.done import EndProcess, Outcome, Result
from watchdogd.model.seen import Connection, Member, MemberState, Mule, Role, Verb, Worker
from watchdogd.model.told import Event

# The same ones each time, or as many others as this says.
RANDOM_STORIES = int(os.environ.get("RANDOM_STORIES", "0"))
SEEDS = range(1_000_000, 1_000_000 + RANDOM_STORIES) if RANDOM_STORIES else range(80)
ALLOWED: list[tuple[Way, ...]] = [(WORKERS, CHAIN, MULES), (WORKERS, CHAIN, RESTART), (WORKERS, CHAIN)]
LIKELY = (
    ["outage"] * 3 + ["back"] * 4 + ["time"] * 3 + ["long"] * 2 + ["tasks", "kill", "blind", "pause"] + ["resume"] * 3
)
OUTCOMES = [Result.ENDED] * 4 + [Result.TRY_AGAIN, Result.CHANGED, Result.REFUSED, None]
CURED_WITHIN_S = 1500
SETTLED_S = 60  # linger, and until the fork of a new one is safe


@dataclass(eq=False)
class Being:
    """One mule in truth. `uses`: its tasks use MongoDB. `heals`: its client is its own. `life`: mongod's then."""

    id: ProcessId
    role: Role
    uses: bool
    heals: bool
    life: int
    born: Mono
    stuck: bool = False
    left: set[int] = field(default_factory=set)  # the lives whose ended connection it holds
    used: Mono | None = None
    reached: set[int] = field(default_factory=set)
    owned: bool = False

    @property
    def seen(self) -> Mule:
        lives = frozenset(Incarnation(f"10.0.0.1#{life}") for life in self.reached)
        used = None if self.used is None else exactly(self.used)
        return Mule(self.id, exactly(self.born), lives, used, owned=self.owned, role=self.role)


class Story:
    """One instance with a worker that is well, and mules. `unseen`: who got stuck where no daemon could know of it."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.reloads = self.random.choice(ALLOWED)
        self.ticks = Ticks(config(self.reloads, cooldown_s=5))
        self.life, self.served = 2, AT - 100.0
        self.down_at: Mono | None = None
        self.ends_of: dict[int, tuple[Mono, Mono]] = {}  # of each life: its last data, and its end
        self.pids = 100
        self.worker = pid(2)
        self.mules = [self.fork(self.random.choice(["stuck", "stuck", "heals", "never"])) for _ in range(3)]
        self.coming: list[tuple[Mono, Being]] = []  # in the place of who was ended, and when
        self.busy = True
        self.calm = False
        self.rounds: list[Mono] = []
        self.unseen: set[ProcessId] = set()
        self.told_stuck: set[int] = set()
        self.unended: set[int] = set()
        self.peace_since: Mono = self.ticks.at
        self.blind = ""
        self.ask: Verb | None = None
        self.restart_at: Mono | None = None
        self.counted: Counter[str] = Counter()

    def fork(self, what: str = "", like: Being | None = None) -> Being:
        self.pids += 1
        role = like.role if like else self.random.choice([Role.MULE, Role.SPOOLER])
        uses, heals = (like.uses, like.heals) if like else (what != "never", what == "heals")
        return Being(pid(self.pids), role, uses, heals, self.life, self.ticks.at)

    # -- what happens

    def outage(self) -> None:
        if self.down_at is None:
            self.down_at = self.ticks.at
            self.ends_of[self.life] = self.ticks.at - 0.5, self.ticks.at
            for one in self.mules:
                one.used = None
                if not one.heals and one.life == self.life:
                    one.left.add(self.life)
            self.peace_since = self.ticks.at

    def back(self) -> None:
        if self.down_at is not None:
            self.down_at, self.life, self.served = None, self.life + 1, self.ticks.at
            self.peace_since = self.ticks.at

    def kill_the_daemon(self) -> None:
        """What was seen is lost, what was saved is not."""
        for one in self.mules:
            one.used = one.used if one.stuck else None
            one.owned = bool(one.reached) and not one.stuck
        self.unseen |= {one.id for one in self.mules if not one.owned}

    def do_tasks(self) -> None:
        for one in self.mules if self.busy else ():
            one.used = self.ticks.at if one.used is None and self.ticks.at > one.born else one.used
            if not one.uses:
                continue
            if not one.heals and (one.stuck or one.left or self.down_at is not None):
                one.stuck = True  # for good, also where it was forked in an outage and holds nothing
            elif self.down_at is None:
                one.reached.add(self.life)
                one.owned = True

    # -- one second

    def second(self) -> None:
        now = self.ticks.at + 1.0
        for at, one in [one for one in self.coming if one[0] <= now]:
            self.coming.remove((at, one))
            fresh = self.fork(like=one)
            self.mules.append(replace_born(fresh, now))
        if self.restart_at is not None and self.restart_at <= now:
            self.restart_at = None
            self.pids += 1
            self.worker = pid(self.pids)
            self.mules = [replace_born(self.fork(like=one), now) for one in self.mules]
        self.do_tasks()
        self.ticks.see(
            instance(*self.workers(), mules=tuple(one.seen for one in self.shown()), had_mules=True),
            *self.connections(),
            members=[self.member()],
            ask=self.ask,
            blind=self.blind or None,
        )
        self.ask = None
        self.check()

    def shown(self) -> list[Being]:
        return [] if self.restart_at is not None else self.mules

    def workers(self) -> tuple[Worker, ...]:
        if self.restart_at is not None:
            return ()
        lives = frozenset({Incarnation(f"10.0.0.1#{self.life}")})
        return (Worker(self.worker, exactly(AT - 500), lives, exactly(self.served), owned=True),)

    def member(self) -> Member:
        inc = Incarnation(f"10.0.0.1#{self.life}")
        one = member(
            incarnation=inc,
            process_id=str(inc),
            born=exactly(self.served),
            up_since=exactly(self.served),
            served_since=exactly(self.served),
        )
        if self.down_at is None:
            return one
        out = (Interval(self.down_at, float("inf")),)
        return replace(one, state=MemberState.DOWN, is_serving=False, served_since=None, outages=out)

    def connections(self) -> list[Connection]:
        found = []
        for life, (last, closed) in self.ends_of.items():
            holders = [one.id.pid for one in self.shown() if life in one.left]
            if holders:
                data = exactly(last)
                found.append(
                    leftover(*holders, cookie=1000 + life, closed=Interval(last, closed), last_data=data, shared=True)
                )
        if self.down_at is None and self.ticks.at >= self.served + 5:
            at = exactly(self.ticks.at)
            found.append(connection(1, cookie=2000 + self.life, since=exactly(self.served + 4), last_data=at))
        return found

    # -- what must hold

    def check(self) -> None:
        self._told()
        assert not self.unended, f"ended and not told: {self.unended}"
        self._ended()
        self._sent()
        if self.ticks.at > self.peace_since + SETTLED_S and self.down_at is None and not self.blind:
            # Of one without a task since the last outage nobody can know it.
            had = [one for one in self.stuck if one.used is not None and self.ticks.at > one.used + SETTLED_S]
            untold = {one.id.pid for one in had if one in self.shown()} - self.told_stuck
            assert not untold, f"{untold} are stuck, and nobody was told"

    def _told(self) -> None:
        stuck = {one.id.pid for one in self.mules if one.stuck}
        for tell in self.ticks.tells:
            if tell.event is Event.MULE_STUCK:
                number = int(str(tell.fields["pid"]))
                assert number in stuck, "told of one that is well"
                self.told_stuck.add(number)
                self.counted["told" if self.curable else "told alone"] += 1
            elif tell.event is Event.MULE_ENDED:
                self.unended.discard(int(str(tell.fields["pid"])))

    def _ended(self) -> None:
        """What becomes of each end that is asked for."""
        assert self.ticks.decision
        now, outcomes = self.ticks.at, []
        for end in [effect for effect in self.ticks.decision.effects if isinstance(effect, EndProcess)]:
            (one,) = [one for one in self.mules if one.id == end.process]
            assert one.stuck, "a needless end"
            assert MULES in self.reloads
            assert self.down_at is None
            assert not self.blind
            result = Result.ENDED if self.calm else self.random.choice(OUTCOMES)
            self.counted["ended" if result is Result.ENDED else "not ended"] += 1
            if result is not None:
                outcomes.append(Outcome(end.id, result, now, "as it is", end.process))
            if result is Result.ENDED:
                self.mules.remove(one)
                self.coming.append((now + 1.0, one))
                self.unended.add(one.id.pid)
        self.ticks.outcomes = tuple(outcomes)
        if any(one.result is Result.ENDED for one in outcomes):
            self.rounds = [at for at in self.rounds if at + ROUNDS_IN_S > now] + [now]
            assert len(self.rounds) <= ROUNDS, "over budget"

    def _sent(self) -> None:
        if sent := self.ticks.sent:
            assert sent.command is RESTART, "no worker is stuck"
            assert RESTART in self.reloads
            assert any(one.stuck for one in self.mules), "a needless restart"
            self.restart_at = self.ticks.at + 3.0
            self.counted["restarted"] += 1

    def happen(self) -> None:
        match self.random.choice(LIKELY):
            case "outage":
                self.outage()
            case "back":
                self.back()
            case "tasks":
                self.busy = not self.busy
                self.peace_since = self.ticks.at
            case "kill":
                self.kill_the_daemon()
            case "blind":
                self.blind = "" if self.blind else "sockets"
                self.peace_since = self.ticks.at
            case "pause":
                self.ask = Verb.PAUSE
            case "resume":
                self.ask = Verb.RESUME
            case "long":
                self.run(60)
            case _:
                self.run(self.random.choice([1, 5, 20]))

    def run(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second()

    def end(self) -> None:
        self.calm, self.busy, self.blind, self.ask = True, True, "", Verb.RESUME
        self.back()
        settled, until = self.ticks.at + SETTLED_S + 5, self.ticks.at + CURED_WITHIN_S
        while self.ticks.at < settled or (self.ticks.at < until and self.stuck and self.curable):
            self.run(20)
        stuck = self.stuck
        if self.curable:
            assert not stuck, f"{[one.id.pid for one in stuck]} are not cured"
        assert {one.id.pid for one in stuck} <= self.told_stuck, "stuck at the end, and nobody was told"
        self.counted["well at the end"] += sum(not one.stuck for one in self.mules)

    @property
    def curable(self) -> bool:
        return MULES in self.reloads or RESTART in self.reloads

    @property
    def stuck(self) -> list[Being]:
        """Those of whom a daemon could know it."""
        return [one for one in self.mules if one.stuck and one.owned and one.id not in self.unseen]


def replace_born(one: Being, at: Mono) -> Being:
    one.born = at
    return one


@pytest.mark.timeout(0 if RANDOM_STORIES else 300)
def test_what_must_hold_of_mules_holds_in_every_story() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        story = Story(seed)
        try:
            story.run(3)
            for _ in range(25):
                story.happen()
                story.second()
            story.end()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, {story.reloads}: {error}") from error
        seen += story.counted
    assert seen.keys() >= {"ended", "not ended", "restarted", "told", "told alone", "well at the end"}
