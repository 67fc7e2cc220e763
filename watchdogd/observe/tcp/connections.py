"""Folds readings of sockets into connections that carry their own `since`, and finds who holds them.

A connection once seen stays until no known descriptor holds it: the kernel drops a CLOSE_WAIT socket from every table
about 120 s after the FIN (keepalive), while its descriptor stays and the app stays broken. This module must never
decide anything nor read a clock; the only I/O is through the Processes edge that is handed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from watchdogd.model.base import Endpoint, Interval, Mono, ProcessId
from watchdogd.model.seen import Blind, Connection, Tcp
from watchdogd.model.text import fault
from watchdogd.observe.processes import Processes, descriptors_of
from watchdogd.observe.tcp.sockets import Row, Table

GRAIN_S = 0.01
"""TCP_INFO counts in jiffies: 4 ms here, 10 ms where HZ is 100."""


@dataclass(slots=True)
class _Track:
    connection: Connection
    netns: int
    links: set[tuple[ProcessId, int]] = field(default_factory=set)
    links_changed: bool = False
    restored: bool = False  # its holders are those that were saved: no scan has found one yet


class _Seen:
    """What is asked of all connections at every look, found once."""

    def __init__(self, connections: tuple[Connection, ...]) -> None:
        self.connections = connections
        self.in_use = frozenset(one.remote for one in connections)
        self.ended = tuple([one for one in connections if one.tcp is not Tcp.ESTABLISHED])


class Connections:
    """Every connection to a member that is or was open, with all its holders among the instances' processes."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._scanned: set[ProcessId] = set()
        self._unattributed: set[int] = set()  # inodes that no scan has been made for yet
        self._read_at: dict[tuple[int, bool], Mono] = {}  # (network namespace, with ESTABLISHED) -> last reading
        self._seen: _Seen | None = None

    def now(self) -> tuple[Connection, ...]:
        """Return every connection as it is known now: the same tuple as long as nothing has changed."""
        return self._known.connections

    def in_use(self) -> frozenset[Endpoint]:
        """Return the addresses that connections lead to."""
        return self._known.in_use

    def ended(self) -> tuple[Connection, ...]:
        """Return those that ended and are still held: what a later start of the daemon has to know."""
        return tuple([c for c in self._known.ended if c.holders])

    @property
    def _known(self) -> _Seen:
        if self._seen is None:
            self._seen = _Seen(tuple([track.connection for track in self._tracks.values()]))
        return self._seen

    def restore(self, connections: Iterable[Connection], netns: int) -> None:
        """Take over what `ended` gave before a restart of the daemon; the next full look checks every one."""
        for connection in connections:
            self._tracks[connection.cookie] = _Track(connection, netns, restored=True)
        self._seen = None

    def fold_known(self, found: Mapping[int, Row | None], netns: int, at: Mono) -> None:
        """Take what some known ones are now, in between two readings of the table; None: in no table any more."""
        table = Table(at, tuple([row for row in found.values() if row is not None]))
        self._fold(table, netns, found.keys())

    def fold(self, table: Table, netns: int, *, established: bool) -> None:
        """Take one reading of a namespace's table. What is missing is DEAD; `attribute` drops what nobody holds."""
        # Where a table of CLOSE_WAIT alone does not show an ESTABLISHED one, it says nothing of it.
        asked = self._tracks.keys() if established else [one.cookie for one in self._known.ended]
        self._fold(table, netns, asked)
        self._read_at[netns, False] = table.at
        if established:
            self._read_at[netns, True] = table.at

    def _fold(self, table: Table, netns: int, asked: Iterable[int]) -> None:
        changed = False
        before = self._read_at.get((netns, False), -math.inf)
        before_established = self._read_at.get((netns, True), -math.inf)
        moment = Interval(table.at, table.at + table.took_s)
        for row in table.rows:
            track = self._tracks.get(row.cookie)
            if track is None:
                since = Interval(before if row.close_wait else before_established, moment.hi)
                self._tracks[row.cookie] = _Track(_connection(row, moment, since, before), netns)
                self._unattributed.add(row.inode)
                changed = True
            elif not (row.close_wait or track.links or row.inode in self._unattributed):
                continue  # nobody's whom we watch, such as our own heartbeats': what it hears changes nothing
            else:
                updated = _updated(track.connection, row, moment, before)
                changed |= updated is not track.connection
                track.connection = updated
                track.netns = netns  # what was restored was taken to be of our own
        seen = {row.cookie for row in table.rows}
        inodes = {row.inode for row in table.rows}
        for cookie in [cookie for cookie in asked if cookie not in seen]:
            track = self._tracks[cookie]
            known = track.connection
            if track.netns != netns:
                continue
            if known.inode in inodes:  # the number belongs to another socket now
                del self._tracks[cookie]
                changed = True
            elif known.tcp is not Tcp.DEAD:
                # One that was never seen in CLOSE_WAIT may have had data until it vanished.
                closed = known.closed or Interval(before_established, moment.hi)
                last_data = known.last_data if known.closed else Interval(known.last_data.lo, moment.hi)
                # It may have sent until it vanished, in CLOSE_WAIT too.
                last_sent = Interval(known.last_sent.lo, moment.hi)
                track.connection = replace(known, tcp=Tcp.DEAD, closed=closed, last_data=last_data, last_sent=last_sent)
                changed = True
        if changed:
            self._seen = None

    def look_anew(self) -> None:
        """Forget when the tables were read: more endpoints are read from now on, so what is new may be old."""
        self._read_at.clear()

    def asks_for_more(self, table: Table) -> bool:
        """Say whether a reading of CLOSE_WAIT alone shows one that an instance holds or that is new to us."""
        return any(
            track is None or track.connection.holders or track.connection.tcp is not Tcp.CLOSE_WAIT
            for track in (self._tracks.get(row.cookie) for row in table.rows)
        )

    def forget_endpoints(self, gone: frozenset[Endpoint]) -> None:
        """Drop what leads to addresses that nobody asks for any more: that it is missing says nothing from now on."""
        for cookie in [cookie for cookie, track in self._tracks.items() if track.connection.remote in gone]:
            del self._tracks[cookie]
        self._seen = None

    def forget_namespaces(self, keep: set[int]) -> None:
        """Drop what belongs to network namespaces in which no instance lives any more."""
        for cookie in [cookie for cookie, track in self._tracks.items() if track.netns not in keep]:
            del self._tracks[cookie]
            self._seen = None
        for key in [key for key in self._read_at if key[0] not in keep]:
            del self._read_at[key]

    def attribute(self, processes: Iterable[ProcessId], edge: Processes) -> dict[ProcessId, str]:
        """Find all holders among `processes`; return whose descriptors cannot be read, and why.

        Known links are checked with one readlink each. All processes are scanned when a socket is new; else only the
        new processes, since a descriptor comes to another process by a fork alone (4-5 us for each descriptor).
        """
        present = set(processes)
        self._scanned &= present
        by_inode = {track.connection.inode: track for track in self._tracks.values()}
        unreadable: dict[ProcessId, str] = {}
        for track in by_inode.values():
            _check_links(track, present, edge, unreadable)
        new = self._unattributed & by_inode.keys()
        for process in present if new else present - self._scanned:
            descriptors = descriptors_of(edge, process.pid)
            if isinstance(descriptors, Blind):
                unreadable[process] = descriptors.why
                continue
            self._scanned.add(process)
            for fd, inode in descriptors.items():
                if inode in by_inode:
                    by_inode[inode].links.add((process, fd))
                    by_inode[inode].links_changed = True
        if not unreadable:
            self._unattributed.clear()
        self._take_links(edge, everybody_was_read=not unreadable)
        return unreadable

    def _take_links(self, edge: Processes, *, everybody_was_read: bool) -> None:
        """Make the links the holders, and drop what is in no table any more and held by nobody."""
        for cookie, track in list(self._tracks.items()):
            holders = track.connection.holders
            if track.links_changed or track.restored:
                holders = frozenset(process for process, _ in track.links)
                track.links_changed = False
            if track.restored and not holders and _may_be_held(track.connection, edge):
                continue  # its instance could not be read yet; a DEAD one that is dropped is never found again
            track.restored = False
            if track.connection.tcp is Tcp.DEAD and not holders and everybody_was_read:
                del self._tracks[cookie]
                self._seen = None
            elif holders != track.connection.holders:
                shared = track.connection.shared or len(holders) > 1
                track.connection = replace(track.connection, holders=holders, shared=shared)
                self._seen = None


