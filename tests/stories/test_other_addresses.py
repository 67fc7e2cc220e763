"""The app reaches MongoDB by another address than the daemon: it is the same mongod all the same."""

import contextlib
import itertools
import socket
import socketserver
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from rig import packets, wire
from rig.mongod import Mongod
from rig.traffic import Traffic
from rig.uwsgi import HOLD, IMPORT_PAUSE_S, WEB, App
from tests.stories.stage import (
    HEARTBEAT_MS,
    LINGER_S,
    RUNS,
    Stage,
    all_good,
    cured_once,
    eventually,
    fail_a_request_of,
    left_alone,
    strand,
)

HOST = "127.0.0.1"
ALSO = "127.0.0.2"  # all of 127.0.0.0/8 is this host
V6 = "[::1]"
# Its client of the listed address is made before the fork and used by nobody; each worker has one of its own.
TWO_CLIENTS = f"""
import runpy, sys, time
from pymongo import MongoClient
unused = MongoClient(sys.argv[1], heartbeatFrequencyMS={HEARTBEAT_MS})
unused.admin.command("ping")
application = runpy.run_path(sys.argv[2])["application"]
time.sleep({IMPORT_PAUSE_S})
"""


def own_name() -> str:
    """The name of this host, which is another address than 127.0.0.1 on most (127.0.1.1 on Debian)."""
    name = socket.gethostname()
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return "localhost"
    return name


def address_of(name: str) -> list[str]:
    """What mongod must listen on to be reached by that name."""
    found = {str(where[0]) for *_, where in socket.getaddrinfo(name.strip("[]"), None, type=socket.SOCK_STREAM)}
    return sorted(found - {HOST})


def known_inside(folder: Path, name: str, *addresses: str) -> list[str]:
    """What makes a name known to one command alone, with these addresses; skips where that cannot be."""
    hosts = folder / "hosts"
    hosts.write_text(f"{HOST} localhost\n" + "".join(f"{address} {name}\n" for address in addresses))
    prefix = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False, timeout=20)
    if tried.returncode != 0:
        pytest.skip(f"no file system of its own can be made here: {tried.stderr.strip()}")
    return prefix


