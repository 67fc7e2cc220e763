"""What is remembered: only what we did and said. All of it is saved (service/store.py, docs/formats.md)."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from watchdogd.model.base import Command, Incarnation, InstanceId, Mono, ProcessId
from watchdogd.model.found import Kind
from watchdogd.model.seen import Blindness, Operator
from watchdogd.model.text import NOTHING_SAID, Outside
from watchdogd.model.told import Event


class Phase(enum.Enum):
    """Where an instance stands. core/phases.py decides it by the first rule that matches, in this order."""

    RELOADING = "reloading"  # a reload is in flight
    VERIFYING = "verifying"  # all processes are new; nothing has proved yet that it helped
    GAVE_UP = "gave_up"  # nothing we may do helps; waits for recovery, a new incarnation or half-open
    ABSENT = "absent"  # nobody has the FIFO open
    OUTAGE = "outage"  # a deployment of it does not serve
    SETTLING = "settling"  # leftovers, and linger is not over
    DUE = "due"  # a reload is due; a gate may hold it
    WATCHING = "watching"


@dataclass(frozen=True, slots=True)
class Reload:
    """A reload in flight or being verified; saved before its byte is written.

    `old`: the workers to be gone. `cookies`: the leftovers that must not be held afterwards. `incarnations`: those that
    the new workers must reach. `sent_at` None: no outcome is known (the daemon ended between the save and the write).
    `try_at`: no byte was written, and this is when to try it. `complete_at`: when the last old worker was gone and
    the new ones were ready. `operator`: the request that asked for it; `now`: past what holds others for some time.
    `because`: the kinds of evidence that it is for.
    """

    id: str
    command: Command
    master: ProcessId
    old: frozenset[ProcessId]
    cookies: frozenset[int]
    incarnations: frozenset[Incarnation]
    asked_at: Mono
    progress_at: Mono
    deadline: Mono
    left: int  # old workers that were still there at progress_at
    sent_at: Mono | None = None
    complete_at: Mono | None = None
    resent: bool = False
    operator: str | None = None
    try_at: Mono | None = None
    because: frozenset[Kind] = frozenset()
    now: bool = False

    @property
    def in_flight(self) -> bool:
        """Whether not all processes are new yet."""
        return self.complete_at is None

    def is_at_work(self, at: Mono) -> bool:
        """Say whether its workers may still take their time: past its deadline they had it, whoever sees the end."""
        return self.in_flight and self.deadline > at


@dataclass(frozen=True, slots=True)
class Spent:
    """One reload that counts against the budget."""

    at: Mono
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Incident:
    """From the first sign of an outage to its told end. `master`: whose, where that is known.

    `unproven_told`: that nobody was seen to reach MongoDB yet, since its last return.
    `told_again`: for how many of the instants in core/reminder.py it was told that it is still open.
    """

    id: str
    since: Mono
    leftovers_told: bool = False
    master: ProcessId | None = None
    unproven_told: bool = False
    told_again: int = 0


class Ending(enum.Enum):
    """How an incident ended: the event that told it."""

    HEALED = Event.HEALED.value
    RECOVERED = Event.RECOVERED.value
    REPLACED = Event.REPLACED.value
    ENDED_BY_US = Event.ENDED_BY_US.value


@dataclass(frozen=True, slots=True)
class PastIncident:
    """One that is over: of which instance, and from when to when (Unix time, to outlast a boot of the machine)."""

    id: str
    instance: str
    began: float
    over: float
    ending: Ending


class ReloadOutcome(enum.Enum):
    """What has become of a reload. All but the first two are endings: core/after.py says what follows from each."""

    RELOADING = "reloading"
    RELOADED = "reloaded"  # all processes are new; not proven yet
    RECOVERED = "recovered"
    UNPROVEN = "unproven"  # another one was asked for before anybody had used it
    FAILED = "failed"  # seen not to help
    OVERTAKEN = "overtaken"  # MongoDB failed again before it was proven
    REPLACED = "replaced"  # by who stopped uWSGI, or started it or the machine anew
    ENDED_BY_US = "ended_by_us"  # uWSGI ended while our command was at work
    UNSENT = "unsent"  # its byte could not be written
    DROPPED = "changed"  # before its byte, as if nothing had been decided


@dataclass(frozen=True, slots=True)
class LastReload:
    """What the status shows of the last reload. `by`: who asked for it, where an operator did; `now`: as of Reload."""

    id: str
    command: Command
    at: Mono
    wall: float
    outcome: ReloadOutcome
    proven: bool = False
    detail: str = ""
    by: Operator | None = None
    now: bool = False


class Stand(enum.Enum):
    """What our reloads have led to so far."""

    FINE = "fine"
    DOUBTFUL = "doubtful"  # one ended without proof: who works without a connection counts, leftovers or not
    ESCALATING = "escalating"  # one was seen not to help: the next one is `restart`
    GAVE_UP = "gave_up"  # nothing that we may do helps


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an instance stands with us, and since when. `why` we gave up; `unproven`: after a reload without proof."""

    stand: Stand = Stand.FINE
    since: Mono = 0.0
    why: str = ""
    unproven: bool = False

    @property
    def in_doubt(self) -> bool:
        """Whether the last reload ended without proof."""
        return self.unproven or self.stand in {Stand.DOUBTFUL, Stand.ESCALATING}


