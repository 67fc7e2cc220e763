"""`check --live` where the service runs: it is asked, and tells by its own eyes and rights what would stop a cure."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from rig.mongod import Mongod
from rig.uwsgi import App, Uwsgi
from tests.integration.nobody import NOBODY, needs_root
from tests.integration.test_live import AS_NOBODY, PROGRAM, skip_unless_nobody_can_run_it
from tests.stories.watchdog import Watchdog

ME = pwd.getpwuid(os.geteuid()).pw_name


@dataclass
class Watched:
    """A daemon that is not started, and all that it is to see."""

    watchdog: Watchdog
    mongod: Mongod
    app: Uwsgi

    def check(self, *, exits: int) -> list[str]:
        """What it says, but its first line, which is about the file, and what others beside this test run."""
        ran = self.watchdog.run("check", "--live")
        assert (ran.returncode, ran.stderr) == (exits, ""), ran.stdout
        return [line for line in ran.stdout.splitlines()[1:] if not line.startswith("not covered: ")]

    def problems(self) -> list[str]:
        asked, *lines = self.check(exits=1)
        assert asked.startswith(f"asked the running service (pid {self.watchdog.pid}, user ")
        return [line for line in lines if line.startswith("problem: ")]

    def well(self) -> list[str]:
        """All that is said where all is well."""
        file = self.watchdog.config
        return [
            f"asked the running service (pid {self.watchdog.pid}, user {ME}), which runs by {file}",
            *self.seen(),
            "ok: state: it can be saved",
        ]

    def seen(self) -> list[str]:
        """What anybody sees then."""
        return [
            f"ok: main: 127.0.0.1:{self.mongod.port}: up, serving",
            f"ok: shop: master {self.app.master}, 2 workers",
        ]


@pytest.fixture
def watched() -> Iterator[Watched]:
    """In a folder that every user may look at."""
    with tempfile.TemporaryDirectory(prefix="mw-check-") as folder, ExitStack() as at_end:
        Path(folder).chmod(0o755)
        mongod = at_end.enter_context(Mongod(Path(folder, "mongod")))
        app = at_end.enter_context(Uwsgi(Path(folder, "shop"), mongod.uri, app=App.FIRST_REQUEST, processes=2))
        watchdog = Watchdog(Path(folder, "watchdog"), mongod.uri, {"shop": app.fifo})
        at_end.callback(watchdog.close)
        yield Watched(watchdog, mongod, app)


def test_a_service_that_has_only_just_started_says_that_all_is_well_once_it_has_looked(watched: Watched) -> None:
    watched.watchdog.start(heard=False)
    assert watched.check(exits=0) == watched.well()
    workers = watched.app.workers()
    assert watched.check(exits=0) == watched.well()
    assert watched.app.workers() == workers
    assert not watched.watchdog.faults()


def test_a_service_that_is_stopped_is_a_problem_before_all_others(watched: Watched) -> None:
    watched.watchdog.start()
    assert watched.watchdog.terminate()[0] == 0
    problem, who, *lines = watched.check(exits=1)
    assert problem == (
        "problem: service: nothing would be cured tonight: mongo-watchdog is not running (no answer on "
        f"{watched.watchdog.socket}); start it with `systemctl start mongo-watchdog`"
    )
    assert who.startswith("looked at by this command, as user ")
    assert lines == watched.seen()


@needs_root
def test_the_rights_that_are_told_are_those_of_the_service_and_not_of_who_asks(watched: Watched) -> None:
    skip_unless_nobody_can_run_it()
    own = watched.watchdog
    own = Watchdog(own.folder, own.uri, own.instances, prefix=AS_NOBODY)
    own.folder.chmod(0o777)
    os.chown(own.socket.parent, NOBODY, NOBODY)
    with own:
        watched = Watched(own, watched.mongod, watched.app)
        found = watched.problems()
        asked = watched.check(exits=1)[0]
    assert ", user nobody), " in asked
    assert [one for one in found if one.startswith("problem: rights: CAP_SYS_PTRACE is missing to see what shop (of ")]
    assert [one for one in found if one.startswith("problem: rights: nothing may be written to the FIFO of shop (of ")]
    assert [one for one in found if one.startswith("problem: shop: ") and "CAP_SYS_PTRACE" in one]


@needs_root
def test_who_may_not_ask_the_service_is_told_so_and_not_that_it_does_not_run(watched: Watched) -> None:
    skip_unless_nobody_can_run_it()
    watched.watchdog.start()
    watched.watchdog.socket.parent.chmod(0o755)
    command = [*AS_NOBODY, *PROGRAM, "check", "--live", "--config", str(watched.watchdog.config)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd="/")
    problem, who = ran.stdout.splitlines()[1:3]
    assert problem.startswith(
        f"problem: service: {watched.watchdog.socket}: no permission; use sudo, or become a member "
    )
    assert who == f"looked at by this command, as user nobody, by {watched.watchdog.config}"
    assert ran.returncode == 1


def test_a_state_that_was_not_read_is_a_problem_until_it_is_moved_away(watched: Watched) -> None:
    watched.watchdog.state_dir.mkdir()
    (watched.watchdog.state_dir / "state.json").write_text("{")
    watched.watchdog.start()
    (problem,) = watched.problems()
    assert problem.startswith("problem: state: saved state could not be read, and is kept as ")
    assert problem.endswith("see that all workers are ready, then move it out of the folder")
    (aside,) = watched.watchdog.state_dir.glob("state.json.corrupt-*")
    aside.unlink()
    assert watched.check(exits=0) == watched.well()


def test_a_state_that_cannot_be_saved_is_a_problem_though_nothing_has_to_be(watched: Watched) -> None:
    watched.watchdog.start()
    in_the_way = watched.watchdog.state_dir / "state.json.new"
    in_the_way.mkdir()
    (problem,) = watched.problems()
    assert problem.startswith("problem: state: it is kept in ")
    assert f"since {watched.watchdog.state_dir}/state.json: Is a directory (uid " in problem
    assert "`state_dir` must be a folder that this user may write" in problem
    in_the_way.rmdir()
    watched.watchdog.wait_event("state_back", within=20)
    assert watched.check(exits=0) == watched.well()


def test_a_pause_and_mode_observe_are_problems_with_what_ends_them(watched: Watched) -> None:
    watched.watchdog.mode = "observe"
    watched.watchdog.write()
    watched.watchdog.start()
    watched.watchdog.run("pause", "--for", "1h", "--reason", "migration")
    observe, paused = watched.problems()
    assert (
        observe == "problem: mode is observe, so nothing is ever sent: set `mode: act`, or run it without `--observe`"
    )
    assert paused.startswith("problem: paused until ")
    assert paused.endswith(": migration; `mongo-watchdog resume` ends it")


def test_a_file_that_was_changed_is_a_problem_and_what_it_says_now_is_looked_at_beside(watched: Watched) -> None:
    watched.watchdog.start()
    file = watched.watchdog.config
    watched.watchdog.write(uwsgi=[{"name": "store", "master_fifo": str(watched.app.fifo)}])
    lines = watched.check(exits=1)
    assert lines[:4] == watched.well()
    assert lines[4] == (
        f"problem: {file} has changed since the service read it; `systemctl reload mongo-watchdog` has it read again"
    )
    assert lines[5] == f"looked at by this command, as user {ME}, by {file}"
    assert lines[7] == f"ok: store: master {watched.app.master}, 2 workers"
    watched.watchdog.run("reconfigure")
    assert f"ok: store: master {watched.app.master}, 2 workers" in watched.check(exits=0)


def test_another_file_than_that_of_the_service_is_a_problem(watched: Watched) -> None:
    watched.watchdog.start()
    other = watched.watchdog.folder / "other.yaml"
    shutil.copy(watched.watchdog.config, other)
    command = [sys.executable, "-m", "watchdogd", "check", "--live", "--config", str(other)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 1
    (problem,) = [line for line in ran.stdout.splitlines() if line.startswith("problem: ")]
    assert problem == f"problem: service: it does not run by {other}: name that at its start, by `--config`"
    assert f"looked at by this command, as user {ME}, by {other}" in ran.stdout
    link = watched.watchdog.folder / "link.yaml"
    link.symlink_to(watched.watchdog.config)
    ran = subprocess.run([*command[:-1], str(link)], capture_output=True, text=True, check=False, timeout=60)
    assert (ran.returncode, "looked at by" in ran.stdout) == (0, False)


def test_a_mongod_and_a_uwsgi_that_are_gone_are_problems(watched: Watched) -> None:
    watched.watchdog.start()
    watched.mongod.stop()
    watched.app.kill()
    watched.watchdog.wait_event("member_down", within=20)
    watched.watchdog.wait_event("instance_absent", within=40)
    member, shop = watched.problems()
    assert member.startswith(f"problem: main: 127.0.0.1:{watched.mongod.port}: down: ")
    assert shop.startswith(f"problem: shop: absent: no process has {watched.app.fifo} open; is uWSGI running with ")


def test_a_service_of_before_that_knows_no_check_is_a_problem_with_its_mend(watched: Watched) -> None:
    said = "unknown verb 'check': there are status, reconfigure, reload, pause, resume"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(watched.watchdog.socket))
        listener.listen()
        listener.settimeout(60)

        def answer() -> None:
            client, _ = listener.accept()
            with client, client.makefile("r") as asked:
                assert json.loads(asked.readline()) == {"version": 2, "verb": "check"}
                client.sendall(json.dumps({"version": 2, "ok": False, "text": said, "exit": 1}).encode() + b"\n")

        with ThreadPoolExecutor(1) as pool:
            answered = pool.submit(answer)
            problem, who, *lines = watched.check(exits=1)
            answered.result(60)
    assert problem == f"problem: service: it does not say: {said} (restart one that is older than this command)"
    assert who == f"looked at by this command, as user {ME}, by {watched.watchdog.config}"
    assert lines == watched.seen()


def test_a_service_that_hangs_is_a_problem_and_is_not_waited_for_for_ever(watched: Watched) -> None:
    watched.watchdog.start()
    watched.watchdog.send(signal.SIGSTOP)
    try:
        problem, who, *_ = watched.check(exits=1)
    finally:
        watched.watchdog.send(signal.SIGCONT)
    assert problem.startswith("problem: service: nothing would be cured tonight: mongo-watchdog gave no answer on ")
    assert who.startswith("looked at by this command, as user ")
