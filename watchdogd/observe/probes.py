"""When each app is asked how it is, and what its answers are worth: folded into Health.

In calm one request every 30 s shows whether the answers can be believed. One that never answered well is blind. One
that answers well while no worker sends to MongoDB does not depend on it, and is told so: a page that says 200 for
ever. Where a worker sends during each of them, that may be chance, since others use the app at the same time; so it is
counted how likely that is, by how often the workers sent before. And what was good, and fails while MongoDB does not
serve, depends on it.

In an incident, where the decision asks for it, a round: 2N requests at once (N workers), since one reaches a single
worker and cannot choose which. Of 8 workers with 2 stuck ones 16 at once found both in 4 of 4 rounds, 8 in 3 of 4.
Rounds follow each other ever more slowly, and never two at a time.

Pure but for the edge that is handed in. It must never decide what an answer means for a reload.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from watchdogd.config import Config, HealthConfig
from watchdogd.model.base import InstanceId, MemberId, Mono, ProcessId
from watchdogd.model.seen import (
    OUT,
    Backend,
    Connection,
    Health,
    Instance,
    Member,
    MemberState,
    Round,
    SocketsFrom,
    Tcp,
    Trust,
)
from watchdogd.model.told import ProbeBlind, ProbeIndependent, Tell
from watchdogd.observe.health import Answer, Prober

CALM_S = 30.0
OUTAGE_S = 10.0
"""Between two requests while MongoDB does not serve, as long as it is not known whether the answer depends on it."""
ROUNDS_S = (5.0, 10.0, 20.0, 30.0)
"""From the beginning of one round to that of the next; the last one for all that follow."""

MOST_IN_A_ROUND = 64
MOST_AT_ONCE = 128
"""Of all instances together: each is a thread, for as long as its answer takes."""

ENOUGH = 3
"""So many answers in a row without a good one, or without a worker that sent, are no accident."""
CHANCE = 1.001e-3
"""Below it nobody believes that the workers sent by accident during each of these answers."""
LEAST = 0.1
"""The chance of one such accident is never taken to be less: three of them are needed."""
GRAIN_S = 0.01
"""Of the ages of sockets: a jiffy, where HZ is 100."""
GOOD_WITHIN_S = 120.0
"""What fails while MongoDB does not serve was good so shortly before."""


@dataclass(frozen=True, slots=True)
class Around:
    """What a look has seen of one instance. `tells`: its connections were read in it, and say when they were used."""

    instance: Instance
    master: ProcessId
    sent: tuple[Connection, ...]  # the workers' own connections
    members: tuple[Member, ...]
    tells: bool

    @property
    def serves(self) -> bool:
        """Whether every deployment of it does."""
        names = {one.id.deployment for one in self.members if one.serves}
        return names >= set(self.instance.deployments)

    @property
    def served_since(self) -> Mono:
        """Since when, at the latest; infinity while it does not."""
        if not self.serves:
            return math.inf
        since: dict[str, Mono] = {}
        for one in self.members:
            if one.is_serving and one.served_since:
                name = one.id.deployment
                since[name] = min(since.get(name, math.inf), one.served_since.hi)
        return max(since.values(), default=-math.inf)

    @property
    def heard(self) -> bool:
        """Whether every member has been heard of: before, an answer says little."""
        return bool(self.members) and all(one.state is not MemberState.UNKNOWN for one in self.members)

    @property
    def is_out(self) -> bool:
        """Whether no member of one deployment answers."""
        states: dict[str, set[MemberState]] = {}
        for one in self.members:
            states.setdefault(one.id.deployment, set()).add(one.state)
        return any(found <= OUT for found in states.values())

    @property
    def ready_since(self) -> Mono:
        """When the last worker was ready; infinity while one is not."""
        return max((one.ready_since.hi if one.ready_since else math.inf for one in self.instance.workers), default=0.0)


class Look(NamedTuple):
    """What one look has seen. `sockets`: how those of our network namespace were read in it; None: they were not."""

    at: Mono
    instances: Iterable[Instance]
    connections: Iterable[Connection]
    members: Mapping[MemberId, Member]
    sockets: SocketsFrom | None


@dataclass(slots=True)
class _Asked:
    """What was asked last, and is not answered yet. `rate`: how often the workers sent a second, before it was."""

    at: Mono
    many: int
    is_round: bool
    rate: float
    out: bool
    answers: list[Answer] = field(default_factory=list)


@dataclass(slots=True)
class _Site:
    """One instance. `chance`: that the workers sent by accident during the answers that are counted.

    `silent`: good answers in a row during which none did; `failed`: answers in a row that were not good, with MongoDB
    serving, before the first good one. `rounds`: how many there were since the decision asks for them.
    """

    health: HealthConfig
    master: ProcessId
    asked: _Asked | None = None
    asked_at: Mono = -math.inf
    good_at: Mono = -math.inf
    chance: float = 1.0
    silent: int = 0
    failed: int = 0
    depends: bool | None = None
    last: Answer | None = None
    round: Round | None = None
    rounds: int = 0
    told: Trust | None = None

    @property
    def trust(self) -> Trust:
        """What its answers are worth."""
        if self.good_at == -math.inf:
            return Trust.BLIND if self.failed >= ENOUGH else Trust.UNKNOWN
        if self.depends is None:
            return Trust.ANSWERS
        return Trust.DEPENDENT if self.depends else Trust.INDEPENDENT


class Probes:
    """The apps of all instances that have `health`."""

    def __init__(self, prober: Prober) -> None:
        self._prober = prober
        self._configs: Mapping[InstanceId, HealthConfig] = {}
        self._sites: dict[InstanceId, _Site] = {}
        self._news: list[Tell] = []
        self._drained: list[tuple[InstanceId, Answer]] = []

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; an app that is asked otherwise than before is not known any more."""
        self._configs = {one.id: one.health for one in config.instances or () if one.health}
        self._sites = {id_: one for id_, one in self._sites.items() if self._configs.get(id_) == one.health}

    @property
    def any(self) -> bool:
        """Whether any app is asked."""
        return bool(self._configs)

    def take_news(self) -> list[Tell]:
        """Return what is to be told, once."""
        news, self._news = self._news, []
        return news

    def hear(self) -> bool:
        """Take the answers; say whether the sockets should be read now, to see who sent meanwhile."""
        self._drained += self._prober.drain() if self._configs else []
        return bool(self._drained)

    def look(self, look: Look, rounds: Collection[InstanceId]) -> dict[InstanceId, Health]:
        """Fold what was answered, ask what is due, and return what is known of each.

        `rounds`: the instances of which the decision wants to know how all workers answer.
        """
        at, arounds = look.at, self._arounds(look)
        for id_, around in arounds.items():
            known = self._sites.get(id_)
            if known is None or known.master != around.master:
                self._sites[id_] = _Site(self._configs[id_], around.master)
        self._sites = {id_: one for id_, one in self._sites.items() if id_ in arounds}
        drained, self._drained = self._drained, []
        for id_, answer in drained:
            if id_ in self._sites:
                self._take(self._sites[id_], answer, arounds[id_])
        for id_ in rounds:
            if id_ in self._sites:
                self._ask_all(id_, self._sites[id_], arounds[id_], at)
        for id_, site in self._sites.items():
            if id_ not in rounds:
                site.rounds = 0
        if look.sockets is not None:
            self._ask_in_calm({id_: one for id_, one in arounds.items() if id_ not in rounds}, at)
        return {id_: _health(site, arounds[id_]) for id_, site in self._sites.items()}

    def _arounds(self, look: Look) -> dict[InstanceId, Around]:
        found: dict[InstanceId, Around] = {}
        connections = list(look.connections)
        for one in look.instances:
            if one.master is not None and one.id in self._configs:
                own = _own(one, one.master, connections)
                its = [member for key, member in look.members.items() if key.deployment in one.deployments]
                how = one.sockets or look.sockets
                aged = look.sockets is not None and how is not None and how.backend is Backend.SOCK_DIAG
                found[one.id] = Around(one, one.master, tuple(own), tuple(its), aged and not one.blind)
        return found

    # -- the questions

    def _ask_in_calm(self, arounds: Mapping[InstanceId, Around], at: Mono) -> None:
        """Ask those that are due, the longest unasked first, and not all of them at the same look."""
        due = [id_ for id_, around in arounds.items() if self._is_due(self._sites[id_], around, at)]
        due.sort(key=lambda id_: self._sites[id_].asked_at)
        for id_ in due[: math.ceil(len(self._configs) / 3)]:
            self._ask(id_, arounds[id_], at, 1, is_round=False)

    def _is_due(self, site: _Site, around: Around, at: Mono) -> bool:
        if site.asked is not None or not around.heard:
            return False
        learns = around.is_out and site.trust is Trust.ANSWERS
        return at - site.asked_at >= (OUTAGE_S if learns else CALM_S)

    def _ask_all(self, id_: InstanceId, site: _Site, around: Around, at: Mono) -> None:
        pause = ROUNDS_S[min(site.rounds, len(ROUNDS_S)) - 1] if site.rounds else 0.0
        if site.asked is not None or at - site.asked_at < pause:
            return
        workers = sum(one.ready for one in around.instance.workers)
        if workers:
            site.rounds += 1
            self._ask(id_, around, at, min(2 * workers, MOST_IN_A_ROUND), is_round=True)

    def _ask(self, id_: InstanceId, around: Around, at: Mono, most: int, *, is_round: bool) -> None:
        site = self._sites[id_]
        if most + sum(one.asked.many for one in self._sites.values() if one.asked) > MOST_AT_ONCE:
            return
        many = self._prober.ask(id_, site.health, most)
        site.asked_at = at
        site.asked = _Asked(at, many, is_round, _rate(around.sent, at), out=around.is_out)

    # -- the answers

    def _take(self, site: _Site, answer: Answer, around: Around) -> None:
        asked = site.asked
        if asked is None:  # of a master that is gone
            return
        asked.answers.append(answer)
        site.last = answer
        if len(asked.answers) < asked.many:
            return
        site.asked = None
        if asked.is_round:
            site.round = _round(asked) or site.round
        else:
            self._learn(site, answer, asked, around)

    def _learn(self, site: _Site, answer: Answer, asked: _Asked, around: Around) -> None:
        """See by one answer in calm whether they can be believed."""
        out = asked.out and around.is_out
        if not answer.good:
            if out and answer.reached and answer.began - site.good_at <= GOOD_WITHIN_S:
                site.depends, site.silent = True, 0
            site.failed += around.serves and not asked.out
        else:
            site.failed = 0
            if site.round and not site.round.whole:
                site.round = None  # it is not as it was; how all workers answer is not known
            if out:
                self._does_not_depend(site)
            elif around.serves and around.tells:
                self._see_who_sent(site, answer, asked.rate, around.sent)
            site.good_at = answer.ended
        self._tell(site, answer, around)

    def _see_who_sent(self, site: _Site, answer: Answer, rate: float, sent: Collection[Connection]) -> None:
        if all(one.last_sent.hi < answer.began for one in sent):
            self._does_not_depend(site)
        elif any(one.last_sent.hi >= answer.began and one.last_sent.lo <= answer.ended for one in sent):
            span = answer.ended - answer.began + GRAIN_S
            site.silent, site.chance = 0, site.chance * max(LEAST, min(1.0, rate * span))
            if site.chance <= CHANCE:
                site.depends = True
        # Else all who may have sent have sent once more since, and nobody knows.

    def _does_not_depend(self, site: _Site) -> None:
        site.silent, site.chance = site.silent + 1, 1.0
        if site.silent >= ENOUGH:
            site.depends = False

    def _tell(self, site: _Site, answer: Answer, around: Around) -> None:
        trust = site.trust
        if trust is site.told:
            return
        name, target = around.instance.name, site.health.url.shown
        if trust is Trust.BLIND:
            self._news.append(Tell(ProbeBlind(target, answer.says), name))
        elif trust is Trust.INDEPENDENT:
            self._news.append(Tell(ProbeIndependent(target), name))
        site.told = trust


