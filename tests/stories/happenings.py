"""What may happen to MongoDB, to the network, or to the apps at a bad moment: each one thing, on a stage of its own."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import pytest

from rig import netns, packets
from rig.mongod import Mongod
from rig.netns import Namespace
from rig.uwsgi import Uwsgi
from tests.stories.stage import HEARTBEAT_MS, Stage, close_waits, eventually, outage

# What makes a client in a worker forget its server is a request while that is away; three times the apps' 3 s.
OUTAGE_S = 9.0
# 198.18.0.0/15 is for tests (RFC 2544): the ends of a cable between the apps' network and MongoDB's.
NEAR, FAR = "198.18.77.2", "198.18.77.1"


class FarMongod(Mongod):
    """A mongod at the far end of the cable."""

    @property
    def host(self) -> str:
        return FAR


class Happening(ABC):
    """One happening, with the MongoDB that it happens to, `uri`; this thread is in the network of the apps.

    `options`: of the apps whose client is made before the fork. `strands_silently`: an app of which no request failed
    may be stuck at its next use all the same. `reloads_by_somebody`: how often that reloads the apps that run.
    `may_overtake`: it goes on while apps that it has stranded may be cured already.
    """

    options: ClassVar[str] = ""
    heartbeat_ms: ClassVar[int] = HEARTBEAT_MS
    # Longer than an app that heals needs, so that it shows who was stuck.
    linger_s: ClassVar[float] = 8.0
    strands_silently: ClassVar[bool] = True
    apps_start_meanwhile: ClassVar[bool] = False
    reloads_by_somebody: ClassVar[int] = 0
    may_overtake: ClassVar[bool] = False

    def __init__(self, stage: Stage) -> None:
        self.mongod = stage.mongod()
        self.uri = self.mongod.uri

    @abstractmethod
    def happens(self, apps: Iterable[Uwsgi]) -> float:
        """It happens to these apps; gives when MongoDB was back (monotonic)."""


class Restart(Happening):
    """mongod is away for a while."""

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        return outage(self.mongod, seconds=OUTAGE_S)


class OfReplicaSet(Happening):
    """Something that happens to three members."""

    def __init__(self, stage: Stage) -> None:
        self.replica_set = stage.replica_set()
        self.uri = self.replica_set.uri


class StepDown(OfReplicaSet):
    """Another member is primary, and no connection ends."""

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        self.replica_set.step_down()
        return time.monotonic()


class ThreeElections(OfReplicaSet):
    """One after the other, as fast as the set can, and none brings back the first primary, whom the apps know."""

    may_overtake = True  # 2 s all three, and 5 s and more on a loaded machine

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        self.replica_set.step_down()
        for _ in range(2):
            self.replica_set.wait_secondaries(2)
            old = self.replica_set.wait_primary()
            self.replica_set.step_down()
            self.replica_set.may_lead_again(old)
        return time.monotonic()


class PrimaryKilled(OfReplicaSet):
    """The primary is gone for good, and the others elect one of them."""

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        old = self.replica_set.wait_primary()
        old.kill()
        self.replica_set.wait_primary(other_than=old)
        return time.monotonic()


class StartedWhileAway(Happening):
    """The apps are started while there is no mongod."""

    apps_start_meanwhile = True

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self.mongod.stop()

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        time.sleep(OUTAGE_S)
        self.mongod.start()
        return time.monotonic()


class ReloadedTooEarly(Happening):
    """Somebody reloads all apps that soon after mongod is back: their masters have not seen it again yet.

    They see it 20 s after they lost it. By then all workers are forked, though some only 6 s after the `w`: a worker
    that ends joins pymongo's threads, which it does not have.
    """

    heartbeat_ms = 20_000
    linger_s = 25.0
    reloads_by_somebody = 1
    after_s: ClassVar[float]

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        old = {app: set(app.workers()) for app in apps}
        back = outage(self.mongod, seconds=3)
        time.sleep(self.after_s)
        for app in old:
            app.send(b"w")
        for app, workers in old.items():
            eventually(
                lambda: workers.isdisjoint(app.ready_workers()) and len(app.ready_workers()) == app.processes,  # noqa: B023
                f"new workers of {app.folder.name}",
                within=60,
                log=app.log,
            )
        return back


class ReloadedAtOnce(ReloadedTooEarly):
    after_s = 0.3


class ReloadedAfter2S(ReloadedTooEarly):
    after_s = 2.0


class Freeze(Happening):
    """mongod takes connections and answers nothing, for longer than the apps wait for an answer."""

    options = "?socketTimeoutMS=2000"
    strands_silently = False

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        self.mongod.freeze()
        time.sleep(2 * OUTAGE_S)
        self.mongod.thaw()
        return time.monotonic()


class InNetwork(Happening):
    """Something that happens in a network namespace of the story's own."""

    def __init__(self, stage: Stage) -> None:
        if reason := netns.skip_reason():
            pytest.skip(reason)
        self.near = stage.stack.enter_context(Namespace())
        stage.stack.enter_context(self.near.entered())
        self.lay(stage)
        self.uri = self.mongod.uri

    @abstractmethod
    def lay(self, stage: Stage) -> None:
        """Starts `mongod`."""


class BehindCable(InNetwork):
    """mongod is in another network than the apps; packets between them can be dropped."""

    def lay(self, stage: Stage) -> None:
        self.far = stage.stack.enter_context(Namespace())
        self.near.cable_to(self.far, f"{NEAR}/30", f"{FAR}/30")
        with self.far.entered():
            self.mongod = stage.stack.enter_context(FarMongod(stage.folder / "mongod"))
        stage.mongods.append(self.mongod)


class NetworkDead(BehindCable):
    """No packet comes through until TCP gives up (ETIMEDOUT), after 13 s here instead of 15 minutes."""

    def lay(self, stage: Stage) -> None:
        super().lay(stage)
        self.near.sysctl("net.ipv4.tcp_retries2", 5)

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        with self.far.entered(), packets.cut():
            time.sleep(20)
        return time.monotonic()


class HostLost(BehindCable):
    """mongod's host is gone without a word, and comes back with another mongod."""

    def lay(self, stage: Stage) -> None:
        super().lay(stage)
        self.far.sysctl("net.ipv4.tcp_orphan_retries", 1)  # its kernel forgets the connections before it may speak

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        with self.far.entered():
            with packets.cut():
                self.mongod.kill()
                time.sleep(15)
            self.mongod.start()
        return time.monotonic()


class Keepalive(InNetwork):
    """mongod is away until keepalive has removed every CLOSE_WAIT: after 3 s here instead of 120."""

    def lay(self, stage: Stage) -> None:
        self.near.sysctl("net.ipv4.tcp_keepalive_time", 3)
        self.near.sysctl("net.ipv4.tcp_fin_timeout", 3)
        self.mongod = stage.mongod()

    def happens(self, apps: Iterable[Uwsgi]) -> float:
        self.mongod.stop()
        time.sleep(OUTAGE_S)
        eventually(lambda: close_waits(self.mongod.port) == 0, "the end of every CLOSE_WAIT", within=30)
        self.mongod.start()
        return time.monotonic()


HAPPENINGS = {
    "restart": Restart,
    "step-down": StepDown,
    "three elections": ThreeElections,
    "primary killed": PrimaryKilled,
    "started while away": StartedWhileAway,
    "w after 0.3 s": ReloadedAtOnce,
    "w after 2 s": ReloadedAfter2S,
    "frozen": Freeze,
    "network dead": NetworkDead,
    "host lost": HostLost,
    "keepalive": Keepalive,
}
