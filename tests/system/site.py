"""A web site inside a box: mongod and uWSGI as services of their own users, and its visitors.

The unit files and the ini are what an administrator writes; uWSGI, Flask and pymongo are the distribution's, mongod and
the app are the rig's.
"""

import enum
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from rig import fetch, wire
from rig.processes import DeadlineError, wait_for
from rig.traffic import Request, Traffic, get
from rig.uwsgi import IMPORT_PAUSE_S, PROBE_HOLD_S, STARTS, end, hung_by_fork, ready_of, workers_of
from tests.once import ROOT
from tests.system.box import Box

RIG_INSIDE, CHECKOUT_INSIDE = "/opt/rig", "/opt/checkout"
ADDRESS = ("127.0.0.1", 8000)
MONGOD = ("127.0.0.1", 27017)
FOLDER = "/run/uwsgi/app/shop"
FIFO = f"{FOLDER}/fifo"
BESIDE = f"shared-py-import = {CHECKOUT_INSIDE}/rig/apps/hang.py"
WORKERS = 3
MERCY_S = 4
WITHIN_S = 60.0


class Way(enum.Enum):
    """How uWSGI comes to run as www-data."""

    SYSTEMD_USER = "User= in its unit"
    UWSGI_UID = "started as root, with uid= in its ini"


_MONGOD_UNIT = """
[Service]
User=mongodb
StateDirectory=mongodb
Environment=LD_LIBRARY_PATH={library}
ExecStart={mongod} --dbpath /var/lib/mongodb --bind_ip_all --wiredTigerCacheSizeGB 0.25 --nounixsocket \
    --setParameter diagnosticDataCollectionEnabled=false
"""
_UWSGI_UNIT = """
[Service]
{user}
WorkingDirectory={folder}
Environment=MONGO_URI=mongodb://127.0.0.1:27017/ MONGO_SELECTION_MS=1000 MONGO_HEARTBEAT_MS=1000
Environment=RIG_CLIENT=import RIG_IMPORT_PAUSE_S={pause}
ExecStart=/usr/bin/uwsgi --ini /etc/shop.ini
KillSignal=SIGQUIT
TimeoutStopSec=10
"""
_INI = """
[uwsgi]
plugins = python3
master = true
need-app = true
strict = true
http-socket = {host}:{port}
processes = {workers}
master-fifo = {fifo}
worker-reload-mercy = {mercy}
enable-threads = {threads}
wsgi-file = {checkout}/rig/apps/web.py
{uid}
{extra}
"""


def shows() -> dict[Path, str]:
    """What a box with a site is to show: the real components, and the app."""
    return {fetch.cache_dir(): RIG_INSIDE, ROOT: CHECKOUT_INSIDE}


