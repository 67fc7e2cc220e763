"""The uWSGI instances, configured or found: their masters, processes and what keeps us from seeing them.

Reads through the edges to uWSGI and to processes, and folds into Workers. An instance is known by its identity
(model.InstanceId), and two of them never have the same master. It must never decide about a reload.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from watchdogd.config import Config, InstanceConfig, distinct_names, found_instance
from watchdogd.model.base import Endpoint, Incarnation, InstanceId, MemberId, Mono, ProcessId
from watchdogd.model.seen import (
    Area,
    Blind,
    Blindness,
    Connection,
    Health,
    Instance,
    Member,
    Role,
    Scope,
    SocketsFrom,
    Tcp,
)
from watchdogd.model.text import Outside, fault
from watchdogd.observe import two_masters
from watchdogd.observe.mongod.members import outage_starts
from watchdogd.observe.processes import Processes
from watchdogd.observe.senders import Senders
from watchdogd.observe.single import Single
from watchdogd.observe.suspect import Around, Started, Suspect
from watchdogd.observe.tcp.connections import Connections
from watchdogd.observe.tcp.others import Place, Talk
from watchdogd.observe.tcp.sockets import Sockets
from watchdogd.observe.uwsgi import Master, Uwsgi
from watchdogd.observe.workers import Mules, Workers

NAMED_AT_MOST = 3  # addresses in one sentence

Tables = Mapping[int, Callable[[], Sockets]]


@dataclass(slots=True, eq=False)
class _Site:
    """What is remembered of one instance between looks. `name`: what people read, which says nothing of who it is."""

    limits: InstanceConfig
    name: str
    master: Master | None = None
    workers: Workers = field(default_factory=Workers)
    mules: Mules = field(default_factory=Mules)
    had_mules: bool = False
    others: tuple[ProcessId, ...] = ()
    seen_at: Mono = 0.0
    held_by_master: frozenset[str] = frozenset()
    connected: bool = False  # the master, to a member that serves
    connected_at: Mono | None = None
    senders: Senders = field(default_factory=Senders)
    single: Single = field(default_factory=Single)
    blind: tuple[str, ...] = ()
    sockets: SocketsFrom | None = None
    has_forked: bool = False  # a child of the master is a master
    no_restart: str | None = None
    asked: ProcessId | None = None  # of whom that was asked
    met: frozenset[str] = frozenset()  # the deployments to which a process of it was ever connected
    strangers: tuple[str, ...] = ()  # the deployments of others to which a process of it is connected now
    elsewhere: str = ""
    suspect: Suspect | None = None
    threads_off: bool = False
    meant: str = ""
    health: Health | None = None

    @property
    def id(self) -> InstanceId:
        """Its identity."""
        return self.limits.id

    def forget(self, at: Mono) -> None:
        """Begin anew: with another master, or with none, nothing that was seen of the last one is true."""
        self.workers, self.mules, self.others, self.seen_at = Workers(), Mules(), (), at
        self.had_mules = False
        self.held_by_master, self.connected, self.connected_at = frozenset(), False, None
        self.senders, self.single = Senders(), Single()
        self.has_forked, self.no_restart, self.asked = False, None, None
        self.met, self.strangers, self.elsewhere = frozenset(), (), ""
        self.suspect, self.threads_off = None, False

    def processes(self) -> list[ProcessId]:
        """Return the master and everything that it started."""
        if self.master is None:
            return []
        started = (*self.workers.now(), *self.mules.now())
        return [self.master.id, *(one.id for one in started), *self.others]


class Instances:
    """All instances."""

    def __init__(self, uwsgi: Uwsgi, processes: Processes, clock: Callable[[], Mono]) -> None:
        self._uwsgi = uwsgi
        self._processes = processes
        self._clock = clock
        self._sites: dict[InstanceId, _Site] = {}
        self._config: Config | None = None
        self._now: tuple[Instance, ...] = ()
        self._outdated = False
        self._suspecting = False
        self._latched: tuple[tuple[Connection, ...], Mapping[MemberId, Member], list[ProcessId]] | None = None
        self._not_covered: tuple[str, ...] = ()
        self.blind: tuple[Blindness, ...] = ()

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; what is known of instances that stay is kept."""
        self._config, self._outdated = config, True
        if config.instances is None:
            self._sites, known = {}, self._sites.values()
            for site in known:
                self._add_found(site.limits.master_fifo, config, site)
        else:
            known_by_id = dict(self._sites)
            self._sites = {one.id: known_by_id.get(one.id) or _Site(one, one.name) for one in config.instances}
            for one in config.instances:
                self._sites[one.id].limits, self._sites[one.id].name = one, one.name

    def now(self) -> tuple[Instance, ...]:
        """Return every instance as it is known now: the same tuple as long as nothing has changed."""
        if self._outdated:
            now = tuple([_instance(site) for site in self._sites.values()])
            self._now, self._outdated = self._now if now == self._now else now, False
        return self._now

    @property
    def not_covered(self) -> tuple[str, ...]:
        """Return a sentence, with the line that would mend it, for each uWSGI master that nothing can reload."""
        beside = [_strangers(master) for master in self.masters() if master.rivals and not master.fifo_problem]
        return (*self._not_covered, *beside)

    def suspected(self) -> bool:
        """Say whether a worker or a mule may hang, and looks that follow soon would prove it."""
        return any(site.workers.suspected() or site.mules.suspected() for site in self._sites.values())

    def masters(self) -> list[Master]:
        """Return the masters that are there."""
        return [site.master for site in self._sites.values() if site.master]

    def processes(self) -> list[ProcessId]:
        """Return the processes of all instances."""
        return [process for site in self._sites.values() for process in site.processes()]

    def read(self, at: Mono, members: Mapping[MemberId, Member]) -> None:
        """Read masters and processes."""
        self._outdated = True
        masters = self._found_masters() if self._config is not None and self._config.instances is None else None
        held = {site.master.id: site.id for site in self._sites.values() if site.master}
        for site in self._sites.values():
            site.blind = ()
            self._guarded(site, partial(self._find, site, at, masters))
        self._refuse_second_names(held, at)
        self._ask_for_restarts()
        self._see_what_is_meant()
        for site in self._sites.values():
            self._guarded(site, partial(self._read, site, at, members))

    def take_sockets(self, by_netns: Mapping[int, SocketsFrom]) -> None:
        """Take how the sockets of other network namespaces than ours are read."""
        for site in self._sites.values():
            netns = site.master.netns if site.master else None
            site.sockets = None if netns is None else by_netns.get(netns)

    def take_health(self, known: Mapping[InstanceId, Health]) -> None:
        """Take what their apps answer."""
        for site in self._sites.values():
            health = known.get(site.id)
            self._outdated |= health != site.health
            site.health = health

    def hide(self, netns: int, why: str) -> None:
        """Make the instances of a network namespace blind, until the next `read`: its sockets cannot be read."""
        self._outdated = True
        for site in self._sites.values():
            if site.master and site.master.netns == netns:
                site.blind += (why,)

    def attribute(self, connections: Connections, members: Mapping[MemberId, Member], at: Mono) -> None:
        """Find who holds which connection, and latch what that says of workers and masters."""
        self._outdated = True
        every = self.processes()
        unreadable = connections.attribute(every, self._processes)
        for site in self._sites.values() if unreadable else ():
            own = set(site.processes())
            site.blind += tuple([why for process, why in unreadable.items() if process in own])
        now = connections.now()
        if (
            self._latched is None
            or self._latched[0] is not now
            or self._latched[1] is not members
            or self._latched[2] != every
        ):
            self._latched = now, members, every
            self._latch(now, members, at)
        # Of connections that are as they were there is nothing more to learn, but that a master's still is.
        for site in self._sites.values():
            if site.connected:
                site.connected_at = at

    def judge(
        self,
        talks: Mapping[Place, Talk],
        words: Callable[[Place, Talk], str | None],
        members: Mapping[MemberId, Member],
    ) -> None:
        """See which instances talk only to others than the members of their deployments.

        Only those that the configuration names: of one that was found nobody has said that it uses MongoDB. `words`:
        who is at a place; None while that is not known.
        """
        if self._config is None or self._config.instances is None:
            return
        for site in self._sites.values():
            own = set(site.processes())
            others = [words(place, talk) for place, talk in sorted(talks.items()) if talk.holders & own]
            known = [one for one in others if one is not None]
            told = site.elsewhere
            if site.met & set(site.limits.deployments):
                told = ""
            elif len(known) == len(others) and (known or site.strangers):
                # One that has no connection at the moment goes on being told.
                told = _elsewhere(site, [*site.strangers, *known], members)
            self._outdated |= told != site.elsewhere
            site.elsewhere = told

    def suspect(
        self,
        which: Collection[InstanceId],
        connections: Iterable[Connection],
        members: Mapping[MemberId, Member],
        tables: Tables,
        began: Mono,
    ) -> None:
        """Read what is read of suspected instances alone; of all others forget it. `began`: when this look began.

        `tables`: how to come to the sockets of each network namespace.
        """
        if not (which or self._suspecting):
            return
        self._outdated, self._suspecting = True, bool(which)
        held = _by_holder(connections)
        for site in self._sites.values():
            if site.master is None or site.id not in which:
                site.suspect = None
                continue
            site.suspect = site.suspect or Suspect(self._processes, self._clock)
            # Where its network namespace is not known, the instance is blind already.
            if site.master.netns is not None and site.master.netns in tables:
                around = Around(began, held, members.values(), tables[site.master.netns])
                self._guarded(site, partial(_read_suspect, site, site.suspect, around))

    def _latch(self, connections: Iterable[Connection], members: Mapping[MemberId, Member], at: Mono) -> None:
        by_endpoint: dict[Endpoint, list[Member]] = {}
        for member in members.values():
            for endpoint in member.endpoints:
                by_endpoint.setdefault(endpoint, []).append(member)
        serving = {member.incarnation for member in members.values() if member.is_serving}

        def over(incarnation: Incarnation) -> bool:
            return incarnation not in serving

        held = _by_holder(connections)
        for site in self._sites.values():
            self._guarded(site, partial(_latch, site, held, by_endpoint, over, at))

    def _guarded(self, site: _Site, read: Callable[[], None]) -> None:
        """Do one instance's part: what cannot be read of it makes it blind, and must not hide the others."""
        try:
            read()
        except Exception as error:  # noqa: BLE001 - same
            site.blind = (*site.blind, fault(error))
            self._latched = None  # to be tried again

    def _find(self, site: _Site, at: Mono, masters: Mapping[InstanceId, Master] | None) -> None:
        """Find its master, or see that it is there no more. `masters`: those that were found, where none is named."""
        trusted = site.limits.trust_owners if masters is None else None
        # One that was found by what counted before is found anew.
        known = self._uwsgi.check(site.master) if site.master and site.master.trusted == trusted else None
        found = known
        if found is None and masters is None:
            found = self._uwsgi.find(str(site.limits.master_fifo), site.limits.trust_owners)
        elif found is None and masters is not None:
            found = masters.get(site.id)
        elif isinstance(found, Master):
            found = self._in_truth(site, found, masters) or found
        if isinstance(found, Blind):
            site.blind = (found.why,)
            if known is None:  # it has ended, whatever keeps us from seeing who came after it
                site.forget(at)
                site.master = None
            return
        if found is None or site.master is None or found.id != site.master.id:
            site.forget(at)
        site.master = found

    def _in_truth(self, site: _Site, held: Master, masters: Mapping[InstanceId, Master] | None) -> Master | None:
        """Return who is at this path in truth, where the master that is known is not there any more, or not alone.

        A name is all that an old one has whose FIFO was replaced, and who has a file system of his own can have any.
        """
        if masters is None and held.fifo_problem is None and not site.has_forked:
            return None
        fifo, trusted = str(site.limits.master_fifo), site.limits.trust_owners
        found = self._uwsgi.find(fifo, trusted) if masters is None else masters.get(site.id)
        if not isinstance(found, Master) or not found.here or (found.fifo_problem is not None and not found.rivals):
            return None
        return found if found.id == held.id or held.fifo_problem is not None or not held.here else None

    def _see_what_is_meant(self) -> None:
        """See, for each named instance that nobody is, whether somebody reads a FIFO that is called almost so."""
        named = self._config is not None and self._config.instances is not None
        absent = [site for site in self._sites.values() if named and site.master is None and not site.blind]
        masters = self._discover() if absent else ()
        if named:  # it may be one of these that should be there
            self._not_covered = () if isinstance(masters, Blind) else not_covered(masters)
        taken = {site.master.id for site in self._sites.values() if site.master}
        free = () if isinstance(masters, Blind) else [one for one in masters if one.fifo and one.id not in taken]
        for site in self._sites.values():
            near = [one for one in free if site in absent and is_almost(str(site.limits.master_fifo), one.fifo)]
            site.meant = (
                f"perhaps {Outside(near[0].fifo)} is meant, which uWSGI master {near[0].id.pid} reads" if near else ""
            )

    def _ask_for_restarts(self) -> None:
        """Ask, of every master that is new, whether it may be restarted."""
        new = {site.master.id: site for site in self._sites.values() if site.master and site.master.id != site.asked}
        if not new:
            return
        try:
            reasons = self._uwsgi.no_restart(new)
        except Exception as error:  # noqa: BLE001 - as in _guarded: of these nothing is known, which is asked again
            for site in new.values():
                site.blind += (fault(error),)
            return
        for master, site in new.items():
            site.no_restart, site.asked = reasons.get(master), master

    def _refuse_second_names(self, held: Mapping[ProcessId, InstanceId], at: Mono) -> None:
        """Leave each master to one instance: to the one that had it in the last look, else to the first."""
        owners: dict[ProcessId, _Site] = {}
        for site in sorted(
            self._sites.values(), key=lambda one: held.get(one.master.id) != one.id if one.master else 1
        ):
            if site.master is None:
                continue
            owner = owners.setdefault(site.master.id, site)
            if owner is not site:
                why = (
                    f"{site.id} leads to master {site.master.id.pid}, which is {owner.name} already ({owner.id}): "
                    "remove one of the two"
                )
                site.forget(at)
                site.master, site.blind = None, (why,)

    def _read(self, site: _Site, at: Mono, members: Mapping[MemberId, Member]) -> None:
        found = site.master
        if found is None or site.blind:
            return
        if found.netns is None:
            right = "give the daemon CAP_SYS_PTRACE, or run it as the same user"
            site.blind = (f"cannot tell the network namespace of master {found.id.pid}: {right}",)
        processes = self._processes.of(found.id)
        if isinstance(processes, Blind):
            site.blind += (processes.why,)
            return
        site.others = tuple([process.id for process in processes if process.role is Role.OTHER])
        site.has_forked = any(process.role is Role.MASTER for process in processes[1:])
        outages = outage_starts(members, site.limits.deployments)
        site.workers.fold(processes, at, outages)
        site.mules.fold(processes, at, outages)
        site.had_mules |= bool(site.mules.now())
        # Who sends has a driver whose threads run. At rest that is nearly every master that has a client.
        may_be = not site.senders.sent and (bool(site.held_by_master) or site.suspect is not None)
        site.single.fold(found.id.pid, self._processes.runs(found.id.pid) if may_be else {}, at)

    def _found_masters(self) -> dict[InstanceId, Master]:
        """Find masters on the whole host, and make an instance of each that has a FIFO and is none yet."""
        masters = self._discover()
        if isinstance(masters, Blind):
            self.blind = (Blindness(Scope(Area.PROCESSES), masters.why),)
            return {}
        watched = {master.id for master in self.masters()}
        found: dict[InstanceId, Master] = {}
        second: list[str] = []
        # First the one that its path leads to from here, then the oldest: never by the order of finding.
        for master in sorted(masters, key=lambda one: (not one.here, one.id.start_ticks, one.id.pid)):
            if not master.fifo:
                continue
            first = found.setdefault(InstanceId(master.fifo), master)
            if master.id in first.rivals:  # which is told where `first` is
                continue
            if first is not master:
                second.append(_same_name(master, first))
            elif master.id not in watched and master.fifo not in self._sites and self._config is not None:
                self._add_found(Path(master.fifo), self._config)
        hidden = [one for one in masters if one.fifo_problem and not one.fifo and one.id not in watched]
        self.blind = tuple([Blindness(Scope(Area.MASTER, str(one.id.pid)), one.fifo_problem or "") for one in hidden])
        self._not_covered = (*not_covered(masters), *second)
        return found

    def _discover(self) -> tuple[Master, ...] | Blind:
        try:
            return self._uwsgi.discover()
        except Exception as error:  # noqa: BLE001 - the instances that are known go on being read
            return Blind(fault(error))

    def _add_found(self, fifo: Path, config: Config, site: _Site | None = None) -> None:
        """Watch what was found. One that is gone is shown as absent until the daemon ends."""
        limits = found_instance(fifo, config)
        site = site or _Site(limits, limits.name)
        site.limits = limits
        self._sites[site.id] = site
        for one, name in zip(self._sites.values(), distinct_names(self._sites), strict=True):
            one.name = name


