"""`mule`: a mule or a spooler does tasks, holds what an outage ended, and has no connection of its own.

It is forked with the app's client in it, as a worker is, and no driver's monitor runs in it: every task fails for good
(50 of 50 tasks of 4 mules and 4 spoolers, pymongo 3.13, 4.14 and 4.20). No `w` and no `c` ends that, since neither
touches mules. It speaks against it that it may never use MongoDB at all. So it must have been seen to: with a
connection of its own once, or with a task that waits for a server (observe/waits.py). Ripe after `linger`, as leftovers
of workers are. One without a task since the outage is left alone: nobody knows whether there will be any.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.core.evidence.leftover import linger_s, since_of
from watchdogd.core.look import USED_SETTLED_S, Look
from watchdogd.model.found import Cure, Evidence, Kind, Verdict


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each that is stuck; `ripe_at` is None while MongoDB does not serve."""
    for mule in look.instance.mules:
        if look.verdicts[mule.id] is not Verdict.STRANDED or mule.used is None or look.monitored(mule):
            continue
        since = since_of(look, mule)
        seen = max(since + linger_s(look, mule), mule.used.hi + USED_SETTLED_S)
        yield Evidence(
            kind=Kind.MULE,
            worker=mule.id,
            since=since,
            ripe_at=None if look.served_since is None else seen,
            sentence=f"{mule.called} has had tasks since MongoDB went away, and holds only what the outage ended",
            deployments=frozenset(left.deployment for left in look.held[mule.id]),
            cure=Cure.END,
        )
