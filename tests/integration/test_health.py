"""One request to an app: a real uWSGI by every protocol that it speaks, TLS, and servers that mean no good."""

import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from rig.ports import free_port
from rig.processes import wait_for
from rig.uwsgi import App, Front, Uwsgi
from watchdogd.config import Config, DeploymentConfig, HealthConfig, InstanceConfig, read_probe_url
from watchdogd.model.base import InstanceId
from watchdogd.observe.health import MOST_BODY, MOST_HEAD, Answer, ProberByThreads, probe
from watchdogd.service import check

WITHIN_S = 20.0

ECHO = """
import json, time
def application(environ, start_response):
    texts = {key: value for key, value in environ.items() if isinstance(value, str)}
    with open(ENVIRON, "a") as file:
        file.write(json.dumps(texts) + "\\n")
    path = environ["PATH_INFO"]
    time.sleep(float(path.removeprefix("/sleep/")) if path.startswith("/sleep/") else 0)
    status = path.removeprefix("/status/") if path.startswith("/status/") else "200"
    start_response(status + " As Asked", [("Content-Type", "text/plain")])
    return [b"secret" * (200_000 if path == "/large" else 1)]
"""


def ask(url: str, **settings: object) -> Answer:
    return probe(HealthConfig(read_probe_url(url), **settings))  # type: ignore[arg-type]


# ---- a real uWSGI


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uwsgi]:
    """It listens by all that uWSGI speaks: `port` and `unix` by uwsgi, `web` and `web.sock` by HTTP."""
    folder = tmp_path_factory.mktemp("app")
    wsgi = folder / "echo.py"
    wsgi.write_text(ECHO.replace("ENVIRON", repr(str(folder / "environ"))))
    web = free_port()
    extra = [f"uwsgi-socket = {folder / 'uwsgi.sock'}", f"http-socket = {folder / 'web.sock'}"]
    extra += [f"http-socket = 127.0.0.1:{web}"]
    one = Uwsgi(folder, app=App.NO_CLIENT, front=Front.UWSGI_TCP, extra=extra, wsgi_file=wsgi, warm=False, processes=2)
    (folder / "web").write_text(str(web))
    with one:
        yield one


@pytest.fixture(params=["http", "http+unix", "uwsgi", "uwsgi+unix"])
def base(request: pytest.FixtureRequest, app: Uwsgi) -> str:
    places = {
        "http": f"127.0.0.1:{(app.folder / 'web').read_text()}",
        "http+unix": f"{app.folder / 'web.sock'}:",
        "uwsgi": f"127.0.0.1:{app.port}",
        "uwsgi+unix": f"{app.unix}:",
    }
    return f"{request.param}://{places[request.param]}"


def environ(app: Uwsgi) -> dict[str, str]:
    seen: dict[str, str] = json.loads((app.folder / "environ").read_text().splitlines()[-1])
    return seen


def test_a_good_answer_is_one_whose_status_is_expected(base: str) -> None:
    answer = ask(f"{base}/ping")
    assert (answer.good, answer.reached, answer.says) == (True, True, "200")
    assert answer.began < answer.ended < answer.began + 5


@pytest.mark.parametrize(("status", "good"), [(204, True), (302, True), (399, True), (400, False), (500, False)])
def test_every_status_of_200_to_399_is_good(base: str, status: int, good: bool) -> None:
    answer = ask(f"{base}/status/{status}")
    assert (answer.good, answer.reached, answer.says) == (good, True, str(status))


def test_what_is_expected_can_be_said(base: str) -> None:
    assert not ask(f"{base}/status/302", expect=(200, 200)).good
    assert ask(f"{base}/status/503", expect=(503, 503)).good


def test_the_app_sees_path_query_and_host_as_behind_nginx(app: Uwsgi, base: str) -> None:
    ask(f"{base}/a%20path?deep=1&x=%2F", host="shop.example.org:8443")
    seen = environ(app)
    assert seen["PATH_INFO"] == "/a path"
    assert seen["QUERY_STRING"] == "deep=1&x=%2F"
    assert seen["REQUEST_URI"] == "/a%20path?deep=1&x=%2F"
    assert seen["REQUEST_METHOD"] == "GET"
    assert seen["HTTP_HOST"] == "shop.example.org:8443"
    assert seen["HTTP_USER_AGENT"].startswith("mongo-watchdog/")


def test_the_host_of_a_unix_socket_is_localhost_and_else_that_of_the_url(app: Uwsgi, base: str) -> None:
    ask(f"{base}/")
    unix = "+unix" in base
    assert environ(app)["HTTP_HOST"] == ("localhost" if unix else base.partition("://")[2])


