"""The Debian package that `make deb` makes of this checkout."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.once import ROOT, MissingError, digest, once

BUILD_S = 240  # 6 s on an idle machine

# What Debian calls our dependencies.
NAMES = {
    "pymongo": "python3-pymongo",
    "PyYAML": "python3-yaml",
    "psutil": "python3-psutil",
    "sdnotify": "python3-sdnotify",
}

# Of a make around the tests, and of the tests of the wheel: neither is for this build.
_NOT_INHERITED = {"MAKEFLAGS", "MFLAGS", "MAKELEVEL", "PYTHONSAFEPATH"}


def built() -> Path:
    """The .deb, built once; its .changes lies beside it. Raises MissingError."""
    if not shutil.which("dpkg-checkbuilddeps"):
        raise MissingError("needs dpkg-dev: `make deb` as root installs it")
    needs = subprocess.run(["dpkg-checkbuilddeps"], cwd=ROOT, capture_output=True, text=True, check=False)
    if needs.returncode != 0:
        raise MissingError(f"{needs.stderr.strip()}; `make deb` as root installs them")
    found = re.search(r"^DEB_SOURCES := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found, "the Makefile has no DEB_SOURCES"
    folder = once("deb", digest(ROOT / name for name in ("Makefile", *found[1].split())), _build)
    (made,) = folder.glob("build/*.deb")
    return made


def _build(place: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    command = ["make", "deb", f"DEB_BUILD={place / 'build'}", f"DIST={place / 'dist'}"]
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=BUILD_S
    )
    assert ran.returncode == 0, f"make deb ended with {ran.returncode}:\n{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
