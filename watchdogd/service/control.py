"""How operators talk to the running daemon: one line of JSON each way over a Unix stream socket.

The server is driven by the daemon's selectors loop. It must never wait for a client (each gets PATIENCE_S to
send its line and again to read its answer), never replace the socket of a daemon that lives, and never let
what a client sends raise. schemas/control.schema.json is the protocol.
"""

from __future__ import annotations

import contextlib
import enum
import errno
import os
import selectors
import socket
import stat
import struct
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from watchdogd import codec
from watchdogd.codec import ANSWER, REQUEST, CodecError, VersionError, decode, encode
from watchdogd.model.base import InstanceId, Mono
from watchdogd.model.decided import Answer
from watchdogd.model.seen import Operator, Request, Verb
from watchdogd.model.text import LONGEST, NOTHING_SAID, SHOWN, AlreadyRunning, Outside, WatchdogError, shown
from watchdogd.paths import user_name

MAX_LINE = 64 * 1024
MAX_CLIENTS = 32
PATIENCE_S = 5.0
"""For a client to send its line, and again to read its answer."""
DECIDE_S = 60.0
"""For the daemon to answer: longer than any tick; what it has not answered by then it never will."""

LONGEST_PAUSE_S = 10 * 365 * 86400.0
LONGEST_REASON = SHOWN
"""Characters of why it is paused: all of it is shown."""
WRONG_USE = 2
"""The exit code of argparse, for what nobody can do: an instance that is not there."""

SAME = "use the mongo-watchdog command that was installed with the daemon, or restart the service"
"""What mends two versions that differ."""

_MODE = 0o660


@dataclass(frozen=True, slots=True)
class Status:
    """Say what is seen and what comes next."""


@dataclass(frozen=True, slots=True)
class Reconfigure:
    """Read the configuration again."""


@dataclass(frozen=True, slots=True)
class Check:
    """Say what would keep a cure from being made tonight."""


@dataclass(frozen=True, slots=True)
class Reload:
    """Reload an instance: the path of its FIFO, as the status gives it.

    `now`: past what holds it for some time only. `restart`: the whole stack, and no more its workers alone.
    """

    instance: Outside
    now: bool = False
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Pause:
    """Reload nothing for so many seconds; None: until `resume`."""

    for_s: float | None = None
    reason: Outside | None = None


@dataclass(frozen=True, slots=True)
class Resume:
    """End a pause."""


Wish = Status | Reconfigure | Check | Reload | Pause | Resume
"""What may be asked; its fields are those of the request."""

VERBS: Mapping[str, type[Wish]] = {
    "status": Status,
    "reconfigure": Reconfigure,
    "check": Check,
    "reload": Reload,
    "pause": Pause,
    "resume": Resume,
}


class ControlError(WatchdogError):
    """The control socket cannot be made."""


class NotRunning(WatchdogError):
    """Nobody listens on the control socket."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A valid request that waits for its answer. `uid`, `pid`: who asked, as the kernel says."""

    id: str
    wish: Wish
    uid: int
    pid: int

    def request(self, at: Mono) -> Request | None:
        """Return it as an input of the decision, asked at `at`; None for what nothing is decided about."""
        match self.wish:
            case Reload(instance, now, restart):
                meant = InstanceId(instance)
                return Request(self.id, Verb.RELOAD, instance=meant, by=self._by(), now=now, restart=restart)
            case Pause(for_s, reason):
                until = None if for_s is None else at + for_s
                return Request(self.id, Verb.PAUSE, until=until, reason=reason or NOTHING_SAID, by=self._by())
            case Resume():
                return Request(self.id, Verb.RESUME, by=self._by())
        return None

    def _by(self) -> Operator:
        name = user_name(self.uid)
        return Operator(Outside(f"user {name}" if name.isdecimal() else name), self.uid, self.pid)


class _Stage(enum.Enum):
    READING = "reading"
    DECIDING = "deciding"
    WRITING = "writing"


_PATIENCE = {_Stage.READING: PATIENCE_S, _Stage.DECIDING: DECIDE_S, _Stage.WRITING: PATIENCE_S}


@dataclass(slots=True)
class _Client:
    socket: socket.socket
    id: str
    since: Mono  # of the stage
    stage: _Stage = _Stage.READING
    buffer: bytearray = field(default_factory=bytearray)  # what was read, then what is left to write


