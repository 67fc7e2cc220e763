"""The words of docs/design.md as frozen values: what is seen, what it means, what is done.

This module must never do I/O, read a clock or hold state. Times are CLOCK_MONOTONIC seconds (`Mono`); wall time
stands in `Snapshot.wall` alone, for the journal and the status.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, NamedTuple, NewType

Mono = Annotated[float, "CLOCK_MONOTONIC"]
"""Seconds of CLOCK_MONOTONIC. Annotated so that codec.py finds every such time and moves it to another boot's clock."""


SHOWN = 300
"""Characters of a text from outside that are shown: more than a name or a path, less than a flood."""


LONGEST = 4000
"""Characters of any text that is shown, and of one that has to come back whole: of a field with 4096 bytes or more
`journalctl -o json` shows nothing but null."""


def shown(text: str, most: int = SHOWN) -> str:
    r"""Return a text as it may be printed: one line that drives no terminal, of at most `most` characters (60 or more).

    What is not printable (control characters, line breaks, bidi and other format marks, spaces that are not U+0020, the
    bytes of broken UTF-8) stands as `\n`, `\x1b`, `\u202e`. Shown twice it is the same.
    """
    if len(text) <= most:
        whole = str(text) if text.isprintable() else "".join(map(_escaped, text))
        if len(whole) <= most:
            return whole
    kept: list[str] = []
    room = most - len(_left_out(len(text)))
    for char in text:  # no more of it than fits is looked at
        escaped = _escaped(char)
        room -= len(escaped)
        if room < 0:
            break
        kept.append(escaped)
    return "".join(kept) + _left_out(len(text) - len(kept))


def _left_out(count: int) -> str:
    return f" … ({count} characters left out)"


def _escaped(char: str) -> str:
    if char.isprintable():
        return char
    if "\udc80" <= char <= "\udcff":  # a byte that is not UTF-8, as os.fsdecode gives it
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")


class Outside(str):
    """A text that somebody else chose: a path, a server's message, a reason.

    In an f-string it is `shown`. Everywhere else it is raw, so that it may be compared and opened: str() too, since
    Path() asks that, and a name that differs from the shown one must never open what has the shown one as its name. So
    to print one is for report alone, which shows whatever it prints.
    """

    __slots__ = ()

    def __format__(self, spec: str, /) -> str:
        return format(shown(self), spec)


NOTHING_SAID = Outside()


class WatchdogError(Exception):
    """What mongo-watchdog raises on purpose; its text names the thing, what was expected and the mend."""


def fault(error: Exception) -> str:
    """Return what is said of a bug: what it is and where it was raised. That part is blind then, and nothing ends."""
    place, trace = "", error.__traceback__
    while trace:
        _, inside, module = trace.tb_frame.f_code.co_filename.rpartition("/watchdogd/")
        place = f" in {module}:{trace.tb_lineno}" if inside else place
        trace = trace.tb_next
    return f"internal error{place}: {Outside(repr(error))}; please report it"


class AlreadyRunning(WatchdogError):
    """Another daemon holds the state folder or the control socket."""


Incarnation = NewType("Incarnation", str)
"""One life of a member: its process id, or `ADDRESS@SECONDS` of the last DOWN -> UP where the server gives none
(mongod 4.2, proxies), `ADDRESS@start` where that was before the daemon began. Two names of one mongod share it."""

BEFORE_US = "@start"


class Command(enum.Enum):
    """The byte for the master FIFO. No other one is ever sent."""

    WORKERS = "w"
    CHAIN = "c"
    RESTART = "r"  # of the stack

    @property
    def word(self) -> str:
        """What `reloads:` of the configuration calls it."""
        return self.name.lower()


WORKERS, CHAIN, RESTART = Command.WORKERS, Command.CHAIN, Command.RESTART


