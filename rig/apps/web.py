"""A small web app on MongoDB, as thousands are written: Flask and one MongoClient of the process.

What differs between apps that get stuck and apps that heal is when the client is made, so
that is the one thing that RIG_CLIENT chooses: `import` (in the master, before fork), `first_request`, or
`none` for an app that has nothing to do with MongoDB. Every answer carries the worker's pid in X-Worker. It
runs inside uWSGI, without the rig, and must not import it.

    MONGO_URI           the connection string
    MONGO_SELECTION_MS  serverSelectionTimeoutMS
    MONGO_HEARTBEAT_MS  heartbeatFrequencyMS; empty: the driver's own (10 s)
    RIG_IMPORT_PAUSE_S  how much longer the import lasts once the client is made: without a pause a worker may
    inherit
                        a client that has not found its server yet, and is stuck from boot
"""

from __future__ import annotations  # MongoClient[...] means nothing to pymongo 3

import contextlib
import functools
import os
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path
from typing import Any

from flask import Flask, Response, request
from pymongo import MongoClient
from pymongo.errors import PyMongoError

CLIENT = os.environ["RIG_CLIENT"]
POLL_S = 0.02

application = Flask(__name__)
_one_at_a_time = threading.Lock()


@functools.cache
def _make_client(uri: str) -> MongoClient[Any]:
    options: dict[str, Any] = {"serverSelectionTimeoutMS": int(os.environ["MONGO_SELECTION_MS"])}
    if heartbeat_ms := os.environ["MONGO_HEARTBEAT_MS"]:
        options["heartbeatFrequencyMS"] = int(heartbeat_ms)
    return MongoClient(uri, **options)


def client(uri: str = "") -> MongoClient[Any]:
    """The client of this process, or the one that it was forked with."""
    with _one_at_a_time:
        return _make_client(uri or os.environ["MONGO_URI"])


def query() -> tuple[str, int]:
    """One real query, then `?hold=S` seconds of being busy, or `?join=S` of waiting for a thread of its own.

    200, or 500 with the driver's error.
    """
    if CLIENT != "none":
        try:
            client().shop.items.find_one({"_id": "ready"})
        except Exception as error:  # noqa: BLE001 - whatever the driver raises, a visitor gets a 500
            return f"{type(error).__name__}: {error}\n", HTTPStatus.INTERNAL_SERVER_ERROR
    time.sleep(float(request.args.get("hold", 0)))
    if seconds := float(request.args.get("join", 0)):
        other = threading.Thread(target=time.sleep, args=(seconds,))
        other.start()
        other.join()
    return "ok\n", HTTPStatus.OK


def both() -> tuple[str, int]:
    """The same, and asks the MongoDB on `?second=HOST:PORT` first, without which the page can do."""
    with contextlib.suppress(PyMongoError):
        client(f"mongodb://{request.args['second']}/").shop.items.find_one({"_id": "ready"})
    return query()


def healthz() -> str:
    """Says that the worker serves, after `?hold=S` seconds of being busy, without touching MongoDB."""
    time.sleep(float(request.args.get("hold", 0)))
    return "ok\n"


def busy() -> Response:
    """Keeps the worker busy until the file `?until=PATH` is there, without touching MongoDB."""
    return _answered(until=Path(request.args["until"]))


def hang() -> Response:
    """Never ends its answer: the worker ends only when its mercy is over."""
    return _answered(until=None)


def _answered(until: Path | None) -> Response:
    """The headers go out at once, and the end of the answer comes when the file is there."""

    def body() -> Iterator[str]:
        yield "busy\n"
        while until is None or not until.exists():
            time.sleep(POLL_S)

    return Response(body())


def name_the_worker(response: Response) -> Response:
    """Adds X-Worker."""
    response.headers["X-Worker"] = str(os.getpid())
    return response


application.after_request(name_the_worker)
application.add_url_rule("/", view_func=query)
for view in (both, healthz, busy, hang):
    application.add_url_rule(f"/{view.__name__}", view_func=view)

if CLIENT == "import":
    client()
    time.sleep(float(os.environ["RIG_IMPORT_PAUSE_S"]))
