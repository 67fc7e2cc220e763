"""`make demo` as a user runs it: what it prints is what the README shows, and nothing is left of it."""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# "Ends in under 3 minutes after its downloads": 95 s on a quiet machine.
MOST_S = 180
STEPS = ["mongod is stopped", "mongod is back", "leftovers_found: ", "reload_due: ", "reload_sent: ", "recovered: "]


def play(folder: Path) -> tuple["subprocess.CompletedProcess[str]", float]:
    """Plays it with all its files in this folder; gives the seconds that it took, too."""
    begun = time.monotonic()
    environment = {**os.environ, "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "rig.demo"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST_S, env=environment)
    return ran, time.monotonic() - begun


def test_the_demo_shows_an_app_that_stays_broken_without_the_watchdog_and_recovers_with_it() -> None:
    # Not in tmp_path: a Unix socket's path has 107 bytes at most.
    with tempfile.TemporaryDirectory(prefix="mw-") as folder:
        ran, seconds = play(Path(folder))
        left = list(Path(folder).iterdir())
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert seconds < MOST_S
    assert left == []
    without, with_it = ran.stdout.splitlines()[-2:]
    assert re.fullmatch(r"without mongo-watchdog +never recovered \(30 s watched\) +[1-9]\d* of \d+ +0", without)
    assert re.fullmatch(r"with mongo-watchdog +\d+ s +[1-9]\d* of \d+ +1", with_it)
    story = ran.stdout.partition("── with mongo-watchdog ")[2]
    places = [story.find(step) for step in STEPS]
    assert -1 not in places
    assert places == sorted(places)
