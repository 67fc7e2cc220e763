"""`make demo`: one app that stays broken after a restart of mongod, and the same app with the watchdog beside it.

Everything in it is real: mongod, uWSGI, the app, its sockets, the daemon with its shipped policy. No root. It leaves
nothing running, and no file outside the cache of downloads, also when Ctrl-C ends it. A line has 80 characters at most.
"""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import psutil

from rig import RigError, fetch
from rig.daemon import Daemon
from rig.mongod import Mongod
from rig.traffic import Traffic
from rig.uwsgi import Uwsgi

CALM_S = 4  # of good requests before the fault
DOWN_S = 9  # a request must reach every worker meanwhile, or it is not poisoned (each blocks for 3 s)
WATCH_WITHOUT_S = 30  # an app that heals does so within 10 s
WATCH_WITH_S = 70  # linger 15 s, the reload and the proof of it
GOOD_AT_END_S = 4
WIDTH, INDENT = 80, 8
ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Outcome:
    """What one run came to; seconds count from mongod's return, None is never."""

    title: str
    broken_s: float | None
    failed: int
    requests: int
    reloads: int
    watched_s: float


class Screen:
    """Lines for a person; colours only on a terminal."""

    def __init__(self) -> None:
        self._colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ

    def say(self, line: str = "", colour: str = "") -> None:
        """Prints one line at once."""
        code = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}.get(colour)
        print(f"\033[{code}m{line}\033[0m" if code and self._colours else line, flush=True)


class Log:
    """The daemon's journal lines, read while it writes them."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0
        self.reloads = 0
        self.recovered = False

    def new(self) -> Iterator[str]:
        """Yields each new line as event and sentence."""
        if not self._path.exists():
            return
        with self._path.open() as log:
            log.seek(self._read)
            for line in iter(log.readline, ""):
                if not line.endswith("\n"):
                    return
                self._read += len(line.encode())
                head, _, sentence = line.rstrip().partition(": ")
                event = head.split()[2] if len(head.split()) > 2 else head  # noqa: PLR2004
                self.reloads += event == "reload_sent"
                self.recovered |= event == "recovered"
                yield f"{event}: {sentence}"


class Run:
    """One run of the story."""

    def __init__(self, screen: Screen, folder: Path, *, watched: bool) -> None:
        self.screen, self.folder, self.watched = screen, folder, watched
        self.log = Log(folder / "watchdog" / "watchdog.log")

    def play(self) -> Outcome:
        """Plays it: calm, mongod gone for 9 s, and then what becomes of the app."""
        title = "with mongo-watchdog" if self.watched else "without mongo-watchdog"
        self.screen.say(f"\n── {title} " + "─" * (76 - len(title)), "bold")
        with ExitStack() as stack:
            (self.folder / "mongod").mkdir()
            self.mongod = stack.enter_context(Mongod(self.folder / "mongod"))
            self.uwsgi = stack.enter_context(Uwsgi(self.folder / "shop", self.mongod.uri, selection_ms=3000))
            if self.watched:
                limits = {"worker_reload_mercy": "4s"}
                stack.enter_context(Daemon(self.folder / "watchdog", self.mongod.uri, [self.uwsgi], limits=limits))
            self.traffic = stack.enter_context(Traffic(self.uwsgi.address, timeout=5))
            self.started, self.shown = time.monotonic(), 0
            self.screen.say("  time  mongod  workers' sockets to mongod        requests   watchdog", "dim")
            self._watch(CALM_S)
            self._note("mongod is stopped (SIGTERM)", "yellow")
            self.mongod.stop()
            self._watch(DOWN_S)
            self.mongod.start()
            back = time.monotonic()
            self._note("mongod is back", "yellow")
            self._watch(WATCH_WITH_S if self.watched else WATCH_WITHOUT_S, until_good=self.watched)
            end = time.monotonic()
            self.traffic.stop()
            return self._outcome(title, back, end)

    def _watch(self, seconds: float, *, until_good: bool = False) -> None:
        end = time.monotonic() + seconds
        good_lines = 0
        while time.monotonic() < end and not (until_good and self.log.recovered and good_lines >= GOOD_AT_END_S):
            next_line = time.monotonic() + 1
            good_lines = good_lines + 1 if self._line() else 0
            time.sleep(max(0.0, next_line - time.monotonic()))

    def _line(self) -> bool:
        """Prints this second; returns whether its requests were good."""
        done = self.traffic.requests[self.shown :]
        self.shown += len(done)
        ok = sum(one.good for one in done)
        failed = len(done) - ok
        sockets = Counter(self._sockets())
        shown = f"ESTABLISHED {sockets['ESTABLISHED']:>2}   CLOSE_WAIT {sockets['CLOSE_WAIT']:>2}"
        mongod = "up  " if self.mongod.running else "DOWN"
        requests = f"{ok} ok" + (f", {failed} FAILED" if failed else "") if done else "none ended"
        colour = "red" if failed else "green" if ok else ""
        said = list(self.log.new())
        second = time.monotonic() - self.started
        self.screen.say(f"  {second:4.0f}s  {mongod}    {shown:<32}  {requests}", colour)
        for line in said:
            self._note(f"watchdog: {line}", "bold")
        return ok > 0 and failed == 0

    def _note(self, text: str, colour: str) -> None:
        for number, line in enumerate(textwrap.wrap(text, WIDTH - INDENT - 2, break_on_hyphens=False)):
            self.screen.say(" " * (INDENT + 2 * (number > 0)) + line, colour)

    def _sockets(self) -> Iterator[str]:
        """Yields the state of each socket of the workers to mongod; one that several share counts once."""
        seen = set()
        for pid in self.uwsgi.workers():
            with contextlib.suppress(psutil.Error):
                for one in psutil.Process(pid).net_connections("tcp"):
                    to_mongod = getattr(one.raddr, "port", None) == self.mongod.address[1]
                    if to_mongod and one.laddr not in seen:
                        seen.add(one.laddr)
                        yield one.status

    def _outcome(self, title: str, back: float, end: float) -> Outcome:
        requests = self.traffic.requests
        bad = [one.sent_at for one in requests if not one.good and one.sent_at >= back]
        good_after = any(one.good and one.sent_at > max(bad, default=back) for one in requests)
        broken = max(bad, default=back) - back if good_after else None
        return Outcome(
            title, broken, sum(not one.good for one in requests), len(requests), self.log.reloads, end - back
        )


def table(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Yields the lines that compare the runs."""
    yield f"{'':<24}{'broken after mongod was back':<32}{'requests failed':<17}reloads"
    for one in outcomes:
        never = f"never recovered ({one.watched_s:.0f} s watched)"
        broken = never if one.broken_s is None else f"{one.broken_s:.0f} s"
        yield f"{one.title:<24}{broken:<32}{f'{one.failed} of {one.requests}':<17}{one.reloads}"


