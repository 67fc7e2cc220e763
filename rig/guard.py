"""The backstop: ends the process groups of a test process that died without cleaning up, even by SIGKILL.

It runs as a process of its own, in its own session, and reads lines `+PGID` and `-PGID` from a pipe that only
the test process can write; end of file is that process's death. PR_SET_PDEATHSIG would not do: it is bound to
the thread that forked (a mongod started in a pool's thread would be killed when the pool shuts down) and
reaches the first process only. It must never signal a group that was not announced or was taken back. It is
started by its file name, so it
imports nothing of ours.
"""

import os
import signal
import sys
from collections.abc import Iterable


def surviving_groups(lines: Iterable[str]) -> set[int]:
    """The groups that are announced and not taken back when the lines end."""
    groups: set[int] = set()
    for line in lines:
        sign, number = line[0], int(line[1:])
        (groups.add if sign == "+" else groups.discard)(number)
    return groups


def _main() -> None:
    for group in surviving_groups(sys.stdin):
        try:
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            continue


if __name__ == "__main__":
    _main()
