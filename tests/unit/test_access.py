"""Access control of members: who is asked, how often, what is told of it, and what outlives the daemon."""

from contextlib import closing
from pathlib import Path

import pytest

from tests.world.host import ADDRESS, FIFO, MAIN, Host, Watcher, config_of
from watchdogd.config import DeploymentConfig
from watchdogd.model.base import MemberId
from watchdogd.model.seen import Access, MemberState
from watchdogd.model.told import Event
from watchdogd.observe.mongod.access import AGAIN_S, TRIES
from watchdogd.observe.observer import Observer
from watchdogd.service.store import Store

SAME = "10.0.0.2:27017"
"""Another name of the same mongod."""
BOOT, OTHER_BOOT = "boot-1", "boot-2"


@pytest.fixture
def host() -> Host:
    """One mongod without access control."""
    host = Host()
    host.start_mongod()
    host.asker.access[ADDRESS] = False
    return host


def watching(host: Host) -> Watcher:
    watcher = Watcher(host, config_of(FIFO))
    watcher.tick(6)
    return watcher


def restart(host: Host, watcher: Watcher, *, access: bool | None) -> None:
    """It is started anew, with or without access control; None: it does not tell."""
    host.stop_mongod()
    watcher.tick(3)
    host.asker.access.pop(ADDRESS, None)
    if access is not None:
        host.asker.access[ADDRESS] = access
    host.start_mongod()
    watcher.tick(3)


def probed(host: Host) -> list[str]:
    """Which lives were asked."""
    return [str(one.incarnation) for one in host.asker.probes]


def life(number: int) -> str:
    return f"{ADDRESS}#{number}"


def access(watcher: Watcher, address: str = ADDRESS) -> Access | None:
    return watcher.snapshot.members[MemberId(MAIN, address)].access


def is_on(watcher: Watcher, address: str = ADDRESS) -> bool | None:
    known = access(watcher, address)
    return known.on if known else None


def turned_on(watcher: Watcher) -> float | None:
    known = access(watcher)
    return known.turned_on if known else None


def told(watcher: Watcher) -> list[str | None]:
    """Of which members it was told that access control is on now."""
    return [one.member for one in watcher.told if one.event is Event.ACCESS_CONTROL_ON]


def again(host: Host, watcher: Watcher, folder: Path, boot_id: str = BOOT) -> Watcher:
    """The daemon saves, ends, and is started once more."""
    with closing(Store(folder, BOOT)) as store:
        now = host.clock.now
        store.save(watcher.state, watcher.observer.ended(), now, host.clock.wall(), watcher.observer.access())
    host.heartbeats.watch({})
    with closing(Store(folder, boot_id)) as store:
        loaded = store.load(host.clock.now, host.clock.wall())
    new = Watcher(host, config_of(FIFO), loaded.state)
    new.observer.restore(loaded.observed, loaded.access)
    return new


# ---- who is asked


def test_a_member_is_asked_once_in_each_life_of_it(host: Host) -> None:
    watcher = watching(host)
    watcher.tick(300)
    assert probed(host) == [life(1)]
    restart(host, watcher, access=False)
    watcher.tick(300)
    assert probed(host) == [life(1), life(2)]


def test_two_names_of_one_process_are_asked_once_and_both_know(host: Host) -> None:
    host.say(SAME, process_id=life(1))
    watcher = Watcher(host, config_of(FIFO, uri=f"mongodb://{ADDRESS},{SAME}"))
    watcher.tick(10)
    assert probed(host) == [life(1)]
    assert [is_on(watcher), is_on(watcher, SAME)] == [False, False]


def test_who_is_not_up_is_not_asked(host: Host) -> None:
    """Not once more either, of a life that has not told yet."""
    del host.asker.access[ADDRESS]
    watcher = watching(host)
    host.stop_mongod(state=MemberState.FROZEN)
    watcher.tick(int(AGAIN_S) + 10)
    assert probed(host) == [life(1)]
    host.say()
    watcher.tick(3)
    assert probed(host) == [life(1), life(1)]


def test_who_does_not_tell_is_asked_some_times_more_and_then_left_in_peace(host: Host) -> None:
    del host.asker.access[ADDRESS]
    watcher = watching(host)
    watcher.tick(int(AGAIN_S) - 5)
    assert len(probed(host)) == 1
    watcher.tick(int(AGAIN_S * (TRIES + 3)))
    assert probed(host) == [life(1)] * TRIES
    assert access(watcher) is None


def test_who_remembers_nothing_asks_nobody(host: Host) -> None:
    """Else `check --live` would ask each time that it is called."""
    observer = Observer(config_of(FIFO), host.edges())
    for _ in range(10):
        host.pass_time(1.0)
        observer.look(full=True)
    assert probed(host) == []


def test_with_probe_access_off_nobody_is_asked(host: Host) -> None:
    deployment = DeploymentConfig(MAIN, f"mongodb://{ADDRESS}", probe_access=False)
    watcher = Watcher(host, config_of(FIFO, deployments=(deployment,)))
    watcher.tick(30)
    assert probed(host) == []


