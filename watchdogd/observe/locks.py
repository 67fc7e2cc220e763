"""What one process waits for, as /proc shows it: read of workers that are not ready, to tell who hangs from who loads.

What may not be read is Blind, with the right that is missing, and never taken for a process that is well. This module
must never decide anything. Figures: docs/design.md, hung workers.
"""

from __future__ import annotations

import os
import re
import signal
from typing import NamedTuple

from watchdogd.handlers import mask
from watchdogd.model.seen import Blind
from watchdogd.observe import procfs

_HUP, _ALRM = mask(signal.SIGHUP), mask(signal.SIGALRM)

# The kernel's tables of system calls (arch/*/.../syscall.tbl, asm-generic/unistd.h).
# Where nobody has tried the rules, nobody is judged by them, though the number is known.
_TRIED = ("x86_64", "aarch64", "riscv64")
_FUTEX = b"%d" % procfs.FUTEX_NUMBERS[os.uname().machine] if os.uname().machine in _TRIED else None
# linux/futex.h: a wait is 0, or 9 with a clock; PRIVATE says that no other process can wake it up.
_PRIVATE, _CLOCK_REALTIME = 0x80, 0x100
_WAITS = {0, 9}

_LIBPYTHON = re.compile(rb"/libpython3[^/]*\.so[^/]*$")  # also one that an upgrade has replaced: ` (deleted)`


class Lock(NamedTuple):
    """A lock that a thread waits for, and that only a thread of the same process can release (a private futex).

    `in_python`: it lies in the image of libpython or of the program, as the GIL does, and no lock of an app.
    `forever`: it waits without a time-out. The GIL is mostly waited for in steps of 5 ms (72 of 77 hung forks).
    """

    address: int
    in_python: bool
    forever: bool


class Wait(NamedTuple):
    """A process at one look. `state`: the letter of proc_pid_stat(5), R also where it came to run during the look.

    `tracer`: the pid of the debugger that holds it, 0 without one. `lock`: what its only thread waits for; None where
    it has several, or waits for something else; a Blind without a scope where that may not be read.
    """

    state: str
    threads: int
    tracer: int
    ignores_hup: bool
    catches_alrm: bool
    lock: Lock | Blind | None = None


def read(pid: int, status: bytes) -> Wait:
    """Read what a process waits for; `status`: the text of its /proc/PID/status, read just now.

    140 us for one that waits for a lock, most of them for its maps, 10 for another one, nothing for one with several
    threads. What it waits for takes CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH, or the same user; all else takes no right.
    """
    seen = Wait(
        state=procfs.field(status, b"State")[:1].decode("ascii"),
        threads=int(procfs.field(status, b"Threads") or b"0"),
        tracer=int(procfs.field(status, b"TracerPid") or b"0"),
        ignores_hup=bool(int(procfs.field(status, b"SigIgn") or b"0", 16) & _HUP),
        catches_alrm=bool(procfs.caught(status) & _ALRM),
    )
    if seen.state != "S" or seen.threads != 1 or seen.tracer:
        return seen
    try:
        called = procfs.syscall(pid)
        return seen._replace(state="R") if called.startswith(b"running") else seen._replace(lock=_lock(pid, called))
    except PermissionError as error:
        why = procfs.refusal(pid, error, "what it waits for")
        return seen._replace(lock=Blind(why) if why else None)


def _lock(pid: int, called: bytes) -> Lock | Blind | None:
    """Return the lock that this text of /proc/PID/syscall tells of, None where it tells of none."""
    if _FUTEX is None:
        return Blind(f"what process {pid} waits for is not known on {os.uname().machine}: please report it")
    if not called:
        known = procfs.stat(pid)
        gone = known is None or known.ended
        return None if gone else Blind(f"this kernel does not show what process {pid} waits for (/proc/PID/syscall)")
    waits = private_futex(called)
    if waits is None:
        return None
    address, forever = waits
    image = image_at(procfs.maps(pid), address)
    return Lock(address, bool(image) and (bool(_LIBPYTHON.search(image)) or image == procfs.exe(pid)), forever)


def private_futex(called: bytes) -> tuple[int, bool] | None:
    """Return the address of the private futex that is waited for, and whether for ever; None for any other call.

    `called`: the text of /proc/PID/syscall, `NUMBER ADDRESS OPERATION VALUE TIMEOUT ...` for futex(2).
    """
    match called.split():
        case [number, address, operation, _, timeout, *_] if number == _FUTEX:
            asked = int(operation, 16)
            waits = asked & _PRIVATE and asked & ~(_PRIVATE | _CLOCK_REALTIME) in _WAITS
            return (int(address, 16), int(timeout, 16) == 0) if waits else None
    return None


def image_at(maps: bytes, address: int) -> bytes:
    """Return the file whose mapping holds an address, or ends where the unnamed one that holds it begins.

    `maps`: the text of /proc/PID/maps (proc_pid_maps(5)). An unnamed mapping right after one of a file is its .bss:
    variables that begin as zero, of which the file has nothing. Empty: neither.
    """
    before, its_end = b"", -1
    for line in maps.splitlines():
        begin, _, end = line[: line.index(b" ")].partition(b"-")
        if int(begin, 16) <= address < int(end, 16):
            return _name(line) or (_name(before) if int(begin, 16) == its_end else b"")
        before, its_end = line, int(end, 16)
    return b""


def _name(line: bytes) -> bytes:
    """Return the last column, which may hold spaces and may be missing."""
    return b"".join(line.split(None, 5)[5:]).rstrip()
