"""What a command looks at itself: `connections`, by one look; `check --live`, by several, where no daemon answers.

Reads only; must never write a FIFO or a state.
"""

from __future__ import annotations

import math
import os
import select
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from watchdogd.cli.holders import Holder, holders_of
from watchdogd.codec import CONNECTIONS, Document, encode
from watchdogd.config import Config
from watchdogd.core.detect import detect
from watchdogd.core.look import endpoint_map
from watchdogd.model.base import Interval, Mono, ProcessId
from watchdogd.model.found import Finding, Verdict
from watchdogd.model.seen import (
    Blind,
    Blindness,
    Connection,
    Instance,
    Snapshot,
    Tcp,
    Worker,
)
from watchdogd.model.text import Outside
from watchdogd.observe.observer import Edges, Observer, open_edges
from watchdogd.observe.uwsgi import Master
from watchdogd.paths import user_name
from watchdogd.report.say import say, say_json
from watchdogd.report.words import duration, table
from watchdogd.service import rights
from watchdogd.service.check import PROBLEM, Seen, also, answers, lines

HIDDEN = "held by nobody who can be seen: run this as root, or see what is blind"
NO_AGE = "unexplained: its age is not known, so whether an outage ended it cannot be told"
UNSEEN = "held by nobody who is seen here: a process in a container, or one that has just ended"

_Ends = tuple[str, str, str, float | None, float | None]

HEARD_WITHIN_S = 5.0
"""connectTimeoutMS is 2 s; DNS may take longer, and then its error or silence is the answer."""

CLOSELY_S, EVERY_S = 2.4, 0.1
"""A worker that hangs is told by 3 looks 0.5 s apart, and a master without threads by 4; who runs at one is looked at
again soon."""


@dataclass(frozen=True, slots=True)
class Line:
    """One holder of one connection, as it is shown.

    `closed_s`: seconds since the other end closed it, `last_data_s`: since its last data, at least so many; None where
    that is not known. `process`, `user`: of a holder that is of no instance.
    """

    instance: str
    role: str
    pid: int | None
    local: str
    remote: str
    state: str
    closed_s: float | None
    last_data_s: float | None
    verdict: str
    fifo: str | None = None
    process: str | None = None
    user: str | None = None


def connections(config: Config, *, as_json: bool) -> int:
    """Print each connection to the members with every holder, and what it means; 1 where something cannot be seen."""
    seen, edges = _look(config)
    snapshot, found = seen.snapshot, _lines(seen, edges)
    lines = sorted(found, key=lambda one: (one.instance, one.role, one.pid or 0, one.remote))
    blind = [one.why for one in snapshot.blind] + [why for one in snapshot.instances for why in one.blind]
    if as_json:
        say_json(CONNECTIONS.document(connections=encode(lines), blind=blind, learned=list(also(snapshot))))
    else:
        rows: list[tuple[str, ...]] = [("INSTANCE", "ROLE", "PID", "LOCAL", "REMOTE", "STATE", "LAST", "VERDICT")]
        rows += [_row(line) for line in lines]
        say(*(table(rows) if lines else ()))
        fifos = sorted({(line.instance, line.fifo) for line in lines if line.fifo})
        rest = [f"{name} is {fifo}" for name, fifo in fifos] + list(also(snapshot))
        say(*(["", *rest] if rest else ()))
        if not lines and not blind:
            say("no connections to the configured MongoDB members")
        say(*[f"blind: {why}" for why in blind], file=sys.stderr)
    return 1 if blind else 0


def check(config: Config, answer: Document) -> int:
    """Print whatever would keep a cure from being made tonight; 1 where something would.

    `answer`: the daemon's, or `ok` false with the text that says why there is none. Then this process looks, and so it
    does where the file says something else than the daemon runs by.
    """
    said = answer.get("check") if answer["ok"] else None
    if said is None:
        say(f"problem: service: {answer['text']}")
        return _check_here(config) or 1
    say(f"asked the running service (pid {said['pid']}, user {said['user']}), which runs by {said['config']}")
    say(*[f"{line['verdict']}: {line['text']}" for line in said["lines"]])
    code: int = answer["exit"]
    if not _is_same(said["config"], config.path):
        say(f"problem: service: it does not run by {config.path}: name that at its start, by `--config`")
    elif not said["changed"]:
        return code
    return _check_here(config) or 1


