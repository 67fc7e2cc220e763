"""One process as /proc shows it: its state, its handlers, its children, its descriptors.

A process that is gone gives None or nothing; what may not be read raises PermissionError, and `refusal` says
which right is missing. Bytes and os.* alone, since this is read for every process: 7 us for a file, 3 us for
a link. This module must never read a command line: a process can make the reader wait for its memory.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Iterator
from typing import NamedTuple

from watchdogd.handlers import is_forked

GONE = (FileNotFoundError, ProcessLookupError)

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PF_EXITING = 0x4  # include/linux/sched.h
_STABLE_TRIES = 5
# Of the system call futex (arch/*/include of the kernel). On others, waits are told as hidden.
FUTEX_NUMBERS = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "ppc64le": 221, "s390x": 238}
_FUTEX = FUTEX_NUMBERS.get(platform.machine())


class Stat(NamedTuple):
    """What is needed of /proc/PID/stat. `ended`: a zombie, or about to be one; it holds nothing any more.

    `forked`: it has executed nothing since its fork.
    """

    ended: bool
    ppid: int
    start_ticks: int
    forked: bool


def parse_stat(line: bytes) -> Stat:
    """Read the text of /proc/PID/stat (proc_pid_stat(5)); the name in it may hold spaces and parentheses."""
    fields = line[line.rindex(b")") + 2 :].split(None, 20)
    flags = int(fields[6])
    return Stat(fields[0] in b"ZX" or flags & _PF_EXITING != 0, int(fields[1]), int(fields[19]), is_forked(flags))


def stat(pid: int) -> Stat | None:
    """Return the state, parent and start time of a process."""
    text = _read(f"/proc/{pid}/stat")
    return parse_stat(text) if text else None


def status(pid: int) -> bytes:
    """Return the text of /proc/PID/status; empty when the process is gone."""
    return _read(f"/proc/{pid}/status")


def io(pid: int) -> int | None:
    """Return the bytes that went through read and write calls (proc_pid_io(5)); None: not to be read."""
    try:
        rchar, wchar = _read(f"/proc/{pid}/io").split()[1:4:2]
    except (PermissionError, ValueError):
        return None
    return int(rchar) + int(wchar)


def threads(pid: int) -> dict[int, int | None]:
    """Return the threads of a process; of each that is in the system call futex, its voluntary switches until now.

    None for any other. proc_pid_task(5), proc_pid_syscall(5), which asks for the rights of a debugger
    (PTRACE_MODE_ATTACH); proc_pid_status(5). 2 us for a process, 3 for each thread, 5 more for one in a futex. Raises
    PermissionError, NotImplementedError where the number of the call is not known, FileNotFoundError or
    ProcessLookupError when the process is gone.
    """
    if _FUTEX is None:
        raise NotImplementedError(f"the number of the system call futex on {platform.machine()} is not known here")
    found: dict[int, int | None] = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        call = _read(f"/proc/{pid}/task/{name}/syscall")
        found[int(name)] = _switches(pid, name) if call.startswith(b"%d " % _FUTEX) else None
    return found


def switches(pid: int) -> dict[int, int]:
    """Return how often each thread of a process was switched away of its own will (proc_pid_status(5)).

    24 us for each; it takes no right. Raises FileNotFoundError or ProcessLookupError when the process is gone.
    """
    counts = {int(name): _switches(pid, name) for name in os.listdir(f"/proc/{pid}/task")}
    return {thread: count for thread, count in counts.items() if count is not None}


def runs(pid: int) -> dict[int, int | None]:
    """Return how often each thread was switched away, of its own will or not; None for one that runs now.

    A count that has not changed says that it did not run in between (proc_pid_status(5)). 24 us for each; it takes no
    right. Raises as `switches`.
    """
    statuses = {int(name): _read(f"/proc/{pid}/task/{name}/status") for name in os.listdir(f"/proc/{pid}/task")}
    return {thread: _runs(text) for thread, text in statuses.items() if text}


def _runs(status: bytes) -> int | None:
    if field(status, b"State").startswith(b"R"):
        return None
    return sum(int(field(status, name) or b"0") for name in (b"voluntary_ctxt_switches", b"nonvoluntary_ctxt_switches"))


def _switches(pid: int, thread: str) -> int | None:
    count = field(_read(f"/proc/{pid}/task/{thread}/status"), b"voluntary_ctxt_switches")
    return int(count) if count else None


def syscall(pid: int) -> bytes:
    """Return the system call that a process waits in (proc_pid_syscall(5)); empty when it is gone, or there is no file.

    `running`, or `NUMBER`, six arguments, stack and program counter; `-1` for a wait outside of any call.
    """
    return _read(f"/proc/{pid}/syscall")


def maps(pid: int) -> bytes:
    """Return what its memory is mapped to, a line for each range (proc_pid_maps(5)); empty when it is gone."""
    try:
        descriptor = os.open(f"/proc/{pid}/maps", os.O_RDONLY | os.O_CLOEXEC)
    except GONE:
        return b""
    with open(descriptor, "rb", buffering=0) as file:  # a read gives a page of it at most
        return file.readall()


def exe(pid: int) -> bytes:
    """Return the path of the program that it runs; empty when it is gone."""
    try:
        return os.readlink(b"/proc/%d/exe" % pid)
    except GONE:
        return b""


def field(status: bytes, name: bytes) -> bytes:
    """Return one field of that text, empty where there is none (gVisor has no signal masks)."""
    begin = status.find(b"\n%s:\t" % name)
    if begin < 0:
        return b""
    begin += len(name) + 3
    return status[begin : status.index(b"\n", begin)]


def caught(status: bytes) -> int:
    """Return the mask of the signals that the process has handlers for: signal 1 is bit 0."""
    return int(field(status, b"SigCgt") or b"0", 16)


def uid(status: bytes) -> int | None:
    """Return the effective user id, None without a status."""
    users = field(status, b"Uid").split()
    return int(users[1]) if users else None


def age_s(start_ticks: int) -> float:
    """Return the seconds since a process started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / _TICKS_PER_S