def is_almost(text: str, other: str, most: int = 2) -> bool:
    """Say whether one becomes the other by at most so many letters more, less or changed; two that swap are two."""
    if abs(len(text) - len(other)) > most:
        return False
    costs = list(range(len(other) + 1))
    for row, letter in enumerate(text, 1):
        before, costs[0] = costs[0], row
        for column, its in enumerate(other, 1):
            before, costs[column] = (
                costs[column],
                min(before + (letter != its), costs[column] + 1, costs[column - 1] + 1),
            )
    return costs[-1] <= most


def not_covered(masters: Iterable[Master]) -> tuple[str, ...]:
    """Return a sentence for each master that nothing can reload; one that hides its descriptors may have a FIFO."""
    return tuple([_not_covered(one) for one in masters if not one.fifo and not one.fifo_problem])


def _not_covered(master: Master) -> str:
    if master.outside:
        return (
            f"uWSGI master {master.id.pid} has its FIFO {master.inside} in a container, which is {master.outside} from "
            f"here; name it under `uwsgi:` by that path"
        )
    if master.inside:
        return (
            f"uWSGI master {master.id.pid} has its FIFO {master.inside} in a container, where that path is another "
            "than here; name it under `uwsgi:` by a path of this host, of a volume say"
        )
    return (
        f"uWSGI master {master.id.pid} has no master FIFO, so nobody can reload just its workers; "
        "add `master-fifo = /run/uwsgi/app/NAME/fifo` to its configuration"
    )


