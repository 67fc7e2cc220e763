"""`paths.follow` on a real file system, held against where the kernel goes; and whose links it lists on the way."""

import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd import paths
from watchdogd.paths import LedAstrayError, astray, follow, objection

ANNA, BERT, DEPLOY = 1, 33, 5
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to somebody else")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Without links on the way to it."""
    return tmp_path.resolve()


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    before = set(Path("/proc/self/fd").iterdir())
    yield
    assert set(Path("/proc/self/fd").iterdir()) == before


def a_fifo(path: Path, owner: int | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path, 0o600)
    if owner is not None:
        os.chown(path, owner, owner)
    return path


def a_link(path: Path, to: Path | str, owner: int | None = None) -> Path:
    path.symlink_to(to)
    if owner is not None:
        os.lchown(path, owner, owner)
    return path


def is_there(led: paths.Led, path: Path) -> bool:
    return led.found is not None and os.path.samestat(led.found, path.lstat())


def test_a_path_without_links_is_itself(folder: Path) -> None:
    fifo = a_fifo(folder / "run/fifo")
    led = follow(str(fifo))
    assert (led.path, led.links, is_there(led, fifo)) == (str(fifo), (), True)


@pytest.mark.parametrize("spelled", ["{0}//run///fifo", "{0}/./run/./fifo", "{0}/run/../run/fifo", "{0}/run/fifo/"])
def test_a_path_may_be_spelled_in_any_way(folder: Path, spelled: str) -> None:
    fifo = a_fifo(folder / "run/fifo")
    led = follow(spelled.format(folder))
    assert (led.path, is_there(led, fifo)) == (str(fifo), True)


def test_the_root_is_the_root() -> None:
    for path in ("/", "//", "/..", "/../..", "/."):
        led = follow(path)
        assert (led.path, led.links, is_there(led, Path("/"))) == ("/", (), True)


@needs_root
def test_each_link_is_listed_where_it_is_with_its_owner(folder: Path) -> None:
    fifo = a_fifo(folder / "b/fifo", BERT)
    first = a_link(folder / "current", "middle", DEPLOY)
    second = a_link(folder / "middle", folder / "b", 0)
    third = a_link(folder / "b/link", "fifo", BERT)
    led = follow(f"{first}/link")
    assert led.links == ((str(first), DEPLOY), (str(second), 0), (str(third), BERT))
    assert (led.path, is_there(led, fifo)) == (str(fifo), True)


def test_dots_go_back_from_where_a_link_led(folder: Path) -> None:
    """As the kernel does, and not as the text says."""
    fifo = a_fifo(folder / "far/fifo")
    (folder / "far/away").mkdir()
    (folder / "near").mkdir()
    a_link(folder / "near/link", "../far/away")
    a_fifo(folder / "near/fifo")
    assert is_there(follow(f"{folder}/near/link/../fifo"), fifo)


def test_a_path_that_leads_nowhere_says_where_nothing_is(folder: Path) -> None:
    dangling = a_link(folder / "link", "gone/further")
    led = follow(f"{dangling}/fifo")
    assert (led.path, led.found) == (f"{folder}/gone/further/fifo", None)
    assert [link.path for link in led.links] == [str(dangling)]
    assert astray(f"{dangling}/fifo", ()) is None


def test_what_keeps_us_from_the_end_is_an_error(folder: Path) -> None:
    (folder / "file").touch()
    with pytest.raises(NotADirectoryError):
        follow(f"{folder}/file/fifo")
    with pytest.raises(OSError, match="too long"):
        follow(f"{folder}/{'x' * 300}")
    assert astray(f"{folder}/file/fifo", ()) is None


def a_chain(folder: Path, length: int) -> Path:
    last = a_fifo(folder / "fifo")
    for number in range(length):
        last = a_link(folder / str(number), last)
    return last