def pids() -> list[int]:
    """Return all processes that we may see."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def children(pid: int) -> set[int]:
    """Return the children of a process, of all its threads, zombies too."""
    # While a child ends, another one may be missing from the list (proc_pid_task(5), children), so two
    # readings have to agree; where that fails, or the kernel has no such list, all processes are asked for
    # their parent.
    before = None
    for _ in range(_STABLE_TRIES):
        now = _listed_children(pid)
        if now is None:
            break
        if now == before:
            return now
        before = now
    return {one for one in pids() if (read := stat(one)) and read.ppid == pid}


def _listed_children(pid: int) -> set[int] | None:
    found: set[int] = set()
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as listed:
                found.update(map(int, listed.readall().split()))
    except GONE:
        return None
    return found


def links(pid: int) -> Iterator[tuple[int, str]]:
    """Yield each descriptor of a process with what it is: a path, `socket:[INODE]`, `pipe:[INODE]`, ...

    Raises PermissionError, and FileNotFoundError or ProcessLookupError when the process is gone.
    """
    folder = os.open(f"/proc/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in os.listdir(folder):
            try:
                link = os.readlink(name, dir_fd=folder)
            except FileNotFoundError:
                continue
            yield int(name), link
    finally:
        os.close(folder)


def link(pid: int, fd: int) -> str | None:
    """Return what one descriptor is, None when it or the process is gone. Raises PermissionError."""
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except GONE:
        return None


def listening(pid: int) -> frozenset[int]:
    """Return the inodes of all sockets, TCP and Unix, that listen in the network namespace of a process.

    They stand in /proc/PID/net (proc_pid_net(5)): every connection of the host is read, 3 to 6 us each.
    """
    found = set()
    for table, column, listens in (("tcp", 9, _tcp_listens), ("tcp6", 9, _tcp_listens), ("unix", 6, _unix_listens)):
        with contextlib.suppress(*GONE), open(f"/proc/{pid}/net/{table}", "rb") as rows:
            next(rows, None)  # the names of the columns
            found.update([int(row[column]) for row in map(bytes.split, rows) if listens(row)])
    return frozenset(found)


def _tcp_listens(row: list[bytes]) -> bool:
    return row[3] == b"0A"  # TCP_LISTEN, include/net/tcp_states.h


def _unix_listens(row: list[bytes]) -> bool:
    return int(row[3], 16) & 0x10000 != 0  # __SO_ACCEPTCON, include/linux/net.h


def protocol(pid: int, fd: int) -> str:
    """Return the name of a socket's protocol, also of one that is in no table any more; raises OSError.

    The kernel has it as an extended attribute of each socket (net/socket.c, sockfs_xattr_get).
    """
    return os.getxattr(f"/proc/{pid}/fd/{fd}", "system.sockprotoname").rstrip(b"\0").decode()


def refusal(pid: int, error: PermissionError, what: str = "its descriptors") -> str | None:
    """Say which right was missing to read this of a process; None when it has ended.

    The folder of descriptors is guarded by its mode (0500), and so is its system call (0400); a link, the maps and what
    is in that file by ptrace_may_access() (fs/proc/base.c). Root without capabilities is refused too, and so is anybody
    for a process that changed its user without exec; the system call also to the same user, where Yama guards it
    (kernel.yama.ptrace_scope).
    """
    user = uid(status(pid))
    known = stat(pid)
    if known is None or known.ended:
        return None
    by_mode = error.filename in {f"/proc/{pid}/fd", f"/proc/{pid}/syscall"}
    missing = "CAP_DAC_READ_SEARCH" if by_mode else "CAP_SYS_PTRACE"
    mend = "give the daemon CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or run it as that user"
    return f"process {pid} of user id {user} hides {what}: {missing} is missing; {mend}"


def blindness() -> str | None:
    """Say what keeps us from seeing the processes of others at all, with the mend."""
    try:
        first = status(1)
    except PermissionError:
        first = b""
    if not first:
        return "/proc hides the processes of others (hidepid, ProtectProc=): give the daemon CAP_SYS_PTRACE"
    if not field(first, b"SigCgt"):
        return "/proc/PID/status has no SigCgt here (gVisor?): no process shows what it is; run on the host"
    return None


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except GONE:
        return b""
    try:
        return os.read(descriptor, 1 << 14)
    except ProcessLookupError:
        return b""
    finally:
        os.close(descriptor)
