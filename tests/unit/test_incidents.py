"""What is read of records, and how it is shown: of whole ones, and of what a crash or a broken disk has left."""

import contextlib
import json
import os
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.records import Records
from tests.world.schemas import strict
from tests.world.values import ANY_JSON
from tests.world.world import World, busy_app
from watchdogd.cli.main import main
from watchdogd.codec import CodecError
from watchdogd.model.seen import Verb
from watchdogd.model.told import Event, MemberDown, Paused, Resumed, Tell
from watchdogd.report import incidents
from watchdogd.report.incidents import Happened, Read
from watchdogd.report.record import FOLDER, LONGEST_LINE, Line, Seen, Sign, Told, decoded
from watchdogd.report.words import duration

AT = 1_790_000_000.0
LINE = Line(AT, "shop-17-1", "shop", told=Told("leftovers_found", "shop still holds one.", None, {"until_s": 14.0}))
LISTED = strict("incidents")


@pytest.fixture
def world() -> World:
    return busy_app()


@pytest.fixture
def records(tmp_path: Path, world: World) -> Records:
    return Records(tmp_path, world)


def read(folder: Path, open_ones: frozenset[str] | None = frozenset()) -> Read:
    found = incidents.read(folder, open_ones)
    for one in found.incidents:
        assert [line for line in incidents.story(one) if len(line) > 80] == []
    for whole in (False, True):
        LISTED.validate(incidents.document(found.incidents, found.problems, whole=whole))
    return found


def only(folder: Path, open_ones: frozenset[str] | None = frozenset()) -> Happened:
    found = read(folder, open_ones)
    assert found.problems == ()
    (one,) = found.incidents
    return one


def written(folder: Path, *lines: Line, name: str = "shop-17-1") -> Path:
    """A record with these lines."""
    path = folder / FOLDER / f"{name}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(line.encoded() for line in lines))
    return path


def seen(at: float, *signs: Sign, serving: bool = True) -> Line:
    return Line(at, "shop-17-1", "shop", seen=Seen("due", serving, {"stranded": 2}, {"close_wait": 1}, 1, signs))


def waiting(since: float) -> Sign:
    return Sign("waiting", 4711, since, since, "worker 4711 had 2 requests wait for a server, for 3 s")


def text_of(one: Happened) -> str:
    return " ".join(" ".join(incidents.story(one)).split())


# ---- a whole one


def test_a_cure_is_told_as_a_timeline_with_the_numbers_of_the_journal(records: Records, world: World) -> None:
    records.news = [Tell(MemberDown("main", "refused", "down"), member="10.0.0.1:27017")]
    world.outage(10)
    world.run_until(lambda: Event.RECOVERED.value in world.events())
    world.run(2)
    one = only(records.folder)
    told = world.last(Event.RECOVERED)
    assert (one.id, one.ending, one.seconds) == (told.incident, "recovered", told.fields["seconds"])
    assert one.goes_on is False
    (reload,) = one.reloads
    assert (reload.command, reload.outcome, reload.by) == ("w", "recovered", None)
    text = text_of(one)
    assert f"incident {one.id} of prefork began" in text
    assert ": MongoDB 10.0.0.1:27017 does not answer: refused; applications are left alone" in text
    took = duration(float(str(told.fields["seconds"])))
    assert f"after {took}: recovered reloads workers reload at 2026-" in text
    assert "requests whether requests failed was not seen operators nobody" in text
    assert "Seen: MongoDB does not serve; workers: 3 stranded; 1 dead connection; sockets: 1 CLOSE_WAIT; outage" in text
    assert "only what the outage ended (ripe at +24.0 s). So it is with 103, 104." in text
    assert text.endswith("The incident is over: recovered.")
    heads = [line for line in incidents.story(one) if line.startswith("2026-")]
    assert all(line[:24].endswith("Z") and line[25:35].strip()[0] in "+-" for line in heads)