def test_40_links_are_followed_as_by_the_kernel(folder: Path) -> None:
    first = a_chain(folder, 40)
    assert stat.S_ISFIFO(first.stat().st_mode)
    led = follow(str(first))
    assert (len(led.links), is_there(led, folder / "fifo")) == (40, True)


def test_41_links_are_too_many_for_both(folder: Path) -> None:
    first = a_chain(folder, 41)
    with pytest.raises(OSError, match="Too many levels"):
        first.stat()
    with pytest.raises(LedAstrayError) as raised:
        follow(str(first))
    assert raised.value.errno == errno.ELOOP
    assert "Too many levels of symbolic links" in (astray(str(first), ()) or "")


def test_a_loop_is_no_end(folder: Path) -> None:
    a_link(folder / "a", "b")
    a_link(folder / "b", "a")
    with pytest.raises(LedAstrayError):
        follow(f"{folder}/a/fifo")


@pytest.mark.parametrize("link", ["/proc/self", "/proc/{pid}/root", "/proc/{pid}/cwd", "/proc/thread-self/root"])
def test_no_link_of_proc_is_followed_named_or_led_to(folder: Path, link: str) -> None:
    way = link.format(pid=os.getpid())
    fifo = a_fifo(folder / "fifo")
    for path in (f"{way}{fifo}", str(a_link(folder / "link", f"{way}{fifo}"))):
        assert "is a link of /proc: give the path as this host sees it" in (astray(path, ()) or "")


def test_a_descriptor_in_proc_is_no_way_either(folder: Path) -> None:
    fifo = a_fifo(folder / "fifo")
    opened = os.open(fifo, os.O_PATH)
    try:
        assert Path(f"/proc/{os.getpid()}/fd/{opened}").is_fifo()  # the kernel goes there
        assert "is a link of /proc" in (astray(f"/proc/{os.getpid()}/fd/{opened}", ()) or "")
    finally:
        os.close(opened)


# -- whose word a link is


@needs_root
@pytest.mark.parametrize(
    ("of", "owner", "trusted", "counts"),
    [
        (0, BERT, (), True),  # /var/run, systemd's links
        (BERT, BERT, (), True),
        (ANNA, BERT, (), False),
        (BERT, 0, (), False),  # master-as-root
        (DEPLOY, BERT, (), False),
        (DEPLOY, BERT, (DEPLOY,), True),
        (ANNA, BERT, (DEPLOY,), False),
    ],
)
def test_a_link_counts_if_it_is_roots_the_owners_or_trusted(
    folder: Path, of: int, owner: int, trusted: tuple[int, ...], counts: bool
) -> None:
    fifo = a_fifo(folder / "run/fifo", owner)
    for path in (a_link(folder / "to-it", fifo, of), a_link(folder / "to-its-folder", "run", of) / "fifo"):
        why = astray(str(path), trusted)
        assert (why is None) == counts
        assert counts or f"leads to {fifo}" in (why or "")


@needs_root
def test_one_bad_link_among_good_ones_is_the_one_that_is_named(folder: Path) -> None:
    a_fifo(folder / "run/fifo", BERT)
    a_link(folder / "first", "second", 0)
    bad = a_link(folder / "second", "run", ANNA)
    a_link(folder / "run/link", "fifo", BERT)
    why = astray(f"{folder}/first/link", ())
    assert why is not None
    assert why.startswith(f"{bad} is a symbolic link of ")


@needs_root
def test_an_owner_without_a_name_is_a_number(folder: Path) -> None:
    path = a_link(folder / "link", a_fifo(folder / "fifo", BERT), 64999)
    assert 'trust_owners: ["64999"]' in (astray(str(path), ()) or "")


def test_a_fifo_with_two_names_is_refused_by_each_of_them(folder: Path) -> None:
    fifo = a_fifo(folder / "fifo")
    os.link(fifo, folder / "other")
    for path in (fifo, folder / "other"):
        assert f"{path} has another name too (a hard link)" in (astray(str(path), (os.geteuid(),)) or "")
    (folder / "other").unlink()
    assert astray(str(fifo), ()) is None


