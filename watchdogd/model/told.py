"""What is told: everything that a person ever reads of it, in the journal or elsewhere.

Each event is a type with its fields; report/events.py holds the sentence and the MESSAGE_ID of each. A field that is
None is one that is not known, or says nothing here.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar

from watchdogd.model.base import Command


class Event(enum.Enum):
    """The names of all events."""

    STARTED = "started"
    SOCKETS_FROM_PROC = "sockets_from_proc"
    MEMBER_DOWN = "member_down"
    MEMBER_UP = "member_up"
    MEMBER_RESTARTED = "member_restarted"
    ACCESS_CONTROL_ON = "access_control_on"
    LEFTOVERS_FOUND = "leftovers_found"
    UNPROVEN = "unproven"
    HEALED = "healed"
    RELOAD_ASKED = "reload_asked"
    RELOAD_DUE = "reload_due"
    RELOAD_HELD = "reload_held"
    RELOAD_SENT = "reload_sent"
    RELOADED = "reloaded"
    RECOVERED = "recovered"
    RELOAD_FAILED = "reload_failed"
    RELOAD_UNSENT = "reload_unsent"
    RELOAD_UNPROVEN = "reload_unproven"
    OVERTAKEN = "overtaken"
    REPLACED = "replaced"
    ENDED_BY_US = "ended_by_us"
    GAVE_UP = "gave_up"
    STILL_OPEN = "still_open"
    THREADS_OFF = "threads_off"
    HUNG_FOUND = "hung_found"
    HUNG_ENDED = "hung_ended"
    HUNG_LEFT = "hung_left"
    MULE_STUCK = "mule_stuck"
    MULE_ENDED = "mule_ended"
    MULE_RENEWED = "mule_renewed"
    MULE_LEFT = "mule_left"
    PROBE_BLIND = "probe_blind"
    PROBE_INDEPENDENT = "probe_independent"
    BLIND = "blind"
    SEEING_AGAIN = "seeing_again"
    STATE_ELSEWHERE = "state_elsewhere"
    STATE_BACK = "state_back"
    INSTANCE_ABSENT = "instance_absent"
    INSTANCE_BACK = "instance_back"
    INSTANCE_WATCHED = "instance_watched"
    INSTANCE_SHOWN = "instance_shown"
    MORE_INSTANCES = "more_instances"
    NO_INSTANCE = "no_instance"
    NOT_COVERED = "not_covered"
    CONFIG_RELOADED = "config_reloaded"
    CONFIG_REJECTED = "config_rejected"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPING = "stopping"


FieldValue = str | int | float | bool | tuple[str, ...] | None
"""A tuple is several lines: the only line breaks that report lets through."""


class What:
    """What an event says. `event` is its name."""

    __slots__ = ()
    event: ClassVar[Event]


@dataclass(frozen=True, slots=True)
class Started(What):
    """The daemon has begun. `instances` None: they are to be found."""

    event: ClassVar = Event.STARTED
    version: str
    mode: str
    deployments: int
    instances: int | None


@dataclass(frozen=True, slots=True)
class SocketsFromProc(What):
    """Sockets are not read by SOCK_DIAG."""

    event: ClassVar = Event.SOCKETS_FROM_PROC
    reason: str


@dataclass(frozen=True, slots=True)
class MemberDown(What):
    """An outage of a member has begun. `state`: down, or frozen."""

    event: ClassVar = Event.MEMBER_DOWN
    deployment: str
    reason: str | None
    state: str


@dataclass(frozen=True, slots=True)
class MemberUp(What):
    """An outage of a member is over. `seconds`: how long it was, where its beginning was seen."""

    event: ClassVar = Event.MEMBER_UP
    deployment: str
    seconds: float | None
    restarted: bool


@dataclass(frozen=True, slots=True)
class MemberRestarted(What):
    """Another process answers, and no heartbeat had failed. `process_id`: as `hello` gives it."""

    event: ClassVar = Event.MEMBER_RESTARTED
    deployment: str
    process_id: str | None


@dataclass(frozen=True, slots=True)
class AccessControlOn(What):
    """A member has access control on, and had not before."""

    event: ClassVar = Event.ACCESS_CONTROL_ON
    deployment: str


@dataclass(frozen=True, slots=True)
class LeftoversFound(What):
    """Workers hold what an outage ended. `until_s`: for how long they may still heal."""

    event: ClassVar = Event.LEFTOVERS_FOUND
    leftovers: int
    workers: int
    until_s: float


@dataclass(frozen=True, slots=True)
class Unproven(What):
    """MongoDB serves and nothing is due, but that all of it works was not seen yet: the incident goes on.

    `nobody`: no process of it was seen to use MongoDB since. `workers`: how many were used without having reached it.
    """

    event: ClassVar = Event.UNPROVEN
    nobody: bool
    workers: int


@dataclass(frozen=True, slots=True)
class Healed(What):
    """It was seen to be well, and we did nothing. `reconnected`: how many workers were seen to reach MongoDB anew.

    None of them where it is mules alone that use it.
    """

    event: ClassVar = Event.HEALED
    seconds: float
    reconnected: int


@dataclass(frozen=True, slots=True)
class ReloadAsked(What):
    """An operator has a reload begun. `by`, `uid`, `pid`: who; `past`: the gates that are passed, where some are shut.

    `now`: he wants it past what holds others for some time only.
    """

    event: ClassVar = Event.RELOAD_ASKED
    command: Command
    by: str
    uid: int | None
    pid: int | None
    now: bool
    past: str | None


@dataclass(frozen=True, slots=True)
class ReloadDue(What):
    """It does not heal by itself. `why`: where that is not what its leftovers say."""

    event: ClassVar = Event.RELOAD_DUE
    command: Command
    why: str | None
    stranded: int
    idle: int
    leftovers: int


@dataclass(frozen=True, slots=True)
class ReloadHeld(What):
    """A reload is due, and gates are shut. `blocked_by`: their names; `reason` and `until_s` are the first one's."""

    event: ClassVar = Event.RELOAD_HELD
    command: Command
    blocked_by: str
    reason: str
    until_s: float | None


