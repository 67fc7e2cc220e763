"""One instance's tick in the making: its memory as it goes on, the effects so far, the moves with what they tell.

Pure like policy.py, whose MOVES it obeys: a move that is not in the table, or an event that is not allowed there,
raises.
"""

from __future__ import annotations

from dataclasses import replace

from watchdogd.core.policy import MOVES, Case, IllegalMoveError
from watchdogd.model.base import Command
from watchdogd.model.decided import Effect
from watchdogd.model.found import Verdict
from watchdogd.model.remembered import Incident, InstanceState, Phase, ReloadOutcome
from watchdogd.model.told import Event, FieldValue, Tell


class Step:
    """Walks one instance through one tick. `case` and `serial` are replaced as it goes on; `effects` grow."""

    def __init__(self, case: Case, serial: int) -> None:
        self.case, self.serial = case, serial
        self.effects: list[Effect] = []
        self._events: set[Event] = set()  # what is told of the move that is being made

    @property
    def state(self) -> InstanceState:
        """The memory of this instance."""
        return self.case.state

    @state.setter
    def state(self, state: InstanceState) -> None:
        self.case = replace(self.case, state=state)

    def tell(
        self,
        event: Event,
        command: Command | None = None,
        blocked: str | None = None,
        **fields: FieldValue,
    ) -> None:
        """Tell something of this instance that belongs to no move."""
        incident = self.state.incident.id if self.state.incident else None
        self.effects.append(Tell(event, self.case.instance.name, None, incident, command, blocked, fields))

    def say(self, event: Event, command: Command | None = None, **fields: FieldValue) -> None:
        """Tell something that belongs to the next move: MOVES must allow it there."""
        self._events.add(event)
        self.tell(event, command, None, **fields)

    def replaced(self, why: str) -> None:
        """End the incident, if there is one: what it was about is gone, and nobody will see how it went on."""
        if self.state.incident:
            self.tell(Event.REPLACED, reason=why)
        self.state = replace(self.state, incident=None)

    def enter(self, phase: Phase) -> None:
        """Make the move to `phase` and tell what belongs to it; raises IllegalMoveError."""
        old = self.state.phase
        if phase is not old:
            self._say_move(old, phase)
        allowed = frozenset[Event]() if phase is old else MOVES.get((old, phase))
        if allowed is None or not self._events <= allowed:
            told = sorted(event.value for event in self._events)
            raise IllegalMoveError(
                f"{self.case.instance.name}: {old.value} -> {phase.value}, telling {told}; MOVES allows "
                f"{'no such move' if allowed is None else sorted(event.value for event in allowed)}"
            )
        self._events.clear()
        self.state = replace(self.state, phase=phase)

    def _say_move(self, old: Phase, new: Phase) -> None:
        c = self.case
        if old is Phase.ABSENT and c.instance.master:
            self.say(Event.INSTANCE_BACK, pid=c.instance.master.pid)
        if new is Phase.ABSENT:
            self.replaced("uWSGI was stopped")
            self.say(Event.INSTANCE_ABSENT, fifo=c.instance.fifo)
        elif new is Phase.WATCHING:
            self._say_healed()
        elif new in {Phase.OUTAGE, Phase.SETTLING, Phase.DUE}:
            if self.state.incident is None:
                incident = Incident(f"{c.instance.name}-{int(c.snapshot.wall)}", c.at, master=c.instance.master)
                self.state = replace(self.state, incident=incident)
            if new is not Phase.OUTAGE:
                self._say_leftovers()
            if new is Phase.DUE and not self._dropped(old):
                self._say_due()

    def _dropped(self, old: Phase) -> bool:
        """Say whether this move only takes back one to RELOADING."""
        return (
            old is Phase.RELOADING and self.state.last is not None and self.state.last.outcome is ReloadOutcome.CHANGED
        )

    def _say_healed(self) -> None:
        c, incident = self.case, self.state.incident
        if incident:
            reconnected = sum(c.reaches(worker, c.finding.incarnations) for worker in c.ready)
            self.say(Event.HEALED, seconds=round(c.at - incident.since, 1), reconnected=reconnected)
        self.state = replace(self.state, incident=None)

    def _say_leftovers(self) -> None:
        c, incident = self.case, self.state.incident
        if incident is None or incident.leftovers_told or not c.finding.due:
            return
        self.state = replace(self.state, incident=replace(incident, leftovers_told=True))
        wait = None if c.finding.due_at is None else round(max(0.0, c.finding.due_at - c.at), 1)
        leftovers, workers = len(c.finding.leftovers), len(c.finding.due)
        self.say(Event.LEFTOVERS_FOUND, leftovers=leftovers, workers=workers, until_s=wait)

    def _say_due(self) -> None:
        c = self.case
        kinds = list(c.finding.verdicts.values())
        why = None
        if self.state.escalate:
            why = "the last reload did not help"
        elif not c.finding.due:
            why = f"{len(c.stuck)} workers of the last reload work without a connection to MongoDB"
        self.say(
            Event.RELOAD_DUE,
            c.command(),
            why=why,
            stranded=kinds.count(Verdict.STRANDED),
            idle=kinds.count(Verdict.IDLE),
            leftovers=len(c.finding.leftovers),
        )