class Interval(NamedTuple):
    """An instant that is known to lie in [lo, hi]; a late start of the daemon means wide intervals, not other code."""

    lo: Mono
    hi: Mono

    @classmethod
    def ever_until(cls, at: Mono) -> Interval:
        """Return the interval of something that happened before we looked."""
        return cls(-math.inf, at)

    def overlaps(self, other: Interval) -> bool:
        """Say whether both may be the same instant."""
        return self.lo <= other.hi and other.lo <= self.hi

    def narrowed(self, other: Interval) -> Interval:
        """Return what both readings agree on; self where they contradict (a clock step, a kernel counter reset)."""
        both = Interval(max(self.lo, other.lo), min(self.hi, other.hi))
        return both if both.lo <= both.hi else self


class ProcessId(NamedTuple):
    """A process; the start time (field 22 of /proc/PID/stat, clock ticks) tells it from a later one of the same pid."""

    pid: int
    start_ticks: int


InstanceId = NewType("InstanceId", str)
"""Who an instance is: the path of its FIFO as it is configured, or as its master names it. All that is remembered,
compared or sent of an instance goes by it; a name is for people. Its master tells one life of it from the next."""


class Endpoint(NamedTuple):
    """One side of a connection: an IP address as text (v4-mapped ones as IPv4) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class MemberId(NamedTuple):
    """One host:port of a deployment, as the configuration or `hello` names it."""

    deployment: str
    address: str


class MemberState(enum.Enum):
    """What a member's heartbeats say of it."""

    UNKNOWN = "unknown"  # nothing heard of it yet
    UP = "up"
    DOWN = "down"
    FROZEN = "frozen"  # accepts connections and does not answer
    UNREACHABLE = "unreachable"  # DNS, TLS, protocol: a configuration error, not an outage


OUT = frozenset({MemberState.DOWN, MemberState.FROZEN})


@dataclass(frozen=True, slots=True)
class Member:
    """One mongod or mongos.

    `serving`: an UP standalone, primary or mongos. `serving_since`: since when it has been so without a break.
    `born`: the birth of the process that answers. `outages`: the last outages that we watched, newest last, each from
    the last good heartbeat to the first good one after it (infinity while it goes on).
    """

    id: MemberId
    state: MemberState
    serving: bool = False
    incarnation: Incarnation | None = None
    process_id: str | None = None
    born: Interval | None = None
    up_since: Interval | None = None
    serving_since: Interval | None = None
    since: Mono = 0.0  # of the present state
    outages: tuple[Interval, ...] = ()
    restarts: int = 0
    endpoints: frozenset[Endpoint] = frozenset()
    detail: str = ""  # why it is not UP


class Tcp(enum.Enum):
    """The state of a worker's end of a connection."""

    ESTABLISHED = "established"
    CLOSE_WAIT = "close_wait"
    DEAD = "dead"  # gone from the kernel's tables while a process still holds the descriptor


class Backend(enum.Enum):
    """How a table of sockets is read."""

    SOCK_DIAG = "sock_diag"
    PROC = "proc"  # /proc/net/tcp: without ages, and dearer
    NONE = "none"  # not at all: every read is Blind


@dataclass(frozen=True, slots=True)
class SocketsFrom:
    """How the sockets of one network namespace are read. `why`: not by SOCK_DIAG, with the mend; empty where it is."""

    backend: Backend
    why: str = ""


@dataclass(frozen=True, slots=True)
class Connection:
    """One socket to a member, with everybody who holds it (after a fork many do: facts of docs/design.md, holders).

    `cookie`: the kernel's identity of the socket; the /proc fallback has none and takes 2**64 + inode.
    `since`: when it was first seen by us. `closed`: when it went into CLOSE_WAIT. `last_data`: when it last received.
    `rqueue`: bytes not read yet, the FIN counts as one. `shared`: several processes have held it at the same time.
    """

    cookie: int
    inode: int
    local: Endpoint
    remote: Endpoint
    tcp: Tcp
    since: Interval
    last_data: Interval
    closed: Interval | None = None
    rqueue: int = 0
    holders: frozenset[ProcessId] = frozenset()
    shared: bool = False


