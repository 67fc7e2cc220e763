"""The records of incidents on a real disk that is full, and for a user who may not have them."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.nobody import NOBODY, being_nobody, needs_root
from tests.world.records import Records
from tests.world.world import busy_app
from watchdogd.cli.main import main
from watchdogd.model.told import Event
from watchdogd.report.record import FOLDER

ROOM = 64 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with room for little."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(place)], check=True, timeout=20)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=20)


def fill(disk: Path) -> Path:
    """Take all its room."""
    path = disk / "somebody else's"
    with path.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(b"x" * 512)
            except OSError:
                return path


@needs_root
def test_a_full_disk_holds_no_cure_and_the_record_is_whole_when_there_is_room_again(small_disk: Path) -> None:
    world = busy_app()
    records = Records(small_disk, world)
    world.outage(10)
    before = records.files[0].read_bytes()
    others = fill(small_disk)
    world.run_until(lambda: Event.RECOVERED.value in world.events())
    world.run(2)
    (blind,) = records.sinks.blind()
    assert blind.why.startswith(f"{records.files[0]}: No space left on device (uid 0), so no record of an incident can")
    halfway = records.files[0].read_bytes()
    assert halfway.startswith(before)
    assert halfway.endswith(b"\n")  # no half a line
    others.unlink()
    world.run(1)
    assert records.sinks.blind() == ()
    assert records.told() == world.events()
    assert records.lines()[-1]["over"] == "recovered"


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that everybody may go to, unlike pytest's."""
    with tempfile.TemporaryDirectory(prefix="mw-") as place:
        Path(place).chmod(0o755)
        yield Path(place)


@needs_root
def test_a_folder_that_the_user_may_not_write_is_told_and_holds_no_cure(open_folder: Path) -> None:
    world = busy_app()
    records = Records(open_folder, world)
    with being_nobody():
        world.outage(10)
        world.run_until(lambda: Event.RECOVERED.value in world.events())
    (blind,) = records.sinks.blind()
    assert blind.why.startswith(
        f"{open_folder / FOLDER}: Permission denied (uid {NOBODY}), so no record of an incident"
    )
    world.run(1)
    assert records.sinks.blind() == ()
    assert records.told() == world.events()


@needs_root
def test_who_may_not_read_the_folder_is_told_how(open_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = busy_app()
    state_dir = open_folder / "state"
    state_dir.mkdir(mode=0o750)
    records = Records(state_dir, world)
    world.outage(10)
    config = open_folder / "config.yaml"
    config.write_text(f"mongodb: [{{uri: 'mongodb://127.0.0.1/'}}]\nstate_dir: {state_dir}\n")
    asked = ["incidents", "--config", str(config)]
    assert main(asked) == 0
    capsys.readouterr()
    with being_nobody():
        assert main(asked) == 77
    mend = f"use sudo, or become a member of its group: `ls -ld {state_dir}` names it"
    assert capsys.readouterr().err == f"{state_dir}: no permission; {mend}\n"
    state_dir.chmod(0o755)
    (state_dir / FOLDER).chmod(0o755)
    records.files[0].chmod(0o600)
    with being_nobody():
        assert main(asked) == 1
    assert capsys.readouterr().err == f"problem: {records.files[0]}: Permission denied\n"


def test_to_ask_for_incidents_loads_no_pymongo(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"mongodb: [{{uri: 'mongodb://127.0.0.1/'}}]\nstate_dir: {tmp_path}\n")
    program = (
        "import sys, json; from watchdogd.cli.main import main;"
        f"main(['incidents', '--json', '--config', {str(config)!r}]);"
        "print(json.dumps(sorted({'pymongo', 'bson', 'psutil'} & set(sys.modules))), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert json.loads(done.stdout)["incidents"] == []
    assert json.loads(done.stderr.splitlines()[-1]) == []
