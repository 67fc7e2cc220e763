"""What a real master sends to a real mongod: a driver whose monitor runs, and one whose threads were never started."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.mongod import Mongod
from rig.uwsgi import Uwsgi
from tests.integration.looking import Looking, of
from watchdogd.model.seen import Connection, Snapshot, Tcp

# The last uWSGI with Python threads off.
WITHOUT_THREADS = "2.0.26"


@pytest.fixture
def at_end() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def held(snapshot: Snapshot, app: Uwsgi) -> list[Connection]:
    """The ESTABLISHED connections of this master."""
    held = [one for one in snapshot.connections if app.master in {holder.pid for holder in one.holders}]
    return [one for one in held if one.tcp is Tcp.ESTABLISHED]


def test_a_master_with_threads_sends_and_one_without_only_has_received(at_end: ExitStack, tmp_path: Path) -> None:
    mongod = at_end.enter_context(Mongod(tmp_path / "mongod"))
    with_threads = at_end.enter_context(Uwsgi(tmp_path / "a", mongod.uri, heartbeat_ms=1000, processes=1))
    without = at_end.enter_context(
        Uwsgi(tmp_path / "b", mongod.uri, heartbeat_ms=1000, processes=1, version=WITHOUT_THREADS)
    )
    looking = Looking(at_end, mongod, with_threads, without)

    def both(snapshot: Snapshot) -> Snapshot | None:
        (member,) = snapshot.members.values()
        assert member.served_since
        heard = [one for one in held(snapshot, without) if one.last_data.lo > member.served_since.hi]
        return snapshot if heard and of(snapshot, with_threads).master_sent else None

    seen = looking.until(both, "one master sends, and the other one receives")
    (sent,) = of(seen, with_threads).master_sent
    assert sent.member in seen.members
    assert sent.since >= sent.last.lo
    assert of(seen, without).master_sent == ()
    # What it received nobody reads: for the first edition it was a sign that the driver works.
    assert max(one.rqueue for one in held(seen, without)) > 0
