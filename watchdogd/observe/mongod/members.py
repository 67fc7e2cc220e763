"""Folds heartbeats and addresses into Members that know their own history. No I/O, no clock: readings bring theirs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from watchdogd.model.base import Endpoint, Incarnation, Interval, MemberId, Mono
from watchdogd.model.seen import OUT, Access, Member, MemberState
from watchdogd.model.told import MemberDown, MemberRestarted, MemberUp, Tell, What
from watchdogd.observe.mongod.heartbeats import Heartbeat

OUTAGES_KEPT = 8
"""A leftover of an older outage is told by its last data anyway; only where no birth is known this many count."""


@dataclass(slots=True)
class _Track:
    member: Member
    good_at: Mono = -math.inf  # the last heartbeat that found it UP
    out_at: Mono = -math.inf  # the last heartbeat that found it DOWN or FROZEN
    peers: frozenset[str] = frozenset()
    last: Heartbeat | None = None


@dataclass(slots=True)
class Members:
    """All members that are watched. `news` collects what is to be told; `take_news` empties it."""

    _tracks: dict[MemberId, _Track] = field(default_factory=dict)
    _news: list[Tell] = field(default_factory=list)
    _now: dict[MemberId, Member] | None = None
    _served: dict[str, MemberId] = field(default_factory=dict)  # by deployment: who last began to serve

    def now(self) -> dict[MemberId, Member]:
        """Return every member as it is known now: the same dictionary as long as nothing has changed but the time."""
        if self._now is None:
            self._now = {key: track.member for key, track in self._tracks.items()}
        return self._now

    def take_news(self) -> tuple[Tell, ...]:
        """Return what is to be told, once."""
        news, self._news = tuple(self._news), []
        return news

    def reachable(self, deployment: str, seeds: Iterable[str]) -> frozenset[str]:
        """Return the seeds and every host:port that they name, directly or through others.

        Not what any member names: one that was dropped from the URI or the set, and is kept because a connection leads
        to it, would bring its old companions back for ever.
        """
        found: set[str] = set()
        new = set(seeds)
        while new:
            found |= new
            tracks = [track for address in new if (track := self._tracks.get(MemberId(deployment, address)))]
            new = set[str]().union(*[track.peers for track in tracks]) - found
        return frozenset(found)

    def forget_others(self, deployments: Iterable[str]) -> None:
        """Drop the members of all deployments but these."""
        names = set(deployments)
        for key in [key for key in self._tracks if key.deployment not in names]:
            del self._tracks[key]
        self._now = None

    def expect(self, wanted: Iterable[MemberId], in_use: frozenset[Endpoint], at: Mono) -> None:
        """Make the set of members exactly `wanted`; one that alone a connection still leads to is kept."""
        keep = dict.fromkeys(wanted)  # in order: it is that of the status
        for key in keep:
            if key not in self._tracks:
                self._tracks[key] = _Track(Member(key, MemberState.UNKNOWN, since=at))
                self._now = None
        known = frozenset[Endpoint]().union(*[self._tracks[key].member.endpoints for key in keep])
        for key in self._tracks.keys() - keep.keys():
            if self._tracks[key].member.endpoints & in_use <= known:
                del self._tracks[key]
                self._now = None

    def locate(
        self,
        key: MemberId,
        resolved: frozenset[Endpoint],
        in_use: frozenset[Endpoint],
        learned: frozenset[Endpoint] = frozenset(),
        ended: frozenset[Endpoint] = frozenset(),
    ) -> None:
        """Set the addresses of a member; one that a connection still leads to is never dropped.

        Of what was learned, one that a connection led to that has ended (`ended`): those that live lead to whoever
        answers there now.
        """
        track = self._tracks.get(key)
        if track is not None:
            known = track.member
            learned |= known.learned & ended
            endpoints = resolved | learned | ((known.endpoints - known.learned) & in_use)
            learned -= resolved
            if (endpoints, learned) != (track.member.endpoints, track.member.learned):
                track.member = replace(track.member, endpoints=endpoints, learned=learned)
                self._now = None

    def excuse(self, unneeded: Mapping[MemberId, str]) -> None:
        """Take of which members it is no alarm that they cannot be reached, and why; of all others it is."""
        for key, track in self._tracks.items():
            why = unneeded.get(key, "")
            if why != track.member.unneeded:
                track.member = replace(track.member, unneeded=why)
                self._now = None

    def take_access(self, access: Callable[[Member], Access | None]) -> None:
        """Take what is known of the access control of each."""
        for track in self._tracks.values():
            if (known := access(track.member)) != track.member.access:
                track.member = replace(track.member, access=known)
                self._now = None

    def fold(self, heartbeats: Iterable[Heartbeat]) -> None:
        """Take heartbeats in the order in which they were received."""
        for heartbeat in heartbeats:
            track = self._tracks.get(heartbeat.member)
            if track is None:  # its last words, after it was dropped
                continue
            if heartbeat.state is MemberState.UP and heartbeat.says_the_same(track.last):
                track.good_at = heartbeat.at
                continue
            if heartbeat.state is MemberState.UNREACHABLE and _repeats(heartbeat, track.last):
                continue  # for good, where its name is known inside another network alone
            track.last, self._now = heartbeat, None
            before = track.member.state
            if heartbeat.state is MemberState.UP:
                self._up(track, heartbeat)
                track.good_at = heartbeat.at
                track.peers = heartbeat.peers
            else:
                self._not_up(track, heartbeat)
                track.out_at = heartbeat.at if heartbeat.state in OUT else track.out_at
            if track.member.state is not before:
                track.member = replace(track.member, since=heartbeat.at)

    def _up(self, track: _Track, beat: Heartbeat) -> None:
        old = track.member
        ended = bool(old.outages) and old.outages[-1].hi == math.inf
        another = old.process_id not in {None, beat.process_id}
        # Born after the last good heartbeat, and so after the old process. Else it is another process behind the same
        # name (a load balancer, a changed DNS entry), not an outage.
        restarted = another and beat.born is not None and beat.born.hi >= track.good_at
        born = beat.born
        if born is not None:
            born = born.narrowed(Interval(track.good_at if another else -math.inf, beat.at))
            if not another and old.born is not None:
                born = old.born  # the first reading was as good, and it has been narrowed
        anew = old.up_since is None or ended or restarted
        up_since = old.up_since
        if anew:
            # Not since a heartbeat that failed for a reason of ours (DNS, TLS): that says nothing of the member.
            up_since = Interval(max(track.out_at, born.lo if born else -math.inf), beat.at)
        outages = old.outages
        if ended:
            outages = (*outages[:-1], Interval(outages[-1].lo, beat.at))
        elif restarted:
            outages = (*outages, Interval(track.good_at, beat.at))[-OUTAGES_KEPT:]
        served_since = None
        if beat.is_serving:
            served_since = up_since if anew else old.served_since or Interval(track.good_at, beat.at)
        track.member = replace(
            old,
            state=MemberState.UP,
            is_serving=beat.is_serving,
            took_over=self._took_over(old, beat, served_since),
            process_id=beat.process_id,
            identity=beat.identity or beat.process_id,
            incarnation=self._incarnation(old, beat, ended=ended),
            born=born,
            up_since=up_since,
            served_since=served_since,
            outages=outages,
            restarts=old.restarts + restarted,
            detail="",
        )
        if ended:
            out = outages[-1]
            seconds = None if out.lo == -math.inf else round(beat.at - out.lo, 1)
            self._tell(old, MemberUp(old.id.deployment, seconds, restarted))
        elif restarted:
            self._tell(old, MemberRestarted(old.id.deployment, beat.process_id))

    def _took_over(self, old: Member, beat: Heartbeat, served_since: Interval | None) -> Interval | None:
        """Return when it became primary after another one; who names peers is of a replica set, and no mongos."""
        before = self._served.get(old.id.deployment, old.id)
        if served_since is None or served_since == old.served_since:
            return old.took_over
        self._served[old.id.deployment] = old.id
        return served_since if beat.peers and before != old.id else old.took_over

    @staticmethod
    def _incarnation(old: Member, beat: Heartbeat, *, ended: bool) -> Incarnation:
        if beat.process_id is not None:
            return Incarnation(beat.process_id)
        if ended:
            return Incarnation.of_address(old.id.address, beat.at)
        return old.incarnation or Incarnation.of_address(old.id.address, None)

    def _not_up(self, track: _Track, beat: Heartbeat) -> None:
        old = track.member
        outages = old.outages
        going_on = bool(outages) and outages[-1].hi == math.inf
        if beat.state in OUT and not going_on:
            outages = (*outages, Interval(track.good_at, math.inf))[-OUTAGES_KEPT:]
            self._tell(old, MemberDown(old.id.deployment, beat.detail or None, beat.state.value))
        track.member = replace(
            old,
            state=beat.state,
            outages=outages,
            detail=beat.detail,
            # What was not an outage of it (our DNS, say) breaks nothing of what it was.
            served_since=None if beat.state in OUT else old.served_since,
            is_serving=old.is_serving and beat.state not in OUT,
        )

    def _tell(self, member: Member, what: What) -> None:
        self._news.append(Tell(what, member=member.id.address))


def _repeats(heartbeat: Heartbeat, last: Heartbeat | None) -> bool:
    return last is not None and heartbeat.says_the_same(last) and heartbeat.detail == last.detail


def outage_starts(members: Mapping[MemberId, Member], deployments: Iterable[str]) -> frozenset[tuple[MemberId, Mono]]:
    """Return what changes whenever an outage of one of the deployments begins, or another primary takes over."""
    names = set(deployments)
    own = [(key, member) for key, member in members.items() if key.deployment in names]
    starts = {(key, member.outages[-1].lo) for key, member in own if member.outages}
    return frozenset(starts | {(key, member.took_over.lo) for key, member in own if member.took_over})
