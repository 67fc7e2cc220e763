"""The edge that asks a server one question: which process answers at an address, or whether it asks for credentials.

Which process: by one `hello`. Who is asked may be a stranger. Only an address that turns out to be a member's is asked
a second time, at once: two different answers mean something in between that leads to several servers, and by the second
one TLS is held against the member's own name, which nobody knows before the first.

Whether it asks for credentials: by one command to a member, which is refused where access control is on.

Neither question holds a name, a password or a client certificate, and each is over within `ANSWER_S`. Why not a
MongoClient: that goes on asking, on three connections. Who may be asked at all is not decided here (learned.py,
access.py). It must never block its caller.
"""

from __future__ import annotations

import enum
import itertools
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, Protocol

from watchdogd.config.addresses import parse_endpoint
from watchdogd.model.base import Endpoint, Incarnation, MemberId, Mono
from watchdogd.model.text import Outside
from watchdogd.observe.asking import left_s, reason, taken
from watchdogd.observe.mongod.heartbeats import identity_of

ANSWER_S = 2.0
"""For each question, from the connect to the answer: as long as a heartbeat waits."""

_MOST = 1 << 20
"""Bytes of an answer that are read. That of a replica set with 50 members is under 10 kB; a stranger may say 48 MB."""

ACCESS_PROBE = "mongo-watchdog access probe"
"""The name of the question for access control: of its connection, and the comment of its command."""

_UNAUTHORIZED = 13
"""The error code of a command that needs credentials which the connection has not (mongo/base/error_codes.yml)."""

_NEEDS_CREDENTIALS: Mapping[str, object] = {"getParameter": 1, "quiet": 1, "comment": ACCESS_PROBE, "$db": "admin"}
"""Reads one flag. With 4.2.6, 4.4.2, 5.0.4 and 6.0.27, each alone, as a secondary and as a member of no set yet, it was
answered without access control and with `transitionToAuth`, and refused with it: also on loopback before there is any
user, where `listDatabases` is answered. `find` needs a primary or a secondary."""

# Since MongoDB 3.6 there is OP_MSG, but the first message of every driver is this one, which all versions answer (wire
# protocol of MongoDB, "OP_QUERY": kept for hello and isMaster alone). 4.2 does not know the word hello.
_OP_QUERY, _OP_REPLY, _OP_MSG = 2004, 1, 2013
_HEADER = struct.Struct("<iiii")  # length, request id, in answer to, opcode
_QUERY = struct.Struct("<i11sii")  # flags, collection, skip, return
_REPLY = struct.Struct("<iqii")  # flags, cursor, from, count
_MSG = struct.Struct("<iB")  # flags, kind of the first section: a document
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


@dataclass(frozen=True, slots=True)
class Probe:
    """Does this member ask for credentials? `incarnation` and `identity`: of the process that is meant.

    `way`: the TLS options of a connection to it.
    """

    member: MemberId
    incarnation: Incarnation
    identity: str | None = None
    way: Mapping[str, object] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Probed:
    """The answer. `on`: whether its access control is; None: not told, and `why` says why not."""

    incarnation: Incarnation
    on: bool | None
    why: str = ""


class Asker(Protocol):
    """The edge. A question is answered by a later `drain`; both methods are for one thread, and neither blocks."""

    def ask(self, question: Question | Probe) -> None:
        """Ask it."""

    def drain(self) -> list[Heard | Probed]:
        """Return the answers since the last call."""


class SocketAsker:
    """The real one. `submit` runs a job on another thread; `wake` is called from there when there is an answer."""

    def __init__(self, submit: Callable[[Callable[[], None]], None], wake: Callable[[], None]) -> None:
        self._submit = submit
        self._wake = wake
        self._answers: SimpleQueue[Heard | Probed] = SimpleQueue()

    def ask(self, question: Question | Probe) -> None:
        """See Asker.ask."""
        self._submit(lambda: self._answer(question))

    def drain(self) -> list[Heard | Probed]:
        """See Asker.drain."""
        return taken(self._answers)

    def _answer(self, question: Question | Probe) -> None:
        self._answers.put(probed(question) if isinstance(question, Probe) else answer(question))
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


