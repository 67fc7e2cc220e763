"""Where uWSGI is, as /proc shows it: its masters, which of them reads a FIFO, and the FIFO itself.

What vanishes while it is read is just absent; what may not be read is Blind, with the right that is missing. This
module must never decide anything, signal anybody, or open a FIFO but with O_PATH, which its reader does not notice.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from watchdogd import paths
from watchdogd.handlers import is_master, is_worker
from watchdogd.model.base import ProcessId
from watchdogd.model.done import Result
from watchdogd.model.seen import Blind
from watchdogd.model.text import Outside
from watchdogd.observe import handed, mounts, procfs, two_masters
from watchdogd.observe.roles import NEWBORN_S
from watchdogd.paths import Led, follow

_DELETED = " (deleted)"
_OF_ONE_START = "/systemd-private-"  # systemd.exec(5), PrivateTmp=: a folder of another name at each start
_SEEN_BY_BOTH = "/run/uwsgi/app/NAME/fifo"
_STDERR = 2


@dataclass(frozen=True, slots=True)
class Master:
    """One uWSGI master. `fifo`: the path that it was found by, or that it has its FIFO at; empty for one without.

    `uid`: the effective one. `netns`: the inode of its network namespace, None where it may not be read.
    `fifo_problem`: why a byte would not arrive, or not at all who is meant, with the mend; it begins with `deleted`,
    `moved`, `closed`, `two masters`, `unreachable` or `unreadable`. `rivals`: the masters that have, or had, a FIFO at
    the same path. `fd` and `link`: the descriptor that it reads, and the name /proc has for it.
    `trusted`: whose links in `fifo` count beside root's and its own; None where the master itself named the path,
    and its descriptor is all there is to go by. `here`: that path leads to this FIFO from here too. `inside`: the path
    that it has in a container, and that leads nowhere, or to something else, from here; `outside`: the one that leads
    there from here, where there is one.
    """

    id: ProcessId
    fifo: str
    uid: int
    netns: int | None
    fifo_problem: str | None = None
    fd: int = -1
    link: str = ""
    trusted: frozenset[int] | None = None
    here: bool = True
    inside: str = ""
    outside: str = ""
    rivals: tuple[ProcessId, ...] = ()


class Uwsgi(Protocol):
    """The edge to uWSGI's masters. A Blind of it has no scope: the caller knows whose it is."""

    def find(self, fifo: str, trusted: frozenset[int]) -> Master | Blind | None:
        """Return the master that reads this FIFO, even where its name was removed or replaced; None: nobody.

        Blind where a link of another user than root, the FIFO's owner or one of `trusted` leads there. Of two masters
        the one that the path leads to, with the other one as its rival. Where one has forked the other that is a
        problem: what is seen of one says nothing of the workers of the other, which serve the same requests.
        """

    def check(self, master: Master) -> Master | Blind | None:
        """Return the master as it is now, None when the process is gone; cheap when nothing has changed.

        While it executes itself anew (`r`) it is the same process without a FIFO: `fifo_problem` says so.
        """

    def discover(self) -> tuple[Master, ...] | Blind:
        """Return every uWSGI master of the host; those without a FIFO that can be reached have the path ''."""

    def no_restart(self, masters: Iterable[ProcessId]) -> Mapping[ProcessId, str]:
        """Return, for each of these that may never be sent `r`, why: it would end uWSGI.

        To be asked when a master is first seen: what it listens on it got before it read its FIFO. One that was alone
        then is its own; its zerglings come later. Of an older pair nothing tells which is which.
        """

    def descriptor(self, master: Master) -> int | tuple[Result, str]:
        """Return an O_PATH descriptor of the very FIFO that this master reads now, which the caller closes.

        No path leads to it: it comes from the master's own table of descriptors. Else TRY_AGAIN, while the master makes
        its FIFO anew, CHANGED, where it has ended, or REFUSED, where the configured path may not lead there.
        """


class _Fifo(NamedTuple):
    """A named FIFO that a process has open for reading. `link`: its path as that process sees it, or saw it."""

    fd: int
    link: str
    opened: os.stat_result


