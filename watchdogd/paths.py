"""Where a configured path leads, link by link, and whose links led there.

A path in the configuration is root's word; a symbolic link in it is the word of whoever made it. Whoever owns a folder
of the path could turn it, by a link, to the FIFO of somebody else (O_NOFOLLOW guards the last component alone), so a
link counts only if it is certain that its owner could have sent a command to that FIFO anyway.

It must never open what the path leads to, and never follow a link of /proc (`/proc/PID/root` is no text that could be
read: the kernel goes to that process's root, whatever the text says). The privileged helper imports it, so it imports
nothing of watchdogd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import pwd
import stat
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple, Self

_MAX_LINKS = 40  # as the kernel (path_resolution(7))
_LOOK = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class Link(NamedTuple):
    """A symbolic link on the way. `path`: where it is, without links; `uid`: who owns it."""

    path: str
    uid: int


class Led(NamedTuple):
    """What a path led to. `path`: the same place without links. `found`: what is there, None where nothing is."""

    path: str
    links: tuple[Link, ...]
    found: os.stat_result | None


class LedAstrayError(OSError):
    """The path leads through /proc, or by more links than the kernel follows."""

    def sentence(self, path: str) -> str:
        """Say what is wrong with the path that was followed."""
        return f"{path}: {self.filename} {self.strerror}"


def follow(path: str) -> Led:
    """Follow an absolute path to its end, or to where nothing is any more; raises OSError for what keeps us from it.

    Each component is opened with O_PATH | O_NOFOLLOW below the one before it, so nobody can exchange one between the
    look and the step. 3 us for each.
    """
    links: list[Link] = []
    left = _components(path)
    with _Way() as way:
        while left:
            name = left.pop()
            try:
                link = way.step(name)
            except FileNotFoundError:
                return Led(way.path(name, *reversed(left)), tuple(links), None)
            if link is None:
                continue
            links.append(link[0])
            if len(links) > _MAX_LINKS:
                raise LedAstrayError(errno.ELOOP, os.strerror(errno.ELOOP), link[0].path)
            left += _components(link[1])
        return Led(way.path(), tuple(links), way.here())


def astray(path: str, trusted: Collection[int]) -> str | None:
    """Say why what is at this path now is not to be reached by it; None where it may be, or nothing is there."""
    try:
        led = follow(path)
    except LedAstrayError as error:
        return error.sentence(path)
    except OSError:
        return None
    return objection(led, led.found.st_uid, trusted) if led.found else None


def objection(led: Led, owner: int, trusted: Collection[int]) -> str | None:
    """Say what may not lead to what `owner` owns, with the line that would allow it; None when all may.

    A link counts if root owns it, or `owner` does, who could put anything at his own path, or one of `trusted`. Who
    made a hard link nobody can tell, and uWSGI's FIFO has none.
    """
    if led.found is not None and led.found.st_nlink > 1 and not stat.S_ISDIR(led.found.st_mode):
        return f"{led.path} has another name too (a hard link), and who gave it that is not known: remove the other one"
    astray = next((link for link in led.links if link.uid not in {0, owner, *trusted}), None)
    if astray is None:
        return None
    who = user_name(astray.uid)
    in_yaml = f'"{who}"' if who.isdecimal() else who  # which reads a bare number as one
    return (
        f"{astray.path} is a symbolic link of {who}, and leads to {led.path}, which is of {user_name(owner)}: "
        f"if {who} may send commands there, add `trust_owners: [{in_yaml}]` to this instance"
    )


def user_name(uid: int) -> str:
    """Return the user's name, or his number where he has none here."""
    with contextlib.suppress(KeyError):
        return pwd.getpwuid(uid).pw_name
    return str(uid)


def user_id(name: str) -> int | None:
    """Return the number of the user who is called so, or by that number; None where there is no such user."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return int(name) if name.isdecimal() else None


class _Way:
    """The folders from the root to where we are, each with its descriptor."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._opened = [os.open("/", _LOOK | os.O_DIRECTORY)]
        self._procfs = _device_of_procfs()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._back_to(-1)

    def path(self, *further: str) -> str:
        """Return where we are, or what is further on, without links."""
        return "/" + "/".join([*self._names, *further])

    def here(self) -> os.stat_result:
        """Return what is here."""
        return os.fstat(self._opened[-1])

    def step(self, name: str) -> tuple[Link, str] | None:
        """Go on by one name. Where that is a link, return it with its text, and stand where the text begins."""
        if name == "..":
            self._back_to(max(0, len(self._names) - 1))
            return None
        self._opened.append(os.open(name, _LOOK, dir_fd=self._opened[-1]))
        self._names.append(name)
        seen = self.here()
        if not stat.S_ISLNK(seen.st_mode):
            return None
        if seen.st_dev == self._procfs:
            raise LedAstrayError(errno.ELOOP, "is a link of /proc: give the path as this host sees it", self.path())
        link, text = Link(self.path(), seen.st_uid), os.readlink("", dir_fd=self._opened[-1])
        self._back_to(0 if text.startswith("/") else len(self._names) - 1)
        return link, text

    def _back_to(self, depth: int) -> None:
        """Stand below so many names, and close what is further on; -1 closes the root, too."""
        while len(self._opened) > depth + 1:
            os.close(self._opened.pop())
        del self._names[max(0, depth) :]


def _components(path: str) -> list[str]:
    """Return them in reverse, as a stack."""
    return [name for name in reversed(path.split("/")) if name not in {"", "."}]


def _device_of_procfs() -> int | None:
    try:
        return Path("/proc/self/").stat().st_dev
    except OSError:
        return None
