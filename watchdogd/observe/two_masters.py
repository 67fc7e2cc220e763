"""What is told where two uWSGI masters have, or had, the FIFO of one path, and how to get back to one.

The FIFO command `f` forks the master anew (core/master_utils.c, uwsgi_refork_master): both run on with workers of their
own on the same listening sockets. Whoever makes the FIFO last has the path; the other one reads a FIFO without a name
and hears nobody. This module must never signal anybody, and no mend of it writes into /proc: a byte there, or just the
end of a writer, has the old master make the path anew, which takes it from the one that has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from watchdogd.model.text import Outside

# Measured. uWSGI 2.0.26, 2.0.30 and 2.0.31, requests of 0.5 s: TSTP pauses the workers of one master, the other ones
# take what comes, and with INT 3 s later none of 35 failed. 2.0.31, requests of 50 ms: INT alone cut those in flight
# (2 of 161), QUIT too, and TERM ends nobody: it is a restart. With `die-on-term` QUIT and TERM change places
# (core/master.c); INT is an end with and without.
_END = "`kill -TSTP {pid}`, and `kill -INT {pid}` once its workers have answered (with `vacuum` the pid file goes too)"


def forked(path: Outside, reader: int, stale: int, child: int) -> str:
    """Say that one master has forked the other, who reads the FIFO at the path and who does not, with the mend.

    `child`: the one of the two that the other one forked. All by pid.
    """
    if child == stale:
        return (
            f"two masters: {path} is read by master {reader}; master {stale}, which it forked on the FIFO command `f`, "
            f"goes on with workers of its own, and no command reaches it; end it: {_END.format(pid=stale)}"
        )
    # The first one, and not the forked one, is to stay: it is the main process of its service, and with `vacuum` its
    # end takes the socket's name in the file system along; the end of the forked one left that where it was.
    return (
        f"two masters: {path} is read by master {reader}, which master {stale} forked on the FIFO command `f`; "
        f"{stale} goes on with workers of its own, and no command reaches it; let {stale} have the path again, "
        "since its pid is what a pid file and systemd know: "
        f"`kill -HUP {stale}` (it restarts in place, no request is lost), then end {reader}: "
        f"{_END.format(pid=reader)}"
    )


def strangers(path: Outside, reader: int, stale: int) -> str:
    """Say that another instance has taken the path of this one, by their pids, with the mend.

    Most often this one is ending and its successor is there already, which is no reason to hold anything.
    """
    return (
        f"uWSGI master {stale} reads a FIFO {path} that is gone, since master {reader} has made its own there, and no "
        "command reaches it; if it is not just ending, give it another `master-fifo` and start it anew"
    )


def unclear(path: Outside, readers: Sequence[int]) -> str:
    """Say that several masters have the very same FIFO open, so that nobody knows which of them a byte reaches."""
    pids = " and ".join(map(str, readers))
    return (
        f"two masters: {pids} both read {path}, and which of them a byte reaches is chance; "
        "give each a `master-fifo` of its own and start both anew"
    )
