"""An app that holds files and connections in every worker, as a busy one does: that is what a full look has to read.

It runs inside uWSGI (`wsgi-file`, and `pyargv = FILES PORT CONNECTIONS [PORT CONNECTIONS ...]`; with lazy-apps, so that
nothing is shared), without the rig, and must not import it. Neither Flask nor pymongo, which cost each of the hundreds
of workers that are started 0.2 s of CPU (8 of them on a loaded machine more than 20 s). X-Worker as in web.py.
"""

import os
import socket
import sys
from collections.abc import Callable, Iterator

files, *pairs = map(int, sys.argv[1:])
HELD = (
    [os.open(os.devnull, os.O_RDONLY) for _ in range(files)],
    [
        socket.create_connection(("127.0.0.1", port))
        for port, connections in zip(pairs[::2], pairs[1::2], strict=True)
        for _ in range(connections)
    ],
)


def application(_: object, start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterator[bytes]:
    """Answers that it is there."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    yield b"ok\n"
