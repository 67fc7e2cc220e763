"""The heartbeat edge: what pymongo's monitor threads hear from each member, as values on a queue.

Each member has a MongoClient of its own that only monitors: it connects to exactly that host and port, never
authenticates and never sends a command (`hello` needs no rights). Listener callbacks run in pymongo's
threads: they must never block, raise or decide anything. Loading this module must not load pymongo (22 MB).

Only heartbeat events are used: pymongo holds those of servers and topologies back for up to 1 s (0.6-1.1 s
measured).
"""

from __future__ import annotations

import errno
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue
from typing import Any, Protocol

from watchdogd.config.addresses import parse_endpoint
from watchdogd.model.base import Endpoint, Interval, MemberId, Mono
from watchdogd.model.seen import MemberState
from watchdogd.model.text import Outside

RETRY_S = 5.0
"""Until a client that could not be made is tried again: a certificate file may just be being replaced."""

HEARTBEAT_MS = 500
"""The shortest that pymongo allows. The end of a mongod shows in 20 ms, its return in 0.5 s (measured)."""

ANSWER_MS = 2000
"""What bounds the time until FROZEN: 2.0-2.5 s (measured); pymongo's own default is 20 s."""

_OPTIONS: Mapping[str, Any] = {
    # serverMonitoringMode is left at `auto`: it streams, as pymongo < 4.6 always does, and polls only inside
    # functions-as-a-service, where a stream does not survive.
    "directConnection": True,
    "heartbeatFrequencyMS": HEARTBEAT_MS,
    "connectTimeoutMS": ANSWER_MS,
    "appname": "mongo-watchdog",
}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One answer or failure, as a monitor thread saw it.

    `at`: when it was received. `state`: UP, DOWN, FROZEN or UNREACHABLE. `process_id`: hex of
    hello.topologyVersion.processId; None with mongod 4.2 and proxies. `born`: the birth of that process.
    `is_serving`: a standalone, writable primary or mongos. `peers`: host:port of all members that this one
    names, itself included. `detail`: why it is not UP and what to do about it, without a secret. `identity`: as
    `identity_of` has it.
    """

    member: MemberId
    at: Mono
    state: MemberState
    process_id: str | None = None
    born: Interval | None = None
    is_serving: bool = False
    peers: frozenset[str] = frozenset()
    detail: str = ""
    identity: str | None = None

    def says_the_same(self, other: Heartbeat | None) -> bool:
        """Say whether nothing has changed between the two but the time."""
        return other is not None and (self.state, self.process_id, self.is_serving, self.peers) == (
            other.state,
            other.process_id,
            other.is_serving,
            other.peers,
        )


class Heartbeats(Protocol):
    """The edge. All three methods are for one thread, and none of them blocks."""

    def watch(self, targets: Mapping[MemberId, Mapping[str, object]]) -> None:
        """Make the set of watched members exactly `targets`: member -> options to connect with."""

    def drain(self) -> list[Heartbeat]:
        """Return what has been heard since the last call, oldest first, of members that are still watched."""

    def close(self) -> None:
        """Watch nothing any more."""


class PymongoHeartbeats:
    """Heartbeats of real servers, by pymongo 3.11 or newer. Making one loads pymongo (0.1-0.3 s of CPU).

    `wake` is called from pymongo's threads, at once when a member says something new (its state, process,
    role or peers); what only repeats the last heartbeat, two per second and member, waits for the next
    `drain`. `submit` runs a job on some other thread: making a client reads certificates, closing one takes
    locks.
    """

    def __init__(self, wake: Callable[[], None], submit: Callable[[Callable[[], None]], None]) -> None:
        _load_pymongo()
        self._wake = wake
        self._submit = submit
        self._heard: SimpleQueue[Heartbeat] = SimpleQueue()
        self._watches: dict[MemberId, _Watch] = {}

    def watch(self, targets: Mapping[MemberId, Mapping[str, object]]) -> None:
        """See `Heartbeats.watch`. Other options for a member mean a new client."""
        kept = {key: one for key, one in self._watches.items() if targets.get(key) == one.options}
        begun = {key: _Watch(key, options, self._put) for key, options in targets.items() if key not in kept}
        for key in self._watches.keys() - kept.keys():
            self._end(self._watches[key])
        for one in begun.values():
            self._submit(one.open)
        self._watches = {**kept, **begun}

    def drain(self) -> list[Heartbeat]:
        """See `Heartbeats.drain`. It also begins anew what could not be begun `RETRY_S` ago."""
        now = time.monotonic()
        for one in self._watches.values():
            if one.retry_at is not None and one.retry_at <= now:
                one.retry_at = None
                self._submit(one.open)
        return [heartbeat for heartbeat in _emptied(self._heard) if heartbeat.member in self._watches]

    def close(self) -> None:
        """See `Heartbeats.close`. The clients are closed by jobs that this does not wait for."""
        self.watch({})

    def _end(self, one: _Watch) -> None:
        one.ended = True
        self._submit(one.close)

    def _put(self, heartbeat: Heartbeat, *, news: bool) -> None:
        self._heard.put(heartbeat)
        if news:
            self._wake()


def _load_pymongo() -> None:
    """Load it here, in one thread, and not with this module."""
    # It prefers pyOpenSSL where that is installed, which costs 5 MB more than the standard library's ssl, and has other
    # words for what fails than `classify` knows.
    sys.modules.setdefault("OpenSSL", None)  # type: ignore[arg-type] # what import takes for "there is none"
    import pymongo.monitoring  # noqa: F401, PLC0415


class _Watch:
    """One member and the client that monitors it.

    `open` and `close` are jobs; `heard` and `missed` are called by the one monitor thread of that client. By
    `ended` and `retry_at` the caller's thread and they tell each other something; each is one assignment.
    """

    def __init__(self, member: MemberId, options: Mapping[str, object], put: _Put) -> None:
        self.member = member
        self.options = dict(options)
        self.ended = False
        self.retry_at: Mono | None = None
        self._put = put
        self._client: _Closable | None = None
        self._lock = threading.Lock()  # open and close may run at the same time
        self._last: Heartbeat | None = None
        self._met = False  # has answered this client before: the options are right
        self._process_id: str | None = None
        self._born: Interval | None = None

    def open(self) -> None:
        with self._lock:
            if self.ended:
                return
            try:
                self._client = _client(self)
            except Exception as error:  # noqa: BLE001 - OSError, ssl's, pymongo's, ValueError: all mean the options
                mend = "mend the URI or the file that it names"
                why = f"no connection can be made like this: {Outside(error)}; {mend}"
                self._say(MemberState.UNREACHABLE, why)
                self.retry_at = time.monotonic() + RETRY_S

    def close(self) -> None:
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def heard(self, hello: Mapping[str, Any], duration: float) -> None:
        """Take an answer. `duration`: seconds since the question; the server may have waited."""
        at = time.monotonic()
        process_id = process_id_of(hello)
        if process_id != self._process_id:
            # Once per process. Its first answer is the first of a connection, never an awaited one, so
            # `duration` is what the network took; and the sooner after the birth, the less a step of that
            # host's clock can distort.
            self._process_id, self._born = process_id, birth(hello, at, duration)
        self._met = True
        serves, peers = is_serving(hello), peers_of(hello)
        identity = identity_of(hello)
        up = Heartbeat(self.member, at, MemberState.UP, process_id, self._born, serves, peers, identity=identity)
        self._tell(up)

    def missed(self, error: Exception) -> None:
        if type(error).__name__ != "_OperationCancelled":  # our own close() interrupts a heartbeat
            self._say(*classify(error, met=self._met))

    def _say(self, state: MemberState, detail: str) -> None:
        self._tell(Heartbeat(self.member, time.monotonic(), state, detail=detail))

    def _tell(self, heartbeat: Heartbeat) -> None:
        news = not heartbeat.says_the_same(self._last)
        self._last = heartbeat
        if not self.ended:
            self._put(heartbeat, news=news)


class _Put(Protocol):
    def __call__(self, heartbeat: Heartbeat, *, news: bool) -> None: ...


class _Closable(Protocol):
    def close(self) -> None: ...


def _client(watch: _Watch) -> _Closable:
    """Make the client, which monitors at once; raises what pymongo and ssl raise for wrong options."""
    from pymongo import MongoClient, monitoring  # noqa: PLC0415 - loaded by now

    class Listener(monitoring.ServerHeartbeatListener):
        def started(self, event: monitoring.ServerHeartbeatStartedEvent) -> None: ...

        def succeeded(self, event: monitoring.ServerHeartbeatSucceededEvent) -> None:
            watch.heard(event.reply.document, event.duration)

        def failed(self, event: monitoring.ServerHeartbeatFailedEvent) -> None:
            watch.missed(event.reply)

    host, port = parse_endpoint(watch.member.address)
    bracketed = f"[{host}]" if ":" in host else host  # pymongo reads an address like the host of a URI
    options = {**watch.options, **_OPTIONS}
    client: _Closable = MongoClient(bracketed, port, event_listeners=[Listener()], **options)
    return client


def _emptied(queue: SimpleQueue[Heartbeat]) -> Iterable[Heartbeat]:
    while not queue.empty():  # one thread alone takes
        yield queue.get_nowait()


def process_id_of(hello: Mapping[str, Any]) -> str | None:
    """Return the name of this run of the server (4.4 and newer); it changes at every start of the process."""
    version = hello.get("topologyVersion")
    return Outside(version["processId"]) if isinstance(version, Mapping) and "processId" in version else None


def identity_of(hello: Mapping[str, Any]) -> str | None:
    """Return what tells the server that answers from every other one, whatever address it was asked at.

    Its process id. Without one (before 4.4) the name of its replica set with its own name and those of all members:
    two sets that agree in all that cannot be told apart. None for one that is alone and gives no process id.
    """
    if (process_id := process_id_of(hello)) is not None:
        return process_id
    name, me = hello.get("setName"), hello.get("me")
    return Outside(f"{name}/{me} of {','.join(sorted(peers_of(hello)))}") if name and me else None


def birth(hello: Mapping[str, Any], at: Mono, latency_s: float) -> Interval | None:
    """Return when the process that answers was born, by our monotonic clock.

    The processId is an ObjectId: it begins with the second of its making by that host's clock, and
    hello.localTime is what this clock says now. Only their difference is used, so it does not matter what
    time that host believes it is. `at`: when the answer was received; `latency_s`: localTime (cut to
    milliseconds) was read at most this long before. A clock that was set back since the birth says nothing:
    then it is any time before `at`.
    """
    now, made = hello.get("localTime"), _made_at(hello)
    if made is None or not isinstance(now, datetime):
        return None
    age_s = (_utc(now) - _utc(made)).total_seconds()
    born = Interval(at - latency_s - 0.001 - age_s, min(at, at - age_s + 1.0))
    return born if born.lo <= at else Interval.ever_until(at)


def _made_at(hello: Mapping[str, Any]) -> datetime | None:
    version = hello.get("topologyVersion")
    name = version.get("processId") if isinstance(version, Mapping) else None
    made = getattr(name, "generation_time", None)  # bson.ObjectId
    return made if isinstance(made, datetime) else None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)  # pymongo gives naive UTC


def is_serving(hello: Mapping[str, Any]) -> bool:
    """Say whether it takes writes: a standalone, the writable primary, a mongos. Old ones say `ismaster`."""
    return bool(hello.get("isWritablePrimary") or hello.get("ismaster")) or hello.get("msg") == "isdbgrid"


def peers_of(hello: Mapping[str, Any]) -> frozenset[str]:
    """Return host:port of the members it names, and its own: nobody else names a hidden one."""
    named = [name for key in ("hosts", "passives", "arbiters") for name in hello.get(key) or ()]
    return frozenset(filter(None, (_endpoint(str(name)) for name in (*named, hello.get("me")) if name)))


def _endpoint(text: str) -> str:
    """Return it as the URI's members are written, empty for what no connection can lead to."""
    try:
        return str(Endpoint(*parse_endpoint(text))).lower()
    except ValueError:
        return ""


