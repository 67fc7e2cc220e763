import json
import re

import pytest

from tests.once import ROOT
from tests.system.box import Box
from tests.system.machines import ON_EACH
from tests.system.service import ENDER, ENDER_SOCKET, HELPER, HELPER_SOCKET, UNIT, Service
from tests.system.site import CHECKOUT_INSIDE

VICTIM = "victim.service"
FIFO = "/run/victim/fifo"
FOREVER = 1e9
RIGHTS = ROOT / "docs/rights.md"
ENDER_MOST = 1.5  # it may signal any process, so its sandbox is held to more than its own figure
# What a unit says of its start, which a probe does not share; the sandbox is all the rest.
_START = re.compile(
    r"^(Type|NotifyAccess|ExecStart|ExecReload|WatchdogSec|Restart\w*|Standard\w+|SyslogI\w+)=.*\n", re.MULTILINE
)


def a_victim(box: Box) -> int:
    """A process of www-data with a FIFO and a file of its own; its pid inside."""
    script = f"umask 077; mkfifo {FIFO}; : >{FIFO}.file; exec 3<>{FIFO}; exec sleep infinity"
    box.write(
        f"/etc/systemd/system/{VICTIM}",
        f"[Service]\nUser=www-data\nRuntimeDirectory=victim\nExecStart=/bin/sh -c '{script}'\n"
        f"ExecStartPost=/bin/sh -c 'until test -e {FIFO}.file; do sleep 0.05; done'\n",
    )
    box.systemctl("daemon-reload")
    box.systemctl("start", VICTIM)
    return int(box.show(VICTIM, "MainPID"))


def probed(box: Box, name: str, changed: tuple[str, str] = ("[Service]", "[Service]")) -> dict[str, str]:
    """What a program in the sandbox of that unit can do to the victim."""
    pid = a_victim(box)
    text = _START.sub("", box.run("systemctl", "cat", name).stdout).replace(*changed)
    command = f"/usr/bin/python3 {CHECKOUT_INSIDE}/tests/system/probe.py {pid} {FIFO}"
    text = text.replace("[Service]\n", f"[Service]\nType=oneshot\nExecStart={command}\n", 1)
    box.write("/etc/systemd/system/probe.service", text.replace(f"Requires={name[:-8]}.socket\n", ""))
    box.systemctl("daemon-reload")
    box.systemctl("start", "probe.service")
    lines = box.run("journalctl", "--output=cat", "--quiet", "--unit=probe.service").stdout.splitlines()
    outcomes: dict[str, str] = json.loads(next(line for line in lines if line.startswith("{")))
    return outcomes


def can(outcomes: dict[str, str]) -> set[str]:
    return {name for name, outcome in outcomes.items() if outcome == "done"}


@ON_EACH
@pytest.mark.usefixtures("service")
def test_the_daemon_can_read_everything_and_change_nothing(box: Box) -> None:
    outcomes = probed(box, UNIT)
    sees = {"see the process", "see what it holds", "see what it waits for", "hold a pidfd of it", "read /etc/shadow"}
    assert can(outcomes) == sees | {"write /dev/shm"}, outcomes
    assert outcomes["connect to the network"] == "ECONNREFUSED"  # it may: nobody listens there


@pytest.mark.usefixtures("service")
def test_without_its_filter_the_daemon_could_write_the_memory_of_others(box: Box) -> None:
    """Why the unit names process_vm_writev: the set @system-service has it, and CAP_SYS_PTRACE is all it needs."""
    line = "SystemCallFilter=~process_vm_readv process_vm_writev process_madvise kcmp\n"
    assert line in (ROOT / "systemd" / UNIT).read_text()
    assert "write its memory" in can(probed(box, UNIT, (line, "")))


@ON_EACH
@pytest.mark.usefixtures("service")
def test_the_helper_can_write_fifos_and_see_and_reach_nobody(box: Box) -> None:
    outcomes = probed(box, HELPER)
    assert can(outcomes) == {"write the FIFO", "read /etc/shadow"}, outcomes
    assert outcomes["see the process"] == "ENOENT"
    assert outcomes["write a file of its user"] == "EROFS"