def _check_links(track: _Track, present: set[ProcessId], edge: Processes, unreadable: dict[ProcessId, str]) -> None:
    """Drop the links that are no more; one that cannot be checked is kept, and its process goes into `unreadable`."""
    for process, fd in tuple(track.links):
        try:
            if process not in present or not edge.still(process.pid, fd, track.connection.inode):
                track.links.remove((process, fd))
                track.links_changed = True
        except Exception as error:  # noqa: BLE001 - one process that cannot be read must not hide the others
            unreadable[process] = fault(error)


def _may_be_held(connection: Connection, edge: Processes) -> bool:
    """Say whether one of those who held it last holds it now, or cannot be asked."""
    held = (descriptors_of(edge, process.pid) for process in connection.holders)
    return any(isinstance(one, Blind) or connection.inode in one.values() for one in held)


def _connection(row: Row, moment: Interval, since: Interval, before: Mono) -> Connection:
    return Connection(
        cookie=row.cookie,
        inode=row.inode,
        local=row.local,
        remote=row.remote,
        tcp=Tcp.CLOSE_WAIT if row.close_wait else Tcp.ESTABLISHED,
        since=since,
        last_data=_last(row.data_age_s, moment, since.lo),
        closed=_closed(row, moment, before),
        rqueue=row.rqueue,
        last_sent=_last(row.sent_age_s, moment, since.lo),
    )


