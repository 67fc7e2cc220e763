"""Connections that a real app made before its workers were forked, and that are dead since."""

import contextlib
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.mongod import Mongod
from rig.uwsgi import App, Uwsgi
from tests.integration.looking import Looking, of
from watchdogd.model.seen import Snapshot

# As a pool of redis or of SQL does it in a module that the master imports.
APP = """
import os, socket
held = [socket.create_connection(("127.0.0.1", {port})) for _ in range(2)]
def application(environ, start_response):
    start_response("200 OK", [("X-Worker", str(os.getpid()))])
    return [b"ok"]
"""
WITHIN_S = 20.0


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_dead_connection_that_all_workers_inherited_is_seen_though_nobody_knows_where_it_led(
    at_end: ExitStack, tmp_path: Path
) -> None:
    server = at_end.enter_context(socket.create_server(("127.0.0.1", 0)))
    server.settimeout(WITHIN_S)
    (tmp_path / "pool.py").write_text(APP.format(port=server.getsockname()[1]))
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    app = at_end.enter_context(
        Uwsgi(tmp_path / "app", app=App.NO_CLIENT, processes=2, wsgi_file=tmp_path / "pool.py", warm=False)
    )
    lives, dies = [at_end.enter_context(contextlib.closing(server.accept()[0])) for _ in range(2)]
    looking = Looking(at_end, mongod, app)
    assert of(looking.look(), app).dead == ()
    dies.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    dies.close()

    def seen(snapshot: Snapshot) -> Snapshot | None:
        assert of(snapshot, app).unseen == ""
        return snapshot if of(snapshot, app).dead else None

    (dead,) = of(looking.until(seen, "the dead one is seen", every=1.0), app).dead
    assert {one.pid for one in dead.holders} == {app.master, *app.ready_workers()}
    assert lives.fileno() > 0
