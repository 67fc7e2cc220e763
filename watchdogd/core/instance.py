"""One instance's tick: what is remembered and seen in, what is remembered, told and done out.

Theory of operation
-------------------
`Tick.run` does the same five steps each time, in this order, and each once:

1. remember: what of the memory still holds. Another master, or an app that was seen to be well, ends what our reloads
   had led to.
2. follow: the reload that goes on is shown what is seen (reload.py) and gives back itself, or its ending; what follows
   from an ending stands in AFTER (after.py). And what hangs since its fork is ended, in calm too (ends.py).
3. stand: the phase that follows from all this (PHASES), and what is told of the way there.
4. cure: where something is due (due.py) and every gate is open (gates.py), a reload is begun. Mules and spoolers that
   are stuck are ended here (mules.py), whatever becomes of the workers.
5. show: what comes next (outlook.py). And an incident that stays open is told again (reminder.py).

Nothing else returns into the memory: what became of an effect is in a later Snapshot, as an Outcome. The memory is
saved before any effect is performed. So a daemon that was killed at any point goes on from what was saved, and three
rules hold over every restart:

- The intent is saved before the byte is written. A reload found in the memory is verified, never sent again. One
  exception, seen by evidence: at its deadline *every* old worker is still there, so the byte was lost (measured: 4 of
  1 144 writes, where two writers met); then it is sent once more.
- An effect names the world that it was decided on (master, workers). act compares right before the write and never
  judges.
- What was not seen is not claimed: `reloaded` says that the processes are new; `recovered` and `healed` that every
  worker that was used since has a connection of its own. Where nobody has used it yet, `unproven` says so and the
  incident goes on, at rest; another outage goes on with it. Where a reload of ours ended without that proof, the
  standing is a doubt.

Pure: no I/O, no clock, no logging.
"""

from __future__ import annotations

from dataclasses import replace

from watchdogd.core import mules, reminder
from watchdogd.core.after import after, given_up, reconsidered
from watchdogd.core.case import Case
from watchdogd.core.due import due, for_an_operator, hopeless
from watchdogd.core.ends import end_hung
from watchdogd.core.gates import PASSED_NOW, answers_hold, blocked_by, blocked_for_an_operator, foreseen
from watchdogd.core.outlook import outlook
from watchdogd.core.phases import phase_of
from watchdogd.core.reload import Ended, Going, begin, follow
from watchdogd.model.base import Command, Incarnation, ProcessId
from watchdogd.model.decided import Answer, Blocked, Effect, Outlook
from watchdogd.model.done import EndProcess
from watchdogd.model.found import Kind, Verdict
from watchdogd.model.remembered import (
    FINE,
    Incident,
    InstanceState,
    LastReload,
    Phase,
    ReloadOutcome,
    Spent,
    Stand,
    Standing,
)
from watchdogd.model.seen import Request
from watchdogd.model.told import (
    Healed,
    InstanceAbsent,
    InstanceBack,
    LeftoversFound,
    MuleLeft,
    ReloadAsked,
    ReloadDue,
    ReloadHeld,
    ReloadSent,
    Replaced,
    Tell,
    ThreadsOff,
    Unproven,
    What,
)

STARTED_ANEW = "uWSGI was started anew by somebody else"
_TAKEN_BACK = frozenset({ReloadOutcome.DROPPED, ReloadOutcome.UNSENT})
_IN_TROUBLE = frozenset({Phase.OUTAGE, Phase.SETTLING, Phase.DUE})


