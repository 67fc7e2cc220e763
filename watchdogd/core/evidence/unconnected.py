"""`unconnected`: a worker has worked for 15 s and has no connection to any deployment, leftovers or not.

A healthy driver has connected by then: one heartbeat is 10 s. It speaks against it that health checks and cached pages
are work too, and so is to hand tasks over to a mule. So due.py lets it count only where a reload of ours ended without
proof: workers that were forked too early hold nothing at all, and a failed reload would look like a healthy app.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.core.look import Look
from watchdogd.model.found import Evidence, Kind

USED_UNPROVEN_S = 15.0  # one heartbeat (10 s) and a margin


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each worker that is used and was never seen with a connection to what serves now."""
    served = frozenset().union(*look.served.values())
    for worker in look.instance.workers:
        if worker.ready and worker.used and not worker.reconnected & served and not look.instance.is_bystander(worker):
            yield Evidence(
                kind=Kind.UNCONNECTED,
                worker=worker.id,
                since=worker.used.hi,
                ripe_at=worker.used.hi + USED_UNPROVEN_S,
                sentence=f"worker {worker.id.pid} works without a connection to MongoDB",
                deployments=frozenset(look.served),
            )
