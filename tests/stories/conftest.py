"""A stage for each story, and on failure all that was said on it."""

from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig import netns
from rig.netns import Namespace
from tests.stories.stage import Stage

STAGE = pytest.StashKey[Stage]()


@pytest.fixture
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    """Where a story is played; a daemon that stumbled over itself on it has failed the story."""
    with ExitStack() as stack:
        one = Stage(tmp_path, stack)
        request.node.stash[STAGE] = one
        yield one
        one.clear()
    assert not one.faults


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    """A network namespace in which this thread, and all that it starts, is for the length of the story."""
    if reason := netns.skip_reason():
        pytest.skip(reason)
    with Namespace() as one, one.entered():
        yield one


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Adds to a failed story what the daemon and uWSGI said, and the status while they still run."""
    report = yield
    stage = item.stash.get(STAGE, None)
    if report.failed and stage is not None and call.when == "call":
        report.sections += list(stage.report())
    return report
