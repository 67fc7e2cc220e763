"""What every tick of a daemon in a World must keep, counted from what was written and told, and from the world's truth.

It must never look into the daemon's memory: whatever is wrong there would be wrong here too.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.world.apps import App, Process, Socket
from tests.world.pieces import by_leftovers, ripe_at
from tests.world.watch import Turn
from tests.world.world import World
from watchdogd.core.aim import LEAD_S, WITHIN_S
from watchdogd.core.gates import GATES
from watchdogd.model.base import RESTART, Mono, ProcessId
from watchdogd.model.decided import Answer
from watchdogd.model.done import SendFifo
from watchdogd.model.found import Finding
from watchdogd.model.seen import MemberState
from watchdogd.model.told import Event, StillOpen, Tell

GATE_NAMES = {name for name, _ in GATES}
ENDINGS_OF_A_RELOAD = {
    Event.HEALED,
    Event.RECOVERED,
    Event.RELOAD_FAILED,
    Event.RELOAD_UNSENT,
    Event.RELOAD_UNPROVEN,
    Event.OVERTAKEN,
    Event.REPLACED,
    Event.ENDED_BY_US,
}
ENDINGS_OF_AN_INCIDENT = {Event.HEALED, Event.RECOVERED, Event.GAVE_UP, Event.REPLACED, Event.ENDED_BY_US}
WAITS_FOR_ITS_USER = {"not_allowed", "no_restart"}
MARGIN_S = 5.0  # two looks, and what the daemon gives a request to show its connection


def tells(turn: Turn) -> list[Tell]:
    """What is told of a tick. A daemon that is killed before it says so has decided it all the same."""
    return [effect for effect in turn.decision.effects if isinstance(effect, Tell)]


@dataclass(eq=False)
class Spending:
    """Within any `per` no more reloads are written than the budget allows: unproven ones, and all.

    But an operator's `--now`, which counts for those after it. `now`: the ids of those.

    A byte that was lost is sent once more: two bytes, one reload, which counts as long as its last byte does.
    """

    world: World
    now: set[str] = field(default_factory=set)
    _proven: set[str] = field(default_factory=set)
    _decided: dict[str, str] = field(default_factory=dict)  # the last reload of each instance, by its name
    _counted: int = 0

    def check(self, turn: Turn) -> None:
        written = self.world.daemon.written
        budget = self.world.daemon.config.policy.budget
        asked = {one.id: one for one in turn.snapshot.requests}
        answers = [one for one in turn.decision.effects if isinstance(one, Answer) and one.reload]
        self.now |= {str(one.reload) for one in answers if asked[one.request].now}
        for now, effect in written[self._counted :]:
            if effect.id in self.now:
                continue
            ids = {one.id for at, one in written if one.instance == effect.instance and now - budget.per_s < at <= now}
            assert len(ids) <= budget.total, ids
            assert len(ids - self._proven) <= budget.unproven, ids - self._proven
        self._counted = len(written)
        self._proven |= {self._decided[str(tell.instance)] for tell in tells(turn) if tell.event is Event.RECOVERED}
        names = {app.id: app.name for app in self.world.apps}
        sent = [effect for effect in turn.decision.effects if isinstance(effect, SendFifo)]
        self._decided |= {names[effect.instance]: effect.id for effect in sent}


@dataclass(eq=False)
class Aiming:
    """Every `w` and `c` to a master with a client inside has its moment, or was asked for 2 s before its byte."""

    world: World
    aimed: int = 0

    def check(self, turn: Turn) -> None:
        clients = {app.id for app in self.world.apps if app.traits.monitored}
        for effect in turn.decision.effects:
            if not isinstance(effect, SendFifo) or effect.command is RESTART or effect.instance not in clients:
                continue
            reload = turn.decision.state.instances[effect.instance].reload
            assert reload is not None
            if effect.moment is None:
                assert turn.snapshot.at >= reload.asked_at + WITHIN_S
            else:
                self.aimed += 1
                assert turn.snapshot.at <= effect.moment.not_before < effect.moment.not_after
                assert effect.moment.not_before - turn.snapshot.at <= LEAD_S


@dataclass(eq=False)
class Endings:
    """Every incident that was told of, and every reload whose byte was written, ends with a told ending.

    `open` is what has none yet: each incident with the last that was told of it, each reload by its id.
    """

    world: World
    incidents: dict[str, Tell] = field(default_factory=dict)
    again: dict[str, int] = field(default_factory=dict)  # how often it was told of one that it is still open
    reloads: dict[str, str] = field(default_factory=dict)  # by the name of the instance
    _counted: int = 0

    def check(self, turn: Turn) -> None:
        names = {app.id: app.name for app in self.world.apps}
        for _, effect in self.world.daemon.written[self._counted :]:
            self.reloads[names[effect.instance]] = effect.id
        self._counted = len(self.world.daemon.written)
        for tell in tells(turn):
            if tell.event in ENDINGS_OF_A_RELOAD:
                self.reloads.pop(str(tell.instance), None)
            if tell.incident and tell.event in ENDINGS_OF_AN_INCIDENT:
                self.incidents.pop(tell.incident, None)
            elif tell.incident and isinstance(tell.what, StillOpen):
                number = self.again[tell.incident] = self.again.get(tell.incident, 0) + 1
                assert tell.what.seconds >= (600, 3600, 86400)[number - 1]
            elif tell.incident:
                self.incidents[tell.incident] = tell

    @property
    def open(self) -> list[str]:
        """What has had no ending. What waits for its user, who was told what to allow, goes on.

        So does what nobody can see to be stuck: it is told to be unproven, and never to be well.
        """
        waits = [
            id_
            for id_, tell in self.incidents.items()
            if not WAITS_FOR_ITS_USER & {*str(tell.fields.get("blocked_by")).split(",")} and not self._is_stuck(tell)
        ]
        return [*waits, *self.reloads.values()]

    def _is_stuck(self, tell: Tell) -> bool:
        """Whether that is true of an app that was told to be unproven."""
        workers = [worker for app in self.world.apps if app.name == tell.instance for worker in app.ready]
        return tell.event is Event.UNPROVEN and any(worker.stranded for worker in workers)


@dataclass(eq=False)
class _Peace:
    """Since when nothing was done to an app, its MongoDB and its daemon, and who has worked in vain since."""

    was: object
    since: Mono
    in_vain: dict[ProcessId, Mono] = field(default_factory=dict)


@dataclass(eq=False)
class WhoIsDue:
    """Who is due, as far as that is simple. In between there is much that this does not judge.

    Never: a worker that loads, that holds nothing which has ended, or that is connected. Always: one that has answered
    requests in vain for longer than linger, while MongoDB served and nothing else happened, and that holds what a
    restart of MongoDB ended.
    """

    world: World
    judged: int = 0  # how often somebody had to be due
    _peace: dict[str, _Peace] = field(default_factory=dict)

    def check(self, turn: Turn) -> None:
        watch, at = self.world.daemon.watch, turn.snapshot.at
        for app in self.world.apps:
            finding = turn.findings.get(app.id)
            blind = bool(watch.blind) or finding is None or app.name in watch.unnamed
            members = [(one.state, one.primary, one.life, one.served_from) for one in self.world.mongods]
            was = (watch, blind, app.master, members)
            peace = self._peace.get(app.name)
            if peace is None or peace.was != was:
                peace = self._peace[app.name] = _Peace(was, at)
            if finding and not blind:
                self._judge(app, peace, finding, at)

    def _judge(self, app: App, peace: _Peace, finding: Finding, at: Mono) -> None:
        for worker in app.workers:
            held = app.held(worker)
            ended = [socket for socket in held if socket.closed_at is not None]
            if worker.ready_at > at or not ended or any(_connects(socket, worker) for socket in held):
                assert worker.id not in by_leftovers(finding)
            elif app.server and worker.stranded and all(_ended_by_a_restart(socket) for socket in ended):
                begun = max(peace.since, worker.ready_at) + MARGIN_S
                if worker.worked_at is not None and worker.worked_at > begun:
                    peace.in_vain.setdefault(worker.id, at)
                first = peace.in_vain.get(worker.id, at)
                if at - first > self.world.daemon.config.policy.linger_s + MARGIN_S:
                    self.judged += 1
                    assert worker.id in by_leftovers(finding)
                    assert (ripe := ripe_at(finding)) is not None
                    assert ripe <= at


def _connects(socket: Socket, worker: Process) -> bool:
    fresh = socket.closed_at is None and socket.last_data >= socket.to.served_from
    return fresh and socket.to.is_serving and socket.holders == {worker.id}


def _ended_by_a_restart(socket: Socket) -> bool:
    """Held by several: who has one alone that it has not closed has not used MongoDB."""
    up = socket.to.state is MemberState.UP
    return up and socket.last_data <= socket.to.born and len(socket.holders) > 1


def shut_gates(turn: Turn) -> set[str]:
    """The gates that are shown, told or answered to be shut in this tick."""
    shown = {one.gate for outlook in turn.decision.outlooks.values() for one in outlook.blocked_by}
    told = {gate for tell in tells(turn) for gate in str(tell.fields.get("blocked_by") or "").split(",")} - {""}
    answers = [one for one in turn.decision.effects if isinstance(one, Answer)]
    answered = {one.gate for answer in answers for one in answer.blocked_by}
    return GATE_NAMES & (shown | told | answered)
