import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from rig.processes import wait_for
from tests.world.resolver import FakeResolver
from watchdogd.config import DeploymentConfig
from watchdogd.model.base import Endpoint
from watchdogd.observe.mongod import resolve
from watchdogd.observe.mongod.resolve import Addresses, Pool, PoolResolver, Resolver, Seeds, normalise, seeds_of

PORT = 27017
NOBODY = "does-not-exist.invalid"  # RFC 6761: never has an address


class Wakes:
    """Counts the wakes, from any thread."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def wakes() -> Wakes:
    return Wakes()


@pytest.fixture(params=["fake", "real"])
def resolver(request: pytest.FixtureRequest, wakes: Wakes) -> Resolver:
    if request.param == "real":
        return PoolResolver(Pool(), wakes)
    return FakeResolver(wakes, hosts={"localhost": {"127.0.0.1", "::1"}})


def answer(resolver: Resolver) -> Seeds | Addresses:
    """The next answer, which must come alone."""
    (answer,) = wait_for(resolver.drain, "an answer of the resolver", within=20)
    return answer


def addresses(resolver: Resolver, host: str) -> Addresses:
    resolver.addresses(host, PORT)
    found = answer(resolver)
    assert isinstance(found, Addresses)
    assert (found.host, found.port) == (host, PORT)
    return found


def seeds(resolver: Resolver, uri: str) -> Seeds:
    question = DeploymentConfig("main", uri)
    resolver.seeds(question)
    found = answer(resolver)
    assert isinstance(found, Seeds)
    assert found.deployment == question
    return found


# ---- the same of the fake and of the real one


def test_a_name_has_its_addresses(resolver: Resolver) -> None:
    assert Endpoint("127.0.0.1", PORT) in addresses(resolver, "localhost").endpoints


@pytest.mark.parametrize("text", ["127.0.0.1", "::ffff:127.0.0.1"])
def test_an_address_needs_no_dns_and_is_answered_at_once(resolver: Resolver, text: str) -> None:
    resolver.addresses(text, PORT)
    assert resolver.drain() == [Addresses(text, PORT, frozenset({Endpoint("127.0.0.1", PORT)}))]


def test_a_name_without_an_address_is_an_error_that_names_it(resolver: Resolver) -> None:
    found = addresses(resolver, NOBODY)
    assert not found.endpoints
    assert found.error.startswith(f"DNS: {NOBODY}: ")


def test_a_uri_names_its_members_and_the_options_of_a_connection(resolver: Resolver) -> None:
    uri = "mongodb://u:p%40w@A.example,b:27018,[::1]:27019/db?replicaSet=rs&tls=true&tlsCAFile=%2Fca.pem&w=2"
    found = seeds(resolver, uri)
    assert found.members == (("a.example", 27017), ("b", 27018), ("::1", 27019))
    assert found.options == {"tls": "true", "tlsCAFile": "/ca.pem"}
    assert found.error == ""


def test_a_uri_that_cannot_be_read_is_an_error(resolver: Resolver) -> None:
    found = seeds(resolver, "mongodb://host:port/")
    assert found.members == ()
    assert "main" in found.error


def test_each_answer_wakes_and_is_given_once(resolver: Resolver, wakes: Wakes) -> None:
    resolver.addresses("127.0.0.1", PORT)
    resolver.addresses("127.0.0.2", PORT)
    assert len(resolver.drain()) == wakes.count == 2
    assert resolver.drain() == []


# ---- the pool and DNS that does not answer


@pytest.fixture
def dead_dns(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A getaddrinfo that does not return before the end of the test, for every name but localhost."""
    asked: list[str] = []
    over = threading.Event()
    real = socket.getaddrinfo

    def stuck(host: str, *rest: int, **named: int) -> object:
        asked.append(host)
        if host != "localhost":
            over.wait(30)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", stuck)
    yield asked
    over.set()


def test_a_name_that_hangs_is_asked_once_and_does_not_hold_up_the_others(dead_dns: list[str]) -> None:
    resolver = PoolResolver(Pool(size=2), Wakes())
    for _ in range(5):
        resolver.addresses("hangs.example", PORT)
    found = addresses(resolver, "localhost")
    assert Endpoint("127.0.0.1", PORT) in found.endpoints
    assert dead_dns == ["hangs.example", "localhost"]