@ON_EACH
@pytest.mark.usefixtures("service")
def test_the_ender_can_signal_others_through_what_means_them_and_nothing_else(box: Box) -> None:
    outcomes = probed(box, ENDER)
    assert can(outcomes) == {"see the process", "signal it through its folder in /proc"}, outcomes
    assert outcomes["signal it"] == "EPERM"


def exposures() -> dict[str, str]:
    """What docs/rights.md says of each unit, as `systemd-analyze security` does."""
    rows = [line.strip("| ").split(" | ") for line in RIGHTS.read_text().splitlines() if line.startswith("| ")]
    (units,) = [row for row in rows if f"`{UNIT}`" in row]
    (figures,) = [row for row in rows if row[0] == "`systemd-analyze security`"]
    return dict(zip([name.strip("` ") for name in units[-3:]], figures[1:], strict=True))


@ON_EACH
def test_no_unit_is_more_exposed_than_the_page_of_rights_says(box: Box) -> None:
    said = exposures()
    assert set(said) == {path.name for path in (ROOT / "systemd").glob("*.service")}
    assert float(said[ENDER]) <= ENDER_MOST
    for name, exposure in said.items():
        shown = box.run("systemd-analyze", "security", "--no-pager", name).stdout
        assert f"Overall exposure level for {name}: {exposure} " in shown, shown


@ON_EACH
def test_the_units_have_no_mistake(box: Box) -> None:
    names = (UNIT, HELPER, "mongo-watchdog-fifo.socket", ENDER, "mongo-watchdog-end.socket")
    done = box.run("systemd-analyze", "verify", *names)
    assert done.stdout + done.stderr == ""


CLIENT = """
import os, socket, sys
client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
client.settimeout(30)
try:
    client.connect(sys.argv[1])
    sent = sys.argv[3]
    opened = os.pidfd_open(int(sent)) if sent.isdigit() else os.open(sent, os.O_PATH | os.O_NOFOLLOW)
    socket.send_fds(client, [sys.argv[2].encode()], [opened])
    print(client.recv(65536).decode())
except OSError as error:
    print(type(error).__name__)
"""


def asked(box: Box, user: str, request: str, sent: str = FIFO, of: str = HELPER_SOCKET) -> str:
    """What an installed helper answers a program of that user, which sends a descriptor of that path or process."""
    command = ["runuser", "-u", user, "--", "/usr/bin/python3", "-c", CLIENT, of, request, sent]
    return box.run(*command).stdout.rstrip("\n")


def test_the_helper_refuses_every_wrong_caller_path_and_command(service: Service, box: Box) -> None:
    a_victim(box)
    uid = box.run("id", "-u", "www-data").stdout.strip()
    service.configure(uwsgi=[{"name": "victim", "master_fifo": FIFO}])
    box.systemctl("start", "mongo-watchdog-fifo.socket")
    right = f"w 0 {FOREVER} {uid} {FIFO}"
    assert asked(box, "www-data", right) == "PermissionError"
    assert asked(box, "mongo-watchdog-fifo", right) == "PermissionError"
    assert asked(box, "root", right).startswith("refused only the user of mongo-watchdog")
    for command in ("q", "r", "s", "ww"):
        assert asked(box, "mongo-watchdog", f"{command} 0 {FOREVER} {uid} {FIFO}").startswith("refused "), command
    for path in ("/run/initctl", f"{FIFO}.file", "/run/victim/../victim/fifo", "/etc/shadow"):
        assert asked(box, "mongo-watchdog", f"w 0 {FOREVER} {uid} {path}").startswith("refused "), path
    for sent in (f"{FIFO}.file", "/etc/shadow", "/run/victim", "/dev/null", HELPER_SOCKET):
        assert asked(box, "mongo-watchdog", right, sent).startswith("refused "), sent
    assert asked(box, "mongo-watchdog", f"w 0 {FOREVER} 0 {FIFO}").startswith("refused ")
    assert asked(box, "mongo-watchdog", right) == "written "
    # All of that is in the journal, the refused ones as warnings.
    assert len(box.journal("SYSLOG_IDENTIFIER=mongo-watchdog-fifo", "PRIORITY=4")) == 15
    box.path("/etc/mongo-watchdog/config.yaml").chmod(0o666)
    assert asked(box, "mongo-watchdog", right).startswith("refused ")


