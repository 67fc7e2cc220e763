"""One look at the world: which edges are read, how deep, and what the readings fold into. Never decides about reloads.

A quiet look is the heartbeats and one dump of CLOSE_WAIT sockets. A full look adds ESTABLISHED ones, masters, roles,
descriptors, and what workers that are not ready wait for: while something is wrong or a worker may hang, when it is
asked for, else every 10 s. Of the instances that are suspected a look also has what suspect.py reads.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from watchdogd.config import Config
from watchdogd.model.base import Endpoint, InstanceId, MemberId, Mono
from watchdogd.model.done import EndProcess, Outcome, Result, SendFifo, Stuck
from watchdogd.model.seen import (
    OUT,
    Access,
    Area,
    Backend,
    Blind,
    Blindness,
    Connection,
    Instance,
    Member,
    Request,
    Role,
    Scope,
    Snapshot,
    SocketsFrom,
)
from watchdogd.model.text import fault
from watchdogd.model.told import SocketsFromProc, Tell
from watchdogd.observe.health import Prober, ProberByThreads
from watchdogd.observe.hung import unproven
from watchdogd.observe.instances import Instances, not_covered
from watchdogd.observe.mongod.access import AccessControl
from watchdogd.observe.mongod.ask import Asker, Heard, Probed, SocketAsker
from watchdogd.observe.mongod.deployments import Deployments
from watchdogd.observe.mongod.heartbeats import Heartbeats, PymongoHeartbeats
from watchdogd.observe.mongod.learned import PORTS, Learned, is_loopback, ports_of
from watchdogd.observe.mongod.members import outage_starts
from watchdogd.observe.mongod.resolve import Pool, PoolResolver, Resolver
from watchdogd.observe.probes import Look, Probes
from watchdogd.observe.processes import Process, Processes, ProcProcesses
from watchdogd.observe.tcp.connections import Connections
from watchdogd.observe.tcp.others import Others
from watchdogd.observe.tcp.sockets import NO_PORTS, ProcNetTcp, Row, Sockets, Table, open_sockets
from watchdogd.observe.uwsgi import Master, ProcUwsgi, Uwsgi
from watchdogd.observe.wakes import Watched, WatchedByThreads

FULL_EVERY_S = 10.0
WALK_SHARE = 0.001
"""Of a core, what quiet looks may take at rest for walking the kernel's table, beside the full ones' walks.

6 ms for 50 000 sockets are then one walk in 6 s. With 1 000 it takes 0.4 ms, on one machine that was measured 2.4 ms.
"""


@dataclass(frozen=True, slots=True)
class Edges:
    """Everything that an Observer reads; `foreign` gives the reader of another process's network namespace."""

    heartbeats: Heartbeats
    resolver: Resolver
    asker: Asker
    sockets: Sockets
    uwsgi: Uwsgi
    processes: Processes
    wakes: Watched
    prober: Prober
    foreign: Callable[[int], Sockets]
    clock: Callable[[], Mono]
    wall: Callable[[], float]