class Role(enum.Enum):
    """What a process of an instance is, by its signal masks (uWSGI sets WINCH for workers, USR2 once one is ready)."""

    MASTER = "master"
    LOADING = "loading"
    READY = "ready"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    `ready_since`: None while it loads the app. `reconnected`: the incarnations it has had an own connection to (a
    latch). `used`: when it was first seen to work since the outage, or since it was ready; None while it has not been.
    `monitored`: those that it has had two own connections to at once: one is its requests', the other its driver's
    monitor. `owned`: it was ever seen to hold a connection alone.
    """

    id: ProcessId
    ready_since: Interval | None = None
    reconnected: frozenset[Incarnation] = frozenset()
    used: Interval | None = None
    monitored: frozenset[Incarnation] = frozenset()
    owned: bool = False

    @property
    def ready(self) -> bool:
        """Say whether it takes requests."""
        return self.ready_since is not None


@dataclass(frozen=True, slots=True)
class Instance:
    """One uWSGI master with its processes.

    `master` None: nobody has the FIFO open. `held_by_master`: deployments a connection of which the master was ever
    seen to hold; `master_connected_at`: when it was last seen to hold an ESTABLISHED one to a serving member.
    `fifo_problem`: why a byte would not arrive. `blind`: what could not be read, which blocks every reload.
    `sockets`: how those of its network namespace are read, None where that is the daemon's own.
    """

    name: str
    fifo: str
    deployments: tuple[str, ...]
    master: ProcessId | None = None
    workers: tuple[Worker, ...] = ()
    others: tuple[ProcessId, ...] = ()
    seen_at: Mono = 0.0
    held_by_master: frozenset[str] = frozenset()
    master_connected_at: Mono | None = None
    fifo_problem: str | None = None
    blind: tuple[str, ...] = ()
    uid: int | None = None  # effective uid of the master: who must own the FIFO
    sockets: SocketsFrom | None = None

    @property
    def id(self) -> InstanceId:
        """Who it is."""
        return InstanceId(self.fifo)


@dataclass(frozen=True, slots=True)
class Blind:
    """A read that failed: never an empty list.

    `scope`: `sockets`, `processes` or `state` (everybody is blind), `instance ID`, `deployment NAME`, or `member
    HOST:PORT` or `sink NAME`, which are told and block nothing. `why` ends with the mend.
    """

    scope: str
    why: str


class Result(enum.Enum):
    """What became of one attempt to write the FIFO."""

    WRITTEN = "written"  # the byte is in the pipe; that proves delivery, not execution
    TRY_AGAIN = "try_again"  # ENOENT, ENXIO, EPIPE, EAGAIN: normal while the master makes its FIFO anew
    CHANGED = "changed"  # the last look did not find what the decision was made on
    REFUSED = "refused"  # not a FIFO, another owner, no permission: will not mend itself


@dataclass(frozen=True, slots=True)
class Outcome:
    """What act did with the effect `id`."""

    id: str
    result: Result
    at: Mono
    detail: str = ""


class Verb(enum.Enum):
    """What an operator may ask of the running daemon."""

    RELOAD = "reload"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Request:
    """An operator's wish, an input of the decision like every other one. `until` None: without end."""

    id: str
    verb: Verb
    instance: InstanceId | None = None
    until: Mono | None = None
    reason: Outside = NOTHING_SAID


class Event(enum.Enum):
    """Everything that is ever told; report/events.py holds the sentence and the MESSAGE_ID of each."""

    STARTED = "started"
    SOCKETS_FROM_PROC = "sockets_from_proc"
    MEMBER_DOWN = "member_down"
    MEMBER_UP = "member_up"
    MEMBER_RESTARTED = "member_restarted"
    LEFTOVERS_FOUND = "leftovers_found"
    HEALED = "healed"
    RELOAD_DUE = "reload_due"
    RELOAD_HELD = "reload_held"
    RELOAD_SENT = "reload_sent"
    RELOADED = "reloaded"
    RECOVERED = "recovered"
    RELOAD_FAILED = "reload_failed"
    OVERTAKEN = "overtaken"
    REPLACED = "replaced"
    GAVE_UP = "gave_up"
    BLIND = "blind"
    SEEING_AGAIN = "seeing_again"
    INSTANCE_ABSENT = "instance_absent"
    INSTANCE_BACK = "instance_back"
    CONFIG_RELOADED = "config_reloaded"
    CONFIG_REJECTED = "config_rejected"
    PAUSED = "paused"
    RESUMED = "resumed"
    STOPPING = "stopping"


