"""The edge that asks an app by one request how it is: the app's own answer, as a visitor gets it.

Over HTTP, HTTPS, HTTP on a Unix socket, and the uwsgi protocol on both: most sites listen by that alone, behind nginx.
Who answers may be anybody: all of a request is over within its `timeout`, at most MOST_HEAD and MOST_BODY bytes are
read, no redirect is followed (its status is the answer), and nothing of a body is kept or told. It must never decide
what an answer means, and never block its caller.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Protocol

from watchdogd import __version__
from watchdogd.config import HealthConfig, Scheme
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.text import Outside
from watchdogd.observe.asking import left_s, reason, taken
from watchdogd.observe.tcp.listening import backlog, backlog_of_unix

MOST_HEAD = 1 << 14
"""Bytes until the empty line that ends the headers; nginx and uWSGI take less of an app by default (4 to 8 kB)."""
MOST_BODY = 1 << 16
"""Bytes of the body that are read, so that the app sees its answer taken. What comes after says nothing more."""

DEFAULT_BACKLOG = 100
"""uWSGI's `listen`, where that cannot be read: the app is on another host, say."""

_AGENT = f"mongo-watchdog/{__version__}"
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_END = re.compile(rb"\r?\n\r?\n")
_LENGTH = re.compile(rb"\r?\ncontent-length:[ \t]*([0-9]{1,15})[ \t]*\r?\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one request. `began`: before the connect; `ended`: when it was over.

    `good`: a whole answer with a status that is expected. `reached`: the app was asked; else nothing is said of it.
    `says`: the status, or what came instead.
    """

    began: Mono
    ended: Mono
    good: bool
    reached: bool
    says: str


class Prober(Protocol):
    """The edge. Answers come by a later `drain`; both methods are for one thread, and neither blocks."""

    def ask(self, instance: InstanceId, health: HealthConfig, most: int) -> int:
        """Make so many requests at once, at least one; return how many it are.

        Fewer than `most` where half of the queue in which they wait is less.
        """

    def drain(self) -> list[tuple[InstanceId, Answer]]:
        """Return the answers since the last call."""


class ProberByThreads:
    """The real one: a thread for each request, which ends with it. `wake` is called from there with each answer.

    How many there are at once is for the caller. A name server that is dead keeps a thread beyond its timeout.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._answers: SimpleQueue[tuple[InstanceId, Answer]] = SimpleQueue()

    def ask(self, instance: InstanceId, health: HealthConfig, most: int) -> int:
        """See Prober.ask."""
        many = max(1, min(most, _backlog(health) // 2)) if most > 1 else 1
        for _ in range(many):
            thread = threading.Thread(target=self._ask, args=(instance, health), name="health", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # no thread can be had
                now = time.monotonic()
                self._answers.put((instance, Answer(now, now, good=False, reached=False, says=str(error))))
        return many

    def drain(self) -> list[tuple[InstanceId, Answer]]:
        """See Prober.drain."""
        return taken(self._answers)

    def _ask(self, instance: InstanceId, health: HealthConfig) -> None:
        self._answers.put((instance, probe(health)))
        self._wake()


def _backlog(health: HealthConfig) -> int:
    known = backlog_of_unix(health.url.socket) if health.url.scheme.is_unix else backlog(health.url.port)
    return DEFAULT_BACKLOG if known is None else known


class _BadlyError(Exception):
    """The app was asked, and did not answer as one does; the text says how."""


def probe(health: HealthConfig) -> Answer:
    """Ask once, and return what came of it; blocks up to its timeout. Errors are in the answer."""
    began = time.monotonic()
    until = began + health.timeout_s
    good = reached = False
    try:
        with contextlib.closing(_connected(health, until)) as connection:
            reached = True
            connection.settimeout(left_s(until))
            connection.sendall(_request(health))
            status = _status(connection, until)
    except _BadlyError as error:
        reached, says = True, str(error)
    except TimeoutError:
        reached, says = True, f"no whole answer within {health.timeout_s:g} s"
    except Exception as error:  # noqa: BLE001 - OSError, ssl's, UnicodeError of a name: all mean that there is no answer
        says = _words(error) if not reached else f"no answer: {_words(error)}"
    else:
        low, high = health.expect
        good, says = low <= status <= high, f"{status}"
    return Answer(began, time.monotonic(), good, reached, says)


def _connected(health: HealthConfig, until: Mono) -> socket.socket:
    """Return a connection to the app; raises OSError where nobody can be asked, _BadlyError where nobody accepts."""
    url = health.url
    if url.scheme.is_unix:
        connection = socket.socket(socket.AF_UNIX)
        with contextlib.ExitStack() as failed:
            failed.callback(connection.close)
            connection.settimeout(left_s(until))
            try:
                connection.connect(url.socket)
            except BlockingIOError:
                raise _BadlyError("its listen queue is full") from None
            failed.pop_all()
        return connection
    plain = _to_one_of(url.host, url.port, until)
    if url.scheme is not Scheme.HTTPS:
        return plain
    with contextlib.ExitStack() as failed:
        failed.callback(plain.close)
        plain.settimeout(left_s(until))
        wrapped = _context(health).wrap_socket(plain, server_hostname=_name(health))
        failed.pop_all()
    return wrapped


def _to_one_of(host: str, port: int, until: Mono) -> socket.socket:
    """Connect to the first of its addresses that takes it; raises the last error."""
    places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    if time.monotonic() >= until:  # nobody was asked yet
        raise OSError("its name was not found in time")
    for number, (family, kind, protocol, _, place) in enumerate(places, 1):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(left_s(until))
            connection.connect(place)
        except OSError:
            connection.close()
            if number == len(places):
                raise
        else:
            return connection
    raise OSError("its name has no address")


def _context(health: HealthConfig) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if not health.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _name(health: HealthConfig) -> str:
    """Return whose certificate it must be: the host without its port."""
    given = health.host
    if not given:
        return health.url.host
    return given[1:].partition("]")[0] if given.startswith("[") else given.partition(":")[0]


def _request(health: HealthConfig) -> bytes:
    """Return the whole request: HTTP/1.0, to which nobody answers in chunks, and after which the server closes."""
    host = health.host or health.url.authority
    if health.url.scheme.is_uwsgi:
        return _uwsgi_request(health, host)
    head = (f"GET {health.url.target} HTTP/1.0", f"Host: {host}", f"User-Agent: {_AGENT}", "Accept: */*")
    return "\r\n".join([*head, "Connection: close", "", ""]).encode("latin-1")


def _uwsgi_request(health: HealthConfig, host: str) -> bytes:
    """Return a packet of modifier 0: its size, then each variable and its value after their sizes (uWSGI, Protocol).

    The variables are those of nginx's uwsgi_params; REMOTE_ADDR is ours.
    """
    url = health.url
    name, _, port = host.rpartition(":") if not host.endswith("]") and ":" in host else (host, "", "80")
    variables = {
        "QUERY_STRING": url.target.partition("?")[2],
        "REQUEST_METHOD": "GET",
        "CONTENT_TYPE": "",
        "CONTENT_LENGTH": "",
        "REQUEST_URI": url.target,
        "PATH_INFO": _decoded(url.path),
        "SERVER_PROTOCOL": "HTTP/1.0",
        "REQUEST_SCHEME": "http",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "0",
        "SERVER_NAME": name,
        "SERVER_PORT": port,
        "HTTP_HOST": host,
        "HTTP_USER_AGENT": _AGENT,
        "HTTP_ACCEPT": "*/*",
    }
    texts = [text.encode("latin-1") for pair in variables.items() for text in pair]
    body = b"".join(struct.pack("<H", len(text)) + text for text in texts)
    return struct.pack("<BHB", 0, len(body), 0) + body


def _decoded(path: str) -> str:
    """Return a path without its percent signs, as nginx hands it on; each character is one byte."""
    return re.sub("%([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), path)


def _status(connection: socket.socket, until: Mono) -> int:
    """Read the answer to its end, or as much as is read of one; return its status. Raises _BadlyError, OSError."""
    read = b""
    while not (end := _END.search(read)):
        if len(read) > MOST_HEAD:
            raise _BadlyError(f"its headers do not end within {MOST_HEAD >> 10} kB")
        if b"\n" in read and not _STATUS.match(read):
            raise _BadlyError("it does not answer in HTTP")
        part = _received(connection, until)
        if not part:
            raise _BadlyError("its answer is cut off" if read else "it closed the connection without an answer")
        read += part
    head = read[: end.end()]
    status, length = _STATUS.match(head), _LENGTH.search(head)
    if status is None:
        raise _BadlyError("it does not answer in HTTP")
    wanted = min(MOST_BODY, int(length[1]) if length else MOST_BODY)
    got = len(read) - len(head)
    while got < wanted:
        part = _received(connection, until)
        if not part:
            if length:
                raise _BadlyError("its answer is cut off")
            break
        got += len(part)
    return int(status[1])


def _received(connection: socket.socket, until: Mono) -> bytes:
    connection.settimeout(left_s(until))
    return connection.recv(1 << 14)


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {Outside(error.verify_message)}"
    if isinstance(error, socket.gaierror):
        return f"its name is not found: {Outside(error.strerror)}"
    if isinstance(error, PermissionError):
        return "Permission denied; let the daemon's user write it, by SupplementaryGroups= of its group in the unit"
    return reason(error)