def test_a_folder_has_many_names_and_that_is_no_hard_link(folder: Path) -> None:
    (folder / "in/it").mkdir(parents=True)
    assert (folder / "in").stat().st_nlink > 1
    assert astray(str(folder / "in"), ()) is None


# -- while somebody changes it


@needs_root
def test_a_folder_that_is_exchanged_on_the_way_is_not_left_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in Anna's folder, the way goes on there, whatever has come to have its name."""
    own = a_fifo(folder / "anna/run/fifo", ANNA)
    a_fifo(folder / "bert/fifo", BERT)
    real = os.open

    def exchanging(path: str, flags: int, *, dir_fd: int | None = None) -> int:
        opened = real(path, flags, dir_fd=dir_fd)
        if path == "run":
            (folder / "anna/run").rename(folder / "anna/old")
            a_link(folder / "anna/run", folder / "bert", ANNA)
        return opened

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", exchanging)
        led = follow(f"{folder}/anna/run/fifo")
    assert is_there(led, folder / "anna/old/fifo")
    assert led.found is not None
    assert led.found.st_uid == ANNA
    assert not own.is_symlink()
    assert "is a symbolic link of" in (astray(f"{folder}/anna/run/fifo", ()) or "")


@needs_root
def test_whatever_is_exchanged_all_the_time_nobodys_fifo_is_reached_without_the_link_that_led_there(
    folder: Path,
) -> None:
    a_fifo(folder / "anna/own/fifo", ANNA)
    a_fifo(folder / "bert/fifo", BERT)
    a_link(folder / "anna/link", folder / "bert", ANNA)
    (folder / "anna/run").mkdir()
    a_fifo(folder / "anna/run/fifo", ANNA)
    leave = threading.Event()

    def exchange() -> None:
        here, own, link = folder / "anna/run", folder / "anna/kept", folder / "anna/link"
        while not leave.is_set():
            here.rename(own)
            link.rename(here)
            here.rename(link)
            own.rename(here)

    exchanging = threading.Thread(target=exchange)
    exchanging.start()
    owners = set()
    try:
        for _ in range(5000):
            led = follow(f"{folder}/anna/run/fifo")
            owners.add(led.found and led.found.st_uid)
            if led.found and led.found.st_uid == BERT:
                assert objection(led, BERT, ()) is not None
    finally:
        leave.set()
        exchanging.join(10)
    assert ANNA in owners


# -- against the kernel, on trees that nobody thought of

NAMES = st.sampled_from(["a", "b", "c"])
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "..", "."]), min_size=1, max_size=3).map("/".join)
TREES = st.dictionaries(
    st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.none() | TARGETS | TARGETS.map("/{}".format), max_size=8
)


@given(TREES, st.lists(TARGETS, min_size=1, max_size=3).map("/".join))
def test_it_goes_where_the_kernel_goes(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, str | None], path: str
) -> None:
    root = tmp_path_factory.mktemp("tree").resolve()
    for name, target in sorted(tree.items()):
        place = root / name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if target is None:
                place.mkdir(exist_ok=True)
            else:  # an absolute one begins at the root of this tree
                place.symlink_to(f"{root}{target}" if target.startswith("/") else target)
        except OSError:  # its parent is a link, or it is there
            continue
    whole = f"{root}/{path}"
    try:
        truth = Path(whole).stat()
    except OSError as error:
        expected = error.errno
        try:
            led = follow(whole)
        except OSError as raised:
            assert raised.errno == expected  # noqa: PT017 - either is right
        else:
            assert (led.found, expected) == (None, errno.ENOENT)
    else:
        led = follow(whole)
        assert led.found is not None
        assert os.path.samestat(led.found, truth)
        assert led.path == os.path.realpath(whole)
