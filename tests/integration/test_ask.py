"""What a server is asked: of a real mongod, of strangers, through a proxy, with TLS; and of the fake."""

import json
import re
import socket
import socketserver
import ssl
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import bson
import pytest
from pymongo import MongoClient

from rig import wire
from rig.mongod import Mongod, ReplicaSet
from rig.ports import free_port
from rig.processes import wait_for
from tests.world.asker import FakeAsker
from watchdogd.config.addresses import read_uri
from watchdogd.model.base import Endpoint, Incarnation, MemberId
from watchdogd.observe.mongod import ask
from watchdogd.observe.mongod.ask import (
    ACCESS_PROBE,
    Asker,
    Heard,
    Probe,
    Probed,
    Question,
    Said,
    SocketAsker,
    answer,
)
from watchdogd.observe.mongod.heartbeats import PymongoHeartbeats, identity_of
from watchdogd.observe.mongod.resolve import Pool

WITHIN_S = 20.0


def asked(asker: Asker, question: Question) -> Heard:
    asker.ask(question)
    (heard,) = wait_for(asker.drain, "an answer", within=WITHIN_S)
    assert isinstance(heard, Heard)
    assert heard.remote == question.remote
    return heard


def probed(asker: Asker, probe: Probe) -> Probed:
    asker.ask(probe)
    (answer,) = wait_for(asker.drain, "an answer", within=WITHIN_S)
    assert isinstance(answer, Probed)
    assert answer.incarnation == probe.incarnation
    return answer


def endpoint(mongod: Mongod, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(host, mongod.port)


def address(mongod: Mongod) -> str:
    return f"{mongod.host}:{mongod.port}"


def probe(mongod: Mongod, host: str = "127.0.0.1", **way: str) -> Probe:
    """The question to a mongod that runs, for the life that it has."""
    identity = identity_of(wire.hello(mongod.address))
    return Probe(MemberId("main", f"{host}:{mongod.port}"), Incarnation(identity or "@start"), identity, way)


def real() -> SocketAsker:
    return SocketAsker(Pool().submit, lambda: None)


# ---- the same of the fake and of the real one


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mongod]:
    with Mongod(tmp_path_factory.mktemp("mongod")) as mongod:
        yield mongod


@pytest.fixture(params=["fake", "real"])
def asker(request: pytest.FixtureRequest, server: Mongod) -> Asker:
    if request.param == "real":
        return real()
    processes: dict[Endpoint, list[str | None]] = {endpoint(server): [server.process_id()]}
    return FakeAsker(processes=processes, access={address(server): False})


def test_a_mongod_tells_its_process(asker: Asker, server: Mongod) -> None:
    assert asked(asker, Question(endpoint(server))) == Heard(endpoint(server), Said.A_PROCESS, server.process_id())


def test_a_member_is_asked_twice_and_tells_the_same(asker: Asker, server: Mongod) -> None:
    hosts = {str(server.process_id()): frozenset({"localhost"})}
    heard = asked(asker, Question(endpoint(server), hosts=hosts))
    assert (heard.said, heard.identity) == (Said.A_PROCESS, server.process_id())


def test_where_nobody_listens_the_reason_is_told(asker: Asker) -> None:
    heard = asked(asker, Question(Endpoint("127.0.0.1", free_port())))
    assert (heard.said, heard.identity, heard.why) == (Said.NOTHING, None, "Connection refused")


def test_the_answer_wakes(server: Mongod) -> None:
    woken = threading.Event()
    SocketAsker(Pool().submit, woken.set).ask(Question(endpoint(server)))
    assert woken.wait(WITHIN_S)


def test_a_mongod_without_access_control_says_so(asker: Asker, server: Mongod) -> None:
    asked_for = probe(server)
    assert probed(asker, asked_for) == Probed(asked_for.incarnation, on=False)


def test_a_member_that_is_not_there_does_not_tell(asker: Asker) -> None:
    nobody = Probe(MemberId("main", f"127.0.0.1:{free_port()}"), Incarnation("65f1"), "65f1")
    assert probed(asker, nobody) == Probed(nobody.incarnation, None, "Connection refused")


# ---- the real one alone


