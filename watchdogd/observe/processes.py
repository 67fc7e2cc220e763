"""The processes below a master, and what a process holds, as /proc shows them.

What vanishes while it is read is just absent; what may not be read is Blind, with the right that is missing. Whatever
else is to be known of one process is read here. This module must never decide anything, signal anybody, or know where
a FIFO is.
"""

from __future__ import annotations

import os
from typing import NamedTuple, Protocol

from watchdogd.handlers import is_master
from watchdogd.model.base import ProcessId
from watchdogd.model.done import Result
from watchdogd.model.seen import MULE_ROLES, Blind, Role
from watchdogd.model.text import fault
from watchdogd.observe import locks, procfs
from watchdogd.observe.locks import Wait
from watchdogd.observe.roles import NEWBORN_S, role

JUDGED = (Role.LOADING, *MULE_ROLES)
"""Of whom it is read what they wait for: a worker that is ready takes requests, so it cannot hang since its fork."""


class Process(NamedTuple):
    """One process of an instance.

    `io`: the bytes that went through its read and write calls (proc_pid_io(5)), None where they may not be
    read. They move when it serves a request, and not when a connection that a sibling takes wakes it up: of 6
    workers on 20 requests the one that served none was switched to 20 times, and read and wrote nothing.
    `wait`: what it waits for, of a worker that is not ready, a mule and a spooler; None for all others.
    """

    id: ProcessId
    role: Role
    io: int | None
    wait: Wait | None = None


class Processes(Protocol):
    """The edge to processes. A Blind of it has no scope: the caller knows whose it is."""

    def of(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        """Return the master and its children, the master first; nothing when it is gone. Zombies are gone.

        A child that is a master too is another instance: the FIFO command `f` has forked it.
        """

    def descriptors(self, pid: int) -> dict[int, int] | Blind:
        """Return the inode of each socket that the process holds, by descriptor."""

    def still(self, pid: int, fd: int, inode: int) -> bool:
        """Say whether this descriptor still is this socket; what may not be read is taken to be."""

    def threads(self, pid: int) -> dict[int, int | None] | Blind:
        """Return its threads: of each that is in a futex how often it was switched away of its own will, else None.

        Empty when the process is gone.
        """

    def runs(self, pid: int) -> dict[int, int | None]:
        """Return how often each thread of it was switched away until now; None for one that runs just now.

        Empty when the process is gone, or hidden.
        """

    def protocol(self, pid: int, fd: int) -> str:
        """Return the kernel's name for the protocol of a socket: `TCP`, `TCPv6`, `UNIX-STREAM`; empty: not known."""

    def pidfd(self, pid: int) -> int | tuple[Result, str]:
        """Return a descriptor that means this very process, and never a later one of its number; the caller closes it.

        Who it is has to be read after that. Else CHANGED where nobody has that number, or REFUSED.
        """

    def netns(self) -> int:
        """Return the inode of our own network namespace."""


def descriptors_of(edge: Processes, pid: int) -> dict[int, int] | Blind:
    """Return what `edge` says of the descriptors of a process; Blind where it raises: that must hide no other one."""
    try:
        return edge.descriptors(pid)
    except Exception as error:  # noqa: BLE001 - it may be anything, and it is told
        return Blind(fault(error))


class ProcProcesses:
    """The edge over /proc."""

    def of(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        """See Processes.of. 40 us for each, up to 140 more for one whose wait is read."""
        try:
            found = [_process(pid, master) for pid in (master.pid, *sorted(procfs.children(master.pid)))]
        except PermissionError as error:
            return Blind(procfs.blindness() or f"{error.filename}: {error.strerror}")
        if found[0] is None or found[0].id != master:
            return ()
        return tuple([process for process in found if process])

    def descriptors(self, pid: int) -> dict[int, int] | Blind:
        """See Processes.descriptors. 4 us for each."""
        try:
            return {fd: int(link[8:-1]) for fd, link in procfs.links(pid) if link.startswith("socket:[")}
        except procfs.GONE:
            return {}
        except PermissionError as error:
            why = procfs.refusal(pid, error)
            return Blind(why) if why else {}

    def still(self, pid: int, fd: int, inode: int) -> bool:
        """See Processes.still. 4 us."""
        try:
            return procfs.link(pid, fd) == f"socket:[{inode}]"
        except PermissionError as error:
            return procfs.refusal(pid, error) is not None

    def threads(self, pid: int) -> dict[int, int | None] | Blind:
        """See Processes.threads. 5 us for a worker that waits for requests."""
        try:
            return procfs.threads(pid)
        except procfs.GONE:
            return {}
        except NotImplementedError as error:
            return Blind(str(error))
        except PermissionError:
            known = procfs.stat(pid)
            if known is None or known.ended:
                return {}
            mend = "give the daemon CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH"
            return Blind(f"process {pid} hides what its threads wait for (/proc/{pid}/task/*/syscall): {mend}")

    def runs(self, pid: int) -> dict[int, int | None]:
        """See Processes.runs. 24 us for each."""
        try:
            return procfs.runs(pid)
        except OSError:
            return {}

    def protocol(self, pid: int, fd: int) -> str:
        """See Processes.protocol. 4 us."""
        try:
            return procfs.protocol(pid, fd)
        except OSError:  # it is gone, or no socket any more
            return ""

    def pidfd(self, pid: int) -> int | tuple[Result, str]:
        """See Processes.pidfd. It takes no right."""
        try:
            return os.pidfd_open(pid)
        except ProcessLookupError:
            return Result.CHANGED, f"process {pid} has ended"
        except OSError as error:
            return Result.REFUSED, f"process {pid} cannot be opened (pidfd_open: {error.strerror}): Linux 5.3 is needed"

    def netns(self) -> int:
        """See Processes.netns."""
        return os.stat("/proc/self/ns/net").st_ino


def _process(pid: int, master: ProcessId) -> Process | None:
    status = procfs.status(pid)
    known = procfs.stat(pid)  # after the status: who lives now had not ended then
    if known is None or known.ended:
        return None
    process = Process(ProcessId(pid, known.start_ticks), Role.MASTER, procfs.io(pid))
    if pid == master.pid:
        return process
    if known.ppid != master.pid:  # another process by now
        return None
    caught = procfs.caught(status)
    newborn = is_master(caught) and procfs.age_s(known.start_ticks) < NEWBORN_S
    if is_master(caught) and not newborn:
        return process._replace(role=Role.MASTER)
    its = Role.LOADING if newborn else role(caught, forked=known.forked)
    return process._replace(role=its, wait=locks.read(pid, status) if its in JUDGED else None)
