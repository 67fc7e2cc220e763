"""The tick: memory and everything that is known in; new memory, effects and the outlook of every instance out.

Each instance is decided by itself (instance.py). What concerns all of them stands here: a pause, whose memory is whose,
who is watched no more, and what cannot be seen. Pure: no I/O, no clock, no logging.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from watchdogd.config import Config, InstanceConfig, found_instance
from watchdogd.core.case import Case
from watchdogd.core.claims import claimed
from watchdogd.core.instance import Tick
from watchdogd.core.outlook import wake_times
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.decided import Answer, Blocked, Decision, Effect, Outlook
from watchdogd.model.found import Finding
from watchdogd.model.remembered import Ending, InstanceState, PastIncident, Pause, Phase, State
from watchdogd.model.seen import Area, Blindness, Instance, Request, Scope, Snapshot, Verb
from watchdogd.model.text import LONGEST, fault, shown
from watchdogd.model.told import Paused, Replaced, Resumed, SeeingAgain, StateBack, StateElsewhere, Tell, WentBlind


def decide(state: State, findings: Mapping[InstanceId, Finding], snapshot: Snapshot, config: Config) -> Decision:
    """Return the new memory, the effects in order, when to look again at the latest, and what the status shows.

    `findings` holds one Finding for each instance of the snapshot. An instance that is there no more is forgotten when
    no reload of it is in flight or counts against its budget. Each instance is decided by itself: where that fails it
    is blind, its memory stays as it was, and nothing is done to it.
    """
    first: list[Effect] = []
    effects: list[Effect] = []
    names = {id_: one.name for id_, one in state.instances.items()} | {one.id: one.name for one in snapshot.instances}
    began = {one.incident.id: one.incident.since for one in _every(state) if one.incident}
    state = claimed(_pause(state, snapshot, first), snapshot)
    state = _let_go(state, snapshot, config, first)
    outlooks: dict[InstanceId, Outlook] = {}
    faults: dict[InstanceId, str] = {}
    wakes: list[Mono] = [state.paused.until] if state.paused and state.paused.until is not None else []
    for instance in snapshot.instances:
        before = state.instances.get(instance.id, InstanceState())
        limits, finding = limits_of(instance, config), findings[instance.id]
        tick = Tick(Case(snapshot, config, limits, instance, finding, before, state), state.serial)
        outlook = _decide_one(tick, wakes)
        if isinstance(outlook, str):
            faults[instance.id] = outlook
            outlooks[instance.id] = Outlook(before.phase, blocked_by=(Blocked("blind", outlook),))
            effects += _refused(instance, snapshot, Blocked("blind", outlook))
            continue
        effects += tick.effects
        state = replace(state, instances={**state.instances, instance.id: tick.state}, serial=tick.serial)
        outlooks[instance.id] = outlook
    _refuse_unknown(snapshot, effects)
    state = _tell_blind(state, snapshot, faults, names, first)
    state = _tell_degraded(state, snapshot, first)
    state = replace(state, last_incident=_last_incident(began, state, (*first, *effects), snapshot))
    wake_at = min((time for time in wakes if time > snapshot.at), default=None)
    return Decision(state, (*first, *effects), wake_at, outlooks, faults)


def _every(state: State) -> list[InstanceState]:
    return [*state.instances.values(), *state.unclaimed.values()]


def _last_incident(
    began: Mapping[str, Mono], state: State, effects: Iterable[Effect], snapshot: Snapshot
) -> PastIncident | None:
    """Return the incident that has ended last. `began`: when those that were going on had, by their ids."""
    last = state.last_incident
    endings = {one.value: one for one in Ending}
    for one in effects:
        if isinstance(one, Tell) and one.incident and (ending := endings.get(one.event.value)):
            since = snapshot.wall - (snapshot.at - began.get(one.incident, snapshot.at))
            last = PastIncident(one.incident, one.instance or "", since, snapshot.wall, ending)
    return last


def _decide_one(tick: Tick, wakes: list[Mono]) -> Outlook | str:
    """Do one instance's tick and what operators ask of it; return what is wrong where a bug shows."""
    case = tick.case
    if case.finding.fault:
        return case.finding.fault
    try:
        outlook = tick.run()
        for request in case.snapshot.requests:
            if _asks_for(request, case.snapshot) == case.instance.id:
                outlook = tick.asked(request, outlook)
        wakes += wake_times(tick.case, outlook)
    except Exception as error:  # noqa: BLE001 - it must not leave the others undecided
        return fault(error)
    return outlook


def limits_of(instance: Instance, config: Config) -> InstanceConfig:
    """Return what the configuration says of an instance, or the defaults for one that was found."""
    for one in config.instances or ():
        if one.id == instance.id:
            return one
    return found_instance(config.path / instance.fifo, config)  # `/` takes an absolute path as it is


def _let_go(state: State, snapshot: Snapshot, config: Config, effects: list[Effect]) -> State:
    """End what goes on at the instances that are watched no more, and forget those of which nothing matters any more.

    While processes are hidden nobody can say that. A reload that is in flight, or counts, is kept without a phase to
    follow: its byte was sent whether it is watched or not, and the instance may come back.
    """
    here = {instance.id for instance in snapshot.instances}
    hidden = any(blind.scope.area is Area.PROCESSES for blind in snapshot.blind)
    since = snapshot.at - config.policy.budget.per_s
    reason = "it is not there any more" if config.instances is None else "it was taken out of the configuration"

    def at_work(one: InstanceState) -> bool:
        return one.reload is not None and one.reload.is_at_work(snapshot.at)

    def counts(one: InstanceState) -> bool:
        return any(spent.at > since for spent in one.spent)

    kept = {}
    for id_, one in state.instances.items():
        if id_ in here or hidden:
            kept[id_] = one
            continue
        if one.incident or (one.reload and one.phase is not Phase.WATCHING):
            incident = one.incident.id if one.incident else None
            effects.append(Tell(Replaced(reason), one.name or id_, incident=incident))
        if at_work(one) or counts(one):
            kept[id_] = replace(one, incident=None, phase=Phase.WATCHING)
    unclaimed = {name: one for name, one in state.unclaimed.items() if at_work(one) or counts(one)}
    return replace(state, instances=kept, unclaimed=unclaimed)


