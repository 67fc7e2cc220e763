"""`connections` and `check --live` as a user runs them, on a real mongod and uWSGI, held against what psutil shows."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
import yaml

from rig import fetch
from rig.hang import BESIDE, Hang
from rig.mongod import Mongod
from rig.ports import free_port
from rig.processes import Process, wait_for
from rig.uwsgi import HOLD, App, Uwsgi, age_s
from tests.stories.stage import fail_a_request_of
from tests.world.schemas import strict

CONNECTIONS = strict("connections")
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
WHO_SEES = "+sys_ptrace,+dac_read_search"
PROGRAM = (sys.executable, "-P", "-m", "watchdogd")
WITHIN_S = 30.0
WITHOUT_THREADS = "2.0.26"
NO_NETLINK = (sys.executable, str(Path(__file__).with_name("no_netlink.py")))


class Held(NamedTuple):
    """One holder of one connection, as both `connections` and psutil show it."""

    pid: int
    local: str
    remote: str
    state: str


@dataclass
class Site:
    """A folder with a configuration, and what is started in it."""

    folder: Path
    at_end: ExitStack = field(default_factory=ExitStack)

    def mongod(self) -> Mongod:
        return self.at_end.enter_context(Mongod(self.folder / "mongod"))

    def app(self, uri: str = "", name: str = "shop", **options: Any) -> Uwsgi:  # noqa: ANN401 - what Uwsgi takes
        quick: dict[str, Any] = {"heartbeat_ms": 1000, "selection_ms": 1000, "processes": 2}
        return self.at_end.enter_context(Uwsgi(self.folder / name, uri, **{**quick, **options}))

    def configure(self, uri: str, *apps: Uwsgi, **more: object) -> None:
        socket = str(self.folder / "control.sock")  # where nobody listens
        keys: dict[str, object] = {"mongodb": [{"uri": uri}], "control_socket": socket, **more}
        if apps:
            keys["uwsgi"] = [{"master_fifo": str(app.fifo)} for app in apps]
        (self.folder / "config.yaml").write_text(yaml.safe_dump(keys))

    def run(self, *verb: str, prefix: tuple[str, ...] = ()) -> "subprocess.CompletedProcess[str]":
        command = [*prefix, *PROGRAM, *verb, "--config", str(self.folder / "config.yaml")]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50, cwd="/")

    def check(self, *, prefix: tuple[str, ...] = ()) -> list[str]:
        """What `check --live` says that it saw itself, since no service runs, which is a problem."""
        ran = self.run("check", "--live", prefix=prefix)
        _, stopped, who, *seen = ran.stdout.splitlines()
        assert stopped.startswith("problem: service: nothing would be cured tonight: mongo-watchdog is not running ")
        assert who.startswith("looked at by this command, as user ")
        assert (ran.returncode, ran.stderr) == (1, "")
        return seen

    def connections(self, *, exits: int = 0, prefix: tuple[str, ...] = ()) -> dict[str, Any]:
        ran = self.run("connections", "--json", prefix=prefix)
        assert ran.returncode == exits, ran.stderr
        document: dict[str, Any] = json.loads(ran.stdout)
        CONNECTIONS.validate(document)
        return document


@pytest.fixture
def site() -> Iterator[Site]:
    """In a folder that every user may look at: pytest's own are for one user."""
    with tempfile.TemporaryDirectory(prefix="mw-live-") as folder:
        Path(folder).chmod(0o755)
        one = Site(Path(folder))
        with one.at_end:
            yield one


def shown(document: dict[str, Any]) -> set[Held]:
    return {Held(*(one[name] for name in Held._fields)) for one in document["connections"]}


def in_truth(app: Uwsgi, port: int) -> set[Held]:
    """What psutil shows of master and workers."""
    name = "net_connections" if hasattr(psutil.Process, "net_connections") else "connections"  # before psutil 6
    return {
        Held(pid, "{}:{}".format(*one.laddr), "{}:{}".format(*one.raddr), one.status)
        for pid in (app.master, *app.workers())
        for one in getattr(psutil.Process(pid), name)("tcp")
        if tuple(one.raddr)[1:] == (port,)
    }


