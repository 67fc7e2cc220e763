"""`waiting`: requests of a worker wait for a server that its driver does not find, though MongoDB serves.

The fingerprint of pymongo's server selection (observe/waits.py). Two such requests, or one of 9 s, were seen in 476 of
537 stuck workers and in none of 2 559 healthy ones, counted from 15 s after the return; with one thread from 5 s on.
Where it is known that the worker was born early, or orphaned, one is enough. It is the proof that an app does not heal,
so it does not wait for linger. It speaks against it: who is monitored heals by itself; a request that polls every 0.5 s
looks the same; and so does one that waits for another MongoDB, which nobody told us of, that is dead. It is told alone
where this daemon did not see MongoDB come back (unless mongod was born after the worker was ready), and of an app that
was found and never seen to use this MongoDB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from watchdogd.core.evidence.born_early import born_early_for
from watchdogd.core.evidence.orphaned import orphaned_from
from watchdogd.core.look import Look
from watchdogd.model.base import Mono
from watchdogd.model.found import Evidence, Kind
from watchdogd.model.seen import Wait, Worker

SINGLE_S, OTHERS_S = 5.0, 15.0  # after the return; before, 37 of 2 559 healthy workers showed it too
ENOUGH = 2
LONG_S = 9.0


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each worker with such a request; `ripe_at` is None where that is not enough."""
    if look.served_since is None:
        return
    for worker in look.instance.workers:
        if not worker.ready or worker.waits is None or look.monitored(worker):
            continue
        begin = look.served_since + (SINGLE_S if worker.single else OTHERS_S)
        waits = [one for one in worker.waits.requests if one.first >= begin]
        if waits:
            enough = _enough_at(waits, alone=_one_is_enough(look, worker))
            yield Evidence(
                kind=Kind.WAITING,
                worker=worker.id,
                since=waits[0].first,
                ripe_at=enough if _may_count(look, worker) else None,
                sentence=_sentence(worker, waits),
                deployments=frozenset(look.serving),
            )


def _sentence(worker: Worker, waits: Sequence[Wait]) -> str:
    longest = max(one.seconds for one in waits)
    many = "a request" if len(waits) == 1 else f"{len(waits)} requests"
    return f"worker {worker.id.pid} had {many} wait for a server that it does not find, for {longest:.0f} s"


def _enough_at(waits: Sequence[Wait], *, alone: bool) -> Mono | None:
    """Return when it was enough, None while it is not."""
    times = [one.held_since + LONG_S for one in waits if one.seconds >= LONG_S]
    if alone or len(waits) >= ENOUGH:
        times.append(waits[0 if alone else ENOUGH - 1].first)
    return min(times, default=None)


def _one_is_enough(look: Look, worker: Worker) -> bool:
    return bool(orphaned_from(look, worker) or born_early_for(look, worker))


def _may_count(look: Look, worker: Worker) -> bool:
    if not look.uses >= look.serving.keys():  # an app that was found may wait for a MongoDB of its own
        return False
    ready = worker.ready_since
    born = [one.born.lo for members in look.serving.values() for one in members if one.born]
    return look.seen_to_return or (ready is not None and bool(born) and min(born) > ready.hi)
