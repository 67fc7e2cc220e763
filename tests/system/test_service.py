import time

from rig.processes import wait_for
from tests.system.box import Box
from tests.system.machines import ON_EACH
from tests.system.service import CONFIG, UNIT, Service
from tests.system.site import Site

QUIET = "mongodb://127.0.0.1:1/"  # nobody listens there
SOON_S = 30.0


@ON_EACH
def test_a_start_returns_when_the_daemon_is_ready_and_its_status_shows(service: Service, box: Box) -> None:
    service.start()
    assert service.status()["daemon"]["pid"] == service.pid  # at once: it listens before it is ready
    line = box.show(UNIT, "StatusText")  # no uWSGI runs here
    assert line.startswith("nothing is watched: ")
    assert "does not run: shop" in line
    assert 'Status: "nothing is watched: ' in box.systemctl("status", UNIT, check=False)
    assert service.order("started") == ["started"]
    document = box.path("/run/mongo-watchdog/control.sock").stat()
    assert document.st_mode & 0o777 == 0o660


def test_a_stop_is_clean_and_a_start_after_it_too(service: Service, box: Box) -> None:
    service.start()
    box.systemctl("stop", UNIT)
    assert (service.state, box.show(UNIT, "Result")) == ("inactive", "success")
    assert service.order("stopping") == ["stopping"]
    service.start()
    assert service.state == "active"


@ON_EACH
def test_a_configuration_with_mistakes_fails_the_start_for_good_and_says_where(service: Service, box: Box) -> None:
    service.write_config("mongodb:\n  - url: mongodb://127.0.0.1/\n")
    assert "failed" in box.systemctl("start", UNIT, check=False)
    assert (service.state, box.show(UNIT, "ExecMainStatus"), service.restarts) == ("failed", "78", 0)
    assert f"{CONFIG}:2:5: mongodb[0].url" in service.log()


def test_a_second_daemon_is_not_started_again_and_again(service: Service, box: Box) -> None:
    run = ("--property=User=mongo-watchdog", "--property=RuntimeDirectory=mongo-watchdog", "mongo-watchdog", "run")
    box.run("systemd-run", "--unit=by-hand", "--property=Type=notify", "--property=StateDirectory=mongo-watchdog", *run)
    assert "failed" in box.systemctl("start", UNIT, check=False)
    assert (service.state, box.show(UNIT, "ExecMainStatus"), service.restarts) == ("failed", "75", 0)


@ON_EACH
def test_systemctl_reload_takes_a_good_configuration_over(service: Service, box: Box) -> None:
    service.start()
    pid = service.pid
    assert service.status()["mode"] == "act"
    service.configure(mode="observe")
    box.systemctl("reload", UNIT)
    assert service.status()["mode"] == "observe"  # when it returns, it is in force
    assert service.pid == pid
    assert service.order("config_reloaded") == ["config_reloaded"]


@ON_EACH
def test_systemctl_reload_of_a_bad_configuration_fails_says_why_and_changes_nothing(service: Service, box: Box) -> None:
    service.start()
    pid = service.pid
    service.configure(mode="observe", intervall="1s")
    assert "failed" in box.systemctl("reload", UNIT, check=False)
    assert "intervall" in service.log()
    assert (service.state, service.pid, service.status()["mode"]) == ("active", pid, "act")
    service.configure()
    box.systemctl("reload", UNIT)


def test_150_threads_fit_in(service: Service, site: Site, box: Box) -> None:
    """A member that answers takes three; the same mongod answers at fifty addresses."""
    site.start_mongod()
    members = ",".join(f"127.0.0.{number}" for number in range(1, 51))
    service.configure(mongodb=[{"uri": f"mongodb://{members}/"}])
    service.start()

    def threads() -> int:
        status = box.path(f"/proc/{service.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("Threads:"))

    wait_for(lambda: len(service.status()["deployments"][0]["members"]) == 50, "50 members", within=SOON_S)
    wait_for(lambda: threads() >= 150, "three threads for each", within=SOON_S)
    assert threads() < int(box.show(UNIT, "TasksMax")) == 512
    assert (service.state, service.restarts) == ("active", 0)


def test_the_watchdog_is_fed_also_when_nothing_happens_for_longer_than_its_time(service: Service) -> None:
    service.configure(mongodb=[{"uri": "mongodb://no.such.host.invalid/"}], interval="60s")
    service.drop_in("[Service]\nWatchdogSec=8\n")
    service.start()
    begun = time.monotonic()
    wait_for(lambda: time.monotonic() - begun > 20, "two and a half times its time", within=30)
    assert (service.state, service.restarts) == ("active", 0)


@ON_EACH
def test_journalctl_explains_each_event(service: Service, box: Box) -> None:
    service.configure(mongodb=[{"uri": QUIET}])
    service.start()
    service.wait_event("member_down", within=SOON_S)
    text = box.run("journalctl", "-x", "--quiet", f"--unit={UNIT}").stdout
    assert "Subject: started" in text
    assert "`mongo-watchdog status`" in text
    assert "Subject: member down: 127.0.0.1:1\n" in text
    assert "The heartbeats of this member fail." in text
    assert "@MW_" not in text
    (entry,) = service.events("member_down")
    assert entry["_SYSTEMD_UNIT"] == UNIT
    assert entry["MESSAGE_ID"] == "b37006225464499d9ef8c3f3f045d348"


HANGS = """
import signal
def hang_for_ever(*_):
    while True:
        pass
signal.signal(signal.SIGUSR1, hang_for_ever)
"""


def test_a_hung_loop_is_ended_and_restarted_and_leaves_its_stack(service: Service, box: Box) -> None:
    box.write("/opt/hang/sitecustomize.py", HANGS)
    service.drop_in("[Service]\nWatchdogSec=8\nEnvironment=PYTHONPATH=/opt/hang\n")
    service.start()
    pid = service.pid
    box.systemctl("kill", "--signal=USR1", "--kill-who=main", UNIT)
    wait_for(lambda: service.restarts == 1 and service.state == "active", "it is restarted", within=60)
    log = service.log()
    assert service.pid != pid
    assert "Watchdog timeout" in log
    assert "Fatal Python error: Aborted" in log
    assert "in hang_for_ever" in log
    assert service.order("started") == ["started", "started"]


# More events than the journal's socket holds (278 were measured).
CHATTER = """
import sys
from pathlib import Path
from watchdogd.service.control import Pause, Resume, ask
for _ in range(200):
    for wish in (Pause(), Resume()):
        assert ask(Path(sys.argv[1]), wish)["ok"]
"""


def test_a_stuck_journald_does_not_stop_the_loop(service: Service, box: Box) -> None:
    """For 32 s: longer than WatchdogSec of the shipped unit, so that a loop that waited would be ended."""
    service.start()
    pid = service.pid
    box.systemctl("kill", "--signal=STOP", "--kill-who=main", "systemd-journald.service")
    try:
        begun = time.monotonic()
        box.run("/usr/bin/python3", "-c", CHATTER, "/run/mongo-watchdog/control.sock")
        at = service.status()["at"]
        wait_for(lambda: time.monotonic() - begun > 32, "32 s without a journal", within=60)
        assert service.status()["at"] > at
    finally:
        box.systemctl("kill", "--signal=CONT", "--kill-who=main", "systemd-journald.service")
    assert (service.pid, service.restarts, service.state) == (pid, 0, "active")
    wait_for(lambda: _told_of_a_loss(service), "that events were lost is told", within=SOON_S)


def _told_of_a_loss(service: Service) -> bool:
    service.command("pause")
    return any("before this one could not be written" in entry["MESSAGE"] for entry in service.events("paused"))
