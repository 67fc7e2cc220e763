"""What a process of uWSGI is, by the signals that it has handlers for (SigCgt of /proc/PID/status), and its flags.

Never by its name or command line, which uWSGI's options change at will. What observes and a privileged helper must mean
the same by it, so it is neither's: it imports nothing of watchdogd, and must never read anything.
"""

from __future__ import annotations

import signal


def mask(*signals: signal.Signals) -> int:
    """Return these signals as a mask of /proc/PID/status: signal 1 is bit 0."""
    return sum(1 << (one - 1) for one in signals)


_HUP_QUIT_USR1_TERM_TSTP = mask(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTERM, signal.SIGTSTP)
_UWSGI = mask(signal.SIGINT, signal.SIGFPE, signal.SIGSEGV, signal.SIGTERM)  # all that it forks has these
_FORKNOEXEC = 0x40  # PF_FORKNOEXEC of include/linux/sched.h
_HUP, _USR1, _TSTP = mask(signal.SIGHUP), mask(signal.SIGUSR1), mask(signal.SIGTSTP)
_USR2, _WINCH, _URG = mask(signal.SIGUSR2), mask(signal.SIGWINCH), mask(signal.SIGURG)


def is_master(caught: int) -> bool:
    """Say whether these are the handlers of a master."""
    return caught & (_HUP_QUIT_USR1_TERM_TSTP | _USR2 | _WINCH) == _HUP_QUIT_USR1_TERM_TSTP


def is_worker(caught: int) -> bool:
    """Say whether a master's child with these is a worker. The Emperor has WINCH too, and it alone has URG."""
    return bool(caught & _WINCH) and not caught & _URG


def is_ready(caught: int) -> bool:
    """Say whether a worker with these has loaded the app and takes requests."""
    return bool(caught & _USR2)


def is_forked(flags: int) -> bool:
    """Say by the flags of /proc/PID/stat (proc_pid_stat(5)) whether it has executed nothing since its fork.

    So is all that uWSGI itself forks, and no program that it attaches, which may have a mule's handlers: a Python with
    `faulthandler` that handles HUP, QUIT and TERM has those of a mule with `faulthandler` (0x44ef).
    """
    return bool(flags & _FORKNOEXEC)


def is_mule(caught: int) -> bool:
    """Say whether a forked child of a master with these is a mule (0x4487); routers (0x4486) have no HUP."""
    return _does_tasks(caught) and bool(caught & _HUP)


def is_spooler(caught: int) -> bool:
    """Say whether a forked child of a master with these is a spooler: 0x4682, and 0x4686 from its first task on."""
    return _does_tasks(caught) and bool(caught & _USR1) and not caught & _HUP


def _does_tasks(caught: int) -> bool:
    return caught & (_UWSGI | _TSTP | _WINCH | _URG) == _UWSGI
