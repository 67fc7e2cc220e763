"""What a Snapshot means: Snapshot -> one Finding for each instance.

Pure and without memory: no I/O, no clock, no logging, and nothing about whether to reload (that is policy.py).
The measured signature behind the verdicts: stuck and healthy apps hold the same leftovers; they differ in nothing but
the connections of their own (docs/design.md, "What tells a stranded worker").
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from watchdogd.config import Cause, Config, Idle
from watchdogd.model.base import Endpoint, Incarnation, InstanceId, Mono, ProcessId
from watchdogd.model.found import Finding, Verdict
from watchdogd.model.seen import OUT, Connection, Instance, Member, MemberState, Snapshot, Tcp, Worker
from watchdogd.model.text import fault

FORK_SAFE_AFTER_S = 1.0
"""How long the master's fresh connection must have stood before a fork is safe: its monitor has then had its answer."""

USED_SETTLED_S = 2.0
"""Sockets are read before processes: in the look that first sees a worker work, its new connection may be missing."""


def detect(snapshot: Snapshot, config: Config) -> dict[InstanceId, Finding]:
    """Return what each instance's processes and connections mean; a bug in one leaves the others as they are."""
    held = _held(snapshot)
    return {one.id: _found(snapshot, config, one, held[one.id]) for one in snapshot.instances}


def _found(snapshot: Snapshot, config: Config, instance: Instance, held: Iterable[Connection]) -> Finding:
    try:
        return _Look(snapshot, config, instance, held).finding()
    except Exception as error:  # noqa: BLE001 - same
        return Finding(instance.id, fault=fault(error))


def _held(snapshot: Snapshot) -> dict[InstanceId, list[Connection]]:
    """Return what each instance's processes hold, in one go over all connections.

    To go over all of them for each instance took 250 ms with 50 instances of 128 connections.
    """
    instances: dict[ProcessId, list[InstanceId]] = {}
    for instance in snapshot.instances:
        for process in _processes(instance):
            instances.setdefault(process, []).append(instance.id)
    held: dict[InstanceId, list[Connection]] = {instance.id: [] for instance in snapshot.instances}
    for connection in snapshot.connections:
        for one in {one for holder in connection.holders for one in instances.get(holder, ())}:
            held[one].append(connection)
    return held


def _processes(instance: Instance) -> set[ProcessId]:
    master = {instance.master} if instance.master else set[ProcessId]()
    return master | {worker.id for worker in instance.workers} | set(instance.others)


def serving(members: Iterable[Member]) -> list[Member]:
    """Return the members that an app may send its operations to now."""
    return [member for member in members if member.state is MemberState.UP and member.serving]


def endpoint_map(members: Iterable[Member]) -> dict[Endpoint, Member]:
    """Map each address to its member; where two names share one, the member that answers wins."""
    mapped: dict[Endpoint, Member] = {}
    for member in members:
        for endpoint in member.endpoints:
            known = mapped.get(endpoint)
            if known is None or (known.state is not MemberState.UP and member.state is MemberState.UP):
                mapped[endpoint] = member
    return mapped


def ended_by_outage(connection: Connection, member: Member) -> bool:
    """Say whether an outage of `member` ended this connection, rather than a load balancer's time-out.

    Either its last data is older than the process that now answers (born has a grain of 1 s, hence its hi), which
    needs no memory; or it went into CLOSE_WAIT in an outage that we watched.
    """
    if member.state is MemberState.UP and member.born and connection.last_data.hi < member.born.hi:
        return True
    closed = connection.closed
    return closed is not None and any(outage.overlaps(closed) for outage in member.outages)


@dataclass(frozen=True, slots=True)
class _Left:
    """A leftover with the deployment that it led to."""

    connection: Connection
    deployment: str