# ---- failures

_DNS = re.compile(r"\[Errno -\d+\]|getaddrinfo failed")  # only getaddrinfo(3) has negative ones
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL}
_SHUTTING_DOWN = {91, 11600}  # ShutdownInProgress, InterruptedAtShutdown (mongo/base/error_codes.yml)
_HANDSHAKE = "SSL handshake failed: "
_MOST = 4000  # characters of an error that are looked at: a server may say 48 MB, which these patterns walk many times
_ADORNMENT = re.compile(r"^\S+:\d+: | \(configured timeouts: .*\)$|, full error: .*$", re.DOTALL)


def classify(error: Exception, *, met: bool) -> tuple[MemberState, str]:
    """Return what a failed heartbeat says of a member, and why. `met`: it has answered to these options.

    Of a network error pymongo keeps its kind and its words; each rule was seen with 3.11.0 and 4.20.0. A
    connect that times out (a host that is gone, a full backlog) cannot be told from an answer that does not
    come: both are FROZEN.
    """
    from pymongo import errors  # noqa: PLC0415 - loaded by now

    said = _words(error)
    if isinstance(error, errors.NetworkTimeout):
        return MemberState.FROZEN, (
            f"no answer within {ANSWER_MS / 1000:g} s: mongod is frozen or overloaded, its host is gone, or "
            "a firewall drops what is sent to this port"
        )
    if (fault := _fault_on_the_way(error, said, met=met)) is not None:
        return MemberState.UNREACHABLE, fault
    if isinstance(error, errors.AutoReconnect) or getattr(error, "code", None) in _SHUTTING_DOWN:
        mend = "; start mongod there, or mend host and port in the URI"
        if _hung_up(said):
            mend = " before its first answer; does it require TLS, or is it at its maximum of connections?"
        return MemberState.DOWN, f"{said}{'' if met else mend}"
    return MemberState.UNREACHABLE, (
        f"this port does not speak the MongoDB protocol: {type(error).__name__}: {said}; mend host and port in the URI"
    )