FINE = Standing()


@dataclass(frozen=True, slots=True)
class Unsent:
    """How many reloads in a row could not be sent, and why the last one could not."""

    count: int
    why: str


@dataclass(frozen=True, slots=True)
class Outrun:
    """A reload that an outage overtook may still be at work at these workers, until then at the latest."""

    workers: frozenset[ProcessId]
    until: Mono


@dataclass(frozen=True, slots=True)
class Ends:
    """The processes that hang: `rounds` is when some were ended, `asked` whose end has no outcome yet.

    `told`: of whom it was told that it hangs. `left`: why what hangs is left as it is; empty where it is not.
    `again_at`: until then nobody is asked again to end what could not be ended.
    """

    rounds: tuple[Mono, ...] = ()
    asked: frozenset[ProcessId] = frozenset()
    told: frozenset[ProcessId] = frozenset()
    left: str = ""
    again_at: Mono = -math.inf


NO_ENDS = Ends()


class AskedMule(NamedTuple):
    """A mule or a spooler that is to be ended, or was. `role`: which of the two, in a sentence."""

    process: ProcessId
    role: str


@dataclass(frozen=True, slots=True)
class MuleEnds:
    """The mules and spoolers that are stuck: `rounds`, `asked`, `told` and `again_at` as of Ends.

    `left`: why the last end was refused. `ended`: in whose place there is to be a new one that reaches MongoDB;
    `before`: all that there were when they were ended, at `ended_at`. `restarted`: the incarnations against which a
    restart of uWSGI was sent for them.
    """

    rounds: tuple[Mono, ...] = ()
    asked: tuple[AskedMule, ...] = ()
    told: frozenset[ProcessId] = frozenset()
    left: str = ""
    again_at: Mono = -math.inf
    ended: tuple[AskedMule, ...] = ()
    before: frozenset[ProcessId] = frozenset()
    ended_at: Mono = -math.inf
    restarted: frozenset[Incarnation] = frozenset()


NO_MULE_ENDS = MuleEnds()


@dataclass(frozen=True, slots=True)
class InstanceState:
    """What is remembered of an instance: only what we did and said. All of it is saved.

    `name`: what people were told it is. `master`: whom the last reload was sent to; the standing is about that one
    alone. `tried`: the incarnations for which we gave up; `restarted`: those that had a restart. `held`: the gates that
    were told last. `warned`: the master of which it was told that it runs without threads.
    """

    name: str = ""
    phase: Phase = Phase.WATCHING
    reload: Reload | None = None
    standing: Standing = FINE
    spent: tuple[Spent, ...] = ()
    tried: frozenset[Incarnation] = frozenset()
    restarted: frozenset[Incarnation] = frozenset()
    retry_at: Mono | None = None
    outrun: Outrun | None = None
    incident: Incident | None = None
    last: LastReload | None = None
    held: tuple[str, ...] = ()
    master: ProcessId | None = None
    unsent: Unsent | None = None
    ends: Ends = NO_ENDS
    warned: ProcessId | None = None
    mules: MuleEnds = NO_MULE_ENDS


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's pause. `until` None: until `resume`. `by`: his name, empty where an older state has none."""

    until: Mono | None
    reason: Outside = NOTHING_SAID
    by: Outside = NOTHING_SAID


@dataclass(frozen=True, slots=True)
class State:
    """Policy's whole memory. `unclaimed`: what the first edition remembered by name, until its instance is seen.

    `last_incident`: the one that ended last, of all instances. `degraded`: it was told that this is not kept in the
    state folder.
    """

    instances: Mapping[InstanceId, InstanceState] = field(default_factory=dict)
    unclaimed: Mapping[str, InstanceState] = field(default_factory=dict)
    paused: Pause | None = None
    blind: frozenset[Blindness] = frozenset()
    serial: int = 0
    last_incident: PastIncident | None = None
    degraded: bool = False
