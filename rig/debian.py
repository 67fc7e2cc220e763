"""A fresh Debian in a folder, for the system tests to boot; `python -m rig.debian` makes one of each release.

It has what the administrator of a site has: systemd, sudo, uWSGI, Flask. What mongo-watchdog depends on is not
installed; it lies in apt's cache, so that apt installs it without a network. It stands beside the other real
components, and it must never change once it is made: boxes lay their own files over it. Making one takes root,
mmdebstrap, the network and 30 s.
"""

import os
import shutil
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rig import fetch

RELEASES = ("bookworm", "trixie")
"""Debian 12 and 13."""

_INSTALLED = (
    "bash-completion",
    "dbus",
    "libcurl4",  # for the rig's mongod
    "man-db",
    "python3-flask",
    "python3-venv",
    "sudo",
    "systemd-sysv",
    "uwsgi-core",
    "uwsgi-plugin-python3",
)
_IN_THE_CACHE = ("python3-psutil", "python3-pymongo", "python3-sdnotify", "python3-yaml")
# mmdebstrap leaves out what is recommended; apt will not.
_DOWNLOAD = "--download-only --yes --install-recommends"
_OPTIONS = (
    "--variant=minbase",
    f"--include={','.join(_INSTALLED)}",
    '--customize-hook=chroot "$1" apt-get clean',  # of what is installed
    f'--customize-hook=chroot "$1" apt-get install {_DOWNLOAD} {" ".join(_IN_THE_CACHE)}',
    "--skip=cleanup/apt",
    # Not those of the machine on which it is made.
    '--customize-hook=echo debian >"$1/etc/hostname"; echo 127.0.0.1 localhost debian >"$1/etc/hosts"',
    '--customize-hook=rm -f "$1/etc/resolv.conf"',
)
_RECIPE = f"{zlib.crc32(' '.join(_OPTIONS).encode()):08x}"


def fresh(release: str, say: fetch.Say = lambda _: None) -> Path:
    """The folder of this release; raises FetchError where it cannot be had."""
    return fetch.cached(f"debian-{release}-{_RECIPE}", lambda place: _make(release, place), say)


def _make(release: str, place: Path) -> None:
    if os.geteuid() != 0:
        raise fetch.FetchError("only root can make a Debian to boot")
    if not shutil.which("mmdebstrap"):
        raise fetch.FetchError("mmdebstrap is missing: apt-get install mmdebstrap")
    # As root it mounts /proc, /sys and devices inside: in a namespace of its own, so that none can stay behind.
    apart = ["unshare", "--mount", "--propagation", "private"]
    command = [*apart, "mmdebstrap", "--quiet", "--mode=root", *_OPTIONS, release, str(place)]
    fetch.run(command, f"make a Debian {release}", {"LC_ALL": "C.UTF-8"})


def _main() -> int:
    """Both at once: making one is mostly waiting."""
    with ThreadPoolExecutor() as pool:
        return int(not all(pool.map(_had, RELEASES)))


def _had(release: str) -> bool:
    try:
        fresh(release, lambda line: print(line, flush=True))
    except fetch.FetchError as error:
        print(error, flush=True)
        return False
    return True


if __name__ == "__main__":
    sys.exit(_main())
