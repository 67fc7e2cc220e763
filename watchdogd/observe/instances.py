"""The uWSGI instances, configured or found: their masters, processes and what keeps us from seeing them.

Reads through the Uwsgi edge and folds into Workers. It must never decide about a reload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from watchdogd.config import Config, InstanceConfig, found_instance
from watchdogd.model import (
    Blind,
    Connection,
    Endpoint,
    Incarnation,
    Instance,
    Member,
    MemberId,
    Mono,
    ProcessId,
    Role,
    Tcp,
)
from watchdogd.observe import fault
from watchdogd.observe.members import outage_starts
from watchdogd.observe.tracking import Connections, Workers
from watchdogd.observe.uwsgi import Master, Uwsgi


@dataclass(slots=True, eq=False)
class _Site:
    """What is remembered of one instance between looks."""

    limits: InstanceConfig
    master: Master | None = None
    workers: Workers = field(default_factory=Workers)
    others: tuple[ProcessId, ...] = ()
    seen_at: Mono = 0.0
    held_by_master: frozenset[str] = frozenset()
    connected: bool = False  # the master, to a member that serves
    connected_at: Mono | None = None
    blind: tuple[str, ...] = ()

    def processes(self) -> list[ProcessId]:
        """Return the master and everything that it started."""
        if self.master is None:
            return []
        return [self.master.id, *(worker.id for worker in self.workers.now()), *self.others]


class Instances:
    """All instances. `not_covered`: uWSGI masters that nothing can reload, each with the line that would mend it."""

    def __init__(self, edge: Uwsgi) -> None:
        self._edge = edge
        self._sites: dict[str, _Site] = {}
        self._config: Config | None = None
        self._now: tuple[Instance, ...] = ()
        self._outdated = False
        self._latched: tuple[tuple[Connection, ...], Mapping[MemberId, Member], list[ProcessId]] | None = None
        self.not_covered: tuple[str, ...] = ()
        self.blind: tuple[Blind, ...] = ()

    def reconfigure(self, config: Config) -> None:
        """Take another configuration; what is known of instances that stay is kept."""
        self._config, self._outdated = config, True
        if config.instances is None:
            sites: dict[str, _Site] = {}
            for site in self._sites.values():
                fifo = Path(site.master.fifo) if site.master else site.limits.master_fifo
                site.limits = found_instance(fifo, config)
                sites[_unique(site.limits.name, sites)] = site
            self._sites = sites
        else:
            by_fifo = {site.limits.master_fifo: site for site in self._sites.values()}
            sites = {one.name: by_fifo.get(one.master_fifo) or _Site(one) for one in config.instances}
            for one in config.instances:
                sites[one.name].limits = one
            self._sites = sites

    def now(self) -> tuple[Instance, ...]:
        """Return every instance as it is known now: the same tuple as long as nothing has changed."""
        if self._outdated:
            now = tuple([_instance(name, site) for name, site in self._sites.items()])
            self._now, self._outdated = self._now if now == self._now else now, False
        return self._now

    def masters(self) -> list[Master]:
        """Return the masters that are there."""
        return [site.master for site in self._sites.values() if site.master]

    def read(self, at: Mono, members: Mapping[MemberId, Member]) -> None:
        """Read masters and processes."""
        self._outdated = True
        if self._config is not None and self._config.instances is None:
            self._discover(self._config)
        for site in self._sites.values():
            site.blind = ()
            try:
                self._read(site, at, members)
            except Exception as error:  # noqa: BLE001 - one instance that cannot be read must not hide the others
                site.blind = (*site.blind, fault(error))

    def hide(self, netns: int, why: str) -> None:
        """Make the instances of a network namespace blind, until the next `read`: its sockets cannot be read."""
        self._outdated = True
        for site in self._sites.values():
            if site.master and site.master.netns == netns:
                site.blind += (why,)

    def attribute(self, connections: Connections, members: Mapping[MemberId, Member], at: Mono) -> None:
        """Find who holds which connection, and latch what that says of workers and masters."""
        self._outdated = True
        every = [process for site in self._sites.values() for process in site.processes()]
        unreadable = connections.attribute(every, self._edge)
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
            self._latch(now, members)
        # Of connections that are as they were there is nothing more to learn, but that a master's still is.
        for site in self._sites.values():
            if site.connected:
                site.connected_at = at

    def _latch(self, connections: Iterable[Connection], members: Mapping[MemberId, Member]) -> None:
        by_endpoint: dict[Endpoint, list[Member]] = {}
        for member in members.values():
            for endpoint in member.endpoints:
                by_endpoint.setdefault(endpoint, []).append(member)
        serving = {member.incarnation for member in members.values() if member.serving}

        def over(incarnation: Incarnation) -> bool:
            return incarnation not in serving

        # By holder: to show every instance all of them took 99 ms with 40 instances of 80 connections, and takes 6 so.
        held: dict[ProcessId, list[Connection]] = {}
        for connection in connections:
            for holder in connection.holders:
                held.setdefault(holder, []).append(connection)
        for site in self._sites.values():
            known = {one.cookie: one for process in site.processes() for one in held.get(process, ())}.values()
            site.workers.connect(known, by_endpoint, over)
            _latch_master(site, known, by_endpoint)

    def _read(self, site: _Site, at: Mono, members: Mapping[MemberId, Member]) -> None:
        found = self._edge.check(site.master) if site.master else None
        if found is None:
            found = self._edge.find(str(site.limits.master_fifo))
        if isinstance(found, Blind):
            site.blind = (found.why,)
            return
        if found is None or site.master is None or found.id != site.master.id:
            site.workers, site.others, site.seen_at = Workers(), (), at
            site.held_by_master, site.connected, site.connected_at = frozenset(), False, None
        site.master = found
        if found is None:
            return
        if found.netns is None:
            right = "give the daemon CAP_SYS_PTRACE, or run it as the same user"
            site.blind = (f"cannot tell the network namespace of master {found.id.pid}: {right}",)
        processes = self._edge.processes(found.id)
        if isinstance(processes, Blind):
            site.blind += (processes.why,)
            return
        site.others = tuple([process.id for process in processes if process.role is Role.OTHER])
        site.workers.fold(processes, at, outage_starts(members, site.limits.deployments))

    def _discover(self, config: Config) -> None:
        try:
            masters = self._edge.discover()
        except Exception as error:  # noqa: BLE001 - the instances that are known go on being read
            masters = Blind("", fault(error))
        if isinstance(masters, Blind):
            self.blind = (Blind("processes", masters.why),)
            return
        # One that is gone keeps its name and is shown as absent until the daemon ends: what is remembered of an
        # instance is remembered by its name, so a name must never pass from one to another.
        known = {str(site.limits.master_fifo) for site in self._sites.values()}
        for fifo in sorted({master.fifo for master in masters if master.fifo} - known):
            limits = found_instance(Path(fifo), config)
            self._sites[_unique(limits.name, self._sites)] = _Site(limits)
        watched = {master.id for master in self.masters()}
        hidden = [one for one in masters if one.fifo_problem and not one.fifo and one.id not in watched]
        self.blind = tuple([Blind(f"instance of master {one.id.pid}", one.fifo_problem or "") for one in hidden])
        self.not_covered = not_covered(masters)


def not_covered(masters: Iterable[Master]) -> tuple[str, ...]:
    """Return a sentence for each master that has no FIFO; one whose descriptors cannot be read may have one."""
    return tuple(
        [
            f"uWSGI master {one.id.pid} has no master FIFO, so nobody can reload just its workers; "
            "add `master-fifo = /run/uwsgi/app/NAME/fifo` to its configuration"
            for one in masters
            if not one.fifo and not one.fifo_problem
        ]
    )


def _latch_master(site: _Site, connections: Iterable[Connection], members: Mapping[Endpoint, list[Member]]) -> None:
    site.connected = False
    if site.master is None:
        return
    for connection in connections:
        if site.master.id in connection.holders:
            to = members.get(connection.remote, ())
            site.held_by_master |= {member.id.deployment for member in to}
            if connection.tcp is Tcp.ESTABLISHED and any(member.serving for member in to):
                site.connected = True


def _instance(name: str, site: _Site) -> Instance:
    master = site.master
    return Instance(
        name=name,
        fifo=str(site.limits.master_fifo),
        deployments=site.limits.deployments,
        master=master.id if master else None,
        workers=site.workers.now(),
        others=site.others,
        seen_at=site.seen_at,
        held_by_master=site.held_by_master,
        master_connected_at=site.connected_at,
        fifo_problem=master.fifo_problem if master else None,
        blind=site.blind,
        uid=master.uid if master else None,
    )


def _unique(name: str, taken: Iterable[str]) -> str:
    """Return the name, with a number where two folders of found instances are called the same."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name}-{number}"
    return unique
