"""Whether, when and how to reload: the three tables that `decide` walks.

Theory of operation
-------------------
`decide` is called once a tick with everything that is known (a Snapshot and what detect found in it) and with its own
memory (State). It gives back the new memory, which is saved first, then effects, which are performed in order. Nothing
else returns: what became of an effect is in a later Snapshot, as an Outcome. So a daemon that was killed at any point
goes on from what was saved, and three rules hold over every restart:

1. The intent is saved before the byte is written. A reload found in the memory is verified, never sent again. One
   exception, seen by evidence: at its deadline *every* old worker is still there, so the byte was lost (measured: 4 of
   1 144 writes, where two writers met); then it is sent once more.
2. An effect names the world that it was decided on (master, workers). act compares right before the write and never
   judges.
3. What was not seen is not claimed: `reloaded` says that the processes are new; `recovered` that every worker that was
   used since has a connection of its own. Where a reload of ours ended without that proof, the memory keeps the doubt.

PHASES says where an instance stands: the first rule that matches. MOVES says which moves exist and what may be told on
each; any other move is a bug and raises. GATES says what may hold a reload that is due. Blind is not a phase: it keeps
the phase and is a gate. Everything that asks whether to reload, and with which command, stands in this file; step.py
makes the moves, reloads.py follows a reload from the byte to its proof, decide.py is the tick. The diagram in
docs/design.md is drawn from MOVES by `python -m watchdogd.core.policy`.

It must never do I/O, read a clock or log.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from watchdogd.config import Config, InstanceConfig, Mode
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command, Incarnation, Mono
from watchdogd.model.decided import Blocked
from watchdogd.model.found import Finding
from watchdogd.model.remembered import InstanceState, Phase, Spent, State
from watchdogd.model.seen import Instance, Snapshot, Worker
from watchdogd.model.told import Event

FORK_UNSAFE_FOR_S = 120.0  # the master's monitor runs at least every 10 s; after 120 s it does not run at all
USED_UNPROVEN_S = 15.0  # one heartbeat (10 s) and a margin: a healthy driver has connected by then
ELSEWHERE = ("deployment ", "instance ", "member ", "sink ")  # scopes of a blindness that is not everybody's


@dataclass(frozen=True, slots=True)
class Case:
    """One instance at one instant: all that a rule, a gate or a step may look at."""

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

        1 to 3 of 100 forks of a master with a MongoDB client hang on Python's lock, and nothing ends such a worker.
        """
        loading = [str(worker.id.pid) for worker in self.instance.workers if not worker.ready]
        if not loading:
            return "" if self.ready else "there is no worker"
        hint = f"one that hangs since its fork ends by `kill -9 {' '.join(loading)}`, and uWSGI makes it anew"
        return f"{len(loading)} of {len(self.instance.workers)} workers are loading the app; {hint}"

    @property
    def blind(self) -> str | None:
        """What cannot be seen of this instance, or of a deployment of it; None when everything can."""
        own = {f"deployment {name}" for name in self.instance.deployments}
        whys = [b.why for b in self.snapshot.blind if b.scope in own or not b.scope.startswith(ELSEWHERE)]
        return next(iter((*whys, *self.instance.blind)), None)

    @property
    def settled_at(self) -> Mono | None:
        """When MongoDB has served for longer than linger; None while it does not serve."""
        since = self.finding.served_since
        return None if since is None else since + self.config.policy.linger_s

    @property
    def fork_never_safe(self) -> bool:
        """Whether the master's monitor evidently does not run: waiting longer mends nothing."""
        since = self.finding.fork_unsafe_since
        return since is not None and self.at - since >= FORK_UNSAFE_FOR_S

    def reaches(self, worker: Worker, incarnations: frozenset[Incarnation]) -> bool:
        """Say whether a worker has had an own connection to every deployment that these incarnations belong to."""
        groups = [group for group in self.finding.served.values() if group & incarnations]
        return bool(groups) and all(worker.reconnected & group for group in groups)

    @property
    def stuck(self) -> list[Worker]:
        """The workers that have worked for 15 s without a connection to any deployment, leftovers or not."""
        return [
            worker
            for worker in self.ready
            if worker.used
            and self.at - worker.used.hi >= USED_UNPROVEN_S
            and not worker.reconnected & self.finding.incarnations
        ]

    @property
    def well(self) -> bool:
        """Whether it was seen that the app is healthy: all serves, and who works has connections."""
        every = self.finding.incarnations
        used = [worker for worker in self.ready if worker.used or worker.reconnected & every]
        seen = self.finding.serves and not self.finding.due and not self.not_ready and self.blind is None
        return seen and bool(used) and all(self.reaches(worker, every) for worker in used)

    @property
    def due(self) -> bool:
        """Whether there is evidence that a reload is for, ripe or not."""
        return self.finding.due_at is not None or (self.state.doubt and self.finding.serves and bool(self.stuck))

    @property
    def spent(self) -> tuple[Spent, ...]:
        """The reloads that count against the budget now."""
        return tuple([one for one in self.state.spent if one.at + self.config.policy.budget.per_s > self.at])

    def command(self) -> Command:
        """Choose what to send, from the evidence; whether it is allowed is a gate."""
        if self.state.escalate or self.finding.inherited or self.fork_never_safe:
            return RESTART
        # `c` keeps a worker serving all the time, which is worth something only where one is fine.
        ready = {worker.id for worker in self.ready}
        due = self.finding.due | ({worker.id for worker in self.stuck} if self.state.doubt else set())
        wanted = (WORKERS, CHAIN, RESTART) if ready <= due or len(ready) == 1 else (CHAIN, WORKERS, RESTART)
        return next((command for command in wanted if command in self.limits.reloads), wanted[0])


