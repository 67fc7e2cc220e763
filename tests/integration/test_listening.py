"""How long a listen queue is, asked of the kernel."""

import os
import socket
from contextlib import closing
from pathlib import Path

import pytest

from rig.ports import free_port
from watchdogd.config import HealthConfig, read_probe_url
from watchdogd.model.base import InstanceId
from watchdogd.observe.health import ProberByThreads
from watchdogd.observe.tcp import listening
from watchdogd.observe.tcp.listening import backlog, backlog_of_unix


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::", socket.AF_INET6)])
def test_the_backlog_of_a_port_is_what_it_listens_with(host: str, family: socket.AddressFamily) -> None:
    with closing(socket.create_server((host, 0), family=family, backlog=37)) as server:
        assert backlog(server.getsockname()[1]) == 37


def test_the_backlog_of_a_unix_socket_is_what_it_listens_with(tmp_path: Path) -> None:
    for name, size in (("a.sock", 23), ("b.sock", 24)):
        server = socket.socket(socket.AF_UNIX)
        with closing(server):
            server.bind(str(tmp_path / name))
            server.listen(size)
            assert backlog_of_unix(str(tmp_path / name)) == size


def test_where_nobody_listens_it_is_not_known(tmp_path: Path) -> None:
    assert backlog(free_port()) is None
    assert backlog_of_unix(str(tmp_path / "none.sock")) is None


def test_where_the_kernel_cannot_be_asked_it_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> socket.socket:
        raise PermissionError(1, os.strerror(1))

    monkeypatch.setattr(listening, "open_netlink", refused)
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        assert backlog(server.getsockname()[1]) is None


def test_never_more_is_asked_at_once_than_half_of_what_waits() -> None:
    one = InstanceId("/run/shop")
    with closing(socket.create_server(("127.0.0.1", 0), backlog=7)) as server:
        port = server.getsockname()[1]
        asked = HealthConfig(read_probe_url(f"http://127.0.0.1:{port}/"), timeout_s=0.1)
        prober = ProberByThreads(lambda: None)
        assert prober.ask(one, asked, 100) == 3
        assert prober.ask(one, asked, 2) == 2
        assert prober.ask(one, asked, 1) == 1