class ProcUwsgi:
    """The edge over /proc."""

    def find(self, fifo: str, trusted: frozenset[int]) -> Master | Blind | None:
        """See Uwsgi.find. Reads the status of every process (11 us each) and the descriptors of masters."""
        led = _follow(fifo)
        if isinstance(led, Blind):
            return led
        if led.found and (objection := paths.objection(led, led.found.st_uid, trusted)):
            return Blind(objection)
        found: Master | Blind | None = None
        reading: tuple[Master, _Fifo] | None = None
        known: dict[int, list[_Fifo]] = {}
        for pid in _masters(_handlers()):
            fifos = _fifos(pid)
            if not isinstance(fifos, Blind):
                known[pid] = fifos
            if isinstance(fifos, Blind):
                # A FIFO belongs to the effective user of the master that made it, and stays when that has ended.
                if (led.found.st_uid if led.found else None) in {None, procfs.uid(procfs.status(pid))}:
                    found = found or fifos
            elif read := _of_path(led, fifos, pid):
                master = _master(pid, fifo, read, trusted)
                # Again, of who was found: its FIFO may have come to be there since, which each command makes anew.
                if master and (objection := paths.objection(led, master.uid, trusted)):
                    found = found or Blind(objection)
                elif master and master.fifo_problem is None:
                    reading = reading or (master, read)
                else:
                    found = master or found
        return _beside(*reading, known) if reading else found or _blind()

    def check(self, master: Master) -> Master | Blind | None:
        """See Uwsgi.check. 15 us when nothing has changed."""
        pid = master.id.pid
        known = procfs.stat(pid)
        if known is None or known.ended or known.start_ticks != master.id.start_ticks:
            return None
        if master.fifo_problem is None and not master.rivals:
            with contextlib.suppress(PermissionError):
                if procfs.link(pid, master.fd) == master.link:
                    return master
        fifos = _fifos(pid)
        if isinstance(fifos, Blind):
            return fifos
        led = _follow(master.fifo)
        if isinstance(led, Blind):
            return led
        read = _of_path(led, fifos, pid) or next(iter(fifos), None)
        if read:
            rivals = {one.pid: _fifos(one.pid) for one in master.rivals if _lives(one)}
            return _beside(_reading(master, read), read, rivals)
        problem = f"closed: master {pid} has no FIFO open; it opens it at the end of its start or restart"
        return replace(master, fifo_problem=problem, fd=-1, link="")

    def discover(self) -> tuple[Master, ...] | Blind:
        """See Uwsgi.discover. Costs the same as `find`."""
        handlers = _handlers()
        with_workers = {parent for caught, parent in handlers.values() if is_worker(caught)}
        found = []
        known = {pid: _fifos(pid) for pid in _masters(handlers)}
        for pid, fifos in known.items():
            read = None if isinstance(fifos, Blind) else next(iter(fifos), None)
            master = _master(pid, Outside(read.link.removesuffix(_DELETED)) if read else "", read)
            if master and isinstance(fifos, Blind):
                master = replace(master, fifo_problem=f"unreadable: {fifos.why}")
            # Without a FIFO these may be the handlers of some other program.
            if master and (read or pid in with_workers):
                found.append(_beside(_placed(master, read), read, known) if read else master)
        return tuple(found) or _blind() or ()

    def no_restart(self, masters: Iterable[ProcessId]) -> Mapping[ProcessId, str]:
        """See Uwsgi.no_restart. Costs a `discover`, and 4 us for each descriptor of all masters and their parents."""
        asked = {one.pid: one for one in masters}
        handlers = _handlers()
        every = {pid: handlers[pid][1] for pid in _masters(handlers)}
        return {asked[pid]: why for pid, why in handed.reasons(asked, every).items()}

    def descriptor(self, master: Master) -> int | tuple[Result, str]:
        """See Uwsgi.descriptor. 40 us, most of it for the path."""
        pid = master.id.pid
        try:
            fifo = os.open(f"/proc/{pid}/fd/{master.fd}", os.O_PATH | os.O_CLOEXEC)
        except procfs.GONE:
            return Result.TRY_AGAIN, f"master {pid} is making its FIFO anew"
        except PermissionError as error:
            why = procfs.refusal(pid, error)
            return (Result.REFUSED, why) if why else (Result.CHANGED, f"master {pid} has ended")
        try:
            wrong = _wrong_with(master, os.fstat(fifo))
        except BaseException:
            os.close(fifo)
            raise
        if wrong is None:
            return fifo
        os.close(fifo)
        return wrong


def _handlers() -> dict[int, tuple[int, int]]:
    """Return handlers and parent of every process that is a master or a worker by its handlers."""
    found = {}
    for pid in procfs.pids():
        try:
            status = procfs.status(pid)
        except PermissionError:  # hidepid=1
            continue
        caught = procfs.caught(status)
        if is_master(caught) or is_worker(caught):
            found[pid] = caught, int(procfs.field(status, b"PPid"))
    return found


def _masters(handlers: Mapping[int, tuple[int, int]]) -> list[int]:
    masters = {pid: parent for pid, (caught, parent) in handlers.items() if is_master(caught)}
    return [pid for pid, parent in masters.items() if parent not in masters or not _newborn(pid, parent)]