@contextmanager
def serving_on(port: int, handle: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server of this thread's network namespace that does this with each connection, in a thread of its own."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handle(self.request)

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = daemon_threads = True
        block_on_close = False

    with Server((HOST, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield port
        finally:
            server.shutdown()
            thread.join(20)


def relay(port: int, choose: Callable[[bytes], tuple[str, int]]) -> AbstractContextManager[int]:
    """A proxy: each connection goes to the address that is chosen by what is said first on it."""

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def handle(client: socket.socket) -> None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(choose(client.recv(65536, socket.MSG_PEEK))) as server,
        ):
            back = threading.Thread(target=pump, args=(server, client), daemon=True)
            back.start()
            pump(client, server)
            back.join()

    return serving_on(port, handle)


def counting(port: int, asked: dict[int, list[bytes]]) -> AbstractContextManager[int]:
    """A service that says nothing and keeps what it is told, connection by connection."""
    asked[port] = []

    def handle(client: socket.socket) -> None:
        number = len(asked[port])
        asked[port].append(b"")
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                asked[port][number] += data

    return serving_on(port, handle)


class OnAnotherAddress(Mongod):
    """The same port, which may be asked, on another address of this host."""

    @property
    def host(self) -> str:
        return ALSO


def test_an_app_that_talks_to_another_mongod_than_its_deployment_is_told_and_never_touched(stage: Stage) -> None:
    """It was told `healed` after each outage of either."""
    mongod = stage.mongod()
    other = stage.stack.enter_context(OnAnotherAddress(stage.folder / "other", port=mongod.port))
    app = stage.app(other.uri)
    watchdog = stage.watchdog(mongod.uri, app)
    told = watchdog.wait_event("blind", within=20)
    words = (
        f"shop talks to {ALSO}:{mongod.port}, where another mongod answers; its deployment is main at "
        f"{HOST}:{mongod.port}"
    )
    assert words in told.sentence
    assert words in watchdog.instance()["blind"][0]
    assert watchdog.run("status").returncode == 1
    live = watchdog.run("check", "--live")
    assert f"problem: shop: {words}" in live.stdout
    assert live.returncode == 1

    workers = app.workers()
    mongod.restart()
    strand(other, app)
    with Traffic(app.address):
        assert watchdog.tells_none("healed", "seeing_again", "reload_due", seconds=3 * LINGER_S)
    left_alone(watchdog, app, workers)
    assert watchdog.run("status").returncode == 1


@pytest.mark.parametrize(
    ("named_by_app", "named_by_daemon"),
    [
        *[(ALSO, HOST)] * max(1, RUNS),
        (V6, HOST),
        (HOST, V6),
        (own_name(), HOST),
        (ALSO, own_name()),
    ],
)
def test_a_stuck_app_that_names_another_address_of_mongod_is_cured(
    stage: Stage, named_by_app: str, named_by_daemon: str
) -> None:
    """It was told `healed`, while 71 of 71 requests failed."""
    also = sorted({one for name in (named_by_app, named_by_daemon) for one in address_of(name)})
    mongod = stage.mongod(also=also)
    app = stage.app(f"mongodb://{named_by_app}:{mongod.port}/")
    watchdog = stage.watchdog(f"mongodb://{named_by_daemon}:{mongod.port}/", app)
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)


def test_a_healthy_app_with_its_own_connections_on_an_unlisted_address_is_left_alone(stage: Stage) -> None:
    """Its leftover is on a listed address. It was given up, and restarted where that was allowed."""
    mongod = stage.mongod(also=[ALSO])
    wsgi_file = Path(stage.folder / "two_clients.py")
    wsgi_file.write_text(TWO_CLIENTS)
    app = stage.app(
        f"mongodb://{ALSO}:{mongod.port}/",
        app=App.FIRST_REQUEST,
        wsgi_file=wsgi_file,
        extra=[f"pyargv = {mongod.uri} {WEB}"],
    )
    watchdog = stage.watchdog(mongod.uri, app, limits={"reloads": ["workers", "chain", "restart"]})
    traffic = stage.stack.enter_context(Traffic(app.address))
    workers = app.workers()
    strand(mongod, app)

    watchdog.wait_event("healed", within=LINGER_S + 30)
    eventually(lambda: traffic.all_good_for(3), "only good requests for 3 s", within=20)
    assert {one["verdict"] for one in watchdog.instance()["workers"]} == {"reconnected"}
    assert watchdog.tells_none("reload_due", "gave_up", seconds=2 * LINGER_S)
    left_alone(watchdog, app, workers)
    assert not all_good(app)


def test_a_set_whose_members_have_names_inside_another_network_is_no_alarm_and_its_app_is_cured(stage: Stage) -> None:
    """It was blind, with exit code 1 and a mend that pointed at the URI, for ever."""
    name = "mongo.inside"
    mongod = stage.mongod(replica_set="rig", prefix=known_inside(stage.folder, name, HOST))
    settings = {"electionTimeoutMillis": 1000, "heartbeatIntervalMillis": 500}
    members = [{"_id": 0, "host": f"{name}:{mongod.port}"}]
    mongod.command("replSetInitiate", {"_id": "rig", "members": members, "settings": settings})
    eventually(lambda: bool(wire.hello(mongod.address)["ismaster"]), "a primary", within=60, log=mongod.log)

    uri = f"{mongod.uri}?directConnection=true"
    app = stage.app(uri)
    watchdog = stage.watchdog(uri, app)
    (inside,) = [one for one in watchdog.status()["deployments"][0]["members"] if one["state"] != "up"]
    assert inside["address"] == f"{name}:{mongod.port}"
    assert inside["detail"].startswith("no alarm: its replica set names it so")
    assert watchdog.run("status").returncode == 0
    live = watchdog.run("check", "--live")
    assert f"note: main: {name}:{mongod.port}: unreachable, and no alarm: " in live.stdout
    assert (live.returncode, "problem" in live.stdout) == (0, False)
    assert not watchdog.events("blind")

    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)


