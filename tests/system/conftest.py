"""A box with the service for each test; a skip where none can boot, a failure with REQUIRE_SYSTEMD_TESTS=1."""

import functools
import os
import shutil
from collections.abc import Generator, Iterator

import pytest

from rig import RigError
from tests.system import service as installed
from tests.system import site as sites
from tests.system.box import Box, sweep
from tests.system.service import INSIDE, Service
from tests.system.site import FIFO, Site

TIMEOUT_S = 300
SERVICE = pytest.StashKey[Service]()


def pytest_itemcollected(item: pytest.Item) -> None:
    """A box, a mongod and a uWSGI take their time on a loaded machine."""
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Skips with the reason, or fails where these tests are required."""
    if reason := why_no_box():
        (pytest.fail if os.environ.get("REQUIRE_SYSTEMD_TESTS") == "1" else pytest.skip)(reason)


@functools.cache
def why_no_box() -> str:
    """Why no box boots on this machine; found out by booting one. Empty where one does."""
    if os.geteuid() != 0:
        return "needs root"
    if missing := [name for name in ("systemd-nspawn", "nsenter", "unshare") if shutil.which(name) is None]:
        return f"needs {', '.join(missing)}: apt-get install systemd-container"
    sweep()
    try:
        with Box() as box:
            box.run("true")
    except (RigError, OSError, AssertionError) as error:
        return f"no systemd boots here: {error}"
    return ""


@pytest.fixture
def box() -> Iterator[Box]:
    """A booted systemd that shows the program, the rig's components and this checkout."""
    with Box({installed.environment(): INSIDE, **sites.shows()}) as one:
        yield one


@pytest.fixture
def service(request: pytest.FixtureRequest, box: Box) -> Service:
    """mongo-watchdog as installed, for the instance `shop`, not started."""
    one = Service(box, fifos={"shop": FIFO})
    request.node.stash[SERVICE] = one
    return one


@pytest.fixture
def site(box: Box) -> Site:
    """A mongod and the app, not started."""
    return Site(box)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failed test what the box's journal says, while it still runs."""
    report = yield
    service = item.stash.get(SERVICE, None)
    if report.failed and service is not None and call.when == "call":
        report.sections.append(("what happened in the box", service.report()))
    return report
