"""How soon, by the shipped policy and the driver's own times. `make cures` prints the figures of many."""

from rig import cures

GOOD_WITHIN_S = 28.0  # the slowest tenth, and then a loaded machine


def test_apps_that_are_used_are_good_again_within_28_s_by_one_reload_each() -> None:
    found = cures.cures(cures.SET_UPS["one of 3 hung"])
    assert len(found) == cures.APPS
    assert max(one.good for one in found) <= GOOD_WITHIN_S, found
