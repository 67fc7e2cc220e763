"""Holds the GIL of the master for a moment every 0.5 s, as the threads of a MongoDB client do, but for longer.

A fork in that moment hangs for certain, and no other one: `shared-py-import`. The file `pulse` has the beginning of the
last such moment, by CLOCK_MONOTONIC.
"""

import ctypes
import threading
import time
from pathlib import Path

EVERY_S, HOLDS_S = 0.5, 0.1
SAYS = Path.cwd() / "pulse"


def _pulse() -> None:
    poll = ctypes.PyDLL(None).poll  # keeps the GIL during the call
    at = time.monotonic()
    while True:
        at += EVERY_S
        time.sleep(max(0.0, at - time.monotonic()))
        SAYS.write_text(str(time.monotonic()))
        poll(None, 0, round(HOLDS_S * 1000))


threading.Thread(target=_pulse, daemon=True).start()
