"""`sudo mongo-watchdog check --live`: whatever would keep the service from a cure is a problem with its mend."""

from collections.abc import Callable

import pytest

from tests.system.box import Box
from tests.system.machines import ON_EACH
from tests.system.service import CONFIG, ENDER, HELPER, UNIT, Service
from tests.system.site import Site

WRITER_SOCKET, ENDER_SOCKET = "mongo-watchdog-fifo.socket", "mongo-watchdog-end.socket"
UNWRITTEN = "problem: nothing would be written to the FIFO of shop: "
UNENDED = "problem: no process of shop that hangs would be ended: "


def checked(service: Service, *, exits: int) -> list[str]:
    """What it says, but its first line, which is about the file."""
    done = service.command("check", "--live", check=False)
    assert done.returncode == exits, done.stdout + done.stderr
    return done.stdout.splitlines()[1:]


def problems(service: Service) -> list[str]:
    return [line for line in checked(service, exits=1) if line.startswith("problem: ")]


@pytest.fixture
def watched(service: Service, site: Site) -> Service:
    """The service, watching an app that is well."""
    site.start()
    service.start()
    return service


@ON_EACH
def test_where_all_is_well_the_service_says_so_by_its_own_rights(watched: Service) -> None:
    asked, *lines = checked(watched, exits=0)
    assert asked == f"asked the running service (pid {watched.pid}, user mongo-watchdog), which runs by {CONFIG}"
    assert lines[0] == "ok: main: 127.0.0.1:27017: up, serving"
    assert lines[1].startswith("ok: shop: master ")
    assert lines[2:] == [
        "ok: mongo-watchdog-fifo: ready for shop",
        "ok: mongo-watchdog-end: ready for shop",
        "ok: state: it can be saved",
    ]


def mask_a_socket(name: str) -> Callable[[Box], str]:
    def mask(box: Box) -> str:
        box.systemctl("mask", "--now", name)
        return f"`systemctl unmask {name} && systemctl enable --now {name}`"

    return mask


def stop_a_socket(name: str) -> Callable[[Box], str]:
    def stop(box: Box) -> str:
        box.systemctl("stop", name)
        return f"`systemctl enable --now {name}`"

    return stop


@pytest.mark.parametrize(
    ("end", "what"),
    [
        (mask_a_socket(WRITER_SOCKET), f"{UNWRITTEN}mongo-watchdog-fifo cannot be asked (Connection refused): "),
        (mask_a_socket(ENDER_SOCKET), f"{UNENDED}mongo-watchdog-end cannot be asked (Connection refused): "),
        (stop_a_socket(WRITER_SOCKET), "problem: rights: nothing may be written to the FIFO of shop (of www-data): "),
    ],
    ids=["writer masked", "ender masked", "writer stopped"],
)
def test_a_helper_that_is_not_there_is_a_problem_with_the_command_that_starts_it(
    watched: Service, box: Box, end: Callable[[Box], str], what: str
) -> None:
    """A socket that was masked first is not removed when it is stopped: whether it is there says nothing."""
    mend = end(box)
    (problem,) = problems(watched)
    assert problem.startswith(what)
    assert mend in problem
    box.run("sh", "-ec", mend.strip("`"))
    checked(watched, exits=0)


@pytest.mark.parametrize(("unit", "what"), [(HELPER, UNWRITTEN), (ENDER, UNENDED)])
def test_a_helper_that_systemd_may_not_start_is_a_problem_though_its_socket_is_there(
    watched: Service, box: Box, unit: str, what: str
) -> None:
    box.systemctl("stop", unit)
    box.systemctl("mask", unit)
    (problem,) = problems(watched)
    assert problem.startswith(what)
    _, mend, _ = problem.split("`")
    box.run("sh", "-ec", mend)
    checked(watched, exits=0)


def test_a_configuration_that_the_helpers_will_not_believe_is_a_problem(watched: Service, box: Box) -> None:
    box.run("chown", "www-data", CONFIG)
    box.path(CONFIG).chmod(0o644)
    why = f"{CONFIG} is not root's, or others may write it: chown root, chmod go-w"
    assert problems(watched) == [f"{UNWRITTEN}{why}", f"{UNENDED}{why}"]
    box.run("chown", "root", CONFIG)
    checked(watched, exits=0)


def test_a_service_that_does_not_run_is_a_problem_and_it_is_said_who_looked_instead(watched: Service, box: Box) -> None:
    box.systemctl("stop", UNIT)
    problem, header, *rest = checked(watched, exits=1)
    assert problem.startswith("problem: service: nothing would be cured tonight: mongo-watchdog is not running")
    assert "`systemctl start mongo-watchdog`" in problem
    assert header == f"looked at by this command, as user root, by {CONFIG}"
    assert [line.partition(": ")[0] for line in rest] == ["ok", "ok"]


def test_a_state_that_cannot_be_saved_is_a_problem_before_anything_has_to_be(watched: Service, box: Box) -> None:
    box.run("chown", "root", "/var/lib/mongo-watchdog")
    (problem,) = problems(watched)
    assert problem.startswith("problem: state: it is kept in /run/mongo-watchdog, which the next boot ")
    assert "since /var/lib/mongo-watchdog/state.json: Permission denied" in problem
    box.run("chown", "mongo-watchdog", "/var/lib/mongo-watchdog")
    checked(watched, exits=0)


def test_a_file_that_was_changed_is_a_problem_until_it_is_read(watched: Service, box: Box) -> None:
    watched.configure(uwsgi=[{"name": "store", "master_fifo": watched.fifos["shop"]}] if watched.fifos else [])
    lines = checked(watched, exits=1)
    (changed,) = [line for line in lines if line.startswith("problem: ")]
    assert changed == (
        f"problem: {CONFIG} has changed since the service read it; `systemctl reload mongo-watchdog` has it read again"
    )
    by_itself = lines[lines.index(f"looked at by this command, as user root, by {CONFIG}") :]
    assert any(line.startswith("ok: shop: ") for line in lines)
    assert any(line.startswith("ok: store: ") for line in by_itself)
    box.systemctl("reload", UNIT)
    assert any(line.startswith("ok: store: ") for line in checked(watched, exits=0))
