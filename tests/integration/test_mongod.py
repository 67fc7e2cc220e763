import json
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

import psutil
import pymongo
import pytest

from rig import fetch
from rig.mongod import Mongod, ReplicaSet
from rig.ports import free_port
from rig.processes import Process, wait_for
from tests.world.heartbeats import FakeHeartbeats
from watchdogd.config import DeploymentConfig
from watchdogd.model.base import Endpoint, Interval, MemberId
from watchdogd.model.seen import MemberState
from watchdogd.observe.mongod.heartbeats import Heartbeat, Heartbeats, PymongoHeartbeats
from watchdogd.observe.mongod.resolve import Pool, seeds_of

UP, DOWN, FROZEN, UNREACHABLE = MemberState.UP, MemberState.DOWN, MemberState.FROZEN, MemberState.UNREACHABLE
WITHIN_S = 20.0  # measured: 0.02 s for DOWN, 0.5 s for UP, 2.5 s for FROZEN; the rest is for a loaded machine


class Wakes:
    """Counts the wakes, from any thread."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def member_at(port: int, host: str = "127.0.0.1") -> MemberId:
    return MemberId("main", str(Endpoint(host, port)))


def until(heartbeats: Heartbeats, wanted: Callable[[Heartbeat], bool], what: str) -> list[Heartbeat]:
    """All that is heard up to the first one that is wanted, which is the last of the list."""
    heard: list[Heartbeat] = []

    def found() -> bool:
        for heartbeat in heartbeats.drain():
            if not (heard and wanted(heard[-1])):
                heard.append(heartbeat)
        return bool(heard) and wanted(heard[-1])

    wait_for(found, f"a heartbeat that is {what}", within=WITHIN_S)
    return heard


def first(heartbeats: Heartbeats, state: MemberState) -> Heartbeat:
    return until(heartbeats, lambda one: one.state is state, state.name)[-1]


def no_monitor_is_left() -> bool:
    return not any(thread.name.startswith("pymongo") for thread in threading.enumerate())


# ---- the same of the fake and of the real one


class Scene(Protocol):
    """One member that can be watched, and what is done to it. `started`: when it was started last."""

    member: MemberId
    wakes: Wakes
    started: Interval

    @property
    def heartbeats(self) -> Heartbeats: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...
    def beat(self) -> None: ...
    def fall_silent(self) -> None: ...


class RealScene:
    def __init__(self, folder: Path) -> None:
        self.wakes = Wakes()
        self.heartbeats = PymongoHeartbeats(self.wakes, Pool().submit)
        self.mongod = Mongod(folder)
        self.member = member_at(self.mongod.port)
        self.stop, self.kill = self.mongod.stop, self.mongod.kill
        self.freeze, self.thaw = self.mongod.freeze, self.mongod.thaw
        self.started = Interval(0, 0)

    def start(self) -> None:
        before = time.monotonic()
        self.mongod.start()
        self.started = Interval(before, time.monotonic())

    def beat(self) -> None:
        """It beats by itself."""

    def fall_silent(self) -> None:
        wait_for(no_monitor_is_left, "the end of pymongo's monitors", within=WITHIN_S)


class FakeScene:
    member = MemberId("main", "a.example:27017")

    def __init__(self) -> None:
        self.wakes = Wakes()
        self.heartbeats = FakeHeartbeats(self.wakes)
        self.started = Interval(0, 0)
        self._up: Heartbeat | None = None

    def start(self) -> None:
        at = time.monotonic()
        self.started = Interval(at, at)
        self._up = Heartbeat(self.member, at, UP, f"{time.monotonic_ns():024x}", self.started, is_serving=True)
        self.heartbeats.say(self._up)

    def stop(self) -> None:
        self.heartbeats.say(Heartbeat(self.member, time.monotonic(), DOWN, detail="refused"))

    kill = stop

    def freeze(self) -> None:
        self.heartbeats.say(Heartbeat(self.member, time.monotonic(), FROZEN, detail="no answer"))

    def thaw(self) -> None:
        assert self._up is not None
        self.heartbeats.say(self._up)

    def beat(self) -> None:
        self.heartbeats.beat(time.monotonic())

    def fall_silent(self) -> None:
        self.heartbeats.beat(time.monotonic())


@pytest.fixture(params=["fake", "real"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Scene]:
    """A member that runs and is not watched yet."""
    if request.param == "fake":
        fake = FakeScene()
        fake.start()
        yield fake
        return
    real = RealScene(tmp_path)
    try:
        real.start()
        yield real
    finally:
        real.heartbeats.close()
        real.mongod.kill()
        real.fall_silent()


def watched(scene: Scene) -> Heartbeat:
    """The first heartbeat that finds it up."""
    scene.heartbeats.watch({scene.member: {}})
    return first(scene.heartbeats, UP)


def test_a_member_that_answers_is_up_with_the_name_and_the_birth_of_its_process(scene: Scene) -> None:
    before = time.monotonic()
    up = watched(scene)
    assert up.member == scene.member
    assert up.at <= time.monotonic()
    assert up.at >= before or isinstance(scene, FakeScene)
    assert up.is_serving
    assert up.process_id is not None
    assert len(up.process_id) == 24
    assert up.born is not None
    assert up.born.overlaps(scene.started)
    assert up.born.hi - up.born.lo < WITHIN_S
    assert up.born.hi <= up.at
    assert (up.peers, up.detail) == (frozenset(), "")


def test_a_restart_is_another_process_born_after_the_old_one(scene: Scene) -> None:
    old = watched(scene)
    scene.stop()
    scene.start()
    new = until(scene.heartbeats, lambda one: one.process_id not in (None, old.process_id), "of another process")[-1]
    assert new.state is UP
    assert new.born is not None
    assert old.born is not None
    assert new.born.overlaps(scene.started)
    assert new.born.hi > old.born.hi  # not `lo`: a birth is known to the second, and both may be in the same one
    assert new.at > old.at


def test_a_member_that_is_killed_is_down_and_says_nothing_of_a_process(scene: Scene) -> None:
    watched(scene)
    scene.kill()
    down = first(scene.heartbeats, DOWN)
    assert (down.process_id, down.born, down.is_serving) == (None, None, False)
    assert down.detail


def test_a_member_that_is_stopped_is_down(scene: Scene) -> None:
    watched(scene)
    scene.stop()
    assert first(scene.heartbeats, DOWN).detail


def test_a_frozen_member_comes_back_as_the_same_process(scene: Scene) -> None:
    before = watched(scene)
    scene.freeze()
    frozen = first(scene.heartbeats, FROZEN)
    assert frozen.detail.startswith("no answer")
    scene.thaw()
    after = first(scene.heartbeats, UP)
    assert (after.process_id, after.born) == (before.process_id, before.born)


def test_what_is_new_wakes_and_what_is_repeated_does_not(scene: Scene) -> None:
    heard = [watched(scene)]
    while len(heard) < 4:
        scene.beat()
        heard += until(scene.heartbeats, lambda one: one.state is UP, "up")
    news = sum(not one.says_the_same(before) for before, one in zip([None, *heard], heard, strict=False))
    assert scene.wakes.count == news < len(heard)
    scene.kill()
    wait_for(lambda: scene.wakes.count > news, "a wake", within=WITHIN_S)


def test_a_member_that_is_no_longer_watched_is_not_heard(scene: Scene) -> None:
    watched(scene)
    scene.beat()
    scene.heartbeats.watch({})
    assert scene.heartbeats.drain() == []
    scene.fall_silent()
    assert scene.heartbeats.drain() == []


def test_a_member_that_is_watched_again_is_heard_again(scene: Scene) -> None:
    before = watched(scene)
    scene.heartbeats.watch({})
    after = watched(scene)
    assert after.process_id == before.process_id


def test_after_the_close_nothing_is_heard(scene: Scene) -> None:
    watched(scene)
    scene.heartbeats.close()
    scene.fall_silent()
    assert scene.heartbeats.drain() == []


# ---- the real one alone


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


@pytest.fixture
def heartbeats(wakes: Wakes) -> Iterator[PymongoHeartbeats]:
    edge = PymongoHeartbeats(wakes, Pool().submit)
    yield edge
    edge.close()
    wait_for(no_monitor_is_left, "the end of pymongo's monitors", within=WITHIN_S)


def test_the_birth_is_that_of_the_process(tmp_path: Path, heartbeats: PymongoHeartbeats) -> None:
    with Mongod(tmp_path) as server:
        answered = time.monotonic()
        heartbeats.watch({member_at(server.port): {}})
        born = first(heartbeats, UP).born
        age = time.time() - psutil.Process(server.pid).create_time()
        executed = time.monotonic() - age
    assert born is not None
    # mongod makes its process id while it starts; psutil rounds to 10 ms.
    assert born.overlaps(Interval(executed - 0.1, answered))
    assert born.hi - born.lo < 1.0 + WITHIN_S


def test_a_port_where_nobody_listens_is_down(heartbeats: PymongoHeartbeats) -> None:
    heartbeats.watch({member_at(free_port()): {}})
    assert "Connection refused" in first(heartbeats, DOWN).detail


def test_a_name_without_an_address_is_no_outage(heartbeats: PymongoHeartbeats) -> None:
    heartbeats.watch({member_at(27017, "does-not-exist.invalid"): {}})
    assert first(heartbeats, UNREACHABLE).detail.startswith("DNS: ")


def test_a_port_that_accepts_and_never_answers_is_frozen(heartbeats: PymongoHeartbeats) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        heartbeats.watch({member_at(silent.getsockname()[1]): {}})
        assert first(heartbeats, FROZEN).detail.startswith("no answer within 2 s")


class Web(socketserver.BaseRequestHandler):
    """Answers as nginx does, which reads no further than the first byte that cannot be a method."""

    def handle(self) -> None:
        self.request.recv(65536)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


class Banner(socketserver.BaseRequestHandler):
    """Speaks first, as a mail server does."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail.example.test ESMTP\r\n")
        self.request.recv(65536)


