"""Workers and mules that hang since their fork: who is told, ended, left as it is, in trouble and in calm.

What hangs is ended before any command: `w` and `c` break on such a worker, and `r` waits for it. An end that was asked
for has its outcome at the next tick; one that has none then (we were killed) is asked for again, for act looks at the
process once more before it signals. What was ended is a round, and rounds are few: where every fork hangs, more help
nobody.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from watchdogd.core.case import Case
from watchdogd.core.due import to_end
from watchdogd.core.gates import may_not_end
from watchdogd.model.base import Mono, ProcessId
from watchdogd.model.done import Outcome, Result
from watchdogd.model.found import Evidence, Kind
from watchdogd.model.remembered import Ends
from watchdogd.model.seen import Instance
from watchdogd.model.told import HungEnded, HungFound, HungLeft, What

ROUNDS, ROUNDS_IN_S = 3, 600.0
"""So often what hangs is ended within so many seconds: without threads (uWSGI < 2.0.27) every later fork hangs."""

AGAIN_S = 60.0  # who may not end a process today may tomorrow, and asking costs little

SOON_S = 1.0
"""What was not ended for another reason is asked for again after this. Not at once, as a tick follows each outcome:
where the unit of the helper could not start, that was 0.2 of a core for ever."""

RUNNING_S = 10.0
"""Twice within this it lasts, and is told. Once it is nothing: a helper that is just being started is slow (2.5 s at
most), or the FIFO is made anew."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one tick has come to: the memory, what is told, and who is to be ended now."""

    ends: Ends
    told: tuple[What, ...]
    end: tuple[ProcessId, ...]


def end_hung(c: Case) -> Step:
    """Take what became of the ends that were asked for, then see who hangs now."""
    told: list[What] = []
    ends = _taken(c, told)
    hung = [one for one in c.finding.evidence if one.kind is Kind.HUNG]
    here = frozenset(one.id for one in (*c.instance.workers, *c.instance.mules))
    told += [_found(one) for one in hung if one.worker not in ends.told]
    rounds = tuple([at for at in ends.rounds if at + ROUNDS_IN_S > c.at])
    ends = replace(ends, told=(ends.told & here) | {one.worker for one in hung}, rounds=rounds)
    why = _why_left(c, hung, ends)
    if why and why != ends.left:
        told.append(HungLeft(why))
    end = () if why or c.at < ends.again_at or may_not_end(c) else tuple([one.worker for one in to_end(c)])
    left = why or (ends.left if hung else "")
    return Step(replace(ends, left=left, asked=frozenset(end)), tuple(told), end)


def _found(hung: Evidence) -> HungFound:
    process, _, reason = hung.sentence.partition(" hangs since its fork: ")
    return HungFound(process, hung.worker.pid, reason)


def _taken(c: Case, told: list[What]) -> Ends:
    ends = c.state.ends
    taken = [one for one in c.snapshot.outcomes if one.process in ends.asked]
    gone = [one.process.pid for one in taken if one.process and one.result is Result.ENDED]
    told += [HungEnded(pid) for pid in gone]
    if gone:
        ends = replace(ends, rounds=(*ends.rounds, c.at), left="")
    why, again_at = not_ended(c, taken, ends.again_at)
    if why and why != ends.left:
        told.append(HungLeft(why))
    return replace(ends, left=why or ends.left, again_at=again_at)


def not_ended(c: Case, outcomes: Iterable[Outcome], again_at: Mono) -> tuple[str, Mono]:
    """Say why somebody was not ended, if that lasts, and from when on it may be asked for again.

    `again_at`: from when on these were asked for.
    """
    failed = [one for one in outcomes if one.result is not Result.ENDED]
    running = c.at <= again_at + RUNNING_S
    lasting = [one.detail for one in failed if running or one.result is Result.REFUSED]
    if lasting:
        return lasting[0], c.at + AGAIN_S
    return "", c.at + SOON_S if failed else again_at


def in_vain(hung: Evidence, instance: Instance) -> str:
    """Say why the end of a worker that hangs would help nobody; empty where it would help."""
    if hung.ripe_at is None:
        return "the next one would most likely do the same: look into the app"
    if instance.threads_off:
        return "uWSGI runs without `enable-threads`, so each new one would hang too: add that line"
    return ""


def who_ends(c: Case) -> dict[ProcessId, str]:
    """Say of each process that hangs what ends it: the daemon, a person, or nothing that helps."""
    return {one.worker: _who_ends(c, one) for one in c.finding.evidence if one.kind is Kind.HUNG}


def _who_ends(c: Case, hung: Evidence) -> str:
    safe = f"`kill -9 {hung.worker.pid}` is safe: it has no request, and uWSGI makes it anew"
    if why := in_vain(hung, c.instance):
        return why
    if hung not in to_end(c):
        named = "" if Kind.HUNG in c.config.policy.tell_only else "; named under `uwsgi:` it is ended by the daemon"
        return f"{safe}{named}"
    if held := may_not_end(c):
        return f"{safe}; the daemon does not end it: {held[0].reason}"
    return c.state.ends.left or "the daemon ends it, and uWSGI makes it anew"


def _why_left(c: Case, hung: list[Evidence], ends: Ends) -> str:
    """Say why workers that hang are left as they are; empty where they are ended, or will be."""
    if own := [one for one in hung if one.ripe_at is None]:
        return f"{own[0].sentence}; {in_vain(own[0], c.instance)}"
    if not hung or Kind.HUNG in c.config.policy.tell_only:
        return ""
    if why := in_vain(hung[0], c.instance):
        return f"{hung[0].sentence}; {why}"
    if not to_end(c):
        return f"{hung[0].sentence}; name the instance under `uwsgi:` to have it ended. `kill -9` is safe"
    if len(ends.rounds) >= ROUNDS:
        return (
            f"{ROUNDS} rounds in {ROUNDS_IN_S / 60:.0f} min have not helped: each new worker hangs too; "
            "give uWSGI `enable-threads`, or `lazy-apps`"
        )
    return ends.left if c.at < ends.again_at else ""
