"""The edge that asks an address, by one `hello`, which server process answers there.

Who is asked may be a stranger: the question holds no name, no password and no client certificate, and is over within
`ANSWER_S`. Only an address that turns out to be a member's is asked a second time, at once: two different answers mean
something in between that leads to several servers, and by the second one TLS is held against the member's own name,
which nobody knows before the first.

Why not a MongoClient: that goes on asking, on three connections. Which addresses may be asked at all is not decided
here (learned.py). It must never block its caller.
"""

from __future__ import annotations

import enum
import itertools
import socket
import ssl
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from watchdogd.model.base import Endpoint, Mono
from watchdogd.model.text import Outside
from watchdogd.observe.mongod.heartbeats import identity_of

ANSWER_S = 2.0
"""For each of the two questions, from the connect to the answer: as long as a heartbeat waits."""

_MOST = 1 << 20
"""Bytes of an answer that are read. That of a replica set with 50 members is under 10 kB; a stranger may say 48 MB."""

# Since MongoDB 3.6 there is OP_MSG, but the first message of every driver is this one, which all versions answer (wire
# protocol of MongoDB, "OP_QUERY": kept for hello and isMaster alone). 4.2 does not know the word hello.
_OP_QUERY, _OP_REPLY = 2004, 1
_HEADER = struct.Struct("<iiii")  # length, request id, in answer to, opcode
_QUERY = struct.Struct("<i11sii")  # flags, collection, skip, return
_REPLY = struct.Struct("<iqii")  # flags, cursor, from, count
_request_ids = itertools.count(1)


class Said(enum.Enum):
    """What came of the question."""

    A_PROCESS = "a process"  # it told its identity
    NO_NAME = "no name"  # MongoDB answered, and told no identity (before 4.4, alone)
    SEVERAL = "several"  # two questions were answered by two processes
    NOTHING = "nothing"  # no answer of a MongoDB; `why` says what instead