# ---- PHASES


def _is_outage(c: Case) -> bool:
    return c.finding.outage or (c.state.incident is not None and not c.finding.serves)


def _is_settling(c: Case) -> bool:
    open_ = c.state.incident is not None or c.state.doubt
    if (c.finding.due_at is not None and c.finding.due_at > c.at) or (
        open_ and c.settled_at is not None and c.settled_at > c.at
    ):
        return True
    return c.state.doubt and not c.due and not c.state.escalate


PHASES: tuple[tuple[Phase, Callable[[Case], bool]], ...] = (
    (Phase.RELOADING, lambda c: c.state.reload is not None and c.state.reload.complete_at is None),
    (Phase.VERIFYING, lambda c: c.state.reload is not None),
    (Phase.GAVE_UP, lambda c: c.state.gave_up_at is not None),
    (Phase.ABSENT, lambda c: c.instance.master is None),
    (Phase.OUTAGE, _is_outage),
    (Phase.SETTLING, _is_settling),
    (Phase.DUE, lambda c: c.due or c.state.escalate),
    (Phase.WATCHING, lambda _: True),
)


QUIET = frozenset({Phase.WATCHING, Phase.ABSENT})
"""Phases in which there is nothing to follow: a quiet look will do."""


def phase_of(case: Case) -> Phase:
    """Return the first phase whose rule matches; the last one always does."""
    return next(phase for phase, holds in PHASES if holds(case))


# ---- MOVES

_SILENT: frozenset[Event] = frozenset()


def _told(*events: Event) -> frozenset[Event]:
    return frozenset(events)


_FOUND = _told(Event.LEFTOVERS_FOUND)
_HEALED = _told(Event.HEALED)
_DUE = _told(Event.LEFTOVERS_FOUND, Event.RELOAD_DUE)
_ABSENT = _told(Event.INSTANCE_ABSENT)
_ENDED = _told(Event.RELOAD_FAILED, Event.OVERTAKEN)
_STUCK = _told(Event.RELOAD_FAILED, Event.GAVE_UP)
_BACK = _told(Event.INSTANCE_BACK)