def test_a_mongod_that_was_started_anew_under_another_address_is_the_same_member(stage: Stage) -> None:
    """As a container that is made anew: the app's name for it leads elsewhere, and the daemon's does not."""
    before, after = "127.0.0.2", "127.0.0.3"
    mongod = stage.mongod(also=[before])
    prefix = known_inside(stage.folder, "mongo", before, after)
    app = stage.app(f"mongodb://mongo:{mongod.port}/", prefix=prefix)
    watchdog = stage.watchdog(mongod.uri, app)
    mongod.stop()
    fail_a_request_of(app)
    again = Mongod(mongod.folder, port=mongod.port, also=[after])
    stage.stack.enter_context(again)
    with Traffic(app.address):
        cured_once(watchdog, app)
    (member,) = watchdog.status()["deployments"][0]["members"]
    assert f"{after}:{mongod.port}" in member["learned"]


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize("of_the_daemon", ["published", "own"])
def test_a_published_port_and_the_address_behind_it_are_one_member(stage: Stage, of_the_daemon: str) -> None:
    """`check --live` said ok and the event `healed`, while 80 of 80 requests failed."""
    mongod = stage.mongod(port=27017)
    published = ("127.0.0.9", 27018)
    packets.publish(published, mongod.address)
    uris = {"own": mongod.uri, "published": "mongodb://{}:{}/".format(*published)}
    app = stage.app(uris["own" if of_the_daemon == "published" else "published"])
    watchdog = stage.watchdog(uris[of_the_daemon], app)
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)


def test_a_mongod_without_a_process_id_is_told_and_cured_once_its_address_is_named(stage: Stage) -> None:
    mongod = stage.mongod(version="4.2.6", also=[ALSO])
    app = stage.app(f"mongodb://{ALSO}:{mongod.port}/")
    watchdog = stage.watchdog(mongod.uri, app)
    told = watchdog.wait_event("blind", within=20)
    words = (
        f"shop talks to {ALSO}:{mongod.port}, where a mongod without a process id answers (before 4.4): if it leads to "
    )
    assert words + "this deployment, name it under `endpoints`" in told.sentence
    assert watchdog.run("status").returncode == 1

    watchdog.write(mongodb=[{"name": "main", "uri": mongod.uri, "endpoints": [f"{ALSO}:{mongod.port}"]}])
    assert watchdog.run("reconfigure").returncode == 0
    watchdog.wait_event("seeing_again", within=20)
    strand(mongod, app)
    with Traffic(app.address):
        cured_once(watchdog, app)


@pytest.mark.usefixtures("namespace")
def test_a_proxy_in_front_of_two_is_told_and_never_taken_for_one_of_them(stage: Stage) -> None:
    mongods = [stage.mongod(port=port) for port in (27017, 27018)]
    # In turn, and the app's own connections take none of the watchdog's turns.
    turns = {asks: itertools.cycle([one.address for one in mongods]) for asks in (True, False)}
    port = stage.stack.enter_context(relay(27019, lambda said: next(turns[b"mongo-watchdog" in said])))
    app = stage.app(f"mongodb://{HOST}:{port}/", app=App.FIRST_REQUEST)
    watchdog = stage.watchdog(f"mongodb://{HOST}:27017,{HOST}:27018/", app)
    told = watchdog.wait_event("blind", within=20)
    assert f"shop talks to {HOST}:27019, where several mongods answer (a proxy)" in told.sentence
    workers = app.workers()
    mongods[0].restart()
    assert watchdog.tells_none("healed", "reload_due", seconds=2 * LINGER_S)
    left_alone(watchdog, app, workers)
    assert all(not one["learned"] for one in watchdog.status()["deployments"][0]["members"])


@pytest.mark.usefixtures("namespace")
def test_no_other_port_than_those_of_mongodb_is_ever_asked_and_a_stranger_there_once(stage: Stage) -> None:
    mongod = stage.mongod(port=27018)
    asked: dict[int, list[bytes]] = {}
    held = [f"{port} 1" for port in (6379, 443, 27017) if stage.stack.enter_context(counting(port, asked))]
    app = stage.app(
        "", app=App.NO_CLIENT, wsgi_file=HOLD, processes=1, lazy_apps=True, extra=[f"pyargv = 0 {' '.join(held)}"]
    )
    watchdog = stage.watchdog(mongod.uri, app)
    told = watchdog.wait_event("blind", within=20)
    assert f"shop talks to {HOST}:27017, which could not be asked: " in told.sentence
    assert watchdog.tells_none("healed", "seeing_again", seconds=12)
    assert asked[6379] == asked[443] == [b""]  # the app's own connection
    assert sum(b"mongo-watchdog" in said for said in asked[27017]) == 1
    mongod.restart()  # another process among the members: the one reason to ask once more
    assert watchdog.tells_none("healed", "seeing_again", seconds=12)
    assert asked[6379] == asked[443] == [b""]
    assert sum(b"mongo-watchdog" in said for said in asked[27017]) == 2
