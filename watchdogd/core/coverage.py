"""What is told of whom the daemon watches: at the start, once all has been seen, and when that has changed.

One line for each instance, which says what may be done to it, or why it is only shown; one for each uWSGI that nothing
can reload; and one where there is no instance at all. That is remembered as long as this daemon runs and not saved, so
each start tells it anew: who looks into the log of today knows what it was about. What cannot be seen, and who does not
run, have events of their own (tick.py, instance.py); they are told here where only an earlier daemon has told them.

Pure: no I/O, no clock, no logging. It must never tell the same twice, nor a loss that is over in a moment.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator

from watchdogd.config import Config
from watchdogd.model.base import Mono
from watchdogd.model.decided import Decision, Outlook
from watchdogd.model.remembered import Phase
from watchdogd.model.seen import EVERYBODYS, Area, Instance, MemberState, Scope, Snapshot
from watchdogd.model.told import (
    InstanceAbsent,
    InstanceShown,
    InstanceWatched,
    MoreInstances,
    NoInstance,
    NotCovered,
    SeeingAgain,
    Tell,
    WentBlind,
)

HEARD_WITHIN_S = 10.0
"""The first list waits for a word of every member, since only then connections to them are known; and no longer."""

SETTLED_S = 30.0
"""A loss is told when it has lasted so long: while uWSGI restarts, and loads its app (core/reload.py), it has none."""

AT_ONCE = 10
"""So many instances, and so many masters, have a line of their own at once."""


class _Once:
    """What was told last of each thing, and since when it is not so any more."""

    def __init__(self) -> None:
        self.told: dict[str, Hashable] = {}
        self._since: dict[str, Mono] = {}

    @property
    def waits(self) -> bool:
        """Whether something has changed and is not told yet."""
        return bool(self._since)

    def is_news(self, of: str, now: Hashable, at: Mono, *, at_once: bool) -> bool:
        """Say whether to tell it now; then it is told."""
        if of in self.told and self.told[of] == now:
            self._since.pop(of, None)
            return False
        if not at_once and at < self._since.setdefault(of, at) + SETTLED_S:
            return False
        self._since.pop(of, None)
        self.told[of] = now
        return True

    def forget_all_but(self, those: Collection[str]) -> None:
        """Forget what is there no more: when it comes back, that is news."""
        for known in (self.told, self._since):
            for gone in known.keys() - set(those):
                del known[gone]


class Coverage:
    """Is shown every tick, and says what of it is news."""

    def __init__(self) -> None:
        self._began: Mono | None = None
        self._config: Config | None = None  # that of the last list
        self._seen: tuple[Decision, tuple[str, ...]] | None = None
        self._instances, self._masters, self._absent, self._nobody = _Once(), _Once(), _Once(), _Once()
        self._blind: set[str] = set()  # the scopes that were told

    def news(self, snapshot: Snapshot, decision: Decision, config: Config) -> tuple[Tell, ...]:
        """Return what is to be told of this tick; its decision may be that of the tick before (conclude.py)."""
        waits = self._instances.waits or self._masters.waits
        same = self._seen and self._seen[0] is decision and self._seen[1] == snapshot.not_covered
        if same and not waits and self._config is config:
            return ()
        self._seen = decision, snapshot.not_covered
        self._take(snapshot, decision)
        self._began = snapshot.at if self._began is None else self._began
        if self._config is None and snapshot.at < self._began + HEARD_WITHIN_S and not _is_heard(snapshot, config):
            return ()
        # Who has started it, or changed the configuration, waits for what it says.
        anew, self._config = self._config is not config, config
        told = [*self._of_nobody(snapshot, config), *self._of_absent(snapshot)]
        told += _bounded([*self._of_instances(snapshot, decision, config, anew=anew)])
        return (*told, *self._of_masters(snapshot, anew=anew))

    def _take(self, snapshot: Snapshot, decision: Decision) -> None:
        """Take what is told already of who is absent, and of what cannot be seen."""
        ids = {one.name: one.id for one in snapshot.instances}
        for one in decision.effects:
            match one:
                case Tell(what=InstanceAbsent(meant=meant), instance=str(name)) if name in ids:
                    self._absent.told[ids[name]] = meant or ""
                case Tell(what=WentBlind(scope=scope)):
                    self._blind.add(scope)
                case Tell(what=SeeingAgain(scope=scope)):
                    self._blind.discard(scope)

    def _of_nobody(self, snapshot: Snapshot, config: Config) -> Iterator[Tell]:
        hidden = any(one.scope.area in {Area.PROCESSES, Area.MASTER} for one in snapshot.blind)
        if snapshot.instances or config.instances is not None:
            self._nobody.forget_all_but(())
        elif not hidden and self._nobody.is_news("", True, snapshot.at, at_once=True):  # noqa: FBT003 - it is so
            yield Tell(NoInstance())

    def _of_absent(self, snapshot: Snapshot) -> Iterator[Tell]:
        """Tell who does not run, where this daemon has not yet; and which FIFO is meant, once one is seen."""
        for one in snapshot.instances:
            says_less = one.id in self._absent.told and not one.meant
            if not _is_absent(one, snapshot) or says_less:
                continue
            if self._absent.is_news(one.id, one.meant, snapshot.at, at_once=True):
                yield Tell(InstanceAbsent(one.fifo, one.meant or None), one.name)

    def _of_instances(self, snapshot: Snapshot, decision: Decision, config: Config, *, anew: bool) -> Iterator[Tell]:
        self._instances.forget_all_but([one.id for one in snapshot.instances])
        for one in snapshot.instances:
            outlook = decision.outlooks.get(one.id)
            if outlook is None or _is_hidden(snapshot) or _is_absent(one, snapshot):
                continue
            known = one.id in self._instances.told
            if one.blind and (known or f"instance {one.name}" in self._blind):
                continue
            if known and outlook.phase is not Phase.WATCHING and not anew:  # an incident has its own words
                continue
            what = _standing(one, outlook, config)
            better = isinstance(what, InstanceWatched)
            if self._instances.is_news(one.id, _key(what), snapshot.at, at_once=anew or better or not known):
                yield Tell(what, one.name)

    def _of_masters(self, snapshot: Snapshot, *, anew: bool) -> list[Tell]:
        self._masters.forget_all_but(snapshot.not_covered)
        told = [
            Tell(NotCovered(one))
            for one in dict.fromkeys(snapshot.not_covered)
            if self._masters.is_news(one, True, snapshot.at, at_once=anew)  # noqa: FBT003 - same
        ]
        if len(told) > AT_ONCE:
            told[AT_ONCE:] = [
                Tell(NotCovered(f"{len(told) - AT_ONCE} more uWSGI masters; `mongo-watchdog status` lists them"))
            ]
        return told


def _is_heard(snapshot: Snapshot, config: Config) -> bool:
    """Say whether every member has been heard of, and where it is; or it is said why not."""
    blind = {one.scope for one in snapshot.blind}
    if any(one.area in EVERYBODYS for one in blind):
        return True
    known = {id_.deployment for id_ in snapshot.members}
    unknown = [one.name for one in config.deployments if one.name not in known]
    silent = [
        id_
        for id_, one in snapshot.members.items()
        if not one.unneeded and (one.state is MemberState.UNKNOWN or not one.endpoints)
    ]
    return all(Scope(Area.DEPLOYMENT, name) in blind for name in unknown) and all(
        {Scope(Area.DEPLOYMENT, id_.deployment), Scope(Area.MEMBER, id_.address)} & blind for id_ in silent
    )


def _is_absent(instance: Instance, snapshot: Snapshot) -> bool:
    return instance.master is None and not instance.blind and not _is_hidden(snapshot)


def _is_hidden(snapshot: Snapshot) -> bool:
    return any(one.scope.area is Area.PROCESSES for one in snapshot.blind)


def _standing(instance: Instance, outlook: Outlook, config: Config) -> InstanceWatched | InstanceShown:
    found = config.instances is None
    pid, workers = instance.master.pid if instance.master else None, len(instance.workers)
    unseen = f"it cannot be seen: {instance.blind[0]}" if instance.blind else ""
    if reason := unseen or outlook.only_shown or instance.fifo_problem:
        return InstanceShown(found, pid, workers, instance.fifo, reason)
    return InstanceWatched(found, pid, workers, instance.fifo, ", ".join(outlook.ways), config.mode.value)


def _key(what: InstanceWatched | InstanceShown) -> Hashable:
    """Return what of it is news when it changes: who its processes are is not."""
    return (what.ways, what.mode) if isinstance(what, InstanceWatched) else what.reason


def _bounded(told: list[Tell]) -> list[Tell]:
    """Leave out what is too much, and say how much that is; first who is only shown."""
    told.sort(key=lambda one: isinstance(one.what, InstanceWatched))
    rest = told[AT_ONCE:]
    if not rest:
        return told
    watched = sum(isinstance(one.what, InstanceWatched) for one in rest)
    return [*told[:AT_ONCE], Tell(MoreInstances(len(rest), watched, len(rest) - watched))]
