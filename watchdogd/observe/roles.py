"""What a process of uWSGI is, by the signals that it has handlers for.

Never by its name or command line, which uWSGI's options change at will. Two edges need it, so it is neither's: uwsgi.py
finds masters by it, and processes.py says by it what a master's children are. This module must never read anything.
"""

from __future__ import annotations

import signal

from watchdogd.model.seen import Role


def _mask(*signals: signal.Signals) -> int:
    return sum(1 << (one - 1) for one in signals)


_HUP_QUIT_USR1_TERM_TSTP = _mask(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTERM, signal.SIGTSTP)
_USR2, _WINCH, _URG = _mask(signal.SIGUSR2), _mask(signal.SIGWINCH), _mask(signal.SIGURG)

NEWBORN_S = 2.0
"""A worker just forked has its master's handlers and FIFO until it comes to run; one that is older is no newborn."""


def role(caught: int) -> Role:
    """Return what a master's child is by its handlers. The Emperor has WINCH too, and it alone has URG."""
    if not caught & _WINCH or caught & _URG:
        return Role.OTHER
    return Role.READY if caught & _USR2 else Role.LOADING


def is_master(caught: int) -> bool:
    """Say whether these are the handlers of a master."""
    return caught & (_HUP_QUIT_USR1_TERM_TSTP | _USR2 | _WINCH) == _HUP_QUIT_USR1_TERM_TSTP