# A master and its worker that loads, by their handlers.
WORKER = """
import os, signal, time
def handles(*names):
    for name in names:
        signal.signal(getattr(signal, "SIG" + name), lambda *_: None)
handles("HUP", "QUIT", "USR1", "TERM", "TSTP")
if os.fork() == 0:
    handles("WINCH")
    open("/run/worker/pid", "w").write(str(os.getpid()))
while True:
    time.sleep(3600)
"""


def a_loading_worker(box: Box) -> str:
    """A worker of www-data that is not ready, below a master; its pid inside."""
    box.write("/usr/local/lib/worker.py", WORKER)
    box.write(
        "/etc/systemd/system/worker.service",
        "[Service]\nUser=www-data\nRuntimeDirectory=worker\nExecStart=/usr/bin/python3 /usr/local/lib/worker.py\n"
        "ExecStartPost=/bin/sh -c 'until test -s /run/worker/pid; do sleep 0.05; done'\n",
    )
    box.systemctl("daemon-reload")
    box.systemctl("restart", "worker.service")
    return box.path("/run/worker/pid").read_text()


@ON_EACH
def test_the_ender_ends_a_worker_that_is_not_ready_and_nobody_else(service: Service, box: Box) -> None:
    victim, worker = str(a_victim(box)), a_loading_worker(box)
    service.configure(uwsgi=[{"name": "victim", "master_fifo": FIFO}])
    box.systemctl("start", "mongo-watchdog-end.socket")
    right = f"{FOREVER} {FIFO}"
    assert asked(box, "www-data", right, worker, ENDER_SOCKET) == "PermissionError"
    assert asked(box, "mongo-watchdog-end", right, worker, ENDER_SOCKET) == "PermissionError"
    assert asked(box, "root", right, worker, ENDER_SOCKET).startswith("refused only the user of mongo-watchdog")
    for other in ("1", victim, box.show("worker.service", "MainPID"), "/etc/passwd", FIFO):
        assert asked(box, "mongo-watchdog", right, other, ENDER_SOCKET).startswith("refused "), other
    for request in (f"{FOREVER} /etc/passwd", f"9 {worker}", "SIGTERM"):
        assert asked(box, "mongo-watchdog", request, worker, ENDER_SOCKET).startswith("refused "), request
    assert asked(box, "mongo-watchdog", f"0 {FIFO}", worker, ENDER_SOCKET).startswith("try_again ")
    assert asked(box, "mongo-watchdog", right, worker, ENDER_SOCKET).startswith(f"ended process {worker} of user id")
    assert box.show(VICTIM, "ActiveState") == "active"
    assert len(box.journal("SYSLOG_IDENTIFIER=mongo-watchdog-end", "PRIORITY=4")) == 9


def test_a_right_that_is_missing_is_said_at_the_start_with_what_gives_it(service: Service, box: Box) -> None:
    a_victim(box)
    service.configure(uwsgi=[{"name": "victim", "master_fifo": FIFO}])
    service.start()
    assert "missing" not in service.log()
    for name in ("mongo-watchdog-fifo.socket", "mongo-watchdog-end.socket"):
        box.systemctl("disable", "--now", name)
        box.systemctl("mask", name)  # the service wants it
    service.drop_in("[Service]\nAmbientCapabilities=\nCapabilityBoundingSet=\n")
    box.systemctl("restart", UNIT)
    log = service.log()
    assert "CAP_SYS_PTRACE is missing" in log
    assert "CAP_DAC_READ_SEARCH is missing" in log
    assert "systemctl enable --now mongo-watchdog-fifo.socket" in log
    assert "systemctl enable --now mongo-watchdog-end.socket" in log
    assert "same-user.conf" in log
