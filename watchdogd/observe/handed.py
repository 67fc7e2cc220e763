"""Which masters listen on a socket that somebody handed them, and so may end at a restart.

`r` closes every descriptor but uWSGI's sockets and executes uWSGI anew; that takes only those sockets which its
configuration names, and asks no zerg server or LISTEN_FDS again (core/uwsgi.c: `if (!uwsgi.is_a_reload)`). With none
left it says "The -s/--socket option is missing" and exits with 1, 1.0 s after the byte. Nothing that the kernel shows
tells who made a socket, so the sign is that another one has it too. This module must never read a command line or an
environment, nor connect to anybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cache, partial

from watchdogd.observe import procfs

_STDERR = 2


def reasons(asked: Iterable[int], masters: Mapping[int, int]) -> dict[int, str]:
    """Return, for each master asked for that may end at a restart, why. `masters`: all of them, with their parents.

    A stranger whose descriptors may not be read shares nothing, as far as can be told. Where two masters share, neither
    may be restarted: which one was handed the socket is not to be seen. 4 us for each descriptor of all masters and of
    the parents.
    """
    sockets = {pid: _sockets(pid) for pid in masters}
    of_parent = cache(partial(_sockets, above=-1))  # one service manager may have started them all
    found = {}
    for pid in asked:
        own = sockets.get(pid) or frozenset()
        why = _zerg(pid, own, sockets, masters) if own else None
        if own and why is None and (parent := masters.get(pid)) and parent not in masters:
            why = _activated(pid, parent, own & of_parent(parent))
        if why:
            found[pid] = why
    return found


def _zerg(
    pid: int, own: frozenset[int], sockets: Mapping[int, frozenset[int]], masters: Mapping[int, int]
) -> str | None:
    for other, held in sockets.items():
        # Whom the FIFO command `f` forked has its parent's sockets, and its configuration names them.
        if other == pid or not own & held or other in _ancestors(pid, masters) or pid in _ancestors(other, masters):
            continue
        if own & held & procfs.listening(pid):
            return (
                f"master {pid} listens on a socket that master {other} has too, as in zerg mode; the one that was "
                "handed it loses it at a restart, and ends without another one; which of them that is cannot be seen"
            )
    return None


def _activated(pid: int, parent: int, shared: frozenset[int]) -> str | None:
    if not shared or not shared & procfs.listening(pid):
        return None
    return (
        f"master {pid} listens on a socket of process {parent}, which started it (socket activation); where its "
        "configuration does not name that socket too, it loses it at a restart and ends"
    )


def _ancestors(pid: int, masters: Mapping[int, int]) -> Iterator[int]:
    while (pid := masters.get(pid, 0)) in masters:
        yield pid


def _sockets(pid: int, above: int = _STDERR) -> frozenset[int]:
    """Return the inodes of the sockets that a process holds.

    Without the first three descriptors: what the Emperor hands a vassal on demand is the standard input, which is kept
    at a restart; output and errors may go to one socket of several services.
    """
    try:
        return frozenset(
            [int(link[8:-1]) for fd, link in procfs.links(pid) if fd > above and link.startswith("socket:[")]
        )
    except (*procfs.GONE, PermissionError):
        return frozenset()
