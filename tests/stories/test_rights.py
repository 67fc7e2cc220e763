import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rig.mongod import Mongod
from rig.netns import Namespace
from rig.traffic import Traffic
from tests.stories.stage import LINGER_S, Stage, cured_once, fail_a_request_of, respawned, strand

NOBODY = 65534
AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")

# 198.18.0.0/15 is for tests (RFC 2544): the ends of a cable between two namespaces that the test makes.
OUTSIDE, INSIDE = "198.18.77.1", "198.18.77.2"


class ReachableMongod(Mongod):
    """A mongod that listens on the host's end of the cable."""

    @property
    def host(self) -> str:
        return OUTSIDE


@pytest.fixture
def open_stage(stage: Stage) -> Iterator[Stage]:
    """A stage that every user may look at: pytest's own folders are for one user."""
    with tempfile.TemporaryDirectory(prefix="mw-open-") as folder:
        stage.folder = Path(folder)
        stage.folder.chmod(0o755)
        yield stage
        stage.clear()


def can_run_as_nobody() -> bool:
    """Whether nobody may execute this Python and read the package: not where the environment is below /root."""
    command = [*AS_NOBODY, sys.executable, "-c", "import watchdogd.cli.main"]
    return subprocess.run(command, capture_output=True, check=False, cwd="/").returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to start uWSGI and the daemon as different users")
def test_without_the_right_to_look_it_is_blind_and_names_the_right(open_stage: Stage) -> None:
    if not can_run_as_nobody():
        pytest.skip(f"nobody may not run {sys.executable}")
    mongod = open_stage.mongod()
    app = open_stage.app(mongod.uri)
    watchdog = open_stage.watchdog(mongod.uri, app, start=False, prefix=AS_NOBODY)
    os.chown(watchdog.folder, NOBODY, NOBODY)
    os.chown(watchdog.socket.parent, NOBODY, NOBODY)
    workers = app.workers()
    watchdog.start()
    blind = watchdog.wait_event("blind", within=20)
    assert "CAP_SYS_PTRACE" in blind.sentence
    strand(mongod, app)
    with Traffic(app.address):
        assert watchdog.tells_none("reload_sent", "healed", seconds=3 * LINGER_S)
    assert (app.workers(), respawned(app)) == (workers, 0)
    assert any("CAP_SYS_PTRACE" in why for why in watchdog.instance()["blind"])
    assert not watchdog.order("instance_absent", "reload_due")  # which it cannot know
    assert watchdog.run("status").returncode == 1


@pytest.mark.netns
def test_an_instance_in_another_network_namespace_is_cured_too(stage: Stage) -> None:
    with Namespace() as host, Namespace() as container:
        host.cable_to(container, f"{OUTSIDE}/30", f"{INSIDE}/30")
        with host.entered():
            mongod = stage.stack.enter_context(ReachableMongod(stage.folder / "mongod"))
        with container.entered():
            app = stage.app(mongod.uri)
        with host.entered():
            watchdog = stage.watchdog(mongod.uri, app)
            workers = app.workers()
            mongod.stop()
        with container.entered():
            fail_a_request_of(app)
        with host.entered():
            mongod.start()
        with container.entered(), Traffic(app.address):
            cured_once(watchdog, app)
        assert respawned(app) == len(workers)