class Server:
    """The daemon's end. Raises AlreadyRunning where one answers on `path`, ControlError where it cannot be.

    Every file object is registered at `selector` with this server as its data.
    """

    def __init__(
        self, path: Path, selector: selectors.BaseSelector, clock: Callable[[], Mono] = time.monotonic
    ) -> None:
        self._path = path
        self._selector = selector
        self._clock = clock
        self._clients: dict[int, _Client] = {}
        self._serial = 0
        self._listener = _listen(path)
        self._inode = path.lstat().st_ino
        selector.register(self._listener, selectors.EVENT_READ, self)

    def on_ready(self, key: selectors.SelectorKey, mask: int) -> list[Incoming]:  # noqa: ARG002 - its stage tells
        """Do what one file object of this server is ready for; give the requests that are now complete."""
        if key.fd == self._listener.fileno():
            self._accept()
            return []
        client = self._clients.get(key.fd)
        if client is None:
            return []
        if client.stage is _Stage.WRITING:
            self._write(client)
            return []
        incoming = self._read(client)
        return [] if incoming is None else [incoming]

    def answer(self, incoming: Incoming, document: Mapping[str, object]) -> None:
        """Send the answer, now or as the client reads it; nothing where the client has gone."""
        for client in list(self._clients.values()):
            if client.id == incoming.id and client.stage is _Stage.DECIDING:
                self._answer(client, document)

    def reply(self, answer: Answer, sentence: str) -> None:
        """Send what was decided about a request, and the sentence that says it."""
        document = {
            "ok": answer.ok,
            "text": shown(sentence, LONGEST),
            "exit": 0 if answer.ok else WRONG_USE if answer.wrong_use else 1,
            "reload": answer.reload,
        }
        for client in list(self._clients.values()):
            if client.id == answer.request and client.stage is _Stage.DECIDING:
                self._answer(client, document)

    def expire(self, now: Mono) -> None:
        """Let go of the clients that had their time in their stage. `now`: of the constructor's clock."""
        for client in list(self._clients.values()):
            if now - client.since > _PATIENCE[client.stage]:
                self._drop(client)

    def close(self) -> None:
        """End all connections and remove the socket, if it is still ours."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            if self._path.lstat().st_ino == self._inode:
                self._path.unlink()

    def _accept(self) -> None:
        try:
            accepted, _ = self._listener.accept()
        except OSError:  # the client has gone again, or no descriptor is free: then it waits in the backlog
            return
        accepted.settimeout(0)
        self._serial += 1
        client = _Client(accepted, f"request-{self._serial}", self._clock())
        if len(self._clients) >= MAX_CLIENTS:
            with contextlib.suppress(OSError):
                accepted.send(_line(ANSWER.document(**_refused(f"{MAX_CLIENTS} clients are being served: try again"))))
            accepted.close()
            return
        self._clients[accepted.fileno()] = client
        self._selector.register(accepted, selectors.EVENT_READ, self)

    def _read(self, client: _Client) -> Incoming | None:
        try:
            received = client.socket.recv(MAX_LINE)
        except BlockingIOError:
            return None
        except OSError:
            received = b""
        client.buffer += received
        line, newline, _ = client.buffer.partition(b"\n")
        if len(line) > MAX_LINE:
            self._answer(client, _refused(f"a request is one line of at most {MAX_LINE} bytes"))
        elif newline:
            return self._take(client, bytes(line))
        elif not received:
            self._drop(client)
        return None

    def _take(self, client: _Client, line: bytes) -> Incoming | None:
        try:
            wish = parse(line)
        except CodecError as error:
            self._answer(client, _refused(str(error)))
            return None
        pid, uid, _ = struct.unpack("3i", client.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self._enter(client, _Stage.DECIDING)
        # It has said what it had to say; a half-closed socket would be ready all the time.
        self._selector.unregister(client.socket)
        return Incoming(client.id, wish, uid, pid)

    def _answer(self, client: _Client, document: Mapping[str, object]) -> None:
        if client.stage is not _Stage.DECIDING:
            self._selector.unregister(client.socket)
        self._enter(client, _Stage.WRITING)
        client.buffer[:] = _line(ANSWER.document(**document))
        self._selector.register(client.socket, selectors.EVENT_WRITE, self)
        self._write(client)

    def _write(self, client: _Client) -> None:
        try:
            sent = client.socket.send(client.buffer)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)
            return
        del client.buffer[:sent]
        if not client.buffer:
            self._drop(client)

    def _enter(self, client: _Client, stage: _Stage) -> None:
        client.stage, client.since = stage, self._clock()

    def _drop(self, client: _Client) -> None:
        del self._clients[client.socket.fileno()]
        if client.stage is not _Stage.DECIDING:
            self._selector.unregister(client.socket)
        client.socket.close()


def request_of(wish: Wish) -> codec.Document:
    """Return what is sent for a wish."""
    verb = next(verb for verb, kind in VERBS.items() if isinstance(wish, kind))
    return REQUEST.document(verb=verb, **encode(wish))


def parse(line: bytes) -> Wish:
    """Read one request. Raises CodecError with a sentence for its sender."""
    try:
        fields = REQUEST.read(line)
    except VersionError as error:
        raise CodecError(f"{error}: {SAME}") from None
    del fields["version"]
    verb = fields.pop("verb", None)
    if not isinstance(verb, str) or verb not in VERBS:
        raise CodecError(f"unknown verb {Outside(repr(verb))}: there are {', '.join(VERBS)}")
    wish: Wish = decode(VERBS[verb], fields, verb)
    match wish:
        case Reload(""):
            raise CodecError("reload.instance: expected the FIFO of an instance, found ''")
        case Pause(float(for_s)) if not 0 < for_s <= LONGEST_PAUSE_S:
            span = f"seconds from 0 to {LONGEST_PAUSE_S:.0f}, or null: until resume"
            raise CodecError(f"pause.for_s: expected {span}; found {for_s:g}")
        case Pause(reason=str(reason)) if len(reason) > LONGEST_REASON:
            raise CodecError(f"pause.reason: has {len(reason)} characters; at most {LONGEST_REASON} are kept")
    return wish


def ask(path: Path, wish: Wish, timeout_s: float = 10) -> dict[str, Any]:
    """Ask the daemon that listens on `path` and return its answer.

    Raises NotRunning where nobody listens, PermissionError where this user may not ask, and another OSError
    (TimeoutError, ConnectionError) where no whole answer came within `timeout_s` seconds.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as client:
        client.settimeout(timeout_s)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NotRunning(
                f"nobody listens on {path}: start mongo-watchdog, or name the configuration that it runs with"
            ) from None
        try:
            return ANSWER.read(_exchange(client, _line(request_of(wish)), time.monotonic() + timeout_s))
        except VersionError as error:
            raise ConnectionError(errno.EPROTO, f"{error}: {SAME}") from None
        except CodecError as error:
            raise ConnectionError(errno.EPROTO, str(error)) from None
        except TimeoutError:
            raise TimeoutError(errno.ETIMEDOUT, f"no answer within {timeout_s:g} s") from None


