"""Masters that see other files than we do.

In a container they have a root and process ids of their own; a service with a private folder (PrivateTmp=) is none.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from rig.processes import wait_for
from tests.integration.masters import ANNA, BERT, Site, Uwsgi, Watch, entry, found_by, reloaded
from watchdogd.model.done import Result
from watchdogd.model.seen import Instance
from watchdogd.observe import mounts
from watchdogd.observe.uwsgi import Master

UNSHARE = ("unshare", "--mount", "--propagation", "private")
CONTAINER = (*UNSHARE, "--pid", "--fork", "--kill-child")


def can_unshare() -> bool:
    return os.geteuid() == 0 and subprocess.run([*CONTAINER, "true"], capture_output=True, check=False).returncode == 0


pytestmark = pytest.mark.skipif(not can_unshare(), reason="needs root and the right to make namespaces")

# A root of its own, on which all of the host's is mounted but /run, /proc, and the volume under another name.
PIVOT = """
set -e
new=$1 volume=$2
shift 2
mount -t tmpfs tmpfs "$new"
for one in /*; do
    if test -L "$one"; then cp -P "$one" "$new$one"
    elif test "$one" = /proc || test "$one" = /run || test "$one" = /sys; then mkdir "$new$one"
    elif test -d "$one"; then mkdir "$new$one"; mount --rbind "$one" "$new$one"
    fi
done
mount -t proc proc "$new/proc"
mount -t tmpfs -o mode=777 tmpfs "$new/run"
mkdir "$new/volume" "$new/old"
mount --bind "$volume" "$new/volume"
cd "$new"
pivot_root . old
cd /
umount -l /old
mkdir -p "$INSIDE"
chmod 777 "$INSIDE"
exec "$@"
"""
PRIVATE = 'mount -t tmpfs -o mode=777 tmpfs "$1" && shift && exec "$@"'


@pytest.fixture
def site() -> Iterator[Site]:
    with tempfile.TemporaryDirectory(prefix="mw-containers-") as folder, ExitStack() as stack:
        Path(folder).chmod(0o755)
        yield Site(Path(folder), stack)


@pytest.fixture
def run(site: Site) -> Iterator[Site]:
    """A folder of /run, which every container has of its own."""
    with tempfile.TemporaryDirectory(prefix="mw-containers-", dir="/run") as folder:
        Path(folder).chmod(0o755)
        yield Site(Path(folder), site.stack)


def contained(site: Site, at: Path, name: str = "container", user: int = BERT) -> Uwsgi:
    """A uWSGI in a container, with its FIFO at that path inside; `/volume` there is `volume` of the site here."""
    new = site.home(f"{name}-root", 0)
    volume = site.home("volume", user)
    prefix = (*CONTAINER, "env", f"INSIDE={at.parent}", "sh", "-c", PIVOT, "container", str(new), str(volume))
    return site.app(name, user, prefix=prefix, at=at)


def private(site: Site, folder: Path, name: str, user: int = BERT) -> Uwsgi:
    """A uWSGI with a file system of its own on a folder, and its FIFO there, as PrivateTmp= makes it."""
    prefix = (*UNSHARE, "sh", "-c", PRIVATE, "private", str(folder))
    return site.app(name, user, prefix=prefix, at=folder / "fifo")


def by_fifo(watch: Watch, fifo: Path) -> list[Instance]:
    return [one for one in watch.look().instances if one.fifo == str(fifo)]


def told_of(watch: Watch, app: Uwsgi) -> list[str]:
    return [one for one in watch.look().not_covered if f"master {app.master} " in one]


def a_stale_fifo(site: Site) -> Path:
    """What a killed instance leaves."""
    app = site.app("gone", BERT)
    app.kill()
    assert app.fifo.is_fifo()
    return app.fifo


def test_a_container_with_a_fifo_of_the_same_name_is_not_taken_for_the_instance_of_the_host(
    site: Site, run: Site
) -> None:
    stale = a_stale_fifo(run)
    app = contained(site, stale)
    assert (Path(f"/proc/{app.master}/root").stat().st_dev, stale.is_fifo()) != (Path("/").stat().st_dev, False)
    assert found_by(stale) is None
    seen = site.watch(entry("shop", stale)).seen("shop")
    assert (seen.master, seen.workers, seen.blind, seen.fifo_problem) == (None, (), (), None)


def test_it_is_not_found_as_an_instance_and_told_as_what_nothing_can_reload(site: Site, run: Site) -> None:
    stale = a_stale_fifo(run)
    app, watch = contained(site, stale), site.watch()
    with app.stopped():
        assert by_fifo(watch, stale) == []
        (why,) = told_of(watch, app)
        assert f"has its FIFO {stale} in a container, where that path is another than here" in why
        assert app.unread() == 0


def test_when_the_instance_of_the_host_runs_too_it_alone_is_meant_by_the_path(site: Site, run: Site) -> None:
    stale = a_stale_fifo(run)
    app = contained(site, stale)
    host = run.app("gone", BERT)
    assert host.fifo == stale
    named, finding = site.watch(entry("shop", stale)), site.watch()
    with app.stopped():
        for watch in (named, finding):
            (seen,) = by_fifo(watch, stale)
            old = host.workers()
            assert watch.send(watch.ready(seen.fifo, host)).result is Result.WRITTEN
            assert reloaded(host, old)
        assert app.unread() == 0
        assert len(told_of(finding, app)) == 1
    host.kill()
    assert named.seen("shop").master is None
    assert by_fifo(finding, stale)[0].master is None


def test_a_fifo_on_a_volume_is_reached_by_the_path_that_it_has_here(site: Site) -> None:
    app = contained(site, Path("/volume/fifo"))
    here = site.folder / "volume/fifo"
    watch, old = site.watch(entry("shop", here)), app.workers()
    assert watch.send(watch.ready("shop", app)).result is Result.WRITTEN
    assert reloaded(app, old)
    (why,) = told_of(site.watch(), app)
    assert f"has its FIFO /volume/fifo in a container, which is {here} from here; name it under `uwsgi:` by that" in why


def test_a_link_that_the_user_of_a_container_makes_on_its_volume_leads_nowhere(site: Site) -> None:
    bert = site.app("bert", BERT)
    app = contained(site, Path("/volume/fifo"), user=ANNA)
    here = site.folder / "volume/fifo"
    watch = site.watch(entry("shop", here), entry("bert", bert.fifo))
    seen = watch.ready("shop", app)
    here.unlink()
    here.symlink_to(bert.fifo)
    os.lchown(here, ANNA, ANNA)
    with app.stopped(), bert.stopped():
        assert watch.send(seen).result in {Result.TRY_AGAIN, Result.REFUSED}
        assert (app.unread(), bert.unread()) == (0, 0)
    app.kill()
    seen = watch.seen("shop")
    assert (seen.master, seen.workers) == (None, ())
    assert f"{here} is a symbolic link of" in seen.blind[0]
    watch.ready("bert", bert)


# -- no containers: the same root and process ids, and another file system on one folder


def test_a_service_with_a_private_folder_is_found_and_gets_its_byte_by_descriptor(site: Site) -> None:
    folder = site.home("tmp", 0)
    app, watch = private(site, folder, "shop"), site.watch()
    assert not (folder / "fifo").exists()
    (seen,) = by_fifo(watch, folder / "fifo")
    assert told_of(watch, app) == []
    old = app.workers()
    assert watch.send(watch.ready(seen.fifo, app)).result is Result.WRITTEN
    assert reloaded(app, old)


def test_what_stands_at_the_same_path_here_is_not_written_to(site: Site) -> None:
    folder = site.home("tmp", 0)
    app = private(site, folder, "shop")
    os.chown(folder, BERT, BERT)
    host = site.app("host", BERT, at=folder / "fifo")
    watch = site.watch()
    (seen,) = by_fifo(watch, folder / "fifo")
    assert seen.master is not None
    assert seen.master.pid == host.master  # first the one that its path leads to from here
    (why,) = told_of(watch, app)
    assert f"calls its FIFO {folder}/fifo, as master {host.master} does" in why


@pytest.mark.parametrize("hosts", [True, False, None])
def test_a_path_that_only_its_master_can_see_is_told_as_that(
    site: Site, hosts: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose mounts the host's first process has may be hidden from root too, so it is said here."""
    monkeypatch.setattr(mounts, "sees_the_hosts", lambda _: hosts)
    folder = site.home("tmp", 0)
    app = private(site, folder, "shop")
    found = found_by(folder / "fifo")
    assert isinstance(found, Master)
    assert found.id.pid == app.master
    whose = {True: "this process", False: f"master {app.master}", None: "one of the two"}[hosts]
    assert found.fifo_problem == (
        f"moved: {folder}/fifo is gone from here, and what master {app.master} calls {folder}/fifo is not seen from "
        f"here: {whose} has a file system of its own (PrivateTmp=, say); give it a `master-fifo` that both see, like "
        "/run/uwsgi/app/NAME/fifo"
    )


def test_whose_mounts_a_process_has_is_told_where_that_may_be_seen() -> None:
    own = mounts.sees_the_hosts(os.getpid())
    with subprocess.Popen([*UNSHARE, "cat"], stdin=subprocess.PIPE) as other:
        wait_for(lambda: not same_mounts(other.pid), "mounts of its own", within=20)
        assert {own, mounts.sees_the_hosts(other.pid)} in ({False}, {None})
        assert other.stdin is not None
        other.stdin.close()


def same_mounts(pid: int) -> bool:
    return Path(f"/proc/{pid}/ns/mnt").samefile("/proc/self/ns/mnt")


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("bound", "; configure that path"),
        ("systemd-private-1a2b-uwsgi.service-Xy", ", until that service starts anew (PrivateTmp=); give it a `master-"),
    ],
)
def test_a_folder_that_is_elsewhere_for_the_master_is_named_as_it_is_here(site: Site, name: str, mend: str) -> None:
    inside, here = site.home("tmp", 0), site.home(name, BERT)
    bind = 'mount --bind "$2" "$1" && shift 2 && exec "$@"'
    prefix = (*UNSHARE, "sh", "-c", bind, "bind", str(inside), str(here))
    app = site.app("shop", BERT, prefix=prefix, at=inside / "fifo")
    found = found_by(inside / "fifo")
    assert isinstance(found, Master)
    why = found.fifo_problem or ""
    said = f"what master {app.master} calls {inside}/fifo is {here}/fifo from here"
    assert why.startswith(f"moved: {inside}/fifo is gone from here, and {said}{mend}")
    by_that = found_by(here / "fifo")
    assert isinstance(by_that, Master)
    assert (by_that.id, by_that.fifo_problem) == (found.id, None)


def test_a_configured_link_to_a_private_folder_is_not_answered_with_a_path_that_works_no_better(site: Site) -> None:
    folder = site.home("tmp", 0)
    app = private(site, folder, "shop")
    link = site.folder / "link"
    link.symlink_to(folder)
    found = found_by(link / "fifo")
    assert isinstance(found, Master)
    assert found.id.pid == app.master
    assert "configure that path" not in (found.fifo_problem or "")
    assert f"what master {app.master} calls {folder}/fifo is not seen from here: " in (found.fifo_problem or "")


def test_who_takes_the_name_of_a_stopped_instance_does_not_keep_it_when_that_is_started(site: Site) -> None:
    """Whoever may make namespaces can have a FIFO of any name; that must not hide who comes to have it in truth."""
    bert = site.app("bert", BERT)
    bert.stop()
    bert.fifo.unlink(missing_ok=True)
    named, finding = site.watch(entry("bert", bert.fifo)), site.watch()
    anna = private(site, bert.folder, "anna", ANNA)
    for watch in (named, finding):
        (seen,) = by_fifo(watch, bert.fifo)
        assert seen.master is not None
        assert seen.master.pid == anna.master
    assert by_fifo(named, bert.fifo)[0].fifo_problem  # and nothing would be written to it
    bert.start()
    with anna.stopped():
        for watch in (named, finding):
            old = bert.workers()
            assert watch.send(watch.ready(bert.fifo, bert)).result is Result.WRITTEN
            assert reloaded(bert, old)
        assert anna.unread() == 0
    assert len(told_of(finding, anna)) == 1
