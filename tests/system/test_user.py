"""What a user types, taken from README, on a fresh Debian, until the app has recovered and the incident is read."""

import re

from tests import package
from tests.system import machines
from tests.system.box import Box
from tests.system.service import UNIT, Service
from tests.system.site import CHECKOUT_INSIDE, WORKERS, Site
from tests.system.user import HOME, User, commands

CURED_WITHIN_S = 120.0


def a_site(box: Box) -> Site:
    """What the user has before: an app with its own pymongo, and a mongod."""
    box.run("apt-get", "install", "--yes", "python3-pymongo")
    site = Site(box)
    site.start()
    return site


def tried(user: User, site: Site) -> None:
    """The rest of the way: mongod is restarted, the app recovers, and the journal tells how."""
    check, restart, journal = commands("try")
    assert "shop" in user.types(check).stdout
    # mongod is away for little more than a second: somebody must come meanwhile.
    with site.traffic(rate=6):
        user.types(restart)
        Service(user.box).wait_event("recovered", within=CURED_WITHIN_S)
    assert site.all_good()
    assert site.respawned() == WORKERS
    told = user.types(journal).stdout
    subjects = ("started", "leftovers found: shop", "reload due: shop", "reload sent: shop", "recovered: shop")
    places = [told.index(f"Subject: {subject}\n") for subject in subjects]
    assert places == sorted(places)
    assert "needs this should make its MongoClient after the fork (`lazy-apps = true`)." in re.sub(r"\n\S+ ", " ", told)


def test_the_package_cures_the_app(fresh: Box) -> None:
    site, user = a_site(fresh), User(fresh)
    machines.put(package.built(), fresh, f"{HOME}/{package.built().name}")
    for command in commands("package"):
        user.types(command)
    assert Service(fresh).state == "active"
    tried(user, site)


def test_a_virtual_environment_cures_the_app_and_uninstall_takes_it_back(own_python: Box) -> None:
    box = own_python
    site, user = a_site(box), User(box)
    before = box.files()
    make, install = commands("venv")
    user.types(make, CHECKOUT_INSIDE)
    user.types("cp -r /opt/mongo-watchdog .")
    refused = box.run(f"{HOME}/mongo-watchdog/bin/python", "-m", "watchdogd", "install", check=False)
    assert refused.returncode == 1
    assert "is below /home, where the user of the service may not go" in refused.stderr
    assert "sudo /opt/mongo-watchdog/bin/mongo-watchdog install" in refused.stderr
    box.run("rm", "-r", f"{HOME}/mongo-watchdog")
    told = user.types(install).stdout
    next_ = re.search(r"next: edit (\S+), then\n((?: +.*\n)+)", told)
    assert next_, told
    user.types(f"sudoedit {next_[1]}")
    for line in next_[2].splitlines():
        user.types(f"sudo sh -c '{line.strip()}'")
    assert Service(box).state == "active"
    assert "Loaded: loaded (/etc/systemd/system/mongo-watchdog.service; enabled" in box.systemctl("status", UNIT)
    tried(user, site)

    user.types("sudo mongo-watchdog uninstall")
    kept = ("/etc/mongo-watchdog", "/var/lib/mongo-watchdog", "/opt/mongo-watchdog", "/var/lib/mongodb")
    left = {path for path in box.files() - before if not path.startswith(kept) and not box.path(path).is_dir()}
    assert left == set()
    assert Service(box).state == "inactive"
    assert "mongo-watchdog" not in box.run("journalctl", "--list-catalog").stdout