def _check_here(config: Config) -> int:
    """Print what this process sees by a configuration, and may do itself."""
    own = rights.Rights.of_this_process()
    say(f"looked at by this command, as user {user_name(own.uid)}, by {config.path}")
    found = [*lines(_look(config, closely=True)[0], own), *answers(config)]
    say(*[f"{line.verdict}: {line.text}" for line in found])
    return 1 if any(line.verdict == PROBLEM for line in found) else 0


def _is_same(one: str, other: Path) -> bool:
    """Say whether two paths lead to one file."""
    try:
        return other.samefile(one)
    except OSError:
        return False


def _look(config: Config, *, closely: bool = False) -> tuple[Seen, Edges]:
    """Look once every member has been heard of. `closely`: more looks, which suspect every instance, for some 2 s."""
    woken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    edges = open_edges(lambda: os.eventfd_write(woken, 1))
    observer = Observer(config, edges)
    deadline = time.monotonic() + HEARD_WITHIN_S
    observer.look(full=False)
    while observer.unheard() and _is_woken(woken, deadline):
        observer.look(full=False)
    snapshot = observer.look(full=True)
    suspected = [one.id for one in snapshot.instances] if closely else []
    until = time.monotonic() + CLOSELY_S
    while suspected and (next_at := time.monotonic() + EVERY_S) < until:
        snapshot = observer.look(full=True, suspected=suspected)
        while _is_woken(woken, next_at):  # by a heartbeat, which the next look takes
            pass
    silent = [Blindness(one.scope, f"{one.why}, in {HEARD_WITHIN_S:g} s") for one in observer.unheard()]
    snapshot = replace(snapshot, blind=(*snapshot.blind, *silent))
    uncovered = observer.uncovered() if closely else ()
    return Seen(config, snapshot, detect(snapshot, config), uncovered), edges


def _is_woken(woken: int, until: Mono) -> bool:
    """Wait for news of an edge; False at this time."""
    left = until - time.monotonic()
    if left <= 0 or not select.select([woken], [], [], left)[0]:
        return False
    os.eventfd_read(woken)
    return True


def _lines(seen: Seen, edges: Edges) -> Iterator[Line]:
    snapshot, findings = seen.snapshot, seen.findings
    roles = {process: place for instance in snapshot.instances for process, place in _roles(instance)}
    members = endpoint_map(snapshot.members.values())
    own = edges.processes.descriptors(os.getpid())
    ours = set() if isinstance(own, Blind) else set(own.values())
    every = [one for one in snapshot.connections if one.remote in members and one.inode not in ours]
    others = _Others(snapshot, every, edges)
    for one in every:
        ends: _Ends = (
            str(one.local),
            str(one.remote),
            one.tcp.value.upper(),
            _ago_s(one.closed, snapshot.at),
            _ago_s(one.last_data, snapshot.at),
        )
        if not one.holders:
            yield from others.lines(one, ends)
        for holder in one.holders:
            instance, role, worker = roles[holder]
            yield Line(
                instance.name,
                role,
                holder.pid,
                *ends,
                _verdict(one, findings[instance.id], holder, worker or role),
                str(instance.fifo),  # whole
            )


def _roles(instance: Instance) -> Iterator[tuple[ProcessId, tuple[Instance, str, Worker | None]]]:
    if instance.master:
        yield instance.master, (instance, "master", None)
    yield from ((worker.id, (instance, "worker", worker)) for worker in instance.workers)
    yield from ((mule.id, (instance, mule.role.value, mule)) for mule in instance.mules)
    yield from ((process, (instance, "other", None)) for process in instance.others)