def _own(instance: Instance, master: ProcessId, connections: Iterable[Connection]) -> list[Connection]:
    """Return the workers' connections that the master does not hold: its client sends on those by itself."""
    workers = {one.id for one in instance.workers}
    return [
        one for one in connections if one.tcp is Tcp.ESTABLISHED and one.holders & workers and master not in one.holders
    ]


def _rate(sent: Iterable[Connection], at: Mono) -> float:
    """Return how often a second the workers send, by how long ago each connection last did."""
    return sum(1.0 / max(GRAIN_S, at - one.last_sent.hi) for one in sent)


def _round(asked: _Asked) -> Round | None:
    """Return what came of it; None where nobody could be asked."""
    answers = asked.answers
    good, bad = [one for one in answers if one.good], [one for one in answers if one.reached and not one.good]
    if not good and not bad:
        return None
    says = (bad or good)[0].says
    began, ended = min(one.began for one in answers), max(one.ended for one in answers)
    return Round(began, ended, asked.many, len(good), len(bad), says)


def _health(site: _Site, around: Around) -> Health:
    last, round_ = site.last, site.round
    if round_ and round_.began < max(around.served_since, around.ready_since):
        round_ = None  # it says nothing of how it is now
    target = site.health.url.shown
    if last is None:
        return Health(target, site.trust, round=round_)
    return Health(target, site.trust, last.ended, last.good, last.says, round_)