FieldValue = str | int | float | bool | tuple[str, ...] | None
"""A tuple is several lines: the only line breaks that report lets through."""


@dataclass(frozen=True, slots=True)
class Tell:
    """Say one event. The fields fill its sentence and become the journal's MW_* fields."""

    event: Event
    instance: str | None = None
    member: str | None = None
    incident: str | None = None
    command: Command | None = None
    blocked_by: str | None = None
    fields: Mapping[str, FieldValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SendFifo:
    """Write one byte, if the world still is as the decision saw it: same master, same workers, all of them ready."""

    id: str
    instance: InstanceId
    fifo: str
    command: Command
    master: ProcessId
    workers: frozenset[ProcessId]
    uid: int | None


@dataclass(frozen=True, slots=True)
class Answer:
    """The immediate answer to an operator's request; `reload` is the id to watch where one was begun."""

    request: str
    ok: bool
    text: str
    reload: str | None = None


Effect = Tell | SendFifo | Answer


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is known at one instant. `news`: what observe has to tell: of members, and of how it reads.

    `sockets`: how those of the daemon's own network namespace are read.
    """

    at: Mono
    wall: float
    members: Mapping[MemberId, Member] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()
    connections: tuple[Connection, ...] = ()
    blind: tuple[Blind, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    requests: tuple[Request, ...] = ()
    news: tuple[Tell, ...] = ()
    not_covered: tuple[str, ...] = ()  # uWSGI masters that nothing can reload, each with the line that would mend it
    sockets: SocketsFrom = SocketsFrom(Backend.SOCK_DIAG)


class Verdict(enum.Enum):
    """What a worker's connections say of it."""

    LOADING = "loading"
    CLEAR = "clear"  # holds no leftover
    RECONNECTED = "reconnected"  # has had an own connection since; its leftovers are residue, harmless
    IDLE = "idle"  # holds a leftover and has not used MongoDB since
    STRANDED = "stranded"  # used since, and no own connection


@dataclass(frozen=True, slots=True)
class Finding:
    """What one instance's part of a Snapshot means. Times are instants, not durations.

    `leftovers`: cookies that a worker holds and an outage ended; `unexplained`: CLOSE_WAIT without an outage.
    `counted`: how many of the leftovers each process holds. `due`: the workers that a reload is for; `due_at`: when
    `linger` is over for them, None while none is due, and `waiting_for` says in words what for.
    `inherited`: those leftovers of due workers that the master holds too. `concerned`: the deployments that leftovers
    of due workers led to. `served`: the incarnations that serve now, by deployment; `incarnations` are all of them.
    `fork_unsafe`: why a fork would carry a broken client along, None when it is safe; `fork_safe_at` when it will be,
    where that is known; `fork_unsafe_since` since when the master has been without a connection. `fault`: why nothing
    could be found.
    """

    instance: InstanceId
    leftovers: frozenset[int] = frozenset()
    unexplained: frozenset[int] = frozenset()
    verdicts: Mapping[ProcessId, Verdict] = field(default_factory=dict)
    counted: Mapping[ProcessId, int] = field(default_factory=dict)
    due: frozenset[ProcessId] = frozenset()
    due_at: Mono | None = None
    waiting_for: str = ""
    inherited: frozenset[int] = frozenset()
    serves: bool = False
    served_since: Mono | None = None
    outage: bool = False
    incarnations: frozenset[Incarnation] = frozenset()
    served: Mapping[str, frozenset[Incarnation]] = field(default_factory=dict)
    concerned: frozenset[str] = frozenset()
    fork_unsafe: str | None = None
    fork_safe_at: Mono | None = None
    fork_unsafe_since: Mono | None = None
    fault: str | None = None


class Phase(enum.Enum):
    """Where an instance stands. policy.PHASES decides it by the first rule that matches, in this order."""

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
    `try_at`: no byte was written, and this is when to try again. `complete_at`: when the last old worker was gone and
    the new ones were ready. `operator`: the request that asked for it.
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


@dataclass(frozen=True, slots=True)
class Spent:
    """One reload that counts against the budget."""

    at: Mono
    proven: bool = False


@dataclass(frozen=True, slots=True)
class Incident:
    """From the first sign of an outage to healed, recovered or replaced. `master`: whose, where that is known."""

    id: str
    since: Mono
    leftovers_told: bool = False
    master: ProcessId | None = None


class ReloadOutcome(enum.Enum):
    """What has become of a reload."""

    RELOADING = "reloading"
    RELOADED = "reloaded"  # all processes are new; not proven yet
    RECOVERED = "recovered"
    FAILED = "failed"
    OVERTAKEN = "overtaken"  # MongoDB failed again before it was proven
    REPLACED = "replaced"  # by who stopped uWSGI, or started it or the machine anew
    CHANGED = "changed"  # dropped before its byte, as if nothing had been decided


@dataclass(frozen=True, slots=True)
class LastReload:
    """What the status shows of the last reload."""

    id: str
    command: Command
    at: Mono
    wall: float
    outcome: ReloadOutcome
    proven: bool = False
    detail: str = ""


@dataclass(frozen=True, slots=True)
class InstanceState:
    """What policy remembers of an instance: only what we did and said. All of it is saved.

    `master`: whom the last reload was sent to; what follows is about that one alone. `doubt`: a reload of ours ended
    without proof, so a worker that works without a connection counts, leftovers or not. `escalate`: it failed, and the
    next one is `restart`. `tried`: the incarnations for which we gave up; `restarted`: those that had a restart.
    `held`: the gates that were told last. `unsent`: how many reloads in a row ended without their byte being written.
    """

    phase: Phase = Phase.WATCHING
    reload: Reload | None = None
    spent: tuple[Spent, ...] = ()
    tried: frozenset[Incarnation] = frozenset()
    restarted: frozenset[Incarnation] = frozenset()
    escalate: bool = False
    retry_at: Mono | None = None
    gave_up_at: Mono | None = None
    gave_up_why: str = ""
    incident: Incident | None = None
    last: LastReload | None = None
    held: tuple[str, ...] = ()
    doubt: bool = False
    master: ProcessId | None = None
    unsent: int = 0


@dataclass(frozen=True, slots=True)
class Pause:
    """An operator's pause. `until` None: until `resume`."""

    until: Mono | None
    reason: Outside = NOTHING_SAID


@dataclass(frozen=True, slots=True)
class State:
    """Policy's whole memory. `unclaimed`: what the first edition remembered by name, until its instance is seen."""

    instances: Mapping[InstanceId, InstanceState] = field(default_factory=dict)
    unclaimed: Mapping[str, InstanceState] = field(default_factory=dict)
    paused: Pause | None = None
    blind: frozenset[Blind] = frozenset()
    serial: int = 0


@dataclass(frozen=True, slots=True)
class Blocked:
    """A shut gate: its name, the reason in words, and until when, where that is known."""

    gate: str
    reason: str
    until: Mono | None = None


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the status shows of an instance's future: which command is next, when, and what blocks it."""

    phase: Phase
    next_what: str = ""
    next_at: Mono | None = None
    blocked_by: tuple[Blocked, ...] = ()
    reloads_left: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What decide gives: the new memory (saved first), the effects in order, and when to look again at the latest.

    `faults`: why nothing could be decided, for each instance where that is so.
    """

    state: State
    effects: tuple[Effect, ...]
    wake_at: Mono | None
    outlooks: Mapping[InstanceId, Outlook]
    faults: Mapping[InstanceId, str] = field(default_factory=dict)