def _strangers(master: Master) -> str:
    return two_masters.strangers(Outside(master.fifo), master.id.pid, master.rivals[0].pid)


def _same_name(master: Master, first: Master) -> str:
    return (
        f"uWSGI master {master.id.pid} calls its FIFO {master.fifo}, as master {first.id.pid} does: each has a file "
        "system of its own (PrivateTmp=, say); give one of them another `master-fifo`"
    )


def _by_holder(connections: Iterable[Connection]) -> dict[ProcessId, list[Connection]]:
    """To show every instance all of them took 99 ms with 40 instances of 80 connections, and takes 6 so."""
    held: dict[ProcessId, list[Connection]] = {}
    for connection in connections:
        for holder in connection.holders:
            held.setdefault(holder, []).append(connection)
    return held


def _read_suspect(site: _Site, suspect: Suspect, around: Around) -> None:
    if site.master is not None:
        started = Started(site.workers.now(), site.mules.now(), site.others)
        suspect.read(site.master.id, started, site.limits.deployments, around)
        site.threads_off |= suspect.threads_off


def _latch(
    site: _Site,
    held: Mapping[ProcessId, list[Connection]],
    by_endpoint: Mapping[Endpoint, list[Member]],
    over: Callable[[Incarnation], bool],
    at: Mono,
) -> None:
    known = {one.cookie: one for process in site.processes() for one in held.get(process, ())}.values()
    site.workers.connect(known, by_endpoint, over)
    site.mules.connect(known, by_endpoint, over)
    reached = {
        (member.id.deployment, connection.remote)
        for connection in known
        for member in by_endpoint.get(connection.remote, ())
    }
    site.met |= {name for name, _ in reached}
    others = {(name, remote) for name, remote in reached if name not in site.limits.deployments}
    site.strangers = tuple([f"{remote}, which is deployment {name}" for name, remote in sorted(others)])
    _latch_master(site, known, by_endpoint)
    held_by_master = [one for one in known if site.master and site.master.id in one.holders]
    site.senders.see(held_by_master, by_endpoint, at)


