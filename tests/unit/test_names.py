from pathlib import PurePath
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchdogd.config import distinct_names
from watchdogd.config.names import short_name

PATHS = st.lists(
    st.lists(st.sampled_from(["a", "b", "shop", "fifo", "master.fifo", "shop.fifo"]), min_size=1, max_size=4).map(
        lambda parts: "/" + "/".join(parts)
    ),
    unique=True,
    max_size=6,
)


@pytest.mark.parametrize(
    ("fifo", "name"),
    [
        ("/run/uwsgi/app/shop/fifo", "shop"),
        ("/run/uwsgi/app/shop/master.fifo", "shop"),
        ("/run/uwsgi/app/shop/m", "shop"),
        ("/run/uwsgi/shop.fifo", "shop"),
        ("/run/uwsgi/shop.v2.fifo", "shop.v2"),
        ("/fifo", "/"),
    ],
)
def test_an_instance_is_called_after_its_fifo_or_the_folder_of_one_that_says_nothing(fifo: str, name: str) -> None:
    assert short_name(PurePath(fifo)) == name


def test_fifos_of_one_folder_are_told_apart_by_their_own_names() -> None:
    assert distinct_names(["/run/uwsgi/shop.fifo", "/run/uwsgi/blog.fifo"]) == ["shop", "blog"]


def test_where_two_would_be_called_the_same_both_get_more_of_their_path() -> None:
    assert distinct_names(["/srv/a/shop/fifo", "/srv/b/shop/fifo", "/srv/a/blog/fifo"]) == ["a/shop", "b/shop", "blog"]
    assert distinct_names(["/run/shop/one", "/run/shop/two"]) == ["/run/shop/one", "/run/shop/two"]


@given(PATHS, st.randoms())
def test_names_are_distinct_and_the_same_in_any_order_of_finding(paths: list[str], random: Random) -> None:
    names = dict(zip(paths, distinct_names(paths), strict=True))
    assert len(set(names.values())) == len(paths)
    shuffled = random.sample(paths, len(paths))
    assert dict(zip(shuffled, distinct_names(shuffled), strict=True)) == names


@given(PATHS)
def test_no_name_passes_from_one_to_another_when_more_are_found(paths: list[str]) -> None:
    """It may get longer, but what one was called another never is."""
    called: dict[str, str] = {}
    for number in range(1, len(paths) + 1):
        for path, name in zip(paths, distinct_names(paths[:number]), strict=False):
            assert called.setdefault(name, path) == path
