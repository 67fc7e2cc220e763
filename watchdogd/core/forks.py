"""Whether the master may fork: a reload hands its MongoDB client on to every new worker. Pure and without memory."""

from __future__ import annotations

import math
from collections.abc import Sequence

from watchdogd.core.look import Look
from watchdogd.model.base import Mono
from watchdogd.model.found import Fork
from watchdogd.model.seen import Member, Tcp

FORK_SAFE_AFTER_S = 1.0
"""How long ago the master must have been seen to send first: its monitor has then had its answer. `w` at that moment
left every new worker good, 35 of 35 times."""

SILENT_CLIENT_S = 30.0
"""A master with threads that never held a connection may have no client inside: it is waited for so long."""


def fork(look: Look) -> Fork:
    """Say why a fork would hand on a client that still believes the server gone, and until when if that is known.

    A master has a client inside that ever held a connection, or whose workers share a leftover; one with more threads
    than its own may. Reloads within 4 s of mongod's return left every new worker stuck without any CLOSE_WAIT. The sign
    that its monitor has seen the server again is that it has *sent* to it, and read what came: 263 of 263 times right.
    That it received says nothing, for the kernel takes what comes where nobody reads (wrong 11 of 26 times without
    threads). Where sockets have no ages (/proc) nothing else is known than that it is connected.

    The client of a single master never sends: nothing of it changes there, and every fork hands on the same. Forks of
    such masters (gevent, its client made before the fork) never hung, and each new worker had a connection of its own
    within 0.5 s: 520 of 520. And where monitors run in the workers themselves, it does not matter what they are handed.
    """
    instance = look.instance
    if instance.threads_off:
        return Fork("uWSGI runs without `enable-threads`, so the master's MongoDB client never runs", None, -math.inf)
    if instance.master_single or _heals_in_workers(look):
        return Fork()
    workers = {one.id for one in (*instance.workers, *instance.mules)}
    shared = {left.deployment for left in look.leftovers if len(left.connection.holders & workers) > 1}
    safe_at: Mono | None = None
    for name in instance.deployments:
        known = name in shared or name in instance.held_by_master
        if not known and not _may_be_silent(look):
            continue
        for incarnation in sorted(look.served[name]):
            members = [member for member in look.serving[name] if member.incarnation == incarnation]
            since = _sent_since(look, members) if look.ages else _connected_since(look, members)
            if since is None:
                why = f"the master has not sent anything to {members[0].id.address} since it serves"
                if not look.ages:
                    why = f"the master has no connection of its own to {members[0].id.address} yet"
                safe = None if known or look.served_since is None else look.served_since + SILENT_CLIENT_S
                return Fork(why, safe, _unsafe_since(look) if known else None)
            safe_at = max(safe_at or 0.0, since + FORK_SAFE_AFTER_S)
    if safe_at is not None and safe_at > look.at:
        return Fork("the master's MongoDB client has seen the server for less than 1 s", safe_at, _unsafe_since(look))
    return Fork(None, safe_at)


def _may_be_silent(look: Look) -> bool:
    """Say whether a client may be inside that was never seen to hold a connection."""
    threads, since = look.instance.master_threads, look.served_since
    return threads is not None and threads > 1 and since is not None and look.at < since + SILENT_CLIENT_S


def _heals_in_workers(look: Look) -> bool:
    """Say whether every worker has a driver whose monitor runs, long after the master should have sent.

    Then the master runs other threads than those of a driver: uWSGI's own, beside gevent.
    """
    since, ready = look.served_since, [worker for worker in look.instance.workers if worker.ready]
    return (
        since is not None
        and look.at >= since + SILENT_CLIENT_S
        and bool(ready)
        and all(worker.monitored & served for worker in ready for served in look.served.values())
    )


def _sent_since(look: Look, members: Sequence[Member]) -> Mono | None:
    """Return since when the master is seen to send to a mongod, which may go by several names."""
    names = {member.id for member in members}
    return min([one.since for one in look.instance.master_sent if one.member in names], default=None)


def _connected_since(look: Look, members: Sequence[Member]) -> Mono | None:
    since = [
        max(connection.since.hi, member.served_since.hi)
        for member in members
        for connection, _ in look.connections
        if member.served_since is not None
        and connection.remote in member.endpoints
        and connection.tcp is Tcp.ESTABLISHED
        and look.instance.master in connection.holders
        and connection.last_data.hi >= member.served_since.lo
    ]
    return min(since, default=None)


def _unsafe_since(look: Look) -> Mono:
    served = look.at if look.served_since is None else look.served_since
    connected = 0.0 if look.ages else look.instance.master_connected_at or 0.0
    sent = max([one.last.hi for one in look.instance.master_sent], default=0.0)
    return max(served, look.instance.seen_at, connected, sent)
