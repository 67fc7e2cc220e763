"""`orphaned`: another member became primary, and a worker with one thread still has only its old connections.

A step-down ends no connection. A driver whose monitor runs learns of the new primary within a second; in a worker with
one thread none runs, and its next use of MongoDB fails, for good: 208 of 226 such workers. The 18 others only read from
secondaries, and their writes would fail. It speaks against it that such a reader works; and that with `threads` in
uWSGI nobody can tell who has a monitor, so those are left to `waiting`. Ripe at the first use since, and for who is
idle after 60 s of one primary, where `idle: reload` says so.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.config import Idle
from watchdogd.core.look import USED_SETTLED_S, Look
from watchdogd.model.base import Interval
from watchdogd.model.found import Evidence, Kind
from watchdogd.model.seen import Worker

ONE_PRIMARY_S = 60.0  # elections come in series: an idle worker is not reloaded for one that is over in a moment


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each such worker; `ripe_at` is None for an idle one that has to be used first."""
    for worker in look.instance.workers:
        for deployment, took_over in orphaned_from(look, worker).items():
            used = worker.used if worker.used and worker.used.hi >= took_over.lo else None
            ripe_at = None
            if used:
                ripe_at = used.hi + USED_SETTLED_S
            elif look.policy.idle is Idle.RELOAD:
                ripe_at = took_over.hi + ONE_PRIMARY_S
            yield Evidence(
                kind=Kind.ORPHANED,
                worker=worker.id,
                since=took_over.hi,
                ripe_at=ripe_at,
                sentence=f"worker {worker.id.pid} has connections to the old primary alone, and no thread that would "
                "look for the new one",
                deployments=frozenset({deployment}),
            )


def orphaned_from(look: Look, worker: Worker) -> dict[str, Interval]:
    """Return the deployments whose new primary a worker does not know, and when that took over."""
    found: dict[str, Interval] = {}
    ready = worker.ready_since
    if ready is None or not worker.single or look.monitored(worker):
        return found
    for deployment, serving in look.serving.items():
        took = [one.took_over for one in serving if one.took_over and one.took_over.lo >= ready.hi]
        if took and look.own(worker, deployment) and not worker.reconnected & look.served[deployment]:
            found[deployment] = max(took)
    return found
