"""What is known and needs somebody is told: once in the log, in the line of `systemctl status`, and by `status`."""

import contextlib
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.hang import BESIDE, Hang
from rig.processes import wait_for
from rig.uwsgi import App
from tests.stories.stage import Stage
from tests.stories.watchdog import Watchdog

LONGER_THAN_A_FULL_LOOK_S = 12.0


class Systemd:
    """The other end of NOTIFY_SOCKET. `prefix`: with it a daemon talks to this one."""

    def __init__(self, folder: Path) -> None:
        path = folder / "notify"
        self.prefix = ("env", f"NOTIFY_SOCKET={path}")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self._line = ""

    def line(self) -> str:
        """The last STATUS."""
        with contextlib.suppress(BlockingIOError):
            while True:
                name, _, value = self.socket.recv(65536).decode().partition("=")
                self._line = value if name == "STATUS" else self._line
        return self._line

    def wait_line(self, *parts: str, within: float = 30) -> str:
        """The line, once all of these are in it."""
        wait_for(lambda: all(one in self.line() for one in parts), f"a line with {parts}", within=within)
        return self.line()


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with tempfile.TemporaryDirectory(prefix="mw-") as folder:
        one = Systemd(Path(folder))
        yield one
        one.socket.close()


def shown(watchdog: Watchdog) -> str:
    return watchdog.run("status").stdout


def test_an_instance_without_a_fifo_is_told_with_its_pid_and_the_line_that_mends_it(
    stage: Stage, systemd: Systemd
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, app=App.NO_CLIENT, start=False)
    with_fifo = app.ini.read_text()
    app.ini.write_text(with_fifo.replace(f"master-fifo = {app.fifo}\n", ""))
    app.launch()
    wait_for(lambda: len(app.ready_workers()) == app.processes, "its workers", within=60, log=app.log)
    watchdog = stage.watchdog(mongod.uri, app, prefix=systemd.prefix)
    watchdog.wait_event("instance_absent", "shop", within=20)
    bare = f"uWSGI master {app.master} has no master FIFO"
    wait_for(lambda: any(bare in one.sentence for one in watchdog.events("not_covered")), bare, within=20)
    assert "nothing to do" not in systemd.wait_line("nothing is watched: does not run: shop")
    (sentence,) = [one for one in watchdog.status()["not_covered"] if one.startswith(bare)]
    assert "`master-fifo = /run/uwsgi/app/NAME/fifo`" in sentence
    assert f"not covered: {sentence}" in shown(watchdog)
    assert watchdog.tells_none("instance_absent", "instance_shown", seconds=LONGER_THAN_A_FULL_LOOK_S)
    assert len([one for one in watchdog.events("not_covered") if bare in one.sentence]) == 1

    app.kill()
    app.ini.write_text(with_fifo)
    app.start()
    watched = watchdog.wait_event("instance_watched", "shop", within=60)
    assert f"master {app.master}, 3 workers, FIFO {app.fifo}" in watched.sentence
    assert systemd.wait_line("nothing to do") == "watching 1 instance: nothing to do"
    assert watchdog.run("status").returncode == 0


def test_a_fifo_that_is_mistyped_is_told_with_the_one_that_is_meant_and_so_is_the_mend(
    stage: Stage, systemd: Systemd
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, app=App.NO_CLIENT)
    wrong = app.fifo.with_name("fifi")
    watchdog = stage.watchdog(mongod.uri, instances={"shop": wrong}, prefix=systemd.prefix)
    absent = watchdog.wait_event("instance_absent", "shop", within=20)
    meant = f"perhaps {app.fifo} is meant, which uWSGI master {app.master} reads"
    assert meant in absent.sentence
    assert "nothing to do" not in systemd.wait_line("nothing is watched: does not run: shop")
    assert meant in shown(watchdog)
    assert watchdog.tells_none("instance_absent", seconds=LONGER_THAN_A_FULL_LOOK_S)

    watchdog.restart()  # a daemon that is started anew says it again
    again = watchdog.wait_event("instance_absent", "shop", within=30, count=2)
    assert again.sentence == absent.sentence

    watchdog.instances = {"shop": app.fifo}
    watchdog.write()
    assert watchdog.run("reconfigure").returncode == 0
    watchdog.wait_event("instance_watched", "shop", within=20)
    systemd.wait_line("watching 1 instance: nothing to do")


def test_a_worker_that_hangs_is_shown_with_what_ends_it_as_long_as_it_does(stage: Stage, systemd: Systemd) -> None:
    mongod = stage.mongod()
    policy = {"tell_only": ["hung"]}
    with Hang(stage.folder / "shop") as hang:
        app = stage.app(mongod.uri, extra=BESIDE)
        watchdog = stage.watchdog(mongod.uri, app, prefix=systemd.prefix, policy=policy)
        systemd.wait_line("watching 1 instance: nothing to do")
        pid = hang.worker_of(app)
        watchdog.wait_event("hung_found", "shop", within=30)
        systemd.wait_line(f"hangs since its fork: process {pid} of shop")
        assert "nothing to do" not in systemd.line()
        (evidence,) = [one for one in watchdog.instance()["evidence"] if one["kind"] == "hung"]
        assert evidence["end"].startswith(f"`kill -9 {pid}` is safe: it has no request")
        assert f"hung: {evidence['sentence']}; {evidence['end']}" in shown(watchdog)
        assert watchdog.run("status").returncode == 1
        assert watchdog.tells_none("hung_ended", seconds=3)

        watchdog.policy = {**watchdog.policy, "tell_only": []}
        watchdog.write()
        assert watchdog.run("reconfigure").returncode == 0
        assert watchdog.wait_event("hung_ended", "shop", within=30).fields["pid"] == str(pid)
        systemd.wait_line("watching 1 instance: nothing to do")
    assert len([one for one in watchdog.events("hung_found") if one.fields["pid"] == str(pid)]) == 1


def test_a_fifo_that_is_deleted_in_calm_is_told_and_so_is_that_it_is_there_again(
    stage: Stage, systemd: Systemd
) -> None:
    mongod = stage.mongod()
    app = stage.app(mongod.uri, app=App.NO_CLIENT)
    watchdog = stage.watchdog(mongod.uri, app, prefix=systemd.prefix)
    watchdog.wait_event("instance_watched", "shop", within=30)
    app.fifo.unlink()
    lost = watchdog.wait_event("instance_shown", "shop", within=90)
    assert f"`kill -HUP {app.master}`" in lost.sentence
    systemd.wait_line("watching 1 instance: no reload can be sent to shop")
    app.kill()
    app.start()
    watchdog.wait_event("instance_watched", "shop", within=60, count=2)
    systemd.wait_line("watching 1 instance: nothing to do")
