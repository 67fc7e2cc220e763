import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from watchdogd.cli import main as cli
from watchdogd.cli.install import (
    COMMAND_LINK,
    CONFIG,
    FILES,
    MARK,
    SHIPPED_CONFIG,
    UNITS,
    InstallError,
    Program,
    Run,
    Shipped,
    install,
    shipped_files,
    uninstall,
    unit_for,
)

ROOT = Path(__file__).resolve().parents[2]
UNIT = UNITS[-1].target
VENV = Path("/opt/mongo-watchdog/bin")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    folder = tmp_path / "venv" / "bin"
    folder.mkdir(parents=True)
    (folder / "mongo-watchdog").write_text("#!/bin/sh\n")
    return Program(folder, (Path("/usr/bin/python3"),))  # the folder of a test is nobody else's to enter


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root" / "etc").mkdir(parents=True)
    return tmp_path / "root"


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Note the programs of systemd instead of running them; tests/integration/test_packaging.py runs them."""
    commands: list[tuple[str, ...]] = []
    monkeypatch.setattr(Run, "perform", lambda self: commands.append(self.argv))
    return commands


Lines = list[str]


@pytest.fixture
def told() -> Lines:
    return []


def files_below(root: Path) -> dict[Path, str]:
    return {
        path.relative_to(root): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


# ---- what it makes


def test_everything_shipped_stands_in_its_place_and_systemd_is_told(
    root: Path, program: Program, ran: list[tuple[str, ...]], told: Lines
) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    made = files_below(root)
    assert set(made) == {one.target for one in (*FILES, *UNITS)} | {CONFIG, COMMAND_LINK}
    assert all(made[one.target] == (ROOT / one.source).read_text() for one in FILES)
    assert made[CONFIG] == (ROOT / SHIPPED_CONFIG).read_text()
    assert made[COMMAND_LINK] == str(program.folder / "mongo-watchdog")
    assert ran == [
        ("systemd-sysusers", f"--root={root}", "mongo-watchdog.conf"),
        ("systemd-tmpfiles", f"--root={root}", "--create", "mongo-watchdog.conf"),
        ("journalctl", f"--root={root}", "--update-catalog"),
    ]
    assert f"edit {root / CONFIG}" in told[-1]


def test_only_root_reads_a_new_configuration_until_its_group_is_set(
    root: Path, program: Program, ran: list[tuple[str, ...]], told: Lines
) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o600
    assert (root / UNIT).stat().st_mode & 0o777 == 0o644
    assert ran


@pytest.mark.usefixtures("ran")
def test_a_configuration_that_is_there_stays(root: Path, program: Program, told: Lines) -> None:
    (root / CONFIG).parent.mkdir(parents=True)
    (root / CONFIG).write_text("mine")
    (root / CONFIG).chmod(0o640)
    install(root, dry_run=False, tell=told.append, program=program)
    assert (root / CONFIG).read_text() == "mine"
    assert (root / CONFIG).stat().st_mode & 0o777 == 0o640
    assert f"keep {root / CONFIG}" in told


@pytest.mark.usefixtures("ran")
def test_to_install_again_changes_nothing_but_what_is_new(root: Path, program: Program, told: Lines) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    before = files_below(root)
    (root / FILES[0].target).write_text("of an older version")
    install(root, dry_run=False, tell=told.append, program=program)
    assert files_below(root) == before


def test_a_dry_run_tells_the_same_steps_and_does_none(
    root: Path, program: Program, ran: list[tuple[str, ...]], told: Lines
) -> None:
    install(root, dry_run=True, tell=told.append, program=program)
    assert files_below(root) == {}
    assert ran == []
    steps: Lines = []
    install(root, dry_run=False, tell=steps.append, program=program)
    assert told == [*(f"would {step}" for step in steps[:-1]), steps[-1]]
    assert f"would write {root / UNIT}" in told
    assert f"would run systemd-sysusers --root={root} mongo-watchdog.conf" in told


def test_on_this_machine_a_dry_run_needs_no_root_and_names_what_it_would_run(
    program: Program, monkeypatch: pytest.MonkeyPatch, told: Lines
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    install(Path("/"), dry_run=True, tell=told.append, program=program)
    assert "would run systemd-sysusers mongo-watchdog.conf" in told
    assert f"would write /{UNIT}" in told


# ---- the units


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.target.name)
def test_a_unit_runs_this_program_and_is_marked_as_ours(
    unit: Shipped, root: Path, program: Program, ran: list[tuple[str, ...]], told: Lines
) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    text, shipped = (root / unit.target).read_text(), (ROOT / unit.source).read_text()
    assert text.startswith(MARK)
    commands = [line.partition("=")[2] for line in text.splitlines() if line.startswith("Exec")]
    assert len(commands) == sum(line.startswith("Exec") for line in shipped.splitlines())
    assert all(command.startswith(f"{program.folder}/") for command in commands), commands
    others = [line for line in text.removeprefix(MARK).splitlines() if not line.startswith("Exec")]
    assert others == [line for line in shipped.splitlines() if not line.startswith("Exec")]
    assert ran


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("ExecStart=/usr/bin/mongo-watchdog run", "ExecStart=/opt/mongo-watchdog/bin/mongo-watchdog run"),
        ("ExecStart=/usr/bin/python3 -I -m x", "ExecStart=/opt/mongo-watchdog/bin/python3 -I -m x"),
        ("ExecStop=-/usr/bin/mongo-watchdog", "ExecStop=-/opt/mongo-watchdog/bin/mongo-watchdog"),
        ("ExecStartPre=/usr/bin/true", "ExecStartPre=/usr/bin/true"),
        ("ExecStart=/usr/bin/python3.11 x", "ExecStart=/usr/bin/python3.11 x"),
        ("# ExecStart=/usr/bin/mongo-watchdog run", "# ExecStart=/usr/bin/mongo-watchdog run"),
    ],
)
def test_only_our_own_commands_are_replaced(line: str, expected: str) -> None:
    assert unit_for(f"[Service]\n{line}\n", Program(VENV, ())) == f"[Service]\n{expected}\n"


def test_no_file_of_systemd_is_forgotten() -> None:
    """The example of a drop-in is not installed: it is for one set-up alone."""
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    assert there - {"systemd/same-user.conf"} == {
        one.source for one in (*UNITS, *FILES) if one.source.startswith("systemd/")
    }
    assert shipped_files().is_dir()


# ---- what it refuses


@pytest.mark.parametrize(
    "path",
    [
        str(Path("/root", ".local/pipx/venvs/mongo-watchdog/bin/python")),
        "/home/ann/.local/share/uv/python/cpython-3.12/bin/python3.12",
        "/root",
    ],
)
def test_a_program_that_the_services_user_cannot_reach_is_refused(
    path: str, root: Path, program: Program, told: Lines
) -> None:
    hidden = Program(program.folder, (*program.needs, Path(path)))
    refused = f"{path} is below /[a-z]+, where the user of the service may not go"
    with pytest.raises(InstallError, match=refused) as error:
        install(root, dry_run=True, tell=told.append, program=hidden)
    assert "sudo /usr/bin/python3 -m venv /opt/mongo-watchdog\n" in str(error.value)
    assert "sudo /opt/mongo-watchdog/bin/mongo-watchdog install" in str(error.value)
    assert told == []


def test_a_folder_that_only_begins_like_a_private_one_is_fine(root: Path, program: Program, told: Lines) -> None:
    install(root, dry_run=True, tell=told.append, program=Program(program.folder, (Path("/homepage/bin/python3"),)))
    assert told


def test_an_environment_that_was_made_with_a_strict_umask_is_refused(
    root: Path, program: Program, told: Lines, tmp_path: Path
) -> None:
    (tmp_path / "venv").chmod(0o700)
    closed = Program(program.folder, (program.folder / "mongo-watchdog",))
    with pytest.raises(InstallError, match=r"is closed to the user of the service, .* `chmod -R go.rX /"):
        install(root, dry_run=True, tell=told.append, program=closed)


def test_this_process_names_the_python_that_its_environment_was_made_from() -> None:
    needs = Program.of_this_process().needs
    assert Path(sys.executable).resolve() in needs
    assert Path(sys.base_prefix) in needs


def test_a_program_that_was_not_installed_is_refused(root: Path, tmp_path: Path, told: Lines) -> None:
    with pytest.raises(InstallError, match="nowhere/mongo-watchdog is not there: pip has not installed this one"):
        install(root, dry_run=True, tell=told.append, program=Program(tmp_path / "nowhere", ()))


def test_a_folder_that_a_unit_would_read_otherwise_is_refused(root: Path, tmp_path: Path, told: Lines) -> None:
    with pytest.raises(InstallError, match="has a character that means something in a unit"):
        install(root, dry_run=True, tell=told.append, program=Program(tmp_path / "my venv", ()))


def by_hand(path: Path) -> None:
    path.write_text("[Unit]\n")


def masked(path: Path) -> None:
    path.symlink_to("/dev/null")


@pytest.mark.parametrize(
    ("place", "make", "told_as"),
    [
        (Path("usr/lib/systemd/system/mongo-watchdog.service"), by_hand, "the Debian package is installed"),
        (UNIT, by_hand, "was not written by `mongo-watchdog install`; move it away first"),
        (UNIT, masked, "is a link to /dev/null; if masked: `systemctl unmask mongo-watchdog.service`"),
    ],
)
def test_a_unit_of_somebody_else_is_left_alone(
    root: Path, program: Program, told: Lines, *, place: Path, make: Callable[[Path], None], told_as: str
) -> None:
    (root / place).parent.mkdir(parents=True)
    make(root / place)
    before = files_below(root)
    with pytest.raises(InstallError, match=told_as):
        install(root, dry_run=False, tell=told.append, program=program)
    assert files_below(root) == before
    assert told == []


def test_without_root_nothing_is_done(program: Program, monkeypatch: pytest.MonkeyPatch, told: Lines) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(InstallError, match="only root can do this: use sudo, or --dry-run"):
        install(Path("/"), dry_run=False, tell=told.append, program=program)
    assert told == []


def test_a_program_of_systemd_that_fails_says_why_and_what_to_do() -> None:
    with pytest.raises(InstallError, match=r"`sh -c echo no >&2; exit 3` ended with 3: no; what stands above was done"):
        Run(("sh", "-c", "echo no >&2; exit 3")).perform()
    with pytest.raises(InstallError, match="no-such-program: No such file or directory; is this a system with systemd"):
        Run(("no-such-program",)).perform()


# ---- uninstall


def test_uninstall_leaves_the_configuration_and_nothing_else(
    root: Path, program: Program, ran: list[tuple[str, ...]], told: Lines
) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    ran.clear()
    uninstall(root, dry_run=False, tell=told.append)
    assert set(files_below(root)) == {CONFIG}
    assert ran[0][:3] == ("systemctl", f"--root={root}", "disable")
    assert ran[0][3:] == (
        "mongo-watchdog.service",
        "mongo-watchdog-end.service",
        "mongo-watchdog-end.socket",
        "mongo-watchdog-fifo.service",
        "mongo-watchdog-fifo.socket",
    )
    assert ran[1:] == [("journalctl", f"--root={root}", "--update-catalog")]


@pytest.mark.usefixtures("ran")
def test_a_dry_run_of_uninstall_removes_nothing(root: Path, program: Program, told: Lines) -> None:
    install(root, dry_run=False, tell=lambda _: None, program=program)
    before = files_below(root)
    uninstall(root, dry_run=True, tell=told.append)
    assert files_below(root) == before
    assert f"would remove {root / UNIT}" in told


@pytest.mark.usefixtures("ran")
def test_an_uninstallation_that_was_broken_off_can_be_done_again(root: Path, program: Program, told: Lines) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    for one in FILES:
        (root / one.target).unlink()
    uninstall(root, dry_run=False, tell=told.append)
    assert set(files_below(root)) == {CONFIG}


def test_what_was_not_installed_is_not_uninstalled(root: Path, told: Lines) -> None:
    with pytest.raises(InstallError, match="`mongo-watchdog install` has installed nothing here"):
        uninstall(root, dry_run=False, tell=told.append)


@pytest.mark.usefixtures("ran")
def test_a_unit_that_was_replaced_by_hand_is_not_removed(root: Path, program: Program, told: Lines) -> None:
    install(root, dry_run=False, tell=told.append, program=program)
    (root / UNIT).write_text("[Unit]\n")
    with pytest.raises(InstallError, match="was not written by"):
        uninstall(root, dry_run=False, tell=told.append)


# ---- the command


def test_the_command_tells_a_refusal_on_stderr_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["uninstall", "--root", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("is not there: `mongo-watchdog install` has installed nothing here\n")
    assert cli.main(["install", "--dry-run", "--root", str(tmp_path / "nothing")]) == 1


def test_the_command_installs_what_it_runs_in(root: Path) -> None:
    """Whether this environment may be installed depends on where its Python is; both answers are checked."""
    command = [sys.executable, "-m", "watchdogd", "install", "--dry-run", "--root", str(root)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    if ran.returncode == 0:
        assert f"would write {root / UNIT}\n" in ran.stdout
    else:
        assert (ran.returncode, ran.stdout) == (1, "")
        assert "sudo /usr/bin/python3 -m venv /opt/mongo-watchdog" in ran.stderr
    assert files_below(root) == {}
