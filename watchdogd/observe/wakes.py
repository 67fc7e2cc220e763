"""When the threads of a master wake (edge): watched by a thread of its own for a moment, before a byte may be written.

A thread that wakes may take Python's GIL, and uWSGI forks without it (core/aim.py). Nobody needs a right for this:
/proc/PID/task/TID/status is for everybody. What is hidden all the same, or gone, is as if no thread woke: then the byte
is written at any moment. This module must never decide when.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Protocol

from watchdogd.model.base import Mono, ProcessId
from watchdogd.model.seen import Wakes
from watchdogd.observe import procfs

WATCH_S = 1.1
"""Two wakes of a driver's thread, which waits in steps of 0.5 s."""

STEP_S = 0.004
"""From one reading to the next: a fork is in danger for 15 ms after a wake. 24 us for each thread: 2 % of a core."""

ALWAYS = 12
"""A thread that woke so often meanwhile waits for something else, and nothing can be timed by it."""

ANEW_S = 3.0
"""What was seen is watched again when it is so old, and asked for."""


class Watched(Protocol):
    """The edge to the wakes of masters."""

    def watch(self, master: ProcessId) -> None:
        """Have it watched; returns at once."""

    def seen(self, master: ProcessId) -> Wakes | None:
        """Return what was seen last; None while nothing has been."""


class WatchedByThreads:
    """The edge over /proc. `wake` is called, from another thread, when there is something new to be seen."""

    def __init__(self, wake: Callable[[], None], clock: Callable[[], Mono] = time.monotonic) -> None:
        self._wake = wake
        self._clock = clock
        self._seen: dict[ProcessId, Wakes] = {}
        self._watching: set[ProcessId] = set()

    def watch(self, master: ProcessId) -> None:
        """See Watched.watch. Those that nobody has asked for in a while are forgotten."""
        now = self._clock()
        self._seen = {one: wakes for one, wakes in self._seen.items() if now - wakes.at < 2 * ANEW_S}
        known = self._seen.get(master)
        if master in self._watching or (known is not None and now - known.at < ANEW_S):
            return
        self._watching.add(master)
        threading.Thread(target=self._run, args=(master,), name=f"wakes of {master.pid}", daemon=True).start()

    def seen(self, master: ProcessId) -> Wakes | None:
        """See Watched.seen."""
        return self._seen.get(master)

    def _run(self, master: ProcessId) -> None:
        try:
            times = _watch(master.pid, self._clock)
        except (OSError, ValueError):
            times = ()
        self._seen = {**self._seen, master: Wakes(self._clock(), times)}
        self._watching.discard(master)
        self._wake()


def _watch(pid: int, clock: Callable[[], Mono]) -> tuple[Mono, ...]:
    """Return when a thread was seen to wake, of those that wake now and then. Raises OSError, ValueError."""
    counts: dict[int, int] = {}
    woken: dict[int, list[Mono]] = {}
    until = clock() + WATCH_S
    while clock() < until:
        for thread, count in procfs.switches(pid).items():
            if thread != pid and counts.setdefault(thread, count) != count:
                counts[thread] = count
                woken.setdefault(thread, []).append(clock())
        time.sleep(STEP_S)
    return tuple([one for times in woken.values() if len(times) < ALWAYS for one in times])