@pytest.mark.parametrize("version", ["4.4.2", "5.0.4"])
def test_other_versions_tell_their_process_too(tmp_path: Path, version: str) -> None:
    with Mongod(tmp_path, version=version) as mongod:
        assert asked(real(), Question(endpoint(mongod))).identity == mongod.process_id() is not None


def test_4_2_alone_answers_and_tells_no_identity(tmp_path: Path) -> None:
    with Mongod(tmp_path, version="4.2.6") as mongod:
        assert asked(real(), Question(endpoint(mongod))).said is Said.NO_NAME


@pytest.mark.parametrize("version", ["4.2.6", "6.0.27"])
def test_a_heartbeat_of_a_member_names_the_same_identity_whatever_the_version(tmp_path: Path, version: str) -> None:
    """4.2 has no process id: there it is the set with the name that the member has in it."""
    heartbeats = PymongoHeartbeats(lambda: None, Pool().submit)
    with ReplicaSet(tmp_path, members=1, version=version) as rig, closing(heartbeats):
        (mongod,) = rig.members
        heartbeats.watch({MemberId("main", f"localhost:{mongod.port}"): {}})
        (beat, *_) = wait_for(heartbeats.drain, "a heartbeat", within=WITHIN_S)
        heard = asked(real(), Question(endpoint(mongod)))
        process_id = mongod.process_id()
    name = f"127.0.0.1:{mongod.port}"
    assert heard.said is Said.A_PROCESS
    assert heard.identity == beat.identity == (process_id or f"rig/{name} of {name}")


