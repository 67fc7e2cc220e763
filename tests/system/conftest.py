"""A box with the service for each test; a skip where none can boot, a failure with REQUIRE_SYSTEMD_TESTS=1."""

import functools
import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from rig import RigError, debian
from tests.once import MissingError
from tests.system import machines
from tests.system import site as sites
from tests.system.box import Box, sweep
from tests.system.service import Service
from tests.system.site import FIFO, Site, hung_workers

RELEASE = debian.RELEASES[0]
MACHINE = "multi-user.target"
TIMEOUT_S = 300


def pytest_itemcollected(item: pytest.Item) -> None:
    """A box, a mongod and a uWSGI take their time on a loaded machine."""
    if item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Skips with the reason, or fails where these tests are required."""
    if reason := why_no_box():
        _cannot(reason)


def _cannot(reason: str) -> NoReturn:
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
        with Box(debian.fresh(RELEASE)) as box:
            box.run("true")
    except (RigError, OSError, AssertionError) as error:
        return f"no systemd boots here: {error}"
    return ""


def _had(make: Callable[[], Path]) -> Path:
    try:
        return make()
    except (RigError, MissingError) as error:
        _cannot(str(error))


@pytest.fixture
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """Debian 12 (or the one that the test asks for) with the package, booted; it shows the rig's components and us."""
    with Box(_had(lambda: machines.installed(getattr(request, "param", RELEASE))), sites.shows()) as one:
        yield one


@pytest.fixture
def rebooted() -> Iterator[Box]:
    """Debian 12 with the package, booted as far as a machine goes: with what the package has enabled."""
    with Box(_had(lambda: machines.installed(RELEASE)), sites.shows(), target=MACHINE) as one:
        yield one


@pytest.fixture(params=debian.RELEASES)
def fresh(request: pytest.FixtureRequest) -> Iterator[Box]:
    """Each Debian without the package, booted as far as a machine goes; it shows the same."""
    with Box(_had(lambda: debian.fresh(request.param)), sites.shows(), target=MACHINE) as one:
        yield one


@pytest.fixture
def own_python() -> Iterator[Box]:
    """The Debian of the Python that runs the tests, without the package; pip finds there what README's lines take."""
    system, wheels = _had(machines.of_this_python), _had(machines.wheels)
    with Box(system, {**sites.shows(), wheels: machines.WHEELS}, target=MACHINE) as one:
        one.write("/etc/pip.conf", f"[global]\nno-index = true\nfind-links = {machines.WHEELS}\n")
        yield one


@pytest.fixture
def service(box: Box) -> Service:
    """mongo-watchdog as installed, configured for the instance `shop`, not started."""
    one = Service(box, fifos={"shop": FIFO})
    one.configure()
    return one


@pytest.fixture
def site(box: Box) -> Site:
    """A mongod and the app, not started."""
    return Site(box)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failed test what the box's journal says, and which workers hang, while it still runs."""
    report = yield
    if report.failed and call.when == "call":
        for box in [one for one in getattr(item, "funcargs", {}).values() if isinstance(one, Box)]:
            report.sections.append(("what happened in the box", Service(box).report()))
            report.sections.append(("workers that hang since their fork, by pid outside", f"{hung_workers(box)}"))
    return report
