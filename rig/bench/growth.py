"""Whether anything grows: many ticks without a pause, while workers and connections come and go and mongod restarts."""

import contextlib
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rig import RigError
from rig.bench.daemons import Manager, Program, daemon
from rig.bench.sites import Load, Site, a_mongod, a_site, write_config

TICKS = 100_000
HELD = Load(closing=16, established=16)
MONGOD_EVERY = 2
"""Reloads of the workers until mongod is restarted: every leftover and every incident is then of another process."""
WITHIN_S = 900.0
LOOK_EVERY_S = 0.05


@dataclass(frozen=True)
class Moment:
    """What the daemon had after so many ticks. `anonymous`: memory of its own, in MB."""

    ticks: int
    anonymous: float
    descriptors: int
    threads: int


@dataclass(frozen=True)
class Grown:
    """What there was in the second tenth of the ticks, when everything has been seen once, and in the last; medians."""

    ticks: int
    seconds: float
    reloads: int
    connections: int
    first: Moment
    last: Moment


def measure(say: Callable[[str], None], ticks: int = TICKS) -> Grown:
    """Lets it tick so often; raises RigError when that takes too long."""
    say(f"{ticks} ticks without a pause")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        mongod = stack.enter_context(a_mongod(folder / "mongod"))
        site = stack.enter_context(a_site(mongod, HELD))
        config = write_config(folder / "growth.yaml", site, linger="1ms")
        program, manager = stack.enter_context(daemon(config, command=("-m", "rig.bench.ticks")))
        moments = stack.enter_context(_watching(program, manager))
        begin, reloads = time.monotonic(), 0
        while manager.ticks < ticks:
            _churn(site, program)
            reloads += 1
            if reloads % MONGOD_EVERY == 0:
                mongod.restart()
            if time.monotonic() - begin > WITHIN_S:
                raise RigError(f"only {manager.ticks} ticks within {WITHIN_S:g} s")
        seconds = time.monotonic() - begin
        tenth = manager.ticks / 10
        early = [one for one in moments if tenth <= one.ticks < 2 * tenth]
        late = [one for one in moments if one.ticks >= 9 * tenth]
        connections = site.closing.accepted + site.steady.accepted
        return Grown(manager.ticks, seconds, reloads, connections, _middle(early), _middle(late))


@contextlib.contextmanager
def _watching(program: Program, manager: Manager) -> Iterator[list[Moment]]:
    """Looks at it all the time from a thread, for as long as the `with` lasts."""
    moments: list[Moment] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK_EVERY_S):
            with contextlib.suppress(OSError):  # it has ended, which is told elsewhere
                moments.append(Moment(manager.ticks, program.anonymous(), program.descriptors(), program.threads()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield moments
    finally:
        over.set()
        thread.join()


def _churn(site: Site, program: Program) -> None:
    """Ends half of the workers' connections, has the workers reloaded, and makes connections that nobody watches."""
    (uwsgi,) = site.uwsgi
    old = uwsgi.workers()
    site.closing.end()
    for _ in range(20):
        with site.steady.another_connection(), site.closing.another_connection():
            time.sleep(LOOK_EVERY_S)  # so that it is seen by some ticks
        if not program.process.running:
            raise RigError("the daemon has ended")
    uwsgi.send(b"w")
    uwsgi.wait_ready(other_than=old)
    site.closing.let_go()
    site.steady.let_go()


def _middle(moments: Sequence[Moment]) -> Moment:
    return Moment(
        moments[-1].ticks,
        statistics.median(one.anonymous for one in moments),
        round(statistics.median(one.descriptors for one in moments)),
        round(statistics.median(one.threads for one in moments)),
    )
