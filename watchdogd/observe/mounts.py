"""By which path a file is seen here that another process names by its own: both see it through their mounts.

A service or a container may have a folder of the host at another place, and one that nobody else has. What /proc says
is read, nothing is opened, and nothing is decided here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

_ESCAPED = re.compile(r"\\([0-7]{3})")  # space, tab, newline and backslash (proc_pid_mountinfo(5))


class _Mount(NamedTuple):
    """One mount: what of which device is seen at `point`."""

    device: str
    root: str
    point: str


def name_here(pid: int, path: str, file: tuple[int, int]) -> str | None:
    """Return the path by which we see the file that this process sees at `path`; None where we do not see it.

    `file`: its device and inode. What is returned was looked at: it is that file.
    """
    try:
        theirs, ours = _mounts(str(pid)), _mounts("self")
    except OSError:
        return None
    over = [one for one in theirs if _below(path, one.point) is not None]
    if not over:
        return None
    mount = max(over, key=lambda one: len(one.point))
    within = mount.root.rstrip("/") + (_below(path, mount.point) or "")
    for one in ours:
        rest = _below(within, one.root) if one.device == mount.device else None
        if rest is not None and is_that(named := (one.point.rstrip("/") + rest) or "/", file):
            return named
    return None


def is_that(path: str, file: tuple[int, int]) -> bool:
    """Say whether a path leads to this very file from here."""
    try:
        seen = os.stat(path)
    except OSError:
        return False
    return (seen.st_dev, seen.st_ino) == file


def sees_the_hosts(pid: int) -> bool | None:
    """Say whether it has the mounts of the host's first process, and we have others; None where that is hidden."""
    try:
        first, its, own = (os.stat(f"/proc/{one}/ns/mnt").st_ino for one in (1, pid, "self"))
    except OSError:
        return None
    return its == first != own


def _mounts(pid: str) -> list[_Mount]:
    lines = Path(f"/proc/{pid}/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    fields = [line.split(" ", 5) for line in lines]
    return [_Mount(device, _plain(root), _plain(point)) for _, _, device, root, point, _ in fields]


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda octal: chr(int(octal[1], 8)), text)


def _below(path: str, folder: str) -> str | None:
    """Return the rest of a path below a folder, with its slash; None where it is not below it."""
    folder = folder.rstrip("/")
    return path[len(folder) :] if path == folder or path.startswith(f"{folder}/") else None