@pytest.mark.parametrize("protocol", [Web, Banner])
def test_a_port_that_speaks_another_protocol_is_no_outage(
    protocol: type[socketserver.BaseRequestHandler], heartbeats: PymongoHeartbeats
) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), protocol) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            heartbeats.watch({member_at(server.server_address[1]): {}})
            detail = first(heartbeats, UNREACHABLE).detail
        finally:
            server.shutdown()
            thread.join(WITHIN_S)
    assert detail.startswith("this port does not speak the MongoDB protocol")


def test_authentication_is_not_needed(tmp_path: Path, heartbeats: PymongoHeartbeats) -> None:
    with Mongod(tmp_path, extra=["--auth"]) as server:
        heartbeats.watch({member_at(server.port): {}})
        assert first(heartbeats, UP).is_serving


def test_mongod_4_2_has_no_process_id(tmp_path: Path, heartbeats: PymongoHeartbeats) -> None:
    with Mongod(tmp_path, version="4.2.6") as server:
        heartbeats.watch({member_at(server.port): {}})
        up = first(heartbeats, UP)
        assert (up.process_id, up.born, up.is_serving) == (None, None, True)
        server.kill()
        first(heartbeats, DOWN)


class Ipv6Mongod(Mongod):
    @property
    def host(self) -> str:
        return "::1"


