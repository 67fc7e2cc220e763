"""Hands out loopback ports that nobody else takes, also with several test processes at the same time.

A port that the kernel picks (bind to 0) is not good enough: it lies in the range of outgoing connections, so
while our mongod is down somebody's connection may get its port, or a client may even connect to itself there.
"""

import atexit
import contextlib
import random
import socket
from collections.abc import Iterator
from pathlib import Path

from rig import RigError

# The leases of this process. They are held until it ends: a port is used again and again by the restarts of
# one mongod.
_leases = contextlib.ExitStack()
atexit.register(_leases.close)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on, and that is ours until this process ends."""
    for port in _candidates():
        lease = socket.socket(socket.AF_UNIX)
        try:
            # An abstract name is a lock that the kernel releases with the process, and leaves no file.
            lease.bind(f"\0mongo-watchdog-rig-port-{port}")
            _bind_once(host, port)
        except OSError:
            lease.close()
            continue
        _leases.enter_context(lease)
        return port
    raise RigError(f"no free port on {host}")


def _candidates() -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError):
        low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
        below, above = range(15000, low), range(high + 1, 65536)
        ports = [*below, *above] or list(range(15000, 65536))
        yield from random.sample(ports, len(ports))


def _bind_once(host: str, port: int) -> None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
