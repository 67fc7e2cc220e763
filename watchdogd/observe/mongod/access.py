"""Whether access control of each member is on, asked once in each life of it, and whether it was off before.

Measured: where it is on after a restart and was not before, an app without credentials has connections like a healthy
one, and every request of it fails. So this is told, as the likely cause. Who is asked for the first time tells nothing:
nobody knows that it was not so before. What was answered is remembered over restarts of the daemon.

No I/O, no clock: who asks is ask.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from watchdogd.config import DeploymentConfig
from watchdogd.model.base import Incarnation, MemberId, Mono
from watchdogd.model.seen import Access, Member, MemberState
from watchdogd.model.told import AccessControlOn, Tell
from watchdogd.observe.mongod.ask import Probe, Probed

AGAIN_S = 60.0
TRIES = 3
"""So often a life is asked that did not tell, every AGAIN_S: its host may be overloaded, its sockets used up."""

CLIENT_CERTIFICATE = "tlsCertificateKeyFile"
"""The option of a URI whose mongod wants to see one, which is a credential: there nobody is asked."""

Options = Mapping[str, Mapping[str, object]]


@dataclass(slots=True)
class _Asked:
    """One life that was asked. `on`: what it told; None: nothing so far."""

    at: Mono
    tries: int = 1
    asking: bool = True
    on: bool | None = None


class AccessControl:
    """What is known of all members. `take_news` gives once what is to be told."""

    def __init__(self) -> None:
        self._restored = False
        self._on: frozenset[str] = frozenset()
        self._known: dict[MemberId, Access] = {}
        self._asked: dict[Incarnation, _Asked] = {}
        self._news: list[Tell] = []
        self._folded: Mapping[MemberId, Member] | None = None
        self._idle: tuple[Mapping[MemberId, Member] | None, Mono] = (None, -math.inf)

    def reconfigure(self, configs: Iterable[DeploymentConfig]) -> None:
        """Take whose members may be asked. What is known of the others is not shown, and not forgotten."""
        configs = tuple(configs)
        self._on = frozenset(one.name for one in configs if one.probe_access)
        names = {one.name for one in configs}
        self._known = {key: one for key, one in self._known.items() if key.deployment in names}
        self._folded, self._idle = None, (None, -math.inf)

    def restore(self, known: Iterable[Access]) -> None:
        """Take over what was saved before a restart of the daemon. Before that nobody is asked: it may be known."""
        self._restored, self._folded, self._idle = True, None, (None, -math.inf)
        self._known = {one.member: one for one in known}
        # Without a process id nobody can say whether it is the same life still: it is asked anew.
        named = [one for one in self._known.values() if one.incarnation.address is None]
        self._asked = {one.incarnation: _Asked(-math.inf, asking=False, on=one.on) for one in named}

    def known(self) -> tuple[Access, ...]:
        """Return what is to be saved."""
        return tuple(self._known.values())

    def take_news(self) -> tuple[Tell, ...]:
        """Return what is to be told, once."""
        news, self._news = tuple(self._news), []
        return news

    def of(self, member: Member) -> Access | None:
        """Return what the life told that is known of a member; None while it has not, and where nobody may ask."""
        known, told = self._known.get(member.id), self._told(member)
        return known if known and told is not None and known.incarnation == member.incarnation else None

    def question(self, members: Mapping[MemberId, Member], options: Options, at: Mono) -> Probe | None:
        """Return what is to be asked now. `options`: the TLS options of each deployment that is resolved."""
        if not self._restored or (members is self._idle[0] and at < self._idle[1]):
            return None
        for key, member in members.items():
            way = options.get(key.deployment)
            life = member.incarnation
            may = key.deployment in self._on and member.state is MemberState.UP and life is not None
            if not may or life is None or way is None or way.get(CLIENT_CERTIFICATE):
                continue
            before = self._asked.get(life)
            if before is None or _is_due(before, at):
                self._asked[life] = _Asked(at, before.tries + 1 if before else 1)
                return Probe(key, life, member.identity, way)
        self._idle = members, at + AGAIN_S
        return None

    def fold(self, answers: Iterable[Probed], members: Mapping[MemberId, Member], at: Mono) -> None:
        """Take what was answered: it is true of every member that is the same process."""
        for probed in answers:
            asked = self._asked.get(probed.incarnation)
            if asked is not None:
                asked.asking, asked.on = False, probed.on
                self._folded = None
        if members is self._folded:
            return
        self._folded = members
        self._forget_others(members)
        for key, member in members.items():
            on, before = self._told(member), self._known.get(key)
            if on is None or member.incarnation is None:
                continue
            if before is None or (before.incarnation, before.on) != (member.incarnation, on):
                self._take(Access(key, member.incarnation, on), before, at)

    def _told(self, member: Member) -> bool | None:
        asked = self._asked.get(member.incarnation) if member.incarnation else None
        return asked.on if asked and member.id.deployment in self._on else None

    def _forget_others(self, members: Mapping[MemberId, Member]) -> None:
        """Forget who is no member any more, of deployments where one serves: that one names them all."""
        serves = {key.deployment for key, one in members.items() if one.serves}
        for key in [key for key in self._known if key.deployment in serves and key not in members]:
            del self._known[key]
        lives = {one.incarnation for one in members.values()} | {one.incarnation for one in self._known.values()}
        for life in self._asked.keys() - lives:
            del self._asked[life]

    def _take(self, now: Access, before: Access | None, at: Mono) -> None:
        if before and now.on:
            now = replace(now, turned_on=before.turned_on if before.on else at)
        self._known[now.member] = now
        if before and now.on and not before.on:
            self._news.append(Tell(AccessControlOn(now.member.deployment), member=now.member.address))


def _is_due(asked: _Asked, at: Mono) -> bool:
    return not asked.asking and asked.on is None and asked.tries < TRIES and at - asked.at >= AGAIN_S