def _updated(known: Connection, row: Row, moment: Interval, before: Mono) -> Connection:
    """Return what the row makes of it, and `known` itself where that is the same."""
    if row.close_wait and known.closed is not None:  # no data comes any more, and the first reading was the best
        if (known.tcp, known.rqueue) == (Tcp.CLOSE_WAIT, row.rqueue):
            return known
        return replace(known, tcp=Tcp.CLOSE_WAIT, rqueue=row.rqueue)
    # Data only comes later than data before, so what comes not after `last_data` is in it, and the same for what is
    # sent. That holds for most idle ones at most looks: anew from the jiffies they would all be a little different each
    # time, at 15 us each.
    if (
        known.tcp is Tcp.ESTABLISHED
        and not row.close_wait
        and known.rqueue == row.rqueue
        and row.data_age_s is not None
        and row.sent_age_s is not None
        and moment.hi - row.data_age_s <= known.last_data.hi
        and moment.hi - row.sent_age_s <= known.last_sent.hi
    ):
        return known
    # Not replace(), which takes 8 us.
    return Connection(
        known.cookie,
        known.inode,
        known.local,
        known.remote,
        Tcp.CLOSE_WAIT if row.close_wait else Tcp.ESTABLISHED,
        known.since,
        _last(row.data_age_s, moment, known.since.lo),
        _closed(row, moment, before),
        row.rqueue,
        known.holders,
        known.shared,
        _last(row.sent_age_s, moment, known.since.lo),
    )


def _closed(row: Row, moment: Interval, before: Mono) -> Interval | None:
    """Return when the FIN came: after the last data and the last look, and not after the last acknowledgement.

    Exact as long as no keepalive probe was answered since; each answer moves the upper end, so the first reading is
    the best.
    """
    if not row.close_wait:
        return None
    lo = -math.inf if row.data_age_s is None else moment.lo - row.data_age_s - GRAIN_S
    hi = moment.hi if row.ack_age_s is None else min(moment.hi, moment.hi - row.ack_age_s + GRAIN_S)
    return Interval(lo, max(lo, hi)).narrowed(Interval(before, moment.hi))


def _last(age_s: float | None, moment: Interval, first_seen: Mono) -> Interval:
    """Return when that was, by its age at that moment; without one, any time since it was first seen."""
    if age_s is None:
        return Interval(first_seen, moment.hi)
    return Interval(moment.lo - age_s - GRAIN_S, moment.hi - age_s)
