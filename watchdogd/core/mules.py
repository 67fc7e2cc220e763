"""The mules and spoolers that are stuck: who is told, who is ended, and what came in the place of who was.

A stuck one is ended where `reloads` has `mules`: uWSGI makes it anew within a second (72 of 72 of its tasks good
after it). A task that it does at that moment is lost to a mule, and done again by a spooler. The new one is forked from
the master, so what holds a reload of the workers holds it too, if it is about the fork. What was ended is a round, and
rounds are as few as those of what hangs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from watchdogd.core.case import RENEWED_WITHIN_S, Case
from watchdogd.core.due import mules_to_end
from watchdogd.core.ends import ROUNDS, ROUNDS_IN_S, not_ended
from watchdogd.core.gates import may_not_end_mules
from watchdogd.model.base import ProcessId
from watchdogd.model.decided import Blocked
from watchdogd.model.done import EndProcess, Result, Stuck
from watchdogd.model.found import Kind
from watchdogd.model.remembered import AskedMule, MuleEnds
from watchdogd.model.seen import Mule
from watchdogd.model.told import MuleEnded, MuleLeft, MuleRenewed, MuleStuck, What


@dataclass(frozen=True, slots=True)
class Step:
    """What one tick has come to: the memory, and what is told. `over`: all that were ended are there anew."""

    ends: MuleEnds
    told: tuple[What, ...] = ()
    over: bool = False


# ---- what became of it


def follow_mules(c: Case) -> Step:
    """Take what became of the ends that were asked for, and see whether new ones are there and reach MongoDB."""
    ends = c.state.mules
    told: list[What] = []
    here = {mule.id for mule in c.instance.mules}
    done = {one.process: one for one in c.snapshot.outcomes if one.process is not None}
    dead = {process for process, outcome in done.items() if outcome.result is Result.ENDED}
    # Where we were killed before an outcome came, its being gone is one.
    gone = tuple([one for one in ends.asked if one.process in dead or (one.process not in here and not c.blind)])
    told += [MuleEnded(f"{one.role} {one.process.pid}", one.process.pid) for one in gone]
    if gone:
        before = here | {one.process for one in gone}
        ends = replace(ends, rounds=(*ends.rounds, c.at), left="", ended=gone, before=frozenset(before), ended_at=c.at)
    why, again_at = not_ended(c, [done[one.process] for one in ends.asked if one.process in done], ends.again_at)
    told += [MuleLeft(why)] if why and why != ends.left else []
    ends = replace(ends, left=why or ends.left, again_at=again_at)
    rounds = tuple([at for at in ends.rounds if at + ROUNDS_IN_S > c.at])
    ends = replace(ends, asked=(), told=ends.told & here, rounds=rounds)
    return _renewed(c, ends, told) if ends.ended else Step(ends, tuple(told))


def _renewed(c: Case, ends: MuleEnds, told: list[What]) -> Step:
    """See what came in the place of those that were ended."""
    none = replace(ends, ended=(), before=frozenset())
    if c.instance.master is None or c.finding.outage:  # nothing can be proven of it any more
        return Step(none, tuple(told))
    if c.blind is not None:
        return Step(ends, tuple(told))
    new = [mule for mule in c.instance.mules if mule.id not in ends.before]
    there = bool(new) and len(c.instance.mules) >= len(ends.before)
    reached = there and all(c.reaches(mule, c.finding.incarnations) for mule in new)
    in_time = c.at < ends.ended_at + RENEWED_WITHIN_S
    if not reached and in_time:
        return Step(ends, tuple(told))
    if there and (reached or not any(mule.waited for mule in new)):
        told.append(MuleRenewed(_names(new), reached))
    elif there:
        told.append(MuleLeft(f"{_names(new)}, made in its place, waits for a server that it does not find"))
    else:
        missing = ", ".join(f"{one.role} {one.process.pid}" for one in ends.ended)
        told.append(MuleLeft(f"uWSGI has made no new one in the place of {missing} for {RENEWED_WITHIN_S:.0f} s"))
    return Step(none, tuple(told), over=True)


def _names(mules: list[Mule]) -> str:
    return " and ".join(mule.called for mule in mules)


# ---- who is to be ended


def found_stuck(c: Case) -> Step:
    """Tell whom nobody was told of yet."""
    ends = c.state.mules
    ripe = [one for one in c.ripe(Kind.MULE) if one.worker not in ends.told]
    called = {mule.id: mule.called for mule in c.instance.mules}
    told = tuple([MuleStuck(called[one.worker], one.worker.pid, _seen_of(one.sentence)) for one in ripe])
    return Step(replace(ends, told=ends.told | {one.worker for one in ripe}), told)


def _seen_of(sentence: str) -> str:
    """Leave out whom it is about: `mule 4711 has had tasks ...`."""
    return "it " + sentence.split(" ", 2)[2]


def held(c: Case) -> tuple[Blocked, ...]:
    """Return what holds the end of the mules that are stuck."""
    ends, blocked = c.state.mules, may_not_end_mules(c)
    if len(ends.rounds) >= ROUNDS:
        why = f"{ROUNDS} rounds in {ROUNDS_IN_S / 60:.0f} min have not helped: each new one gets stuck too"
        blocked = (*blocked, Blocked("rounds", why, ends.rounds[-ROUNDS] + ROUNDS_IN_S))
    if ends.left and c.at < ends.again_at:
        blocked = (*blocked, Blocked("refused", ends.left, ends.again_at))
    return blocked


def to_be_ended(c: Case) -> tuple[AskedMule, ...]:
    """Return the mules that are to be ended in this tick."""
    mules = {mule.id: mule for mule in c.instance.mules}
    ripe = mules_to_end(c)
    if not ripe or held(c) or c.at < c.state.mules.again_at:
        return ()
    return tuple([AskedMule(one.worker, mules[one.worker].role.value) for one in ripe])


def effect(c: Case, id_: str, master: ProcessId, asked: AskedMule) -> EndProcess:
    """Return how one is ended: as long as it holds the same ended sockets."""
    inodes = frozenset(
        [
            one.inode
            for one in c.snapshot.connections
            if one.cookie in c.finding.leftovers and asked.process in one.holders
        ]
    )
    return EndProcess(id_, c.instance.id, master, asked.process, c.instance.uid, Stuck(asked.role, inodes))