class Observer:
    """Holds the trackers and reads the edges; `look` is called once a tick, from one thread."""

    def __init__(self, config: Config, edges: Edges, *, walk_share: float = WALK_SHARE) -> None:
        self._edges = edges
        self._walk_share = walk_share
        self._walk_at: Mono = -math.inf
        self._deployments = Deployments(edges.heartbeats, edges.resolver)
        self._instances = Instances(edges.uwsgi, edges.processes, edges.clock)
        self._probes = Probes(edges.prober)
        self._unasked: tuple[Blindness, ...] = ()
        self._rounds: Collection[InstanceId] = ()
        self._connections = Connections()
        self._others = Others()
        self._full_at: Mono = -math.inf
        self._outages: frozenset[tuple[MemberId, Mono]] = frozenset()
        self._blind: tuple[Blindness, ...] = ()
        self._deaf: tuple[Blindness, ...] = ()  # for what other addresses answer
        self._members: Mapping[MemberId, Member] = {}
        self._endpoints: frozenset[Endpoint] = frozenset()
        self._endpoints_elsewhere: frozenset[Endpoint] = frozenset()  # in other network namespaces than ours
        self._ports = PORTS
        self._out = False
        self._readers: dict[int, Callable[[], Sockets]] = {}
        self._netns = edges.processes.netns()
        self._learned = Learned(self._netns)
        self._access = AccessControl()
        self._sockets = SocketsFrom(edges.sockets.backend, edges.sockets.why)
        self._told: set[InstanceId | None] = set()  # whose sockets come from /proc; None: those of our own namespace
        self.reconfigure(config)

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; what is known of members and instances that stay is kept."""
        self._names = tuple([one.name for one in config.deployments])
        self._deployments.reconfigure(config.deployments)
        self._learned.reconfigure(config.deployments)
        self._access.reconfigure(config.deployments)
        self._connections.forget_endpoints(self._endpoints - _endpoints(self._deployments.members))
        self._instances.reconfigure(config)
        self._probes.reconfigure(config)
        self._instances.take_health({})
        self._full_at = -math.inf

    def restore(self, connections: Iterable[Connection], access: Iterable[Access] = ()) -> None:
        """Take over what was saved before a restart of the daemon: the ended connections, and what members told.

        Who never does, since nothing is remembered of what he sees, asks no member for its access control.
        """
        self._connections.restore(connections, self._netns)
        self._access.restore(access)

    def ended(self) -> tuple[Connection, ...]:
        """Return the ended connections that are still held, to be saved."""
        return self._connections.ended()

    def access(self) -> tuple[Access, ...]:
        """Return what members told of their access control, to be saved."""
        return self._access.known()

    def unheard(self) -> list[Blindness]:
        """Return what has neither been heard of yet nor said why it cannot be; empty once all has answered."""
        asked = self._learned.pending(self._deployments.members, self._edges.clock())
        silent = [
            Blindness(Scope(Area.ADDRESS, str(endpoint)), "it has not been asked yet whether it is a member's")
            for endpoint in asked
        ]
        return self._deployments.unheard() + silent

    def unsure(self) -> bool:
        """Say whether looks that follow soon would show more: a member is not heard of yet, or a worker may hang."""
        return bool(self.unheard()) or self._instances.suspected()

    def uncovered(self) -> tuple[str, ...]:
        """Return a sentence for each uWSGI master of the host that nothing can reload, also where others are named.

        Costs what it costs to find instances, which no look does where they are named.
        """
        masters = self._edges.uwsgi.discover()
        others = () if isinstance(masters, Blind) else not_covered(masters)
        return tuple(dict.fromkeys((*self._instances.not_covered, *others)))

    def look(
        self,
        *,
        full: bool,
        suspected: Collection[InstanceId] = (),
        soon: Collection[InstanceId] = (),
        outcomes: tuple[Outcome, ...] = (),
        requests: tuple[Request, ...] = (),
    ) -> Snapshot:
        """Read everything that is due and return what is known now. An edge that fails makes that part blind.

        `suspected`: the instances of which is read what is not read at rest (suspect.py); then the look is full.
        `soon`: those into whose FIFO a byte may be written within seconds.
        """
        at = self._edges.clock()
        full = self._hear_apps() or full or bool(suspected)
        answered, members = self._hear(at)
        full |= answered
        if members is not self._members:
            full |= self._take(members)
        full = full or self._out or self._instances.suspected() or at - self._full_at >= FULL_EVERY_S
        walk = full or at >= self._walk_at
        whole = full or not self._is_quiet(walk=walk)
        if whole:
            self._full_at = at
            # Masters first: theirs are the network namespaces whose sockets there are to be read.
            self._instances.read(at, members)
            if walk:
                self._read_sockets()
            else:
                self._look_up()
            self._instances.attribute(self._connections, members, at)
            if walk:
                talks = self._others.attribute(self._instances.processes(), self._edges.processes)
                self._learned.see(talks, self._connections.in_use(), at)
                self._instances.judge(talks, self._learned.words, members)
        self._ask(at, members)
        self._instances.suspect(suspected, self._connections.now(), members, self._readers, at)
        self._see_health(members, at, read=whole and walk)
        instances = self._instances.now()
        if soon:
            instances = tuple([self._watched(one) if one.id in soon else one for one in instances])
        return Snapshot(
            at=self._edges.clock(),
            wall=self._edges.wall(),
            members=members,
            instances=instances,
            connections=self._connections.now(),
            blind=self._blind + self._deaf + self._unasked + self._instances.blind + self._deployments.blind(),
            outcomes=outcomes,
            requests=requests,
            news=(
                *self._deployments.take_news(),
                *self._access.take_news(),
                *self._tell_sockets(instances),
                *self._probes.take_news(),
            ),
            not_covered=self._instances.not_covered,
            sockets=self._sockets,
        )

    def want_rounds(self, instances: Collection[InstanceId]) -> None:
        """Take of which instances the decision wants to know how all workers answer, from the next look on."""
        self._rounds = instances

    def _see_health(self, members: Mapping[MemberId, Member], at: Mono, *, read: bool) -> None:
        """Have the apps asked that are due, and take what they answer. `read`: the sockets were read in this look."""
        if not self._probes.any:
            return
        try:
            sockets = self._sockets if read and not self._blind else None
            look = Look(at, self._instances.now(), self._connections.now(), members, sockets)
            self._instances.take_health(self._probes.look(look, self._rounds))
        except Exception as error:  # noqa: BLE001 - the apps are watched and cured as if they were not asked
            self._instances.take_health({})
            self._unasked = (Blindness(Scope(Area.HEALTH), fault(error)),)

    def _hear_apps(self) -> bool:
        """Take what the apps answer; say whether the sockets are to be read for that."""
        self._unasked = ()
        try:
            return self._probes.hear()
        except Exception as error:  # noqa: BLE001 - same
            self._unasked = (Blindness(Scope(Area.HEALTH), fault(error)),)
            return False

    def _watched(self, instance: Instance) -> Instance:
        """Have the master's threads watched; return the instance with what was seen of them."""
        if instance.master is None:
            return instance
        self._edges.wakes.watch(instance.master)
        return replace(instance, wakes=self._edges.wakes.seen(instance.master))

    def _hear(self, at: Mono) -> tuple[bool, Mapping[MemberId, Member]]:
        """Take what was said by members, name servers and other addresses; return whether the last did, and members.

        An answer of theirs asks for a full look: only that shows who is connected to whom.
        """
        self._deaf, answered = (), False
        answers: list[Heard | Probed] = []
        try:
            answers = self._edges.asker.drain()
            answered = self._learned.fold([one for one in answers if isinstance(one, Heard)])
        except Exception as error:  # noqa: BLE001 - what is known of the members goes on counting
            self._deaf = (Blindness(Scope(Area.ADDRESSES), fault(error)),)
        learned = self._learned.addresses(self._deployments.members)
        ended = [one.remote for one in self._connections.ended()]
        self._deployments.hear(at, self._connections.in_use(), learned, ended)
        self._access.fold([one for one in answers if isinstance(one, Probed)], self._deployments.members, at)
        self._deployments.take_access(self._access.of)
        return answered, self._deployments.members

    def _ask(self, at: Mono, members: Mapping[MemberId, Member]) -> None:
        """Have the address asked that is due, and the member."""
        options = self._deployments.options()
        questions = (self._learned.question(members, options, at), self._access.question(members, options, at))
        try:
            for question in questions:
                if question is not None:
                    self._edges.asker.ask(question)
        except Exception as error:  # noqa: BLE001 - same
            self._deaf = (Blindness(Scope(Area.ADDRESSES), fault(error)),)

    def _tell_sockets(self, instances: tuple[Instance, ...]) -> list[Tell]:
        """Tell once that sockets come from /proc: ours, and those of each instance in another network namespace."""
        told: list[Tell] = []
        ours = (None, None, self._sockets)
        for whose, name, sockets in (ours, *[(one.id, one.name, one.sockets) for one in instances]):
            if sockets is not None and sockets.backend is Backend.PROC and whose not in self._told:
                self._told.add(whose)
                told.append(Tell(SocketsFromProc(sockets.why), name))
        return told

    def _take(self, members: Mapping[MemberId, Member]) -> bool:
        """Take what has changed of the members; say whether that asks for a full look."""
        outages, endpoints = outage_starts(members, self._names), _endpoints(members)
        new = bool(endpoints - self._endpoints)
        if new:
            self._connections.look_anew()
        begun = outages != self._outages
        self._members, self._outages, self._ports = members, outages, ports_of(members)
        if endpoints != self._endpoints:
            # Somebody else answers there now: what leads there is no connection to a member any more.
            self._connections.forget_endpoints(self._endpoints - endpoints)
            self._endpoints = endpoints
            ours_alone = frozenset(one for member in members.values() for one in member.learned if is_loopback(one))
            self._endpoints_elsewhere = endpoints - ours_alone if ours_alone else endpoints
        self._out = any(member.state in OUT for member in members.values())
        return new or begun

    def last_look(self, effect: SendFifo) -> int | tuple[Result, str]:
        """Look once more right before the byte: return the FIFO's descriptor where all is as the decision saw it.

        Else CHANGED with what is not, or what Uwsgi.descriptor says. The caller closes the descriptor.
        """
        try:
            known = next((master for master in self._instances.masters() if master.id == effect.master), None)
            checked = self._edges.uwsgi.check(known) if known else None
            if not isinstance(checked, Master) or checked.id != effect.master:
                return Result.CHANGED, "the master has changed"
            changed = self._difference(effect)
            return (Result.CHANGED, changed) if changed else self._edges.uwsgi.descriptor(checked)
        except Exception as error:  # noqa: BLE001 - what cannot be compared is not written
            return Result.CHANGED, fault(error)

    def last_look_to_end(self, effect: EndProcess) -> int | tuple[Result, str]:
        """Open the process, and only then look whether it is who the decision was about, and hangs or is stuck as then.

        Returns its pidfd, which the caller closes: it can never mean another process. Else CHANGED or TRY_AGAIN with
        what is not as it was, or what Processes.pidfd says.
        """
        with contextlib.ExitStack() as changed:
            try:
                if all(master.id != effect.master for master in self._instances.masters()):
                    return Result.CHANGED, "the master has changed"
                pidfd = self._edges.processes.pidfd(effect.process.pid)
                if not isinstance(pidfd, int):
                    return pidfd
                changed.callback(os.close, pidfd)
                if why := self._difference_of_one(effect):
                    return why
            except Exception as error:  # noqa: BLE001 - who cannot be looked at is not ended
                return Result.CHANGED, fault(error)
            changed.pop_all()
            return pidfd

    def _difference_of_one(self, effect: EndProcess) -> tuple[Result, str] | None:
        """Return how it is not as the decision saw it, None when it is."""
        processes = self._edges.processes.of(effect.master)
        if isinstance(processes, Blind):
            return Result.CHANGED, processes.why
        its = next((process for process in processes if process.id == effect.process), None)
        if its is None:
            return Result.CHANGED, f"process {effect.process.pid} is no child of master {effect.master.pid} any more"
        return self._unstuck(its, effect.stuck) if effect.stuck else unproven(its.id.pid, its.wait)

    def _unstuck(self, its: Process, stuck: Stuck) -> tuple[Result, str] | None:
        """Return how a mule or a spooler is not stuck any more, None where it is: a driver that heals closes these."""
        if its.role.value != stuck.role:
            return Result.CHANGED, f"process {its.id.pid} is no {stuck.role} any more"
        held = self._edges.processes.descriptors(its.id.pid)
        if isinstance(held, Blind):
            return Result.CHANGED, held.why
        if not stuck.inodes or not stuck.inodes <= set(held.values()):
            return Result.CHANGED, f"{stuck.role} {its.id.pid} has closed what the outage ended"
        return None

    def _difference(self, effect: SendFifo) -> str | None:
        """Return how its processes are not as the decision saw them, None when they are."""
        processes = self._edges.processes.of(effect.master)
        if isinstance(processes, Blind):
            return processes.why
        workers = {process.id: process.role for process in processes if process.role in (Role.LOADING, Role.READY)}
        if workers.keys() != effect.workers:
            return "the workers have changed"
        loading = [process.pid for process, role in workers.items() if role is Role.LOADING]
        return f"worker {loading[0]} is loading the app" if loading else None

    def _is_quiet(self, *, walk: bool) -> bool:
        """Read CLOSE_WAIT alone; say whether nothing in it, or in what is known, asks for a full look."""
        if self._connections.ended():
            return False
        if not walk:
            return True
        tables = {
            netns: _read(reader, self._endpoints_in(netns), established=False)
            for netns, reader in self._readers.items()
        }
        self._rest(tables.values())
        if any(isinstance(one, Blind) or self._connections.asks_for_more(one) for one in tables.values()):
            return False
        for netns, table in tables.items():
            if isinstance(table, Table):
                self._connections.fold(table, netns, established=False)
        return True

    def _read_sockets(self) -> None:
        """Read the whole table of every network namespace with an instance."""
        self._readers = readers = self._tables()
        self._instances.take_sockets({netns: _how(one) for netns, one in readers.items() if netns != self._netns})
        self._connections.forget_namespaces(set(readers))
        self._others.forget_namespaces(set(readers))
        self._blind = ()
        if not self._endpoints:  # then nothing is read, and nothing is missing
            return
        tables = {
            netns: _read(reader, self._endpoints_in(netns), established=True, ports=self._ports)
            for netns, reader in readers.items()
        }
        self._rest(tables.values())
        for netns, table in tables.items():
            if isinstance(table, Table):
                endpoints = self._endpoints_in(netns)
                to_members = [row for row in table.rows if row.remote in endpoints]
                self._others.fold([row for row in table.rows if row.remote not in endpoints], netns)
                self._connections.fold(replace(table, rows=tuple(to_members)), netns, established=True)
            elif netns == self._netns:
                self._blind = (Blindness(Scope(Area.SOCKETS), table.why),)
            else:
                self._instances.hide(netns, table.why)

    def _endpoints_in(self, netns: int) -> frozenset[Endpoint]:
        """Return where members are in that network namespace."""
        return self._endpoints if netns == self._netns else self._endpoints_elsewhere

    def _rest(self, tables: Collection[Table | Blind]) -> None:
        """Have the next walk at rest wait for as long as these cost; a failed one is repeated at once."""
        cpu_s = sum(one.cpu_s for one in tables if isinstance(one, Table))
        failed = any(isinstance(one, Blind) for one in tables)
        self._walk_at = -math.inf if failed else self._edges.clock() + cpu_s / self._walk_share

    def _look_up(self) -> None:
        """Ask for the ended connections one by one, where it is not yet time to walk the whole table again."""
        at, ended = self._edges.clock(), [one.cookie for one in self._connections.ended()]
        for netns, reader in self._readers.items():
            found = _look_up(reader, ended)
            if isinstance(found, Blind):
                self._walk_at = -math.inf
            else:
                self._connections.fold_known(found, netns, at)

    def _tables(self) -> dict[int, Callable[[], Sockets]]:
        """Return how to come to the table of each network namespace that an instance lives in, and of ours."""
        readers: dict[int, Callable[[], Sockets]] = {self._netns: lambda: self._edges.sockets}
        for master in self._instances.masters():
            if master.netns is not None:
                readers.setdefault(master.netns, partial(self._edges.foreign, master.id.pid))
        return readers


