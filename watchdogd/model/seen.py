"""What is seen: members, connections, workers, and the Snapshot of all that is known at one instant."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

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
ANY_TIME = Interval(-math.inf, math.inf)
"""Of something that is not known to have happened at any time."""


@dataclass(frozen=True, slots=True)
class Access:
    """Whether access control of a member is on, as one life of it told.

    `turned_on`: when it was first seen to be on after it had been off; None: no such change was seen.
    """

    member: MemberId
    incarnation: Incarnation
    on: bool
    turned_on: Mono | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One mongod or mongos.

    `is_serving`: an UP standalone, primary or mongos. `served_since`: since when it has been so without a break.
    `born`: the birth of the process that answers. `outages`: the last outages that we watched, newest last, each from
    the last good heartbeat to the first good one after it (infinity while it goes on). `identity`: what tells its
    process from every other one, at whatever address that answers; None: nothing does (mongod 4.2 alone). `learned`:
    those of `endpoints` that nobody named and at which this process was found to answer. `unneeded`: why it is no alarm
    that it cannot be reached; empty where it is one. `took_over`: when it last became the primary of its replica set
    after another one had been, as we watched.
    """

    id: MemberId
    state: MemberState
    is_serving: bool = False
    incarnation: Incarnation | None = None
    process_id: str | None = None
    born: Interval | None = None
    up_since: Interval | None = None
    served_since: Interval | None = None
    since: Mono = 0.0  # of the present state
    outages: tuple[Interval, ...] = ()
    restarts: int = 0
    endpoints: frozenset[Endpoint] = frozenset()
    detail: str = ""  # why it is not UP
    identity: str | None = None
    learned: frozenset[Endpoint] = frozenset()
    unneeded: str = ""
    took_over: Interval | None = None
    access: Access | None = None

    @property
    def serves(self) -> bool:
        """Whether an app may send its operations to it now: `is_serving` is the last word of one that is silent."""
        return self.state is MemberState.UP and self.is_serving


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
    `last_sent`: when data was last sent on it, for the first time or again; followed while it is ESTABLISHED. It tells
    that somebody uses it, which `last_data` does not: the kernel takes what comes where nobody reads.
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
    last_sent: Interval = ANY_TIME


@dataclass(frozen=True, slots=True)
class Wait:
    """One request that waited as a driver waits for a server that it does not find (observe/waits.py).

    `held_since`: the first look that saw its connection. `first`: the look at which it had waited so for a second;
    `last`: the last one that saw it held.
    """

    held_since: Mono
    first: Mono
    last: Mono

    @property
    def seconds(self) -> float:
        """For how long it was held at least."""
        return self.last - self.held_since


@dataclass(frozen=True, slots=True)
class Waits:
    """The requests of one worker that waited so in the last minute, the oldest first.

    `since`: when it was looked at so for the first time. `at`: when it was looked at last.
    """

    since: Mono
    at: Mono
    requests: tuple[Wait, ...] = ()

    @property
    def present(self) -> int:
        """How many of them it holds now."""
        return sum(one.last == self.at for one in self.requests)

    @property
    def longest_s(self) -> float:
        """For how many seconds the longest one was held, at least; 0 without any."""
        return max((one.seconds for one in self.requests), default=0.0)


class Role(enum.Enum):
    """What a process of an instance is, by its signal masks (uWSGI sets WINCH for workers, USR2 once one is ready)."""

    MASTER = "master"
    LOADING = "loading"
    READY = "ready"
    MULE = "mule"
    SPOOLER = "spooler"
    OTHER = "other"


