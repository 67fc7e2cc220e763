"""Which workers need a cure, when, and by which command: the only place that says so.

Evidence says what is seen of one worker. Here it is said which evidence counts, what of it is enough, and what to send.
gates.py says what may hold it, and reload.py goes on from there.
"""

from __future__ import annotations

from dataclasses import dataclass

from watchdogd.core.case import FORK_UNSAFE_FOR_S, Case
from watchdogd.model.base import CHAIN, MULES, RESTART, WORKERS, Command, Incarnation, Mono, ProcessId
from watchdogd.model.found import Cure, Evidence, Kind
from watchdogd.model.remembered import Reload, Stand

COUNT = (Kind.LEFTOVER, Kind.WAITING, Kind.ORPHANED, Kind.UNANSWERED)
"""The kinds of which each one is enough. BORN_EARLY is told alone; of HUNG the cure is no command (to_end), and of MULE
not always (mules_to_end)."""


@dataclass(frozen=True, slots=True)
class Due:
    """What a reload is for. `at`: when the first evidence is ripe; None where there is none.

    `by_end`: only mules are stuck, and they are ended one by one: no reload is for them.
    """

    evidence: tuple[Evidence, ...]
    at: Mono | None
    command: Command
    by_end: bool = False

    @property
    def by_restart(self) -> bool:
        """Whether only a restart ends some of it: the master itself is part of it."""
        return _by_restart(self.evidence)

    @property
    def only_mules(self) -> bool:
        """Whether it is for mules and spoolers alone."""
        return all(one.kind is Kind.MULE for one in self.evidence)

    @property
    def workers(self) -> frozenset[ProcessId]:
        """Whom it would cure."""
        return frozenset(one.worker for one in self.evidence)


def due(c: Case) -> Due:
    """Return what a reload is for now, ripe or not, and which command that asks for; whether it may be is for gates."""
    kinds = [kind for kind in COUNT if kind not in c.config.policy.tell_only]
    workers = (*[one for kind in kinds for one in c.evidence(kind)], *_of_a_doubt(c))
    mules = stuck_mules(c)
    at = min((one.ripe_at for one in (*workers, *mules) if one.ripe_at is not None), default=None)
    by_end = bool(mules) and not workers and may_end_mules(c) and c.state.standing.stand is not Stand.ESCALATING
    command = _command(c, workers)
    if mules and not may_end_mules(c) and (not workers or _may_restart_for(c, mules)):
        command = RESTART
    return Due((*workers, *mules) if command is RESTART else workers, at, command, by_end)


def for_an_operator(c: Case, *, restart: bool) -> Command:
    """Return what an operator's reload is: a `restart` where he says so, else what the daemon would send.

    That is of the workers, where only mules are stuck and no restart is allowed.
    """
    if restart:
        return RESTART
    found = due(c)
    if found.evidence and found.only_mules and RESTART not in c.limits.reloads:
        return _command(c, ())
    return found.command


def stuck_mules(c: Case) -> tuple[Evidence, ...]:
    """Return the mules and spoolers that are stuck, ripe or not, where that counts."""
    return () if Kind.MULE in c.config.policy.tell_only else tuple(c.evidence(Kind.MULE))


def may_end_mules(c: Case) -> bool:
    """Say whether a mule that is stuck is ended: that is allowed, and the one in its place would not be stuck too."""
    return MULES in c.limits.reloads and not c.fork_never_safe


def mules_to_end(c: Case) -> tuple[Evidence, ...]:
    """Return the mules that are to be ended now, if nothing holds that."""
    if not may_end_mules(c):
        return ()
    return tuple([one for one in stuck_mules(c) if one.ripe_at is not None and one.ripe_at <= c.at])


def _may_restart_for(c: Case, mules: tuple[Evidence, ...]) -> bool:
    """Say whether one restart would end it for workers and mules: it is allowed, and a mule is due now."""
    allowed = RESTART in c.limits.reloads and c.instance.no_restart is None and not _restarted_in_vain(c)
    return allowed and any(one.ripe_at is not None and one.ripe_at <= c.at for one in mules)