def test_a_long_answer_is_not_read_to_its_end_and_good(base: str) -> None:
    assert ask(f"{base}/large").good


def test_an_answer_that_takes_too_long_is_bad_and_over_in_time(base: str) -> None:
    answer = ask(f"{base}/sleep/3", timeout_s=0.5)
    assert (answer.good, answer.reached, answer.says) == (False, True, "no whole answer within 0.5 s")
    assert answer.ended - answer.began < 2


def test_several_at_once_reach_several_workers_and_each_is_answered(app: Uwsgi, base: str) -> None:
    woken = threading.Semaphore(0)
    prober = ProberByThreads(woken.release)
    one = InstanceId(str(app.fifo))
    before = threading.active_count()
    prober.ask(one, HealthConfig(read_probe_url(f"{base}/sleep/0.3")), 4)
    for _ in range(4):
        assert woken.acquire(timeout=WITHIN_S)
    answers = prober.drain()
    assert [(who, answer.good) for who, answer in answers] == [(one, True)] * 4
    assert max(answer.began for _, answer in answers) < min(answer.ended for _, answer in answers)
    assert prober.drain() == []
    wait_for(lambda: threading.active_count() <= before, "the threads to end", within=WITHIN_S)


# ---- who cannot be asked


def test_nobody_is_reached_where_nobody_listens(tmp_path: Path) -> None:
    answer = ask(f"http://127.0.0.1:{free_port()}/")
    assert (answer.good, answer.reached, answer.says) == (False, False, "Connection refused")
    answer = ask(f"uwsgi+unix://{tmp_path}/none.sock:/")
    assert (answer.good, answer.reached, answer.says) == (False, False, "No such file or directory")


def test_a_name_that_is_not_there_reaches_nobody() -> None:
    answer = ask("http://no-such-host.invalid/", timeout_s=30)
    assert not answer.reached
    assert answer.says.startswith("its name is not found")


def test_a_full_listen_queue_is_a_bad_answer(tmp_path: Path) -> None:
    with closing(socket.socket(socket.AF_UNIX)) as listening, ExitStack() as waiting:
        listening.bind(str(tmp_path / "full.sock"))
        listening.listen(0)
        full = waiting.enter_context(closing(socket.socket(socket.AF_UNIX)))
        full.connect(str(tmp_path / "full.sock"))
        answer = ask(f"http+unix://{tmp_path}/full.sock:/", timeout_s=1)
        assert (answer.good, answer.reached, answer.says) == (False, True, "its listen queue is full")


def test_check_live_asks_each_app_once_and_says_what_it_said(tmp_path: Path) -> None:
    refused, good = free_port(), HealthConfig(read_probe_url("http+unix:///none:/"), host="a")
    asked = HealthConfig(read_probe_url(f"http://127.0.0.1:{refused}/ping?key=secret"))
    ones = [InstanceConfig("shop", tmp_path / "a", ("main",), health=asked), InstanceConfig("old", tmp_path / "b", ())]
    ones.append(InstanceConfig("blog", tmp_path / "c", (), health=good))
    config = Config((DeploymentConfig("main", "mongodb://h/"),), tuple(ones))
    assert list(check.answers(config)) == [
        check.Line(check.PROBLEM, f"shop: health: http://127.0.0.1:{refused}/ping says Connection refused"),
        check.Line(check.PROBLEM, "blog: health: http+unix:///none:/ says No such file or directory"),
    ]


# ---- TLS


class Ok(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Host"] else 400)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server with a certificate for `localhost`: its port, and who signed it."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key")]
    command += ["-out", str(folder / "certificate")]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "certificate", folder / "key")
    with HTTPServer(("127.0.0.1", 0), Ok) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        yield server.server_port, folder / "certificate"
        server.shutdown()
        serving.join()