def _newborn(pid: int, parent: int) -> bool:
    """Say whether this may be a worker that its master has just forked.

    It still has the master's FIFO then, or the one that the master has closed since. Whom the FIFO command `f` forked
    has one of its own at the path, 0.3 s after the byte.
    """
    known = procfs.stat(pid)
    if known is None or procfs.age_s(known.start_ticks) >= NEWBORN_S:
        return known is None
    inherited = _fifos(parent)  # first: what the parent has closed by then is gone when the child's is read
    own = _fifos(pid)
    if isinstance(own, Blind) or isinstance(inherited, Blind) or not inherited:
        return True
    return not any(
        one.opened.st_nlink and not any(os.path.samestat(one.opened, other.opened) for other in inherited)
        for one in own
    )


def _lives(process: ProcessId) -> bool:
    known = procfs.stat(process.pid)
    return known is not None and not known.ended and known.start_ticks == process.start_ticks


def _master(pid: int, fifo: str, read: _Fifo | None, trusted: frozenset[int] | None = None) -> Master | None:
    """Put together what is known of a master; None when it is gone."""
    uid = procfs.uid(procfs.status(pid))
    known = procfs.stat(pid)
    if known is None or known.ended or uid is None:
        return None
    master = Master(ProcessId(pid, known.start_ticks), fifo, uid, None, trusted=trusted)
    with contextlib.suppress(OSError):
        master = replace(master, netns=os.stat(f"/proc/{pid}/ns/net").st_ino)
    return _reading(master, read) if read else master


def _reading(master: Master, read: _Fifo) -> Master:
    """Return the master with the FIFO that it reads, and what is wrong with that."""
    return replace(master, fifo_problem=_problem(master, read), fd=read.fd, link=read.link, rivals=())


def _beside(master: Master, read: _Fifo, others: Mapping[int, list[_Fifo] | Blind]) -> Master:
    """Say who else has this very FIFO, or one that had its name; that is no problem of who has a worse one.

    By the descriptors alone, and where both see the same files: a FIFO that is gone has its name still, and a service
    with a private /tmp has another one there.
    """
    if master.fifo_problem is not None or not master.fifo:
        return master
    both: list[int] = []
    stale: list[int] = []
    for pid, fifos in others.items():
        for one in () if pid == master.id.pid or isinstance(fifos, Blind) else fifos:
            if os.path.samestat(one.opened, read.opened):
                both.append(pid)
            elif one.opened.st_nlink == 0 and one.link == read.link + _DELETED and _see_the_same(pid, master.id.pid):
                stale.append(pid)
    rivals = tuple([ProcessId(pid, known.start_ticks) for pid in both or stale if (known := procfs.stat(pid))])
    if not rivals:
        return master
    path, reader = Outside(master.fifo), master.id.pid
    problem = two_masters.unclear(path, sorted((reader, *both))) if both else _relation(path, reader, stale)
    return replace(master, fifo_problem=problem, rivals=rivals)


def _relation(path: Outside, reader: int, stale: Iterable[int]) -> str | None:
    """Say it of the first of them that is the reader's parent or child; strangers are no problem of the reader."""
    own = procfs.stat(reader)
    for one in stale:
        known = procfs.stat(one)
        if own and own.ppid == one:
            return two_masters.forked(path, reader, one, reader)
        if known and known.ppid == reader:
            return two_masters.forked(path, reader, one, one)
    return None


def _see_the_same(pid: int, other: int) -> bool:
    try:
        return os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat(f"/proc/{other}/ns/mnt").st_ino
    except OSError:
        return False


def _placed(master: Master, read: _Fifo) -> Master:
    """Say whether what a master names is that from here too; what only a container has at its path has none here."""
    led = _follow(master.fifo)
    here = isinstance(led, Led) and led.found is not None and os.path.samestat(led.found, read.opened)
    if here or _shares_our_names(master.id.pid):
        return replace(master, here=here)
    outside = Outside(_named_here(master.id, read.link, (read.opened.st_dev, read.opened.st_ino)) or "")
    return replace(master, fifo="", fifo_problem=None, here=False, inside=master.fifo, outside=outside)


@functools.lru_cache(maxsize=256)
def _named_here(master: ProcessId, path: str, file: tuple[int, int]) -> str | None:
    """Return by which path we see that FIFO. Once for each: every look asks, and a host may have a thousand mounts."""
    return mounts.name_here(master.pid, path, file)


