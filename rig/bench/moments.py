"""How soon: from the start to READY, from mongod's end or freezing to the event, from its return, from due to the byte.

A daemon that may act watches an instance whose idle workers hold connections that end with mongod: so each round ends
in a real reload, by a real byte in a real FIFO. Events are read from the daemon's own log, which has milliseconds.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rig.bench.daemons import daemon
from rig.bench.samples import Sample
from rig.bench.sites import WITHIN_S, Load, Site, a_mongod, a_site, write_config
from rig.processes import wait_for

STARTS = 10
ROUNDS = 6
HELD = Load(closing=64, established=0)
LINGER = "3s"

READY = "from the start to READY=1"
DOWN_TERM, DOWN_KILL = "from SIGTERM to member_down", "from SIGKILL to member_down"
FROZEN, THAWED = "from SIGSTOP to FROZEN", "from SIGCONT to member_up"
BACK = "from mongod's first answer to member_up"
DUE = "from the due time to the byte in the FIFO"


@dataclass
class _Log:
    """The events of a daemon's log, read from where it was left."""

    path: Path
    _at: int = 0

    def skip(self) -> None:
        """Forgets what has been told so far."""
        self._at = self.path.stat().st_size

    def wait(self, event: str, holding: str = "") -> float:
        """The wall-clock time of the next event of that name, with that in its line."""

        def told() -> float | None:
            with self.path.open() as log:
                log.seek(self._at)
                for line in log.readlines():
                    when, _, rest = line.partition(" ")
                    if f" {event} " in rest and holding in rest:
                        return datetime.fromisoformat(when).timestamp()
            return None

        return wait_for(told, event, within=WITHIN_S, log=self.path)


def measure(say: Callable[[str], None], *, starts: int = STARTS, rounds: int = ROUNDS) -> Iterator[tuple[str, Sample]]:
    """Measures each of them so many times; in seconds."""
    taken: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        mongod = stack.enter_context(a_mongod(folder / "mongod"))
        say(f"{starts} starts")
        with a_site(mongod, HELD) as site:
            config = write_config(folder / "start.yaml", site)
            for _ in range(starts):
                with daemon(config) as (program, _):
                    taken.setdefault(READY, []).append(program.ready_ms / 1000)
        for number in range(rounds):
            say(f"outage {number + 1} of {rounds}")
            with a_site(mongod, HELD) as site:
                config = write_config(folder / f"{number}.yaml", site, mode="act", linger=LINGER)
                with daemon(config) as (_, _):
                    for what, seconds in _one_round(site, config, kill=number % 2 == 1):
                        taken.setdefault(what, []).append(seconds)
    for what in (READY, DOWN_TERM, DOWN_KILL, FROZEN, THAWED, BACK, DUE):
        if what in taken:
            yield what, Sample(tuple(taken[what]))


def _one_round(site: Site, config: Path, *, kill: bool) -> Iterator[tuple[str, float]]:
    log, mongod = _Log(config.with_suffix(".log")), site.mongod
    log.wait("started")
    _wait_serving(config)
    log.skip()
    begin = time.time()
    mongod.freeze()
    yield FROZEN, log.wait("member_down", "state=frozen") - begin
    log.skip()
    begin = time.time()
    mongod.thaw()
    yield THAWED, log.wait("member_up") - begin
    log.skip()
    begin = time.time()
    (mongod.kill if kill else mongod.stop)()
    yield DOWN_KILL if kill else DOWN_TERM, log.wait("member_down") - begin
    site.closing.end()
    log.skip()
    mongod.start()
    answered = time.time()
    # Before the rig's own question was answered, its 20 ms of polling too: then it was at once.
    yield BACK, max(0.0, log.wait("member_up") - answered)
    log.wait("leftovers_found")
    due = datetime.fromisoformat(_status(config)["instances"][0]["next"]["at"]).timestamp()
    yield DUE, log.wait("reload_sent") - due


def _wait_serving(config: Path) -> None:
    wait_for(lambda: all(one["serving"] for one in _status(config)["deployments"]), "mongod serves", within=WITHIN_S)


def _status(config: Path) -> dict[str, list[dict[str, dict[str, str]]]]:
    asked = [sys.executable, "-m", "watchdogd", "status", "--json", "--config", str(config)]
    told = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    status: dict[str, list[dict[str, dict[str, str]]]] = json.loads(told.stdout)
    return status
