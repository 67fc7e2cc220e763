"""The tick: memory and everything that is known in; new memory, effects and the outlook of every instance out.

Pure like policy.py, whose essay explains it: no I/O, no clock, no logging.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from watchdogd.config import Config, InstanceConfig, found_instance
from watchdogd.core import reloads
from watchdogd.core.claims import claimed
from watchdogd.core.policy import FORK_UNSAFE_FOR_S, USED_UNPROVEN_S, Case, blocked_by, phase_of
from watchdogd.core.step import Step
from watchdogd.model.base import BEFORE_US, RESTART, Command, Incarnation, InstanceId, Mono
from watchdogd.model.decided import Answer, Blocked, Decision, Effect, Outlook
from watchdogd.model.found import Finding
from watchdogd.model.remembered import InstanceState, Pause, Phase, ReloadOutcome, State
from watchdogd.model.seen import Blind, Instance, Request, Snapshot, Verb
from watchdogd.model.text import LONGEST, fault, shown
from watchdogd.model.told import Event, Tell

_INSTANCE = "instance "
STARTED_ANEW = "uWSGI was started anew by somebody else"


def decide(state: State, findings: Mapping[InstanceId, Finding], snapshot: Snapshot, config: Config) -> Decision:
    """Return the new memory, the effects in order, when to look again at the latest, and what the status shows.

    `findings` holds one Finding for each instance of the snapshot. An instance that is there no more is forgotten when
    no reload of it is in flight or counts against its budget. Each instance is decided by itself: where that fails it
    is blind, its memory stays as it was, and nothing is done to it.
    """
    first: list[Effect] = []
    effects: list[Effect] = []
    state = claimed(_pause(state, snapshot, first), snapshot)
    state = _kept(_let_go(state, snapshot, config, first), snapshot, config)
    outlooks: dict[InstanceId, Outlook] = {}
    faults: dict[InstanceId, str] = {}
    wakes: list[Mono] = [state.paused.until] if state.paused and state.paused.until is not None else []
    for instance in snapshot.instances:
        before = state.instances.get(instance.id, InstanceState())
        limits, finding = limits_of(instance, config), findings[instance.id]
        step = Step(Case(snapshot, config, limits, instance, finding, before, state), state.serial)
        outlook = _decide_one(step, wakes)
        if isinstance(outlook, str):
            faults[instance.id] = outlook
            outlooks[instance.id] = Outlook(before.phase, blocked_by=(Blocked("blind", outlook),))
            effects += _refused(instance, snapshot, f"blind: {outlook}")
            continue
        effects += step.effects
        state = replace(state, instances={**state.instances, instance.id: step.state}, serial=step.serial)
        outlooks[instance.id] = outlook
    _refuse_unknown(snapshot, effects)
    state = _tell_blind(state, snapshot, faults, first)
    wake_at = min((time for time in wakes if time > snapshot.at), default=None)
    return Decision(state, (*first, *effects), wake_at, outlooks, faults)


def _decide_one(step: Step, wakes: list[Mono]) -> Outlook | str:
    """Do one instance's tick and what operators ask of it; return what is wrong where a bug shows."""
    case = step.case
    if case.finding.fault:
        return case.finding.fault
    try:
        outlook = _tick(step)
        for request in case.snapshot.requests:
            if _asks_for(request, case.snapshot) == case.instance.id:
                outlook = _operators_reload(step, request, outlook)
        wakes += _wake_times(step.case, outlook)
    except Exception as error:  # noqa: BLE001 - it must not leave the others undecided
        return fault(error)
    return outlook


def limits_of(instance: Instance, config: Config) -> InstanceConfig:
    """Return what the configuration says of an instance, or the defaults for one that was found."""
    for one in config.instances or ():
        if one.id == instance.id:
            return one
    return found_instance(config.path / instance.fifo, config)  # `/` takes an absolute path as it is