def test_an_ipv6_address_is_watched(tmp_path: Path, heartbeats: PymongoHeartbeats) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    with Ipv6Mongod(tmp_path, extra=["--ipv6"]) as server:
        heartbeats.watch({member_at(server.port, "::1"): {}})
        assert first(heartbeats, UP).member.address == f"[::1]:{server.port}"


def test_of_a_replica_set_the_primary_serves_and_every_member_names_all(
    tmp_path: Path, heartbeats: PymongoHeartbeats
) -> None:
    with ReplicaSet(tmp_path) as replica_set:
        everybody = {member_at(one.port): one for one in replica_set.members}
        heartbeats.watch({member: {} for member in everybody})
        old = member_at(replica_set.wait_primary().port)
        seen: dict[MemberId, Heartbeat] = {}

        def only_serving(member: MemberId) -> bool:
            seen.update({one.member: one for one in heartbeats.drain()})
            return seen.keys() == everybody.keys() and [key for key, one in seen.items() if one.is_serving] == [member]

        wait_for(lambda: only_serving(old), "the primary alone serves", within=WITHIN_S)
        for heartbeat in seen.values():
            assert heartbeat.state is UP
            assert heartbeat.peers == {member.address for member in everybody}
        assert len({heartbeat.process_id for heartbeat in seen.values()}) == len(everybody)

        processes = {key: one.process_id for key, one in seen.items()}
        new = member_at(replica_set.step_down().port)
        wait_for(lambda: only_serving(new), "the new primary alone serves", within=WITHIN_S)
        assert {key: one.process_id for key, one in seen.items()} == processes