def test_the_table_has_the_newest_first_and_fits_in_80_columns(records: Records, world: World) -> None:
    for _ in range(2):
        world.outage(10)
        world.run(200)
    world.stop()
    world.run(2)
    found = read(records.folder, frozenset({world.daemon.state.instances[world.apps[0].id].incident.id}))  # type: ignore[union-attr]
    assert [one.ending for one in found.incidents] == [None, "recovered", "recovered"]
    lines = incidents.overview(found.incidents, records.folder)
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["BEGAN", "INSTANCE", "LASTED", "ENDING", "RELOADS", "ID"]
    assert lines[1].split()[1:5] == ["prefork", "-", "open", "0"]
    assert lines[2].split()[1:5] == ["prefork", "27s", "recovered", "1"]
    assert [line.split()[-1] for line in lines[1:]] == [one.id for one in found.incidents]


def test_what_operators_did_is_said_with_who(records: Records, world: World) -> None:
    world.outage(10)
    records.tell(Tell(Paused("deploy", 60.0, "alice")))
    records.tell(Tell(Resumed("the end of the pause")))
    world.run(1)
    one = only(records.folder)
    assert [line.told.event for line in one.operators if line.told] == ["paused"]
    assert "operators alice (paused) at 2026-" in text_of(one)
    (document,) = incidents.document([one], [], whole=False)["incidents"]
    assert [(each["by"], each["event"]) for each in document["operators"]] == [("alice", "paused")]


@pytest.mark.parametrize(
    ("open_ones", "shown", "ended"),
    [
        (frozenset({"shop-17-1"}), "open", "ended not yet"),
        (frozenset(), "not seen", "ended not seen: mongo-watchdog does not remember it any more"),
        (None, "open?", "ended not yet"),
    ],
)
def test_one_without_an_end_says_what_is_known_of_it(
    tmp_path: Path, open_ones: frozenset[str] | None, shown: str, ended: str
) -> None:
    written(tmp_path, LINE)
    one = only(tmp_path, open_ones)
    assert f" {shown} " in incidents.overview([one], tmp_path)[1]
    assert ended in text_of(one)


def test_an_ending_that_was_told_counts_where_the_daemon_ended_right_after(tmp_path: Path) -> None:
    written(tmp_path, LINE, Line(AT + 9, "shop-17-1", "shop", told=Told("healed", "well.", None, {"seconds": 9.5})))
    assert (only(tmp_path).ending, only(tmp_path).seconds) == ("healed", 9.5)


def test_what_a_daemon_that_has_just_begun_does_not_know_yet_is_not_claimed(tmp_path: Path) -> None:
    unheard = Line(AT, "shop-17-1", "shop", seen=Seen("outage", None, {"clear": 2}, {}, 0))
    written(tmp_path, seen(AT, serving=False), unheard)
    assert "Seen: whether MongoDB serves is not known yet; workers: 2 clear" in text_of(only(tmp_path))


# ---- whether requests failed


def test_where_nothing_saw_requests_that_is_said(tmp_path: Path) -> None:
    written(tmp_path, seen(AT), LINE)
    assert only(tmp_path).requests is None
    assert f"requests {incidents.NOT_SEEN}" in text_of(only(tmp_path))


def test_requests_that_were_seen_to_wait_are_told_from_when_to_when(tmp_path: Path) -> None:
    written(
        tmp_path,
        seen(AT, serving=False),
        seen(AT + 20, waiting(AT + 15)),
        seen(AT + 40, waiting(AT + 30)),
        seen(AT + 50),
    )
    assert re.search(
        "requests were seen to wait for MongoDB from 2026-09-21T[0-9:]*Z on, for 35 s at least", text_of(only(tmp_path))
    )
    written(tmp_path, seen(AT + 20, waiting(AT + 15)), LINE)
    assert "requests were seen to wait for MongoDB from 2026-09-21T" in text_of(only(tmp_path))


def test_answers_of_the_app_say_more_than_requests_that_wait(tmp_path: Path) -> None:
    bad = Sign("unanswered", 1, AT + 5, AT + 5, "3 of 4 answers were bad")
    written(tmp_path, seen(AT + 10, bad, waiting(AT + 8)), seen(AT + 20))
    assert re.search("requests were seen to fail from [^ ]* on, for 15 s at least", text_of(only(tmp_path)))


# ---- what a crash, a full disk or a broken one has left