def _kept(state: State, snapshot: Snapshot, config: Config) -> State:
    """Forget the instances that are there no more, and of which nothing matters any more."""
    here = {instance.id for instance in snapshot.instances}
    since = snapshot.at - config.policy.budget.per_s

    def matters(one: InstanceState) -> bool:
        reload = one.reload
        in_flight = reload is not None and reload.complete_at is None and reload.deadline > snapshot.at
        return in_flight or any(spent.at > since for spent in one.spent)

    return replace(
        state,
        instances={id_: one for id_, one in state.instances.items() if id_ in here or one.incident or matters(one)},
        unclaimed={name: one for name, one in state.unclaimed.items() if matters(one)},
    )


def _let_go(state: State, snapshot: Snapshot, config: Config, effects: list[Effect]) -> State:
    """End the incidents of the instances that are watched no more. While processes are hidden nobody can say that."""
    here = {instance.id for instance in snapshot.instances}
    gone = {id_: one.incident for id_, one in state.instances.items() if id_ not in here and one.incident}
    if not gone or any(blind.scope == "processes" for blind in snapshot.blind):
        return state
    reason = "it is not there any more" if config.instances is None else "it was taken out of the configuration"
    for incident in gone.values():
        name = incident.id.rpartition("-")[0]  # as it was told of until now
        effects.append(Tell(Event.REPLACED, name, incident=incident.id, fields={"reason": reason}))
    ended = {id_: replace(state.instances[id_], incident=None) for id_ in gone}
    return replace(state, instances={**state.instances, **ended})


# ---- one instance


def _tick(step: Step) -> Outlook:
    """Do the whole tick: what became of the reload, the phase, the gates; return what the status shows."""
    followed = step.state.reload is not None
    _carry_over(step)
    _forget_another_master(step)
    _reconsider(step)  # before a reload may give up anew: that holds for this tick at least
    reloads.follow(step)
    if followed or not step.case.instance.blind:  # nobody can tell where it stands then: neither absent nor healed
        step.enter(phase_of(step.case))
    command, blocked = step.case.command(), tuple[Blocked, ...]()
    if step.state.phase is not Phase.DUE:
        step.state = replace(step.state, held=())
        blocked = _foreseen(step.case)
    elif _hopeless(step.case):
        reloads.give_up(step, _fork_sentence(step.case))
        step.enter(Phase.GAVE_UP)
    else:
        blocked = blocked_by(step.case, command)
        _hold(step, command, blocked)
        if not blocked:
            reloads.begin(step, command)
            step.enter(Phase.RELOADING)
    return _outlook(step.case, command, blocked)


def _carry_over(step: Step) -> None:
    """Take the lives that began before this daemon for those that an earlier one remembers under another name.

    Only of servers without a process id. Was one restarted meanwhile, the proof shows it, which is made of what is seen
    now.
    """
    unnamed = {one.removesuffix(BEFORE_US): one for one in step.case.finding.incarnations if one.endswith(BEFORE_US)}
    if not unnamed:
        return

    def renamed(names: frozenset[Incarnation]) -> frozenset[Incarnation]:
        return frozenset(unnamed.get(one.rpartition("@")[0], one) for one in names)

    state = step.state
    reload = state.reload and replace(state.reload, incarnations=renamed(state.reload.incarnations))
    step.state = replace(state, reload=reload, tried=renamed(state.tried), restarted=renamed(state.restarted))


def _forget_another_master(step: Step) -> None:
    """Forget what is known of a master that is gone: whoever replaced it took it over. A reload has its own end."""
    state, master = step.state, step.case.instance.master
    if state.reload:
        return
    if master and state.incident and state.incident.master not in {None, master}:
        step.replaced(STARTED_ANEW)
    if state.master is None or state.master == master:
        return
    left_open = state.escalate or state.doubt or state.gave_up_at is not None
    if left_open and master:
        step.replaced(STARTED_ANEW)
    step.state = replace(step.state, master=None, escalate=False, doubt=False, gave_up_at=None)


