"""The records of incidents: what is written, when, and what becomes of it where it cannot be."""

import itertools
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.world.apps import Kind
from tests.world.records import Records
from tests.world.world import World, busy_app
from watchdogd.config import Idle, PolicyConfig
from watchdogd.model.seen import Area, Scope, Verb
from watchdogd.model.told import Event, MemberDown, MemberUp, NotCovered, Paused, Resumed, Started, Tell, WentBlind
from watchdogd.report import history
from watchdogd.report.record import FOLDER, LONGEST_LINE, decoded, file_name

DAY = 86400.0
DOWN, UP = MemberDown("main", "connection refused", "down"), MemberUp("main", 10.0, restarted=True)
ELSEWHERE = MemberDown("archive", None, "down")


@pytest.fixture
def world() -> World:
    return busy_app()


@pytest.fixture
def records(tmp_path: Path, world: World) -> Records:
    return Records(tmp_path, world)


def _umask() -> int:
    now = os.umask(0o77)
    os.umask(now)
    return now


def until_over(world: World) -> None:
    world.run_until(lambda: Event.RECOVERED.value in world.events())
    world.run(2)


# ---- what is written


def test_an_incident_is_one_file_with_what_was_seen_and_told_in_its_order(records: Records, world: World) -> None:
    world.run(30)
    assert records.files == []
    records.news = [Tell(DOWN, member="10.0.0.1:27017")]
    world.outage(10)
    records.news = [Tell(UP, member="10.0.0.1:27017")]
    until_over(world)

    (file,) = records.files
    assert file.stat().st_mode & 0o777 == 0o640 & ~_umask()
    lines = records.lines()
    assert {(one["incident"], one["instance"]) for one in lines} == {(file.stem, "prefork")}
    assert records.told() == ["member_down", "member_up", *world.events()]
    first = next(one for one in lines if "seen" in one)
    assert (first["seen"]["phase"], first["seen"]["serving"], first["seen"]["workers"]) == (
        "outage",
        False,
        {"stranded": 3},
    )
    assert first["began"] == first["at"]
    due = next(one for one in lines if one.get("told", {}).get("event") == "leftovers_found")
    assert due["told"]["fields"] == {"leftovers": 1, "workers": 3, "until_s": 14.0}
    assert due["told"]["text"].startswith("prefork still holds 1 dead connection to MongoDB in 3 workers.")
    assert (lines[-1]["over"], lines[-1]["at"]) == ("recovered", lines[-2]["at"])


def test_evidence_is_kept_with_its_times(records: Records, world: World) -> None:
    world.outage(10)
    until_over(world)
    settling = next(one for one in records.lines() if one.get("seen", {}).get("phase") == "settling")
    (sign,) = [one for one in settling["seen"]["evidence"] if one["kind"] == "leftover"][:1]
    assert sign["ripe"] == sign["since"] + world.policy.linger_s
    assert sign["text"].startswith(f"worker {sign['pid']} has used MongoDB since MongoDB serves again, and holds only")


def test_nothing_is_written_while_nothing_changes(records: Records, world: World) -> None:
    world.ask(Verb.PAUSE)
    world.outage(10)
    world.run(60)
    assert "reload_held" in records.told()
    before = records.files[0].stat()
    world.run(300)
    assert records.files[0].stat().st_mtime_ns == before.st_mtime_ns
    assert len(records.lines()) < 12


def test_what_flickers_is_kept_ever_more_seldom(records: Records, world: World) -> None:
    """An incident that nobody ends: each second another gate holds it."""
    world.ask(Verb.PAUSE)
    world.outage(10)
    for _ in range(300):
        world.daemon.watch.blind ^= {"deployment main"}
        world.run(1)
    seen = [one["at"] for one in records.lines() if "seen" in one]
    assert 60 < len(seen) < 120
    assert max(late - soon for soon, late in itertools.pairwise(seen[20:60])) <= 1
    assert seen[-1] - seen[-2] > 10


def test_each_instance_has_its_own_and_a_member_is_told_to_those_of_its_deployment(tmp_path: Path) -> None:
    world = World(kinds=(Kind.PREFORK, Kind.RESIDUE))
    world.traffic = dict.fromkeys(world.traffic, 3)
    records = Records(tmp_path, world)
    world.run(5)
    records.news = [Tell(DOWN, member="10.0.0.1:27017"), Tell(ELSEWHERE, member="10.0.0.9:27017")]
    world.outage(10)
    assert len(records.files) == 2
    for number in (0, 1):
        assert records.told(number)[:1] == ["member_down"]
        assert "archive" not in json.dumps(records.lines(number))