def _latch_master(site: _Site, connections: Iterable[Connection], members: Mapping[Endpoint, list[Member]]) -> None:
    site.connected = False
    if site.master is None:
        return
    for connection in connections:
        if site.master.id in connection.holders:
            to = members.get(connection.remote, ())
            site.held_by_master |= {member.id.deployment for member in to}
            if connection.tcp is Tcp.ESTABLISHED and any(member.is_serving for member in to):
                site.connected = True


def _elsewhere(site: _Site, others: Sequence[str], members: Mapping[MemberId, Member]) -> str:
    """Say whom an instance talks to, and whom it should."""
    addresses: dict[str, list[str]] = {name: [] for name in site.limits.deployments}
    for key in members:
        if key.deployment in addresses:
            addresses[key.deployment].append(key.address)
    at = [f"{name} at {' and '.join(some(ones)) or 'no address yet'}" for name, ones in addresses.items()]
    return (
        f"{site.name} talks to {', and to '.join(some(others))}; its deployment is {', and '.join(at)}. "
        "Mend the `uri` of that deployment, or name under `uwsgi:` the one that it uses"
    )


def some(texts: Sequence[str]) -> list[str]:
    """Return the first ones, and how many more there are."""
    more = len(texts) - NAMED_AT_MOST
    return [*texts[:NAMED_AT_MOST], *([f"{more} more"] if more > 0 else [])]


def _instance(site: _Site) -> Instance:
    master = site.master
    return Instance(
        name=site.name,
        fifo=Outside(site.limits.master_fifo),
        deployments=site.limits.deployments,
        master=master.id if master else None,
        workers=site.suspect.seen(site.workers.now()) if site.suspect else site.workers.now(),
        mules=site.suspect.seen(site.mules.mules()) if site.suspect else site.mules.mules(),
        had_mules=site.had_mules,
        others=site.others,
        seen_at=site.seen_at,
        held_by_master=site.held_by_master,
        master_connected_at=site.connected_at,
        fifo_problem=master.fifo_problem if master else None,
        blind=(*site.blind, site.elsewhere) if site.elsewhere else site.blind,
        uid=master.uid if master else None,
        sockets=site.sockets,
        no_restart=site.no_restart,
        met=site.met,
        elsewhere=site.elsewhere,
        master_sent=site.senders.sent,
        dead=site.suspect.dead if site.suspect else (),
        unseen=site.suspect.unseen if site.suspect else "",
        master_threads=site.suspect.master_threads if site.suspect else None,
        master_single=site.single.seen,
        threads_off=site.threads_off,
        meant=site.meant,
        health=site.health,
    )
