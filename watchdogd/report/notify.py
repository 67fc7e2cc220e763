"""Tells systemd how the service is: ready, status, alive, reloading, stopping (sd_notify(3)).

It must never block: a service manager that hangs must not hang us, and sdnotify's socket blocks unless told
not to. It does nothing where NOTIFY_SOCKET is not set.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping

import sdnotify

from watchdogd.model.base import Mono
from watchdogd.model.text import shown

_LONGEST = 1000  # characters, of up to 4 bytes: systemd ignores a message of more than 4096 (NOTIFY_BUFFER_MAX)


class Notifier:
    """The service's word to systemd. `clock`: CLOCK_MONOTONIC in seconds.

    `interval_s`: how often `watchdog` is to be called, half of WatchdogSec as sd_watchdog_enabled(3) advises;
    None where systemd does not watch this process.
    """

    def __init__(self, clock: Callable[[], Mono] = time.monotonic) -> None:
        self._clock = clock
        self._notifier: sdnotify.SystemdNotifier | None = None
        self._owed: str | None = None
        self._ready = False
        self.interval_s = watchdog_interval_s(os.environ)
        if os.environ.get("NOTIFY_SOCKET"):
            with contextlib.suppress(OSError):
                # debug: it raises what it would swallow, so that a READY which was lost can be sent again.
                self._notifier = sdnotify.SystemdNotifier(debug=True)
                self._notifier.socket.settimeout(0)

    def ready(self) -> None:
        """Say that the start, or a reload of the configuration, is over; nothing where that has been said."""
        if not self._ready:
            self._ready = True
            self._change("READY=1")

    def reloading(self) -> None:
        """Say that the configuration is being read, until `ready`. Type=notify-reload needs the time."""
        self._ready = False
        self._change(f"RELOADING=1\nMONOTONIC_USEC={int(self._clock() * 1e6)}")

    def stopping(self) -> None:
        """Say that the service is ending."""
        self._change("STOPPING=1")

    def status(self, text: str) -> None:
        """Show one line in `systemctl status`; a newline in it would be another message."""
        self._send(f"STATUS={shown(text, _LONGEST)}")

    def watchdog(self) -> None:
        """Say that the loop went round once more. Called by the loop alone: it is the proof that it lives."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Close the socket."""
        if self._notifier is not None:
            self._notifier.socket.close()
            self._notifier = None

    def _change(self, message: str) -> None:
        """Send a change of state; one that does not get through is sent before the next message."""
        if not self._send(message):
            self._owed = message

    def _send(self, message: str) -> bool:
        if self._notifier is None:
            return True
        try:
            if self._owed is not None:
                self._notifier.notify(self._owed)
                self._owed = None
            # sdnotify encodes as Latin-1: so that UTF-8 arrives, each of its bytes goes as one character.
            self._notifier.notify(message.encode(errors="replace").decode("latin-1"))
        except OSError:
            return False
        return True


def watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Read WATCHDOG_USEC, for this process where WATCHDOG_PID names one; half of it, in seconds."""
    usec, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID")
    if not usec.isdecimal() or int(usec) == 0 or (pid is not None and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6 / 2
