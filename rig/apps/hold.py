"""Holds files and connections in every worker, as a busy app does: that is what a full look has to read.

It runs inside uWSGI (`import = hold`, `pyargv = FILES PORT CONNECTIONS [PORT CONNECTIONS ...]`; with lazy-apps, so that
nothing is shared), without the rig, and must not import it.
"""

import os
import socket
import sys

files, *pairs = map(int, sys.argv[1:])
HELD = (
    [os.open(os.devnull, os.O_RDONLY) for _ in range(files)],
    [
        socket.create_connection(("127.0.0.1", port))
        for port, connections in zip(pairs[::2], pairs[1::2], strict=True)
        for _ in range(connections)
    ],
)
