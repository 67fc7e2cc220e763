"""A stage for each story, and on failure all that was said on it."""

import inspect
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig import netns
from rig.netns import Namespace
from tests.stories.stage import Stage

STAGE = pytest.StashKey[Stage]()
# With 3 forks after each of some 40 reloads, 2 plays failed one run of four; 4 fail one of some hundred.
PLAYS = 4


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
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Plays a story again that failed because uWSGI forked a worker which waits for the GIL for ever.

    That happens to 1 to 3 of 100 forks of a master with pymongo's threads (2 of 240 with the driver's own heartbeat, 7
    of 240 with the short one of these stories; pymongo 4.14.1, uWSGI 2.0.30), whoever asks for the fork.
    """
    try:
        return (yield)
    except Exception:
        if not _is_to_be_played_again(pyfuncitem):
            raise
    play = pyfuncitem.obj
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(play).parameters}
    for _ in range(PLAYS - 2):
        try:
            play(**arguments)
        except Exception:
            if not _is_to_be_played_again(pyfuncitem):
                raise
        else:
            return True
    play(**arguments)
    return True


def _is_to_be_played_again(item: pytest.Function) -> bool:
    """Says whether a fork is to blame for the failure, and clears the stage for the next play if so."""
    stage = item.stash.get(STAGE, None)
    if stage is None or not (hung := stage.hung_by_fork()):
        return False
    item.add_report_section("call", "played again", hung)
    item.user_properties.append(("played again", hung))
    stage.clear()
    stage.folder = stage.folder / "again"
    stage.folder.mkdir()
    return True


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