# ---- operators


def _refused(instance: Instance, snapshot: Snapshot, why: Blocked) -> list[Effect]:
    """Answer who asked for a reload of an instance that cannot be decided."""
    asked = [one for one in snapshot.requests if _asks_for(one, snapshot) == instance.id]
    return [Answer(one.id, ok=False, text="held by", blocked_by=(why,)) for one in asked]


def _asks_for(request: Request, snapshot: Snapshot) -> InstanceId | None:
    """Return whose reload is asked for: by the identity, or by what the status shows of it, where that is one alone."""
    if request.verb is not Verb.RELOAD:
        return None
    known = [one.id for one in snapshot.instances]
    meant = [one for one in known if one == request.instance] or [
        one for one in known if shown(one, LONGEST) == request.instance
    ]
    return meant[0] if len(meant) == 1 else None


def _refuse_unknown(snapshot: Snapshot, effects: list[Effect]) -> None:
    known = {instance.id for instance in snapshot.instances}
    fifos = ", ".join(sorted(known)) or "none"
    for request in snapshot.requests:
        if request.verb is Verb.RELOAD and _asks_for(request, snapshot) is None:
            text = f"no instance has the FIFO {request.instance}; there is: {fifos}"
            effects.append(Answer(request.id, ok=False, text=text, wrong_use=True))


def _pause(state: State, snapshot: Snapshot, effects: list[Effect]) -> State:
    if state.paused and state.paused.until is not None and state.paused.until <= snapshot.at:
        effects.append(Tell(Resumed("the end of the pause")))
        state = replace(state, paused=None)
    for request in snapshot.requests:
        if request.verb in {Verb.PAUSE, Verb.RESUME} and snapshot.unsaved:
            # What is only in our memory would be forgotten at the next start, and nobody would know.
            text = f"nothing was changed, for it cannot be saved: {snapshot.unsaved}"
            effects.append(Answer(request.id, ok=False, text=text))
        elif request.verb is Verb.PAUSE:
            state = _paused(state, request, snapshot.at, effects)
        elif request.verb is Verb.RESUME:
            if state.paused:
                effects.append(Tell(Resumed(request.who or "an operator")))
            text = "resumed" if state.paused else "was not paused"
            effects.append(Answer(request.id, ok=True, text=text, before=state.paused))
            state = replace(state, paused=None)
    return state


def _end(pause: Pause) -> Mono:
    return math.inf if pause.until is None else pause.until


def _paused(state: State, request: Request, at: Mono, effects: list[Effect]) -> State:
    """Pause, where nobody has paused for longer: who did counts on it, and is not there to hear of it."""
    before, pause = state.paused, Pause(request.until, request.reason, request.who)
    if before and _end(pause) < _end(before):
        text = "a longer pause stays, which `mongo-watchdog resume` ends: paused"
        effects.append(Answer(request.id, ok=True, text=text, pause=before))
        return state
    until_s = None if pause.until is None else round(pause.until - at, 1)
    effects.append(Tell(Paused(pause.reason, until_s, pause.by or "an operator")))
    effects.append(Answer(request.id, ok=True, text="paused", pause=pause, before=before))
    return replace(state, paused=pause)


def _tell_blind(
    state: State,
    snapshot: Snapshot,
    faults: Mapping[InstanceId, str],
    names: Mapping[InstanceId, str],
    effects: list[Effect],
) -> State:
    """Tell what cannot be seen any more, and what can again: each once, as long as it lasts."""
    of_instances = {one.id: one.blind[0] for one in snapshot.instances if one.blind} | dict(faults)
    own = {Blindness(Scope(Area.INSTANCE, id_), why) for id_, why in of_instances.items()}
    now = frozenset(snapshot.blind) | own
    before, scopes = {blind.scope for blind in state.blind}, {blind.scope for blind in now}
    whys = {blind.scope: blind.why for blind in sorted(now, key=lambda one: one.why, reverse=True)}

    def named(scope: Scope) -> str:
        name = names.get(InstanceId(scope.of)) if scope.area is Area.INSTANCE else None
        return str(scope._replace(of=name) if name else scope)

    effects += [Tell(WentBlind(named(scope), whys[scope])) for scope in sorted(scopes - before, key=str)]
    effects += [Tell(SeeingAgain(named(scope))) for scope in sorted(before - scopes, key=str)]
    return replace(state, blind=now)


def _tell_degraded(state: State, snapshot: Snapshot, effects: list[Effect]) -> State:
    """Tell that the state is not kept where it is to be, and that it is again: each once, also over restarts."""
    if snapshot.degraded and not state.degraded:
        effects.append(Tell(StateElsewhere(snapshot.degraded)))
    elif state.degraded and not snapshot.degraded and not snapshot.unsaved:
        effects.append(Tell(StateBack()))
    elif not snapshot.degraded:
        return state
    return replace(state, degraded=bool(snapshot.degraded))
