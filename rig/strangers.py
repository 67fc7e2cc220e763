"""Unrelated ESTABLISHED sockets on loopback, both ends in processes of their own: the rest of a busy host.

As a program (`python -m rig.strangers COUNT`) it is one such process. It needs no root, and all is gone at the end
of the `with`.
"""

import contextlib
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rig.processes import Process

# A user's processes may hold 1024 descriptors each.
PER_PROCESS = 500
WITHIN_S = 30.0
_READY = "connected"


@contextlib.contextmanager
def strangers(count: int) -> Iterator[None]:
    """That many sockets (an even number) are there, ESTABLISHED, for as long as the `with` lasts."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        for number, begin in enumerate(range(0, count, PER_PROCESS)):
            size = min(PER_PROCESS, count - begin)
            log = folder / f"{number}.log"
            holder = stack.enter_context(Process([sys.executable, "-m", "rig.strangers", str(size)], log=log))
            holder.wait_until(partial(_connected, log), f"{size} sockets", within=WITHIN_S)
        yield


def _connected(log: Path) -> bool:
    return _READY in log.read_text()


def _hold(count: int) -> list[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []
        for _ in range(count // 2):
            held += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
        return held


if __name__ == "__main__":
    sockets = _hold(int(sys.argv[1]))
    print(_READY, flush=True)
    signal.pause()
