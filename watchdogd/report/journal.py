"""Tells events: to journald in its native protocol, or as readable lines on stderr where it is not there.

It must never block: what cannot be written at once is dropped and counted, and the next message that gets
through says how many were lost (with journald stopped, 278 messages went out, then EAGAIN; a blocking stream
hung for ever). It must never raise because of what a message holds, nor write any text as it came in: who may choose
one would forge lines and fields, and journalctl shows a field with a control character as bytes.
Protocol: systemd.io/JOURNAL_NATIVE_PROTOCOL.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from watchdogd.model.told import Tell
from watchdogd.report.events import CATALOG, sentence
from watchdogd.report.words import IN_A_SENTENCE, lines, plain, timestamp

SOCKET = "/run/systemd/journal/socket"
IDENTIFIER = "mongo-watchdog"

# To a pipe that poll() calls writable, so much goes in one piece and without waiting (pipe(7)).
_ATOMIC = select.PIPE_BUF
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
_BREAK = "\n"  # in a message it is ours: report/events.py shows every other one as \\n
_BARE = re.compile(r"[^\s\"'=\\]*[^\s\"'=\\:]")


class Output(Protocol):
    """How messages are written; `write` says whether this one got through."""

    def write(self, tell: Tell, wall: float, message: str) -> bool:
        """Write one message (the sentence, with what was lost before it) without ever waiting."""

    def close(self) -> None:
        """Give back what was opened."""


class Journal:
    """The sink that people read: one message for each event, and a count of those that did not get through."""

    name = "journal"

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lost = 0

    @classmethod
    def of_this_process(cls, environ: Mapping[str, str] = os.environ, stderr: int = 2) -> Journal:
        """Choose journald where JOURNAL_STREAM says that stderr goes there (systemd.exec(5)), else lines."""
        if is_journal_stream(environ.get("JOURNAL_STREAM", ""), stderr):
            with contextlib.suppress(OSError):
                return cls(NativeOutput(SOCKET))
        return cls(LineOutput(stderr))

    def tell(self, tell: Tell, wall: float) -> None:
        """Write the event's sentence and fields. `wall`: Unix time, for the lines; journald takes its own."""
        message = sentence(tell)
        if self._lost:
            message += f" ({self._lost} messages before this one could not be written.)"
        if self._output.write(tell, wall, message):
            self._lost = 0
        else:
            self._lost += 1

    def close(self) -> None:
        """Close what was opened for it; stderr itself stays open."""
        self._output.close()


def is_journal_stream(journal_stream: str, stderr: int) -> bool:
    """Say whether `DEVICE:INODE` is the very thing that stderr is; a child may inherit the variable alone."""
    try:
        seen = os.fstat(stderr)
    except OSError:
        return False
    return journal_stream == f"{seen.st_dev}:{seen.st_ino}"


class NativeOutput:
    """journald's datagram socket. Raises OSError when nothing is at `path`."""

    def __init__(self, path: str) -> None:
        Path(path).stat()
        # Not connected: a journald that makes its socket anew is found again by its path.
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def write(self, tell: Tell, wall: float, message: str) -> bool:  # noqa: ARG002 - journald takes its own time
        """Send one datagram; one that is too large for the socket goes as a sealed memfd."""
        datagram = b"".join(_encoded(name, value) for name, value in _journal_fields(tell, message))
        try:
            self._socket.sendto(datagram, socket.MSG_DONTWAIT, self._path)
        except OSError as error:
            return error.errno in {errno.EMSGSIZE, errno.ENOBUFS} and self._send_as_file(datagram)
        return True

    def close(self) -> None:
        """Close our end of the socket."""
        self._socket.close()

    def _send_as_file(self, datagram: bytes) -> bool:
        try:
            with os.fdopen(os.memfd_create(IDENTIFIER, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING), "wb") as file:
                file.write(datagram)
                file.flush()
                fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
                handle = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file.fileno()))]
                self._socket.sendmsg([], handle, socket.MSG_DONTWAIT, self._path)
        except OSError:
            return False
        return True


class LineOutput:
    """One readable line a message, on a terminal, a pipe or a file."""

    def __init__(self, stderr: int) -> None:
        self._terminal = _own_terminal(stderr)
        self._stderr = stderr if self._terminal is None else self._terminal
        self._poll = select.poll()
        self._poll.register(self._stderr, select.POLLOUT)

    def write(self, tell: Tell, wall: float, message: str) -> bool:
        """Write the line in one piece; one that does not fit is cut, and drops when nobody reads."""
        try:
            ready = self._poll.poll(0)
            if not ready or not ready[0][1] & select.POLLOUT:
                return False
            text = _cut(line(tell, wall, message).encode(errors="backslashreplace"))
            return os.write(self._stderr, text) == len(text)
        except OSError:
            return False

    def close(self) -> None:
        """Close the terminal where it was opened once more."""
        if self._terminal is not None:
            os.close(self._terminal)


def line(tell: Tell, wall: float, message: str) -> str:
    """Write an event as a line: time, priority, event, its fields, then the sentence."""
    named = {
        "instance": tell.instance,
        "member": tell.member,
        "incident": tell.incident,
        **tell.fields,
    }
    fields = [f"{name}={_quoted(plain(value, IN_A_SENTENCE))}" for name, value in named.items() if value is not None]
    priority = CATALOG[tell.event].priority.name.lower()
    head = " ".join([timestamp(wall), priority, tell.event.value, *fields])
    return plain(f"{head}: {message.replace(_BREAK, ' ')}", _ATOMIC) + "\n"


def _quoted(value: str) -> str:
    """Quote what would not be read back as one word before the colon."""
    return value if _BARE.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def _cut(text: bytes) -> bytes:
    if len(text) <= _ATOMIC:
        return text
    ending = " …\n".encode()
    return text[: _ATOMIC - len(ending)].decode(errors="ignore").encode() + ending


def _own_terminal(stderr: int) -> int | None:
    """Open a terminal once more for ourselves: O_NONBLOCK on the inherited one would hold for the shell, too.

    poll() calls a terminal writable when one byte fits, so a line could wait there for a stalled ssh. A pipe
    needs none of this, and a file must not be opened again: it would be written from its start.
    """
    if os.isatty(stderr):
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{stderr}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    return None


def _journal_fields(tell: Tell, message: str) -> Iterator[tuple[str, str]]:
    entry = CATALOG[tell.event]
    yield "MESSAGE", lines(message.split(_BREAK))
    yield "MESSAGE_ID", entry.message_id
    yield "PRIORITY", str(int(entry.priority))
    yield "SYSLOG_IDENTIFIER", IDENTIFIER
    yield "MW_EVENT", tell.event.value
    for name, value in (
        ("MW_INSTANCE", tell.instance),
        ("MW_MEMBER", tell.member),
        ("MW_INCIDENT", tell.incident),
        *((f"MW_{name.upper()}", value) for name, value in tell.fields.items()),
    ):
        if value is not None:
            yield name, plain(value)


def _encoded(name: str, value: str) -> bytes:
    """Encode one field; a value with a newline goes with its length before it."""
    data = value.encode(errors="backslashreplace")
    if "\n" not in value:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)