@dataclass(eq=False)
class Site:
    """mongod and the app that gets stuck, both serving, once `start` returns."""

    box: Box
    way: Way = Way.SYSTEMD_USER
    mercy_s: int = MERCY_S
    threads: bool = (
        True  # without (the default of Debian 12) the master holds its dead connection too, and only `r` helps
    )
    extra: str = ""  # one more line of its ini

    @property
    def folder(self) -> Path:
        """Where uWSGI was started in, as it is reached from outside."""
        return self.box.path(FOLDER)

    @property
    def master(self) -> int:
        """The pid of uWSGI's master outside; 0 while there is none."""
        return self.box.outside(int(self.box.show("uwsgi.service", "MainPID")))

    def workers(self) -> list[int]:
        """The pids outside of its workers, loading ones too, in ascending order."""
        return workers_of(self.master)

    def ready_workers(self) -> list[int]:
        """The pids outside of the workers that have loaded the app and serve."""
        return ready_of(self.master)

    def start(self) -> None:
        """Writes the units and starts both; ends who hangs since its fork, and begins anew where the app is stuck from
        boot, as the rig does.
        """
        self.start_mongod()
        self._write_uwsgi()
        self.box.systemctl("daemon-reload")
        for left in reversed(range(STARTS)):
            self.box.systemctl("restart", "uwsgi")
            try:
                self._warm_up()
            except DeadlineError:
                if not left:
                    raise
            else:
                return

    def start_mongod(self) -> None:
        """Starts just MongoDB, on every address of the box."""
        self.box.write("/usr/lib/sysusers.d/site.conf", "u mongodb - -\n")
        self.box.run("systemd-sysusers")
        binary = fetch.mongod(own=False)
        self.box.write(
            "/etc/systemd/system/mongod.service",
            _MONGOD_UNIT.format(mongod=_inside(binary.path), library=_inside(binary.path.parent / "lib")),
        )
        self.box.systemctl("daemon-reload")
        self.box.systemctl("start", "mongod")
        self.wait_mongod()

    def wait_mongod(self) -> None:
        """Returns once mongod answers."""

        def answers() -> bool:
            with self.box.entered():
                try:
                    wire.hello(MONGOD)
                except OSError:
                    return False
            return True

        wait_for(answers, "mongod answers", within=WITHIN_S)

    def strand(self, *, hanging: int = 0) -> None:
        """Takes mongod away, has the workers fail (but that many, which hang), and brings it back."""
        self.box.systemctl("stop", "mongod")
        failed: set[int] = set()

        def all_failed() -> bool:
            answers = self.get_many(2 * WORKERS - hanging)
            failed.update(one.worker for one in answers if one.worker and one.status != HTTPStatus.OK)
            return len(failed) >= WORKERS - hanging

        wait_for(all_failed, "an error of every worker while mongod is down", within=WITHIN_S)
        self.box.systemctl("start", "mongod")
        self.wait_mongod()

    def get_many(self, count: int, path: str = "/") -> list[Request]:
        """That many requests at the same time."""
        with self.box.entered(), ThreadPoolExecutor(count) as pool:
            return list(pool.map(lambda _: get(ADDRESS, path), range(count)))

    def all_good(self) -> bool:
        """Whether requests to every worker are good."""
        return all(one.good for one in self.get_many(2 * WORKERS, f"/?hold={PROBE_HOLD_S}"))

    @contextmanager
    def traffic(self, rate: float = 2.0) -> Iterator[None]:
        """Visitors come meanwhile, `rate` of them a second."""
        with self.box.entered():
            traffic = Traffic(ADDRESS, rate=rate)
            traffic.__enter__()  # its threads stay in the box's network; this one need not
        try:
            yield
        finally:
            traffic.stop()

    def respawned(self) -> int:
        """How many workers uWSGI made anew, by its own log: what reached it, whatever the watchdog says.

        Not in place of those that were killed out of turn: who hangs since its fork is ended, and that is no reload.
        """
        log = self.box.run(
            "journalctl", "--output=cat", "--quiet", "--unit=uwsgi.service", "--grep=respawn", check=False
        ).stdout
        return log.count("Respawned uWSGI worker") - log.count("killed by signal 9")

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """One worker is busy meanwhile, with a request that does not end."""
        with self.box.entered():
            connection = socket.create_connection(ADDRESS, timeout=WITHIN_S)
        with connection:
            connection.sendall(b"GET /hang HTTP/1.0\r\n\r\n")
            assert connection.recv(1), "uWSGI closed the connection"
            yield

    def _write_uwsgi(self) -> None:
        # Not RuntimeDirectory=: it is the unit's user's, and uWSGI makes its FIFO as the one that it has become.
        self.box.write("/usr/lib/tmpfiles.d/site.conf", f"d {FOLDER} 0755 www-data www-data -\n")
        self.box.run("systemd-tmpfiles", "--create", "site.conf")
        by_systemd = self.way is Way.SYSTEMD_USER
        uwsgi_unit = _UWSGI_UNIT.format(
            user="User=www-data\nGroup=www-data" if by_systemd else "",
            folder=FOLDER,
            pause=IMPORT_PAUSE_S,
        )
        ini = _INI.format(
            host=ADDRESS[0],
            port=ADDRESS[1],
            workers=WORKERS,
            fifo=FIFO,
            mercy=self.mercy_s,
            threads=str(self.threads).lower(),
            checkout=CHECKOUT_INSIDE,
            uid="" if by_systemd else "uid = www-data\ngid = www-data",
            extra=self.extra,
        )
        self.box.write("/etc/systemd/system/uwsgi.service", uwsgi_unit)
        self.box.write("/etc/shop.ini", ini)

    def _warm_up(self) -> None:
        served: set[int] = set()
        deadline = time.monotonic() + WITHIN_S

        def all_served() -> bool:
            if time.monotonic() > deadline - WITHIN_S / 2 and self.box.show("uwsgi.service", "ActiveState") == "failed":
                raise DeadlineError("uwsgi.service failed")
            answers = self.get_many(2 * WORKERS, f"/?hold={PROBE_HOLD_S}")
            served.update(one.worker for one in answers if one.worker and one.status == HTTPStatus.OK)
            if len(served) >= WORKERS:
                return True
            end(hung_workers(self.box))
            return False

        wait_for(all_served, "a good request on every worker", within=WITHIN_S / 3)


def hung_workers(box: Box) -> list[int]:
    """The pids, outside, of the app's workers that hang since their fork."""
    master = Site(box).master
    return hung_by_fork(master) if master else []


def _inside(path: Path) -> str:
    """Where a file of the rig's cache is inside."""
    return str(RIG_INSIDE / path.relative_to(fetch.cache_dir()))