class Tick:
    """One tick of one instance in the making. `case` has the memory as it goes on; `effects` are in order.

    `serial` numbers reloads and incidents, of all instances together.
    """

    def __init__(self, case: Case, serial: int) -> None:
        self.case, self.serial = case, serial
        self.effects: list[Effect] = []

    @property
    def state(self) -> InstanceState:
        """The memory of this instance."""
        return self.case.state

    def run(self) -> Outlook:
        """Do it all; return what the status shows."""
        in_flight = self.state.reload is not None
        self._remember()
        self._follow()
        self._end_hung()
        self._follow_mules()
        if in_flight or not self.case.instance.blind:  # else nobody can tell: neither absent nor healed
            self._stand()
        blocked = self._cure(begin=not self._end_mules())
        shown = outlook(self.case, blocked)
        self._tell_again(shown)
        return shown

    def asked(self, request: Request, shown: Outlook) -> Outlook:
        """Answer an operator who asks for a reload: past linger of the evidence, past gates only as PASSED_NOW says."""
        c = self.case
        command = for_an_operator(c, restart=request.restart)
        if c.instance.master is None:
            self.effects.append(Answer(request.id, ok=False, text="absent: nobody has its FIFO open"))
            return shown
        if blocked := blocked_for_an_operator(c, command, now=request.now):
            passes = PASSED_NOW.issuperset(one.gate for one in blocked)
            self.effects.append(Answer(request.id, ok=False, text="held by", blocked_by=blocked, now_helps=passes))
            return shown
        past = tuple([one.gate for one in blocked_by(c, command)])
        if self.state.standing.stand is Stand.GAVE_UP:
            past = (*past, "gave_up")
        if self.state.reload:
            why = "another reload was asked for before anybody had used it"
            self._ended(Ended(self.state.reload, ReloadOutcome.UNPROVEN, why))
        by = request.by
        who = request.who or "an operator"
        uid, pid = (by.uid, by.pid) if by else (None, None)
        self._tell(ReloadAsked(command, who, uid, pid, request.now, ", ".join(past) or None))
        id_ = self._begin(c.instance.master, command, request)
        self.effects.append(Answer(request.id, ok=True, text="reload begun", reload=id_, by=by, past=past))
        return outlook(self.case, ())

    # ---- 1: what still holds of the memory

    def _remember(self) -> None:
        self._keep(name=self.case.instance.name)
        self._carry_over()
        self._forget_another_master()
        # Before a reload may give up anew: that holds for this tick at least.
        self.case = replace(self.case, state=reconsidered(self.case))

    def _carry_over(self) -> None:
        """Take the lives that began before this daemon for those that an earlier one remembers under another name.

        Only of servers without a process id. Was one restarted meanwhile, the proof shows it, which is made of what is
        seen now.
        """
        unnamed = {one.address: one for one in self.case.finding.incarnations if one.began_before_us}
        if not unnamed:
            return

        def renamed(names: frozenset[Incarnation]) -> frozenset[Incarnation]:
            return frozenset(unnamed.get(one.address, one) if one.address else one for one in names)

        state = self.state
        reload = state.reload and replace(state.reload, incarnations=renamed(state.reload.incarnations))
        self._keep(reload=reload, tried=renamed(state.tried), restarted=renamed(state.restarted))

    def _forget_another_master(self) -> None:
        """Forget what is known of a master that is gone: whoever replaced it took it over. A reload has its own end."""
        state, master = self.state, self.case.instance.master
        if state.reload:
            return
        another = master is not None and state.incident is not None and state.incident.master not in {None, master}
        if state.master is not None and state.master != master:
            another = another or (master is not None and state.standing.stand is not Stand.FINE)
            self._keep(master=None, standing=FINE, outrun=None)
        if another:
            self._close(Replaced(STARTED_ANEW))

    # ---- 2: the reload that goes on

    def _follow(self) -> None:
        if self.state.reload is None:
            return
        then = follow(self.case, self.state.reload)
        if isinstance(then, Ended):
            self._ended(then)
        else:
            self._going(then)

    def _going(self, then: Going) -> None:
        state, last = self.state, self.state.last
        if not then.reload.in_flight:
            last = last and replace(last, outcome=ReloadOutcome.RELOADED)
        spent = (*state.spent[:-1], Spent(self.case.at)) if then.send else state.spent
        sent = any(isinstance(one, ReloadSent) for one in then.told)
        self._keep(reload=then.reload, last=last, spent=spent, unsent=None if sent else state.unsent)
        for what in then.told:
            self._tell(what)
        if then.send:
            self.effects.append(then.send)

    def _ended(self, ended: Ended) -> None:
        state, told, closes = after(self.case, ended)
        for what in told:
            self._tell(what)
        self.case = replace(self.case, state=replace(state, incident=None if closes else state.incident))

    def _end_hung(self) -> None:
        c, warned = self.case, self.state.warned
        master = c.instance.master
        if c.instance.threads_off and master and master != warned:
            self._tell(ThreadsOff(master.pid))
            self._keep(warned=master)
        step = end_hung(c)
        for what in step.told:
            self._tell(what)
        for process in step.end:
            if master:
                self.effects.append(EndProcess(self._id(), c.instance.id, master, process, c.instance.uid))
        self._keep(ends=step.ends)

    def _follow_mules(self) -> None:
        step = mules.follow_mules(self.case)
        for what in step.told:
            self._tell(what)
        self._keep(mules=step.ends)
        if step.over and self.state.reload is None and due(self.case).at is None:
            self._keep(incident=None)  # its end was told just now

    # ---- 3: where it stands

    def _stand(self) -> None:
        old, new = self.state.phase, phase_of(self.case)
        if new is not old:
            self._tell_way(old, new)
        self._keep(phase=new)
        if new is Phase.WATCHING:
            self._tell_whether_it_is_well()
        elif self.case.finding.outage:
            self._begin_anew()

    def _tell_way(self, old: Phase, new: Phase) -> None:
        c = self.case
        if old is Phase.ABSENT and c.instance.master:
            self._tell(InstanceBack(c.instance.master.pid))
        if new is Phase.ABSENT:
            self._close(Replaced("uWSGI was stopped"))
            self._tell(InstanceAbsent(c.instance.fifo, c.instance.meant or None))
        elif new in _IN_TROUBLE:
            self._open()
            if new is not Phase.OUTAGE:
                self._tell_leftovers()
            if new is Phase.DUE and not self._taken_back(old):
                self._tell_due()

    def _open(self) -> None:
        if self.state.incident is None:
            c = self.case
            self._keep(incident=Incident(self._id(), c.at, master=c.instance.master))

    def _begin_anew(self) -> None:
        """Go on with an incident of which nobody has seen the end, with another outage."""
        if self.state.incident and self.state.incident.unproven_told:
            self._keep(incident=replace(self.state.incident, unproven_told=False))

    def _close(self, what: What) -> None:
        """End the incident, if there is one: what it was about is gone, and nobody will see how it went on."""
        if self.state.incident:
            self._tell(what)
        self._keep(incident=None)

    def _taken_back(self, old: Phase) -> bool:
        """Say whether this only takes back that a reload was begun."""
        return old is Phase.RELOADING and self.state.last is not None and self.state.last.outcome in _TAKEN_BACK

    def _tell_whether_it_is_well(self) -> None:
        """End the incident once it was seen to be well; before that, say once that it was not seen yet."""
        c, incident = self.case, self.state.incident
        if incident is None or c.blind is not None:
            return
        own = [one for one in (*c.ready, *c.instance.mules) if c.reaches(one, c.finding.incarnations)]
        if c.well:
            self._close(Healed(round(c.at - incident.since, 1), sum(worker in own for worker in c.ready)))
        elif not incident.unproven_told and not c.not_ready:
            used = [one for one in c.ready if one.used and not c.instance.is_bystander(one)]
            without = sum(one not in own for one in used)
            self._keep(incident=replace(incident, unproven_told=True))
            self._tell(Unproven(not (own or used), without))

    def _tell_leftovers(self) -> None:
        c, incident, found = self.case, self.state.incident, self.case.evidence(Kind.LEFTOVER)
        if incident and not incident.leftovers_told and found:
            self._keep(incident=replace(incident, leftovers_told=True))
            until = min(one.ripe_at for one in found if one.ripe_at is not None)
            self._tell(LeftoversFound(len(c.finding.leftovers), len(found), round(max(0.0, until - c.at), 1)))

    def _tell_due(self) -> None:
        c, found = self.case, due(self.case)
        if found.by_end:  # no reload is due
            return
        verdicts = [c.finding.verdicts.get(worker.id) for worker in c.instance.workers]
        stranded, idle = verdicts.count(Verdict.STRANDED), verdicts.count(Verdict.IDLE)
        why = None
        if self.state.standing.stand is Stand.ESCALATING:
            why = "the last reload did not help"
        elif kinds := {one.kind: one for one in found.evidence if one.kind is not Kind.LEFTOVER}:
            why = "; ".join(
                f"{len(found.workers)} workers of the last reload work without a connection to MongoDB"
                if kind is Kind.UNCONNECTED
                else one.sentence
                for kind, one in kinds.items()
            )
        self._tell(ReloadDue(found.command, why, stranded, idle, len(c.finding.leftovers)))

    # ---- 4: the cure

    def _end_mules(self) -> bool:
        """Tell which mules are stuck, and end them where that may be; say whether one is ended now."""
        step = mules.found_stuck(self.case)
        self._keep(mules=step.ends)
        for what in step.told:
            self._tell(what)
        asked, master = mules.to_be_ended(self.case), self.case.instance.master
        if not asked or master is None:
            return False
        self._keep(mules=replace(self.state.mules, asked=asked))
        self.effects += [mules.effect(self.case, self._id(), master, one) for one in asked]
        return True

    def _cure(self, *, begin: bool) -> tuple[Blocked, ...]:
        """Begin a reload where one is due and may be, and `begin` says so; return the gates that hold it, or would."""
        c = self.case
        if self.state.phase is not Phase.DUE:
            self._keep(held=())
            return foreseen(c) if self.state.phase in _IN_TROUBLE | {Phase.WATCHING} else ()
        if (why := hopeless(c)) and not answers_hold(c):
            unproven = self.state.standing.in_doubt
            state, gave_up = given_up(c, Standing(Stand.GAVE_UP, c.at, why, unproven))
            self.case = replace(c, state=state)
            self._tell(gave_up)
            self._keep(phase=Phase.GAVE_UP)
            return ()
        if due(c).by_end:
            blocked = mules.held(c)
            self._hold(None, blocked)
            return blocked
        command = due(c).command
        blocked = blocked_by(c, command)
        self._hold(command, blocked)
        if not blocked and begin and c.instance.master:
            self._begin(c.instance.master, command)
        return blocked

    def _hold(self, command: Command | None, blocked: tuple[Blocked, ...]) -> None:
        """Tell what holds it when that has changed. `command` None: the end of mules."""
        state, names = self.state, tuple([one.gate for one in blocked])
        # The moment after a reload that was taken back is not worth a line.
        moment = names == ("cooldown",) and state.last is not None and state.last.outcome in _TAKEN_BACK
        if names and names != state.held and not moment:
            until = blocked[0].until
            until_s = None if until is None else round(max(0.0, until - self.case.at), 1)
            if command:
                self._tell(ReloadHeld(command, ",".join(names), blocked[0].reason, until_s))
            elif names != ("refused",):  # which was told when it was
                self._tell(MuleLeft(blocked[0].reason))
        self._keep(held=names)

    def _begin(self, master: ProcessId, command: Command, request: Request | None = None) -> str:
        """Put the intent into the memory and the byte into the effects; return the reload's id."""
        c, standing = self.case, self.state.standing
        id_ = self._id()
        then = begin(c, id_, master, command, request)
        if Kind.MULE in then.reload.because:
            self._keep(mules=replace(self.state.mules, restarted=then.reload.incarnations))
        if standing.stand is Stand.GAVE_UP:  # an operator's
            standing = Standing(Stand.DOUBTFUL, c.at) if standing.unproven else FINE
        self._keep(
            phase=Phase.RELOADING,
            standing=standing,
            spent=(*c.spent, Spent(c.at)),
            outrun=None,
            held=(),
            last=LastReload(
                id_,
                command,
                c.at,
                c.snapshot.wall,
                ReloadOutcome.RELOADING,
                by=request.by if request else None,
                now=then.reload.now,
            ),
            master=master,
        )
        self._going(then)
        return id_

    # ---- 5: what comes next

    def _tell_again(self, shown: Outlook) -> None:
        """Tell of an incident that stays open, when it is time for that."""
        incident, at = self.state.incident, self.case.at
        if incident and (told := reminder.passed(incident, at)) > incident.told_again:
            self._keep(incident=replace(incident, told_again=told))
            unproven = incident.unproven_told and self.state.phase is Phase.WATCHING
            if not unproven or self.case.blind is not None:  # that was told, and needs nobody
                self._tell(reminder.still_open(self.case, incident, shown))

    # ---- the memory and the effects

    def _keep(self, **changes: object) -> None:
        self.case = replace(self.case, state=replace(self.state, **changes))  # type: ignore[arg-type]

    def _tell(self, what: What) -> None:
        incident = self.state.incident.id if self.state.incident else None
        self.effects.append(Tell(what, self.case.instance.name, incident=incident))

    def _id(self) -> str:
        self.serial += 1
        return f"{self.case.instance.name}-{int(self.case.snapshot.wall)}-{self.serial}"
