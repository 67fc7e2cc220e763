import array
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import socket
import struct
import subprocess
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rig.processes import Process, wait_for
from watchdogd.model.base import WORKERS, Command
from watchdogd.model.text import LONGEST
from watchdogd.model.told import Event, FieldValue, Healed, InstanceBack, Resumed, Tell, What
from watchdogd.report.events import CATALOG
from watchdogd.report.journal import SOCKET, Journal, LineOutput, NativeOutput, Output
from watchdogd.report.words import MANY_LINES

AT = 1795341600.123
JOURNALD = next((path for path in ("/lib/systemd/systemd-journald",) if Path(path).exists()), None)
needs_journald = pytest.mark.skipif(
    os.geteuid() != 0 or JOURNALD is None or shutil.which("unshare") is None,
    reason="needs root, systemd-journald and unshare",
)
# Of its own: a tmpfs as /run, nothing on the disk, and neither the kernel's log nor its audit.
# Its socket takes 512 datagrams, as where systemd has started the machine; by itself a network namespace gives it 10.
IN_A_BOX = """
echo 512 >/proc/sys/net/unix/max_dgram_qlen &&
mount -t tmpfs -o mode=0755 tmpfs /run && mkdir -p /run/systemd/journald.conf.d /run/systemd/journal &&
printf '[Journal]\\nStorage=volatile\\nAudit=no\\nReadKMsg=no\\nRateLimitIntervalSec=0\\n' \
  >/run/systemd/journald.conf.d/box.conf && exec "$1"
"""
BOX_CONF = "/run/systemd/journald.conf.d/box.conf"
LARGE = ("x" * LONGEST,) * MANY_LINES  # the most that a field may hold: 400 kB, and a datagram takes 200
AT_ONCE_S = 5.0  # far above what 5000 writes take; a write that blocks would last for ever


@dataclass(frozen=True, slots=True)
class Anything(What):
    """An event with every kind of field."""

    event: ClassVar = Event.BLIND
    command: Command
    blocked_by: str
    scope: str
    reason: FieldValue


def told(reason: FieldValue = "no route") -> Tell:
    return Tell(Anything(WORKERS, "blind", "sockets", reason), "shop", "127.0.0.1:27017", "shop-1")


def tell_once(output: Output, tell: Tell) -> None:
    with closing(Journal(output)) as journal:
        journal.tell(tell, AT)


@pytest.fixture
def opened() -> Iterator[Callable[[Output], Journal]]:
    """Makes journals that are closed at the end."""
    with ExitStack() as at_end:
        yield lambda output: at_end.enter_context(closing(Journal(output)))


def message(datagram: bytes) -> dict[str, str]:
    """Reads the native protocol, as its page describes it."""
    fields = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", datagram)
            value, datagram = datagram[8 : 8 + length], datagram[8 + length :]
            assert datagram[:1] == b"\n"
            datagram = datagram[1:]
        fields[name.decode()] = value.decode()
    return fields


# ------------------------------------------------------------------- the native protocol, on a socket of ours


