"""`leftover`: a worker holds what an outage ended, and no connection of its own.

Of the 34 stuck runs that were measured each had a leftover and not one worker with a connection of its own; a healthy
app's residue differs by nothing else. It speaks against it that a healthy driver heals: within 6.9 s by itself, and one
whose threads are off when it is used first. So it is ripe after `linger`, counted from the latest of: MongoDB serves,
the connection ended, the worker was ready, our first look; and for who is idle, where such an app heals or `idle:
leave` says so, from its first use. Where the master holds it too, only `r` ends it: `w` and `c` would hand it on. Not
where the master is single: a new worker of gevent can do without what it inherits, for its client's monitor runs in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.config import Idle
from watchdogd.core.look import LOST_AT_MOST_S, USED_SETTLED_S, Look, lost
from watchdogd.model.base import Mono
from watchdogd.model.found import Cure, Evidence, Kind, Verdict
from watchdogd.model.seen import Worker


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each stranded or idle worker; `ripe_at` is None where it waits for MongoDB, or for its use."""
    for worker in look.instance.workers:
        verdict = look.verdicts[worker.id]
        if verdict not in {Verdict.STRANDED, Verdict.IDLE}:
            continue
        held = look.held[worker.id]
        since, used = since_of(look, worker), "has used MongoDB" if verdict is Verdict.STRANDED else "is idle"
        by_master = any(look.instance.master in left.connection.holders for left in held)
        yield Evidence(
            kind=Kind.LEFTOVER,
            worker=worker.id,
            since=since,
            ripe_at=_ripe_at(look, worker, since),
            sentence=f"worker {worker.id.pid} {used} since MongoDB serves again, and holds only what the outage ended",
            deployments=frozenset(left.deployment for left in held),
            cure=Cure.RESTART if by_master and not look.instance.master_single else Cure.RELOAD,
        )


def since_of(look: Look, worker: Worker) -> Mono:
    """Return from when on a process with leftovers gets its time to heal."""
    ended = [(left.connection.closed or left.connection.since).hi for left in look.held[worker.id]]
    ready = worker.ready_since.hi if worker.ready_since else look.at
    served = look.at if look.served_since is None else look.served_since
    return max(served, look.instance.seen_at, ready, *ended)


def _ripe_at(look: Look, worker: Worker, since: Mono) -> Mono | None:
    """Return when linger is over; None while MongoDB does not serve, and for one that has to be used first.

    A healthy driver whose threads are off heals when it is used first. So where idle workers do not count, linger
    begins with that use; where they do, a worker does not become less due by being used.
    """
    if look.served_since is None:
        return None
    if look.policy.idle is Idle.LEAVE or _heals(look, worker):
        just_used = worker.used is not None and look.at - worker.used.hi < USED_SETTLED_S
        if look.verdicts[worker.id] is Verdict.IDLE or worker.used is None or just_used:
            return None
        since = max(since, worker.used.hi)
    return since + linger_s(look, worker)


def linger_s(look: Look, worker: Worker) -> float:
    """Return for how long it may still heal: after a network loss as long as that was, for so long TCP backs off.

    With the path back after 40 s, requests went on after 14.5 to 15.1 s (9 of 9 apps).
    """
    names = {left.deployment for left in look.held[worker.id]}
    lengths = [outage.hi - outage.lo for name in names for outage in lost(look.serving[name])]
    return max([look.policy.linger_s, *[min(length, LOST_AT_MOST_S) for length in lengths]])


def _heals(look: Look, worker: Worker) -> bool:
    """Say whether a sibling proves that this app heals by itself, and so will this worker when it is used.

    One that was ready only after the return proves nothing: it never had anything to heal from.
    """
    siblings = [
        one
        for one in look.instance.workers
        if look.verdicts[one.id] is Verdict.RECONNECTED
        or (one.ready_since and look.served_since is not None and one.ready_since.lo < look.served_since)
    ]
    names = {left.deployment for left in look.held[worker.id]}
    return all(any(one.reconnected & look.served[name] for one in siblings) for name in names)