def verdicts(document: dict[str, Any], role: str = "worker") -> set[str]:
    return {one["verdict"] for one in document["connections"] if one["role"] == role}


# -- connections


def test_every_connection_is_shown_with_every_holder_and_what_it_means(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(mongod.uri)
    site.configure(mongod.uri, app)
    held = in_truth(app, mongod.port)
    document = site.connections()
    assert shown(document) == held
    assert document["blind"] == []
    assert {one["instance"] for one in document["connections"]} == {"shop"}
    roles = {one["pid"]: one["role"] for one in document["connections"]}
    assert roles == {app.master: "master", **dict.fromkeys(app.workers(), "worker")}
    assert verdicts(document) == {"own", "shared with other processes"}  # its pool, and the master's monitor
    own = [one["pid"] for one in document["connections"] if one["verdict"] == "own"]
    assert sorted(own) == app.workers()


def test_as_text_it_is_a_table(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(mongod.uri, app=App.FIRST_REQUEST)
    site.configure(mongod.uri, app)
    ran = site.run("connections")
    table, _, fifos = ran.stdout.partition("\n\n")
    assert max(map(len, table.splitlines())) <= 80
    head, below, *rows = table.splitlines()
    assert fifos == f"shop is {app.fifo}\n"
    assert head.split() == ["INSTANCE", "ROLE", "PID", "LOCAL", "REMOTE", "STATE"]
    assert below.split() == ["LAST", "VERDICT"]
    held = in_truth(app, mongod.port)
    assert {Held(int(row.split()[2]), *row.split()[3:6]) for row in rows[::2]} == held
    assert all(row.startswith("shop ") and row.split()[1] == "worker" for row in rows[::2])
    assert all(re.fullmatch(r" {4}data .* s ago +own", row) for row in rows[1::2])
    assert (ran.returncode, ran.stderr) == (0, "")


def test_after_a_restart_of_mongod_leftovers_are_called_so(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(mongod.uri)
    site.configure(mongod.uri, app)
    mongod.stop()
    fail_a_request_of(app)
    document = site.connections()
    assert shown(document) == in_truth(app, mongod.port)
    assert {one["state"] for one in document["connections"] if one["role"] == "worker"} == {"CLOSE_WAIT"}
    assert verdicts(document) == {"leftover, for now: MongoDB does not serve"}
    mongod.start()
    wait_for(lambda: master_is_connected(app, mongod), "the master's monitor is back", within=WITHIN_S)
    document = site.connections()
    leftovers = {one for one in in_truth(app, mongod.port) if one.state == "CLOSE_WAIT"}
    assert leftovers
    assert {one for one in shown(document) if one.state == "CLOSE_WAIT"} == leftovers
    assert verdicts(document) == {"leftover: the worker is idle or stranded"}
    closed = [one for one in document["connections"] if one["state"] == "CLOSE_WAIT"]
    assert all(1 < one["closed_s"] <= one["last_data_s"] for one in closed)
    assert all(one["closed_s"] is None for one in document["connections"] if one["state"] == "ESTABLISHED")


def master_is_connected(app: Uwsgi, mongod: Mongod) -> bool:
    held = {one for one in in_truth(app, mongod.port) if one.pid == app.master}
    return {one.state for one in held} == {"ESTABLISHED"}


def test_what_a_load_balancer_ended_is_unexplained_unless_any_cause_counts(site: Site) -> None:
    mongod = site.mongod()
    with socket.create_server(("127.0.0.1", 0)) as balancer:
        port = balancer.getsockname()[1]
        held = [f"pyargv = 0 {port} 1"]
        app = site.app(app=App.NO_CLIENT, wsgi_file=HOLD, processes=1, lazy_apps=True, extra=held)
        connection, _ = balancer.accept()
        # A connection from the first second of mongod's life may be older than it (docs/design.md).
        wait_for(lambda: age_s(mongod.pid) > 2, "mongod is older than that", within=WITHIN_S)
        with connection:
            connection.sendall(b"x")
    deployment = {"uri": mongod.uri, "endpoints": [f"127.0.0.1:{port}"]}
    said = set()
    for cause in ("outage", "any"):
        site.configure(mongod.uri, app, mongodb=[deployment], policy={"cause": cause})
        said.add((cause, *verdicts(site.connections())))
    if can(NO_NETLINK):  # and nothing has an age
        site.configure(mongod.uri, app, mongodb=[deployment])
        document = site.connections(prefix=NO_NETLINK)
        assert verdicts(document) == {"unexplained: its age is not known, so whether an outage ended it cannot be told"}
        assert {(one["closed_s"], one["last_data_s"]) for one in document["connections"]} == {(None, None)}
    assert said == {
        ("outage", "unexplained: no outage ended it"),
        ("any", "leftover: the worker is idle or stranded"),
    }


def can(prefix: tuple[str, ...]) -> bool:
    return subprocess.run([*prefix, "true"], check=False, capture_output=True).returncode == 0


def test_what_no_uwsgi_process_holds_is_shown_with_who_does_and_our_own_heartbeats_are_not(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(app=App.NO_CLIENT)
    site.configure(mongod.uri, app)
    with socket.create_connection(mongod.address) as client:
        document = site.connections()
        (one,) = document["connections"]
        assert one["local"] == "{}:{}".format(*client.getsockname())
        me = psutil.Process()
        assert (one["instance"], one["role"], one["pid"]) == ("-", "-", me.pid)
        assert (one["process"], one["user"]) == (me.name(), me.username())
        assert one["verdict"] == f"held by {me.name()} of {me.username()}, which is no uWSGI"
    ran = site.run("connections")
    assert (ran.stdout, ran.returncode) == ("no connections to the configured MongoDB members\n", 0)


def test_a_uwsgi_that_nothing_watches_is_named_as_the_holder_with_the_reason(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(app=App.NO_CLIENT)
    held_alone = [f"pyargv = 0 {mongod.port} 1"]
    other = site.app(app=App.NO_CLIENT, name="other", wsgi_file=HOLD, processes=1, lazy_apps=True, extra=held_alone)
    site.configure(mongod.uri, app)
    held = ("--wsgi-file", str(HOLD), "--pyargv", f"0 {mongod.port} 1")
    command = [*fetch.uwsgi(), "--master", "--http-socket", f"127.0.0.1:{free_port()}", *held]
    with Process(command, log=site.folder / "bare.log") as bare:
        master = bare.pid

        def both() -> dict[int, str] | None:
            found = {one["pid"]: one["verdict"] for one in site.connections()["connections"]}
            return found if len(found) == 3 else None

        found = wait_for(both, "the connection of master and worker", within=WITHIN_S)
    (worker,) = other.workers()
    named = f"held by uWSGI (master {other.master}), which the configuration does not name: its FIFO is {other.fifo}"
    assert found.pop(worker) == named
    without = f"held by uWSGI (master {master}), which has no master FIFO, so nobody can reload just its workers"
    assert set(found.values()) == {without}
    assert master in found


def test_a_name_that_does_not_resolve_is_blindness_and_not_the_absence_of_connections(site: Site) -> None:
    site.configure("mongodb://no-such-host.invalid/")
    document = site.connections(exits=1)
    assert document["connections"] == []
    assert any("DNS: " in why for why in document["blind"])
    ran = site.run("connections")
    assert (ran.stdout, ran.returncode) == ("", 1)
    assert ran.stderr.startswith("blind: ")


def skip_unless_nobody_can_run_it(*options: str) -> None:
    can = subprocess.run([*AS_NOBODY, *options, *PROGRAM, "--version"], capture_output=True, check=False, cwd="/")
    if can.returncode != 0:
        pytest.skip(f"nobody may not run {sys.executable}: {can.stderr.decode()}")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run it as another user than uWSGI")
def test_who_may_not_read_descriptors_is_blind_and_does_not_say_that_nobody_holds_a_connection(site: Site) -> None:
    skip_unless_nobody_can_run_it()
    mongod = site.mongod()
    app = site.app(mongod.uri, app=App.FIRST_REQUEST)
    site.configure(mongod.uri, app)
    document = site.connections(exits=1, prefix=AS_NOBODY)
    assert any("CAP_" in why for why in document["blind"])
    assert {one["verdict"] for one in document["connections"]} == {
        "held by nobody who can be seen: run this as root, or see what is blind"
    }
    assert {one["local"] for one in document["connections"]} == {one.local for one in in_truth(app, mongod.port)}
    seen = site.check(prefix=AS_NOBODY)
    (line,) = [line for line in seen if ": shop: " in line]
    assert line.startswith("problem: shop: process ")
    assert "absent" not in line
    assert not any(line.startswith("not covered") for line in seen)


# -- check --live


def test_check_says_that_all_is_well_and_changes_nothing(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(mongod.uri)
    site.configure(mongod.uri, app)
    before = app.workers(), sorted(site.folder.rglob("*"))
    assert site.check()[:2] == [
        f"ok: main: 127.0.0.1:{mongod.port}: up, serving",
        f"ok: shop: master {app.master}, 2 workers",
    ]
    assert (app.workers(), sorted(site.folder.rglob("*"))) == before


def test_check_names_every_problem(site: Site) -> None:
    port = free_port()
    app, removed = site.app(app=App.NO_CLIENT, name="shop"), site.app(app=App.NO_CLIENT, name="blog")
    site.configure(f"mongodb://127.0.0.1:{port}/", app, removed)
    removed.fifo.unlink()
    app.kill()
    member, shop, blog = site.check()[:3]
    assert member.startswith(f"problem: main: 127.0.0.1:{port}: down: ")
    assert shop.startswith(f"problem: shop: absent: no process has {app.fifo} open; is uWSGI running")
    assert blog.startswith(f"problem: blog: deleted: {removed.fifo} is gone")


def test_check_tells_a_worker_that_hangs_since_its_fork_and_that_its_end_is_safe(site: Site) -> None:
    mongod = site.mongod()
    with Hang(site.folder / "shop") as hang:
        app = site.app(mongod.uri, extra=BESIDE)
        site.configure(mongod.uri, app)
        hung = hang.worker_of(app)
        assert site.check()[1] == (
            f"problem: shop: worker {hung} hangs since its fork: it waits for Python's GIL, which nobody can release; "
            f"`kill -9 {hung}` is safe, and the service does the same where it may act"
        )
        os.kill(hung, signal.SIGKILL)
        app.wait_ready(other_than=[hung])
        assert site.check()[1] == f"ok: shop: master {app.master}, 2 workers"


def test_check_tells_a_master_whose_python_threads_never_run_and_the_line_that_helps(site: Site) -> None:
    mongod = site.mongod()
    off, on = [
        site.app(mongod.uri, name=name, version=WITHOUT_THREADS, extra=extra)
        for name, extra in (("off", ()), ("on", ["enable-threads = true"]))
    ]
    site.configure(mongod.uri, off, on)
    problem, ok = site.check()[1:3]
    assert problem == (
        f"problem: off: master {off.master} runs without Python threads, so after an outage of MongoDB only a restart "
        "of uWSGI helps; add `enable-threads = true` to its configuration"
    )
    assert ok == f"ok: on: master {on.master}, 2 workers"

    old = off.workers()
    os.kill(old[0], signal.SIGKILL)  # whoever is forked now hangs
    (hung,) = wait_for(lambda: set(off.workers()) - set(old), "the one in its place", within=WITHIN_S)
    (problem,) = [line for line in site.check() if line.startswith("problem: off: ")]
    assert f"worker {hung} hangs since its fork" in problem
    assert "so each new one would hang too: add that line" in problem
    assert "kill" not in problem


def test_check_asks_whether_a_fifo_of_almost_that_path_is_meant(site: Site) -> None:
    app = site.app(app=App.NO_CLIENT, name="shop")
    wrong = str(app.fifo)[:-1]
    site.configure("mongodb://127.0.0.1:1/", uwsgi=[{"master_fifo": wrong}])
    (line,) = [line for line in site.check() if ": absent: " in line]
    said = f"no process has {wrong} open; perhaps {app.fifo} is meant, which uWSGI master {app.master} reads"
    assert line.partition(": absent: ")[2] == said


def test_check_tells_two_masters_on_one_path_by_who_has_it(site: Site) -> None:
    mongod = site.mongod()
    shop = site.app(app=App.NO_CLIENT, name="shop")
    other = site.app(app=App.NO_CLIENT, name="other", extra=[f"master-fifo = {shop.fifo}"])
    site.configure(mongod.uri, shop)
    other.send(b"1")  # it goes to the second one of its FIFOs
    reads = f"{shop.fifo} that is gone, since master {other.master} has made its own there"

    def told() -> str:
        ran = site.run("check", "--live")
        return ran.stdout if reads in ran.stdout else ""

    said = wait_for(told, "the one that no command reaches", within=WITHIN_S)
    assert said.count(f"not covered: uWSGI master {shop.master} reads a FIFO {reads}") == 1
    assert f"ok: shop: master {other.master}, " in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to run it as another user than uWSGI")
def test_check_says_that_a_fifo_may_not_be_written_where_everything_may_be_seen(site: Site) -> None:
    rights = (f"--inh-caps={WHO_SEES}", f"--ambient-caps={WHO_SEES}")
    skip_unless_nobody_can_run_it(*rights)
    mongod = site.mongod()
    app = site.app(mongod.uri)
    site.configure(mongod.uri, app)
    shop, problem = site.check(prefix=(*AS_NOBODY, *rights))[1:3]
    assert shop == f"ok: shop: master {app.master}, 2 workers"
    assert problem.startswith("problem: rights: nothing may be written to the FIFO of shop (of root): ")
    assert "mongo-watchdog-fifo.socket" in problem


def test_check_finds_instances_and_lists_what_is_not_covered(site: Site) -> None:
    mongod = site.mongod()
    name = f"found-{os.getpid()}"  # others may run beside it
    site.app(app=App.NO_CLIENT, name=name)
    site.configure(mongod.uri)
    options = ("--master", "--http-socket", f"127.0.0.1:{free_port()}")
    with Process([*fetch.uwsgi(), *options], log=site.folder / "bare.log") as bare:
        wait_for(lambda: psutil.Process(bare.pid).children(), "its worker", within=WITHIN_S)
        ran = wait_for(lambda: lists(site, bare.pid), "it is listed", within=WITHIN_S)
        why = "root runs it" if os.geteuid() == 0 else "it was not seen with a connection to MongoDB yet"
        assert f"problem: {name}: {why}" in ran  # nobody has named it
        (line,) = [line for line in ran.splitlines() if f"uWSGI master {bare.pid} " in line]
        assert line.startswith("not covered: ")
        assert "add `master-fifo = " in line


def test_the_name_of_a_folder_drives_no_terminal(site: Site) -> None:
    mongod = site.mongod()
    app = site.app(mongod.uri, name="red\x1b[31m")
    site.configure(mongod.uri)
    assert app.get().good
    for verb in (["check", "--live"], ["connections"]):
        ran = site.run(*verb)
        assert r"red\x1b[31m" in ran.stdout
        assert "\x1b" not in ran.stdout + ran.stderr


def lists(site: Site, pid: int) -> str | None:
    """What `check --live` says, once it names this process: uWSGI sets its handlers some time after its start."""
    said = site.run("check", "--live").stdout
    return said if f" {pid} " in said else None


def test_an_address_of_mongod_that_only_the_app_names_is_found_and_shown(site: Site) -> None:
    mongod = site.at_end.enter_context(Mongod(site.folder / "mongod", also=["127.0.0.2"]))
    app = site.app(f"mongodb://127.0.0.2:{mongod.port}/")
    site.configure(mongod.uri, app)
    told = f"127.0.0.1:{mongod.port} is also at 127.0.0.2:{mongod.port} (the same process answers there)"
    document = site.connections()
    assert shown(document) == in_truth(app, mongod.port)
    assert document["learned"] == [told]
    assert site.run("connections").stdout.splitlines()[-1] == told
    assert f"note: {told}" in site.check()
