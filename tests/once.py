"""What is made of this checkout once for many tests, and anew when a file changes that it is made of."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_PLACE = ROOT / ".build" / "tests"


class MissingError(Exception):
    """What making it takes is not on this machine; the message says what, and how to get it."""


def once(name: str, content: str, make: Callable[[Path], None]) -> Path:
    """The folder that `make` has filled for this content; other test processes that ask meanwhile wait for it."""
    folder, stamp = _PLACE / name, _PLACE / f"{name}.stamp"
    _PLACE.mkdir(parents=True, exist_ok=True)
    with (_PLACE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != content:
            stamp.unlink(missing_ok=True)
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            make(folder)
            stamp.write_text(content)
    return folder


def digest(paths: Iterable[Path]) -> str:
    """What tells whether one of these files, or of those in these folders, has changed."""
    sum_ = hashlib.sha256()
    for path in sorted(paths):
        for file in sorted(path.rglob("*")) if path.is_dir() else (path,):
            if file.is_file() and "__pycache__" not in file.parts:
                sum_.update(f"{file.relative_to(ROOT)}\0{file.stat().st_mode:o}\0".encode() + file.read_bytes())
    return sum_.hexdigest()
