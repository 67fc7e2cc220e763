"""The package over its life: a reboot, an upgrade, a removal, a purge."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

from rig.processes import wait_for
from tests import package
from tests.once import ROOT
from tests.system import machines
from tests.system.box import Box
from tests.system.in_flight import reload_in_flight
from tests.system.machines import ON_EACH
from tests.system.service import CONFIG, ENDER, ENDER_SOCKET, HELPER, HELPER_SOCKET, UNIT, Service
from tests.system.site import FIFO, Site

APT_S = 120.0
NEXT = "0.1.0+next"


def apt(box: Box, *arguments: str, stdin: str | None = None) -> str:
    done = box.run("apt-get", "--yes", *arguments, stdin=stdin, within=APT_S)
    return done.stdout + done.stderr


def a_next_version(folder: Path, shipped_config: str | None = None) -> Path:
    """The same package with a higher version, and with another configuration as its default where that is given."""
    unpacked, deb = folder / "unpacked", folder / "next.deb"
    if unpacked.exists():
        shutil.rmtree(unpacked)
    subprocess.run(["dpkg-deb", "--raw-extract", package.built(), unpacked], check=True, timeout=APT_S)
    control = unpacked / "DEBIAN/control"
    control.write_text(re.sub(r"^Version: .*$", f"Version: {NEXT}", control.read_text(), flags=re.MULTILINE))
    if shipped_config is not None:
        (unpacked / CONFIG[1:]).write_text(shipped_config)
    command = ["dpkg-deb", "--root-owner-group", "--build", str(unpacked), str(deb)]
    subprocess.run(command, check=True, capture_output=True, timeout=APT_S)
    return deb


def test_after_a_reboot_it_watches(rebooted: Box) -> None:
    service = Service(rebooted)
    wait_for(lambda: service.state == "active", "it is started", within=60)
    for name in ("mongo-watchdog-fifo.socket", "mongo-watchdog-end.socket"):
        assert rebooted.show(name, "ActiveState") == "active"
    assert service.order("started") == ["started"]


@ON_EACH
def test_the_distribution_has_the_versions_that_we_ask_for(box: Box) -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    for requirement in map(Requirement, wanted):
        name = package.NAMES[requirement.name]
        version = box.run("dpkg-query", "--show", "--showformat=${source:Upstream-Version}", name).stdout
        assert requirement.specifier.contains(version), f"{name} {version}: {requirement}"


@ON_EACH
def test_what_it_installs_is_there_for_its_users(box: Box) -> None:
    for page in ("mongo-watchdog", "mongo-watchdog.yaml"):
        assert "mongo-watchdog" in box.run("man", "--pager=cat", page).stdout
    completed = box.run(
        "bash",
        "-c",
        "source /usr/share/bash-completion/bash_completion; _completion_loader mongo-watchdog; complete -p",
    )
    assert re.search(r"^complete .* mongo-watchdog$", completed.stdout, re.MULTILINE)
    seen = box.path(CONFIG).stat()
    group = box.run("getent", "group", "mongo-watchdog").stdout.split(":")[2]
    assert (seen.st_mode & 0o777, seen.st_uid, str(seen.st_gid)) == (0o640, 0, group)
    assert box.path(CONFIG).read_text() == (ROOT / "config/config.yaml").read_text()
    assert "mongo-watchdog: member down: @MW_MEMBER@" in box.run("journalctl", "--list-catalog").stdout


def test_an_upgrade_restarts_what_runs_and_sends_no_second_reload(
    service: Service, site: Site, box: Box, tmp_path: Path
) -> None:
    machines.put(a_next_version(tmp_path), box)
    with reload_in_flight(service, site):
        pid = service.pid
        apt(box, "install", machines.PACKAGE)
        assert (service.state, service.restarts) == ("active", 0)
        assert service.pid != pid


def test_what_was_edited_survives_an_upgrade_a_removal_and_a_new_installation(
    service: Service, box: Box, tmp_path: Path
) -> None:
    edited = box.path(CONFIG).read_text()
    assert edited != (ROOT / "config/config.yaml").read_text()
    machines.put(a_next_version(tmp_path, "mongodb: []  # the next one's default\n"), box)
    assert "Configuration file '/etc/mongo-watchdog/config.yaml'" in apt(box, "install", machines.PACKAGE, stdin="\n")
    assert box.path(CONFIG).read_text() == edited
    assert service.state == "inactive"  # it did not run before
    service.start()
    apt(box, "remove", "mongo-watchdog")
    assert (service.state, box.path(CONFIG).read_text()) == ("inactive", edited)
    apt(box, "install", machines.PACKAGE)
    assert box.path(CONFIG).read_text() == edited
    service.start()
    assert service.status()["instances"][0]["name"] == "shop"


# What apt and dpkg keep for themselves, about every package.
BOOKS = re.compile(r"/var/(cache|log|lib/(apt|dpkg))(/|$)|/etc/(passwd|shadow|group|gshadow)-$")


def test_a_purge_leaves_nothing(fresh: Box) -> None:
    before = fresh.files()
    machines.put(package.built(), fresh)
    apt(fresh, "install", machines.PACKAGE)
    fresh.path(machines.PACKAGE).unlink()
    service = Service(fresh, fifos={"shop": FIFO})
    service.configure()
    service.drop_in("[Service]\nWatchdogSec=8\n")
    for unit in (HELPER, ENDER):
        service.drop_in("[Service]\nMemoryMax=32M\n", unit=unit)
    fresh.write("/etc/mongo-watchdog/main.uri", "mongodb://127.0.0.1/\n", 0o600)
    service.start()
    service.command("pause", "--reason", "a state to be saved")
    assert list(fresh.path("/var/lib/mongo-watchdog").iterdir())
    apt(fresh, "purge", "--autoremove", "mongo-watchdog")
    left = {path for path in fresh.files() - before if not BOOKS.search(path)}
    assert left == set()
    assert not fresh.path(HELPER_SOCKET).exists()
    assert not fresh.path(ENDER_SOCKET).exists()
    assert not fresh.path("/run/mongo-watchdog").exists()
    assert "mongo-watchdog" not in fresh.run("journalctl", "--list-catalog").stdout
    assert fresh.show(UNIT, "LoadState") == "not-found"
    assert "mongo-watchdog" not in fresh.run("dpkg", "--list").stdout
