"""Unrelated ESTABLISHED sockets on loopback, both ends in processes of their own: the rest of a busy host.

As a program (`python -m rig.strangers COUNT`) it is one such process. It needs no root, and all is gone at the end
of the `with`.
"""

import contextlib
import resource
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from rig.processes import Process

PER_PROCESS = 10_000
SPARE = 64
WITHIN_S = 60.0
_READY = "connected"
# Closed with a reset: else 200 000 of them would stand in the kernel's table as TIME_WAIT for another minute.
_RESET = struct.pack("ii", 1, 0)


@contextlib.contextmanager
def strangers(count: int) -> Iterator[None]:
    """That many sockets (an even number) are there, ESTABLISHED, for as long as the `with` lasts."""
    per_process = min(PER_PROCESS, (most_descriptors() - SPARE) // 2 * 2)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mwd-")))
        for number, begin in enumerate(range(0, count, per_process)):
            size = min(per_process, count - begin)
            log = folder / f"{number}.log"
            holder = stack.enter_context(Process([sys.executable, "-m", "rig.strangers", str(size)], log=log))
            holder.wait_until(partial(_connected, log), f"{size} sockets", within=WITHIN_S)
        yield


def most_descriptors() -> int:
    """How many descriptors a process of this user may come to hold."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def _connected(log: Path) -> bool:
    return _READY in log.read_text()


def _hold(count: int) -> list[socket.socket]:
    hard = most_descriptors()
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, count + SPARE), hard))  # of this process, and gone with it
    with socket.create_server(("127.0.0.1", 0)) as listener:
        held = []
        for _ in range(count // 2):
            held += [socket.create_connection(listener.getsockname()), listener.accept()[0]]
            held[-2].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return held


if __name__ == "__main__":
    sockets = _hold(int(sys.argv[1]))
    print(_READY, flush=True)
    signal.pause()
