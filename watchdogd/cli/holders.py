"""Who holds what no instance holds: every other process of the host, by name and user.

For the command line alone: psutil costs 1.8 MB, which the daemon does without. It must never signal or change anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from watchdogd.model.seen import Blind
from watchdogd.model.text import Outside
from watchdogd.observe.processes import Processes


@dataclass(frozen=True, slots=True)
class Holder:
    """One process. `above`: the pids of its parent, of that one's parent and so on."""

    pid: int
    name: Outside
    user: Outside
    above: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds each socket, by its inode. `hidden`: some process may not be looked into, so there may be more."""

    by_inode: Mapping[int, tuple[Holder, ...]]
    hidden: bool


def holders_of(inodes: Iterable[int], processes: Processes) -> Holders:
    """Look through the descriptors of every process for these sockets; 4 us for each descriptor."""
    wanted, hidden = set(inodes), False
    found: dict[int, list[Holder]] = {}
    for pid in psutil.pids() if wanted else ():
        held = processes.descriptors(pid)
        if isinstance(held, Blind):
            hidden = True
            continue
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended, and holds nothing any more
            for inode in wanted & set(held.values()):
                found.setdefault(inode, []).append(_holder(psutil.Process(pid)))
    return Holders({inode: tuple(holders) for inode, holders in found.items()}, hidden)


def _holder(process: psutil.Process) -> Holder:
    above = tuple([one.pid for one in process.parents()])
    return Holder(process.pid, Outside(process.name()), Outside(process.username()), above)
