"""What holds for every test: a kind by its folder, nothing left running at the end, a count of each kind."""

import contextlib
import os
import shutil
import signal
import uuid
from collections import Counter
from collections.abc import Generator

import psutil
import pytest
from hypothesis import HealthCheck, settings

from rig import guard

# Folder under tests/ -> the kind that is counted; integration, story and system are markers too.
KINDS = {"unit": "unit", "integration": "integration", "stories": "story", "system": "system"}
STORY_TIMEOUT_S = 300

# In the environment of all that a test starts: finds also what was started by something that has ended since.
RUN_MARK = "MONGO_WATCHDOG_TEST_RUN"
RUN = pytest.StashKey[str]()
LEFT_BEHIND = pytest.StashKey[list[str]]()
ENDING_S = 1.0  # what is just ending at the end of the run is not left behind

# Stories load the machine while unit tests run: how long an example takes says nothing about the code.
settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")


def pytest_configure(config: pytest.Config) -> None:
    """Marks this run; the mark of an xdist worker begins with the one of the controller that started it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    config.stash[RUN] = f"{os.environ[RUN_MARK]}/{worker}/" if worker else uuid.uuid4().hex
    config.stash[LEFT_BEHIND] = []
    # A shell starts what runs in its background with SIGINT ignored, and whatever we start would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ[RUN_MARK] = config.stash[RUN]


def _kind(nodeid: str) -> str:
    return KINDS.get("".join(nodeid.split("/")[1:2]), "other")


def pytest_itemcollected(item: pytest.Item) -> None:
    """The folder gives the marker, so that none can be forgotten."""
    kind = _kind(item.nodeid)
    if kind in {"integration", "story", "system"}:
        item.add_marker(kind)
    if kind == "story" and item.get_closest_marker("timeout") is None:
        item.add_marker(pytest.mark.timeout(STORY_TIMEOUT_S))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Under xdist the stories come first: a long test that starts last keeps all other workers waiting."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _kind(item.nodeid) != "story")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what this user or this machine cannot do, with the reason."""
    netns = item.get_closest_marker("netns")
    if (netns or item.get_closest_marker("system")) and os.geteuid() != 0:
        pytest.skip("needs root")
    if netns and shutil.which("ip") is None:
        pytest.skip("needs iproute2")


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: object) -> None:
    """Takes over what an xdist worker found; the children of one that crashed are found by the controller."""
    found = getattr(node, "workeroutput", None) or {}
    node.config.stash[LEFT_BEHIND] += found.get("left_behind", [])  # type: ignore[attr-defined]


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """A run that leaves processes behind has failed: they are killed, and reported as an error."""
    yield
    config = session.config
    left_behind = config.stash[LEFT_BEHIND]
    left_behind += _kill_what_is_left(config.stash[RUN])
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_behind"] = left_behind
    elif left_behind:
        error = pytest.TestReport(
            nodeid="the whole run",
            location=("the whole run", None, "the whole run"),
            keywords={},
            outcome="failed",
            longrepr="\n".join(["left behind by the tests, and killed now:", *left_behind]),
            when="teardown",
        )
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        assert reporter is not None
        reporter.stats.setdefault("error", []).append(error)
        session.exitstatus = session.exitstatus or pytest.ExitCode.TESTS_FAILED


def _kill_what_is_left(run: str) -> list[str]:
    """Kills our descendants and all that carries our mark, by group unless it is ours; tells what it was.

    The rig's guard is not meant: it is there to the end, and ends by itself when we do.
    """
    found = set(psutil.Process().children(recursive=True))
    for process in psutil.process_iter(["environ"]):
        if process.pid != os.getpid() and (process.info["environ"] or {}).get(RUN_MARK, "").startswith(run):
            found.add(process)
    commands: dict[psutil.Process, list[str]] = {}
    for process in found:
        with contextlib.suppress(psutil.Error):
            commands[process] = process.cmdline()
    _, left = psutil.wait_procs([one for one in commands if guard.__file__ not in commands[one]], ENDING_S)
    left = [process for process in left if _runs(process)]
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            group = os.getpgid(process.pid)
            if group == os.getpgrp():
                os.kill(process.pid, signal.SIGKILL)
            else:
                os.killpg(group, signal.SIGKILL)
    return [f"pid {process.pid}: {' '.join(commands[process])}" for process in left]


def _runs(process: psutil.Process) -> bool:
    """A zombie does not run: in a container nobody may ever take it away."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many tests of each kind ran, and how many were skipped."""
    ran: Counter[str] = Counter()
    skipped: Counter[str] = Counter()
    seen: set[str] = set()
    for outcome in ("passed", "failed", "error", "xfailed", "xpassed", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            if isinstance(report, pytest.TestReport) and "::" in report.nodeid and report.nodeid not in seen:
                seen.add(report.nodeid)
                (skipped if outcome == "skipped" else ran)[_kind(report.nodeid)] += 1
    kinds = [
        "unit",
        "integration",
        "story",
        *(kind for kind in ("system", "other") if ran[kind] or skipped[kind]),
    ]
    told = (f"{ran[kind]} {kind}" + (f" ({skipped[kind]} skipped)" if skipped[kind] else "") for kind in kinds)
    terminalreporter.write_sep("=", f"ran: {', '.join(told)}")