class _Look:
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
        self.serves = all(self.serving.values())
        self.served_since = self._served_since()
        workers = {worker.id for worker in instance.workers}
        self.processes = _processes(instance)
        endpoints = endpoint_map(member for members in self.members.values() for member in members)
        self.connections = [
            (connection, endpoints[connection.remote]) for connection in held if connection.remote in endpoints
        ]
        self.unexplained: set[int] = set()
        self.leftovers = self._leftovers(workers)
        self.held: dict[ProcessId, list[_Left]] = {worker: [] for worker in workers}
        for left in self.leftovers:
            for worker in left.connection.holders & workers:
                self.held[worker].append(left)

    def finding(self) -> Finding:
        """Draw the whole conclusion."""
        verdicts = {worker.id: self._verdict(worker) for worker in self.instance.workers}
        due = self._due(verdicts)
        of_due = [left for pid in due for left in self.held[pid]]
        unsafe, safe_at = self._fork_unsafe()
        return Finding(
            instance=self.instance.id,
            leftovers=frozenset(left.connection.cookie for left in self.leftovers),
            unexplained=frozenset(self.unexplained),
            verdicts=verdicts,
            counted=Counter(pid for left in self.leftovers for pid in left.connection.holders if pid in self.processes),
            due=frozenset(due),
            due_at=None if self.served_since is None else min(due.values(), default=None),
            waiting_for=self._waiting_for(verdicts, due),
            inherited=frozenset(
                left.connection.cookie for left in of_due if self.instance.master in left.connection.holders
            ),
            serves=self.serves,
            served_since=self.served_since,
            outage=any(self._is_out(name) for name in self.members if name in self.uses),
            incarnations=frozenset().union(*self.served.values()),
            served=self.served,
            concerned=frozenset(left.deployment for left in of_due),
            fork_unsafe=unsafe,
            fork_safe_at=safe_at,
            fork_unsafe_since=self._fork_unsafe_since() if unsafe else None,
        )

    # -- MongoDB

    def _served_since(self) -> Mono | None:
        """Return since when every deployment has served without a break; None while one does not, or there is none."""
        if not self.serving or not self.serves:
            return None
        return max(
            min((one.serving_since.hi for one in members if one.serving_since), default=self.at)
            for members in self.serving.values()
        )

    def _is_out(self, deployment: str) -> bool:
        """Say whether a deployment is known not to serve; one that nobody has heard of yet is not an outage."""
        states = {member.state for member in self.members[deployment]}
        heard = bool(states & (OUT | {MemberState.UP})) and MemberState.UNKNOWN not in states
        return heard and not self.serving[deployment]

    # -- leftovers and verdicts

    def _leftovers(self, workers: set[ProcessId]) -> list[_Left]:
        leftovers: list[_Left] = []
        for connection, member in self.connections:
            if connection.tcp is Tcp.ESTABLISHED:
                continue
            explained = ended_by_outage(connection, member)
            if not explained:
                self.unexplained.add(connection.cookie)
            # One that no worker holds strands nobody, and no reload of the workers would end it.
            if (explained or self.policy.cause is Cause.ANY) and not connection.holders.isdisjoint(workers):
                leftovers.append(_Left(connection, member.id.deployment))
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

    # -- what is due, and when

    def _due(self, verdicts: Mapping[ProcessId, Verdict]) -> dict[ProcessId, Mono]:
        """Return the workers that a reload is for, and when linger is over for each.

        A healthy driver whose threads are off heals when it is used first. So where idle workers do not count, linger
        begins with that use; where they do, a worker does not become less due by being used.
        """
        due: dict[ProcessId, Mono] = {}
        for worker in self.instance.workers:
            verdict = verdicts[worker.id]
            if verdict not in {Verdict.STRANDED, Verdict.IDLE}:
                continue
            since = self._since(worker)
            if self.policy.idle is Idle.LEAVE or self._heals(worker, verdicts):
                if verdict is Verdict.IDLE or worker.used is None or self._just_used(worker):
                    continue
                since = max(since, worker.used.hi)
            due[worker.id] = since + self.policy.linger_s
        return due

    def _since(self, worker: Worker) -> Mono:
        ended = [(left.connection.closed or left.connection.since).hi for left in self.held[worker.id]]
        ready = worker.ready_since.hi if worker.ready_since else self.at
        served = self.at if self.served_since is None else self.served_since
        return max(served, self.instance.seen_at, ready, *ended)

    def _heals(self, worker: Worker, verdicts: Mapping[ProcessId, Verdict]) -> bool:
        """Say whether a sibling proves that this app heals by itself, and so will this worker when it is used.

        One that was ready only after the return proves nothing: it never had anything to heal from.
        """
        names = {left.deployment for left in self.held[worker.id]}
        siblings = [
            one
            for one in self.instance.workers
            if verdicts[one.id] is Verdict.RECONNECTED
            or (one.ready_since and self.served_since is not None and one.ready_since.lo < self.served_since)
        ]
        return all(any(one.reconnected & self.served[name] for one in siblings) for name in names)

    def _just_used(self, worker: Worker) -> bool:
        return worker.used is not None and self.at - worker.used.hi < USED_SETTLED_S

    def _waiting_for(self, verdicts: Mapping[ProcessId, Verdict], due: Mapping[ProcessId, Mono]) -> str:
        if not self.instance.deployments:
            return "a `mongodb:` entry that says which deployment it uses: until then it is only shown"
        if not self.serves:
            return "MongoDB to serve again"
        if due:
            return "linger: a healthy driver heals itself within it"
        if Verdict.IDLE in verdicts.values():
            return "idle workers to be used"
        return ""

    # -- forks

    def _fork_unsafe(self) -> tuple[str | None, Mono | None]:
        """Say why a fork would hand on a client that still believes the server gone, and until when if that is known.

        Such a master has a client inside: it ever held a connection, or its workers share a leftover. Reloads within
        4 s of mongod's return left every new worker stuck without any CLOSE_WAIT; the master's own fresh connection, 4
        to 8 s after the return, is the sign that its monitor has seen the server again.
        """
        workers = {worker.id for worker in self.instance.workers}
        shared = {left.deployment for left in self.leftovers if len(left.connection.holders & workers) > 1}
        safe_at: Mono | None = None
        for name in self.instance.deployments:
            if name not in shared and name not in self.instance.held_by_master:
                continue
            for incarnation in sorted(self.served[name]):
                members = [member for member in self.serving[name] if member.incarnation == incarnation]
                since = self._master_connected(members)
                if since is None:
                    return f"the master has no connection of its own to {members[0].id.address} yet", None
                safe_at = max(safe_at or 0.0, since + FORK_SAFE_AFTER_S)
        if safe_at is not None and safe_at > self.at:
            return "the master's own connection is younger than 1 s", safe_at
        return None, safe_at

    def _master_connected(self, members: list[Member]) -> Mono | None:
        """Return since when the master has been connected to a mongod, which may go by several names."""
        since = [
            max(connection.since.hi, member.serving_since.hi)
            for member in members
            for connection, _ in self.connections
            if member.serving_since is not None
            and connection.remote in member.endpoints
            and connection.tcp is Tcp.ESTABLISHED
            and self.instance.master in connection.holders
            and connection.last_data.hi >= member.serving_since.lo
        ]
        return min(since, default=None)

    def _fork_unsafe_since(self) -> Mono:
        served = self.at if self.served_since is None else self.served_since
        return max(served, self.instance.seen_at, self.instance.master_connected_at or 0.0)


def _incarnations(members: Iterable[Member]) -> frozenset[Incarnation]:
    return frozenset(member.incarnation for member in members if member.incarnation is not None)