def test_what_was_told_of_mongodb_right_before_leads_to_it(records: Records, world: World) -> None:
    records.news = [Tell(MemberUp("main", None, restarted=False), member="10.0.0.1:27017")]
    world.run(60)
    records.news = [Tell(DOWN, member="10.0.0.1:27017")]
    world.run(3)
    world.outage(10)
    first, then = records.lines()[:2]
    assert (first["told"]["event"], first["at"] < then["began"]) == ("member_down", True)
    assert records.told().count("member_up") == 0


def test_what_operators_do_and_what_cannot_be_seen_stands_in_all_that_go_on(records: Records, world: World) -> None:
    records.tell(Tell(Paused("before", 60.0, "bob")))
    world.outage(10)
    records.tell(Tell(Paused("deploy", 60.0, "alice")))
    records.tell(Tell(Resumed("alice")))
    records.tell(Tell(WentBlind("member m", "refused")))
    records.tell(Tell(NotCovered("uWSGI master 17 has no FIFO")))
    world.run(1)
    assert "not_covered" not in records.told()
    assert [one for one in records.told() if one in {"paused", "resumed", "blind"}] == ["paused", "resumed", "blind"]
    (paused,) = [one["told"] for one in records.lines() if one.get("told", {}).get("event") == "paused"]
    assert (paused["fields"]["by"], paused["fields"]["reason"]) == ("alice", "deploy")


def test_another_daemon_goes_on_with_the_same_record(records: Records, world: World) -> None:
    world.outage(10)
    world.run(3)
    records.restart()
    records.tell(Tell(Started("0.1.0", "act", 1, None)))
    until_over(world)
    (file,) = records.files
    assert [one for one in records.told() if one in {"started", "recovered"}] == ["started", "recovered"]
    assert [one["over"] for one in records.lines() if "over" in one] == ["recovered"]
    began = {one["began"] for one in records.lines() if "began" in one}
    assert began == {records.lines()[0]["began"]}
    assert file.stem == records.lines()[-1]["incident"]


# ---- names


def test_a_name_of_a_file_leads_nowhere_and_is_no_other_ones() -> None:
    for id_ in ("../../etc/x-17-1", "a/b\n-17-1", "ü\x00-17-1", "x" * 4000 + "-17-1"):
        name = file_name(id_)
        assert name.endswith("-17-1.jsonl")
        assert not set(name) & set("/\n\0")
        assert len(os.fsencode(name)) < 256
    assert file_name("shop-17-1") != file_name("shop-17-11")


