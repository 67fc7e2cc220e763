import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from watchdogd.report.notify import Notifier, watchdog_interval_s


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The socket that systemd would hold."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield receiver


@pytest.fixture
def notifier(systemd: socket.socket) -> Iterator[Notifier]:
    assert os.environ["NOTIFY_SOCKET"] == systemd.getsockname()
    with closing(Notifier(clock=lambda: 12.345678)) as one:
        yield one


def received(systemd: socket.socket) -> list[str]:
    messages = []
    while True:
        try:
            messages.append(systemd.recv(65536).decode())
        except BlockingIOError:
            return messages


def test_the_life_of_the_service_is_told(notifier: Notifier, systemd: socket.socket) -> None:
    notifier.ready()
    notifier.status("watching 2 instances")
    notifier.watchdog()
    notifier.reloading()
    notifier.ready()
    notifier.stopping()
    assert received(systemd) == [
        "READY=1",
        "STATUS=watching 2 instances",
        "WATCHDOG=1",
        "RELOADING=1\nMONOTONIC_USEC=12345678",
        "READY=1",
        "STOPPING=1",
    ]


def test_a_status_is_one_line_of_utf_8_and_cannot_say_more_than_a_status(
    notifier: Notifier, systemd: socket.socket
) -> None:
    notifier.status("größer → two\nSTOPPING=1\n")
    assert received(systemd) == [r"STATUS=größer → two\nSTOPPING=1\n"]


def test_a_status_is_never_longer_than_systemd_takes(notifier: Notifier, systemd: socket.socket) -> None:
    notifier.status("😀" * 100_000)
    (message,) = received(systemd)
    assert message.startswith("STATUS=😀")
    assert message.endswith(" characters left out)")
    assert len(message.encode()) <= 4096  # NOTIFY_BUFFER_MAX: systemd drops what is longer


def test_a_service_manager_that_hangs_never_holds_us_up(notifier: Notifier, systemd: socket.socket) -> None:
    began = time.monotonic()
    for _ in range(5000):
        notifier.watchdog()
    assert time.monotonic() - began < 5
    assert 0 < len(received(systemd)) < 5000


def test_a_change_of_state_that_was_lost_comes_before_the_next_message(
    notifier: Notifier, systemd: socket.socket
) -> None:
    for _ in range(1000):
        notifier.watchdog()
    notifier.ready()
    assert "READY=1" not in received(systemd)
    notifier.watchdog()
    notifier.watchdog()
    assert received(systemd) == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]


def test_of_lost_changes_only_the_newest_counts(notifier: Notifier, systemd: socket.socket) -> None:
    for _ in range(1000):
        notifier.watchdog()
    notifier.reloading()
    notifier.ready()
    received(systemd)
    notifier.status("well")
    assert received(systemd) == ["READY=1", "STATUS=well"]


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"mongo-watchdog-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{name}")
        receiver.settimeout(10)
        with closing(Notifier()) as one:
            one.ready()
            assert receiver.recv(100) == b"READY=1"


def everything(notifier: Notifier) -> None:
    calls: list[Callable[[], None]] = [
        notifier.ready,
        notifier.reloading,
        notifier.watchdog,
        notifier.stopping,
    ]
    for call in calls:
        call()
    notifier.status("x")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # sdnotify leaves its socket open
@pytest.mark.parametrize("place", [None, "", "/nowhere/notify"])
def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch, place: str | None) -> None:
    with ExitStack() as at_end:
        if place is None:
            monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
        else:
            monkeypatch.setenv("NOTIFY_SOCKET", place)
        everything(at_end.enter_context(closing(Notifier())))


def test_a_systemd_that_went_away_does_no_harm(notifier: Notifier, systemd: socket.socket) -> None:
    systemd.close()
    everything(notifier)


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_interval_is_half_of_what_systemd_gives_this_process(
    environ: dict[str, str], interval_s: float | None
) -> None:
    assert watchdog_interval_s(environ) == interval_s
