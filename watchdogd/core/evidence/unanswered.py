"""`unanswered`: the app's own answer is bad, several times at once, though MongoDB serves again.

What a visitor gets, asked by us (observe/probes.py), where `health` says how. A stuck worker answers 500 after
serverSelectionTimeoutMS, or nothing; every one of them did, in each of six situations, and so did those of which
nothing else can be seen: idle ones after a lost host, or forked too early. It counts on a request that was good before
and is known to depend on MongoDB: then it fails because of that. It is the proof that an app does not heal, so it does
not wait for linger.

A request reaches one worker and does not say which. So it is evidence of each worker that was not seen to reach MongoDB
since, and of no other one: who has a connection and fails, fails by something else. It speaks against it: who is
monitored heals by itself; and a driver that heals may need so long after the return as `waiting` gives it.
"""

from __future__ import annotations

from collections.abc import Iterator

from watchdogd.core.evidence.waiting import OTHERS_S, SINGLE_S
from watchdogd.core.look import Look
from watchdogd.model.found import Evidence, Kind
from watchdogd.model.seen import Round, Trust, Worker

SEVERAL = 2
"""Bad answers of one round: a single one may be an accident."""


def evidence(look: Look) -> Iterator[Evidence]:
    """Yield one for each worker that was not seen to reach MongoDB, where the last round was bad."""
    health, since = look.instance.health, look.served_since
    if health is None or health.trust is not Trust.DEPENDENT or health.round is None or since is None:
        return
    asked = health.round
    for worker in look.instance.workers if asked.bad >= SEVERAL else ():
        if _may_be_stuck(look, worker) and asked.began >= since + (SINGLE_S if worker.single else OTHERS_S):
            yield Evidence(
                kind=Kind.UNANSWERED,
                worker=worker.id,
                since=asked.began,
                ripe_at=asked.ended,
                sentence=_sentence(worker, asked),
                deployments=frozenset(look.serving),
            )


def _may_be_stuck(look: Look, worker: Worker) -> bool:
    if not worker.ready or look.monitored(worker) or look.instance.is_bystander(worker):
        return False
    return not all(worker.reconnected & served for served in look.served.values())


def _sentence(worker: Worker, asked: Round) -> str:
    return (
        f"worker {worker.id.pid} has no connection to MongoDB, and {asked.bad} of {asked.size} health requests failed "
        f"({asked.says})"
    )
