"""What a user types, taken from README, on a fresh Debian."""

import subprocess
from dataclasses import dataclass

from tests import package
from tests.system import machines, readme
from tests.system.box import Box
from tests.system.service import Service
from tests.system.site import WORKERS, Site

STEP_S = 120.0
CURED_WITHIN_S = 60.0
HOME = "/home/ann"


@dataclass(eq=False)
class User:
    """ann, who may use sudo, in her login shell; the configuration is what her editor leaves in a file."""

    box: Box
    writes: str

    def __post_init__(self) -> None:
        self.box.run("useradd", "--create-home", "--shell=/bin/bash", "ann")
        self.box.write("/etc/sudoers.d/ann", "ann ALL=(ALL) NOPASSWD: ALL\n", 0o440)
        self.box.write("/srv/config.yaml", self.writes)
        self.box.write("/srv/editor", '#!/bin/sh\ncat /srv/config.yaml >"$1"\n', 0o755)
        self.box.write(f"{HOME}/.profile", "export EDITOR=/srv/editor\n")

    def types(self, command: str) -> "subprocess.CompletedProcess[str]":
        """One line as it stands; she says yes where she is asked."""
        return self.box.run("runuser", "--login", "ann", "--command", command, stdin="y\n", within=STEP_S)


def test_what_readme_says_cures_the_app_on_a_fresh_debian(fresh: Box) -> None:
    fresh.run("apt-get", "install", "--yes", "python3-pymongo")  # the app's
    service, site, user = Service(fresh), Site(fresh), User(fresh, readme.configuration())
    site.start()
    machines.put(package.built(), fresh, f"{HOME}/{package.built().name}")
    for command in readme.commands("package"):
        user.types(command)
    assert service.state == "active"
    check, restart, journal = readme.commands("try")
    assert "shop" in user.types(check).stdout
    with site.traffic(rate=6):  # mongod is away for little more than a second: somebody must come meanwhile
        user.types(restart)
        service.wait_event("recovered", within=CURED_WITHIN_S)
    assert site.all_good()
    assert site.respawned() == WORKERS
    told = user.types(journal).stdout
    subjects = ("started", "leftovers found: shop", "reload due: shop", "reload sent: shop", "recovered: shop")
    places = [told.index(f"Subject: {subject}\n") for subject in subjects]
    assert places == sorted(places)
    assert "needs this should make its MongoClient after the fork (`lazy-apps = true`)." in told
