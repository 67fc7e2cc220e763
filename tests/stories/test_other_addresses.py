"""The app reaches MongoDB by another address than the daemon: it is the same mongod all the same."""

import socket
import subprocess
from pathlib import Path

import pytest

from rig import wire
from rig.mongod import Mongod
from rig.traffic import Traffic
from rig.uwsgi import IMPORT_PAUSE_S, WEB, App
from tests.stories.stage import (
    HEARTBEAT_MS,
    LINGER_S,
    RUNS,
    Stage,
    all_good,
    cured_once,
    eventually,
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


def known_inside(folder: Path, name: str) -> list[str]:
    """What makes a name of this host known to one command alone; skips where that cannot be."""
    hosts = folder / "hosts"
    hosts.write_text(f"{HOST} localhost {name}\n")
    prefix = ["unshare", "--mount", "sh", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"', str(hosts)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False, timeout=20)
    if tried.returncode != 0:
        pytest.skip(f"no file system of its own can be made here: {tried.stderr.strip()}")
    return prefix


def test_a_set_whose_members_have_names_inside_another_network_is_no_alarm_and_its_app_is_cured(stage: Stage) -> None:
    """It was blind, with exit code 1 and a mend that pointed at the URI, for ever."""
    name = "mongo.inside"
    mongod = stage.mongod(replica_set="rig", prefix=known_inside(stage.folder, name))
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