def test_half_a_line_at_the_end_is_counted_and_the_others_are_read(tmp_path: Path) -> None:
    path = written(tmp_path, LINE, LINE)
    whole = path.read_bytes()
    for cut in range(1, len(whole) // 2):
        path.write_bytes(whole[:-cut])
        one = only(tmp_path)
        assert (len(one.lines), one.broken) == ((2, 0) if cut == 1 else (1, 1))
        assert ("broken 1 line of the record could not be read" in text_of(one)) == (cut > 1)


def test_zeros_rubbish_and_a_newer_versions_lines_are_counted(tmp_path: Path) -> None:
    path = written(tmp_path, LINE)
    newer = LINE.encoded().replace(b'"version":1', b'"version":2')
    path.write_bytes(b"\0" * 4096 + b"\n\xff\xfe{\n" + LINE.encoded() + newer + b"[]\n\n" + LINE.encoded() + b"\0" * 99)
    one = only(tmp_path)
    assert (len(one.lines), one.broken) == (2, 5)


def test_a_line_may_have_a_field_that_is_not_known(tmp_path: Path) -> None:
    document = json.loads(seen(AT, waiting(AT)).encoded())
    document["new"] = document["seen"]["new"] = document["seen"]["evidence"][0]["new"] = [1]
    path = written(tmp_path)
    path.write_bytes(json.dumps(document).encode() + b"\n")
    assert only(tmp_path).broken == 0


def test_a_file_of_which_nothing_can_be_read_is_named_and_the_others_are_shown(tmp_path: Path) -> None:
    written(tmp_path, LINE)
    written(tmp_path, name="empty")
    written(tmp_path, name="rubbish").write_bytes(b"rubbish")
    (tmp_path / FOLDER / "folder.jsonl").mkdir()
    (tmp_path / FOLDER / "link.jsonl").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / FOLDER / "fifo.jsonl")
    (tmp_path / FOLDER / "else.txt").write_text("not ours")
    found = read(tmp_path)
    assert [one.id for one in found.incidents] == ["shop-17-1"]
    assert [Path(one.split(":")[0]).name for one in found.problems] == [
        "empty.jsonl",
        "fifo.jsonl",
        "folder.jsonl",
        "link.jsonl",
        "rubbish.jsonl",
    ]
    assert "root:" not in " ".join(found.problems)


def test_of_a_huge_file_only_so_much_is_read(tmp_path: Path) -> None:
    path = written(tmp_path, LINE)
    with path.open("r+b") as file:
        file.truncate(1 << 36)  # 64 GB of zeros, which take no room
    one = only(tmp_path)
    assert (len(one.lines), one.broken) == (1, 1)
    path.write_bytes(b"x" * (LONGEST_LINE * 4) + b"\n" + LINE.encoded())
    assert (len(only(tmp_path).lines), only(tmp_path).broken) == (1, 1)


@given(st.lists(st.binary(max_size=200) | ANY_JSON.map(lambda value: json.dumps(value).encode()), max_size=5))
def test_nothing_but_a_codec_error_comes_of_any_line(lines: list[bytes]) -> None:
    for line in lines:
        with_version = line.replace(b"{", b'{"version":1,"at":1,"incident":"i","instance":"s",', 1)
        for one in (line, with_version):
            with contextlib.suppress(CodecError):
                assert decoded(one).at >= 0


