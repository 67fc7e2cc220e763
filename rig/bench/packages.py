"""Debian's own packages, unpacked into the cache and not installed: monit, and what python3-pymongo brings."""

import contextlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pymongo

from rig import RigError, fetch

_PROOF = """\
import psutil, pymongo, sdnotify, yaml
assert pymongo.has_c()
assert yaml.__with_libyaml__
print(pymongo.version)
"""
ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = Path("/usr/bin/python3")
# With what apt installs by default beside them: the C extensions, and the library of python3-yaml's.
LIBRARIES = (
    *("python3-pymongo", "python3-pymongo-ext", "python3-bson", "python3-bson-ext"),
    *("python3-yaml", "libyaml-0-2", "python3-psutil", "python3-sdnotify"),
)
WITHIN_S = 300.0


class MissingError(RigError):
    """A package cannot be had on this machine; the message says why."""


@dataclass(frozen=True)
class Python:
    """A Python with what it finds its modules and their libraries by, and the pymongo that it has."""

    executable: Path
    path: Sequence[Path]
    libraries: Sequence[Path] = ()
    pymongo: str = ""

    @property
    def env(self) -> Mapping[str, str]:
        """What a program needs to find them."""
        named = {"PYTHONPATH": self.path, "LD_LIBRARY_PATH": self.libraries}
        return {name: os.pathsep.join(map(str, folders)) for name, folders in named.items() if folders}


def our_python() -> Python:
    """The one that this runs in, with the pinned libraries."""
    return Python(Path(sys.executable), (ROOT,), (), pymongo.version)


def get() -> None:
    """Gets those that can be had, as long as there is a network; who uses one is told why it is missing."""
    for one in (monit, debian_python):
        with contextlib.suppress(MissingError):
            one()


def monit() -> Path:
    """The program."""
    if found := shutil.which("monit"):
        return Path(found)
    return _unpacked("monit") / "usr" / "bin" / "monit"


def debian_python() -> Python:
    """Debian's Python with Debian's libraries."""
    if not SYSTEM_PYTHON.exists():
        raise MissingError(f"there is no {SYSTEM_PYTHON} here")
    folders = [_unpacked(name) / "usr" / "lib" for name in LIBRARIES]
    modules = [place for one in folders if (place := one / "python3" / "dist-packages").is_dir()]
    # A C extension that stands in another folder than its package is found in the package's folder alone.
    merged = _merged("python3", modules)
    found = Python(SYSTEM_PYTHON, [ROOT, merged], [place for one in folders for place in one.glob("*-linux-gnu")])
    return replace(found, pymongo=_pymongo_of(found))


def _merged(name: str, folders: Sequence[Path]) -> Path:
    place = fetch.cache_dir() / f"{release()}-{name}-merged"
    for folder in () if place.is_dir() else folders:
        shutil.copytree(folder, place, dirs_exist_ok=True)
    return place


def _pymongo_of(python: Python) -> str:
    """Which pymongo it imports, with its C extension."""
    done = subprocess.run(
        [str(python.executable), "-c", _PROOF], env=dict(python.env), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise MissingError(f"{python.executable}: {done.stderr.strip().splitlines()[-1]}")
    return done.stdout.strip()


def release() -> str:
    """The release of the system, such as `debian-12`."""
    known = platform.freedesktop_os_release()
    return f"{known.get('ID', 'linux')}-{known.get('VERSION_ID', 'unknown')}"


def _unpacked(package: str) -> Path:
    """The files of a package of this release, in the cache."""
    place = fetch.cache_dir() / f"{release()}-{package}"
    if not place.is_dir():
        with tempfile.TemporaryDirectory(prefix="mwd-") as folder:
            _run(["apt-get", "download", package], Path(folder))
            (archive,) = Path(folder).glob("*.deb")
            place.parent.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(prefix=f".{package}.build-", dir=place.parent))
            _run(["dpkg-deb", "--extract", str(archive), str(building)], Path(folder))
            building.chmod(0o755)
            building.rename(place)
    return place


def _run(command: Sequence[str], folder: Path) -> None:
    if shutil.which(command[0]) is None:
        raise MissingError(f"there is no {command[0]} here")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=WITHIN_S)
    if done.returncode:
        raise MissingError(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
