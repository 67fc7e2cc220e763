"""Whether the master may fork: a reload hands its MongoDB client on to every new worker. Pure and without memory."""

from __future__ import annotations

from watchdogd.core.look import Look
from watchdogd.model.base import Mono
from watchdogd.model.found import Fork
from watchdogd.model.seen import Member, Tcp

FORK_SAFE_AFTER_S = 1.0
"""How long the master's fresh connection must have stood before a fork is safe: its monitor has then had its answer."""


def fork(look: Look) -> Fork:
    """Say why a fork would hand on a client that still believes the server gone, and until when if that is known.

    Such a master has a client inside: it ever held a connection, or its workers share a leftover. Reloads within
    4 s of mongod's return left every new worker stuck without any CLOSE_WAIT; the master's own fresh connection, 4
    to 8 s after the return, is the sign that its monitor has seen the server again.
    """
    instance = look.instance
    workers = {worker.id for worker in instance.workers}
    shared = {left.deployment for left in look.leftovers if len(left.connection.holders & workers) > 1}
    safe_at: Mono | None = None
    for name in instance.deployments:
        if name not in shared and name not in instance.held_by_master:
            continue
        for incarnation in sorted(look.served[name]):
            members = [member for member in look.serving[name] if member.incarnation == incarnation]
            since = _master_connected(look, members)
            if since is None:
                why = f"the master has no connection of its own to {members[0].id.address} yet"
                return Fork(why, None, _unsafe_since(look))
            safe_at = max(safe_at or 0.0, since + FORK_SAFE_AFTER_S)
    if safe_at is not None and safe_at > look.at:
        return Fork("the master's own connection is younger than 1 s", safe_at, _unsafe_since(look))
    return Fork(None, safe_at)


def _master_connected(look: Look, members: list[Member]) -> Mono | None:
    """Return since when the master has been connected to a mongod, which may go by several names."""
    since = [
        max(connection.since.hi, member.serving_since.hi)
        for member in members
        for connection, _ in look.connections
        if member.serving_since is not None
        and connection.remote in member.endpoints
        and connection.tcp is Tcp.ESTABLISHED
        and look.instance.master in connection.holders
        and connection.last_data.hi >= member.serving_since.lo
    ]
    return min(since, default=None)


def _unsafe_since(look: Look) -> Mono:
    served = look.at if look.served_since is None else look.served_since
    return max(served, look.instance.seen_at, look.instance.master_connected_at or 0.0)