MULE_ROLES = (Role.MULE, Role.SPOOLER)
"""What does tasks beside the workers. Where the two do not differ, both are called mules."""


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

    Read only while its instance is suspected, None else: `waits`: its requests that wait for a server. `waited`: there
    was one since it is looked at so. `monitored_at`: when it was last seen to reach every member of a deployment that
    is up as one whose driver's monitor runs does (observe/monitors.py), by deployment. `threads`: how many it has; of
    one that is not ready that is always read.

    Of one that is not ready: `ignores_hup`, whether SIGHUP does nothing to it (so it is in a first generation: later
    ones have their master's handler); `hung`, once that is proven. `unjudged`: why nobody can say whether it hangs, as
    long as that is so: a right that is missing, a debugger, SIGSTOP. Then `hung` is None, which says nothing. All three
    say nothing of one that is ready.
    """

    id: ProcessId
    ready_since: Interval | None = None
    reconnected: frozenset[Incarnation] = frozenset()
    used: Interval | None = None
    monitored: frozenset[Incarnation] = frozenset()
    owned: bool = False
    waits: Waits | None = None
    threads: int | None = None
    monitored_at: Mapping[str, Mono] | None = None
    ignores_hup: bool | None = None
    hung: Hung | None = None
    unjudged: str = ""
    waited: bool = False

    @property
    def single(self) -> bool:
        """Say whether it is known to have one thread: then no monitor of a driver runs in it."""
        return self.threads == 1

    @property
    def ready(self) -> bool:
        """Say whether it takes requests."""
        return self.ready_since is not None

    @property
    def called(self) -> str:
        """What it is called in a sentence."""
        return f"worker {self.id.pid}"


@dataclass(frozen=True, slots=True)
class Mule(Worker):
    """One mule or spooler: what is known of a worker, of a process that does tasks and takes no requests.

    It is ready as soon as it is there. Its `waits` are tasks. It is always looked at whether it hangs (`hung`).
    """

    role: Role = Role.MULE

    @property
    def called(self) -> str:
        """What it is called in a sentence."""
        return f"{self.role.value} {self.id.pid}"


@dataclass(frozen=True, slots=True)
class DeadSocket:
    """A TCP socket that is in no table any more, that several processes hold, and that nobody saw alive.

    It may have led to a member, or to anything else. `since`: when it was first seen so.
    """

    inode: int
    since: Mono
    holders: frozenset[ProcessId]


@dataclass(frozen=True, slots=True)
class Sent:
    """That a master sends to a member that serves: who sends again and again has a driver whose monitor runs.

    Only what it sent for certain since that member serves counts, on an ESTABLISHED connection on which it has read all
    that came. `since`: when that was first seen; it has been so in every look since then. `last`: when it last sent.
    """

    member: MemberId
    since: Mono
    last: Interval


class Wakes(NamedTuple):
    """How the threads of a master wake, all but its own first one. `at`: when that was seen.

    `times`: when one of them was seen to wake. Those that do all the time are left out.
    """

    at: Mono
    times: tuple[Mono, ...]


class Trust(enum.Enum):
    """What the answers of an app to its health requests are worth."""

    UNKNOWN = "unknown"  # it has not answered well yet, and was not asked often enough to say that it never does
    BLIND = "blind"  # it never answered well
    INDEPENDENT = "independent"  # it answered well while no worker sent to MongoDB: that says nothing of MongoDB
    ANSWERS = "answers"  # it answered well; whether that depends on MongoDB is not known
    DEPENDENT = "dependent"  # it is known to depend on MongoDB


@dataclass(frozen=True, slots=True)
class Round:
    """Several health requests at once, all of them over. What is neither `good` nor `bad` reached nobody.

    `began`: when they were made; `ended`: when the last one was over. `says`: what the first bad one said, else a good.
    """

    began: Mono
    ended: Mono
    size: int
    good: int
    bad: int
    says: str

    @property
    def whole(self) -> bool:
        """Whether every answer was good."""
        return self.good == self.size > 0


@dataclass(frozen=True, slots=True)
class Health:
    """What an app answers to its health requests (observe/probes.py). `target`: where it is asked, without the query.

    `at`: when the last answer came, None before the first; `good`, `says`: that one. `round`: the last one that reached
    the app, since MongoDB has begun to serve and all these workers are ready.
    """

    target: str
    trust: Trust = Trust.UNKNOWN
    at: Mono | None = None
    good: bool = False
    says: str = ""
    round: Round | None = None

    @property
    def believable(self) -> bool:
        """Whether its answers say something: it was seen to answer well, and not to do so without MongoDB."""
        return self.trust in {Trust.ANSWERS, Trust.DEPENDENT}


@dataclass(frozen=True, slots=True)
class Instance:
    """One uWSGI master with its processes.

    `master` None: nobody has the FIFO open. `held_by_master`: deployments a connection of which the master was ever
    seen to hold; `master_connected_at`: when it was last seen to hold an ESTABLISHED one to a serving member.
    `master_sent`: the serving members that it sends to.
    `fifo_problem`: why a byte would not arrive. `blind`: what could not be read, which blocks every reload.
    `mules`: its mules and spoolers; `others`: its children that are neither workers nor these. `had_mules`: this master
    was ever seen to have one: while uWSGI makes one anew there is none.
    `sockets`: how those of its network namespace are read, None where that is the daemon's own. `no_restart`: why this
    master may never be sent `r`, which would end it; None where nothing speaks against it. `met`: the deployments to
    which a process of it was ever seen connected. `elsewhere`: whom it talks to, where that is only others than the
    members of its deployments; then it is a part of `blind` too.
    Read only while it is suspected: `dead`: the dead sockets of which nobody knows where they led. `unseen`: why not
    all of what is read then can be seen; empty where it can. It blocks nothing. `master_threads`: how many
    the master has. `threads_off`: none of its Python threads was seen to ever run. `wakes`: when the others of them
    wake; None while nobody has watched them. `meant`: where nobody has the FIFO, which one may be meant; empty where
    none has almost that path. `master_single`: none of the master's threads but its first one runs, so no monitor of a
    driver does; asked of those that do not send. `health`: what the app answers, where it is asked.
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
    no_restart: str | None = None
    met: frozenset[str] = frozenset()
    elsewhere: str = ""
    master_sent: tuple[Sent, ...] = ()
    dead: tuple[DeadSocket, ...] = ()
    unseen: str = ""
    master_threads: int | None = None
    master_single: bool = False
    threads_off: bool = False
    wakes: Wakes | None = None
    meant: str = ""
    mules: tuple[Mule, ...] = ()
    had_mules: bool = False
    health: Health | None = None

    @property
    def id(self) -> InstanceId:
        """Who it is."""
        return InstanceId(self.fifo)

    def is_bystander(self, process: Worker) -> bool:
        """Say whether a process was never seen to use MongoDB itself, where its instance has mules that may do it all.

        To hold a connection alone, or to wait for a server, is to use it.
        """
        return (self.had_mules or bool(self.mules)) and not (process.owned or process.waited)


@dataclass(frozen=True, slots=True)
class Blind:
    """A read that failed: never an empty list. `why` ends with the mend."""

    why: str


class Area(enum.Enum):
    """What cannot be seen. With the first five nobody can be judged; the others concern one alone, or nobody."""

    SOCKETS = "sockets"
    PROCESSES = "processes"
    STATE = "state"
    RESOLVER = "resolver"
    HEARTBEATS = "heartbeats"
    DEPLOYMENT = "deployment"
    INSTANCE = "instance"
    MASTER = "instance of master"
    MEMBER = "member"
    ADDRESS = "address"
    ADDRESSES = "member addresses"  # which these have beside their own
    HEALTH = "health requests"
    SINK = "sink"


EVERYBODYS = frozenset({Area.SOCKETS, Area.PROCESSES, Area.STATE, Area.RESOLVER, Area.HEARTBEATS})


class Scope(NamedTuple):
    """What cannot be seen, and of which one: a deployment's name, an instance's identity, a member's address."""

    area: Area
    of: str = ""

    def __str__(self) -> str:
        return f"{self.area.value} {Outside(self.of)}" if self.of else self.area.value


@dataclass(frozen=True, slots=True)
class Blindness:
    """Something that cannot be seen now. `why` ends with the mend."""

    scope: Scope
    why: str


class Verb(enum.Enum):
    """What an operator may ask of the running daemon."""

    RELOAD = "reload"
    PAUSE = "pause"
    RESUME = "resume"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who asked: the process at the other end of the socket, and its user, as the kernel says (SO_PEERCRED, unix(7)).

    `name`: what the name service calls that user.
    """

    name: Outside
    uid: int
    pid: int

    def __str__(self) -> str:
        return f"{self.name} (uid {self.uid}, pid {self.pid})"


@dataclass(frozen=True, slots=True)
class Request:
    """An operator's wish, an input of the decision like every other one. `until` None: without end.

    Of a reload: `now`: past what holds it for some time only (core/gates.py); `restart`: of the whole stack.
    """

    id: str
    verb: Verb
    instance: InstanceId | None = None
    until: Mono | None = None
    reason: Outside = NOTHING_SAID
    by: Operator | None = None
    now: bool = False
    restart: bool = False

    @property
    def who(self) -> Outside:
        """What the one who asked is called; empty where that is not known."""
        return self.by.name if self.by else NOTHING_SAID


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is known at one instant. `news`: what observe has to tell: of members, and of how it reads.

    `sockets`: how those of the daemon's own network namespace are read. `unsaved`: why nothing can be saved now;
    `degraded`: why what is remembered is not in the state folder.
    """

    at: Mono
    wall: float
    members: Mapping[MemberId, Member] = field(default_factory=dict)
    instances: tuple[Instance, ...] = ()
    connections: tuple[Connection, ...] = ()
    blind: tuple[Blindness, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    requests: tuple[Request, ...] = ()
    news: tuple[Tell, ...] = ()
    not_covered: tuple[str, ...] = ()  # uWSGI masters that nothing can reload, each with the line that would mend it
    sockets: SocketsFrom = SocketsFrom(Backend.SOCK_DIAG)
    unsaved: str | None = None
    degraded: str | None = None
