"""One instance's part of one Snapshot, indexed: what every finding of it is read from.

Pure and without memory. What an outage ended is a leftover; whether a worker has more than that is its verdict. The
measured signature: stuck and healthy apps hold the same leftovers; they differ in nothing but the connections of their
own (docs/design.md, "What tells a stranded worker").
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from watchdogd.config import Cause, Config
from watchdogd.model.base import Endpoint, Incarnation, Interval, Mono, ProcessId
from watchdogd.model.found import Left, Verdict
from watchdogd.model.seen import OUT, Backend, Connection, Instance, Member, MemberState, Snapshot, Tcp, Worker

LOST_AT_MOST_S = 120.0
"""The longest that TCP waits before it sends again (TCP_RTO_MAX of the kernel)."""

USED_SETTLED_S = 2.0
"""Sockets are read before processes: in the look that first sees a worker work, its new connection may be missing."""


def processes(instance: Instance) -> set[ProcessId]:
    """Return all that belong to it."""
    master = {instance.master} if instance.master else set[ProcessId]()
    return master | {one.id for one in (*instance.workers, *instance.mules)} | set(instance.others)


def serving(members: Iterable[Member]) -> list[Member]:
    """Return the members that an app may send its operations to now."""
    return [member for member in members if member.serves]


def endpoint_map(members: Iterable[Member]) -> dict[Endpoint, Member]:
    """Map each address to its member; where two names share one, the member that answers wins."""
    mapped: dict[Endpoint, Member] = {}
    for member in members:
        for endpoint in member.endpoints:
            known = mapped.get(endpoint)
            if known is None or (known.state is not MemberState.UP and member.state is MemberState.UP):
                mapped[endpoint] = member
    return mapped


def lost(members: Iterable[Member], *, perhaps: bool = False) -> list[Interval]:
    """Return the last outage of each of these members that the same process outlived: the network was away.

    `perhaps`: those as well of which nobody knows whether another process answers now (mongod 4.2).
    """
    last = [(one, outage) for one in members for outage in one.outages[-1:] if -math.inf < outage.lo]
    return [
        outage
        for one, outage in last
        if outage.hi < math.inf and (perhaps if one.born is None else one.born.hi < outage.lo)
    ]


def ended_by_outage(connection: Connection, member: Member) -> bool:
    """Say whether an outage of `member` ended this connection, rather than a load balancer's time-out.

    Either its last data is older than the process that now answers (born has a grain of 1 s, hence its hi), which
    needs no memory; or it went into CLOSE_WAIT in an outage that we watched.
    """
    if member.state is MemberState.UP and member.born and connection.last_data.hi < member.born.hi:
        return True
    closed = connection.closed
    return closed is not None and any(outage.overlaps(closed) for outage in member.outages)


class Look:
    """One instance's part of one Snapshot, indexed. `held`: the connections that its processes hold."""

    def __init__(self, snapshot: Snapshot, config: Config, instance: Instance, held: Iterable[Connection]) -> None:
        self.at, self.policy, self.instance = snapshot.at, config.policy, instance
        # Of one that was found nobody has said that it uses MongoDB: an outage concerns it once it was seen to.
        self.uses = instance.met if config.instances is None else frozenset(instance.deployments)
        self.members: dict[str, list[Member]] = {name: [] for name in instance.deployments}
        for member in snapshot.members.values():
            if member.id.deployment in self.members:
                self.members[member.id.deployment].append(member)
        self.serving = {name: serving(members) for name, members in self.members.items()}
        self.served = {name: _incarnations(members) for name, members in self.serving.items()}
        sockets = instance.sockets or snapshot.sockets
        self.ages = sockets.backend is not Backend.PROC  # whether sockets have them
        self.is_serving = all(self.serving.values())
        self.served_since = self._served_since()
        workers = {one.id for one in (*instance.workers, *instance.mules)}
        self.processes = processes(instance)
        endpoints = endpoint_map(member for members in self.members.values() for member in members)
        self.connections = [
            (connection, endpoints[connection.remote]) for connection in held if connection.remote in endpoints
        ]
        self.unexplained: set[int] = set()
        self.leftovers = self._leftovers(workers)
        self.held: dict[ProcessId, list[Left]] = {worker: [] for worker in workers}
        for left in self.leftovers:
            for worker in left.connection.holders & workers:
                self.held[worker].append(left)
        self.verdicts = {one.id: self._verdict(one) for one in (*instance.workers, *instance.mules)}

    # -- MongoDB

    def _served_since(self) -> Mono | None:
        """Return since when every deployment has served without a break; None while one does not, or there is none."""
        if not self.serving or not self.is_serving:
            return None
        return max(
            min((one.served_since.hi for one in members if one.served_since), default=self.at)
            for members in self.serving.values()
        )

    def is_out(self, deployment: str) -> bool:
        """Say whether a deployment is known not to serve; one that nobody has heard of yet is not an outage."""
        states = {member.state for member in self.members[deployment]}
        heard = bool(states & (OUT | {MemberState.UP})) and MemberState.UNKNOWN not in states
        return heard and not self.serving[deployment]

    @property
    def seen_to_return(self) -> bool:
        """Whether this daemon saw every deployment begin to serve; else nobody knows what came before."""
        return bool(self.serving) and all(
            any(one.served_since and one.served_since.lo > -math.inf for one in members)
            for members in self.serving.values()
        )

    def monitored(self, worker: Worker) -> bool:
        """Say whether a worker was seen to reach all members as one does whose driver's monitor runs: it heals."""
        since, seen = self.served_since, worker.monitored_at or {}
        return since is not None and all(seen.get(name, -math.inf) >= since for name in self.members)

    def own(self, worker: Worker, deployment: str) -> list[Connection]:
        """Return the ESTABLISHED connections to a deployment that a worker holds alone."""
        return [
            connection
            for connection, member in self.connections
            if member.id.deployment == deployment
            and connection.tcp is Tcp.ESTABLISHED
            and connection.holders == {worker.id}
        ]

    # -- leftovers and verdicts

    def _leftovers(self, workers: set[ProcessId]) -> list[Left]:
        leftovers: list[Left] = []
        for connection, member in self.connections:
            if connection.tcp is Tcp.ESTABLISHED:
                continue
            explained = ended_by_outage(connection, member)
            if not explained:
                self.unexplained.add(connection.cookie)
            # One that no worker and no mule holds strands nobody, and no reload of the workers would end it.
            if (explained or self.policy.cause is Cause.ANY) and not connection.holders.isdisjoint(workers):
                leftovers.append(Left(connection, member.id.deployment))
        return leftovers

    def _verdict(self, worker: Worker) -> Verdict:
        held = self.held[worker.id]
        if not worker.ready:
            return Verdict.LOADING
        if not held:
            return Verdict.CLEAR
        names = {left.deployment for left in held}
        if all(worker.reconnected & self.served[name] for name in names):
            return Verdict.RECONNECTED
        # First of all that leftovers say: who only hands tasks over holds what it inherited, and needs no connection.
        if self.instance.is_bystander(worker):
            return Verdict.BYSTANDER
        # A driver that is used closes its own sockets that ended (measured: only shared ones are left then), so a
        # private one with its EOF unread says that the worker has not used MongoDB, whatever else it did. The only
        # worker of an instance holds alone what it has inherited: that was shared with the master once.
        untouched = any(
            one.holders == {worker.id} and not one.shared and one.rqueue > 0
            for one in (left.connection for left in held)
        )
        idle = worker.used is None or untouched or self._never_used_mongodb(worker, names)
        return Verdict.IDLE if idle else Verdict.STRANDED

    def _never_used_mongodb(self, worker: Worker, names: set[str]) -> bool:
        """Say whether what the worker was used for, all its life, was something else: health checks, say.

        A sibling's monitor runs, so the app's first use of MongoDB starts one in each worker, and that connects within
        a heartbeat; this worker has never held a connection alone, which is known only where it was watched before the
        outage. In an app that gets stuck no worker has a monitor: its siblings that work have one connection.
        """
        watched = all(
            left.connection.closed is not None and self.instance.seen_at <= left.connection.closed.lo
            for left in self.held[worker.id]
        )
        return (
            watched
            and not worker.owned
            and all(any(one.monitored & self.served[name] for one in self.instance.workers) for name in names)
        )


def _incarnations(members: Iterable[Member]) -> frozenset[Incarnation]:
    return frozenset(member.incarnation for member in members if member.incarnation is not None)
