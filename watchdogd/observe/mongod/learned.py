"""Which further addresses lead to a member: found out by asking each address that a watched process is connected to.

A member is a process, not an address: mongod listens on every address of its host, behind a published port or a name
that resolves otherwise in a container. Measured, such an app stayed broken for good and was called healed (71 of 71
requests failed). What tells a process is its identity (heartbeats.identity_of), so whoever answers with that of a
member is this member.

Asking strangers is limited: only on MongoDB's ports or a member's own, only loopback, private addresses and those of
this host itself, once for each address and each new process among the members, at most one a second. Pure: it neither
asks nor reads nor knows a clock.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from watchdogd.config import DeploymentConfig
from watchdogd.config.addresses import parse_endpoint
from watchdogd.model.base import Endpoint, Incarnation, MemberId, Mono
from watchdogd.model.seen import Member, MemberState
from watchdogd.observe.mongod.ask import Heard, Question, Said
from watchdogd.observe.tcp.others import Place, Talk

PORTS = frozenset({27017, 27018, 27019})
"""Where mongod listens by default: alone, as a shard, as a config server."""

ASK_EVERY_S = 1.0

FORGET_S = 60.0
"""After so long without a connection there an address of a member is asked anew: another one may have it by now."""

TRIES = 3
"""So often an address is asked at which nobody answered, every FORGET_S: a mongod may be frozen, or overloaded."""

MOST = 256
"""Addresses that are remembered. An app that connects to ever new ones makes nobody forget those that are in use."""

_PRIVATE = [
    ipaddress.ip_network(text)
    for text in ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
]
"""Loopback (RFC 1122, 4291) and what is private (RFC 1918, 4193)."""


def ports_of(members: Iterable[MemberId]) -> frozenset[int]:
    """Return the ports on which a member may be met: the usual ones, and those of the members that are known."""
    return PORTS | {parse_endpoint(one.address)[1] for one in members}


def is_loopback(endpoint: Endpoint) -> bool:
    """Say whether it means another host in another network namespace."""
    return ipaddress.ip_address(endpoint.host).is_loopback


def _is_private(endpoint: Endpoint) -> bool:
    address = ipaddress.ip_address(endpoint.host)
    return any(address in network for network in _PRIVATE)


@dataclass(slots=True)
class _Known:
    """What is known of one address. `of`: the processes of the members that were up when it was asked last.

    `members`: whose address it is; what was true of an older process of them stays until the next answer.
    """

    of: frozenset[Incarnation] = frozenset()
    heard: Heard | None = None
    asking: bool = False
    asked_at: Mono = -math.inf
    tries: int = 0
    members: frozenset[MemberId] = frozenset()
    held_at: Mono = -math.inf


class Learned:
    """All addresses that were asked, or will be. `netns`: our own network namespace, the one that is asked from."""

    def __init__(self, netns: int) -> None:
        self._netns = netns
        self._on: frozenset[str] = frozenset()
        self._known: dict[Endpoint, _Known] = {}
        self._talks: Mapping[Place, Talk] = {}
        self._asked_at: Mono = -math.inf
        self._addresses: Mapping[MemberId, frozenset[Endpoint]] = {}
        self._by: tuple[Mapping[MemberId, Member] | None, int] = (None, 0)
        self._changes = 0

    def reconfigure(self, configs: Iterable[DeploymentConfig]) -> None:
        """Take which deployments learn addresses; the others lose what they had learned."""
        self._on = frozenset(one.name for one in configs if one.learn_addresses)
        self._changes += 1

    def see(self, talks: Mapping[Place, Talk], in_use: frozenset[Endpoint], at: Mono) -> None:
        """Take where watched processes are connected to: `talks` at no address of a member, `in_use` at one."""
        self._talks = talks
        askable = {place.remote for place, talk in talks.items() if not self.objection(place, talk)}
        for endpoint, known in self._known.items():
            if endpoint in askable or endpoint in in_use:
                known.held_at = at
        gone = [e for e, one in self._known.items() if one.members and not one.asking and at - one.held_at > FORGET_S]
        for endpoint in gone:
            del self._known[endpoint]
        for endpoint in sorted(askable - self._known.keys()):
            self._make_room(at)
            if len(self._known) < MOST:
                self._known[endpoint] = _Known(held_at=at)
        self._changes += bool(gone)

    def _make_room(self, at: Mono) -> None:
        if len(self._known) >= MOST:
            unheld = [endpoint for endpoint, one in self._known.items() if one.held_at < at and not one.asking]
            for endpoint in unheld:
                del self._known[endpoint]

    def objection(self, place: Place, talk: Talk) -> str:
        """Say why a place may not be asked; empty where it may."""
        if not self._on:
            return "may not be asked (`learn_addresses: false`)"
        if place.netns != self._netns and is_loopback(place.remote):
            return "could not be asked: it is loopback of another network namespace"
        if talk.inside and place.netns == self._netns:
            return ""
        if not _is_private(place.remote):
            return "may not be asked: its address is public"
        return ""

    def words(self, place: Place, talk: Talk) -> str | None:
        """Say who is at a place that is no member's; None while that is not known yet."""
        if objection := self.objection(place, talk):
            return f"{place.remote}, which {objection}"
        known = self._known.get(place.remote)
        heard = known.heard if known and not known.asking else None
        if heard is None:
            return None
        if heard.said is Said.A_PROCESS:
            return f"{place.remote}, where another mongod answers"
        if heard.said is Said.NOTHING:
            return f"{place.remote}, which could not be asked: {heard.why}"
        kind = "a mongod without a process id answers (before 4.4)"
        if heard.said is Said.SEVERAL:
            kind = "several mongods answer (a proxy)"
        return f"{place.remote}, where {kind}: if it leads to this deployment, name it under `endpoints`"

    def fold(self, answers: Iterable[Heard]) -> bool:
        """Take what came of the questions; say whether anything did."""
        before = self._changes
        for heard in answers:
            known = self._known.get(heard.remote)
            if known is not None:
                known.asking, self._changes = False, self._changes + 1
                known.heard = heard
                if heard.said is not Said.NOTHING:
                    known.members = frozenset()
        return self._changes != before

    def question(
        self, members: Mapping[MemberId, Member], options: Mapping[str, Mapping[str, object]], at: Mono
    ) -> Question | None:
        """Return what is to be asked now. `options`: the TLS options of each deployment."""
        if not self._known or at - self._asked_at < ASK_EVERY_S:
            return None
        due = next(iter(self._due(members, at)), None)
        if due is None:
            return None
        ours = [one for key, one in members.items() if key.deployment in self._on]
        hosts: dict[str, frozenset[str]] = {}
        for one in ours:
            if one.identity:
                host = parse_endpoint(one.id.address)[0]
                hosts[one.identity] = hosts.get(one.identity, frozenset()) | {host}
        ways = [dict(way) for name, way in options.items() if name in self._on]
        known = self._known[due]
        lives = _lives(ours)
        known.tries = known.tries + 1 if lives <= known.of else 1
        known.asking, known.of, known.asked_at, self._asked_at = True, lives, at, at
        return Question(due, tuple([way for i, way in enumerate(ways) if way not in ways[:i]]), hosts)

    def _due(self, members: Mapping[MemberId, Member], at: Mono) -> list[Endpoint]:
        """Return the addresses to be asked: once, and once more when there is another process among the members."""
        ours = [one for key, one in members.items() if key.deployment in self._on]
        if any(one.state is MemberState.UNKNOWN for one in ours):
            return []  # what is heard of them in a moment would ask for the same again
        lives = _lives(ours)
        if not lives:
            return []
        identities = {one.identity for one in ours if one.identity}
        held = {place.remote for place, talk in self._talks.items() if not self.objection(place, talk)}
        held |= {endpoint for endpoint, one in self._known.items() if one.members}
        return [
            endpoint
            for endpoint, one in self._known.items()
            if endpoint in held and not one.asking and (not lives <= one.of or _again(one, at))
            if not (one.heard and one.heard.identity in identities)
        ]

    def pending(self, members: Mapping[MemberId, Member], at: Mono) -> list[Endpoint]:
        """Return the addresses of which it is not known yet whose they are, and which will be asked."""
        return [*[endpoint for endpoint, one in self._known.items() if one.asking], *self._due(members, at)]

    def addresses(self, members: Mapping[MemberId, Member]) -> Mapping[MemberId, frozenset[Endpoint]]:
        """Return the further addresses of each member, the same mapping as long as nothing has changed."""
        if not self._known and not self._addresses:
            return self._addresses
        if self._by[0] is not members or self._by[1] != self._changes:
            self._by = members, self._changes
            found: dict[MemberId, set[Endpoint]] = {}
            for endpoint, known in self._known.items():
                for key in self._whose(known, members):
                    found.setdefault(key, set()).add(endpoint)
            addresses = {key: frozenset(ones) for key, ones in found.items()}
            if addresses != self._addresses:
                self._addresses = addresses
        return self._addresses

    def _whose(self, known: _Known, members: Mapping[MemberId, Member]) -> Iterable[MemberId]:
        identity = known.heard.identity if known.heard and known.heard.said is Said.A_PROCESS else None
        if identity is not None:
            matching = [key for key, one in members.items() if one.identity == identity]
            known.members = frozenset(matching) or known.members
        return [key for key in known.members if key.deployment in self._on]


def _lives(members: Iterable[Member]) -> frozenset[Incarnation]:
    up = (one.incarnation for one in members if one.state is MemberState.UP)
    return frozenset(one for one in up if one is not None)


def _again(known: _Known, at: Mono) -> bool:
    unanswered = known.heard is not None and known.heard.said is Said.NOTHING
    return unanswered and known.tries < TRIES and at - known.asked_at >= FORGET_S
