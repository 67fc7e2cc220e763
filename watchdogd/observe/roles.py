"""What a process of uWSGI is, as a word of the model; handlers.py says by which signals.

Two edges need it, so it is neither's: uwsgi.py finds masters by it, and processes.py says by it what a master's
children are. This module must never read anything.
"""

from __future__ import annotations

from watchdogd.handlers import is_mule, is_ready, is_spooler, is_worker
from watchdogd.model.seen import Role

NEWBORN_S = 2.0
"""A worker just forked has its master's handlers and FIFO until it comes to run; one that is older is no newborn."""


def role(caught: int, *, forked: bool) -> Role:
    """Return what a master's child is by its handlers. `forked`: it has executed nothing since its fork."""
    if is_worker(caught):
        return Role.READY if is_ready(caught) else Role.LOADING
    if not forked:  # a program that uWSGI has attached
        return Role.OTHER
    if is_mule(caught):
        return Role.MULE
    return Role.SPOOLER if is_spooler(caught) else Role.OTHER