# ---- TLS


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with server.pem for 127.0.0.1 (key and certificate, signed by itself) and another.pem."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    folder = tmp_path_factory.mktemp("tls")
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    make += ["-days", "2", "-subj", "/CN=rig", "-addext", "subjectAltName=IP:127.0.0.1"]
    for name in ("server", "another"):
        key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
        subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True, timeout=50)
        (folder / f"{name}.pem").write_text(key.read_text() + certificate.read_text())
    return folder


class TlsMongod(Mongod):
    """The rig asks in plain text, so that it listens is all that it can see of this one."""

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(self.address) == 0


class TlsServer(NamedTuple):
    member: MemberId
    folder: Path  # of the certificates


@pytest.fixture(scope="module")
def tls(certificates: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    """A mongod that takes TLS only, and asks for no client certificates."""
    extra = ["--tlsMode", "requireTLS", "--tlsAllowConnectionsWithoutCertificates"]
    extra += ["--tlsCertificateKeyFile", str(certificates / "server.pem")]
    extra += ["--tlsCAFile", str(certificates / "server.pem")]
    with TlsMongod(tmp_path_factory.mktemp("tls-mongod"), extra=extra) as server:
        yield TlsServer(member_at(server.port), certificates)


@pytest.mark.parametrize(
    ("options", "state", "words"),
    [
        ({"tls": "true", "tlsCAFile": "server.pem"}, UP, ""),
        ({"tls": "true", "tlsInsecure": "true"}, UP, ""),
        ({}, DOWN, "connection closed before its first answer; does it require TLS"),
        ({"tls": "true", "tlsCAFile": "another.pem"}, UNREACHABLE, "TLS: [SSL: CERTIFICATE_VERIFY_FAILED]"),
        (
            {"tls": "true", "tlsCAFile": "is-not-there.pem"},
            UNREACHABLE,
            "no connection can be made like this: ",
        ),
        ({"tls": "perhaps"}, UNREACHABLE, "no connection can be made like this: "),
    ],
    ids=str,
)
def test_of_a_mongod_with_tls_the_options_decide_what_is_heard(
    options: Mapping[str, str], state: MemberState, words: str, tls: TlsServer, heartbeats: PymongoHeartbeats
) -> None:
    there = {key: str(tls.folder / value) if key == "tlsCAFile" else value for key, value in options.items()}
    heartbeats.watch({tls.member: there})
    assert first(heartbeats, state).detail.startswith(words)


@pytest.mark.parametrize(
    ("options", "state"),
    [
        ("ssl=true&ssl_ca_certs={}/server.pem", UP),
        ("ssl_ca_certs={}/server.pem&ssl_certfile={}/server.pem&ssl_match_hostname=true", UP),
        ("ssl=true&ssl_cert_reqs=CERT_NONE", UP),
        ("ssl_ca_certs={}/another.pem&ssl_cert_reqs=CERT_REQUIRED", UNREACHABLE),
        ("ssl_cert_reqs=CERT_NONE", DOWN),  # without ssl=true no driver speaks TLS for that alone
    ],
    ids=str,
)
def test_options_of_older_drivers_are_understood(
    options: str, state: MemberState, tls: TlsServer, heartbeats: PymongoHeartbeats
) -> None:
    uri = f"mongodb://{tls.member.address}/?{options.format(tls.folder, tls.folder)}"
    found = seeds_of(DeploymentConfig("main", uri))
    assert found.error == ""
    heartbeats.watch({tls.member: found.options})
    first(heartbeats, state)


def test_tls_to_a_mongod_without_is_no_outage(tmp_path: Path, heartbeats: PymongoHeartbeats) -> None:
    with Mongod(tmp_path) as server:
        heartbeats.watch({member_at(server.port): {"tls": "true"}})
        assert first(heartbeats, UNREACHABLE).detail.startswith("TLS: ")


def test_other_options_are_taken_up(tls: TlsServer, heartbeats: PymongoHeartbeats) -> None:
    heartbeats.watch({tls.member: {}})
    first(heartbeats, DOWN)
    heartbeats.watch({tls.member: {"tls": "true", "tlsCAFile": str(tls.folder / "server.pem")}})
    first(heartbeats, UP)


def test_a_client_that_could_not_be_made_is_tried_again(
    tls: TlsServer, tmp_path: Path, heartbeats: PymongoHeartbeats, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("watchdogd.observe.mongod.heartbeats.RETRY_S", 0.05)
    late = tmp_path / "ca.pem"
    heartbeats.watch({tls.member: {"tls": "true", "tlsCAFile": str(late)}})
    assert str(late) in first(heartbeats, UNREACHABLE).detail
    shutil.copy(tls.folder / "server.pem", late)
    first(heartbeats, UP)


# ---- the other pymongo: the oldest that is supported where this is a new one, and the newest where it is not

NEWEST = "4.20.0"

SAY_WHAT_IS_HEARD = """
import json, sys, threading
import pymongo
from watchdogd.model.base import MemberId
from watchdogd.observe.mongod.heartbeats import PymongoHeartbeats
from watchdogd.observe.mongod.resolve import Pool, seeds_of

print(json.dumps({"pymongo": pymongo.version}), flush=True)
news = threading.Event()
heartbeats = PymongoHeartbeats(news.set, Pool().submit)
heartbeats.watch({MemberId("main", sys.argv[1]): {}})
before = None
while news.wait():
    news.clear()
    for one in heartbeats.drain():
        if not one.says_the_same(before):
            said = {"state": one.state.name, "id": one.process_id, "born": one.born, "is_serving": one.is_serving}
            print(json.dumps({**said, "detail": one.detail}), flush=True)
        before = one
"""


@pytest.mark.timeout(120)
def test_the_other_pymongo_hears_the_same(tmp_path: Path) -> None:
    is_old = pymongo.version.startswith("3.")
    other, folder = (NEWEST, fetch.pymongo(NEWEST)) if is_old else (fetch.OLDEST_PYMONGO, fetch.oldest_pymongo())
    log = tmp_path / "heard.log"

    def last() -> dict[str, object]:
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        whole = [json.loads(line) for line in lines if line.endswith("}\n")]
        return whole[-1] if whole else {}

    def heard(**what: object) -> dict[str, object]:
        wait_for(lambda: what.items() <= last().items(), str(what), within=WITHIN_S, log=log)
        return last()

    with Mongod(tmp_path) as server:
        argv = [sys.executable, "-c", SAY_WHAT_IS_HEARD, f"{server.host}:{server.port}"]
        with Process(argv, log=log, env={"PYTHONPATH": str(folder)}, cwd=Path(__file__).parents[2]):
            up = heard(state="UP", id=server.process_id(), is_serving=True)
            assert json.loads(log.read_text().splitlines()[0]) == {"pymongo": other}
            # Births have a grain of 1 s: two in one second look the same.
            born = Interval(*up["born"])  # type: ignore[misc]
            wait_for(lambda: time.monotonic() > born.lo + 1, "the second of its birth is over", within=WITHIN_S)
            server.stop()
            heard(state="DOWN", id=None)
            server.start()
            again = heard(state="UP", id=server.process_id())
            assert Interval(*again["born"]).lo > born.lo  # type: ignore[misc]
            server.freeze()
            heard(state="FROZEN")
            server.thaw()
            heard(state="UP", id=again["id"], born=again["born"])
            server.kill()
            heard(state="DOWN")