@pytest.mark.usefixtures("dead_dns")
def test_asking_never_blocks() -> None:
    resolver = PoolResolver(Pool(size=2), Wakes())
    before = time.monotonic()
    for number in range(50):
        resolver.addresses(f"hangs{number}.example", PORT)
    assert resolver.drain() == []
    assert time.monotonic() - before < 5  # each name hangs for 30 s


def test_a_name_can_be_asked_again_after_its_answer() -> None:
    resolver = PoolResolver(Pool(), Wakes())
    assert addresses(resolver, "localhost") == addresses(resolver, "localhost")


def test_the_pool_starts_no_more_threads_than_it_needs() -> None:
    pool, before = Pool(size=4), threading.active_count()
    for _ in range(20):
        done = threading.Event()
        pool.submit(done.set)
        assert done.wait(20)
        wait_for(lambda: pool._idle._value, "an idle thread", within=20)  # noqa: SLF001
    assert threading.active_count() == before + 1


def test_the_pool_goes_on_after_a_job_that_raises(capfd: pytest.CaptureFixture[str]) -> None:
    pool, done = Pool(size=1), threading.Event()

    def bug() -> None:
        raise ZeroDivisionError

    pool.submit(bug)
    pool.submit(done.set)
    assert done.wait(20)
    assert "ZeroDivisionError" in capfd.readouterr().err


# ---- credentials

SECRET = "s3cret"


@pytest.mark.parametrize(
    "uri",
    [
        f"mongodb://user:{SECRET}@host:bad/",
        f"mongodb://user:{SECRET}@host:99999/",
        f"mongodb://user:{SECRET}@,/",
        f"mongodb://user:{SECRET}@[::1/",
        f"mongodb://user:{SECRET}/x@host/",
        f"mongodb://user:{SECRET}?x@host/",
        f"mongodb://user:{SECRET}@x@host/",
        f"mongodb://user:{SECRET}:x@host/",
        f"mongodb://user:x@{SECRET}/y@host/",
        f"mongodb://user:{SECRET}#@host/?a",
        f"mongodb://user:{SECRET}%@host/",
        f"mongodb://user:{SECRET}",
        f"mongodb://user:{SECRET}@host/?tlsCertificateKeyFilePassword={SECRET}&b",
        f"mongodb://user:{SECRET}@%2Ftmp%2Fmongodb-27017.sock/",
        f"mongodb+srv://user:{SECRET}@host:27017/",
        f"mongodb+srv://user:{SECRET}@{NOBODY}/?tlsCertificateKeyFilePassword={SECRET}",
        f"mongodb+srv://user:{SECRET}@one,two/",
        f"mango://user:{SECRET}@host/",
    ],
)
def test_no_error_repeats_a_credential(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolve, "SRV_TIMEOUT_S", 0.5)
    found = seeds_of(DeploymentConfig("main", uri))
    assert found.error
    assert found.members == ()
    assert SECRET not in repr(found)


def test_what_a_uri_names_is_shown_without_the_password_of_a_key() -> None:
    found = seeds_of(DeploymentConfig("main", f"mongodb://a/?tlsCertificateKeyFilePassword={SECRET}"))
    assert found.options == {"tls": "true", "tlsCertificateKeyFilePassword": SECRET}
    assert SECRET not in repr(found)


def test_a_unix_socket_has_nothing_to_watch() -> None:
    found = seeds_of(DeploymentConfig("main", "mongodb://%2Ftmp%2Fmongodb-27017.sock/"))
    assert "Unix socket" in found.error


# ---- addresses as text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_an_address_has_one_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize("text", ["localhost", "", "127.1", "1.2.3.4.5", "[::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="IPv4 or IPv6"):
        normalise(text)


# ---- mongodb+srv, over a real name server that knows one cluster

CLUSTER = "cluster0.example.test"
Records = dict[tuple[str, int], list[bytes]]  # (name, type) -> the data of each record
SRV, TXT = 33, 16