@contextmanager
def listening(handle: Callable[[socket.socket], None]) -> Iterator[Endpoint]:
    """A server that does this with each connection."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handle(self.request)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield Endpoint(*server.server_address[:2])  # type: ignore[arg-type]
        finally:
            server.shutdown()
            thread.join(WITHIN_S)


def test_a_proxy_in_front_of_two_is_seen_as_that(tmp_path: Path) -> None:
    with ExitStack() as stack:
        mongods = [stack.enter_context(Mongod(tmp_path / name)) for name in ("a", "b")]
        turns = iter(mongods * 4)
        where = stack.enter_context(listening(lambda client: pass_on(client, next(turns).address)))
        hosts = {str(one.process_id()): frozenset({"127.0.0.1"}) for one in mongods}
        assert asked(real(), Question(where, hosts=hosts)).said is Said.SEVERAL


def pass_on(client: socket.socket, address: tuple[str, int]) -> None:
    """One question and its answer, which fits into one segment."""
    with socket.create_connection(address, timeout=WITHIN_S) as server:
        server.sendall(client.recv(65536))
        client.sendall(server.recv(65536))
        client.recv(1)


def hears(said: list[bytes], reply: bytes = b"") -> Callable[[socket.socket], None]:
    def handle(client: socket.socket) -> None:
        said.append(client.recv(65536))
        client.sendall(reply)

    return handle


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "does not speak the MongoDB protocol"),
        (b"", "closed the connection"),
        (b"\xff\xff\xff\x7f" + bytes(40), "does not speak the MongoDB protocol"),  # 2 GB are announced
    ],
)
def test_a_stranger_gets_one_question_without_a_secret(reply: bytes, told: str) -> None:
    said: list[bytes] = []
    with listening(hears(said, reply)) as where:
        heard = asked(real(), Question(where, ({"tlsCertificateKeyFile": "/nowhere", "password": "hunter2"},)))
    assert heard.said is Said.NOTHING
    assert told in heard.why
    (question,) = said
    assert b"mongo-watchdog" in question
    assert b"hunter2" not in question


def test_one_that_accepts_and_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ask, "ANSWER_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        heard = answer(Question(Endpoint(*silent.getsockname())))
    assert (heard.said, heard.why) == (Said.NOTHING, "no answer within 0.3 s")


# ---- access control


VERSIONS = pytest.mark.parametrize("version", ["4.2.6", "4.4.2", "5.0.4", "6.0.27"])


@VERSIONS
def test_access_control_is_seen_to_be_on_before_and_after_there_are_users(tmp_path: Path, version: str) -> None:
    """Before there are any, on loopback, mongod lets everybody make the first one, and list databases."""
    with Mongod(tmp_path, version=version, extra=["--auth"]) as mongod:
        assert probed(real(), probe(mongod)).on is True
        mongod.command("createUser", "admin", pwd="secret", roles=["root"])
        assert probed(real(), probe(mongod)).on is True


@VERSIONS
def test_while_it_is_only_being_introduced_it_is_off(tmp_path: Path, version: str) -> None:
    """With `transitionToAuth` who has no credentials is served; without it, a member of no set yet refuses him."""
    with Mongod(tmp_path, version=version, replica_set="rig", extra=[*keyed(tmp_path), "--transitionToAuth"]) as mongod:
        assert probed(real(), probe(mongod)).on is False
        mongod.stop()
    with Mongod(tmp_path, version=version, replica_set="rig", extra=keyed(tmp_path)) as mongod:
        assert probed(real(), probe(mongod)).on is True


def keyed(folder: Path) -> list[str]:
    key = folder / "key"
    key.write_text("k" * 64)
    key.chmod(0o600)
    return ["--keyFile", str(key)]


@pytest.mark.parametrize("version", ["4.2.6", "6.0.27"])
def test_a_secondary_tells_too(tmp_path: Path, version: str) -> None:
    with ReplicaSet(tmp_path, members=2, version=version) as rig:
        assert [probed(real(), probe(one)).on for one in rig.members] == [False, False]


def test_another_process_than_was_meant_does_not_tell(server: Mongod) -> None:
    another = Probe(MemberId("main", address(server)), Incarnation("65f1"), "65f1")
    assert probed(real(), another) == Probed(another.incarnation, None, "another process answers there now")


def test_mongod_logs_the_question_under_its_name(server: Mongod) -> None:
    assert probed(real(), probe(server)).on is False
    wait_for(lambda: ACCESS_PROBE in server.log.read_text(), "the name in the log of mongod", within=WITHIN_S)


def test_the_audit_filter_of_the_documentation_leaves_out_the_question_and_nothing_else(server: Mongod) -> None:
    """A filter is a query over what is logged (MongoDB: Configure Audit Filters): a mongod is asked what it finds."""
    text = (Path(__file__).parents[2] / "docs/configuration.md").read_text()
    found = re.search(r"auditLog\.filter.*?```\n(.*?)```", text, re.DOTALL)
    assert found
    command = {"getParameter": 1, "quiet": 1, "$db": "admin"}
    ours, theirs = {**command, "comment": ACCESS_PROBE}, {**command, "comment": "a backup"}
    client: MongoClient[dict[str, Any]] = MongoClient(server.uri)
    with client:
        audit = client.audit.records
        audit.insert_many(
            [
                {
                    "_id": "ours",
                    "atype": "authCheck",
                    "param": {"command": "getParameter", "args": {"comment": ours["comment"]}},
                },
                {"_id": "our client", "param": {"clientMetadata": {"application": {"name": ACCESS_PROBE}}}},
                {"_id": "theirs", "atype": "authCheck", "param": {"args": {"comment": theirs["comment"]}}},
                {"_id": "their client", "param": {"clientMetadata": {"application": {"name": "a backup"}}}},
                {"_id": "a user", "atype": "createUser", "param": {"user": "shop"}},
            ]
        )
        assert {one["_id"] for one in audit.find(json.loads(found[1]))} == {"theirs", "their client", "a user"}


def test_the_question_has_the_application_and_the_comment_that_the_filter_names() -> None:
    said: list[bytes] = []
    with listening(answering(said)) as where:
        member = MemberId("main", str(where))
        assert probed(real(), Probe(member, Incarnation("@start"))).on is False
    hello, command = said
    assert bson.decode(hello[16 + 4 + 11 + 8 :])["client"]["application"] == {"name": ACCESS_PROBE}
    assert bson.decode(command[16 + 5 :]) == {"getParameter": 1, "quiet": 1, "comment": ACCESS_PROBE, "$db": "admin"}


def answering(said: list[bytes]) -> Callable[[socket.socket], None]:
    """Both questions, without a process id."""

    def handle(client: socket.socket) -> None:
        document = bson.encode({"ok": 1.0})
        for opcode, before in ((1, bytes(20)), (2013, bytes(5))):
            said.append(client.recv(65536))
            (number,) = struct.unpack_from("<i", said[-1], 4)
            client.sendall(struct.pack("<iiii", 16 + len(before + document), 1, number, opcode) + before + document)

    return handle


# ---- TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Mongod, Path]]:
    """A mongod whose certificate is for localhost alone, and that certificate, which it has signed itself."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key, both = folder / "cert.pem", folder / "key.pem", folder / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + certificate.read_bytes())
    # It answers without TLS too, which the rig's own questions need.
    extra = ["--tlsMode", "preferTLS", "--tlsAllowConnectionsWithoutCertificates"]
    extra += ["--tlsCertificateKeyFile", str(both), "--tlsCAFile", str(certificate)]
    with Mongod(folder / "mongod", extra=extra) as mongod:
        yield mongod, certificate


