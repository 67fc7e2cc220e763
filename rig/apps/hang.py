"""Makes forks of the master hang on purpose, as a thread of a MongoDB client in it does by chance.

uWSGI forks without taking the GIL. Whichever thread holds it at that instant does not exist in the child, which waits
in take_gil() for ever. Here a thread of the master holds it as long as the rig wants (rig/hang.py), by ctypes.PyDLL,
which keeps the GIL during a call; it sleeps meanwhile, so that costs no CPU.

An app of its own (`wsgi-file`), or beside any other one (`shared-py-import`). It runs inside uWSGI, without the rig,
and must not import it. Its control FIFO is in the folder that uWSGI was started in; `hang.on` is there while it holds.
"""

import ctypes
import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

CONTROL, HOLDS = Path.cwd() / "hang.control", Path.cwd() / "hang.on"
_POLLIN = 1
POLL_S = 0.02
_TURN_MS = 100  # then whoever waits for the GIL gets it for an instant: an import that is going on, say


class _PollFd(ctypes.Structure):
    """struct pollfd of poll(2)."""

    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
from_the_start = bool(select.select([control], [], [], 0)[0])


def _hold_when_told() -> None:
    """One byte: hold it from now on. The next one: let go."""
    poll = ctypes.PyDLL(None).poll
    entry = _PollFd(control, _POLLIN, 0)
    while True:
        os.read(control, 1)  # sleeps without the GIL, and never wakes by itself: by chance it makes nobody hang
        HOLDS.touch()
        while not poll(ctypes.byref(entry), 1, _TURN_MS):
            pass
        os.read(control, 1)
        HOLDS.unlink()


def application(_: object, start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterator[bytes]:
    """Answers that it is there; X-Worker as in web.py."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Worker", str(os.getpid()))])
    yield b"ok\n"


threading.Thread(target=_hold_when_told, daemon=True).start()
# The master lets go of the GIL right before its first fork, so the first workers still are a matter of chance.
while from_the_start and not HOLDS.exists():
    time.sleep(POLL_S)