MOVES: Mapping[tuple[Phase, Phase], frozenset[Event]] = {
    (Phase.WATCHING, Phase.OUTAGE): _SILENT,  # member_down has said it
    (Phase.WATCHING, Phase.SETTLING): _FOUND,
    (Phase.WATCHING, Phase.DUE): _DUE,  # an idle worker was used long after linger
    (Phase.WATCHING, Phase.ABSENT): _ABSENT,
    (Phase.WATCHING, Phase.RELOADING): _SILENT,  # an operator's; reload_sent follows the outcome
    (Phase.OUTAGE, Phase.SETTLING): _FOUND,
    (Phase.OUTAGE, Phase.DUE): _DUE,
    (Phase.OUTAGE, Phase.WATCHING): _HEALED,
    (Phase.OUTAGE, Phase.ABSENT): _ABSENT,
    (Phase.SETTLING, Phase.OUTAGE): _SILENT,
    (Phase.SETTLING, Phase.DUE): _DUE,
    (Phase.SETTLING, Phase.WATCHING): _HEALED,
    (Phase.SETTLING, Phase.ABSENT): _ABSENT,
    (Phase.SETTLING, Phase.RELOADING): _SILENT,
    (Phase.DUE, Phase.RELOADING): _SILENT,
    (Phase.DUE, Phase.OUTAGE): _SILENT,
    (Phase.DUE, Phase.SETTLING): _FOUND,
    (Phase.DUE, Phase.WATCHING): _HEALED,
    (Phase.DUE, Phase.ABSENT): _ABSENT,
    (Phase.DUE, Phase.GAVE_UP): _told(Event.GAVE_UP),  # the master's monitor does not run, and `restart` is not allowed
    (Phase.RELOADING, Phase.VERIFYING): _told(Event.RELOADED),
    (Phase.RELOADING, Phase.GAVE_UP): _STUCK,
    (Phase.RELOADING, Phase.OUTAGE): _ENDED,
    (Phase.RELOADING, Phase.SETTLING): _ENDED | _FOUND,
    (Phase.RELOADING, Phase.DUE): _ENDED | _DUE,
    (Phase.RELOADING, Phase.WATCHING): _HEALED | {Event.RELOAD_FAILED},
    (Phase.RELOADING, Phase.ABSENT): _ABSENT | {Event.RELOAD_FAILED},
    (Phase.VERIFYING, Phase.WATCHING): _told(Event.RECOVERED),
    (Phase.VERIFYING, Phase.GAVE_UP): _STUCK,
    (Phase.VERIFYING, Phase.OUTAGE): _told(Event.OVERTAKEN),
    (Phase.VERIFYING, Phase.SETTLING): _ENDED | _FOUND | {Event.RECOVERED},
    (Phase.VERIFYING, Phase.DUE): _ENDED | _DUE | {Event.RECOVERED},
    (Phase.VERIFYING, Phase.ABSENT): _ABSENT,
    (Phase.VERIFYING, Phase.RELOADING): _SILENT,
    (Phase.GAVE_UP, Phase.WATCHING): _HEALED,
    (Phase.GAVE_UP, Phase.OUTAGE): _SILENT,
    (Phase.GAVE_UP, Phase.SETTLING): _FOUND,
    (Phase.GAVE_UP, Phase.DUE): _DUE,
    (Phase.GAVE_UP, Phase.ABSENT): _ABSENT,
    (Phase.GAVE_UP, Phase.RELOADING): _SILENT,
    (Phase.ABSENT, Phase.WATCHING): _BACK,
    (Phase.ABSENT, Phase.OUTAGE): _BACK,
    (Phase.ABSENT, Phase.SETTLING): _BACK | _FOUND,
    (Phase.ABSENT, Phase.DUE): _BACK | _DUE,
}


class IllegalMoveError(AssertionError):
    """A move that MOVES does not know, or an event that it does not allow there: a bug in this module."""


# ---- GATES


def _mode(c: Case, _: Command) -> Blocked | None:
    return Blocked("mode", "mode is observe: nothing is ever sent") if c.config.mode is Mode.OBSERVE else None


def _paused(c: Case, _: Command) -> Blocked | None:
    pause = c.whole.paused
    if pause is None:
        return None
    return Blocked("paused", f"paused by an operator: {pause.reason or 'no reason given'}", pause.until)


def _blind(c: Case, _: Command) -> Blocked | None:
    return None if c.blind is None else Blocked("blind", c.blind)


def _no_deployment(c: Case, _: Command) -> Blocked | None:
    if c.instance.deployments:
        return None
    return Blocked("no_deployment", f"name the deployment of {c.instance.name} under `uwsgi:`: it is only shown")


def _fifo(c: Case, _: Command) -> Blocked | None:
    return Blocked("fifo", c.instance.fifo_problem) if c.instance.fifo_problem else None