def over_tls(secured: tuple[Mongod, Path], *names: str, option: str = "tlsInsecure", on: str = "false") -> Heard:
    mongod, certificate = secured
    way = {"tls": "true", "tlsCAFile": str(certificate), option: on}
    return answer(Question(endpoint(mongod), (way,), {str(mongod.process_id()): frozenset(names)}))


def test_with_tls_the_certificate_is_held_against_the_name_of_the_member(secured: tuple[Mongod, Path]) -> None:
    assert over_tls(secured, "localhost").said is Said.A_PROCESS
    assert over_tls(secured, "db.example", "localhost").said is Said.A_PROCESS
    heard = over_tls(secured, "db.example")
    assert heard.said is Said.NOTHING
    assert "db.example" in heard.why


def test_with_tls_a_certificate_of_nobody_we_trust_is_no_answer(secured: tuple[Mongod, Path]) -> None:
    mongod, _ = secured
    heard = answer(Question(endpoint(mongod), ({"tls": "true"},)))
    assert heard.said is Said.NOTHING
    assert "CERTIFICATE_VERIFY_FAILED" in heard.why or "certificate verify failed" in heard.why


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("tlsCAFile={}", Said.A_PROCESS),  # which means TLS by itself
        ("ssl_ca_certs={}", Said.A_PROCESS),
        ("ssl=true&ssl_cert_reqs=CERT_NONE", Said.A_PROCESS),
        ("ssl=true&ssl_cert_reqs=CERT_REQUIRED", Said.NOTHING),
    ],
)
def test_the_options_of_a_uri_are_those_of_the_question(
    secured: tuple[Mongod, Path], options: str, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = []
    make = ssl.create_default_context

    def noting(cafile: str | None) -> ssl.SSLContext:
        contexts.append(make(cafile=cafile))
        return contexts[-1]

    monkeypatch.setattr(ssl, "create_default_context", noting)  # it answers without TLS too
    mongod, certificate = secured
    way = read_uri(f"mongodb://h/?{options.format(certificate)}").tls
    assert answer(Question(endpoint(mongod), (way,))).said is said
    assert len(contexts) == 1


@pytest.mark.parametrize("option", ["tlsAllowInvalidHostnames", "tlsInsecure", "tlsAllowInvalidCertificates"])
def test_what_the_uri_does_not_check_is_not_checked_here(secured: tuple[Mongod, Path], option: str) -> None:
    assert over_tls(secured, "db.example", option=option, on="true").said is Said.A_PROCESS


def test_the_ways_are_tried_one_after_the_other(secured: tuple[Mongod, Path]) -> None:
    mongod, certificate = secured
    ways = ({"tls": "true"}, {"tls": "true", "tlsCAFile": str(certificate)})
    assert answer(Question(endpoint(mongod), ways)).said is Said.A_PROCESS


def test_a_member_is_asked_for_access_control_over_tls_by_its_own_name(secured: tuple[Mongod, Path]) -> None:
    mongod, certificate = secured
    way = {"tls": "true", "tlsCAFile": str(certificate)}
    assert probed(real(), probe(mongod, "localhost", **way)).on is False
    heard = probed(real(), probe(mongod, **way))
    assert heard.on is None
    assert "127.0.0.1" in heard.why
    assert probed(real(), probe(mongod, **way, tlsInsecure="true")).on is False
