"""A real uWSGI with one of the rig's apps, its master FIFO, and its workers as the kernel shows them.

It is read here without mongo-watchdog's own code, so that a test compares two independent readings.
"""

import contextlib
import enum
import http.client
import os
import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, field
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self

from rig import RigError, apps, fetch
from rig.ports import free_port
from rig.processes import DeadlineError, Process, all_pids, last_lines, stat_fields, wait_for
from rig.traffic import Request, get, get_by_uwsgi

WEB = Path(apps.__file__).with_name("web.py")
HOLD = Path(apps.__file__).with_name("hold.py")
LOADING = Path(apps.__file__).with_name("loading.py")

OSAFTERFORK, FORK_HOOKS = "py-call-osafterfork = true", "py-call-uwsgi-fork-hooks = true"
"""Two lines of an ini file that have Python learn of a fork (docs/mongodb-and-uwsgi.md)."""

# A start takes 2 s (0.5 s without the pause below); the rest is for a loaded machine.
START_WITHIN_S = 20.0
BUSY_WITHIN_S = 60.0  # for the headers, and for the end once it may
# A client made at import is now and then stuck from boot (1 of 12 to 21 starts), but not 5 times running.
STARTS = 5
# So long a started worker keeps each probing request, so that as many at once reach as many workers.
PROBE_HOLD_S = 0.1
# How long after a client is made at import the workers are forked. It has found its server by then, and its
# threads sleep: they wake every 0.5 s, and a worker forked in that moment waits for the GIL for ever and is
# never ready (at 1.5 s in 11 of 90 starts, at 1.75 s in 0 of 60; pymongo 3.13.0 and 4.14.1).
IMPORT_PAUSE_S = 1.75

# A forked worker is ready within milliseconds; the rest is for a loaded machine.
HUNG_AFTER_S = 5.0

# What a process catches tells its role: a worker WINCH, and USR2 once it has loaded the app.
_CATCHES_WINCH = 1 << (signal.SIGWINCH - 1)
_CATCHES_USR2 = 1 << (signal.SIGUSR2 - 1)


class StuckFromBootError(RigError):
    """The app started, but a worker never became ready, or requests failed on it."""


class App(enum.Enum):
    """When the app makes its client; the value is what `apps/web.py` is told."""

    IMPORT_CLIENT = "import"
    FIRST_REQUEST = "first_request"
    NO_CLIENT = "none"


class Front(enum.Enum):
    """How requests come to the workers; the value is the option of uWSGI."""

    HTTP_SOCKET = "http-socket"
    HTTP_ROUTER = "http"  # a process of its own takes HTTP, and speaks uwsgi with the workers
    UWSGI_TCP = "socket"  # as behind nginx on another host
    UWSGI_UNIX = "uwsgi-socket"  # as behind nginx on this host; the same option by its other name


