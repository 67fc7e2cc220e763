"""A daemon, and `check --live`, that may not use netlink: what is said of it, to whom, and how often."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.mongod import Mongod
from rig.netns import Namespace, NamespaceError
from rig.uwsgi import App, Uwsgi
from tests.integration.no_netlink import NO_SECCOMP
from tests.stories.watchdog import Watchdog
from tests.world.schemas import strict

NO_NETLINK = (sys.executable, str(Path(__file__).with_name("no_netlink.py")))
STATUS = strict("status")
WHY = (
    "Address family not supported by protocol (EAFNOSUPPORT); netlink is forbidden: add AF_NETLINK to "
    "RestrictAddressFamilies= of the unit; SOCK_DIAG is tried once, when the daemon starts"
)
LINE = f"sockets: read from /proc/net/tcp, which knows no ages and costs more: {WHY}"


@pytest.fixture
def watchdog(tmp_path: Path) -> Iterator[Watchdog]:
    """One that is not started, and all that it is to see."""
    if subprocess.run([*NO_NETLINK, "true"], check=False).returncode == NO_SECCOMP:
        pytest.skip("there is no seccomp here")
    with Mongod(tmp_path / "mongod") as mongod, Uwsgi(tmp_path / "shop", mongod.uri, app=App.FIRST_REQUEST) as app:
        one = Watchdog(tmp_path / "watchdog", mongod.uri, {"shop": app.fifo}, prefix=NO_NETLINK)
        yield one
        one.close()


def test_the_daemon_tells_it_once_with_the_mend_and_the_status_shows_it(watchdog: Watchdog) -> None:
    watchdog.start()
    document = watchdog.status()
    STATUS.validate(document)
    assert document["sockets"] == {"read_from": "proc", "why": WHY}
    assert [one["sockets"] for one in document["instances"]] == [None]
    shown = watchdog.run("status")
    assert (shown.stdout.splitlines()[-1], shown.returncode) == (LINE, 0)
    (told,) = watchdog.events("sockets_from_proc")
    assert told.fields == {"reason": WHY}
    assert told.sentence.startswith(f"Connections are read from /proc/net/tcp instead of SOCK_DIAG: {WHY}. ")


def test_check_notes_it_and_finds_no_problem_in_it(watchdog: Watchdog) -> None:
    command = (
        *NO_NETLINK,
        sys.executable,
        "-P",
        "-m",
        "watchdogd",
        "check",
        "--live",
        "--config",
        str(watchdog.config),
    )
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, cwd="/")
    problem, *_, note = [line for line in ran.stdout.splitlines()[1:] if not line.startswith("ok: ")]
    assert "mongo-watchdog is not running" in problem
    assert (note, ran.stderr) == (f"note: {LINE}", "")


@pytest.mark.netns
def test_check_notes_the_instance_that_lives_in_another_network_namespace(tmp_path: Path) -> None:
    with ExitStack() as at_end:
        try:
            namespace = at_end.enter_context(Namespace())
        except NamespaceError as error:
            pytest.skip(str(error))
        mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
        with namespace.entered():
            far = at_end.enter_context(Uwsgi(tmp_path / "far", app=App.NO_CLIENT, processes=1, warm=False))
        daemon = Watchdog(tmp_path / "watchdog", mongod.uri, {"far": far.fifo})
        at_end.callback(daemon.close)
        ran = daemon.run("check", "--live")
        note = "note: far: sockets: read from /proc/net/tcp, which knows no ages and costs more: the instance lives in "
        _, not_running, *lines = ran.stdout.splitlines()
        assert [line for line in lines if line.startswith(f"{note}another network namespace")]
        assert not_running.startswith("problem: service: ")
        assert not [line for line in lines if line.startswith("problem: ")]
