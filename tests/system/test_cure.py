"""The story of the stuck app, with everything as it is installed."""

import json
import re

import pytest

from rig.hang import Hang
from rig.processes import wait_for
from tests.once import ROOT
from tests.system.box import Box
from tests.system.in_flight import CURED_WITHIN_S, reload_in_flight
from tests.system.machines import ON_EACH
from tests.system.service import ENDER, HELPER, UNIT, Service
from tests.system.site import BESIDE, WORKERS, Site, Way
from watchdogd.core.ends import AGAIN_S

RIGHTS = ROOT / "docs/rights.md"
ENDER_LISTENS = "mongo-watchdog-end.socket"
STEPS = ("leftovers_found", "reload_due", "reload_sent", "reloaded", "recovered")


def cured(service: Service, site: Site) -> None:
    """Waits for the proof, and claims that one reload and nothing else led to it."""
    with site.traffic():
        service.wait_event("recovered", within=CURED_WITHIN_S)
    assert service.order(*STEPS, "reload_failed", "gave_up") == list(STEPS)
    assert site.respawned() == WORKERS
    assert site.all_good()


def recorded(service: Service, box: Box) -> None:
    """Claims that the incident is in the history, and that who is in the group of the service may read it."""
    (recovered,) = service.events("recovered")
    asked = "mongo-watchdog", "incidents", "--json"
    own = wait_for(
        lambda: [one for one in json.loads(box.run(*asked).stdout)["incidents"] if one["ending"]],
        "the incident's record",
        within=10,
    )
    assert [(one["id"], one["ending"]) for one in own] == [(recovered["MW_INCIDENT"], "recovered")]
    assert [one["seconds"] for one in own] == [float(recovered["MW_SECONDS"])]
    for group, code in (("mongo-watchdog", 0), ("nogroup", 77)):
        by = box.run("setpriv", "--reuid=nobody", f"--regid={group}", "--clear-groups", *asked, check=False)
        assert by.returncode == code, by.stderr
        assert code or json.loads(by.stdout)["incidents"] == own
    (file,) = box.path("/var/lib/mongo-watchdog/incidents").iterdir()
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o640, 0o750)


@pytest.mark.parametrize("way", Way, ids=lambda way: way.name.lower())
def test_the_stuck_app_is_cured_by_the_shipped_units(service: Service, site: Site, box: Box, way: Way) -> None:
    site.way = way
    site.start()
    service.start()
    pid = service.pid
    site.strand()
    cured(service, site)
    assert "asked `w " in service.log(HELPER)  # its byte came from the helper
    explained = box.run("journalctl", "-x", "--quiet", f"--unit={UNIT}").stdout
    assert "Subject: reload sent: shop\n" in explained
    assert "One byte was written into the master FIFO of the instance" in explained
    assert (service.pid, service.restarts) == (pid, 0)
    recorded(service, box)


@ON_EACH
def test_a_hung_worker_is_ended_by_the_shipped_ender_which_alone_may(service: Service, site: Site, box: Box) -> None:
    site.extra = BESIDE
    uid = box.run("id", "-u", "www-data").stdout.strip()
    box.systemctl("stop", ENDER_LISTENS)
    box.systemctl("mask", "--runtime", ENDER_LISTENS)  # the service wants it
    with Hang(site.folder) as hang:
        site.start()
        service.start()
        hung = hang.worker_of(site)
    # Where there is no ender it is told, and not ended: the daemon itself may not.
    found = service.wait_event("hung_found", within=CURED_WITHIN_S)
    left = service.wait_event("hung_left", within=CURED_WITHIN_S)
    pid = int(found["MW_PID"])
    assert box.outside(pid) == hung
    assert f"`kill -9 {pid}` is safe" in left["MESSAGE"]
    assert ENDER_LISTENS in left["MESSAGE"]
    assert not service.events("hung_ended")
    box.systemctl("unmask", "--runtime", ENDER_LISTENS)
    box.systemctl("start", ENDER_LISTENS)
    with site.traffic():
        service.wait_event("hung_ended", within=CURED_WITHIN_S + AGAIN_S)
        assert f"process {pid} of user id {uid} was ended" in service.log(ENDER)
    wait_for(lambda: len(site.ready_workers()) == WORKERS, "a new worker in its place", within=CURED_WITHIN_S)
    assert hung not in site.workers()
    assert site.all_good()
    assert not service.events("reload_sent")


def test_where_the_master_holds_the_connection_too_the_whole_stack_is_restarted(service: Service, site: Site) -> None:
    """Without threads, the default of Debian 12, only `r` helps, where it is allowed; the helper sends it."""
    site.threads = False
    service.limits = {"reloads": ["workers", "chain", "restart"]}
    service.configure()
    site.start()
    service.start()
    site.strand()
    with site.traffic():
        service.wait_event("recovered", within=CURED_WITHIN_S)
    assert service.order(*STEPS, "reload_failed", "gave_up") == list(STEPS)
    assert service.log(HELPER).count("asked `r ") == 1
    assert site.all_good()


def test_instances_that_are_found_are_cured_too(service: Service, site: Site) -> None:
    service.fifos = None
    service.configure()
    site.start()
    service.start()
    site.strand()
    cured(service, site)


def add_the_drop_in(box: Box) -> None:
    """As docs/rights.md says, with what the package brings."""
    found = re.search(r"^    (install .* same-user\.conf .*)\n    (.*)$", RIGHTS.read_text(), re.MULTILINE)
    assert found
    box.run("sh", "-ec", f"cd /usr/share/doc/mongo-watchdog/examples; {found[1]}; {found[2]}")


def test_as_the_same_user_it_needs_no_right_and_no_helper(service: Service, site: Site, box: Box) -> None:
    add_the_drop_in(box)
    site.start()
    service.start()
    capabilities = box.path(f"/proc/{service.pid}/status").read_text()
    assert "CapEff:\t0000000000000000" in capabilities
    site.strand()
    cured(service, site)
    assert "asked" not in service.log(HELPER)
    assert "missing" not in service.log()


def test_as_the_same_user_it_says_that_it_is_blind_where_uwsgi_changed_its_user_itself(
    service: Service, site: Site, box: Box
) -> None:
    add_the_drop_in(box)
    site.way = Way.UWSGI_UID
    site.start()
    service.start()
    assert "CAP_SYS_PTRACE" in service.wait_event("blind", within=CURED_WITHIN_S)["MESSAGE"]


def test_restarts_and_crashes_of_mongod_never_restart_the_watchdog(service: Service, site: Site, box: Box) -> None:
    site.start()
    service.start()
    pid = service.pid
    for end in (("restart", "mongod"), ("kill", "--signal=KILL", "mongod"), ("start", "mongod"), ("stop", "mongod")):
        box.systemctl("reset-failed", "mongod", check=False)
        box.systemctl(*end)
    box.systemctl("start", "mongod")
    site.wait_mongod()
    assert (service.pid, service.restarts, service.state) == (pid, 0, "active")


def test_a_stopped_daemon_is_restarted_by_the_watchdog_and_sends_no_second_reload(
    service: Service, site: Site, box: Box
) -> None:
    service.drop_in("[Service]\nWatchdogSec=8\n")
    with reload_in_flight(service, site):
        box.systemctl("kill", "--signal=STOP", "--kill-who=main", UNIT)
        wait_for(lambda: service.restarts == 1 and service.state == "active", "it is restarted", within=60)
        assert "Watchdog timeout" in service.log()