@dataclass(frozen=True, slots=True)
class ReloadSent(What):
    """The byte is in the FIFO. `resent`: once more, since the first one was lost."""

    event: ClassVar = Event.RELOAD_SENT
    command: Command
    workers: int
    resent: bool
    fifo: str


@dataclass(frozen=True, slots=True)
class Reloaded(What):
    """All processes are new; nothing is proven yet."""

    event: ClassVar = Event.RELOADED
    command: Command
    seconds: float
    workers: int


@dataclass(frozen=True, slots=True)
class Recovered(What):
    """Every worker that is used has a connection of its own. `workers`: how many have; `seconds`: of the incident.

    `mules`: those that are stuck all the same; then the incident is not over. `by_mules`: it was for them alone, and it
    was they who were seen to reach MongoDB; `workers` is how many of them. `access`: the members whose access control
    is on and was not before, so that requests may fail all the same. `answers`: how many health requests were answered
    well, all at once; None where that was not asked. `unseen`: whether the requests of users succeed was not seen.
    """

    event: ClassVar = Event.RECOVERED
    command: Command
    seconds: float
    workers: int
    mules: str | None = None
    by_mules: bool = False
    access: str | None = None
    answers: int | None = None
    unseen: bool = True


@dataclass(frozen=True, slots=True)
class ReloadFailed(What):
    """It was seen not to help."""

    event: ClassVar = Event.RELOAD_FAILED
    command: Command
    reason: str


@dataclass(frozen=True, slots=True)
class ReloadUnsent(What):
    """Its byte was not written. Then it is tried again, and told once for each reason; not so one of an operator."""

    event: ClassVar = Event.RELOAD_UNSENT
    command: Command
    reason: str
    again: bool = True


