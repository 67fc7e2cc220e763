import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rig import apps
from rig.processes import wait_for
from rig.uwsgi import App, Uwsgi
from watchdogd.model.base import ProcessId
from watchdogd.model.seen import Wakes
from watchdogd.observe import wakes
from watchdogd.observe.wakes import WATCH_S, WatchedByThreads

PULSE = Path(apps.__file__).with_name("pulse.py")
EVERY_S, HOLDS_S = 0.5, 0.1
OFF_S = 0.03  # a look every 4 ms, on a loaded machine; of any times 36 of 100 are so near

THREADS = """
import threading, time
def every(seconds):
    while True:
        time.sleep(seconds)
for one in (0.5, 0.01):
    threading.Thread(target=every, args=(one,), daemon=True).start()
print("ready", flush=True)
time.sleep(600)
"""


def seen(watched: WatchedByThreads, woken: threading.Event, master: ProcessId) -> Wakes:
    """What is seen of it, once somebody is woken."""
    watched.watch(master)
    assert woken.wait(WATCH_S + 30)
    woken.clear()
    found = watched.seen(master)
    assert found is not None
    return found


@contextmanager
def with_threads() -> Iterator[ProcessId]:
    """A process with a thread that wakes every 0.5 s, and one that does all the time."""
    with subprocess.Popen([sys.executable, "-c", THREADS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield ProcessId(process.pid, 1)
        finally:
            process.kill()


def test_the_wakes_of_a_real_master_are_seen_at_their_phase(tmp_path: Path) -> None:
    woken = threading.Event()
    watched = WatchedByThreads(woken.set)
    with Uwsgi(tmp_path, app=App.NO_CLIENT, extra=(f"shared-py-import = {PULSE}",)) as app:
        found = seen(watched, woken, ProcessId(app.master, 1))
        pulse = float(wait_for((tmp_path / "pulse").read_text, "a pulse", within=10))
    assert found.times
    # It wakes to take the GIL, and when it has had it.
    after = [(one - pulse) % EVERY_S for one in found.times]
    assert statistics.median(min(one, EVERY_S - one, abs(one - HOLDS_S)) for one in after) < OFF_S
    assert time.monotonic() - found.at < 30


def test_a_thread_that_wakes_all_the_time_is_left_out() -> None:
    woken = threading.Event()
    with with_threads() as master:
        found = seen(WatchedByThreads(woken.set), woken, master)
    assert 1 <= len(found.times) < wakes.ALWAYS


def test_who_asks_is_never_held_up_and_one_thread_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    woken = threading.Event()
    before = threading.active_count()
    with with_threads() as master:
        watched = WatchedByThreads(woken.set)
        begun = time.monotonic()
        for _ in range(3):
            watched.watch(master)
        assert time.monotonic() - begun < WATCH_S
        assert threading.active_count() == before + 1
        assert watched.seen(master) is None
        first = seen(watched, woken, master)
        watched.watch(master)  # what is fresh is not watched again
        assert not woken.wait(0.2)
        monkeypatch.setattr(wakes, "ANEW_S", 0.0)
        assert seen(watched, woken, master).at > first.at


def test_of_a_process_that_is_gone_no_wake_is_seen() -> None:
    woken = threading.Event()
    with with_threads() as master:
        pass
    assert seen(WatchedByThreads(woken.set), woken, master).times == ()