class Receiver:
    """A datagram socket in journald's place."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.socket.settimeout(10)

    def receive(self) -> dict[str, str]:
        datagram, ancillary, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_SPACE(4))
        if not ancillary:
            return message(datagram)
        files = array.array("i", ancillary[0][2])
        with os.fdopen(files[0], "rb") as file:
            seals = fcntl.fcntl(file, fcntl.F_GET_SEALS)
            assert seals & fcntl.F_SEAL_WRITE
            assert seals & fcntl.F_SEAL_SHRINK
            file.seek(0)
            return message(file.read())


@pytest.fixture(scope="module")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    there = Receiver(tmp_path_factory.mktemp("journal") / "socket")
    yield there
    there.socket.close()


def test_an_event_has_its_message_id_its_priority_and_its_fields(receiver: Receiver) -> None:
    tell_once(NativeOutput(receiver.path), told())
    assert receiver.receive() == {
        "MESSAGE": "Cannot see sockets: no route. Nothing is reloaded on what cannot be seen.",
        "MESSAGE_ID": CATALOG[Event.BLIND].message_id,
        "PRIORITY": "3",
        "SYSLOG_IDENTIFIER": "mongo-watchdog",
        "MW_EVENT": "blind",
        "MW_INSTANCE": "shop",
        "MW_MEMBER": "127.0.0.1:27017",
        "MW_INCIDENT": "shop-1",
        "MW_COMMAND": "w",
        "MW_BLOCKED_BY": "blind",
        "MW_SCOPE": "sockets",
        "MW_REASON": "no route",
    }


def test_a_value_cannot_smuggle_in_a_field(receiver: Receiver) -> None:
    reason = "no route\nPRIORITY=0\n\nMW_EVENT=healed"
    tell_once(NativeOutput(receiver.path), told(reason))
    received = receiver.receive()
    assert received["MW_REASON"] == r"no route\nPRIORITY=0\n\nMW_EVENT=healed"
    assert (received["PRIORITY"], received["MW_EVENT"]) == ("3", "blind")


@given(st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" ")))
def test_a_printable_text_arrives_as_it_was(receiver: Receiver, reason: str) -> None:
    tell_once(NativeOutput(receiver.path), told(reason))
    assert receiver.receive()["MW_REASON"] == reason


@given(st.text(), st.lists(st.text(), min_size=1))
def test_any_other_text_arrives_as_one_printable_line(receiver: Receiver, reason: str, several: list[str]) -> None:
    tell_once(NativeOutput(receiver.path), told(reason))
    assert all(value.isprintable() for value in receiver.receive().values())
    tell_once(NativeOutput(receiver.path), told(tuple(several)))
    lines = receiver.receive()["MW_REASON"].split("\n")
    assert len(lines) == len(several)
    assert all(line.isprintable() for line in lines)


def test_text_that_is_not_unicode_does_not_stop_a_message(receiver: Receiver) -> None:
    tell_once(NativeOutput(receiver.path), told("process \udcff"))
    assert receiver.receive()["MW_REASON"] == r"process \xff"


def test_what_is_too_large_for_a_datagram_comes_as_a_sealed_file(receiver: Receiver) -> None:
    tell_once(NativeOutput(receiver.path), told(LARGE))
    assert receiver.receive()["MW_REASON"] == "\n".join(LARGE)


def test_a_receiver_that_does_not_read_costs_messages_and_never_waits(
    receiver: Receiver, opened: Callable[[Output], Journal]
) -> None:
    journal = opened(NativeOutput(receiver.path))
    began = time.monotonic()
    for number in range(5000):
        journal.tell(told(str(number)), AT)
    assert time.monotonic() - began < AT_ONCE_S
    receiver.socket.setblocking(False)
    got = 0
    try:
        while True:
            receiver.receive()
            got += 1
    except BlockingIOError:
        receiver.socket.settimeout(10)
    assert 0 < got < 5000
    journal.tell(told(), AT)
    assert receiver.receive()["MESSAGE"].endswith(f"({5000 - got} messages before this one could not be written.)")


def test_a_socket_that_is_made_anew_is_found_again(tmp_path: Path, opened: Callable[[Output], Journal]) -> None:
    first = Receiver(tmp_path / "socket")
    journal = opened(NativeOutput(first.path))
    first.socket.close()
    journal.tell(told(), AT)
    Path(first.path).unlink()
    journal.tell(told(), AT)
    second = Receiver(tmp_path / "socket")
    journal.tell(told(), AT)
    assert "(2 messages before this one" in second.receive()["MESSAGE"]
    second.socket.close()


# -------------------------------------------------------------------------------------------- a real journald


class Journald(Process):
    """A journald in mount and network namespaces of its own, with what it has stored."""

    def __init__(self, folder: Path) -> None:
        assert JOURNALD is not None
        box = ["unshare", "--net", "--mount", "--propagation", "private", "sh", "-c", IN_A_BOX, "box", JOURNALD]
        super().__init__(box, log=folder / "journald.log")

    @property
    def root(self) -> str:
        return f"/proc/{self.pid}/root"

    def entries(self, *matches: str) -> list[dict[str, str]]:
        command = [
            "journalctl",
            f"--directory={self.root}/run/log/journal",
            "-o",
            "json",
            "--all",
            "-q",
            *matches,
        ]
        shown = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30).stdout
        return [json.loads(entry) for entry in shown.splitlines()]


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    with Journald(tmp_path) as process:
        # Until its /run is mounted, the socket of the machine's own journald is seen there.
        there = (Path(process.root + BOX_CONF), Path(process.root + SOCKET))
        process.wait_until(lambda: all(path.exists() for path in there), "journald's socket", within=20)
        yield process


@needs_journald
def test_a_real_journald_stores_every_field_and_finds_by_them(
    journald: Journald, opened: Callable[[Output], Journal]
) -> None:
    journal = opened(NativeOutput(journald.root + SOCKET))
    journal.tell(told(("two", "lines")), AT)
    journal.tell(Tell(Healed(1.0, 2), "shop"), AT)
    journal.tell(told(LARGE), AT)
    healed = CATALOG[Event.HEALED].message_id
    by_id = wait_for(lambda: journald.entries(f"MESSAGE_ID={healed}"), "the entry", within=20)
    assert (
        by_id[0]["MESSAGE"]
        == "shop needs no reload after 1 s: it is well again by itself, 2 workers reached MongoDB anew."
    )
    wait_for(lambda: len(journald.entries("MW_EVENT=blind")) == 2, "both", within=20)
    small, large = journald.entries("MW_EVENT=blind", "MW_INSTANCE=shop")
    assert small["MW_REASON"] == "two\nlines"
    assert (small["PRIORITY"], small["SYSLOG_IDENTIFIER"]) == ("3", "mongo-watchdog")
    assert large["MW_REASON"] == "\n".join(LARGE)


@needs_journald
def test_a_journald_that_hangs_never_holds_us_up_and_the_loss_is_told(
    journald: Journald, opened: Callable[[Output], Journal]
) -> None:
    journal = opened(NativeOutput(journald.root + SOCKET))
    journald.send(signal.SIGSTOP)
    began = time.monotonic()
    for number in range(5000):
        journal.tell(told(str(number)), AT)
    took = time.monotonic() - began
    journald.send(signal.SIGCONT)
    assert took < AT_ONCE_S

    def through() -> bool:
        journal.tell(Tell(Resumed("an operator")), AT)
        return bool(journald.entries("MW_EVENT=resumed"))

    wait_for(through, "a message after the hang", within=20)
    first = journald.entries("MW_EVENT=resumed")[0]["MESSAGE"]
    stored = len(journald.entries("MW_EVENT=blind"))
    lost = int(first.partition("(")[2].split()[0])
    assert 5000 <= lost + stored <= 5100  # the tries above that did not get through are counted too


# -------------------------------------------------------------------------------------------- lines on stderr


def read_all(reader: int) -> bytes:
    """What is there now; waits at most 10 s for the first of it."""
    received = b""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    while poll.poll(0 if received else 10_000):
        received += os.read(reader, 1 << 16)
    return received


def assert_never_waits_and_counts(journal: Journal, reader: int) -> None:
    began = time.monotonic()
    for number in range(5000):
        journal.tell(told(f"number {number} {'x' * (number % 300)}"), AT)
    assert time.monotonic() - began < AT_ONCE_S
    read_all(reader)
    journal.tell(Tell(Resumed("an operator")), AT)
    last = read_all(reader).decode()
    assert last.endswith("messages before this one could not be written.)\n")


def test_a_pipe_gets_readable_lines() -> None:
    reader, writer = os.pipe()
    tell_once(LineOutput(writer), Tell(InstanceBack(4711), "shop"))
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert lines.read() == (
            "2026-11-22T10:00:00.123Z notice instance_back instance=shop pid=4711: shop runs again (master 4711).\n"
        )


def test_a_pipe_that_nobody_reads_never_holds_us_up(opened: Callable[[Output], Journal]) -> None:
    reader, writer = os.pipe()
    assert_never_waits_and_counts(opened(LineOutput(writer)), reader)
    assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(reader)
    os.close(writer)


def test_a_stream_socket_that_nobody_reads_never_holds_us_up(opened: Callable[[Output], Journal]) -> None:
    reader, writer = socket.socketpair()
    with reader, writer:
        assert_never_waits_and_counts(opened(LineOutput(writer.fileno())), reader.fileno())


def test_a_terminal_that_hangs_never_holds_us_up_and_stays_blocking_for_its_shell(
    opened: Callable[[Output], Journal],
) -> None:
    reader, terminal = pty.openpty()
    tty.setraw(terminal)
    assert_never_waits_and_counts(opened(LineOutput(terminal)), reader)
    assert not fcntl.fcntl(terminal, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(reader)
    os.close(terminal)


def test_a_reader_that_went_away_does_no_harm() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    tell_once(LineOutput(writer), told())
    os.close(writer)
    tell_once(LineOutput(writer), told())


def test_a_line_longer_than_a_pipe_takes_at_once_is_cut() -> None:
    reader, writer = os.pipe()
    with closing(LineOutput(writer)) as output:
        assert output.write(told(), AT, "größer " * 2000)
    os.close(writer)
    with os.fdopen(reader, "rb") as lines:
        text = lines.read()
    assert 4000 < len(text) <= 4096
    assert text.endswith(" …\n".encode())
    assert text.decode()


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("before\n")
    with path.open("a") as file:
        tell_once(LineOutput(file.fileno()), Tell(Resumed("an operator")))
    said = 'notice resumed by="an operator": Reloads are allowed again, by an operator.'
    assert path.read_text() == f"before\n2026-11-22T10:00:00.123Z {said}\n"


def test_without_the_variable_of_systemd_lines_go_to_stderr() -> None:
    reader, writer = os.pipe()
    with closing(Journal.of_this_process({}, writer)) as journal:
        journal.tell(Tell(Resumed("an operator")), AT)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert " resumed by=" in lines.read()


def test_with_the_variable_but_no_journald_lines_go_to_stderr(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("watchdogd.report.journal.SOCKET", str(tmp_path / "missing"))
    reader, writer = os.pipe()
    seen = os.fstat(writer)
    with closing(Journal.of_this_process({"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"}, writer)) as journal:
        journal.tell(Tell(Resumed("an operator")), AT)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert " resumed by=" in lines.read()


def test_with_the_variable_and_a_journald_nothing_goes_to_stderr(
    monkeypatch: pytest.MonkeyPatch, receiver: Receiver
) -> None:
    monkeypatch.setattr("watchdogd.report.journal.SOCKET", receiver.path)
    reader, writer = os.pipe()
    seen = os.fstat(writer)
    with closing(Journal.of_this_process({"JOURNAL_STREAM": f"{seen.st_dev}:{seen.st_ino}"}, writer)) as journal:
        journal.tell(Tell(Resumed("an operator")), AT)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert lines.read() == ""
    assert receiver.receive()["MW_EVENT"] == "resumed"