class _Others:
    """Who holds the connections that no instance holds."""

    def __init__(self, snapshot: Snapshot, connections: list[Connection], edges: Edges) -> None:
        foreign = [one.inode for one in connections if not one.holders]
        self._holders = holders_of(foreign, edges.processes)
        discovered = edges.uwsgi.discover() if self._holders.by_inode else ()
        self._masters = {} if isinstance(discovered, Blind) else {one.id.pid: one for one in discovered}
        self._instances = {one.master.pid: one.name for one in snapshot.instances if one.master}
        blind = snapshot.blind or any(instance.blind for instance in snapshot.instances)
        self._nobody = HIDDEN if blind or self._holders.hidden else UNSEEN

    def lines(self, connection: Connection, ends: _Ends) -> Iterator[Line]:
        """Yield a line for each process that holds it, or one that says that nobody is seen to."""
        holders = self._holders.by_inode.get(connection.inode, ())
        for one in holders:
            yield Line("-", "-", one.pid, *ends, self._verdict(one), process=one.name, user=one.user)
        if not holders:
            yield Line("-", "-", None, *ends, self._nobody)

    def _verdict(self, holder: Holder) -> str:
        line = (holder.pid, *holder.above)
        for pid in line:
            if pid in self._instances:
                return f"held by {holder.name} of {holder.user}, which uWSGI of {self._instances[pid]} started"
            if master := self._masters.get(pid):
                return f"held by uWSGI (master {pid}), {_why_no_instance(master)}"
        return f"held by {holder.name} of {holder.user}, which is no uWSGI"


def _why_no_instance(master: Master) -> str:
    if master.fifo:
        return f"which the configuration does not name: its FIFO is {Outside(master.fifo)}"
    if master.inside:
        return f"whose FIFO {Outside(master.inside)} is in a container"
    if master.fifo_problem:  # it hides its descriptors
        return "whose FIFO cannot be seen"
    return "which has no master FIFO, so nobody can reload just its workers"


def _ago_s(when: Interval | None, at: Mono) -> float | None:
    """Return how long ago it was, at least; None where nobody knows."""
    return None if when is None or math.isinf(when.lo) else round(max(0.0, at - when.hi), 1)


def _verdict(connection: Connection, finding: Finding, holder: ProcessId, who: Worker | str) -> str:
    """Say what a connection means for one holder; `who`: the worker or mule, else the role."""
    shared = len(connection.holders) > 1
    if connection.tcp is Tcp.ESTABLISHED:
        return "shared with other processes" if shared else "own"
    if connection.cookie in finding.unexplained - finding.leftovers:  # with `cause: any` it is one of both
        known = not math.isinf((connection.closed or connection.last_data).lo)
        return "unexplained: no outage ended it" if known else NO_AGE
    if not finding.is_serving:
        return "leftover, for now: MongoDB does not serve"
    if who == "master":
        return "inherited by the workers: only a restart of the stack ends it" if shared else "harms no request"
    if isinstance(who, str):
        return "held by a process that is neither a worker nor a mule"
    role = who.called.split()[0]
    return {
        Verdict.RECONNECTED: f"residue: the {role} has reconnected",
        # One look cannot tell them apart: whether the worker was used since shows in time.
        Verdict.IDLE: f"leftover: the {role} is idle or stranded",
        Verdict.STRANDED: f"leftover: the {role} is stranded",
        # Nor this: who uses MongoDB shows in time, too.
        Verdict.BYSTANDER: f"leftover: the {role} is idle or stranded, or does not use MongoDB",
    }.get(finding.verdicts[holder], "leftover")


def _row(line: Line) -> tuple[str, ...]:
    last = "-"
    if line.closed_s is not None:
        last = f"closed {duration(line.closed_s)} ago"
    elif line.last_data_s is not None and line.state == Tcp.ESTABLISHED.value.upper():
        last = f"data {duration(line.last_data_s)} ago"
    pid = "-" if line.pid is None else str(line.pid)
    return line.instance, line.role, pid, line.local, line.remote, line.state, last, line.verdict
