"""An app that holds files and connections in every worker, as a busy one does: that is what a full look has to read.

It runs inside uWSGI (`wsgi-file`, and `pyargv = FILES PORT CONNECTIONS [PORT CONNECTIONS ...]`; with lazy-apps, so that
nothing is shared), without the rig, and must not import it. Neither Flask nor pymongo, which cost each of the hundreds
of workers that are started 0.2 s of CPU (8 of them on a loaded machine more than 20 s). X-Worker as in web.py.
A request to /wait waits as one does that finds no server: in a futex, which it looks up from twice a second.
"""

import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping

files, *pairs = map(int, sys.argv[1:])
HELD = (
    [os.open(os.devnull, os.O_RDONLY) for _ in range(files)],
    [
        socket.create_connection(("127.0.0.1", port))
        for port, connections in zip(pairs[::2], pairs[1::2], strict=True)
        for _ in range(connections)
    ],
)


def application(
    environ: Mapping[str, str], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterator[bytes]:
    """Answers that it is there."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    if environ["PATH_INFO"] == "/wait":
        yield b"waits\n"
        for_ever = threading.Event()
        while not for_ever.wait(0.5):
            pass
    yield b"ok\n"
