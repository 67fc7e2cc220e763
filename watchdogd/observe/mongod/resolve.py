"""Names to addresses: which members a URI names and where they are; and the few threads for all that blocks.

It must never block its caller and never repeat a credential: pymongo gets a URI without user, password and
options, so what it says about that can be shown. A job that waits for a dead name server ends with glibc's
patience (resolv.conf(5): 5 s x 2 attempts x servers). The same question is never asked twice at a time, so a
dead name takes one thread of the few, and others wait behind it at most that long.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from watchdogd.config import DeploymentConfig
from watchdogd.config.addresses import parse_endpoint, read_uri
from watchdogd.model.base import Endpoint
from watchdogd.model.text import Outside, shown
from watchdogd.observe.asking import taken

Job = Callable[[], None]

_Question = DeploymentConfig | tuple[str, int]

DEFAULT_PORT = 27017

SRV_TIMEOUT_S = 5.0
"""For each of the two questions (SRV, TXT) of a mongodb+srv:// URI."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """What a deployment's URI names: members as host, port, and the options of a connection to them.

    `deployment`: as it was asked for; its URI may be another one by the time of the answer. `options`: those for TLS,
    as config.addresses has them; one of them can be the password of a key, so they are never shown. With `error` there
    are no members.
    """

    deployment: DeploymentConfig
    members: tuple[tuple[str, int], ...] = ()
    options: Mapping[str, object] = field(default_factory=dict, repr=False)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a host is: all its addresses, for a driver takes any of them. With `error` there are none."""

    host: str
    port: int
    endpoints: frozenset[Endpoint] = frozenset()
    error: str = ""


class Resolver(Protocol):
    """The edge. Questions are answered by a later `drain`; asking again before that changes nothing."""

    def seeds(self, deployment: DeploymentConfig) -> None:
        """Ask what the deployment's URI names."""

    def addresses(self, host: str, port: int) -> None:
        """Ask for the addresses of a host name, or of an IP address as text."""

    def drain(self) -> list[Seeds | Addresses]:
        """Return the answers since the last call."""


class Pool:
    """At most `size` daemon threads, started when a job finds none idle. Nobody waits for them to end."""

    def __init__(self, size: int = 4) -> None:
        self._size = size
        self._started = 0
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._idle = threading.Semaphore(0)  # one count per thread that has nothing to do
        self._lock = threading.Lock()

    def submit(self, job: Job) -> None:
        """Have the job done as soon as a thread is free. It turns its exceptions into results of its own."""
        self._jobs.put(job)
        with self._lock:
            if self._started < self._size and not self._idle.acquire(blocking=False):
                self._started += 1
                threading.Thread(target=self._work, name=f"pool-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            job = self._next()
            try:
                job()
            except Exception:  # noqa: BLE001 - a bug: it is shown, and the thread goes on for the other jobs
                sys.stderr.writelines(f"| {shown(line)}\n" for line in traceback.format_exc().splitlines())
            del job  # what it holds must not live until the next one

    def _next(self) -> Job:
        with contextlib.suppress(Empty):
            return self._jobs.get_nowait()
        self._idle.release()
        return self._jobs.get()


class PoolResolver:
    """The real resolver. `wake` is called from the pool's threads when there is an answer.

    `seeds`, `addresses` and `drain` are for one thread.
    """

    def __init__(self, pool: Pool, wake: Callable[[], None]) -> None:
        self._pool = pool
        self._wake = wake
        self._asked: set[_Question] = set()
        self._answers: SimpleQueue[tuple[_Question, Seeds | Addresses]] = SimpleQueue()

    def seeds(self, deployment: DeploymentConfig) -> None:
        """See `Resolver.seeds`; asks DNS for mongodb+srv:// URIs only."""
        self._ask(deployment, lambda: seeds_of(deployment))

    def addresses(self, host: str, port: int) -> None:
        """See `Resolver.addresses`; an IP address is answered at once."""
        key = (host, port)
        try:
            answer = Addresses(host, port, frozenset({Endpoint(normalise(host), port)}))
        except ValueError:
            self._ask(key, lambda: look_up(host, port))
        else:
            self._answer(key, answer)

    def drain(self) -> list[Seeds | Addresses]:
        """See `Resolver.drain`."""
        found = taken(self._answers)
        self._asked.difference_update([key for key, _ in found])
        return [answer for _, answer in found]

    def _ask(self, key: _Question, look: Callable[[], Seeds | Addresses]) -> None:
        if key not in self._asked:
            self._asked.add(key)
            self._pool.submit(lambda: self._answer(key, look()))

    def _answer(self, key: _Question, answer: Seeds | Addresses) -> None:
        self._answers.put((key, answer))
        self._wake()


def normalise(host: str) -> str:
    """Return an IP address in the form of `Endpoint.host`: the kernel's, v4-mapped as IPv4, without a zone.

    Raises ValueError for anything else, also for a host name.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    address = getattr(address, "ipv4_mapped", None) or address
    return socket.inet_ntop(socket.AF_INET if address.version == 4 else socket.AF_INET6, address.packed)  # noqa: PLR2004


def look_up(host: str, port: int) -> Addresses:
    """Ask the host's resolver (getaddrinfo(3)) for both families; blocks. Errors are in the answer."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        why = Outside(getattr(error, "strerror", None) or error)
        return Addresses(host, port, error=f"DNS: {host}: {why}; mend the name or this host's resolver")
    return Addresses(host, port, frozenset(Endpoint(normalise(str(where[0])), port) for *_, where in found))


def seeds_of(deployment: DeploymentConfig) -> Seeds:
    """Read the URI, with what DNS says for mongodb+srv://, which blocks. Errors are in the answer."""
    try:
        uri = read_uri(deployment.uri)
    except ValueError as error:
        return Seeds(deployment, error=f"the URI of {deployment.name} {error}")
    if uri.scheme == "mongodb":
        named = [(host.lower(), port or DEFAULT_PORT) for host, port in uri.hosts]
        return Seeds(deployment, tuple(dict.fromkeys(named)), uri.tls)
    bare = f"{uri.scheme}://{uri.hosts[0][0]}/" + (f"?srvServiceName={uri.srv_service}" if uri.srv_service else "")
    try:
        members = _named_by_dns(bare)
    except Exception as error:  # noqa: BLE001 - pymongo's own, dnspython's and ValueError, by version
        return Seeds(deployment, error=f"{Outside(bare)} names no member: {Outside(error)}")
    return Seeds(deployment, members, uri.tls)


def _named_by_dns(bare: str) -> tuple[tuple[str, int], ...]:
    """Return host and port of each; raises what pymongo and dnspython raise, and ValueError."""
    from pymongo.uri_parser import parse_uri  # noqa: PLC0415 - 22 MB

    parsed = parse_uri(bare, validate=False, normalize=False, connect_timeout=SRV_TIMEOUT_S)
    # DNS can name anything: what is no host name must not get further than this.
    return tuple(dict.fromkeys(parse_endpoint(str(Endpoint(host, port))) for host, port in parsed["nodelist"]))