@dataclass(frozen=True, slots=True)
class ReloadUnproven(What):
    """Nobody used it before something else came."""

    event: ClassVar = Event.RELOAD_UNPROVEN
    command: Command
    reason: str


@dataclass(frozen=True, slots=True)
class Overtaken(What):
    """MongoDB went away before it was proven."""

    event: ClassVar = Event.OVERTAKEN
    command: Command


@dataclass(frozen=True, slots=True)
class Replaced(What):
    """What the incident was about is gone by somebody else."""

    event: ClassVar = Event.REPLACED
    reason: str


@dataclass(frozen=True, slots=True)
class EndedByUs(What):
    """uWSGI ended while our command was at work."""

    event: ClassVar = Event.ENDED_BY_US
    command: Command


@dataclass(frozen=True, slots=True)
class GaveUp(What):
    """Nothing that may be done helps. `until_s`: to the next try."""

    event: ClassVar = Event.GAVE_UP
    reason: str
    until_s: float


@dataclass(frozen=True, slots=True)
class StillOpen(What):
    """An incident has had no ending for `seconds`. `helps`: what a person can do; `blocked_by`: the gates that hold it.

    `until_s`: for how long they do, where that is known.
    """

    event: ClassVar = Event.STILL_OPEN
    seconds: float
    reason: str
    helps: str
    blocked_by: str | None
    until_s: float | None


@dataclass(frozen=True, slots=True)
class ThreadsOff(What):
    """A master runs without Python threads, though the app started some in it."""

    event: ClassVar = Event.THREADS_OFF
    pid: int


@dataclass(frozen=True, slots=True)
class HungFound(What):
    """A worker or a mule hangs since its fork. `process`: which, as `worker 4711`; `reason`: on what."""

    event: ClassVar = Event.HUNG_FOUND
    process: str
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class HungEnded(What):
    """It was ended, and uWSGI makes it anew."""

    event: ClassVar = Event.HUNG_ENDED
    pid: int


@dataclass(frozen=True, slots=True)
class HungLeft(What):
    """A worker that hangs is not ended."""

    event: ClassVar = Event.HUNG_LEFT
    reason: str


@dataclass(frozen=True, slots=True)
class MuleStuck(What):
    """A mule or a spooler does not heal by itself. `mule`: which, as `spooler 4711`; `reason`: what is seen of it."""

    event: ClassVar = Event.MULE_STUCK
    mule: str
    pid: int
    reason: str


@dataclass(frozen=True, slots=True)
class MuleEnded(What):
    """It was ended, and uWSGI makes it anew."""

    event: ClassVar = Event.MULE_ENDED
    mule: str
    pid: int


@dataclass(frozen=True, slots=True)
class MuleRenewed(What):
    """Those that were ended are there anew. `mules`: the new ones; `reached`: all were seen to reach MongoDB."""

    event: ClassVar = Event.MULE_RENEWED
    mules: str
    reached: bool


@dataclass(frozen=True, slots=True)
class MuleLeft(What):
    """A mule or a spooler that is stuck is not ended, or that did not help."""

    event: ClassVar = Event.MULE_LEFT
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeBlind(What):
    """An app never answered its health requests well. `url`: where it is asked; `reason`: what the last one said."""

    event: ClassVar = Event.PROBE_BLIND
    url: str
    reason: str


@dataclass(frozen=True, slots=True)
class ProbeIndependent(What):
    """An app answers its health requests well without MongoDB. `url`: where it is asked."""

    event: ClassVar = Event.PROBE_INDEPENDENT
    url: str


@dataclass(frozen=True, slots=True)
class WentBlind(What):
    """Something cannot be seen any more."""

    event: ClassVar = Event.BLIND
    scope: str
    reason: str


@dataclass(frozen=True, slots=True)
class SeeingAgain(What):
    """It can be seen again."""

    event: ClassVar = Event.SEEING_AGAIN
    scope: str