def test_turned_off_at_run_time_nothing_is_shown_any_more(host: Host) -> None:
    watcher = watching(host)
    assert is_on(watcher) is False
    off = DeploymentConfig(MAIN, f"mongodb://{ADDRESS}", probe_access=False)
    watcher.observer.reconfigure(config_of(FIFO, deployments=(off,)))
    watcher.tick()
    assert access(watcher) is None


def test_where_the_uri_has_a_client_certificate_nobody_is_asked(host: Host) -> None:
    """It is a credential, and where mongod wants to see one nobody gets an answer without."""
    watcher = Watcher(host, config_of(FIFO, uri=f"mongodb://{ADDRESS}/?tlsCertificateKeyFile=/etc/client.pem"))
    watcher.tick(30)
    assert watcher.snapshot.members[MemberId(MAIN, ADDRESS)].state is MemberState.UP
    assert probed(host) == []


def test_the_question_has_the_options_for_tls_and_nothing_else_of_the_uri(host: Host) -> None:
    watcher = Watcher(host, config_of(FIFO, uri=f"mongodb://me:hunter2@{ADDRESS}/?tlsCAFile=/etc/ca.pem"))
    watcher.tick(3)
    (probe,) = host.asker.probes
    assert dict(probe.way) == {"tls": "true", "tlsCAFile": "/etc/ca.pem"}
    assert "ca.pem" not in repr(probe)


# ---- what is told


def test_that_it_is_on_and_was_not_before_is_told_once(host: Host) -> None:
    watcher = watching(host)
    restart(host, watcher, access=True)
    watcher.tick(300)
    assert told(watcher) == [ADDRESS]
    restart(host, watcher, access=True)
    watcher.tick(300)
    assert told(watcher) == [ADDRESS]


def test_the_first_look_ever_tells_nothing(host: Host) -> None:
    host.asker.access[ADDRESS] = True
    watcher = watching(host)
    assert is_on(watcher) is True
    assert told(watcher) == []
    assert turned_on(watcher) is None


def test_a_life_that_did_not_tell_says_nothing_of_the_one_before(host: Host) -> None:
    watcher = watching(host)
    restart(host, watcher, access=None)
    assert access(watcher) is None
    restart(host, watcher, access=True)
    assert told(watcher) == [ADDRESS]


def test_turned_off_again_it_is_no_cause_any_more_and_the_next_change_is_told(host: Host) -> None:
    watcher = watching(host)
    restart(host, watcher, access=True)
    restart(host, watcher, access=False)
    assert (is_on(watcher), turned_on(watcher)) == (False, None)
    assert told(watcher) == [ADDRESS]
    restart(host, watcher, access=True)
    assert told(watcher) == [ADDRESS, ADDRESS]


def test_since_when_it_is_on_outlasts_a_further_restart_of_mongod(host: Host) -> None:
    watcher = watching(host)
    restart(host, watcher, access=True)
    since = turned_on(watcher)
    assert since is not None
    restart(host, watcher, access=True)
    assert turned_on(watcher) == since


# ---- over a restart of the daemon


@pytest.mark.parametrize("boot", [BOOT, OTHER_BOOT])
def test_a_change_while_the_daemon_was_away_is_told(host: Host, tmp_path: Path, boot: str) -> None:
    watcher = watching(host)
    host.asker.access[ADDRESS] = True
    host.start_mongod()
    watcher = again(host, watcher, tmp_path, boot)
    watcher.tick(8)
    assert probed(host) == [life(1), life(2)]
    assert told(watcher) == [ADDRESS]


def test_a_life_that_told_the_daemon_before_is_not_asked_again(host: Host, tmp_path: Path) -> None:
    watcher = watching(host)
    restart(host, watcher, access=True)
    before = access(watcher)
    watcher = again(host, watcher, tmp_path)
    watcher.tick(8)
    assert probed(host) == [life(1), life(2)]
    assert access(watcher) == before
    assert told(watcher) == []


def test_without_a_process_id_nobody_knows_that_it_is_the_same_life(host: Host, tmp_path: Path) -> None:
    """With mongod 4.2: restarted while the daemon was away, it has the same name as before."""
    host.say(process_id=None, born=None)
    watcher = watching(host)
    assert is_on(watcher) is False
    host.asker.access[ADDRESS] = True
    watcher = again(host, watcher, tmp_path)
    watcher.tick(8)
    assert len(probed(host)) == 2
    assert told(watcher) == [ADDRESS]


def test_who_is_no_member_any_more_is_forgotten(host: Host, tmp_path: Path) -> None:
    watcher = watching(host)
    gone = Access(MemberId(MAIN, "10.9.9.9:27017"), access(watcher).incarnation, on=True)  # type: ignore[union-attr]
    other = Access(MemberId("archive", "10.9.9.9:27017"), gone.incarnation, on=True)
    watcher = again(host, watcher, tmp_path)
    watcher.observer.restore((), (gone, other))
    watcher.observer.reconfigure(config_of(FIFO))
    watcher.tick(8)
    assert [one.member.address for one in watcher.observer.access()] == [ADDRESS]