# ---- where it cannot be written


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """The kernel writes what fits, as on a full disk, and then nothing (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back_and_written_later(records: Records, world: World) -> None:
    world.outage(10)
    whole = records.files[0].stat().st_size
    with no_file_larger_than(whole + 100):
        world.run(3)
        assert records.files[0].stat().st_size == whole
        (blind,) = records.sinks.blind()
        assert blind.scope == Scope(Area.SINK, "history")
        assert "No space left" in blind.why or "File too large" in blind.why
        until_over(world)  # which waits for nothing of it
        assert records.files[0].stat().st_size == whole
    world.run(1)
    assert records.sinks.blind() == ()
    assert records.told() == world.events()
    assert records.lines()[-1]["over"] == "recovered"


def test_a_folder_that_cannot_be_made_holds_nothing_and_is_told(records: Records, world: World) -> None:
    (records.folder / FOLDER).write_text("in the way")
    world.outage(10)
    until_over(world)
    (blind,) = records.sinks.blind()
    assert str(records.folder / FOLDER) in blind.why
    assert "No reload waits for it" in blind.why
    (records.folder / FOLDER).unlink()
    world.run(1)
    assert records.sinks.blind() == ()
    assert records.told() == world.events()


def test_one_file_that_cannot_be_written_is_no_trouble_of_the_others(records: Records, world: World) -> None:
    world.outage(10)
    until_over(world)
    first = records.files[0]
    told = len(world.events())
    world.run(120)
    world.stop()
    world.run(3)
    second = next(one for one in records.files if one != first)
    second.unlink()
    second.mkdir()
    world.start()
    world.run(5)
    assert records.sinks.blind()
    second.rmdir()
    world.run(120)
    assert records.sinks.blind() == ()
    assert len(records.files) == 2
    assert len(world.events()) > told


def test_lines_that_wait_too_long_are_counted_and_the_ending_is_not_among_them(
    records: Records, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_WAITING", 3)
    (records.folder / FOLDER).write_text("in the way")
    world.outage(10)
    for _ in range(20):
        records.tell(Tell(Resumed("alice")))
    until_over(world)
    (records.folder / FOLDER).unlink()
    world.run(1)
    lines = records.lines()
    assert lines[-1]["over"] == "recovered"
    assert sum(one.get("left_out", 0) for one in lines) > 15
    assert len(lines) < 10


def test_behind_half_a_line_the_next_one_begins_anew(records: Records, world: World) -> None:
    world.outage(10)
    with records.files[0].open("ab") as file:
        file.write(b'{"version":1,"at":17')
    until_over(world)
    lines = records.files[0].read_bytes().split(b"\n")
    assert lines.count(b'{"version":1,"at":17') == 1
    assert decoded(lines[-2]).over == "recovered"


# ---- bounds


def test_a_record_that_is_full_still_takes_what_was_done_and_how_it_ended(
    records: Records, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_RECORD", 16_000)
    world.outage(10)
    for _ in range(300):
        records.tell(Tell(Resumed("alice")))
    until_over(world)
    assert records.files[0].stat().st_size <= 16_000 + 1000
    told = records.told()
    assert 20 < told.count("resumed") < 300
    assert [one for one in told if one in {"reload_sent", "recovered"}] == ["reload_sent", "recovered"]
    lines = records.lines()
    assert lines[-1]["over"] == "recovered"
    left = sum(one.get("left_out", 0) for one in lines)
    assert told.count("resumed") + left >= 300


def test_no_line_is_longer_than_one_that_is_read(records: Records, world: World) -> None:
    world.outage(10)
    records.tell(Tell(WentBlind("x" * 100_000, "\x1b" * 100_000)))
    world.run(1)
    assert max(map(len, records.files[0].read_bytes().splitlines())) < LONGEST_LINE


def aged(records: Records, name: str, days: float, size: int = 10) -> Path:
    """A record of an earlier incident."""
    path = records.folder / FOLDER / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"x" * size)
    at = records.world.clock.wall() - days * DAY
    os.utime(path, (at, at))
    return path


def test_records_are_kept_for_as_long_as_is_configured(records: Records, world: World) -> None:
    old, young = aged(records, "old-1-1.jsonl", 91), aged(records, "young-1-2.jsonl", 89)
    other = aged(records, "README", 1000)
    world.run(1)
    assert (old.exists(), young.exists(), other.exists()) == (False, True, True)
    records.keep(30 * DAY)
    world.run(1)
    assert not young.exists()


def test_the_oldest_go_where_there_is_too_much(records: Records, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_TOTAL", 100_000)
    kept = [aged(records, f"x-{day}-1.jsonl", day, 30_000) for day in range(1, 6)]
    world.run(1)
    assert [one.exists() for one in kept] == [True, True, True, False, False]
    monkeypatch.setattr(history, "MAX_RECORDS", 2)
    world.outage(10)
    world.run(history.SWEEP_EVERY_S)
    assert [one.exists() for one in kept[:3]] == [True, False, False]


def test_before_the_first_look_nothing_goes(records: Records) -> None:
    """A first tick that fails must cost no record: what is to be kept is not known yet."""
    old = aged(records, "old-1-1.jsonl", 1000)
    records.sinks.flush()
    assert old.exists()


def test_a_folder_among_them_stays_and_is_no_trouble(records: Records, world: World) -> None:
    (records.folder / FOLDER / "x.jsonl").mkdir(parents=True)
    old = aged(records, "old-1-1.jsonl", 1000)
    world.run(1)
    assert not old.exists()
    assert records.sinks.blind() == ()


def test_one_of_an_instance_that_cannot_be_seen_after_a_restart_stays(records: Records, world: World) -> None:
    world.ask(Verb.PAUSE)
    world.outage(10)
    records.restart()
    world.daemon.watch.blind.add("processes")  # with which nobody forgets an instance
    world.daemon.watch.taken_out.add("prefork")
    os.utime(records.files[0], (1, 1))
    world.run(1)
    assert len(records.files) == 1


def test_a_clock_that_is_set_back_makes_no_record_dumb(records: Records, world: World) -> None:
    world.ask(Verb.PAUSE)
    world.outage(10)
    before = len(records.lines())
    world.clock.wall_at_zero -= 3600
    world.run(60)
    assert records.lines()[before]["at"] < records.lines()[0]["at"]
    assert records.told()[-1] == "reload_held"


def test_an_open_one_stays_however_old_it_is(records: Records, world: World) -> None:
    world.ask(Verb.PAUSE)
    world.outage(10)
    os.utime(records.files[0], (1, 1))
    records.keep(DAY)
    world.run(1)
    assert len(records.files) == 1


def test_with_keep_0_nothing_is_kept(tmp_path: Path) -> None:
    world = busy_app()
    records = Records(tmp_path, world)
    records.keep(0.0)
    old = aged(records, "old-1-1.jsonl", 1)
    world.outage(10)
    until_over(world)
    assert not old.exists()
    assert records.files == []
    assert records.sinks.blind() == ()


def test_an_incident_that_begins_when_it_is_turned_on_again_is_kept(tmp_path: Path) -> None:
    world = busy_app(policy=PolicyConfig(idle=Idle.RELOAD))
    records = Records(tmp_path, world)
    records.keep(0.0)
    world.outage(10)
    records.keep(90 * DAY)
    until_over(world)
    assert records.told() == world.events()