def _restarted_in_vain(c: Case) -> bool:
    return bool(c.finding.incarnations) and c.finding.incarnations <= c.state.mules.restarted


def _of_a_doubt(c: Case) -> list[Evidence]:
    """Who works without a connection counts only where a reload of ours ended without proof."""
    return c.ripe(Kind.UNCONNECTED) if c.state.standing.in_doubt and c.finding.is_serving else []


def _by_restart(evidence: tuple[Evidence, ...]) -> bool:
    return any(one.cure is Cure.RESTART for one in evidence)


def _command(c: Case, counts: tuple[Evidence, ...]) -> Command:
    if c.state.standing.stand is Stand.ESCALATING or _by_restart(counts) or c.fork_never_safe:
        return RESTART
    # `c` keeps a worker serving all the time, which is worth something only where one is fine.
    ready = {worker.id for worker in c.ready}
    all_of_them = ready <= {one.worker for one in counts} or len(ready) == 1
    wanted = (WORKERS, CHAIN, RESTART) if all_of_them else (CHAIN, WORKERS, RESTART)
    return next((command for command in wanted if command in c.limits.reloads), wanted[0])


def why_restart(c: Case) -> str:
    """Say why nothing but a restart of the stack helps here."""
    found = due(c)
    if found.evidence and found.only_mules and c.state.standing.stand is not Stand.ESCALATING:
        return f"{found.evidence[0].sentence}, and a reload of the workers does not touch it"
    if found.by_restart:
        return "the master itself holds the old connection, and only a restart of the stack ends it"
    if c.fork_never_safe:
        return "the master's MongoDB client does not run, so no fork of it can connect; only a restart helps"
    return "a reload of the workers did not help"


def wanted(c: Case, reload: Reload) -> bool:
    """Say whether what this reload is for is still there: an app that has healed meanwhile is left alone."""
    return reload.operator is not None or due(c).at is not None or c.state.standing.stand is Stand.ESCALATING


def restart_left(c: Case, lives: frozenset[Incarnation]) -> bool:
    """Say whether a restart is allowed, would not end it, and was not sent yet against these lives of MongoDB."""
    return RESTART in c.limits.reloads and c.instance.no_restart is None and not lives <= c.state.restarted


def hopeless(c: Case) -> str | None:
    """Say why nothing that is allowed would help what is due; None where something would.

    Where the master holds the old connection, or a reload has failed, a gate says what to allow.
    """
    found = due(c)
    if found.evidence and found.only_mules and RESTART in c.limits.reloads and _restarted_in_vain(c):
        return f"{found.evidence[0].sentence}, and a restart of the stack has not helped: look into its tasks"
    if (
        not c.fork_never_safe
        or found.by_restart
        or c.state.standing.stand is Stand.ESCALATING
        or restart_left(c, c.finding.incarnations)
    ):
        return None
    mend = "give uWSGI `enable-threads` and `lazy-apps`"
    if c.instance.no_restart:
        mend = f"a restart would end it: {c.instance.no_restart}; {mend}"
    elif RESTART not in c.limits.reloads:
        mend = f"add `restart` to `reloads`, or {mend}"
    waited = "" if c.instance.threads_off else f" for {FORK_UNSAFE_FOR_S:.0f} s"
    return f"{c.finding.fork.unsafe}{waited}, so every worker it forks would be stuck too; {mend}"


def is_roots(c: Case) -> bool:
    """Say whether it was found, and root runs it: whoever named nobody has not meant what root runs."""
    return c.config.instances is None and c.instance.uid in {None, 0}


def is_unmet(c: Case) -> bool:
    """Say whether it was found, and never seen to use MongoDB. Evidence is about connections, so no gate asks this."""
    return c.config.instances is None and not c.instance.met


def to_end(c: Case) -> list[Evidence]:
    """Return the workers that are to be ended: who hangs on Python's GIL since its fork, in calm too.

    Of a found instance only where it was seen to use MongoDB, and never where root runs it: nobody named it.
    """
    if Kind.HUNG in c.config.policy.tell_only or c.instance.threads_off:
        return []
    if is_roots(c) or is_unmet(c):
        return []
    return [one for one in c.ripe(Kind.HUNG) if one.cure is Cure.END]
