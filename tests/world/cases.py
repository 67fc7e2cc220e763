"""One instance at one instant, as the deciding core looks at it: by default a `w` is due and every gate is open."""

from tests.world.pieces import AT, MASTER, SHOP_ID, config, connection, instance, leftover, pids, snapshot, stranded
from watchdogd.config import Config
from watchdogd.core.case import Case
from watchdogd.core.detect import detect
from watchdogd.core.tick import limits_of
from watchdogd.model.base import WORKERS
from watchdogd.model.remembered import InstanceState, Reload, Stand, Standing, State
from watchdogd.model.seen import Snapshot

STUCK = instance(stranded(2), stranded(3))
SEEN = snapshot(STUCK, leftover(2, 3), connection(1))
RELOAD = Reload("r", WORKERS, MASTER, pids(2, 3), frozenset({7}), frozenset(), AT, AT, AT + 42, left=2)
NOTHING = InstanceState()
DOUBTFUL, ESCALATING, GAVE_UP = Standing(Stand.DOUBTFUL), Standing(Stand.ESCALATING), Standing(Stand.GAVE_UP, 1.0)


def case(
    seen: Snapshot = SEEN, state: InstanceState = NOTHING, using: Config | None = None, whole: State | None = None
) -> Case:
    using = using or config()
    (one,) = seen.instances
    return Case(seen, using, limits_of(one, using), one, detect(seen, using)[SHOP_ID], state, whole or State())