@dataclass(frozen=True, slots=True)
class Question:
    """Who answers at `remote`? `ways`: the TLS options to try, in this order, until MongoDB answers.

    `hosts`: the host names of each process that is a member, by its identity.
    """

    remote: Endpoint
    ways: tuple[Mapping[str, object], ...] = field(default=({},), repr=False)  # may hold the password of a key
    hosts: Mapping[str, frozenset[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer. `identity`: of the process, as `heartbeats.identity_of` has it."""

    remote: Endpoint
    said: Said
    identity: str | None = None
    why: str = ""


class Asker(Protocol):
    """The edge. A question is answered by a later `drain`; both methods are for one thread, and neither blocks."""

    def ask(self, question: Question) -> None:
        """Ask it."""

    def drain(self) -> list[Heard]:
        """Return the answers since the last call."""


class SocketAsker:
    """The real one. `submit` runs a job on another thread; `wake` is called from there when there is an answer."""

    def __init__(self, submit: Callable[[Callable[[], None]], None], wake: Callable[[], None]) -> None:
        self._submit = submit
        self._wake = wake
        self._answers: SimpleQueue[Heard] = SimpleQueue()

    def ask(self, question: Question) -> None:
        """See Asker.ask."""
        self._submit(lambda: self._answer(question))

    def drain(self) -> list[Heard]:
        """See Asker.drain."""
        answers = []
        while not self._answers.empty():  # this thread alone takes
            answers.append(self._answers.get_nowait())
        return answers

    def _answer(self, question: Question) -> None:
        self._answers.put(answer(question))
        self._wake()


def answer(question: Question) -> Heard:
    """Ask, and return what came of it; blocks for up to twice ANSWER_S for each way. Errors are in the answer."""
    heard = Heard(question.remote, Said.NOTHING, why="nobody was asked")
    for way in question.ways:
        try:
            heard = _answer(question, way)
        except Exception as error:  # noqa: BLE001 - OSError, ssl's, bson's, struct's: all mean that there is no answer
            heard = Heard(question.remote, Said.NOTHING, why=_words(error))
        else:
            break
    return heard


def _answer(question: Question, way: Mapping[str, object]) -> Heard:
    identity = identity_of(_hello(question.remote, _context(way), None))
    if identity is None:
        return Heard(question.remote, Said.NO_NAME)
    names = question.hosts.get(identity)
    if names is None:
        return Heard(question.remote, Said.A_PROCESS, identity)
    again = identity_of(_hello_of_a_member(question.remote, way, sorted(names)))
    if again != identity:
        return Heard(question.remote, Said.SEVERAL)
    return Heard(question.remote, Said.A_PROCESS, identity)


def _hello_of_a_member(remote: Endpoint, way: Mapping[str, object], names: list[str]) -> Mapping[str, Any]:
    """Ask once more; with TLS the certificate must be for one of the names of the member."""
    context = _context(way)
    if context is None or not _checks_names(way):
        return _hello(remote, context, None)
    context.check_hostname = True
    for name in names[:-1]:
        try:
            return _hello(remote, context, name)
        except ssl.SSLCertVerificationError:
            continue
    return _hello(remote, context, names[-1])


def _context(way: Mapping[str, object]) -> ssl.SSLContext | None:
    """Return how TLS is spoken with these options, None without TLS. Never with a client certificate."""
    if way.get("tls") != "true":
        return None
    context = ssl.create_default_context(cafile=_file(way, "tlsCAFile"))
    # The name is checked by the second question, when it is known whose it must be.
    context.check_hostname = False
    if _trusts_anybody(way):
        context.verify_mode = ssl.CERT_NONE
    elif revoked := _file(way, "tlsCRLFile"):
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        context.load_verify_locations(cafile=revoked)
    return context


def _file(way: Mapping[str, object], option: str) -> str | None:
    return str(way[option]) if way.get(option) else None


def _checks_names(way: Mapping[str, object]) -> bool:
    return way.get("tlsAllowInvalidHostnames") != "true" and not _trusts_anybody(way)


def _trusts_anybody(way: Mapping[str, object]) -> bool:
    return "true" in {way.get("tlsInsecure"), way.get("tlsAllowInvalidCertificates")}


def _hello(remote: Endpoint, tls: ssl.SSLContext | None, name: str | None) -> Mapping[str, Any]:
    """Return what it answers. `name`: whose certificate it must show; None: anybody's that the CA has signed."""
    until = time.monotonic() + ANSWER_S
    with closing(socket.create_connection(remote, timeout=ANSWER_S)) as plain:
        if tls is None:
            return _say_hello(plain, until)
        plain.settimeout(_left(until))
        with closing(tls.wrap_socket(plain, server_hostname=name)) as wrapped:
            return _say_hello(wrapped, until)


def _say_hello(connection: socket.socket, until: Mono) -> Mapping[str, Any]:
    import bson  # noqa: PLC0415 - pymongo's, and loaded by now

    number = next(_request_ids)
    query = _QUERY.pack(0, b"admin.$cmd\0", 0, -1) + bson.encode({"isMaster": 1, "helloOk": True, "client": _CLIENT})
    connection.settimeout(_left(until))
    connection.sendall(_HEADER.pack(_HEADER.size + len(query), number, 0, _OP_QUERY) + query)
    length, _, to, opcode = _HEADER.unpack(_read(connection, _HEADER.size, until))
    if (to, opcode) != (number, _OP_REPLY) or not _HEADER.size + _REPLY.size < length <= _MOST:
        raise ValueError("this port does not speak the MongoDB protocol")
    document = _read(connection, length - _HEADER.size, until)[_REPLY.size :]
    said: Mapping[str, Any] = bson.decode(document)
    if said.get("ok") != 1:
        raise ValueError(f"it answers with an error: {Outside(said.get('errmsg') or said)}")
    return said


_CLIENT = {
    "application": {"name": "mongo-watchdog"},
    "driver": {"name": "mongo-watchdog", "version": "1"},
    "os": {"type": "Linux"},
}
"""Shown in the log of who is asked, so that nobody there has to wonder (MongoDB's handshake specification)."""


def _read(connection: socket.socket, size: int, until: Mono) -> bytes:
    parts, missing = [], size
    while missing:
        connection.settimeout(_left(until))
        part = connection.recv(min(missing, 1 << 16))
        if not part:
            raise ConnectionError("it closed the connection; does it require TLS?")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _left(until: Mono) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S:g} s"
    if isinstance(error, OSError) and error.strerror:
        return str(Outside(error.strerror))
    return f"{Outside(error)}"
