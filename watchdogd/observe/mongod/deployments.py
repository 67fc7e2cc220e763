"""The configured deployments: which members they have now, where those are, and which of it cannot be known.

Asks the resolver and the heartbeats for what is due and folds what they answer; must never wait for either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from watchdogd.config import DeploymentConfig
from watchdogd.config.addresses import parse_endpoint
from watchdogd.model.base import Endpoint, MemberId, Mono
from watchdogd.model.seen import OUT, Access, Area, Blindness, Member, MemberState, Scope
from watchdogd.model.text import fault
from watchdogd.model.told import Tell
from watchdogd.observe.mongod.heartbeats import Heartbeat, Heartbeats
from watchdogd.observe.mongod.members import Members
from watchdogd.observe.mongod.resolve import Addresses, Resolver, Seeds

RESOLVE_EVERY_S = 60.0
NOWHERE: frozenset[Endpoint] = frozenset()
NOTHING_LEARNED: Mapping[MemberId, frozenset[Endpoint]] = {}
Place = tuple[str, int]


@dataclass(slots=True)
class _Deployment:
    """`outdated`: the seeds are those of a URI that stands no more in the configuration."""

    config: DeploymentConfig
    seeds: tuple[Place, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    error: str = ""
    asked_at: Mono = -math.inf
    outdated: bool = False


class Deployments:
    """All deployments with their members. A member or an address that a connection leads to is never dropped."""

    def __init__(self, heartbeats: Heartbeats, resolver: Resolver) -> None:
        self._heartbeats, self._resolver = heartbeats, resolver
        self._members = Members()
        self._deployments: dict[str, _Deployment] = {}
        self._resolved: dict[Place, frozenset[Endpoint]] = {}
        self._unresolved: dict[Place, str] = {}
        self._asked_at: dict[Place, Mono] = {}
        self._watched: dict[MemberId, Mapping[str, object]] = {}
        self._faults: dict[Area, str] = {}  # edge -> why it raised at the last look
        self._in_use: frozenset[Endpoint] = NOWHERE
        self._learned = NOTHING_LEARNED
        self._idle_until: Mono = -math.inf
        self._blind: tuple[Blindness, ...] | None = None

    def reconfigure(self, configs: Iterable[DeploymentConfig]) -> None:
        """Make the set of deployments exactly this; members that stay keep what is known of them."""
        old = self._deployments
        self._deployments = {one.name: _taken_over(old.get(one.name), one) for one in configs}
        self._members.forget_others(self._deployments)
        self._idle_until, self._blind = -math.inf, None

    @property
    def members(self) -> dict[MemberId, Member]:
        """Every member as it is known now."""
        return self._members.now()

    def take_news(self) -> tuple[Tell, ...]:
        """Return what the members have to tell, once."""
        return self._members.take_news()

    def take_access(self, access: Callable[[Member], Access | None]) -> None:
        """Take what is known of the access control of each member."""
        self._members.take_access(access)

    def unheard(self) -> list[Blindness]:
        """Return what has neither been heard of yet nor said why it cannot be; empty once all has answered."""
        members = self.members
        silent = [
            Blindness(Scope(Area.DEPLOYMENT, name), "its URI has not been resolved yet")
            for name, one in self._deployments.items()
            if not one.error and not any(key.deployment == name for key in members)
        ]
        silent += [
            Blindness(Scope(Area.MEMBER, key.address), "it has neither answered nor failed yet")
            for key, member in members.items()
            if member.state is MemberState.UNKNOWN
        ]
        for place in self._places() - self._resolved.keys() - self._unresolved.keys():
            silent.append(Blindness(Scope(Area.MEMBER, str(Endpoint(*place))), "its name has not been resolved yet"))
        return silent

    def options(self) -> dict[str, Mapping[str, object]]:
        """Return the TLS options of the URI of each deployment that has been resolved."""
        return {name: one.options for name, one in self._deployments.items() if one.seeds}

    def hear(
        self,
        at: Mono,
        in_use: frozenset[Endpoint],
        learned: Mapping[MemberId, frozenset[Endpoint]] = NOTHING_LEARNED,
        ended: Iterable[Endpoint] = (),
    ) -> None:
        """Take what the threads have put on their queues, and ask for what is due; an edge may raise.

        `learned`: further addresses of members, the same mapping as long as nothing has changed. `in_use`: where
        connections lead to, `ended`: where those of them that have ended led to.
        """
        self._faults = {}
        answers: list[Seeds | Addresses] = []
        beats: list[Heartbeat] = []
        drained = self._try(Area.RESOLVER, lambda: answers.extend(self._resolver.drain()))
        drained &= self._try(Area.HEARTBEATS, lambda: beats.extend(self._heartbeats.drain()))
        self._take(answers)
        before = self.members
        was = {key: member.state for key, member in before.items()} if beats else {}
        self._members.fold(beats)
        same = self.members is before and in_use is self._in_use and learned is self._learned
        if same and drained and not answers and at < self._idle_until:
            return
        self._in_use, self._learned, self._blind = in_use, learned, None
        wanted = self._wanted()
        self._members.expect(wanted, in_use, at)
        back = set()
        for key, member in self.members.items():
            wanted.setdefault(key, self._deployments[key.deployment].options)  # in use: whether it lives still matters
            place = parse_endpoint(key.address)
            if place in self._resolved or key in learned or self.members[key].learned:
                resolved = self._resolved.get(place, NOWHERE) | self._further(key.deployment)
                self._members.locate(key, resolved, in_use, learned.get(key, NOWHERE), frozenset(ended))
            if member.state is MemberState.UP and was.get(key) in OUT:  # it may have come back at another address
                back.add(place)
        self._members.excuse(self._unneeded())
        self._ask(at, back)
        if wanted != self._watched:
            self._try(Area.HEARTBEATS, partial(self._watch, wanted))
        # What has just changed may change more: where a member is decides whether another one is kept.
        settled = self.members is before and not self._faults
        asked = [*self._asked_at.values(), *(one.asked_at for one in self._deployments.values())]
        self._idle_until = min(asked, default=at) + RESOLVE_EVERY_S if settled else -math.inf

    def blind(self) -> tuple[Blindness, ...]:
        """Return which deployments cannot be seen at all, which members of others, and which edge raised."""
        if self._blind is None:
            self._blind = (*self._blindness(),)
        return self._blind

    def _blindness(self) -> list[Blindness]:
        blind = [Blindness(Scope(area), why) for area, why in self._faults.items()]
        for name, deployment in self._deployments.items():
            own = [member for key, member in self.members.items() if key.deployment == name]
            unreachable = [one for one in own if one.state is MemberState.UNREACHABLE and not one.unneeded]
            why = deployment.error if not deployment.seeds else ""
            if unreachable and not any(member.state in {MemberState.UP, *OUT} for member in own):
                why = why or f"{unreachable[0].id.address}: {self._why(unreachable[0])}"
            if why:
                blind.append(Blindness(Scope(Area.DEPLOYMENT, name), why))
            else:
                blind += [Blindness(Scope(Area.MEMBER, member.id.address), self._why(member)) for member in unreachable]
        known = {one.scope for one in blind}
        known |= {Scope(Area.MEMBER, key.address) for key, member in self.members.items() if member.unneeded}
        for place, error in self._unresolved.items():
            scope = Scope(Area.MEMBER, str(Endpoint(*place)))
            if place not in self._resolved and scope not in known:
                blind.append(Blindness(scope, error))
        return blind

    def _unneeded(self) -> dict[MemberId, str]:
        """Return the members whose name has no address here, and without which their deployment is seen to serve.

        Only those that are named by `hello` alone: a replica set in containers names its members as they are known to
        each other, and a host that reaches one by a published port needs none of these names. What the configuration
        names must be found.
        """
        serves = {key.deployment for key, one in self.members.items() if one.serves}
        return {
            key: f"its replica set names it so, no name server here knows it, and {key.deployment} serves without it"
            for key, one in self.members.items()
            if one.state in {MemberState.UNKNOWN, MemberState.UNREACHABLE}
            if key.deployment in serves and self._is_inside(key)
        }

    def _is_inside(self, key: MemberId) -> bool:
        """Say whether it is named by `hello` alone, and that name has had no address here yet.

        Whether a heartbeat or our own resolver says so first is chance.
        """
        place = parse_endpoint(key.address)
        deployment = self._deployments[key.deployment]
        named = {*deployment.seeds, *deployment.config.endpoints}
        return place not in self._resolved and place not in named

    def _why(self, member: Member) -> str:
        if not self._is_inside(member.id):
            return member.detail
        cause = self._unresolved.get(parse_endpoint(member.id.address), member.detail).partition(";")[0]
        return f"{cause}; its replica set names it so: make the name known here (/etc/hosts, say)"

    def _wanted(self) -> dict[MemberId, Mapping[str, object]]:
        """Return every member to watch with its connect options: the seeds of each deployment, and whom they name."""
        wanted: dict[MemberId, Mapping[str, object]] = {}
        for name, deployment in self._deployments.items():
            named = self._members.reachable(name, (str(Endpoint(*seed)) for seed in deployment.seeds))
            wanted.update({MemberId(name, address): deployment.options for address in sorted(named)})
        return wanted

    def _ask(self, at: Mono, back: set[Place]) -> None:
        """Have URIs and names resolved that are due: every 60 s, and when a member is back."""
        for deployment in self._deployments.values():
            due = at - deployment.asked_at >= RESOLVE_EVERY_S
            if due and self._try(Area.RESOLVER, partial(self._resolver.seeds, deployment.config)):
                deployment.asked_at = at
        places = self._places()
        for place in places:
            due = place in back or at - self._asked_at.get(place, -math.inf) >= RESOLVE_EVERY_S
            if due and self._try(Area.RESOLVER, partial(self._resolver.addresses, *place)):
                self._asked_at[place] = at
        for known in (self._asked_at, self._resolved, self._unresolved):
            for place in known.keys() - places:
                del known[place]

    def _places(self) -> set[Place]:
        """Return where members are said to be, and the `endpoints:` beside them."""
        places = {parse_endpoint(key.address) for key in self.members}
        return places.union(*[deployment.config.endpoints for deployment in self._deployments.values()])

    def _watch(self, wanted: dict[MemberId, Mapping[str, object]]) -> None:
        self._heartbeats.watch(wanted)
        self._watched = wanted

    def _take(self, answers: Iterable[Seeds | Addresses]) -> None:
        for answer in answers:
            if isinstance(answer, Seeds):
                self._take_seeds(answer)
            elif answer.endpoints:
                self._resolved[answer.host, answer.port] = answer.endpoints
                self._unresolved.pop((answer.host, answer.port), None)
            else:  # a DNS failure keeps the old addresses
                self._unresolved[answer.host, answer.port] = answer.error

    def _take_seeds(self, seeds: Seeds) -> None:
        deployment = self._deployments.get(seeds.deployment.name)
        # Not the late answer for a URI that has been replaced: SRV records may take longer than their mend.
        if deployment is not None and deployment.config.uri == seeds.deployment.uri:
            deployment.error = seeds.error
            if seeds.members or deployment.outdated:  # a DNS failure keeps the old set, if it is that of this URI
                deployment.seeds, deployment.options, deployment.outdated = seeds.members, seeds.options, False

    def _further(self, deployment: str) -> frozenset[Endpoint]:
        """Return the addresses of `endpoints:`; a proxy leads to whichever member serves, so each member has them."""
        known = self._deployments.get(deployment)
        places = known.config.endpoints if known else ()
        return frozenset().union(*[self._resolved.get(place, frozenset()) for place in places])

    def _try(self, edge: Area, call: Callable[[], object]) -> bool:
        """Do it; where it raises, say False and be blind for what that edge shows, until it works again."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - a bug of one edge must not end the daemon
            self._faults[edge] = fault(error)
            return False
        return True


def _taken_over(known: _Deployment | None, config: DeploymentConfig) -> _Deployment:
    """Return the deployment with its new entry. Its old members count until the new URI has answered."""
    if known is None:
        return _Deployment(config)
    if known.config.uri == config.uri:
        return replace(known, config=config)
    return replace(known, config=config, asked_at=-math.inf, error="", outdated=bool(known.seeds))