def _exchange(client: socket.socket, line: bytes, deadline: Mono) -> bytes:
    """Send a line and give the one that comes back, all of it until `deadline`."""
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # refused already: the answer says why
        client.sendall(line)
    received = bytearray()
    while b"\n" not in received:
        client.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = client.recv(MAX_LINE)
        if not chunk:
            raise ConnectionError(errno.ECONNRESET, "the connection was closed without an answer")
        received += chunk
    return bytes(received.partition(b"\n")[0])


def _line(document: codec.Document) -> bytes:
    return codec.text(document).encode() + b"\n"


def _refused(text: str) -> dict[str, object]:
    return {"ok": False, "text": shown(text, LONGEST), "exit": 1}


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # Before bind, so that the file is never open to others, whatever the umask (unix_bind).
        os.fchmod(listener.fileno(), _MODE)
        try:
            listener.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            listener.bind(str(path))
        path.chmod(_MODE)
        listener.listen(MAX_CLIENTS)
    except OSError as error:
        listener.close()
        raise ControlError(_why_not(path, error)) from None
    except WatchdogError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket that a daemon left when it was killed; raises AlreadyRunning where one answers."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise ControlError(f"{path} is not a socket: remove it, or name another `control_socket`")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:  # its backlog is full: somebody does listen
            pass
    raise AlreadyRunning(
        f"another mongo-watchdog answers on {path}: stop it, or give this one another `control_socket`"
    )


def _why_not(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return (
            f"{path}: the folder {path.parent} does not exist: create it (the service has it by "
            f"RuntimeDirectory={path.parent.name}), or name another `control_socket`"
        )
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return (
            f"{path}: uid {os.geteuid()} may not make a socket in {path.parent}: give the folder to that "
            "user, or name another `control_socket`"
        )
    return f"{path}: the control socket cannot be made: {error}; name another `control_socket`"
