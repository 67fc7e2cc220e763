"""What keeps a daemon from starting: the exit code says whose fault it is, stderr what to do."""

import contextlib
import faulthandler
import os
import selectors
from pathlib import Path

import pytest

from watchdogd.service import start
from watchdogd.service.control import Server
from watchdogd.service.store import Store


@pytest.fixture(autouse=True)
def _own_faulthandler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It belongs to pytest in this process."""
    monkeypatch.setattr(faulthandler, "enable", lambda: None)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return written(tmp_path)


def written(folder: Path, **changes: object) -> Path:
    path = folder / "config.yaml"
    keys = {"state_dir": folder / "state", "control_socket": folder / "control.sock", **changes}
    path.write_text("mongodb: [{uri: 'mongodb://127.0.0.1:1/'}]\n" + "".join(f"{k}: {v}\n" for k, v in keys.items()))
    return path


def run(path: Path) -> int:
    """The exit code of a start that fails; one that does not would never return."""
    return start.run(path, observe=False)


def test_a_bad_configuration_is_78_with_every_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, mode="maybe", interval=3)
    assert run(path) == 78
    told = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[1] for line in told] == ["mode", "interval"]
    assert all(line.startswith(f"{path}:") for line in told)
    assert not (tmp_path / "state").exists()


def test_a_configuration_that_is_not_there_is_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "nothing.yaml") == 78
    assert "nothing.yaml:1:1: the file: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("state_dir", ["a/b/state", "file"])
def test_a_state_dir_that_cannot_be_used_is_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], state_dir: str
) -> None:
    (tmp_path / "file").touch()
    assert run(written(tmp_path, state_dir=tmp_path / state_dir)) == 78
    told = capsys.readouterr().err
    assert told.startswith(str(tmp_path / state_dir))
    assert "`state_dir` must be a folder that this user may write" in told


def test_a_control_socket_without_a_folder_is_78_and_the_folder_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(written(tmp_path, control_socket=tmp_path / "run" / "control.sock")) == 78
    assert f"the folder {tmp_path / 'run'} does not exist" in capsys.readouterr().err


def test_a_control_socket_that_is_a_file_is_78_and_stays(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = config.with_name("control.sock")
    other.write_text("mine")
    assert run(config) == 78
    assert f"{other} is not a socket" in capsys.readouterr().err
    assert other.read_text() == "mine"


def test_a_second_daemon_with_the_same_state_is_75(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.closing(Store(config.with_name("state"))):
        assert run(config) == 75
    assert f"another mongo-watchdog (pid {os.getpid()})" in capsys.readouterr().err


def test_a_second_daemon_on_the_same_socket_is_75(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with selectors.DefaultSelector() as selector:
        with contextlib.closing(Server(config.with_name("control.sock"), selector)):
            assert run(config) == 75
            assert config.with_name("control.sock").exists()
        assert "another mongo-watchdog answers on" in capsys.readouterr().err
