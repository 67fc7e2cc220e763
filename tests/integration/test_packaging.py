"""The Debian package, built by debhelper, and `mongo-watchdog install` with the real tools of systemd."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.once import ROOT, MissingError
from tests.package import BUILD_S, NAMES, built
from watchdogd import __version__
from watchdogd.cli.install import CONFIG, UNITS, Program, install, uninstall
from watchdogd.codec import FORMATS

IN_PLACE = {
    "config/config.yaml": "etc/mongo-watchdog/config.yaml",
    "systemd/mongo-watchdog.service": "{units}/mongo-watchdog.service",
    "systemd/mongo-watchdog-fifo.service": "{units}/mongo-watchdog-fifo.service",
    "systemd/mongo-watchdog-fifo.socket": "{units}/mongo-watchdog-fifo.socket",
    "systemd/mongo-watchdog-end.service": "{units}/mongo-watchdog-end.service",
    "systemd/mongo-watchdog-end.socket": "{units}/mongo-watchdog-end.socket",
    "systemd/sysusers.d/mongo-watchdog.conf": "usr/lib/sysusers.d/mongo-watchdog.conf",
    "systemd/tmpfiles.d/mongo-watchdog.conf": "usr/lib/tmpfiles.d/mongo-watchdog.conf",
    "systemd/mongo-watchdog.catalog": "usr/lib/systemd/catalog/mongo-watchdog.catalog",
    "systemd/same-user.conf": "usr/share/doc/mongo-watchdog/examples/same-user.conf",
    "completions/mongo-watchdog.bash": "usr/share/bash-completion/completions/mongo-watchdog",
    "completions/_mongo-watchdog": "usr/share/zsh/vendor-completions/_mongo-watchdog",
    "completions/mongo-watchdog.fish": "usr/share/fish/vendor_completions.d/mongo-watchdog.fish",
}


def run(*command: str | Path, timeout: float = 50, **environment: str) -> str:
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert ran.returncode == 0, f"{' '.join(map(str, command))} ended with {ran.returncode}:\n{ran.stdout[-4000:]}"
    return ran.stdout


@pytest.fixture(scope="module")
def package() -> Path:
    """What `make deb` makes."""
    try:
        return built()
    except MissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def unpacked(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    run("dpkg-deb", "--raw-extract", package, folder)
    return folder


@pytest.mark.timeout(BUILD_S + 60)
def test_the_package_is_for_every_machine_and_needs_what_the_distribution_has(package: Path) -> None:
    assert package.name == f"mongo-watchdog_{__version__}_all.deb"
    needed = {one.split(" ")[0] for one in run("dpkg-deb", "--field", package, "Depends").strip().split(", ")}
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(NAMES) == {re.split("[<>=]", one)[0] for one in dependencies}
    assert {one for one in needed if one.startswith("python3-")} == set(NAMES.values())
    assert {"python3", "systemd"} <= needed


@pytest.mark.timeout(BUILD_S + 60)
def test_everything_stands_in_its_place_once(unpacked: Path) -> None:
    of_systemd = {str(path.relative_to(ROOT)) for path in (ROOT / "systemd").rglob("*") if path.is_file()}
    assert of_systemd == {source for source in IN_PLACE if source.startswith("systemd/")}
    # Debian 12 has /lib/systemd/system, 13 has /usr/lib/systemd/system: one folder, by two names.
    units = next(one for one in ("lib/systemd/system", "usr/lib/systemd/system") if (unpacked / one).is_dir())
    for source, place in IN_PLACE.items():
        placed = unpacked / place.format(units=units)
        assert placed.read_bytes() == (ROOT / source).read_bytes(), placed
    code = unpacked / "usr/lib/python3/dist-packages/watchdogd"
    assert {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()} == {
        str(path.relative_to(ROOT / "watchdogd"))
        for path in (ROOT / "watchdogd").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {path.name for path in (code / "schemas").iterdir()} == {f"{one.schema}.schema.json" for one in FORMATS}
    assert (unpacked / "usr/share/man/man8/mongo-watchdog.8.gz").is_file()
    assert (unpacked / "usr/share/man/man5/mongo-watchdog.yaml.5.gz").is_file()
    assert (unpacked / "usr/bin/mongo-watchdog").read_text().startswith("#!/usr/bin/python3\n")
    assert (unpacked / "DEBIAN/conffiles").read_text() == "/etc/mongo-watchdog/config.yaml\n"


@pytest.mark.timeout(BUILD_S + 60)
def test_it_is_enabled_not_started_restarted_by_an_upgrade_and_stopped_by_a_removal(unpacked: Path) -> None:
    postinst, prerm = ((unpacked / "DEBIAN" / name).read_text() for name in ("postinst", "prerm"))
    assert "deb-systemd-helper enable 'mongo-watchdog.service'" in postinst
    assert "deb-systemd-invoke try-restart 'mongo-watchdog.service'" in postinst
    assert not re.search(r"deb-systemd-invoke (?:start|\$_dh_action)", postinst)
    (stopped,) = re.findall(r"deb-systemd-invoke stop (.*?) >", prerm.replace("\\\n", " "))
    assert set(stopped.split()) == {one.target.name for one in UNITS}
    assert "systemd-sysusers" in postinst.split("systemd-tmpfiles")[0]


@pytest.mark.timeout(BUILD_S + 60)
def test_a_purge_leaves_neither_configuration_nor_state(unpacked: Path, tmp_path: Path) -> None:
    for folder in ("etc/mongo-watchdog", "var/lib/mongo-watchdog"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "file").touch()
    postrm = unpacked / "DEBIAN/postrm"
    run("sh", postrm, "remove", DPKG_ROOT=str(tmp_path))
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"file"}
    run("sh", postrm, "purge", DPKG_ROOT=str(tmp_path))
    assert not list(tmp_path.rglob("mongo-watchdog"))


@pytest.mark.timeout(BUILD_S + 60)
def test_lintian_finds_no_error_and_no_warning(package: Path) -> None:
    if not shutil.which("lintian"):
        pytest.skip("needs lintian")
    (changes,) = package.parent.glob("*.changes")
    told = run("lintian", "--allow-root", "--fail-on=error,warning", changes, timeout=BUILD_S)
    assert told == ""


def test_maintainers_are_the_authors_at_an_address_that_is_nobodys() -> None:
    """Nobody can ever own a name below .invalid (RFC 2606); lintian takes it."""
    (author,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["authors"]
    maintainer = f"{author['name']} <maintainers@mongo-watchdog.invalid>"
    assert f"\nMaintainer: {maintainer}\n" in (ROOT / "debian/control").read_text()
    assert f"\n -- {maintainer}  " in (ROOT / "debian/changelog").read_text()
    assert f" {author['name']}\n" in (ROOT / "debian/copyright").read_text()


def test_the_version_of_the_package_is_that_of_the_program() -> None:
    assert (ROOT / "debian/changelog").read_text().startswith(f"mongo-watchdog ({__version__}) ")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_install_makes_users_rights_and_catalog_and_uninstall_takes_its_files_back(tmp_path: Path) -> None:
    for name in ("systemd-sysusers", "systemd-tmpfiles", "journalctl", "systemctl"):
        if not shutil.which(name):
            pytest.skip(f"needs {name}")
    root, folder = tmp_path / "root", tmp_path / "venv"
    (root / "etc").mkdir(parents=True)
    # systemd's own is always there: without any, --update-catalog leaves the database as it was (systemd 252).
    (root / "usr/lib/systemd/catalog").mkdir(parents=True)
    (root / "usr/lib/systemd/catalog/other.catalog").write_text(f"-- {'a' * 32}\nSubject: other\n\nText.\n")
    folder.mkdir()
    (folder / "mongo-watchdog").symlink_to(sys.executable)
    (folder / "python3").symlink_to(sys.executable)

    install(root, dry_run=False, tell=lambda _: None, program=Program(folder, ()))
    users = dict(line.split(":")[0:3:2] for line in (root / "etc/passwd").read_text().splitlines())
    groups = dict(line.split(":")[0:3:2] for line in (root / "etc/group").read_text().splitlines())
    assert {"mongo-watchdog", "mongo-watchdog-fifo", "mongo-watchdog-end"} <= set(users)
    file = (root / CONFIG).stat()
    assert (file.st_mode & 0o777, file.st_uid, str(file.st_gid)) == (0o640, 0, groups["mongo-watchdog"])
    assert (root / CONFIG).parent.stat().st_mode & 0o777 == 0o750
    told = run("journalctl", f"--root={root}", "--list-catalog")
    assert "mongo-watchdog: started" in told
    for unit in UNITS[0], UNITS[-1]:
        run("systemctl", f"--root={root}", "enable", unit.target.name)
    assert (root / "etc/systemd/system/multi-user.target.wants/mongo-watchdog.service").is_symlink()

    uninstall(root, dry_run=False, tell=lambda _: None)
    left = [path for path in root.rglob("*mongo-watchdog*") if path.is_symlink() or path.is_file()]
    assert left == []
    assert (root / CONFIG).is_file()
    assert "mongo-watchdog: started" not in run("journalctl", f"--root={root}", "--list-catalog")
