"""Who may lead a configured path where: users of one host, their links, and the set-ups that are usual."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.integration.masters import (
    ANNA,
    ANNA_NAME,
    BERT,
    BERT_NAME,
    DEPLOY,
    DEPLOY_NAME,
    WITHIN_S,
    Site,
    Uwsgi,
    entry,
    found_by,
    reloaded,
    turn,
)
from watchdogd import paths
from watchdogd.model.done import Result
from watchdogd.model.seen import Blind
from watchdogd.observe import uwsgi
from watchdogd.observe.uwsgi import Master

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can start uWSGI as different users")


@pytest.fixture
def site() -> Iterator[Site]:
    """In a folder that every user may enter: pytest's own are for one user."""
    with tempfile.TemporaryDirectory(prefix="mw-trust-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        yield Site(Path(folder), stack)


def names_the_line(why: str, link: Path, owner: str) -> bool:
    return f"{link} is a symbolic link of {owner}" in why and f"`trust_owners: [{owner}]`" in why


# -- a link of one user to the master of another one


def test_a_link_to_the_fifo_of_another_user_is_blind_and_shows_nothing_of_him(site: Site) -> None:
    bert = site.app("bert", BERT)
    link = turn(site.home("anna", ANNA) / "app", bert.folder, ANNA)
    watch = site.watch(entry("anna", link / "fifo"), entry("bert", bert.fifo))
    with bert.stopped():
        anna = watch.seen("anna")
        assert (anna.master, anna.workers, anna.others, anna.uid) == (None, (), (), None)
        (why,) = anna.blind
        assert names_the_line(why, link, ANNA_NAME)
        assert str(bert.fifo) in why
        assert BERT_NAME in why
        assert bert.unread() == 0
    old = bert.workers()
    assert watch.send(watch.ready("bert", bert)).result is Result.WRITTEN
    assert reloaded(bert, old)


def test_it_is_so_too_where_the_other_user_is_not_watched_at_all(site: Site) -> None:
    bert = site.app("bert", BERT)
    link = turn(site.home("anna", ANNA) / "fifo", bert.fifo, ANNA)
    anna = site.watch(entry("anna", link)).seen("anna")
    assert (anna.master, anna.workers) == (None, ())
    assert names_the_line(anna.blind[0], link, ANNA_NAME)


def test_a_link_that_is_turned_after_the_daemon_has_its_master_gets_no_byte_anywhere(site: Site) -> None:
    anna, bert = site.app("anna/own", ANNA), site.app("bert", BERT)
    os.chown(site.folder / "anna", ANNA, ANNA)
    link = turn(site.folder / "anna/app", anna.folder, ANNA)
    watch = site.watch(entry("anna", link / "fifo"), entry("bert", bert.fifo))
    seen = watch.ready("anna", anna)
    turn(link, bert.folder, ANNA)
    with anna.stopped(), bert.stopped():
        for late in (seen, watch.seen("anna")):
            assert late.master is not None
            assert late.master.pid == anna.master
            outcome = watch.send(late)
            assert outcome.result in {Result.TRY_AGAIN, Result.REFUSED}
            assert str(link) in outcome.detail
        assert (anna.unread(), bert.unread()) == (0, 0)
    turn(link, anna.folder, ANNA)
    old = anna.workers()
    assert watch.send(watch.ready("anna", anna)).result is Result.WRITTEN
    assert reloaded(anna, old)


def test_when_his_own_master_has_ended_the_turned_link_is_blind(site: Site) -> None:
    anna, bert = site.app("anna/own", ANNA), site.app("bert", BERT)
    link = turn(site.folder / "anna/app", anna.folder, ANNA)
    watch = site.watch(entry("anna", link / "fifo"), entry("bert", bert.fifo))
    watch.ready("anna", anna)
    turn(link, bert.folder, ANNA)
    anna.kill()
    seen = watch.seen("anna")
    assert (seen.master, seen.workers) == (None, ())
    assert names_the_line(seen.blind[0], link, ANNA_NAME)
    watch.ready("bert", bert)


def test_a_link_to_where_the_fifo_of_another_user_was_is_blind_too(site: Site) -> None:
    """Its master still reads it, and is known by the name alone."""
    bert = site.app("bert", BERT)
    link = turn(site.home("anna", ANNA) / "app", bert.folder, ANNA)
    bert.fifo.unlink()
    found = found_by(link / "fifo")
    assert isinstance(found, Blind)
    assert names_the_line(found.why, link, ANNA_NAME)


def test_a_fifo_that_comes_back_while_its_master_is_looked_for_is_no_way_round(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command makes it anew: for a moment nothing is there that would have an owner."""
    bert = site.app("bert", BERT)
    link = turn(site.home("anna", ANNA) / "app", bert.folder, ANNA)
    aside = bert.fifo.rename(bert.folder / "aside")

    def follow(path: str) -> paths.Led:
        led = paths.follow(path)
        if aside.exists():
            aside.rename(bert.fifo)
        return led

    monkeypatch.setattr(uwsgi, "follow", follow)
    found = found_by(link / "fifo")
    assert isinstance(found, Blind)
    assert names_the_line(found.why, link, ANNA_NAME)


def test_a_hard_link_is_refused_whoever_made_it(site: Site) -> None:
    bert = site.app("bert", BERT)
    other = site.home("anna", ANNA) / "fifo"
    os.link(bert.fifo, other)
    for path in (other, bert.fifo):
        found = found_by(path, ANNA, BERT)
        assert isinstance(found, Blind)
        assert f"{path} has another name too (a hard link)" in found.why
    watch = site.watch(entry("bert", bert.fifo))
    assert "hard link" in watch.seen("bert").blind[0]
    bert.send(b"s")  # by hand: after it uWSGI makes its FIFO anew, with one name
    watch.ready("bert", bert)


def test_a_hard_link_that_is_made_after_the_look_holds_the_byte_back(site: Site) -> None:
    bert = site.app("bert", BERT)
    watch = site.watch(entry("bert", bert.fifo))
    seen = watch.ready("bert", bert)
    os.link(bert.fifo, site.folder / "other")
    with bert.stopped():
        outcome = watch.send(seen)
        assert (outcome.result, bert.unread()) == (Result.REFUSED, 0)
    assert "hard link" in outcome.detail


@pytest.mark.parametrize("way", ["root", "cwd"])
def test_a_way_through_proc_is_refused_and_says_so(site: Site, way: str) -> None:
    bert = site.app("bert", BERT)
    inside = f"/proc/{bert.master}/{way}"
    path = f"{inside}{bert.fifo}" if way == "root" else f"{inside}/fifo"
    assert Path(path).is_fifo()  # the kernel goes there
    link = turn(site.folder / "fifo", path, 0)
    for named in (path, link):
        found = found_by(named, BERT)
        assert isinstance(found, Blind)
        assert f"{inside} is a link of /proc" in found.why


def test_a_fifo_that_is_gone_at_the_last_look_is_tried_again_and_what_stands_there_gets_nothing(site: Site) -> None:
    bert = site.app("bert", BERT)
    watch = site.watch(entry("bert", bert.fifo))
    seen, old = watch.ready("bert", bert), bert.workers()
    bert.fifo.unlink()
    assert watch.send(seen).result is Result.TRY_AGAIN
    os.mkfifo(bert.fifo)
    os.chown(bert.fifo, BERT, BERT)
    reading = os.open(bert.fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert watch.send(seen).result is Result.TRY_AGAIN
        assert os.read(reading, 1) == b""  # nobody has written
    finally:
        os.close(reading)
    assert bert.workers() == old


# -- two entries for one master


def test_of_two_entries_that_lead_to_one_master_the_first_has_it(site: Site) -> None:
    bert = site.app("bert", BERT)
    link = turn(site.folder / "link", bert.folder, 0)
    watch = site.watch(entry("first", bert.fifo), entry("second", link / "fifo"))
    for _ in range(3):
        seen = {one.name: one for one in watch.look().instances}
        assert seen["first"].blind == ()
        assert seen["first"].master is not None
        assert (seen["second"].master, seen["second"].workers) == (None, ())
        (why,) = seen["second"].blind
        assert f"{link}/fifo leads to master {bert.master}, which is first already ({bert.fifo})" in why


def test_an_entry_that_had_the_master_keeps_it_from_one_that_comes_to_lead_there(site: Site) -> None:
    bert = site.app("bert", BERT)
    link = site.folder / "link"
    watch = site.watch(entry("first", link / "fifo"), entry("second", bert.fifo))
    watch.ready("second", bert)
    turn(link, bert.folder, 0)
    for _ in range(3):
        seen = {one.name: one for one in watch.look().instances}
        assert seen["first"].master is None
        assert "which is second already" in seen["first"].blind[0]
        assert (seen["second"].blind, seen["second"].fifo_problem) == ((), None)
        assert seen["second"].master is not None


def test_when_the_entry_that_has_the_master_is_taken_out_the_other_one_gets_it(site: Site) -> None:
    bert = site.app("bert", BERT)
    link = turn(site.folder / "link", bert.folder, 0)
    watch = site.watch(entry("first", bert.fifo), entry("second", link / "fifo"))
    watch.ready("first", bert)
    watch.reconfigure(entry("second", link / "fifo"))
    old = bert.workers()
    assert watch.send(watch.ready("second", bert)).result is Result.WRITTEN
    assert reloaded(bert, old)


def test_where_a_second_master_was_started_at_the_path_of_one_that_runs_on_the_second_is_meant(site: Site) -> None:
    """The first has a FIFO without a name then; it is there for as long as its last requests take, say."""
    old = site.app("bert", BERT)
    named, finding = site.watch(entry("bert", old.fifo)), site.watch()
    for watch in (named, finding):
        watch.ready(old.fifo, old)
    old.fifo.unlink()
    new = site.app("bert", BERT)
    for watch in (named, finding):
        workers = new.workers()
        assert watch.send(watch.ready(new.fifo, new)).result is Result.WRITTEN
        assert reloaded(new, workers)


# -- what is usual


def sent(site: Site, app: Uwsgi, path: Path | str, *trusted: int) -> bool:
    """Says whether a command by this path arrives."""
    watch, old = site.watch(entry("shop", path, *trusted)), app.workers()
    assert watch.send(watch.ready("shop", app)).result is Result.WRITTEN
    return reloaded(app, old)


@pytest.mark.skipif(not Path("/var/run").is_symlink(), reason="/var/run is no link here")
def test_var_run_is_run(site: Site) -> None:
    with tempfile.TemporaryDirectory(prefix="mw-trust-", dir="/run") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        bert = Site(Path(folder), stack).app("shop", BERT)  # as RuntimeDirectory= makes it
        assert sent(site, bert, f"/var{bert.fifo}")
        assert sent(site, bert, bert.fifo)


def test_the_link_that_systemd_makes_for_a_dynamic_user(site: Site) -> None:
    private = site.home("private", 0)
    private.chmod(0o700)
    app = site.app("private/shop", 64999)  # of no name
    link = turn(site.folder / "shop", "private/shop", 0)
    assert sent(site, app, link / "fifo")


def test_a_link_in_his_own_folder_is_a_users_own_matter(site: Site) -> None:
    bert = site.app("bert/releases/7", BERT)
    link = turn(site.folder / "bert/current", "releases/7", BERT)
    assert sent(site, bert, link / "fifo")


def deployed(site: Site) -> tuple[Uwsgi, Path]:
    """An app as Capistrano lays it out: `current` is of who deploys, and the app runs as somebody else."""
    app = site.app("shop/shared/run", BERT)
    release(site, 1)
    return app, site.folder / "shop/current"


def release(site: Site, number: int) -> None:
    home = site.home(f"shop/releases/{number}", DEPLOY)
    turn(home / "run", "../../shared/run", DEPLOY)
    turn(site.folder / "shop/current", f"releases/{number}", DEPLOY)


def test_a_release_of_who_deploys_needs_the_line_that_is_named(site: Site) -> None:
    app, current = deployed(site)
    refused = site.watch(entry("shop", current / "run/fifo")).seen("shop")
    assert refused.master is None
    assert names_the_line(refused.blind[0], current, DEPLOY_NAME)
    assert sent(site, app, current / "run/fifo", DEPLOY)


def test_with_the_line_the_next_release_is_the_same_instance(site: Site) -> None:
    app, current = deployed(site)
    watch = site.watch(entry("shop", current / "run/fifo", DEPLOY))
    before = watch.ready("shop", app)
    release(site, 2)
    after = watch.ready("shop", app)
    assert (after.id, after.master, after.workers) == (before.id, before.master, before.workers)
    old = app.workers()
    assert watch.send(after).result is Result.WRITTEN
    assert reloaded(app, old)


def test_the_line_takes_effect_with_the_next_configuration_and_ends_with_another_one(site: Site) -> None:
    app, current = deployed(site)
    watch = site.watch(entry("shop", current / "run/fifo"))
    assert watch.seen("shop").master is None
    watch.reconfigure(entry("shop", current / "run/fifo", DEPLOY))
    watch.ready("shop", app)
    watch.reconfigure(entry("shop", current / "run/fifo", ANNA))
    assert names_the_line(watch.seen("shop").blind[0], current, DEPLOY_NAME)


def test_with_master_as_root_the_fifo_is_roots_in_the_folder_of_the_workers_user(site: Site) -> None:
    app = site.app("shop", 0, extra=[f"uid = {BERT}", f"gid = {BERT}", "master-as-root = true"])
    os.chown(app.folder, BERT, BERT)
    assert app.fifo.stat().st_uid == 0
    assert sent(site, app, app.fifo)


def test_a_link_of_the_workers_user_to_roots_fifo_is_refused(site: Site) -> None:
    app = site.app("shop/own", 0, extra=[f"uid = {BERT}", f"gid = {BERT}", "master-as-root = true"])
    link = turn(site.home("shop", BERT) / "fifo", app.fifo, BERT)
    found = found_by(link)
    assert isinstance(found, Blind)
    assert names_the_line(found.why, link, BERT_NAME)
    assert isinstance(found_by(link, BERT), Master)


def test_whose_the_folders_are_does_not_matter(site: Site) -> None:
    app = site.app("shop", BERT)
    os.chown(app.folder, DEPLOY, BERT)
    app.folder.chmod(0o775)
    assert sent(site, app, app.fifo)


# -- `check`


def checked(site: Site, *entries: Mapping[str, object]) -> "subprocess.CompletedProcess[str]":
    config = site.folder / "config.yaml"
    config.write_text(
        yaml.safe_dump({"mongodb": [{"uri": "mongodb://127.0.0.1:1/"}], "uwsgi": [dict(one) for one in entries]})
    )
    command = [sys.executable, "-P", "-m", "watchdogd", "check", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=WITHIN_S, cwd="/")


def test_check_names_the_line_to_add_and_with_it_nothing_is_wrong(site: Site) -> None:
    _, current = deployed(site)
    ran = checked(site, {"name": "shop", "master_fifo": f"{current}/run/fifo"})
    assert ran.returncode == 1
    (problem,) = [line for line in ran.stdout.splitlines() if line.startswith("problem: ")]
    assert problem.startswith("problem: shop: ")
    assert names_the_line(problem, current, DEPLOY_NAME)
    line = problem.rpartition("add `")[2].partition("`")[0]
    ran = checked(site, {"name": "shop", "master_fifo": f"{current}/run/fifo", **yaml.safe_load(line)})
    assert (ran.returncode, "problem" in ran.stdout) == (0, False)


def test_the_line_that_is_named_is_right_for_a_user_without_a_name_too(site: Site) -> None:
    app = site.app("shop", BERT)
    link = turn(site.folder / "fifo", app.fifo, 64999)
    ran = checked(site, {"name": "shop", "master_fifo": str(link)})
    line = ran.stdout.rpartition("add `")[2].partition("`")[0]
    ran = checked(site, {"name": "shop", "master_fifo": str(link), **yaml.safe_load(line)})
    assert (ran.returncode, "problem" in ran.stdout) == (0, False), ran.stdout


def test_check_tells_of_proc_and_hard_links_too(site: Site) -> None:
    app = site.app("shop", BERT)
    os.link(app.fifo, site.folder / "fifo")
    ran = checked(
        site,
        {"name": "hard", "master_fifo": str(site.folder / "fifo")},
        {"name": "through", "master_fifo": f"/proc/{app.master}/root{site.folder}/other"},
        {"name": "gone", "master_fifo": str(site.folder / "gone")},
    )
    problems = [line for line in ran.stdout.splitlines() if line.startswith("problem: ")]
    assert (ran.returncode, len(problems)) == (1, 2)
    assert "problem: hard: " in problems[0]
    assert "hard link" in problems[0]
    assert "is a link of /proc" in problems[1]


def test_a_user_cannot_make_the_configuration_one_that_is_not_taken(site: Site) -> None:
    """By a link to the FIFO of another entry, which would be the same path twice."""
    bert = site.app("bert", BERT)
    link = turn(site.home("anna", ANNA) / "fifo", bert.fifo, ANNA)
    entries = [{"name": "anna", "master_fifo": str(link)}, {"name": "bert", "master_fifo": str(bert.fifo)}]
    ran = checked(site, *entries)
    assert f"{site.folder}/config.yaml: ok: 1 deployment, 2 instances" in ran.stdout, ran.stderr
    assert names_the_line(ran.stdout, link, ANNA_NAME)
    assert ran.returncode == 1


def test_what_was_wrong_is_right_again_without_a_restart(site: Site) -> None:
    bert = site.app("bert", BERT)
    link = turn(site.home("anna", ANNA) / "fifo", bert.fifo, ANNA)
    watch = site.watch(entry("anna", link))
    assert watch.seen("anna").blind
    anna = site.app("anna/own", ANNA)
    turn(link, anna.fifo, ANNA)
    watch.ready("anna", anna)
