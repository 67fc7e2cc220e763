"""`hung`: a worker, or a mule, hangs since its fork on a lock that nobody can release (observe/hung.py has the proofs).

On Python's GIL (rule G): 90 of 90 told, 0 of 398 others. It runs no line of Python, is never ready and takes no
request; another fork will most likely not hang, so its end is the cure, at once and in calm too. On a lock of the app's
own (rule B): a proof as well, but the next worker will mostly do the same, so it is told and never ended. Of a mule
only rule G is asked: one whose whole program is a wait for a signal looks like rule B.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.core.look import Look
from watchdogd.model.found import Cure, Evidence, Kind
from watchdogd.model.seen import Hang, Mule


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each; it is ripe where the end of the process is the cure."""
    for worker in (*look.instance.workers, *look.instance.mules):
        mule = isinstance(worker, Mule)
        if worker.hung is None or (worker.ready and not mule):
            continue
        since = worker.hung.since.hi
        gil = worker.hung.kind is Hang.GIL
        if mule and not gil:
            continue
        lock = "Python's GIL" if gil else "a lock of its own code"
        yield Evidence(
            kind=Kind.HUNG,
            worker=worker.id,
            since=since,
            ripe_at=since if gil else None,
            sentence=f"{worker.called} hangs since its fork: it waits for {lock}, which nobody can release",
            deployments=frozenset(),
            cure=Cure.END,
        )
