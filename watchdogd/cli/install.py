"""Makes the mongo-watchdog of a virtual environment a service of the machine, and undoes that: `install`, `uninstall`.

It must never overwrite a configuration, start a service, touch a unit that somebody else wrote, or put a program into a
unit that the service's user cannot reach. The Debian package does without it: there dpkg does the same.

Everything is planned first, as values; a dry run tells the same steps that the real one performs.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from watchdogd.model.text import WatchdogError

NAME = "mongo-watchdog"
CONFIG = Path("etc/mongo-watchdog/config.yaml")
MARK = f"# Written by `{NAME} install`, which writes it anew: change it by `systemctl edit`.\n"

# What root's pipx, uv and pyenv use (mode 0700), so that a service with User= ends with 203/EXEC although its ambient
# capabilities have CAP_DAC_OVERRIDE (measured, systemd 252): the program is opened as that user.
PRIVATE = (Path("/root"), Path("/home"))
OF_THE_PACKAGE = (Path("usr/lib/systemd/system"), Path("lib/systemd/system"))
THE_RIGHT_WAY = """Install it where every user can read:
    sudo /usr/bin/python3 -m venv /opt/mongo-watchdog
    sudo /opt/mongo-watchdog/bin/pip install mongo-watchdog    # or the folder of its source
    sudo /opt/mongo-watchdog/bin/mongo-watchdog install"""


class InstallError(WatchdogError):
    """It cannot be installed or uninstalled like this; nothing was done where the message does not say otherwise."""


class Shipped(NamedTuple):
    """A file of ours: where it is below the shipped files, and below the root of the machine."""

    source: str
    target: Path


_UNITS = Path("etc/systemd/system")
_SHARE = Path("usr/local/share")
# The main unit comes last: as long as it stands, an uninstallation that was broken off can be done again.
UNITS = tuple(
    [
        Shipped(f"systemd/{unit}", _UNITS / unit)
        for unit in (
            "mongo-watchdog-fifo.socket",
            "mongo-watchdog-fifo.service",
            "mongo-watchdog-end.socket",
            "mongo-watchdog-end.service",
            "mongo-watchdog.service",
        )
    ]
)
FILES = (
    Shipped("systemd/sysusers.d/mongo-watchdog.conf", Path("etc/sysusers.d/mongo-watchdog.conf")),
    Shipped("systemd/tmpfiles.d/mongo-watchdog.conf", Path("etc/tmpfiles.d/mongo-watchdog.conf")),
    Shipped("systemd/mongo-watchdog.catalog", Path("usr/local/lib/systemd/catalog/mongo-watchdog.catalog")),
    Shipped("docs/man/mongo-watchdog.8", _SHARE / "man/man8/mongo-watchdog.8"),
    Shipped("docs/man/mongo-watchdog.yaml.5", _SHARE / "man/man5/mongo-watchdog.yaml.5"),
    Shipped("completions/mongo-watchdog.bash", _SHARE / "bash-completion/completions/mongo-watchdog"),
    Shipped("completions/_mongo-watchdog", _SHARE / "zsh/site-functions/_mongo-watchdog"),
    Shipped("completions/mongo-watchdog.fish", _SHARE / "fish/vendor_completions.d/mongo-watchdog.fish"),
)
SHIPPED_CONFIG = "config/config.yaml"
COMMAND_LINK = Path("usr/local/bin/mongo-watchdog")


@dataclass(frozen=True, slots=True)
class Program:
    """Where a mongo-watchdog is installed: the folder of its commands, and every path that running it needs."""

    folder: Path
    needs: tuple[Path, ...]

    @classmethod
    def of_this_process(cls) -> Program:
        """Return that of this interpreter; a virtual environment needs the Python that it was made from too."""
        folder, python = Path(sysconfig.get_path("scripts")), Path(sys.executable)
        return cls(folder, (folder / NAME, python, python.resolve(), Path(sys.base_prefix), Path(__file__)))


@dataclass(frozen=True, slots=True)
class Write:
    """Write a file; `keep` leaves one that is there as it is."""

    path: Path
    content: str
    mode: int = 0o644
    keep: bool = False

    def __str__(self) -> str:
        return f"keep {self.path}" if self.keep and self.path.exists() else f"write {self.path}"

    def perform(self) -> None:
        """Write it under another name first: a file that is only half there would be read."""
        if self.keep and self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(self.content)
        new.chmod(self.mode)
        new.replace(self.path)


@dataclass(frozen=True, slots=True)
class Link:
    """Make a command of the virtual environment one of everybody's PATH."""

    path: Path
    to: Path

    def __str__(self) -> str:
        return f"link {self.path} -> {self.to}"

    def perform(self) -> None:
        """Make the link, in place of one that led elsewhere."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(self.to)


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a file."""

    path: Path

    def __str__(self) -> str:
        return f"remove {self.path}"

    def perform(self) -> None:
        """Delete it; one that is gone already is no error."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Run:
    """Run a program of systemd; raises InstallError with what it said when it is not there or fails."""

    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"run {' '.join(self.argv)}"

    def perform(self) -> None:
        """Run it to its end."""
        mend = "what stands above was done; mend that and run the same command again"
        try:
            ran = subprocess.run(self.argv, capture_output=True, text=True, check=False)  # noqa: S603 (made below)
        except OSError as error:
            raise InstallError(f"{self.argv[0]}: {error.strerror}; is this a system with systemd? {mend}") from None
        if ran.returncode != 0:
            said = (ran.stderr or ran.stdout).strip()
            raise InstallError(f"`{' '.join(self.argv)}` ended with {ran.returncode}: {said}; {mend}")


Step = Write | Link | Remove | Run
Tell = Callable[[str], None]


def install(root: Path, *, dry_run: bool, tell: Tell, program: Program | None = None) -> None:
    """Install `program` (that of this process) below `root`, and tell each step and what is left to do.

    Raises InstallError, and OSError where a file cannot be written.
    """
    root, shipped, program = root.resolve(), shipped_files(), program or Program.of_this_process()
    _check_program(program)
    _check_root(root, dry_run=dry_run)
    _check_units(root)
    _perform(list(_installation(root, shipped, program)), dry_run=dry_run, tell=tell)
    tell(
        f"next: edit {root / CONFIG}, then\n"
        f"    {NAME} check && systemctl enable mongo-watchdog && systemctl restart mongo-watchdog\n"
        f"    {NAME} check --live"
    )


def uninstall(root: Path, *, dry_run: bool, tell: Tell) -> None:
    """Stop and remove what `install` made below `root`, but the configuration, the saved state and the user.

    Raises InstallError, and OSError where a file cannot be removed.
    """
    root = root.resolve()
    _check_root(root, dry_run=dry_run)
    if not (root / UNITS[-1].target).exists():
        raise InstallError(f"{root / UNITS[-1].target} is not there: `{NAME} install` has installed nothing here")
    _check_units(root)
    _perform(list(_removal(root)), dry_run=dry_run, tell=tell)
    tell(
        f"left as they are: {root / CONFIG.parent}, {root / 'var/lib' / NAME}, the users {NAME}, {NAME}-fifo and"
        f" {NAME}-end; the program itself is in its virtual environment"
    )


def shipped_files() -> Path:
    """Return the folder with the units, man pages and so on: in the wheel, else in the checkout.

    Raises InstallError where there is neither, as in the Debian package.
    """
    package = Path(__file__).parents[1]
    for folder in (package / "data", package.parent):
        if (folder / UNITS[-1].source).is_file():
            return folder
    raise InstallError(
        "this mongo-watchdog comes without its unit files, as that of the Debian package does, which has installed them"
        " already: `systemctl status mongo-watchdog`"
    )


def _installation(root: Path, shipped: Path, program: Program) -> Iterator[Step]:
    for one in FILES:
        yield Write(root / one.target, (shipped / one.source).read_text())
    if root / COMMAND_LINK != program.folder / NAME:
        yield Link(root / COMMAND_LINK, program.folder / NAME)
    yield _systemd(root, "systemd-sysusers", "mongo-watchdog.conf")
    # Only root may read it until systemd-tmpfiles gives it to the user of the service: it may hold a password.
    yield Write(root / CONFIG, (shipped / SHIPPED_CONFIG).read_text(), mode=0o600, keep=True)
    yield _systemd(root, "systemd-tmpfiles", "--create", "mongo-watchdog.conf")
    for one in UNITS:
        yield Write(root / one.target, MARK + unit_for((shipped / one.source).read_text(), program))
    yield from _taken_over(root)


def _removal(root: Path) -> Iterator[Step]:
    names = [one.target.name for one in reversed(UNITS)]
    if root != Path("/"):
        yield _systemd(root, "systemctl", "disable", *names)
    else:
        yield Run(("systemctl", "disable", *(["--now"] if _booted() else []), *names))
    link = root / COMMAND_LINK
    if link.is_symlink():
        yield Remove(link)
    yield from (Remove(root / one.target) for one in (*FILES, *UNITS) if (root / one.target).exists())
    yield from _taken_over(root)


def _taken_over(root: Path) -> Iterator[Step]:
    """Make the journal and systemd read what has changed; a folder that is not running has no systemd."""
    yield _systemd(root, "journalctl", "--update-catalog")
    if root == Path("/") and _booted():
        yield Run(("systemctl", "daemon-reload"))


def unit_for(text: str, program: Program) -> str:
    """Return the text of a unit with the commands of `program` in place of those of the Debian package."""
    return re.sub(
        r"^(Exec\w+=[-@:+!]*)/usr/bin/(mongo-watchdog[\w-]*|python3)(?=\s|$)",
        lambda found: f"{found[1]}{program.folder / found[2]}",
        text,
        flags=re.MULTILINE,
    )


def _systemd(root: Path, name: str, *arguments: str) -> Run:
    return Run((name, *([] if root == Path("/") else [f"--root={root}"]), *arguments))


def _booted() -> bool:
    """Say whether systemd runs this machine (sd_booted(3)): in a container that is being built it does not."""
    return Path("/run/systemd/system").is_dir()


def _check_program(program: Program) -> None:
    for path in program.needs:
        for private in PRIVATE:
            if path.is_relative_to(private):
                raise InstallError(
                    f"{path} is below {private}, where the user of the service may not go: the service could not start"
                    f" (203/EXEC). {THE_RIGHT_WAY}"
                )
        folders = (one for one in (*reversed(path.parents), path) if one.is_dir())
        closed = next((one for one in folders if not one.stat().st_mode & 0o001), None)
        if closed:
            raise InstallError(
                f"{closed} is closed to the user of the service, which could not start {path} (203/EXEC): was it made"
                f" with a strict umask? `chmod -R go+rX {closed}`"
            )
    if re.search(r"[\s%$\"'\\]", str(program.folder)):
        raise InstallError(f"{program.folder} has a character that means something in a unit. {THE_RIGHT_WAY}")
    if not (program.folder / NAME).is_file():
        raise InstallError(f"{program.folder / NAME} is not there: pip has not installed this one. {THE_RIGHT_WAY}")


def _check_root(root: Path, *, dry_run: bool) -> None:
    if not root.is_dir():
        raise InstallError(f"{root} is not a folder; expected the root of a system")
    if root == Path("/") and not dry_run and os.geteuid() != 0:
        raise InstallError("only root can do this: use sudo, or --dry-run to see what would be done")


def _check_units(root: Path) -> None:
    """Raise InstallError where our units would stand in the way of somebody else's, or replace them."""
    for folder in OF_THE_PACKAGE:
        found = root / folder / UNITS[-1].target.name
        if found.exists():
            raise InstallError(
                f"{found} is there: the Debian package is installed, and two cannot be; `apt remove {NAME}` first"
            )
    for one in UNITS:
        path = root / one.target
        if path.is_symlink():
            raise InstallError(f"{path} is a link to {path.readlink()}; if masked: `systemctl unmask {path.name}`")
        if path.exists() and not path.read_text().startswith(MARK):
            raise InstallError(f"{path} was not written by `{NAME} install`; move it away first")


def _perform(steps: Sequence[Step], *, dry_run: bool, tell: Tell) -> None:
    for step in steps:
        tell(f"would {step}" if dry_run else str(step))
        if not dry_run:
            step.perform()
