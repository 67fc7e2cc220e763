"""The package as it is installed, with its configuration unedited: what it says of the uWSGI that it finds."""

import json

import pytest

from rig.processes import wait_for
from tests.once import ROOT
from tests.system.box import Box
from tests.system.service import CONFIG, UNIT, Service
from tests.system.site import CHECKOUT_INSIDE, FIFO, WORKERS, Site

SOON_S = 30.0
LISTS = ("no_instance", "instance_watched", "instance_shown", "instance_absent", "not_covered")


@pytest.fixture
def unedited(box: Box) -> Service:
    """With what the package brings."""
    assert box.path(CONFIG).read_text() == (ROOT / "config/config.yaml").read_text()
    return Service(box)


def line(box: Box) -> str:
    return box.show(UNIT, "StatusText")


def waits_for_line(box: Box, text: str) -> None:
    wait_for(lambda: text in line(box), f"`{text}` in the line of systemctl status", within=SOON_S)


def another_uwsgi(box: Box, name: str, *options: str, user: str = "www-data") -> int:
    """One that has nothing to do with MongoDB, of this user; its master's pid, inside."""
    port = {"bare": 8001, "roots": 8002, "blog": 8003}[name]
    command = ["systemd-run", f"--unit={name}", f"--uid={user}", "--setenv=RIG_CLIENT=none", "/usr/bin/uwsgi"]
    uwsgi = ["--plugins=python3", "--master", "--processes=1", f"--http-socket=127.0.0.1:{port}"]
    box.run(*command, *uwsgi, f"--wsgi-file={CHECKOUT_INSIDE}/rig/apps/web.py", *options)
    wait_for(lambda: "spawned uWSGI worker 1" in Service(box).log(f"{name}.service"), f"{name} runs", within=SOON_S)
    return int(box.show(f"{name}.service", "MainPID"))


def test_without_any_uwsgi_it_says_that_nothing_is_watched_and_then_what_it_finds(
    unedited: Service, site: Site, box: Box
) -> None:
    site.start_mongod()
    unedited.start()
    said = unedited.wait_event("no_instance", within=SOON_S)
    assert "`master-fifo = /run/uwsgi/app/NAME/fifo`" in said["MESSAGE"]
    waits_for_line(box, "nothing is watched: no uWSGI instance with a master FIFO was found")
    assert unedited.command("status", check=False).returncode == 1

    site.start()
    watched = unedited.wait_event("instance_watched", within=SOON_S)
    pid = box.show("uwsgi.service", "MainPID")
    assert watched["MESSAGE"] == (
        f"shop is watched (found; master {pid}, {WORKERS} workers, FIFO {FIFO}): "
        "when it is stuck it is reloaded (workers, chain)."
    )
    waits_for_line(box, "watching 1 instance: nothing to do")
    assert unedited.command("status", check=False).returncode == 0
    # Each answer takes a full look: nothing is said twice.
    at = json.loads(unedited.command("status", "--json").stdout)["at"]
    wait_for(lambda: unedited.status()["seen_whole_at"] > at, "another whole look", within=SOON_S)
    assert unedited.order(*LISTS)[:1] == ["no_instance"]
    assert unedited.order(*LISTS).count("instance_watched") == 1


def test_a_start_lists_what_is_watched_what_is_only_shown_and_what_nothing_can_reload(
    unedited: Service, site: Site, box: Box
) -> None:
    site.start()
    for name in ("roots", "blog"):
        box.run("install", "-d", "-o", "www-data", f"/run/uwsgi/app/{name}")
    bare = another_uwsgi(box, "bare")
    another_uwsgi(box, "roots", "--master-fifo=/run/uwsgi/app/roots/fifo", user="root")
    another_uwsgi(box, "blog", "--master-fifo=/run/uwsgi/app/blog/fifo")
    unedited.start()
    unedited.wait_event("not_covered", within=SOON_S)
    assert sorted(unedited.order(*LISTS)) == ["instance_shown", "instance_shown", "instance_watched", "not_covered"]
    (watched,) = unedited.events("instance_watched")
    shown = {entry["MW_INSTANCE"]: entry["MW_REASON"] for entry in unedited.events("instance_shown")}
    (uncovered,) = unedited.events("not_covered")
    assert watched["MW_INSTANCE"] == "shop"
    assert shown["roots"].startswith("root runs it")
    assert shown["blog"].startswith("it was not seen with a connection to MongoDB yet")
    assert f"uWSGI master {bare} has no master FIFO" in uncovered["MESSAGE"]
    waits_for_line(box, "watching 3 instances: only shown: ")
    assert f"not covered: uWSGI master {bare}" in line(box)
    status = {one["name"]: one["only_shown"] for one in unedited.status()["instances"]}
    assert status == {"shop": None, **shown}
    refused = unedited.command("reload", "roots", check=False)
    assert (refused.returncode, "not_named: root runs it" in refused.stdout + refused.stderr) == (1, True)

    # With a second deployment nobody knows whose any of them is.
    text = (ROOT / "config/config.yaml").read_text()
    other = "  - name: other\n    uri: mongodb://127.0.0.1:27017/\n\n# The uWSGI instances."
    unedited.write_config(text.replace("# The uWSGI instances.", other, 1))
    unedited.command("reconfigure")
    waits_for_line(box, "deployment not known, so only shown: ")
    why = unedited.wait_event("instance_shown", within=SOON_S, count=3)
    assert {one["MW_REASON"].partition(";")[0] for one in unedited.events("instance_shown")[2:]} == {
        "which MongoDB deployment it uses is not known"
    }
    assert "`uwsgi:`" in why["MESSAGE"]
    assert unedited.command("status", check=False).returncode == 1
