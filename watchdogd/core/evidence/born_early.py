"""`born_early`: a worker was forked before the master's client had seen MongoDB again, and has had no connection since.

It lives on the picture that it inherited: no server. Of 156 such workers that were used 143 were stuck, and all 29 that
were not used yet; but 22 healthy ones look the same (py-call-osafterfork, health checks only). So it is told, and makes
one request that waits enough (waiting.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from watchdogd.core.look import Look
from watchdogd.model.base import Interval
from watchdogd.model.found import Evidence, Kind
from watchdogd.model.seen import Worker


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each such worker, which never ripens by itself."""
    for worker in look.instance.workers:
        early = born_early_for(look, worker)
        if early and worker.ready_since:
            yield Evidence(
                kind=Kind.BORN_EARLY,
                worker=worker.id,
                since=worker.ready_since.hi,
                ripe_at=None,
                sentence=f"worker {worker.id.pid} was forked before the master had seen MongoDB again, and has not "
                "connected since",
                deployments=early,
            )


def born_early_for(look: Look, worker: Worker) -> frozenset[str]:
    """Return the deployments whose servers a worker has inherited as gone."""
    ready = worker.ready_since
    if ready is None or ready.lo == -math.inf or not worker.single:
        return frozenset()
    return frozenset(
        deployment
        for deployment in look.serving
        if not worker.reconnected & look.served[deployment] and _unsafe(look, deployment, ready)
    )


def _unsafe(look: Look, deployment: str, ready: Interval) -> bool:
    """Say whether it was ready after MongoDB went away and before the master had sent to whoever serves now."""
    instance, serving = look.instance, look.serving[deployment]
    client = deployment in instance.held_by_master or (instance.master_threads or 1) > 1
    gone = [outage.lo for one in serving for outage in one.outages[-1:]]
    gone += [one.took_over.lo for one in serving if one.took_over]
    if instance.master_single or not client or not gone or ready.hi < max(gone):
        return False
    sent = [one.since for one in instance.master_sent if one.member.deployment == deployment]
    return not sent or ready.lo < min(sent)
