"""An Observer of real mongods and real uWSGI instances, with every real edge, that is asked to look again and again."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TypeVar

from rig.mongod import Mongod, ReplicaSet
from rig.processes import POLL_S, wait_for
from rig.uwsgi import Uwsgi
from tests.world.host import config_of
from watchdogd.model.base import InstanceId
from watchdogd.model.seen import Instance, Snapshot
from watchdogd.observe.observer import Observer, open_edges

WITHIN_S = 30.0
T = TypeVar("T")


class Looking:
    """Looks at these apps. What it opens is closed with `at_end`."""

    def __init__(self, at_end: ExitStack, mongod: Mongod | ReplicaSet, *apps: Uwsgi) -> None:
        edges = open_edges(lambda: None)
        at_end.callback(edges.heartbeats.close)
        at_end.callback(edges.sockets.close)
        self._suspected = [InstanceId(str(app.fifo)) for app in apps]
        self.observer = Observer(config_of(*(str(app.fifo) for app in apps), uri=mongod.uri), edges)
        wait_for(lambda: self.look().members and not self.observer.unheard(), "mongod is known", within=WITHIN_S)

    def look(self) -> Snapshot:
        """One full look, which suspects every app."""
        return self.observer.look(full=True, suspected=self._suspected)

    def until(
        self, seen: Callable[[Snapshot], T | None], what: str, *, within: float = WITHIN_S, every: float = POLL_S
    ) -> T:
        """Looks until something is seen, `every` so many seconds from the beginning of one look to that of the next."""
        next_at = time.monotonic()

        def looked() -> T | None:
            nonlocal next_at
            if time.monotonic() < next_at:
                return None
            next_at = max(next_at + every, time.monotonic())
            return seen(self.look())

        return wait_for(looked, what, within=within)


def of(snapshot: Snapshot, app: Uwsgi) -> Instance:
    """What is seen of this app."""
    return next(one for one in snapshot.instances if one.fifo == str(app.fifo))
