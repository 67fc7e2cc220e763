"""Whether a master is single: none of its threads but its first one, which is uWSGI's own, ever runs. Never decides.

The monitors of a MongoDB client are threads, which wake every 0.5 s. Where gevent has patched Python before the app was
loaded they are greenlets of that first thread, whose hub runs in workers and never in the master; so the client of such
a master never sends. A daemon that was forked after its app was loaded has none of the threads of its client either.
"""

from __future__ import annotations

from collections.abc import Mapping

from watchdogd.model.base import Mono

ASLEEP_S = 3.0
"""Other threads that did not run for so long are none of a driver: its threads would have been due six times."""


class Single:
    """One master. `seen`: it is single."""

    def __init__(self) -> None:
        self.seen = False
        self._before: tuple[Mono, Mapping[int, int | None]] | None = None

    def fold(self, first: int, runs: Mapping[int, int | None], at: Mono) -> None:
        """Take one look: how often each thread was switched away, None for one that runs. `first`: the first thread.

        That one wakes every second: where it did not run either, the process is stopped, and nothing is known. A thread
        that was not there before has run.
        """
        before = self._before
        others = {thread: count for thread, count in runs.items() if thread != first}
        if first not in runs or not others:
            self.seen, self._before = first in runs, None
        elif before is None or any(count is None or before[1].get(thread) != count for thread, count in others.items()):
            self.seen, self._before = False, (at, runs)
        elif at - before[0] >= ASLEEP_S and before[1].get(first) != runs[first]:
            self.seen = True