def _wrong_with(master: Master, opened: os.stat_result) -> tuple[Result, str] | None:
    """Say why this is not the FIFO of that master, as it is to be found by; None when it is."""
    pid = master.id.pid
    known = procfs.stat(pid)  # after the open: a process that is the same now was the same then
    if known is None or known.ended or known.start_ticks != master.id.start_ticks:
        return Result.CHANGED, f"master {pid} has ended"
    if not stat.S_ISFIFO(opened.st_mode) or opened.st_nlink == 0:
        return Result.TRY_AGAIN, f"master {pid} is making its FIFO anew, or it was deleted"
    if master.trusted is None:
        return None
    led = _follow(master.fifo)
    if isinstance(led, Blind):
        return Result.REFUSED, led.why
    if led.found is None or not os.path.samestat(led.found, opened):
        return Result.TRY_AGAIN, f"{master.fifo} is not what master {pid} reads"
    objection = paths.objection(led, opened.st_uid, master.trusted)
    return (Result.REFUSED, objection) if objection else None


def _fifos(pid: int) -> list[_Fifo] | Blind:
    """Return the named FIFOs that a process has open for reading, other than as its standard input."""
    found = []
    try:
        for fd, link in procfs.links(pid):
            if fd > _STDERR and link.startswith("/") and (opened := _opened_fifo(pid, fd)):
                found.append(_Fifo(fd, Outside(link), opened))
    except procfs.GONE:
        return []
    except PermissionError as error:
        why = procfs.refusal(pid, error)
        return Blind(why) if why else []
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


def _follow(path: str) -> Led | Blind:
    """Follow a path; one whose end cannot be reached leads to its own name, as far as anybody can tell from here."""
    try:
        return follow(path)
    except paths.LedAstrayError as error:
        return Blind(error.sentence(path))
    except OSError:
        return Led(path, (), None)


def _of_path(led: Led, fifos: Iterable[_Fifo], pid: int) -> _Fifo | None:
    """Return the FIFO that is where a path led, else the one of that name: it may have been there.

    By device and inode first: in another mount namespace (a container's) its name is another. And in a container
    another FIFO has the same name: there the name says nothing.
    """
    by_inode = (one for one in fifos if led.found and os.path.samestat(led.found, one.opened))
    by_name = (one for one in fifos if one.link.removesuffix(_DELETED) == led.path and _shares_our_names(pid))
    return next(itertools.chain(by_inode, by_name), None)


def _shares_our_names(pid: int) -> bool:
    """Say whether a path of this process may mean the same here: it has our root and our process ids.

    A mount namespace of its own makes no container: a service with PrivateTmp= has one, and so has our own.
    """
    try:
        same_root = os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
        return same_root and os.stat(f"/proc/{pid}/ns/pid").st_ino == os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return False


def _problem(master: Master, read: _Fifo) -> str | None:
    pid, path = master.id.pid, master.fifo
    # The FIFO is there again 1.0 s after the signal, and none of 61 requests failed; the slowest took 1.1 s. A writer's
    # end, through /proc, would cost nothing, but of two masters it takes the path from the one that has it.
    anew = (
        "restart that uWSGI, by its service or, where it has opened its sockets itself, in place by "
        f"`kill -HUP {pid}`; nobody answers until the app is loaded again"
    )
    if master.trusted is None:  # nobody but the master names a path, so nothing but its end can be wrong with it
        gone = read.opened.st_nlink == 0
        return f"deleted: {path} is gone, and master {pid} still reads the old one; {anew}" if gone else None
    try:
        named = follow(path).found
    except OSError as error:
        return f"unreachable: {path}: {error.strerror}; let the daemon reach that folder"
    if named is None:
        there = "is gone"
    elif os.path.samestat(named, read.opened):
        return None
    else:
        there = "is another FIFO" if stat.S_ISFIFO(named.st_mode) else "is no FIFO any more"
    if read.opened.st_nlink == 0:
        return f"deleted: {path} {there}, and master {pid} still reads the old one; {anew}"
    return _moved(master, read, there)


def _moved(master: Master, read: _Fifo, there: str) -> str:
    """Say where a FIFO is that is not at its path: whose view is meant, and which path works from here."""
    pid, path = master.id.pid, master.fifo
    file = read.opened.st_dev, read.opened.st_ino
    if mounts.is_that(read.link, file):
        return f"moved: {path} {there}, and master {pid} reads {read.link}; configure that path"
    gone = f"moved: {path} {there} from here, and what master {pid} calls {read.link}"
    here = _named_here(master.id, read.link, file)
    if here and _OF_ONE_START not in here:
        return f"{gone} is {Outside(here)} from here; configure that path"
    elsewhere = f"give it a `master-fifo` that both see, like {_SEEN_BY_BOTH}"
    if here:
        return f"{gone} is {Outside(here)} from here, until that service starts anew (PrivateTmp=); {elsewhere}"
    whose = {True: "this process", False: f"master {pid}", None: "one of the two"}[mounts.sees_the_hosts(pid)]
    return f"{gone} is not seen from here: {whose} has a file system of its own (PrivateTmp=, say); {elsewhere}"


def _blind() -> Blind | None:
    why = procfs.blindness()
    return Blind(why) if why else None
