"""The systems that boxes boot beside a fresh Debian: one on which apt has installed the package, without a network."""

import shutil
import subprocess
from pathlib import Path

from rig import debian
from tests import package
from tests.once import once
from tests.system.box import Box

PACKAGE = "/srv/mongo-watchdog.deb"
INSTALL_S = 120.0  # 6 s on an idle machine


def installed(release: str) -> Path:
    """That Debian with the package, as it is right after `apt install`; made once."""
    fresh, deb = debian.fresh(release), package.built()
    content = f"{fresh.name} {deb.stat().st_mtime_ns}"
    return once(f"installed-{release}", content, lambda place: _install(fresh, deb, place))


def put(deb: Path, box: Box, inside: str = PACKAGE) -> None:
    """Copies a package into a box."""
    shutil.copy(deb, box.path(inside))


def _install(fresh: Path, deb: Path, place: Path) -> None:
    with Box(fresh) as box:
        put(deb, box)
        box.run("apt-get", "install", "--yes", PACKAGE, within=INSTALL_S)
        box.path(PACKAGE).unlink()
        # All of it: what was laid over has device files for what is gone, which not every file system takes.
        copy = ["cp", "-a", "--one-file-system", "--reflink=auto", f"{box.path('/')}/.", str(place)]
        subprocess.run(copy, check=True, timeout=INSTALL_S)
