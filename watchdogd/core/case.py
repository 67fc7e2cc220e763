"""One instance at one instant: all that a rule, a gate or a step may look at."""

from __future__ import annotations

import math
from dataclasses import dataclass

from watchdogd.config import Config, InstanceConfig
from watchdogd.core.evidence.waiting import SINGLE_S
from watchdogd.core.look import LOST_AT_MOST_S, lost, serving
from watchdogd.model.base import Incarnation, Mono, ProcessId
from watchdogd.model.found import Evidence, Finding, Kind
from watchdogd.model.remembered import InstanceState, Spent, State
from watchdogd.model.seen import EVERYBODYS, Area, Instance, Member, Round, Scope, Snapshot, Worker

UNPROVEN_FOR_S = 60.0  # a stuck worker that is used now and then was seen so after 59 s at the latest
FORK_UNSAFE_FOR_S = 120.0  # the master's monitor runs at least every 10 s; after 120 s it does not run at all
ANSWERS_FOR_S = 60.0
"""So long a good answer says how the app is: two rounds, and what they take."""

ACCESS_CAUSE_FOR_S = 86400.0  # who has not given his app credentials by then has read of it, or does not need them
RENEWED_WITHIN_S = 60.0  # uWSGI has a new mule in a second; so long its first task is waited for