def play(screen: Screen) -> list[Outcome]:
    """Plays the run without the watchdog and the one with it."""
    outcomes = []
    for watched in (False, True):
        folder = Path(tempfile.mkdtemp(prefix="mwd-"))
        try:
            outcomes.append(Run(screen, folder, watched=watched).play())
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return outcomes


def _end(_: int, __: object) -> None:
    """Ends the demo; who asks a second time does not stop it from cleaning up."""
    for number in ENDS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main() -> int:
    """Plays both runs and prints the table; 0 when they came out as the README says, 130 when Ctrl-C ended it."""
    for number in ENDS:
        signal.signal(number, _end)
    screen = Screen()
    try:
        screen.say("mongo-watchdog demo: a Flask app under uWSGI, its MongoClient made at import,", "bold")
        screen.say("3 workers, 2 requests per second. mongod goes away for 9 s and comes back.", "bold")
        fetch.fetch_defaults(screen.say)
        without, with_it = outcomes = play(screen)
    except KeyboardInterrupt:
        screen.say("\nThe demo was ended. Nothing of it runs any more, and its files are gone.")
        return 130
    except RigError as error:
        screen.say(f"the demo cannot run here: {error}", "red")
        return 1
    head, *rows = table(outcomes)
    screen.say(f"\n{head}", "bold")
    for row in rows:
        screen.say(row)
    as_told = (without.broken_s is None, with_it.broken_s is None, with_it.reloads) == (True, False, 1)
    if not as_told:
        screen.say("\nThis is not what should have come out: see above.", "red")
    return 0 if as_told else 1


if __name__ == "__main__":
    sys.exit(main())
