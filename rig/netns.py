"""A private network namespace, with loopback up: its own sockets, ports and TCP settings. Needs root.

A thread steps inside for a while (`entered`); the sockets, threads and processes that it makes there belong
to the namespace for good. It has no name and no mount, only a descriptor, so it vanishes with its last
process and cannot be left behind. It must never leave a thread inside.
"""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from rig import RigError

_CLONE_NEWNET = 0x40000000  # os.CLONE_NEWNET, os.setns and os.unshare came with Python 3.12 only
_SIOCGIFFLAGS, _SIOCSIFFLAGS = 0x8913, 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sh22x")
_libc = ctypes.CDLL(None, use_errno=True)


class NamespaceError(RigError):
    """This user or this machine cannot make network namespaces."""


def skip_reason() -> str | None:
    """Why there can be no private network namespace here; None when there can."""
    try:
        Namespace().close()
    except NamespaceError as error:
        return str(error)
    return None


class Namespace:
    """One network namespace, made at once; as a context manager it lets go of it at the end."""

    def __init__(self) -> None:
        with _back_to_the_own_namespace():
            _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
            self._descriptor = _own_namespace()
            _set_loopback_up()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of it; it lasts as long as processes inside do."""
        os.close(self._descriptor)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread, and what it starts, is inside for as long as the `with` lasts."""
        with _back_to_the_own_namespace():
            _check(_libc.setns(self._descriptor, _CLONE_NEWNET), "enter a network namespace")
            yield

    def sysctl(self, name: str, value: object) -> None:
        """Sets e.g. `net.ipv4.tcp_keepalive_time` or `net.ipv4.tcp_fin_timeout` inside only."""
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_text(str(value))

    def cable_to(self, other: Self, address: str, others_address: str) -> None:
        """Connects two namespaces by a pair of devices; the addresses are its ends, `198.18.77.1/30` say.

        Needs iproute2.
        """
        there = f"/proc/{os.getpid()}/fd/{other._descriptor}"
        with self.entered():
            _ip("link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", there)
        for namespace, end in ((self, address), (other, others_address)):
            with namespace.entered():
                _ip("address", "add", end, "dev", "eth0")
                _ip("link", "set", "eth0", "up")


@contextlib.contextmanager
def _back_to_the_own_namespace() -> Iterator[None]:
    own = _own_namespace()
    try:
        yield
    finally:
        _check(_libc.setns(own, _CLONE_NEWNET), "go back to the own network namespace")
        os.close(own)


def _own_namespace() -> int:
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _set_loopback_up() -> None:
    with socket.socket() as any_socket:
        name, flags = _IFREQ.unpack(fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _IFREQ.pack(b"lo", 0)))
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _IFREQ.pack(name, flags | _IFF_UP))


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)
    if done.returncode != 0:
        raise NamespaceError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _check(result: int, purpose: str) -> None:
    if result != 0:
        raise NamespaceError(f"cannot {purpose}: {os.strerror(ctypes.get_errno())} (it needs root)")