@dataclass(frozen=True, slots=True)
class StateElsewhere(What):
    """What is remembered is kept in the runtime folder. `reason`: where, and why."""

    event: ClassVar = Event.STATE_ELSEWHERE
    reason: str


@dataclass(frozen=True, slots=True)
class StateBack(What):
    """What is remembered is kept in the state folder again."""

    event: ClassVar = Event.STATE_BACK


@dataclass(frozen=True, slots=True)
class InstanceAbsent(What):
    """Nobody has its FIFO open any more. `meant`: which FIFO may be meant instead, where one has almost that path."""

    event: ClassVar = Event.INSTANCE_ABSENT
    fifo: str
    meant: str | None


@dataclass(frozen=True, slots=True)
class InstanceBack(What):
    """A master has its FIFO open again."""

    event: ClassVar = Event.INSTANCE_BACK
    pid: int


@dataclass(frozen=True, slots=True)
class InstanceWatched(What):
    """What may be done to an instance. `found`: nobody has named it; `ways`: what `reloads` allows, in words."""

    event: ClassVar = Event.INSTANCE_WATCHED
    found: bool
    pid: int | None
    workers: int
    fifo: str
    ways: str
    mode: str


@dataclass(frozen=True, slots=True)
class InstanceShown(What):
    """An instance to which nothing is done as it is. `reason`: why, with what changes that."""

    event: ClassVar = Event.INSTANCE_SHOWN
    found: bool
    pid: int | None
    workers: int
    fifo: str
    reason: str


@dataclass(frozen=True, slots=True)
class MoreInstances(What):
    """How many have no line of their own, where too many would have one at once, and how many of them are what."""

    event: ClassVar = Event.MORE_INSTANCES
    number: int
    watched: int
    shown: int


@dataclass(frozen=True, slots=True)
class NoInstance(What):
    """Instances are to be found, and there is none."""

    event: ClassVar = Event.NO_INSTANCE


@dataclass(frozen=True, slots=True)
class NotCovered(What):
    """A uWSGI master that nothing can reload. `reason`: which, why, and the line that would mend it."""

    event: ClassVar = Event.NOT_COVERED
    reason: str


@dataclass(frozen=True, slots=True)
class ConfigReloaded(What):
    """The configuration was read again. `instances` None: they are to be found."""

    event: ClassVar = Event.CONFIG_RELOADED
    deployments: int
    instances: int | None


@dataclass(frozen=True, slots=True)
class ConfigRejected(What):
    """The configuration was read again, and the old one stays in force."""

    event: ClassVar = Event.CONFIG_REJECTED
    mistakes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Paused(What):
    """No reloads. `until_s` None: until `resume`."""

    event: ClassVar = Event.PAUSED
    reason: str | None
    until_s: float | None
    by: str


@dataclass(frozen=True, slots=True)
class Resumed(What):
    """The pause is over."""

    event: ClassVar = Event.RESUMED
    by: str


@dataclass(frozen=True, slots=True)
class Stopping(What):
    """The daemon ends."""

    event: ClassVar = Event.STOPPING


TYPES: Mapping[Event, type[What]] = {one.event: one for one in What.__subclasses__()}


@dataclass(frozen=True, slots=True)
class Tell:
    """Say one event, and of whom: an instance by its name, or a member by its address; and of which incident."""

    what: What
    instance: str | None = None
    member: str | None = None
    incident: str | None = None

    @property
    def event(self) -> Event:
        """The name of what is said."""
        return self.what.event

    @property
    def fields(self) -> dict[str, FieldValue]:
        """What fills the sentence and becomes the journal's MW_* fields. A Command is its byte."""
        named = ((one.name, getattr(self.what, one.name)) for one in fields(self.what))  # type: ignore[arg-type]
        return {name: value.value if isinstance(value, Command) else value for name, value in named}
