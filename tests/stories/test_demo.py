"""`make demo` as a user runs it: what it prints is what the README shows, and nothing is left of it."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig.processes import all_pids, wait_for

# "Ends in under 3 minutes after its downloads": 95 s on a quiet machine.
MOST_S = 180
STEPS = ["mongod is stopped", "mongod is back", "leftovers_found: ", "reload_due: ", "reload_sent: ", "recovered: "]


@contextmanager
def demo(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Starts it in a session of its own, with all its files in this folder; it is gone at the end."""
    with subprocess.Popen(
        [sys.executable, "-m", "rig.demo"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    ) as ran:
        late = threading.Timer(MOST_S, ran.kill)
        late.start()
        try:
            yield ran
        finally:
            late.cancel()
            ran.kill()


def running(folder: Path) -> list[str]:
    """The command lines that name a file of this folder."""
    found = []
    for pid in all_pids():
        try:
            line = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if os.fsencode(folder) in line:
            found.append(line.replace(b"\0", b" ").decode(errors="replace"))
    return found


def test_the_demo_shows_an_app_that_stays_broken_without_the_watchdog_and_recovers_with_it() -> None:
    # Not in tmp_path: a Unix socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="mw-") as folder:
        begun = time.monotonic()
        with demo(Path(folder)) as ran:
            told, _ = ran.communicate()
        seconds, left = time.monotonic() - begun, list(Path(folder).iterdir())
    assert ran.returncode == 0, told
    assert seconds < MOST_S
    assert left == []
    lines = told.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    without, with_it = lines[-2:]
    assert re.fullmatch(r"without mongo-watchdog +never recovered \(30 s watched\) +[1-9]\d* of \d+ +0", without)
    assert re.fullmatch(r"with mongo-watchdog +\d+ s +[1-9]\d* of \d+ +1", with_it)
    story = told.partition("── with mongo-watchdog ")[2]
    places = [story.find(step) for step in STEPS]
    assert -1 not in places
    assert places == sorted(places)


@pytest.mark.parametrize("after", ["mongo-watchdog demo:", "── without", "time  mongod", "mongod is stopped"])
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_ends_it_with_one_sentence_and_nothing_is_left(after: str, times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="mw-") as name:
        folder = Path(name)
        with demo(folder) as ran:
            assert ran.stdout is not None
            for line in ran.stdout:
                if after in line:
                    break
            for _ in range(times):
                os.killpg(ran.pid, signal.SIGINT)  # as a terminal does
            told = ran.stdout.read()
            assert ran.wait() == 130, told
        assert told.splitlines()[-1] == "The demo was ended. Nothing of it runs any more, and its files are gone."
        assert "Traceback" not in told
        assert list(folder.iterdir()) == []
        assert wait_for(lambda: not running(folder), "the end of all that it started", within=5)
