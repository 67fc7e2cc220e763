"""Tries what a taken-over service would try, and prints what became of each as JSON: `done`, or the error's name.

Run inside a box in the sandbox of a shipped unit: `probe.py PID FIFO`, of a process and a FIFO of another user.
"""

import ctypes
import errno
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

_PTRACE_ATTACH = 16
_libc = ctypes.CDLL(None, use_errno=True)


class _Piece(ctypes.Structure):
    """struct iovec of process_vm_readv(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags | os.O_NONBLOCK, 0o600))


def _read(*paths: str) -> None:
    for path in paths:
        if not Path(path).read_bytes():
            raise OSError(errno.ENODATA, "")


def _write_memory(pid: int) -> None:
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = re.search(r"^([0-9a-f]+)-\S+ rw.*\[stack\]", maps, re.MULTILINE)
    assert found, maps
    byte = ctypes.create_string_buffer(1)
    ours, theirs = _Piece(ctypes.addressof(byte), 1), _Piece(int(found[1], 16), 1)
    _checked(_libc.process_vm_writev(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0))


def _signal_through(folder: str) -> None:
    """The kernel takes a folder of /proc for a pidfd (kernel/signal.c, pidfd_to_pid)."""
    signal.pidfd_send_signal(os.open(folder, os.O_RDONLY), signal.SIGCONT)


def _connect(family: int, address: str | tuple[str, int]) -> None:
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.connect(address)


def main(pid: int, fifo: str) -> None:
    """Tries everything."""
    write, create = os.O_WRONLY, os.O_WRONLY | os.O_CREAT
    tries: dict[str, Callable[[], object]] = {
        "see the process": Path(f"/proc/{pid}").stat,
        "see what it holds": Path(f"/proc/{pid}/fd/0").readlink,
        "see what it waits for": lambda: _read(f"/proc/{pid}/syscall", f"/proc/{pid}/maps"),
        "hold a pidfd of it": lambda: os.close(os.pidfd_open(pid)),
        "read /etc/shadow": lambda: _open("/etc/shadow", os.O_RDONLY),
        "write the FIFO": lambda: _open(fifo, write),
        "write its memory": lambda: _write_memory(pid),
        "open its memory": lambda: _open(f"/proc/{pid}/mem", write),
        "trace it": lambda: _checked(_libc.ptrace(_PTRACE_ATTACH, pid, 0, 0)),
        "signal it": lambda: os.kill(pid, signal.SIGCONT),
        "signal it through its folder in /proc": lambda: _signal_through(f"/proc/{pid}"),
        "write its root": lambda: _open(f"/proc/{pid}/root/etc/probe", create),
        "write /etc": lambda: _open("/etc/probe", create),
        "write /dev/shm": lambda: _open("/dev/shm/probe", create),
        "write /run": lambda: _open("/run/probe", create),
        "write a file of its user": lambda: _open(f"{fifo}.file", write),
        "connect to a socket of root": lambda: _connect(socket.AF_UNIX, "/run/systemd/private"),
        "connect to the network": lambda: _connect(socket.AF_INET, ("127.0.0.1", 9)),
        "make a user namespace": lambda: _checked(_libc.unshare(0x10000000)),
    }
    outcomes = {}
    for name, one in tries.items():
        try:
            one()
        except OSError as error:
            outcomes[name] = errno.errorcode[error.errno or 0]
        else:
            outcomes[name] = "done"
    sys.stdout.write(json.dumps(outcomes) + "\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
