"""Light, steady traffic to a web app, and what became of each request.

Traffic is part of the fault: a worker is poisoned by a request that reaches it while mongod is down
(docs/design.md). Every request has a thread and a connection of its own, so one that hangs does not change
the rhythm of the others.
"""

import http.client
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

GOOD_WITHIN_S = 2.0


@dataclass(frozen=True)
class Request:
    """One request and its end; `sent_at` is CLOCK_MONOTONIC in seconds."""

    sent_at: float
    seconds: float
    status: int | None
    worker: int | None
    error: str

    @property
    def good(self) -> bool:
        """A 200 within 2 s: what a visitor would call a working site."""
        return self.status == HTTPStatus.OK and self.seconds <= GOOD_WITHIN_S


def get(address: tuple[str, int], path: str = "/", *, timeout: float = 10.0) -> Request:
    """Sends one request over its own connection and waits for its end; it never raises for a failed one."""
    connection = http.client.HTTPConnection(*address, timeout=timeout)

    def answer() -> http.client.HTTPResponse:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse()

    try:
        return _answered(answer)
    finally:
        connection.close()


def get_by_uwsgi(where: tuple[str, int] | Path, path: str = "/", *, timeout: float = 10.0) -> Request:
    """The same in uWSGI's own protocol, as nginx speaks it, over TCP or to a Unix socket.

    A header of modifier 0, the size of what follows, modifier 0; then pairs of texts, each after its size, all
    little-endian (uWSGI's docs, Protocol). The answer is that of HTTP.
    """
    name, _, query = path.partition("?")
    variables = {
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": path,
        "PATH_INFO": name,
        "SCRIPT_NAME": "",
        "QUERY_STRING": query,
        "SERVER_NAME": "rig",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "rig",
    }
    texts = [text.encode() for pair in variables.items() for text in pair]
    body = b"".join(struct.pack("<H", len(text)) + text for text in texts)
    with socket.socket(socket.AF_UNIX if isinstance(where, Path) else socket.AF_INET) as connection:
        connection.settimeout(timeout)

        def answer() -> http.client.HTTPResponse:
            connection.connect(str(where) if isinstance(where, Path) else where)
            connection.sendall(struct.pack("<BHB", 0, len(body), 0) + body)
            response = http.client.HTTPResponse(connection, method="GET")
            response.begin()
            return response

        return _answered(answer)


def _answered(answer: Callable[[], http.client.HTTPResponse]) -> Request:
    """What became of a request, from the moment of this call."""
    sent_at = time.monotonic()
    status, worker, error = None, None, ""
    try:
        with answer() as response:
            body = response.read().decode(errors="replace").strip()
            status, worker = response.status, int(response.headers.get("X-Worker") or 0) or None
            error = "" if status == HTTPStatus.OK else body
    except (OSError, http.client.HTTPException) as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Request(sent_at, time.monotonic() - sent_at, status, worker, error)


class Traffic:
    """`rate` requests per second for as long as the `with` lasts; may be asked at any time, also after it."""

    def __init__(self, address: tuple[str, int], *, rate: float = 2.0, path: str = "/", timeout: float = 10.0) -> None:
        self._address = address
        self._interval = 1 / rate
        self._path = path
        self._timeout = timeout
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._under_way: dict[int, float] = {}
        self._done: list[Request] = []
        self._pacer = threading.Thread(target=self._pace, name="traffic", daemon=True)

    def __enter__(self) -> Self:
        self._pacer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Sends no more; requests under way are left to their own time-out and counted when they end."""
        self._stopping.set()
        self._pacer.join()

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that have ended, in the order in which they were sent."""
        with self._lock:
            return tuple(sorted(self._done, key=lambda done: done.sent_at))

    def overdue(self) -> list[float]:
        """When those requests were sent that have no answer yet and can no longer become good."""
        latest = time.monotonic() - GOOD_WITHIN_S
        with self._lock:
            return sorted(sent_at for sent_at in self._under_way.values() if sent_at < latest)

    def good_since(self, moment: float) -> list[Request]:
        """The good requests sent after that moment."""
        return [done for done in self.requests if done.sent_at >= moment and done.good]

    def failed_between(self, start: float, end: float) -> list[Request]:
        """The ended requests sent in [start, end) that were not good."""
        return [done for done in self.requests if start <= done.sent_at < end and not done.good]

    def all_good_for(self, seconds: float) -> bool:
        """Whether all requests of the last `seconds` were good, and were at least half of those planned."""
        start = time.monotonic() - seconds
        ended = [done for done in self.requests if done.sent_at >= start]
        if any(sent_at >= start for sent_at in self.overdue()):
            return False
        return len(ended) >= max(1, seconds / self._interval / 2) and all(done.good for done in ended)

    def _pace(self) -> None:
        start = time.monotonic()
        number = 0
        while not self._stopping.wait(max(0.0, start + number * self._interval - time.monotonic())):
            threading.Thread(target=self._send, args=(number,), name=f"request-{number}", daemon=True).start()
            number += 1

    def _send(self, number: int) -> None:
        with self._lock:
            self._under_way[number] = time.monotonic()
        done = get(self._address, self._path, timeout=self._timeout)
        with self._lock:
            del self._under_way[number]
            self._done.append(done)