def test_a_certificate_is_checked(tls: tuple[int, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    port, signed_by = tls
    stranger = ask(f"https://localhost:{port}/")
    assert not stranger.reached
    assert stranger.says.startswith("its certificate is refused: self")
    monkeypatch.setenv("SSL_CERT_FILE", str(signed_by))
    assert ask(f"https://localhost:{port}/").good
    other = ask(f"https://127.0.0.1:{port}/")
    assert "certificate is not valid for '127.0.0.1'" in other.says
    assert ask(f"https://127.0.0.1:{port}/", host="localhost").good


def test_a_certificate_is_not_checked_where_that_is_said(tls: tuple[int, Path]) -> None:
    assert ask(f"https://127.0.0.1:{tls[0]}/", verify=False).good


def test_who_speaks_no_tls_is_not_reached() -> None:
    with server(lambda one: one.sendall(b"HTTP/1.0 200 OK\r\n\r\n")) as port:
        answer = ask(f"https://127.0.0.1:{port}/", verify=False)
        assert not answer.good


# ---- who means no good


@contextmanager
def server(serve: Callable[[socket.socket], object]) -> Iterator[int]:
    """A server that reads the request, and then does that with each connection; its port."""
    ending = threading.Event()
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        listening.settimeout(0.1)

        def run() -> None:
            while not ending.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.settimeout(WITHIN_S)
                    try:
                        connection.recv(65536)
                        serve(connection)
                    except OSError:  # the probe has closed it
                        pass

        serving = threading.Thread(target=run)
        serving.start()
        try:
            yield listening.getsockname()[1]
        finally:
            ending.set()
            serving.join()


def drip(one: socket.socket, head: bytes = b"HTTP/1.0 200 OK\r\nX: ") -> None:
    one.sendall(head)
    until = time.monotonic() + WITHIN_S
    while time.monotonic() < until:
        one.sendall(b"x")
        time.sleep(0.02)


def endless(one: socket.socket) -> None:
    one.sendall(b"HTTP/1.0 200 OK\r\n")
    while True:
        one.sendall(b"X-Filler: " + b"x" * 1000 + b"\r\n")


CUT = b"HTTP/1.0 200 OK\r\nContent-Length: 100\r\n\r\nhalf"


@pytest.mark.parametrize(
    ("serve", "says"),
    [
        (endless, "its headers do not end within 16 kB"),
        (drip, "no whole answer within 1 s"),
        (lambda one: drip(one, b"HTTP/1.0 200 OK\r\n\r\n"), "no whole answer within 1 s"),
        (lambda one: one.sendall(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "it does not answer in HTTP"),
        (lambda one: one.sendall(b"HTTP/1.0 999999 No\r\n\r\n"), "it does not answer in HTTP"),
        (lambda one: one.sendall(CUT), "its answer is cut off"),
        (lambda one: one.sendall(b"HTTP/1.0 200 OK\r\nX: half"), "its answer is cut off"),
        (lambda _: None, "it closed the connection without an answer"),
        (lambda _: time.sleep(3), "no whole answer within 1 s"),
    ],
    ids=["endless headers", "slow headers", "slow body", "ssh", "no status", "cut", "cut headers", "nothing", "silent"],
)
def test_what_is_no_whole_answer_is_bad_and_over_in_time(serve: Callable[[socket.socket], object], says: str) -> None:
    with server(serve) as port:
        answer = ask(f"http://127.0.0.1:{port}/", timeout_s=1)
    assert (answer.good, answer.reached, answer.says) == (False, True, says)
    assert answer.ended - answer.began < 3


def test_no_more_of_a_huge_body_is_read_than_is_said() -> None:
    sent = 0

    def huge(one: socket.socket) -> None:
        nonlocal sent
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        one.sendall(b"HTTP/1.0 200 OK\r\n\r\n")
        while True:
            sent += one.send(b"secret" * 1000)

    with server(huge) as port:
        answer = ask(f"http://127.0.0.1:{port}/", timeout_s=WITHIN_S)
        assert answer.good
        assert answer.ended - answer.began < WITHIN_S / 2
    assert sent < MOST_HEAD + MOST_BODY + (8 << 20)  # what the kernel's buffers take


def test_a_redirect_is_an_answer_and_nobody_else_is_asked() -> None:
    asked: list[str] = []
    with server(lambda _: asked.append("other")) as other:
        redirect = f"HTTP/1.0 302 Found\r\nLocation: http://127.0.0.1:{other}/\r\n\r\n".encode()
        with server(lambda one: one.sendall(redirect)) as port:
            answer = ask(f"http://127.0.0.1:{port}/")
    assert (answer.good, answer.says, asked) == (True, "302", [])


def test_nothing_of_a_body_or_of_a_header_is_in_what_is_told() -> None:
    with server(lambda one: one.sendall(b"HTTP/1.0 500 secret\r\nX: secret\r\n\r\nsecret")) as port:
        assert "secret" not in repr(ask(f"http://127.0.0.1:{port}/?key=secret"))


def test_a_thread_that_cannot_be_had_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    prober = ProberByThreads(lambda: None)
    prober.ask(InstanceId("/run/shop"), HealthConfig(read_probe_url("http://127.0.0.1/")), 2)
    assert [(one.good, one.reached, one.says) for _, one in prober.drain()] == [
        (False, False, "can't start new thread")
    ] * 2
