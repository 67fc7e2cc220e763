"""The daemon as its own process: what keeps it from starting, and how fast it goes, whatever hangs."""

import contextlib
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rig.mongod import Mongod
from rig.netns import Namespace, NamespaceError
from rig.ports import free_port
from rig.processes import DeadlineError, Process, wait_for
from tests.world.schemas import strict

PROGRAM = (sys.executable, "-P", "-m", "watchdogd")
STATUS = strict("status")
STARTS_WITHIN_S = 30.0
ENDS_WITHIN_S = 2.0
NAMES = tuple(f"mongod{number}.example.net" for number in range(5))


@dataclass
class Place:
    """A configuration and the daemons that are started with it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def socket(self) -> Path:
        return self.folder / "control.sock"

    def write(self, uri: str, **changes: object) -> None:
        keys = {"state_dir": self.folder / "state", "control_socket": self.socket, **changes}
        lines = [f"{key}: {value}" for key, value in keys.items()]
        fifo = f"uwsgi: [{{name: shop, master_fifo: {self.folder}/shop/fifo}}]"
        self.config.write_text("\n".join([f"mongodb: [{{uri: '{uri}'}}]", fifo, *lines, ""]))

    def run(self, *verb: str) -> "subprocess.CompletedProcess[str]":
        """A verb that ends by itself."""
        command = [*PROGRAM, *verb, "--config", str(self.config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)

    @contextlib.contextmanager
    def daemon(self) -> Iterator[Process]:
        """One that runs, and says so."""
        before = self.log().count("started")
        with Process([*PROGRAM, "run", "--config", str(self.config)], log=self.folder / "daemon.log") as one:
            one.wait_until(lambda: self.log().count("started") > before, "the daemon starts", within=STARTS_WITHIN_S)
            yield one

    def log(self) -> list[str]:
        """The events that were told, in order."""
        path = self.folder / "daemon.log"
        lines = path.read_text().splitlines() if path.exists() else []
        return [found[1] for line in lines if (found := re.match(r"\S+Z \w+ (\w+)", line))]

    def status(self) -> dict[str, Any] | None:
        """What `status --json` says; None while nobody answers."""
        ran = self.run("status", "--json")
        if not ran.stdout:
            return None
        document: dict[str, Any] = json.loads(ran.stdout)
        STATUS.validate(document)
        return document


@pytest.fixture
def place() -> Iterator[Place]:
    """The path of a Unix socket must be short."""
    folder = Path(tempfile.mkdtemp(prefix="mw-start-"))
    one = Place(folder)
    one.write(f"mongodb://127.0.0.1:{free_port()}/")
    yield one
    shutil.rmtree(folder)


# -- it does not start


def test_a_bad_configuration_is_78(place: Place) -> None:
    place.write("mongodb://127.0.0.1:1/", mode="maybe")
    ran = place.run("run")
    assert (ran.returncode, ran.stdout) == (78, "")
    assert ran.stderr.startswith(f"{place.config}:")
    assert ": mode: " in ran.stderr


def test_folders_that_are_not_there_are_78(place: Place) -> None:
    place.write("mongodb://127.0.0.1:1/", state_dir=place.folder / "a" / "b")
    ran = place.run("run")
    assert ran.returncode == 78
    assert ran.stderr.startswith(f"{place.folder}/a/b: No such file or directory")
    place.write("mongodb://127.0.0.1:1/", control_socket=place.folder / "run" / "control.sock")
    ran = place.run("run")
    assert ran.returncode == 78
    assert f"the folder {place.folder}/run does not exist" in ran.stderr


def test_a_saved_state_that_may_not_be_read_is_78_and_leaves_no_socket(place: Place) -> None:
    (place.folder / "state" / "state.json").mkdir(parents=True)
    ran = place.run("run")
    assert ran.returncode == 78
    assert ran.stderr.splitlines()[-1].startswith(f"{place.folder}/state/state.json: Is a directory")
    assert "Traceback" not in ran.stderr
    assert not place.socket.exists()


def test_a_second_daemon_is_75_and_does_not_disturb_the_first(place: Place) -> None:
    with place.daemon() as first:
        ran = place.run("run")
        assert ran.returncode == 75
        assert ran.stderr == (
            f"another mongo-watchdog (pid {first.pid}) uses {place.folder}/state: stop it, or give this one another "
            "`state_dir`\n"
        )
        before = place.config.read_text()
        place.write("mongodb://127.0.0.1:1/", state_dir=place.folder / "other")
        ran = place.run("run")
        assert ran.returncode == 75
        assert f"another mongo-watchdog answers on {place.socket}" in ran.stderr
        place.config.write_text(before)
        assert first.running
        assert place.status() is not None


def test_a_daemon_that_was_killed_is_no_second_one(place: Place) -> None:
    with place.daemon() as first:
        first.end(signal.SIGKILL)
    assert place.socket.exists()
    with place.daemon():
        assert place.status() is not None


# -- it runs without what it watches


def test_without_mongod_and_uwsgi_it_runs_and_says_what_is_missing(place: Place) -> None:
    with place.daemon():
        document = wait_for(lambda: known(place), "the member is known", within=STARTS_WITHIN_S)
    (member,) = document["deployments"][0]["members"]
    assert member["state"] == "down"
    assert [one["state"] for one in document["instances"]] == ["absent"]
    assert "Traceback" not in (place.folder / "daemon.log").read_text()


def known(place: Place) -> dict[str, Any] | None:
    document = place.status()
    members = document["deployments"][0]["members"] if document else []
    return document if members and members[0]["state"] != "unknown" else None


# -- it ends


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_with_0_and_its_last_words(place: Place, tmp_path: Path, number: signal.Signals) -> None:
    with Mongod(tmp_path / "mongod") as mongod:
        place.write(mongod.uri)
        with place.daemon() as daemon:
            wait_for(lambda: known(place), "the member is known", within=STARTS_WITHIN_S)
            ends(daemon, number)
    assert place.log()[-1] == "stopping"
    assert not place.socket.exists()
    assert "Traceback" not in (place.folder / "daemon.log").read_text()


def test_it_ends_at_once_while_mongod_is_frozen(place: Place, tmp_path: Path) -> None:
    with Mongod(tmp_path / "mongod") as mongod:
        place.write(mongod.uri)
        with place.daemon() as daemon:
            wait_for(lambda: known(place), "the member is known", within=STARTS_WITHIN_S)
            mongod.freeze()
            wait_for(lambda: "member_down" in place.log(), "it is frozen", within=STARTS_WITHIN_S)
            ends(daemon)


@pytest.mark.netns
def test_it_answers_and_ends_at_once_while_names_hang_in_dns(place: Place) -> None:
    place.write(f"mongodb://{','.join(NAMES)}/")
    try:
        namespace = Namespace()
    except NamespaceError as error:
        pytest.skip(str(error))
    with namespace, contextlib.ExitStack() as at_end:
        with namespace.entered():
            dns = NameServers(at_end)
            daemon = at_end.enter_context(place.daemon())
        if not heard_of(dns, place, "unreachable"):
            pytest.skip("this host asks no name server by UDP for a name")
        # From here on each monitor hangs: an end that joins their threads takes 5 s (pymongo waits 1 s for each).
        dns.silent = True
        dns.asked.clear()
        wait_for(lambda: dns.serve() >= set(NAMES), "every name is asked for", within=STARTS_WITHIN_S)
        document = place.status()
        assert document is not None
        assert document["blind"]
        ends(daemon)
    assert place.log()[-1] == "stopping"


def heard_of(dns: "NameServers", place: Place, state: str) -> bool:
    """Whether all members get into that state while the name servers answer."""

    def all_are() -> bool:
        asked = dns.serve()
        document = place.status() if asked else None
        members = [member for one in (document or {"deployments": []})["deployments"] for member in one["members"]]
        return len(members) == len(NAMES) and {member["state"] for member in members} == {state}

    with contextlib.suppress(DeadlineError):
        return wait_for(all_are, f"all members are {state}", within=STARTS_WITHIN_S)
    return False


class NameServers:
    """This host's name servers, in the namespace that this thread is in. They know no name, and may fall silent."""

    def __init__(self, at_end: contextlib.ExitStack) -> None:
        self.silent = False
        self.asked: set[str] = set()
        lines = (line.split() for line in Path("/etc/resolv.conf").read_text().splitlines())
        servers = {line[1] for line in lines if line[:1] == ["nameserver"]} or {"127.0.0.1"}
        self._sockets = [at_end.enter_context(_bound(server)) for server in sorted(servers)]

    def serve(self) -> set[str]:
        """Takes the questions that are there, and returns all names that were ever asked for."""
        for one in self._sockets:
            with contextlib.suppress(BlockingIOError):
                while True:
                    question, client = one.recvfrom(4096)
                    self.asked |= {name for name in NAMES if _encoded(name) in question}
                    if not self.silent:  # NXDOMAIN (RFC 1035, 4.1.1)
                        one.sendto(question[:2] + b"\x81\x83" + question[4:], client)
        return self.asked


def _bound(server: str) -> socket.socket:
    family, bits = (socket.AF_INET6, 128) if ":" in server else (socket.AF_INET, 32)
    if not server.startswith("127."):
        subprocess.run(["ip", "address", "add", f"{server}/{bits}", "dev", "lo"], check=True, capture_output=True)
    one = socket.socket(family, socket.SOCK_DGRAM)
    one.bind((server, 53))
    one.settimeout(0)
    return one


def _encoded(name: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))


def ends(daemon: Process, by: signal.Signals = signal.SIGTERM) -> None:
    begun = time.monotonic()
    daemon.send(by)
    assert daemon.wait_ended(within=ENDS_WITHIN_S) == 0
    assert time.monotonic() - begun < ENDS_WITHIN_S