def _reconsider(step: Step) -> None:
    """End a doubt, an escalation or a giving up when the app was seen to be well, or there is a new chance."""
    c, state = step.case, step.state
    if state.reload:
        return
    if c.well:
        step.state = replace(
            state, escalate=False, doubt=False, gave_up_at=None, tried=frozenset(), restarted=frozenset()
        )
    elif state.gave_up_at is None or not c.finding.serves:
        return
    elif not c.finding.incarnations <= state.tried:
        step.state = replace(state, gave_up_at=None)
    elif c.due and c.at >= state.gave_up_at + c.config.policy.half_open_after_s:
        step.state = replace(state, gave_up_at=None, tried=frozenset(), restarted=frozenset())


def _foreseen(c: Case) -> tuple[Blocked, ...]:
    """Return what would hold a reload if one were due, and does not pass by itself: somebody can mend it beforehand."""
    waits = c.state.phase in {Phase.WATCHING, Phase.OUTAGE, Phase.SETTLING}
    return (Blocked("fifo", c.instance.fifo_problem),) if waits and c.instance.fifo_problem else ()


def _hopeless(c: Case) -> bool:
    if not c.fork_never_safe or c.finding.inherited or c.state.escalate:
        return False
    return RESTART not in c.limits.reloads or c.finding.incarnations <= c.state.restarted


def _fork_sentence(c: Case) -> str:
    return (
        f"{c.finding.fork_unsafe} for {FORK_UNSAFE_FOR_S:.0f} s, so every worker it forks would be stuck too; "
        "add `restart` to `reloads`, or give uWSGI `enable-threads` and `lazy-apps`"
    )


def _hold(step: Step, command: Command, blocked: tuple[Blocked, ...]) -> None:
    state, names = step.state, tuple([one.gate for one in blocked])
    # The second after a reload that was dropped is not worth a line.
    moment = names == ("cooldown",) and state.last is not None and state.last.outcome is ReloadOutcome.CHANGED
    if names and names != state.held and not moment:
        until = blocked[0].until
        until_s = None if until is None else round(max(0.0, until - step.case.at), 1)
        step.tell(Event.RELOAD_HELD, command, ",".join(names), reason=blocked[0].reason, until_s=until_s)
    step.state = replace(state, held=names)


# ---- what is shown


def _outlook(c: Case, command: Command, blocked: tuple[Blocked, ...]) -> Outlook:
    budget = c.config.policy.budget
    unproven = sum(1 for one in c.spent if not one.proven)
    left = max(0, min(budget.unproven - unproven, budget.total - len(c.spent)))
    what, at = _next(c, command, blocked)
    return Outlook(c.state.phase, what, at if at is not None and at > c.at else None, blocked, left)


def _next(c: Case, command: Command, blocked: tuple[Blocked, ...]) -> tuple[str, Mono | None]:
    """Return what is waited for, and until when."""
    state, at = c.state, None
    match state.phase:
        case Phase.RELOADING:
            what = "the old workers to be gone and the new ones ready"
            at = state.reload.deadline if state.reload else None
        case Phase.VERIFYING:
            what = "a request to prove that it helped"
        case Phase.GAVE_UP:
            what = f"one more try; {state.gave_up_why}"
            at = None if state.gave_up_at is None else state.gave_up_at + c.config.policy.half_open_after_s
        case Phase.ABSENT:
            what = "uWSGI to be started"
        case Phase.OUTAGE:
            what = "MongoDB to serve again"
        case Phase.SETTLING if c.state.doubt and not c.due:
            what = "a request to show whether the last reload helped"
        case Phase.SETTLING:
            what = c.finding.waiting_for or "linger to be over"
            at = max((time for time in (c.finding.due_at, c.settled_at) if time is not None), default=None)
        case Phase.DUE:
            what = f"reload {command.value}"
            at = max((one.until for one in blocked if one.until is not None), default=None)
        case _:
            what = c.finding.waiting_for
    return what, at