def _not_serving(c: Case, _: Command) -> Blocked | None:
    return None if c.finding.serves else Blocked("not_serving", "MongoDB does not serve")


def _linger(c: Case, _: Command) -> Blocked | None:
    settled = c.settled_at
    if settled is None or settled <= c.at:
        return None
    return Blocked("linger", "MongoDB has only just come back", settled)


def _not_ready(c: Case, _: Command) -> Blocked | None:
    # `w` at a worker that still loads its app kills uWSGI's http router and, after mercy, healthy workers.
    return Blocked("not_ready", c.not_ready) if c.not_ready else None


def _fork_unsafe(c: Case, command: Command) -> Blocked | None:
    if c.finding.fork_unsafe is None or command == RESTART:  # `r` executes uWSGI anew: nothing is handed on
        return None
    return Blocked("fork_unsafe", f"a fork is not safe: {c.finding.fork_unsafe}", c.finding.fork_safe_at)


def _not_allowed(c: Case, command: Command) -> Blocked | None:
    if command in c.limits.reloads:
        return None
    if c.finding.inherited:
        why = "the master itself holds the old connection, and only a restart of the stack ends it"
    elif c.fork_never_safe:
        why = "the master's MongoDB client does not run, so no fork of it can connect; only a restart helps"
    else:
        why = "a reload of the workers did not help"
    return Blocked("not_allowed", f"{why}; add `{command.word}` to `reloads` of {c.instance.name} to allow it")


def _in_flight(c: Case, _: Command) -> Blocked | None:
    reload = c.state.reload
    if reload is None or reload.complete_at is not None:
        return None
    return Blocked("in_flight", "a reload is in flight", reload.deadline)


def _cooldown(c: Case, _: Command) -> Blocked | None:
    retry = c.state.retry_at
    if retry is None or retry <= c.at:
        return None
    return Blocked("cooldown", "the last reload is too young", retry)


def _budget(c: Case, _: Command) -> Blocked | None:
    budget = c.config.policy.budget
    unproven = [one for one in c.spent if not one.proven]
    for ones, most, what in ((unproven, budget.unproven, "unproven "), (c.spent, budget.total, "")):
        if len(ones) >= most:
            until = ones[-most].at + budget.per_s
            return Blocked("budget", f"{len(ones)} {what}reloads, of {most} allowed", until)
    return None


def _parallel(c: Case, _: Command) -> Blocked | None:
    # One past its deadline has had its workers' time, whatever keeps us from seeing its end.
    names = {instance.id: instance.name for instance in c.snapshot.instances}
    busy = [
        names.get(one, one)
        for one, state in c.whole.instances.items()
        if one != c.instance.id
        and state.reload is not None
        and state.reload.complete_at is None
        and state.reload.deadline > c.at
    ]
    if len(busy) < c.config.policy.max_parallel:
        return None
    return Blocked("parallel", f"{len(busy)} other instances are reloading: {', '.join(busy)}")


GATES: tuple[tuple[str, Callable[[Case, Command], Blocked | None]], ...] = (
    ("mode", _mode),
    ("paused", _paused),
    ("blind", _blind),
    ("no_deployment", _no_deployment),
    ("not_serving", _not_serving),
    ("linger", _linger),
    ("in_flight", _in_flight),
    ("fifo", _fifo),
    ("not_ready", _not_ready),
    ("fork_unsafe", _fork_unsafe),
    ("not_allowed", _not_allowed),
    ("cooldown", _cooldown),
    ("budget", _budget),
    ("parallel", _parallel),
)


def blocked_by(case: Case, command: Command) -> tuple[Blocked, ...]:
    """Return every gate that is shut, in the order of GATES."""
    return tuple([blocked for _, why_not in GATES if (blocked := why_not(case, command))])


def diagram() -> str:
    """Return MOVES as a Mermaid state diagram; docs/design.md holds it, and a test compares."""
    lines = ["stateDiagram-v2", "    [*] --> watching"]
    for (old, new), told in MOVES.items():
        label = ", ".join(sorted(event.value for event in told))
        lines.append(f"    {old.value} --> {new.value}" + (f" : {label}" if label else ""))
    return "\n".join(lines)


if __name__ == "__main__":
    print(diagram())  # noqa: T201 - this is the command that makes the diagram
