"""What is seen: members, connections, workers, and the Snapshot of all that is known at one instant."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from watchdogd.model.base import Endpoint, Incarnation, InstanceId, Interval, MemberId, Mono, ProcessId
from watchdogd.model.done import Outcome
from watchdogd.model.text import NOTHING_SAID, Outside
from watchdogd.model.told import Tell


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


class Hang(enum.Enum):
    """How a worker that is not ready waits for what nobody can give it. docs/design.md has the rules, and their counts.

    Both are proofs: only another thread of the same process could release such a lock, and there is none.
    """

    GIL = "gil"  # rule G: for a lock of Python's own, since its fork; another fork will most likely not
    OWN_CODE = "own_code"  # rule B: for one that the app made; the next worker will mostly do the same


@dataclass(frozen=True, slots=True)
class Hung:
    """A worker that hangs. `since`: when it began to wait for that lock."""

    kind: Hang
    since: Interval


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker process.

    `ready_since`: None while it loads the app. `reconnected`: the incarnations it has had an own connection to (a
    latch). `used`: when it was first seen to work since the outage, or since it was ready; None while it has not been.
    `monitored`: those that it has had two own connections to at once: one is its requests', the other its driver's
    monitor. `owned`: it was ever seen to hold a connection alone.

    Of one that is not ready: `threads`, how many it has (1: single); `ignores_hup`, whether SIGHUP does nothing to it
    (so it is in a first generation: later ones have their master's handler); `hung`, once that is proven. `unjudged`:
    why nobody can say whether it hangs, as long as that is so: a right that is missing, a debugger, SIGSTOP. Then
    `hung` is None, which says nothing. All four say nothing of one that is ready.
    """

    id: ProcessId
    ready_since: Interval | None = None
    reconnected: frozenset[Incarnation] = frozenset()
    used: Interval | None = None
    monitored: frozenset[Incarnation] = frozenset()
    owned: bool = False
    threads: int | None = None
    ignores_hup: bool | None = None
    hung: Hung | None = None
    unjudged: str = ""

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