def _wake_times(c: Case, outlook: Outlook) -> Iterator[Mono]:
    """Yield the instants at which something may change without anything being seen to change."""
    finding, reload = c.finding, c.state.reload
    times = [finding.due_at, finding.fork_safe_at, c.settled_at, outlook.next_at, c.state.retry_at]
    times += [blocked.until for blocked in outlook.blocked_by]
    if reload and reload.complete_at is None:
        times += [reload.try_at, reload.deadline, reload.progress_at + reloads.CHEAPER_SETTLED_S]
    if finding.fork_unsafe_since is not None:
        times.append(finding.fork_unsafe_since + FORK_UNSAFE_FOR_S)
    if reload or c.state.doubt:
        times += [worker.used.hi + USED_UNPROVEN_S for worker in c.ready if worker.used]
    return (time for time in times if time is not None)


# ---- operators


def _operators_reload(step: Step, request: Request, outlook: Outlook) -> Outlook:
    case = step.case
    command = case.command()
    blocked = blocked_by(case, command)
    reload = None
    if case.instance.master is None:
        answer = Answer(request.id, ok=False, text="absent: nobody has its FIFO open")
    elif blocked:
        text = "; ".join(f"{one.gate}: {one.reason}" for one in blocked)
        answer = Answer(request.id, ok=False, text=f"held by {text}")
    else:
        reload = reloads.begin(step, command, operator=request.id)
        answer = Answer(request.id, ok=True, text="reload begun", reload=reload.id if reload else None)
    step.effects.append(answer)
    if reload is None:
        return outlook
    step.enter(Phase.RELOADING)
    return _outlook(step.case, command, ())


def _refused(instance: Instance, snapshot: Snapshot, why: str) -> list[Effect]:
    """Answer who asked for a reload of an instance that cannot be decided."""
    asked = [one for one in snapshot.requests if _asks_for(one, snapshot) == instance.id]
    return [Answer(one.id, ok=False, text=f"held by {why}") for one in asked]


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
            effects.append(Answer(request.id, ok=False, text=text))


def _pause(state: State, snapshot: Snapshot, effects: list[Effect]) -> State:
    if state.paused and state.paused.until is not None and state.paused.until <= snapshot.at:
        effects.append(Tell(Event.RESUMED, fields={"by": "the end of the pause"}))
        state = replace(state, paused=None)
    for request in snapshot.requests:
        if request.verb is Verb.PAUSE:
            until_s = None if request.until is None else round(request.until - snapshot.at, 1)
            fields = {"reason": request.reason, "until_s": until_s, "by": "an operator"}
            effects.append(Tell(Event.PAUSED, fields=fields))
            then = "until `mongo-watchdog resume`" if until_s is None else "until then"
            effects.append(Answer(request.id, ok=True, text=f"paused: no reloads {then}"))
            state = replace(state, paused=Pause(request.until, request.reason))
        elif request.verb is Verb.RESUME:
            if state.paused:
                effects.append(Tell(Event.RESUMED, fields={"by": "an operator"}))
            effects.append(Answer(request.id, ok=True, text="resumed" if state.paused else "was not paused"))
            state = replace(state, paused=None)
    return state


def _tell_blind(state: State, snapshot: Snapshot, faults: Mapping[InstanceId, str], effects: list[Effect]) -> State:
    """Tell what cannot be seen any more, and what can again: each once, as long as it lasts."""
    of_instances = {one.id: one.blind[0] for one in snapshot.instances if one.blind} | dict(faults)
    now = frozenset(snapshot.blind) | {Blind(_INSTANCE + id_, why) for id_, why in of_instances.items()}
    names = {_INSTANCE + one.id: f"{_INSTANCE}{one.name}" for one in snapshot.instances}
    before, scopes = {blind.scope for blind in state.blind}, {blind.scope for blind in now}
    whys = {blind.scope: blind.why for blind in sorted(now, key=lambda one: (one.scope, one.why), reverse=True)}
    effects += [
        Tell(Event.BLIND, fields={"scope": names.get(scope, scope), "reason": whys[scope]})
        for scope in sorted(scopes - before)
    ]
    effects += [
        Tell(Event.SEEING_AGAIN, fields={"scope": names.get(scope, scope)}) for scope in sorted(before - scopes)
    ]
    return replace(state, blind=now)
