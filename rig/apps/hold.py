"""Holds files and connections in every worker, as a busy app does: that is what a full look has to read.

It runs inside uWSGI (`import = hold`, `pyargv = FILES CONNECTIONS PORT`; with lazy-apps, so that nothing is shared),
without the rig, and must not import it.
"""

import os
import socket
import sys

files, connections, port = map(int, sys.argv[-3:])
HELD = (
    [os.open(os.devnull, os.O_RDONLY) for _ in range(files)],
    [socket.create_connection(("127.0.0.1", port)) for _ in range(connections)],
)