def _endpoints(members: Mapping[MemberId, Member]) -> frozenset[Endpoint]:
    return frozenset().union(*[member.endpoints for member in members.values()])


def _how(reader: Callable[[], Sockets]) -> SocketsFrom:
    try:
        one = reader()
    except Exception as error:  # noqa: BLE001 - a reader that fails makes us blind, not dead
        return SocketsFrom(Backend.NONE, fault(error))
    return SocketsFrom(one.backend, one.why)


def _read(
    reader: Callable[[], Sockets],
    endpoints: frozenset[Endpoint],
    *,
    established: bool,
    ports: frozenset[int] = NO_PORTS,
) -> Table | Blind:
    try:
        if ports:
            return reader().read(endpoints, established=established, ports=ports)
        return reader().read(endpoints, established=established)
    except Exception as error:  # noqa: BLE001 - a reader that fails makes us blind, not dead
        return Blind(fault(error))


def _look_up(reader: Callable[[], Sockets], cookies: Iterable[int]) -> Mapping[int, Row | None] | Blind:
    try:
        return reader().look_up(cookies)
    except Exception as error:  # noqa: BLE001 - same
        return Blind(fault(error))


def open_edges(wake: Callable[[], None]) -> Edges:
    """Return the real edges; `wake` is called from threads when one of them has something to read."""
    pool = Pool()
    return Edges(
        heartbeats=PymongoHeartbeats(wake, pool.submit),
        resolver=PoolResolver(pool, wake),
        asker=SocketAsker(pool.submit, wake),
        sockets=open_sockets(),
        uwsgi=ProcUwsgi(),
        processes=ProcProcesses(),
        wakes=WatchedByThreads(wake),
        prober=ProberByThreads(wake),
        foreign=ProcNetTcp,
        clock=time.monotonic,
        wall=time.time,
    )
