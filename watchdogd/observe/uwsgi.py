"""uWSGI as /proc shows it: which master reads a FIFO, its processes and their roles, who holds which socket.

Roles come from the signals that a process has handlers for, never from names or command lines, which uWSGI's
options change at will. What vanishes while it is read is just absent; what may not be read is
Blind, with the right that is missing. This module must never decide anything, signal anybody or open a FIFO.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from watchdogd.model import Blind, ProcessId, Role
from watchdogd.observe import procfs


def _mask(*signals: signal.Signals) -> int:
    return sum(1 << (one - 1) for one in signals)


_HUP_QUIT_USR1_TERM_TSTP = _mask(signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGTERM, signal.SIGTSTP)
_USR2, _WINCH, _URG = _mask(signal.SIGUSR2), _mask(signal.SIGWINCH), _mask(signal.SIGURG)

# A worker just forked has its master's handlers and FIFO until it comes to run.
_NEWBORN_S = 2.0
_DELETED = " (deleted)"
_STDERR = 2


class Process(NamedTuple):
    """One process of an instance.

    `io`: the bytes that went through its read and write calls (proc_pid_io(5)), None where they may not be
    read. They move when it serves a request, and not when a connection that a sibling takes wakes it up: of 6
    workers on 20 requests the one that served none was switched to 20 times, and read and wrote nothing.
    """

    id: ProcessId
    role: Role
    io: int | None


@dataclass(frozen=True, slots=True)
class Master:
    """One uWSGI master. `fifo`: the path that it was found by, empty for one without a FIFO.

    `uid`: the effective one. `netns`: the inode of its network namespace, None where it may not be read.
    `fifo_problem`: why a byte written to `fifo` would not arrive, with the mend; its first word is `deleted`,
    `moved`, `closed`, `unreachable` or `unreadable`. `fd` and `link`: the descriptor that it reads, and the
    name /proc has for it.
    """

    id: ProcessId
    fifo: str
    uid: int
    netns: int | None
    fifo_problem: str | None = None
    fd: int = -1
    link: str = ""


class Uwsgi(Protocol):
    """The edge to uWSGI's processes. A Blind of it has no scope: the caller knows whose it is."""

    def find(self, fifo: str) -> Master | Blind | None:
        """Return the master that reads this FIFO, even where its name was removed or replaced; None: nobody."""

    def check(self, master: Master) -> Master | Blind | None:
        """Return the master as it is now, None when the process is gone; cheap when nothing has changed.

        While it executes itself anew (`r`) it is the same process without a FIFO: `fifo_problem` says so.
        """

    def discover(self) -> tuple[Master, ...] | Blind:
        """Return every uWSGI master of the host; those without a FIFO have the path ''."""

    def processes(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        """Return the master and its children, the master first; nothing when it is gone. Zombies are gone."""

    def descriptors(self, pid: int) -> dict[int, int] | Blind:
        """Return the inode of each socket that the process holds, by descriptor."""

    def still(self, pid: int, fd: int, inode: int) -> bool:
        """Say whether this descriptor still is this socket; what may not be read is taken to be."""

    def netns(self) -> int:
        """Return the inode of our own network namespace."""


def role(caught: int) -> Role:
    """Return what a master's child is by its handlers. The Emperor has WINCH too, and it alone has URG."""
    if not caught & _WINCH or caught & _URG:
        return Role.OTHER
    return Role.READY if caught & _USR2 else Role.LOADING


def is_master(caught: int) -> bool:
    """Say whether these are the handlers of a master."""
    return caught & (_HUP_QUIT_USR1_TERM_TSTP | _USR2 | _WINCH) == _HUP_QUIT_USR1_TERM_TSTP


class _Fifo(NamedTuple):
    """A named FIFO that a process has open for reading. `link`: its path as that process sees it, or saw it."""

    fd: int
    link: str
    opened: os.stat_result


class ProcFs:
    """The edge over /proc."""

    def find(self, fifo: str) -> Master | Blind | None:
        """See Uwsgi.find. Reads the status of every process (11 us each) and the descriptors of masters."""
        path = os.path.realpath(fifo)
        found: Master | Blind | None = None
        for pid in _masters(_handlers()):
            fifos = _fifos(pid)
            if isinstance(fifos, Blind):
                # A FIFO belongs to the effective user of the master that made it, and stays when that has ended.
                if _owner(path) in {None, procfs.uid(procfs.status(pid))}:
                    found = found or fifos
            elif read := _of_path(path, fifos):
                master = _master(pid, path, read)
                if master and master.fifo_problem is None:
                    return master
                found = master or found
        return found or _blind()

    def check(self, master: Master) -> Master | Blind | None:
        """See Uwsgi.check. 15 us when nothing has changed."""
        pid = master.id.pid
        known = procfs.stat(pid)
        if known is None or known.ended or known.start_ticks != master.id.start_ticks:
            return None
        if master.fifo_problem is None:
            with contextlib.suppress(PermissionError):
                if procfs.link(pid, master.fd) == master.link:
                    return master
        fifos = _fifos(pid)
        if isinstance(fifos, Blind):
            return fifos
        read = _of_path(master.fifo, fifos) or next(iter(fifos), None)
        if read:
            return _reading(master, read)
        problem = f"closed: master {pid} has no FIFO open; it opens it at the end of its start or restart"
        return replace(master, fifo_problem=problem, fd=-1, link="")

    def discover(self) -> tuple[Master, ...] | Blind:
        """See Uwsgi.discover. Costs the same as `find`."""
        handlers = _handlers()
        with_workers = {parent for caught, parent in handlers.values() if role(caught) is not Role.OTHER}
        found = []
        for pid in _masters(handlers):
            fifos = _fifos(pid)
            read = None if isinstance(fifos, Blind) else next(iter(fifos), None)
            master = _master(pid, read.link.removesuffix(_DELETED) if read else "", read)
            if master and isinstance(fifos, Blind):
                master = replace(master, fifo_problem=f"unreadable: {fifos.why}")
            # Without a FIFO these may be the handlers of some other program.
            if master and (read or pid in with_workers):
                found.append(master)
        return tuple(found) or _blind() or ()

    def processes(self, master: ProcessId) -> tuple[Process, ...] | Blind:
        """See Uwsgi.processes. 40 us for each."""
        try:
            found = [_process(pid, master) for pid in (master.pid, *sorted(procfs.children(master.pid)))]
        except PermissionError as error:
            return Blind("", procfs.blindness() or f"{error.filename}: {error.strerror}")
        if found[0] is None or found[0].id != master:
            return ()
        return tuple([process for process in found if process])

    def descriptors(self, pid: int) -> dict[int, int] | Blind:
        """See Uwsgi.descriptors. 4 us for each."""
        try:
            return {fd: int(link[8:-1]) for fd, link in procfs.links(pid) if link.startswith("socket:[")}
        except procfs.GONE:
            return {}
        except PermissionError as error:
            why = procfs.refusal(pid, error)
            return Blind("", why) if why else {}

    def still(self, pid: int, fd: int, inode: int) -> bool:
        """See Uwsgi.still. 4 us."""
        try:
            return procfs.link(pid, fd) == f"socket:[{inode}]"
        except PermissionError as error:
            return procfs.refusal(pid, error) is not None

    def netns(self) -> int:
        """See Uwsgi.netns."""
        return os.stat("/proc/self/ns/net").st_ino


def _handlers() -> dict[int, tuple[int, int]]:
    """Return handlers and parent of every process that is a master or a worker by its handlers."""
    found = {}
    for pid in procfs.pids():
        try:
            status = procfs.status(pid)
        except PermissionError:  # hidepid=1
            continue
        caught = procfs.caught(status)
        if is_master(caught) or role(caught) is not Role.OTHER:
            found[pid] = caught, int(procfs.field(status, b"PPid"))
    return found


def _masters(handlers: Mapping[int, tuple[int, int]]) -> list[int]:
    masters = {pid: parent for pid, (caught, parent) in handlers.items() if is_master(caught)}
    return [pid for pid, parent in masters.items() if parent not in masters or not _newborn(pid)]


def _newborn(pid: int) -> bool:
    known = procfs.stat(pid)
    return known is None or procfs.age_s(known.start_ticks) < _NEWBORN_S


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
    newborn = is_master(caught) and procfs.age_s(known.start_ticks) < _NEWBORN_S
    return process._replace(role=Role.LOADING if newborn else role(caught))


def _master(pid: int, fifo: str, read: _Fifo | None) -> Master | None:
    """Put together what is known of a master; None when it is gone."""
    uid = procfs.uid(procfs.status(pid))
    known = procfs.stat(pid)
    if known is None or known.ended or uid is None:
        return None
    master = Master(ProcessId(pid, known.start_ticks), fifo, uid, None)
    with contextlib.suppress(OSError):
        master = replace(master, netns=os.stat(f"/proc/{pid}/ns/net").st_ino)
    return _reading(master, read) if read else master


def _reading(master: Master, read: _Fifo) -> Master:
    """Return the master with the FIFO that it reads, and what is wrong with that."""
    problem = _problem(master.id.pid, master.fifo, read)
    return replace(master, fifo_problem=problem, fd=read.fd, link=read.link)


def _fifos(pid: int) -> list[_Fifo] | Blind:
    """Return the named FIFOs that a process has open for reading, other than as its standard input."""
    found = []
    try:
        for fd, link in procfs.links(pid):
            if fd > _STDERR and link.startswith("/") and (opened := _opened_fifo(pid, fd)):
                found.append(_Fifo(fd, link, opened))
    except procfs.GONE:
        return []
    except PermissionError as error:
        why = procfs.refusal(pid, error)
        return Blind("", why) if why else []
    return found


def _opened_fifo(pid: int, fd: int) -> os.stat_result | None:
    path = f"/proc/{pid}/fd/{fd}"
    try:
        # The mode of the link is that of the open file. A log file is open for writing: it is left alone,
        # since to stat it may hang where its file system does.
        if os.lstat(path).st_mode & (stat.S_IRUSR | stat.S_IWUSR) != stat.S_IRUSR:
            return None
        opened = os.stat(path)
    except procfs.GONE:
        return None
    return opened if stat.S_ISFIFO(opened.st_mode) else None


def _of_path(path: str, fifos: Iterable[_Fifo]) -> _Fifo | None:
    """Return the FIFO that is at this path, else the one that was.

    By device and inode first: in another mount namespace (a container's) its name is another.
    """
    try:
        named = os.stat(path)
    except OSError:
        named = None
    by_inode = (one for one in fifos if named and os.path.samestat(named, one.opened))
    by_name = (one for one in fifos if one.link.removesuffix(_DELETED) == path)
    return next(itertools.chain(by_inode, by_name), None)


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _problem(pid: int, path: str, read: _Fifo) -> str | None:
    try:
        named = os.stat(path)
    except FileNotFoundError:
        there = "is gone"
    except OSError as error:
        return f"unreachable: {path}: {error.strerror}; let the daemon reach that folder"
    else:
        if os.path.samestat(named, read.opened):
            return None
        there = "is another FIFO" if stat.S_ISFIFO(named.st_mode) else "is no FIFO any more"
    if read.opened.st_nlink == 0:
        mend = f"have it made anew with `: > /proc/{pid}/fd/{read.fd}`"
        return f"deleted: {path} {there}, and master {pid} still reads the old one; {mend}"
    return f"moved: {path} {there}, and master {pid} reads {read.link}; configure that path, as it is seen from here"


def _blind() -> Blind | None:
    why = procfs.blindness()
    return Blind("", why) if why else None