def _fault_on_the_way(error: Exception, said: Outside, *, met: bool) -> str | None:
    """Return the fault that lies in the name, in TLS or on our own host, and not in the member."""
    if _DNS.search(said) or isinstance(error, UnicodeError):
        return f"DNS: {said}; mend the name in the URI or this host's resolver"
    number = _ERRNO.search(said)
    if number is not None and int(number[1]) in _OURS:
        return f"the watchdog's own limits: {said}; give it more (LimitNOFILE, memory, ports)"
    is_tls = said.startswith(_HANDSHAKE) or "[SSL: " in said or "CERTIFICATE_VERIFY_FAILED" in said
    ended = met and _hung_up(said)  # in the middle of a handshake that is known to be right
    if is_tls and not ended:
        reason = Outside(said.removeprefix(_HANDSHAKE))
        return f"TLS: {reason}; compare the tls options of the URI with net.tls of this mongod"
    return None


def _hung_up(said: str) -> bool:
    return any(it in said for it in ("connection closed", "EOF occurred", f"[Errno {errno.ECONNRESET}]"))


def _words(error: Exception) -> Outside:
    """Return the reason alone: around it stand host and port, the time-outs and the raw reply."""
    text = str(error)[:_MOST]
    handshake = _HANDSHAKE if text.startswith(_HANDSHAKE) else ""
    return Outside(handshake + _ADORNMENT.sub("", text.removeprefix(_HANDSHAKE)))