def test_a_record_with_flipped_bytes_is_read_and_shown_as_far_as_it_goes(records: Records, world: World) -> None:
    world.outage(10)
    world.run(100)
    (path,) = records.files
    whole, chance = path.read_bytes(), random.Random(17)
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(chance.randint(1, 30)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        path.write_bytes(broken)
        for one in read(records.folder).incidents:
            assert one.lines


def test_text_from_outside_drives_no_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(
        tmp_path,
        Line(AT, "shop-17-1", "sh\x1b[2Jop", told=Told("blind", "a\x1b[31m\nb\u202e", None, {"by": "x\n\x07"})),
    )
    for arguments in ([], ["shop-17-1"], ["--json"], ["shop-17-1", "--json"]):
        assert main(["incidents", *arguments, "--config", config(tmp_path)]) == 0
        printed = capsys.readouterr().out
        assert not {char for char in printed if not char.isprintable()} - {"\n"}


# ---- the verb


def config(folder: Path) -> str:
    path = folder / "config.yaml"
    path.write_text(f"mongodb: [{{uri: 'mongodb://127.0.0.1/'}}]\nstate_dir: {folder}\n")
    return str(path)


def test_the_verb_needs_no_daemon(records: Records, world: World, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(records.folder)
    assert main(["incidents", "--config", file]) == 0
    assert capsys.readouterr().out == f"no incident is recorded in {records.folder}/incidents\n"
    world.outage(10)
    world.run(100)
    assert main(["incidents", "--config", file]) == 0
    id_ = capsys.readouterr().out.split()[-1]
    assert main(["incidents", id_, "--config", file]) == 0
    assert capsys.readouterr().out.startswith(f"incident {id_} of prefork\n")
    assert main(["incidents", "--json", "--config", file]) == 0
    table = json.loads(capsys.readouterr().out)
    assert main(["incidents", id_, "--json", "--config", file]) == 0
    whole = json.loads(capsys.readouterr().out)
    for document in (table, whole):
        LISTED.validate(document)
        assert [one["id"] for one in document["incidents"]] == [id_]
    assert "lines" not in table["incidents"][0]
    told = [line["told"]["event"] for line in whole["incidents"][0]["lines"] if "told" in line]
    assert told == world.events()


@pytest.mark.parametrize(
    ("wanted", "near"),
    [("shop-17-2", "shop-17-1"), ("blog", "blog-99-9, blog-88-8"), ("?", "blog-99-9, blog-88-8, shop-17-1")],
)
def test_an_unknown_id_is_wrong_use_and_the_nearest_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: str, near: str
) -> None:
    written(tmp_path, LINE)
    for number, at in ((88, AT + 1), (99, AT + 2)):
        id_ = f"blog-{number}-{number % 10}"
        written(tmp_path, Line(at, id_, "blog", over="healed"), name=id_)
    assert main(["incidents", wanted, "--config", config(tmp_path)]) == 2
    assert capsys.readouterr().err == f"there is no incident {wanted}; the nearest: {near}\n"


def test_without_any_an_unknown_id_is_wrong_use_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["incidents", "shop-1-1", "--config", config(tmp_path)]) == 2
    assert capsys.readouterr().err == "there is no incident shop-1-1; none is recorded\n"


def test_a_record_that_cannot_be_read_is_a_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, LINE)
    path = written(tmp_path, name="bad")
    assert main(["incidents", "--config", config(tmp_path)]) == 1
    told = capsys.readouterr()
    assert "shop-17-1" in told.out
    assert told.err == f"problem: {path}: no line of it can be read: it is empty\n"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = config(tmp_path)
    Path(file).write_text(f"mongodb: [{{uri: 'mongodb://127.0.0.1/'}}]\nstate_dir: {tmp_path}/nowhere\n")
    assert main(["incidents", "--config", file]) == 1
    told = capsys.readouterr().err
    assert told == f"{tmp_path}/nowhere: No such file or directory; it is the `state_dir` of a daemon that has run\n"


def test_one_that_goes_on_is_known_by_the_saved_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, LINE)
    file = config(tmp_path)
    state = {"instances": {"/f": {"incident": {"id": "shop-17-1"}}, "/g": {"incident": None}, "/h": 1}}
    for content, shown in ((state, "open"), ({"instances": {}}, "not seen"), (17, "not seen")):
        (tmp_path / "state.json").write_text(json.dumps({"version": 3, "state": content}))
        assert main(["incidents", "--config", file]) == 0
        assert f" {shown} " in capsys.readouterr().out
    (tmp_path / "state.json").write_text("{")
    assert main(["incidents", "--config", file]) == 0
    assert " open? " in capsys.readouterr().out


def test_a_pause_before_it_is_in_no_record_but_holds_it(records: Records, world: World) -> None:
    world.ask(Verb.PAUSE)
    world.outage(10)
    world.run(60)
    text = text_of(only(records.folder))
    assert "Held by paused: paused by alice until" in text