@dataclass(frozen=True, slots=True)
class Case:
    """What is seen, found, configured and remembered of it; `whole` is the memory of all instances."""

    snapshot: Snapshot
    config: Config
    limits: InstanceConfig
    instance: Instance
    finding: Finding
    state: InstanceState
    whole: State

    @property
    def at(self) -> Mono:
        """The instant of the Snapshot."""
        return self.snapshot.at

    @property
    def ready(self) -> list[Worker]:
        """The workers that take requests."""
        return [worker for worker in self.instance.workers if worker.ready]

    @property
    def not_ready(self) -> str:
        """Which workers take no request yet, and what helps where one hangs; empty when all are ready.

        Of one that cannot be judged it is said why, and what a person may do.
        """
        others = [worker for worker in self.instance.workers if not worker.ready]
        if not others:
            return "" if self.ready else "there is no worker"
        waited_for = {one.id for one in others}
        hung = [one.sentence for one in self.finding.evidence if one.kind is Kind.HUNG and one.worker in waited_for]
        loading = len(others) - len(hung)
        said = [f"{loading} of {len(self.instance.workers)} workers are loading the app"] if loading else []
        unjudged = [(one.id.pid, one.unjudged) for one in others if one.unjudged]
        said += [f"whether worker {pid} hangs cannot be seen: {why}" for pid, why in unjudged]
        if unjudged:
            pids = " ".join(str(pid) for pid, _ in unjudged)
            said.append(f"one that hangs since its fork ends by `kill -9 {pids}`, and uWSGI makes it anew")
        return "; ".join([*hung, *said])

    @property
    def blind(self) -> str | None:
        """What cannot be seen of this instance, or of a deployment of it; None when everything can."""
        own = {Scope(Area.DEPLOYMENT, name) for name in self.instance.deployments}
        whys = [one.why for one in self.snapshot.blind if one.scope in own or one.scope.area in EVERYBODYS]
        return next(iter((*whys, *self.instance.blind)), None)

    @property
    def members(self) -> list[Member]:
        """The members of its deployments."""
        return [one for one in self.snapshot.members.values() if one.id.deployment in self.instance.deployments]

    @property
    def access_turned_on(self) -> str:
        """The members of its deployments whose access control is on since a day at most, and was off before."""
        turned = [(one.id.address, one.access.turned_on) for one in self.members if one.access]
        after = self.at - ACCESS_CAUSE_FOR_S
        return " and ".join(address for address, at in turned if at is not None and at > after)

    @property
    def returned(self) -> bool:
        """Whether this daemon watched an outage of its MongoDB; else that may have served for months."""
        return any(one.outages or one.took_over for one in self.members)

    @property
    def settled_at(self) -> Mono | None:
        """When MongoDB has served for longer than linger; None while it does not serve."""
        since = self.finding.served_since
        return None if since is None else since + self.config.policy.linger_s

    @property
    def fork_never_safe(self) -> bool:
        """Whether the master's monitor evidently does not run: waiting longer mends nothing."""
        since = self.finding.fork.unsafe_since
        return since is not None and self.at - since >= FORK_UNSAFE_FOR_S

    @property
    def spent(self) -> tuple[Spent, ...]:
        """The reloads that count against the budget now."""
        return tuple([one for one in self.state.spent if one.at + self.config.policy.budget.per_s > self.at])

    def evidence(self, kind: Kind) -> list[Evidence]:
        """Return what there is of one kind that does not wait for something else than time."""
        return [one for one in self.finding.evidence if one.kind is kind and one.ripe_at is not None]

    def ripe(self, kind: Kind) -> list[Evidence]:
        """Return what is ripe of one kind."""
        return [one for one in self.evidence(kind) if one.ripe_at is not None and one.ripe_at <= self.at]

    def reaches(self, worker: Worker, incarnations: frozenset[Incarnation]) -> bool:
        """Say whether a worker has had an own connection to every deployment that these incarnations belong to."""
        groups = [group for group in self.finding.served.values() if group & incarnations]
        return bool(groups) and all(worker.reconnected & group for group in groups)

    @property
    def stuck_mules(self) -> frozenset[ProcessId]:
        """The mules and spoolers of which there is evidence that they are stuck."""
        return frozenset(one.worker for one in self.evidence(Kind.MULE))

    @property
    def early(self) -> bool:
        """Whether there is ripe evidence that it does not heal by itself: then nothing waits for linger."""
        told = self.config.policy.tell_only
        return any(self.ripe(kind) for kind in (Kind.WAITING, Kind.ORPHANED, Kind.UNANSWERED) if kind not in told)

    @property
    def unproven(self) -> bool:
        """Whether a worker works, and was not seen to reach MongoDB yet, within the time in which that would show.

        Or the app answers badly, for as long as it does: that is no healing.
        """
        since = self.finding.served_since
        if since is not None and self.answers_badly is not None:
            return True
        if since is None or self.at >= since + UNPROVEN_FOR_S:
            return False
        if self.asks and self.answers is None:
            return True
        return any(one.used and not self.reaches(one, self.finding.incarnations) for one in self.ready)

    @property
    def resumes_by(self) -> Mono:
        """When requests that outlived a network loss have gone on at the latest: TCP backs off for as long as that was.

        So they fail, or wait, while the monitor beside them reaches MongoDB again: for up to 23 s after 25 s without.
        """
        losses = lost(serving(self.members), perhaps=True)
        return max([one.hi + min(one.hi - one.lo, LOST_AT_MOST_S) for one in losses], default=-math.inf)

    @property
    def asks(self) -> bool:
        """Whether the app is asked how it is, and its answers say something."""
        return self.instance.health is not None and self.instance.health.believable

    @property
    def answers(self) -> Round | None:
        """The last round of answers, where all of them were good and a healthy driver had its time before."""
        health, since = self.instance.health, self.finding.served_since
        asked = health.round if health and self.asks else None
        if asked is None or since is None or not asked.whole or asked.began < since + SINGLE_S:
            return None
        return asked if self.at - asked.ended <= ANSWERS_FOR_S else None

    @property
    def answers_badly(self) -> Round | None:
        """The last round of answers, where not all that reached the app were good."""
        asked = self.instance.health.round if self.instance.health and self.asks else None
        return asked if asked and asked.bad else None

    @property
    def well(self) -> bool:
        """Whether it was seen that the app is healthy: all serves, and who works has connections."""
        every = self.finding.incarnations
        # Who only hands tasks over needs no connection; then those who do them show that it is well.
        all_ = [one for one in (*self.ready, *self.instance.mules) if not self.instance.is_bystander(one)]
        used = [one for one in all_ if one.used or one.reconnected & every]
        stuck = {Kind.LEFTOVER, Kind.WAITING, Kind.ORPHANED, Kind.UNANSWERED, Kind.MULE}
        clear = not any(self.evidence(kind) for kind in stuck) and not self.not_ready and self.blind is None
        clear = clear and self.answers_badly is None
        return self.finding.is_serving and clear and bool(used) and all(self.reaches(one, every) for one in used)
