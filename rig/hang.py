"""Workers that wait for the GIL alone since their fork, made when a test wants them (the app: apps/hang.py).

    with Hang(folder) as hang, Uwsgi(folder, wsgi_file=HANG, ...) as app:
        pid = hang.worker_of(app)

Beside another app: `extra=BESIDE`. The first workers: `hang.first_of(app)`, of one that does not run yet.
What it makes stays until somebody kills it.
"""

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rig import RigError, apps
from rig.processes import wait_for
from rig.uwsgi import Uwsgi, age_s

HANG = Path(apps.__file__).with_name("hang.py")
BESIDE = (f"shared-py-import = {HANG}",)
WITHIN_S = 20.0
TRIES = 20
LOADED_S = 2.0  # a fork is ready within milliseconds


class HasWorkers(Protocol):
    """A uWSGI that runs: Uwsgi, or one in a box."""

    def workers(self) -> list[int]:
        """The pids of its workers, loading ones too, in ascending order."""

    def ready_workers(self) -> list[int]:
        """The pids of the workers that have loaded the app and serve."""


class Hang:
    """Says to the app in this folder, that of a Uwsgi, when its forks are to hang. To be entered before it starts."""

    def __init__(self, folder: Path) -> None:
        self._control = folder / "hang.control"
        self._holds = folder / "hang.on"
        self._opened = -1

    def __enter__(self) -> Self:
        self._control.parent.mkdir(parents=True, exist_ok=True)
        os.mkfifo(self._control)
        self._control.chmod(0o666)  # the instance may be another user's
        # For reading too: so a byte may be written before the app is there.
        self._opened = os.open(self._control, os.O_RDWR | os.O_CLOEXEC)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._opened)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Every fork hangs meanwhile, for the app runs."""
        self._turn()
        wait_for(self._holds.exists, "the app holds the GIL", within=WITHIN_S)
        try:
            yield
        finally:
            self.let_go()

    def let_go(self) -> None:
        """No fork hangs from now on; who hangs already, hangs."""
        self._turn()
        wait_for(lambda: not self._holds.exists(), "the app has let go of the GIL", within=WITHIN_S)

    def worker_of(self, app: HasWorkers) -> int:
        """Kills the youngest ready worker; the one that the master makes in its place hangs. Gives its pid."""
        before = app.workers()
        with self.on():
            os.kill(app.ready_workers()[-1], signal.SIGKILL)
            (pid,) = wait_for(lambda: set(app.workers()) - set(before), "the worker in its place", within=WITHIN_S)
        return pid

    def mule_of(self, app: Uwsgi, mule: int) -> int:
        """Kills this mule; the one that the master makes in its place hangs. Gives its pid."""
        before = app.children()
        with self.on():
            os.kill(mule, signal.SIGKILL)
            (pid,) = wait_for(lambda: set(app.children()) - set(before), "the mule in its place", within=WITHIN_S)
        return pid

    def first_of(self, app: Uwsgi) -> list[int]:
        """Starts an app of which first workers hang, and gives their pids; until `let_go` every fork of it hangs.

        Which of them do is chance: 0 of 8 in 3 of 40 starts, all 8 in 6; with 4 workers none did in 5 starts running.
        It is started until one does.
        """
        for _ in range(TRIES):
            self._turn()
            app.launch()
            wait_for(lambda: len(app.workers()) == app.processes, "the first workers", within=WITHIN_S, log=app.log)
            wait_for(lambda: all(age_s(pid) > LOADED_S for pid in app.workers()), "their time", within=WITHIN_S)
            if hung := sorted(set(app.workers()) - set(app.ready_workers())):
                return hung
            app.kill()
            self._holds.unlink(missing_ok=True)
        raise RigError(f"in none of {TRIES} starts a first worker hung")

    def _turn(self) -> None:
        """Has forks hang from now on, or from now on not."""
        os.write(self._opened, b".")
