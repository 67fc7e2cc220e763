"""What the user nobody sees, with few capabilities or none. Needs root."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import watchdogd

WITHIN_S = 20.0
NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can take another user or mount")

LESS_RIGHTS = """
import ctypes, os, sys
from watchdogd.model.base import ProcessId
from watchdogd.observe.processes import ProcProcesses
from watchdogd.observe.uwsgi import Master, ProcUwsgi
expression, rights = sys.argv[1], int(sys.argv[2])
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(8, 1, 0, 0, 0) == 0  # PR_SET_KEEPCAPS
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3
assert libc.capset(header, (ctypes.c_uint32 * 6)(rights, rights, 0, 0, 0, 0)) == 0
print(repr(eval(expression)))
"""
DAC_READ_SEARCH, SYS_PTRACE = 1 << 2, 1 << 19


def as_nobody(expression: str, rights: int = 0, *, before: tuple[str, ...] = ()) -> str:
    """What an expression gives for the user nobody with these capabilities."""
    root = str(Path(watchdogd.__file__).parents[1])
    ended = subprocess.run(
        [*before, sys.executable, "-c", LESS_RIGHTS, expression, str(rights)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        check=False,
        timeout=WITHIN_S,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@contextlib.contextmanager
def being_nobody() -> Iterator[None]:
    """Gives up root and its groups for a while."""
    groups = os.getgroups()
    os.setgroups([])
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(groups)
