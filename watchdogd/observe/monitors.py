"""Tells a worker whose driver's monitor runs by its connections: it has two at once to each member that is up.

One is the monitor's, which every member has; the other one measures round trips, or is a request's. Of 2 559 healthy
workers 1 873 had them, counted from 12 s after the return on, of 676 that were stuck, or would have been at their next
use, none: who has no monitor has the connections of requests alone, and only to the members that it asks. What a driver
opened before a member was away may be a descriptor that nobody uses any more, and does not count.

Pure. It must never decide what that means.
"""

from __future__ import annotations

from collections.abc import Iterable

from watchdogd.model.base import Mono, ProcessId
from watchdogd.model.seen import Connection, Member, MemberState, Tcp

SETTLED_S = 12.0
"""After the return: a driver's monitor has then been there, at the latest after its heartbeat of 10 s."""

AT_ONCE = 2


def monitored(worker: ProcessId, held: Iterable[Connection], members: Iterable[Member], at: Mono) -> frozenset[str]:
    """Return the deployments whose members this worker all reaches so. `held`: what it holds in the look at `at`."""
    up: dict[str, list[Member]] = {}
    for member in members:
        if member.state is MemberState.UP:
            up.setdefault(member.id.deployment, []).append(member)
    opened = [one for one in held if one.tcp is Tcp.ESTABLISHED and one.holders == {worker}]
    return frozenset([name for name, some in up.items() if _settled(some, at) and _reaches(opened, some)])


def _settled(up: Iterable[Member], at: Mono) -> bool:
    """Say whether a deployment has served for long enough, by one of its members at least."""
    served = [one.served_since.hi for one in up if one.is_serving and one.served_since]
    return bool(served) and at - min(served) >= SETTLED_S


def _reaches(opened: Iterable[Connection], up: Iterable[Member]) -> bool:
    return all(sum(_is_to(connection, member) for connection in opened) >= AT_ONCE for member in up)


def _is_to(connection: Connection, member: Member) -> bool:
    """Say whether it leads to this member, and may have been opened since that is up."""
    since = member.up_since
    return connection.remote in member.endpoints and (since is None or connection.since.hi >= since.lo)
