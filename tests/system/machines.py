"""The systems that boxes boot beside a fresh Debian: one on which apt has installed the package, without a network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rig import debian
from tests import package
from tests.once import ROOT, MissingError, digest, once
from tests.system.box import Box

PACKAGE = "/srv/mongo-watchdog.deb"
WHEELS = "/opt/wheels"
INSTALL_S = 120.0  # 6 s on an idle machine

# Another systemd means the same line differently now and then: 252 and 257.
ON_EACH = pytest.mark.parametrize("box", debian.RELEASES, indirect=True)

_PYTHONS = {(3, 11): "bookworm", (3, 13): "trixie"}
_PINS = (ROOT / "requirements" / "build.txt", ROOT / "requirements" / "runtime.txt")


def installed(release: str) -> Path:
    """That Debian with the package, as it is right after `apt install`; made once."""
    fresh, deb = debian.fresh(release), package.built()
    content = f"{fresh.name} {deb.stat().st_mtime_ns}"
    return once(f"installed-{release}", content, lambda place: _install(fresh, deb, place))


def of_this_python() -> Path:
    """The fresh Debian for whose Python `wheels` are. Raises MissingError where this is the Python of none."""
    release = _PYTHONS.get(sys.version_info[:2])
    if release is None:
        known = " or ".join(f"{major}.{minor}" for major, minor in _PYTHONS)
        raise MissingError(f"needs Python {known}, the one of a Debian: make PYTHON=python3.11 test")
    return debian.fresh(release)


def wheels() -> Path:
    """What pip needs to install a checkout, by our own pins, for the Python that runs the tests; downloaded once."""
    return once("wheels", f"{sys.version} {digest(_PINS)}", _download)


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


def _download(place: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet"]
    options = ["--require-hashes", "--no-deps", "--no-build-isolation", "--dest", str(place)]
    pins = [option for file in _PINS for option in ("-r", str(file))]
    subprocess.run([*pip, "download", *options, *pins], check=True, timeout=INSTALL_S)