def srv(host: str, port: int) -> bytes:
    return struct.pack("!HHH", 0, 0, port) + b"".join(_label(part) for part in [*host.split("."), ""])


def _label(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


class NameServer(socketserver.ThreadingUDPServer):
    """Answers from `records` (RFC 1035, 4); a name that it does not know does not exist."""

    daemon_threads = True

    def __init__(self, records: Records) -> None:
        self.records = records
        super().__init__(("127.0.0.1", 0), Question)


class Question(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        query, sock = self.request
        assert isinstance(self.server, NameServer)
        labels, end = [], 12
        while query[end]:
            labels.append(query[end + 1 : end + 1 + query[end]].decode().lower())
            end += 1 + query[end]
        name, kind = ".".join(labels), int.from_bytes(query[end + 1 : end + 3])
        found = self.server.records.get((name, kind), [])
        exists = any(one == name for one, _ in self.server.records)
        header = query[:2] + struct.pack("!HHHHH", 0x8180 if exists else 0x8183, 1, len(found), 0, 0)
        answers = (b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, 60, len(data)) + data for data in found)
        sock.sendto(header + query[12 : end + 5] + b"".join(answers), self.client_address)


@pytest.fixture
def records(monkeypatch: pytest.MonkeyPatch) -> Iterator[Records]:
    """What the name server knows that this process asks."""
    dns = pytest.importorskip("dns.resolver", reason="mongodb+srv:// needs dnspython")
    known: Records = {}
    with NameServer(known) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        ours = dns.Resolver(configure=False)
        ours.nameservers, ours.port = ["127.0.0.1"], server.server_address[1]
        monkeypatch.setattr(dns, "default_resolver", ours)
        try:
            yield known
        finally:
            server.shutdown()
            thread.join(20)


# pymongo 3.11 asks dnspython 2 by its old name.
@pytest.mark.filterwarnings("ignore:please use dns.resolver.resolve:DeprecationWarning")
class TestSrv:
    @staticmethod
    def seeds(options: str = "") -> Seeds:
        return seeds(PoolResolver(Pool(), Wakes()), f"mongodb+srv://user:{SECRET}@{CLUSTER}/db{options}")

    def test_its_records_are_the_members_and_tls_is_on(self, records: Records) -> None:
        hosts = [srv("a.example.test", 27017), srv("b.example.test", 27018)]
        records[f"_mongodb._tcp.{CLUSTER}", SRV] = hosts
        records[CLUSTER, TXT] = [_label("authSource=admin&replicaSet=rs")]
        found = self.seeds()
        assert found.error == ""
        assert set(found.members) == {("a.example.test", 27017), ("b.example.test", 27018)}
        assert found.options == {"tls": "true"}

    def test_tls_can_be_switched_off(self, records: Records) -> None:
        records[f"_mongodb._tcp.{CLUSTER}", SRV] = [srv("a.example.test", 27017)]
        assert self.seeds("?tls=false").options == {"tls": "false"}

    def test_a_name_that_does_not_exist_is_an_error_without_the_credential(self, records: Records) -> None:
        found = self.seeds()
        assert found.members == ()
        assert CLUSTER in found.error
        assert SECRET not in found.error

    def test_a_record_that_is_no_host_name_is_an_error(self, records: Records) -> None:
        records[f"_mongodb._tcp.{CLUSTER}", SRV] = [srv("a b.example.test", 27017)]
        found = self.seeds()
        assert found.members == ()
        assert found.error


WITHOUT_DNSPYTHON = """
import sys
sys.modules["dns"] = None
from watchdogd.config import DeploymentConfig
from watchdogd.observe.mongod.resolve import seeds_of
print(seeds_of(DeploymentConfig("main", "mongodb+srv://cluster0.example.test/")).error)
"""


def test_srv_without_dnspython_says_what_is_missing() -> None:
    command = [sys.executable, "-c", WITHOUT_DNSPYTHON]
    error = subprocess.run(command, capture_output=True, text=True, check=True, timeout=50).stdout
    assert "dnspython" in error
    assert "install" in error