def probed(probe: Probe) -> Probed:
    """Ask, and return what came of it; blocks for up to ANSWER_S for each address. Errors are in the answer."""
    try:
        return _probed(probe)
    except Exception as error:  # noqa: BLE001 - as for `answer`
        return Probed(probe.incarnation, None, _words(error))


def _probed(probe: Probe) -> Probed:
    host, port = parse_endpoint(probe.member.address)
    context = _context(probe.way)
    if context is not None:
        context.check_hostname = _checks_names(probe.way)
    with _connected((host, port), context, host) as (connection, until):
        if identity_of(_say_hello(connection, until, ACCESS_PROBE)) != probe.identity:
            return Probed(probe.incarnation, None, "another process answers there now")
        said = _say(connection, until, _NEEDS_CREDENTIALS)
    if said.get("ok") == 1:
        return Probed(probe.incarnation, on=False)
    if said.get("code") == _UNAUTHORIZED:
        return Probed(probe.incarnation, on=True)
    return Probed(probe.incarnation, None, f"it answers with an error: {Outside(said.get('errmsg') or said)}")


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
    with _connected(remote, tls, name) as (connection, until):
        said = _say_hello(connection, until, "mongo-watchdog")
    if said.get("ok") != 1:
        raise ValueError(f"it answers with an error: {Outside(said.get('errmsg') or said)}")
    return said


@contextmanager
def _connected(
    remote: tuple[str, int], tls: ssl.SSLContext | None, name: str | None
) -> Iterator[tuple[socket.socket, Mono]]:
    """Connect; give the connection, and until when all must be said."""
    until = time.monotonic() + ANSWER_S
    with closing(socket.create_connection(remote, timeout=ANSWER_S)) as plain:
        if tls is None:
            yield plain, until
            return
        plain.settimeout(left_s(until))
        with closing(tls.wrap_socket(plain, server_hostname=name)) as wrapped:
            yield wrapped, until


def _say_hello(connection: socket.socket, until: Mono, name: str) -> Mapping[str, Any]:
    """Return what it answers. `name` is shown in the log of who is asked, so that nobody there has to wonder.

    MongoDB's handshake specification has the form of the client's metadata.
    """
    import bson  # noqa: PLC0415 - pymongo's, and loaded by now

    client = {
        "application": {"name": name},
        "driver": {"name": "mongo-watchdog", "version": "1"},
        "os": {"type": "Linux"},
    }
    hello = bson.encode({"isMaster": 1, "helloOk": True, "client": client})
    query = _QUERY.pack(0, b"admin.$cmd\0", 0, -1) + hello
    return _said(connection, until, (_OP_QUERY, query), (_OP_REPLY, _REPLY.size))


def _say(connection: socket.socket, until: Mono, command: Mapping[str, object]) -> Mapping[str, Any]:
    import bson  # noqa: PLC0415 - same

    return _said(connection, until, (_OP_MSG, _MSG.pack(0, 0) + bson.encode(command)), (_OP_MSG, _MSG.size))


def _said(
    connection: socket.socket, until: Mono, message: tuple[int, bytes], answer: tuple[int, int]
) -> Mapping[str, Any]:
    """Return the document of the answer. `message`: its opcode and content; `answer`: its opcode, what precedes it."""
    import bson  # noqa: PLC0415 - same

    number, (opcode, content) = next(_request_ids), message
    connection.settimeout(left_s(until))
    connection.sendall(_HEADER.pack(_HEADER.size + len(content), number, 0, opcode) + content)
    length, _, to, opcode = _HEADER.unpack(_read(connection, _HEADER.size, until))
    if (to, opcode) != (number, answer[0]) or not _HEADER.size + answer[1] < length <= _MOST:
        raise ValueError("this port does not speak the MongoDB protocol")
    document: Mapping[str, Any] = bson.decode(_read(connection, length - _HEADER.size, until)[answer[1] :])
    return document


def _read(connection: socket.socket, size: int, until: Mono) -> bytes:
    parts, missing = [], size
    while missing:
        connection.settimeout(left_s(until))
        part = connection.recv(min(missing, 1 << 16))
        if not part:
            raise ConnectionError("it closed the connection; does it require TLS?")
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER_S:g} s"
    return reason(error)
