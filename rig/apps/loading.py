"""The web app with an import that takes its time: it loads a model, warms a cache, or asks a service that is gone.

`wsgi-file`, and `pyargv = HOW SECONDS`. It runs inside uWSGI, without the rig, and must not import it.
"""

import contextlib
import os
import runpy
import socket
import sys
import time
from pathlib import Path

how, seconds = sys.argv[1], float(sys.argv[2])
if how == "sleeping":
    time.sleep(seconds)
elif how == "computing":
    os.nice(19)  # what else runs on this machine goes first
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(10_000))
elif how == "connecting":
    # Who listens and takes nobody: the kernel answers no more once its queue is full, as a firewall that drops does.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as queued:
        for _ in range(2):
            first = queued.enter_context(socket.socket())
            first.settimeout(0)
            first.connect_ex(full.getsockname())
        with contextlib.suppress(TimeoutError):
            socket.create_connection(full.getsockname(), timeout=seconds)
else:
    raise SystemExit(f"{how}: expected sleeping, computing or connecting")

application = runpy.run_path(str(Path(__file__).with_name("web.py")))["application"]
