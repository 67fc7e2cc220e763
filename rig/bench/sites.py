"""Hosts to measure on: a mongod, the far side of connections, and instances whose workers hold those."""

import contextlib
import json
import resource
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from rig.mongod import Mongod
from rig.netns import Namespace, NamespaceError
from rig.processes import wait_for
from rig.strangers import most_descriptors
from rig.uwsgi import HOLD, App, Uwsgi

WORKERS = 8
WITHIN_S = 60.0
# What one process here may come to hold: 2 000 descriptors and as many connections in a worker, 5 000 in the bench.
DESCRIPTORS_NEEDED = 16_384
STARTING_AT_ONCE = 4

DEPLOYMENT = '  - {{name: "{name}", uri: "{uri}", endpoints: {endpoints}}}'
INSTANCE = '  - {{name: "{name}", master_fifo: {fifo}, mongodb: ["0"], worker_reload_mercy: 4s}}'
# To observe costs the same; and a measurement under load, where mongod may look frozen, must not end in a reload.
CONFIG = """\
mode: {mode}
mongodb:
{deployments}
uwsgi:
{instances}
policy: {{linger: {linger}}}
state_dir: {folder}/state
control_socket: {folder}/control.sock
"""


@contextlib.contextmanager
def own_network() -> Iterator[str]:
    """Everything from here on is in a network namespace of its own, where there may be one; yields what it is."""
    with contextlib.ExitStack() as stack:
        try:
            namespace = stack.enter_context(Namespace())
        except NamespaceError as error:
            yield f"in the host's network namespace: {error}"
            return
        stack.enter_context(namespace.entered())
        namespace.sysctl("net.ipv4.ip_local_port_range", "10000 65000")
        yield "in a network namespace of its own"


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """This process, and what it starts, may hold as many as are needed, as far as this user may say so."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most_descriptors(), DESCRIPTORS_NEEDED)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class FarSide:
    """Accepts every connection to its port, holds them, and ends them when it is told to."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
        self._listener.settimeout(0.1)  # how soon it shows that it is over
        self.port = self._listener.getsockname()[1]
        self.accepted = 0
        self._peers: list[socket.socket] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        for one in (self._listener, *self._peers):
            one.close()

    def wait_accepted(self, count: int) -> None:
        """Returns once so many connections are there."""
        wait_for(lambda: len(self._peers) >= count, f"{count} connections", within=WITHIN_S)

    def let_go(self) -> None:
        """Closes those that their holders have closed."""
        ended = [peer for peer in self._peers if _has_ended(peer)]
        for peer in ended:
            self._peers.remove(peer)
            peer.close()

    def end(self) -> None:
        """Ends every connection from this side: their holders have them in CLOSE_WAIT from now on."""
        for peer in self._peers:
            with contextlib.suppress(OSError):  # its holder may have gone
                peer.shutdown(socket.SHUT_WR)

    @contextlib.contextmanager
    def another_connection(self) -> Iterator[None]:
        """One more connection, of this process, for as long as the `with` lasts; its holder has to be found."""
        with socket.create_connection(("127.0.0.1", self.port)):
            yield

    def _accept(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(TimeoutError):
                self._peers.append(self._listener.accept()[0])
                self.accepted += 1


def _has_ended(peer: socket.socket) -> bool:
    try:
        return peer.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@dataclass(frozen=True)
class Load:
    """What the workers of one instance hold, all together; `descriptors` of other files, in each."""

    closing: int = 0
    established: int = 0
    descriptors: int = 20
    workers: int = WORKERS


@dataclass(frozen=True)
class Site:
    """A mongod and one instance, with its connections to two addresses that count as the mongod's."""

    mongod: Mongod
    uwsgi: Sequence[Uwsgi]
    closing: FarSide
    steady: FarSide
    load: Load

    @property
    def ports(self) -> list[int]:
        """The ports that connections lead to, the one of those to be ended first."""
        return [self.closing.port, self.steady.port]

    @property
    def connections(self) -> int:
        """How many connections the workers hold."""
        return len(self.uwsgi) * (self.load.closing + self.load.established)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Every worker has a request meanwhile that waits as for a server that it does not find."""
        with contextlib.ExitStack() as stack:
            for one in self.uwsgi:
                for _ in range(self.load.workers):
                    client = stack.enter_context(socket.create_connection(one.address, timeout=WITHIN_S))
                    client.sendall(b"GET /wait HTTP/1.0\r\n\r\n")
                    assert client.recv(1), "uWSGI closed the connection"
            yield


class _Mongod(Mongod):
    """One that is so many members, each by an address of its own."""

    def __init__(self, folder: Path, members: int) -> None:
        self._members = members
        super().__init__(folder)

    @property
    def addresses(self) -> Sequence[str]:
        return [f"127.0.0.{number}" for number in range(1, self._members + 1)]


@contextlib.contextmanager
def a_mongod(folder: Path, addresses: int = 1) -> Iterator[Mongod]:
    """One that is old enough: its birth is known to the second, and a connection made within it would look older."""
    with _Mongod(folder, addresses) as mongod:
        born = int(time.time())
        wait_for(lambda: int(time.time()) > born, "the second of mongod's birth is over", within=WITHIN_S)
        yield mongod


@contextlib.contextmanager
def a_site(mongod: Mongod, load: Load, instances: int = 1) -> Iterator[Site]:
    """So many instances that each hold the load, ready, for as long as the `with` lasts."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        closing, steady = stack.enter_context(FarSide()), stack.enter_context(FarSide())
        each = load.workers
        held = (load.descriptors, closing.port, load.closing // each, steady.port, load.established // each)
        uwsgi = [_holding(folder / str(number), held, each) for number in range(instances)]
        for one in uwsgi:
            stack.callback(one.kill)
        with ThreadPoolExecutor(STARTING_AT_ONCE) as pool:
            list(pool.map(Uwsgi.start, uwsgi))
        # Whole connections for each worker: 500 over 8 of them are 62 each.
        whole = Load(held[2] * each, held[4] * each, load.descriptors, each)
        closing.wait_accepted(whole.closing * instances)
        steady.wait_accepted(whole.established * instances)
        yield Site(mongod, uwsgi, closing, steady, whole)


def _holding(folder: Path, held: Sequence[int], workers: int) -> Uwsgi:
    extra = [f"pyargv = {' '.join(map(str, held))}"]
    return Uwsgi(folder, wsgi_file=HOLD, app=App.NO_CLIENT, processes=workers, lazy_apps=True, warm=False, extra=extra)


def write_config(  # noqa: PLR0913 - what a daemon is told
    path: Path, site: Site, *, members: int = 1, instances: int = 1, mode: str = "observe", linger: str = "15s"
) -> Path:
    """Writes the configuration of a daemon for so many members and instances of the site, with a folder of its own."""
    folder = path.with_suffix("")
    folder.mkdir()
    near = [f"127.0.0.1:{port}" for port in site.ports]
    deployments = [
        DEPLOYMENT.format(
            name=number,
            uri=f"mongodb://127.0.0.{number + 1}:{site.mongod.port}/",
            endpoints=json.dumps(near if number == 0 else []),
        )
        for number in range(members)
    ]
    fifos = [INSTANCE.format(name=f"app{n}", fifo=one.fifo) for n, one in enumerate(site.uwsgi[:instances])]
    path.write_text(
        CONFIG.format(
            mode=mode,
            linger=linger,
            deployments="\n".join(deployments),
            instances="\n".join(fifos),
            folder=folder,
        )
    )
    return path