@dataclass(eq=False)
class Uwsgi:
    """One uWSGI instance in a folder; as a context manager it starts it and kills it.

    The defaults are the app that gets stuck: its client made at import, in the master, and forked into the
    workers.
    """

    folder: Path
    mongo_uri: str = ""
    _: KW_ONLY
    app: App = App.IMPORT_CLIENT
    front: Front = Front.HTTP_SOCKET
    pymongo: str = fetch.DEFAULT_PYMONGO
    version: str = fetch.DEFAULT_UWSGI
    processes: int = 3
    threads: int | None = None
    cheaper: int | None = None
    lazy_apps: bool = False
    osafterfork: bool = False
    mercy_s: int = 4
    selection_ms: int = 3000
    heartbeat_ms: int | None = None
    # None: as long as this app needs not to be stuck from boot.
    import_pause_s: float | None = None
    # False: no request has touched any worker when `start` returns.
    warm: bool = True
    port: int = field(default_factory=free_port)
    wsgi_file: Path = WEB
    # More lines for the ini file.
    extra: Sequence[str] = ()
    # Goes before the command, and executes it.
    prefix: Sequence[str] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.fifo = self.folder / "fifo"
        self.log = self.folder / "uwsgi.log"
        self.ini = self.folder / "uwsgi.ini"
        self.unix = self.folder / "uwsgi.sock"
        self._started_workers = self.processes if self.cheaper is None else self.cheaper
        command = fetch.uwsgi(self.version)
        self.ini.write_text("\n".join(["[uwsgi]", *self._options(python=command[0]), *self.extra, ""]))
        self._process = Process(
            [*self.prefix, *command, "--ini", str(self.ini)], log=self.log, cwd=self.folder, env=self._environment()
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def host(self) -> str:
        """The address it listens on."""
        return "127.0.0.1"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port, as `traffic` takes them."""
        return (self.host, self.port)

    @property
    def master(self) -> int:
        """The master's pid."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the master is there."""
        return self._process.running

    def start(self) -> None:
        """Starts it and returns when every worker is ready and has served a good request.

        Starts over when a worker cannot, though who hangs was ended, and raises StuckFromBootError the fifth time: then
        MongoDB is not there, or the app never works.
        """
        for left in reversed(range(STARTS)):
            try:
                self._start_once()
            except StuckFromBootError:
                if not left:
                    raise
            else:
                return

    def launch(self) -> None:
        """Starts it and returns at once: whether its workers ever become ready is for the test to see."""
        self._process.start()

    def stop(self, *, grace: float = 10) -> None:
        """Ends it as systemd does, by SIGQUIT, which drops requests in flight; kills what is left then."""
        self._process.end(signal.SIGQUIT, grace=grace)

    def kill(self) -> None:
        """Ends all its processes at once; nothing when it does not run."""
        self._process.end(signal.SIGKILL)

    def restart(self) -> None:
        """`stop` and `start`: another master."""
        self.stop()
        self.start()

    def children(self) -> list[int]:
        """The pids of all that the master has started: workers, mules, spoolers, routers; in ascending order."""
        return _children(self.master)

    def workers(self) -> list[int]:
        """The pids of its workers, loading ones too, in ascending order."""
        return workers_of(self.master)

    def ready_workers(self) -> list[int]:
        """The pids of the workers that have loaded the app and serve."""
        return ready_of(self.master)

    def hung_workers(self) -> list[int]:
        """The pids of those that hang since their fork; of lazy apps none can be told from one that loads its app."""
        return [] if self.lazy_apps else hung_by_fork(self.master)

    def wait_ready(self, *, other_than: Sequence[int] = (), within: float = START_WITHIN_S) -> list[int]:
        """The workers, once they are as many as at the start, all ready, none among `other_than`, and the master reads
        the FIFO at the path.

        Who hangs since its fork never would be, so it is ended, and uWSGI makes another one.
        """

        def all_ready() -> bool:
            workers = self.workers()
            if not all(_is_ready(pid) for pid in workers):
                end(self.hung_workers())
                return False
            new = len(workers) >= self._started_workers and not set(workers) & set(other_than)
            return new and self._reads_its_fifo()

        self._process.wait_until(all_ready, f"{self._started_workers} workers are ready", within=within)
        return self.ready_workers()

    def get(self, path: str = "/", *, timeout: float = 10) -> Request:
        """One request to it, as its `front` takes it."""
        if self.front in {Front.HTTP_SOCKET, Front.HTTP_ROUTER}:
            return get(self.address, path, timeout=timeout)
        where = self.unix if self.front is Front.UWSGI_UNIX else self.address
        return get_by_uwsgi(where, path, timeout=timeout)

    def get_many(self, count: int, path: str = "/", *, timeout: float = 10) -> list[Request]:
        """That many requests at the same time, which so reach different workers."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: self.get(path, timeout=timeout), range(count)))

    @contextlib.contextmanager
    def busy(self, count: int) -> Iterator[list[int]]:
        """Keeps that many workers busy for as long as the `with` lasts, without MongoDB, and gives their pids.

        With all others busy every request goes to the one that is left: so a single worker is stranded.
        """
        over = self.folder / "over"
        over.unlink(missing_ok=True)
        with contextlib.ExitStack() as connections:
            answers = []
            for _ in range(count):
                connection = http.client.HTTPConnection(*self.address, timeout=BUSY_WITHIN_S)
                connections.callback(connection.close)
                connection.request("GET", f"/busy?until={over}")
                answers.append(connection.getresponse())
            try:
                yield [int(answer.headers["X-Worker"]) for answer in answers]
            finally:
                over.touch()
            for answer in answers:
                with contextlib.suppress(OSError, http.client.HTTPException):  # a worker may have been killed
                    answer.read()

    def send(self, command: bytes) -> None:
        """What an operator does by hand: one byte to the master FIFO.

        Never O_CREAT: a file made while the master renews its FIFO ends the master. It renews it
        after every writer, so a missing FIFO or one without a reader is tried again.
        """

        def written() -> bool:
            try:
                fifo = os.open(self.fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:
                return False
            try:
                return os.write(fifo, command) == len(command)
            finally:
                os.close(fifo)

        wait_for(written, f"{self.fifo} takes {command!r}", within=5, log=self.log)

    def _start_once(self) -> None:
        with contextlib.ExitStack() as failed:
            failed.callback(self.kill)
            self._process.start()
            try:
                self.wait_ready()
                if self.warm:
                    self._warm_up()
            except DeadlineError as error:
                raise StuckFromBootError(str(error)) from error
            failed.pop_all()

    def _reads_its_fifo(self) -> bool:
        """Whether the master has it open: it makes the FIFO, and opens it then, which a loaded machine sets apart."""
        try:
            named = self.fifo.stat()
            opened = [fd.stat() for fd in Path(f"/proc/{self.master}/fd").iterdir() if fd.is_fifo()]
        except (FileNotFoundError, ProcessLookupError):
            return False
        return any(os.path.samestat(named, one) for one in opened)

    def _options(self, *, python: str) -> list[str]:
        options = {
            # `r` executes this; by itself pyuwsgi takes /proc/self/exe, the Python outside its virtual
            # environment.
            "binary-path": python,
            "master": "true",
            "need-app": "true",
            "strict": "true",
            self.front.value: self.unix if self.front is Front.UWSGI_UNIX else f"{self.host}:{self.port}",
            "processes": self.processes,
            "threads": self.threads,
            "cheaper": self.cheaper,
            "lazy-apps": "true" if self.lazy_apps else None,
            "py-call-osafterfork": "true" if self.osafterfork else None,
            "master-fifo": self.fifo,
            "worker-reload-mercy": self.mercy_s,
            "pythonpath": fetch.pymongo(self.pymongo),
            "wsgi-file": self.wsgi_file,
        }
        return [f"{key} = {value}" for key, value in options.items() if value is not None]

    def _environment(self) -> dict[str, str]:
        pause_s = self.import_pause_s
        if pause_s is None:
            forks_a_client = self.app is App.IMPORT_CLIENT and not self.lazy_apps
            pause_s = IMPORT_PAUSE_S if forks_a_client else 0
        return {
            "MONGO_URI": self.mongo_uri,
            "MONGO_SELECTION_MS": str(self.selection_ms),
            "MONGO_HEARTBEAT_MS": "" if self.heartbeat_ms is None else str(self.heartbeat_ms),
            "RIG_CLIENT": self.app.value,
            "RIG_IMPORT_PAUSE_S": str(pause_s),
        }

    def _warm_up(self) -> None:
        served: set[int] = set()

        def all_served() -> bool:
            answers = self.get_many(2 * self._started_workers, f"/?hold={PROBE_HOLD_S}")
            if failed := next((answer for answer in answers if answer.status != HTTPStatus.OK), None):
                why = f"{failed.status} {failed.error}"
                raise StuckFromBootError(f"requests fail right after the start ({why}){last_lines(self.log)}")
            served.update(answer.worker for answer in answers if answer.worker)
            return len(served) >= self._started_workers

        wait_for(all_served, "a good request on every worker", within=START_WITHIN_S, log=self.log)


def by_greenlets(count: int, *, early: bool = True) -> list[str]:
    """The lines (`extra`) of a uWSGI of which each worker serves so many requests at a time by gevent.

    `early`: threads are greenlets in the master too, before the app is loaded; else in the workers alone.
    """
    patch = "gevent-early-monkey-patch" if early else "gevent-monkey-patch"
    return [f"gevent = {count}", f"{patch} = true", f"pythonpath = {fetch.gevent()}"]


def workers_of(master: int) -> list[int]:
    """The pids of this master's workers, loading ones too, in ascending order."""
    return [pid for pid in _children(master) if _caught(pid) & _CATCHES_WINCH]


def ready_of(master: int) -> list[int]:
    """The pids of those that have loaded the app and serve."""
    return [pid for pid in _children(master) if _is_ready(pid)]


def hung_by_fork(master: int) -> list[int]:
    """The workers that this master forked long ago and that are not ready, though it had loaded the app before.

    Such a one waits for the GIL, which another thread held when it was forked, for ever. That happens to 1 to 3 of 100
    forks of a master with pymongo's threads (2 of 240 with the driver's own heartbeat, 7 of 240 with one of 1 s;
    pymongo 4.14.1, uWSGI 2.0.30), whoever asks for the fork.
    """
    loading = [pid for pid in _children(master) if _caught(pid) & (_CATCHES_WINCH | _CATCHES_USR2) == _CATCHES_WINCH]
    return [pid for pid in loading if age_s(pid) > HUNG_AFTER_S]


def end(hung: Iterable[int]) -> None:
    """Ends workers that hang since their fork, where no daemon does or none is to: uWSGI makes new ones.

    They have no request, and 100 of 100 were replaced within 0.6 s. SIGKILL alone: who was forked later has its
    master's handlers, which end all others.
    """
    for pid in hung:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def age_s(pid: int) -> float:
    """For how long a process has been there; 0 for one that has ended."""
    stat = stat_fields(pid)
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(stat[19]) / os.sysconf("SC_CLK_TCK") if stat else 0.0


def _children(master: int) -> list[int]:
    with contextlib.suppress(OSError):  # proc(5); the kernel may have been built without it
        return sorted(map(int, Path(f"/proc/{master}/task/{master}/children").read_text().split()))
    return sorted(pid for pid in all_pids() if (stat := stat_fields(pid)) and int(stat[1]) == master)


def _is_ready(pid: int) -> bool:
    ready = _CATCHES_WINCH | _CATCHES_USR2
    return _caught(pid) & ready == ready


def _caught(pid: int) -> int:
    """The signals that a process has handlers for, as a mask; none for a process that is gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt:")), 0)
