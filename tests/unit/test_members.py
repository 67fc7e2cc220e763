"""What heartbeats make of a member by themselves: restarts, outages, births, incarnations, and since when it serves."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from watchdogd.model.base import Interval, MemberId, Mono
from watchdogd.model.seen import OUT, Member, MemberState
from watchdogd.model.told import Event, Tell
from watchdogd.observe.mongod.heartbeats import Heartbeat
from watchdogd.observe.mongod.members import OUTAGES_KEPT, Members, outage_starts

ID = MemberId("main", "10.0.0.1:27017")
UP, DOWN, FROZEN, UNREACHABLE = MemberState.UP, MemberState.DOWN, MemberState.FROZEN, MemberState.UNREACHABLE
EVER = -math.inf


def up(at: Mono, life: str | None = "a", born: Interval | float | None = 0.0, *, is_serving: bool = True) -> Heartbeat:
    """An answer of the process `life`, which was born then."""
    birth = Interval(born, born) if isinstance(born, float) else born
    return Heartbeat(ID, at, UP, life, birth, is_serving=is_serving)


def bad(at: Mono, state: MemberState = DOWN) -> Heartbeat:
    return Heartbeat(ID, at, state, detail="Connection refused")


def nameless(at: Mono) -> Heartbeat:
    """An answer of mongod 4.2, or of a proxy: of whom, nobody knows."""
    return up(at, None, None)


def heard(*heartbeats: Heartbeat) -> tuple[Member, tuple[Tell, ...]]:
    """The member after these, and what there is to tell."""
    members = Members()
    members.expect([ID], frozenset(), 0.0)
    members.fold(heartbeats)
    return members.now()[ID], members.take_news()


def told(news: tuple[Tell, ...]) -> list[Event]:
    return [tell.event for tell in news]


# ---- who begins to watch late


def test_before_its_first_heartbeat_a_member_is_unknown() -> None:
    member, news = heard()
    assert (member.state, member.is_serving, member.up_since, member.outages, news) == (
        MemberState.UNKNOWN, False, None, (), (),
    )  # fmt: skip


@pytest.mark.parametrize(("birth", "lo"), [(Interval(7.0, 8.0), 7.0), (None, EVER)])
def test_what_answers_at_first_has_done_so_since_its_birth_or_since_ever(birth: Interval | None, lo: float) -> None:
    member, news = heard(up(100.0, born=birth))
    assert member.up_since == member.served_since == Interval(lo, 100.0)
    assert (member.outages, member.restarts, news) == ((), 0, ())


def test_a_mistake_of_ours_at_the_start_does_not_make_it_younger() -> None:
    """Else connections that the workers have had all the time would not count, and an app that healed be reloaded."""
    member, news = heard(bad(98.0, UNREACHABLE), bad(99.0, UNREACHABLE), up(100.0, born=7.0))
    assert member.up_since == member.served_since == Interval(7.0, 100.0)
    assert (member.outages, news) == ((), ())


def test_an_outage_that_is_found_at_the_start_may_have_begun_at_any_time() -> None:
    member, news = heard(bad(99.0))
    assert member.outages == (Interval(EVER, math.inf),)
    member, news = heard(bad(99.0), up(100.0, born=99.5))
    assert (member.outages, member.served_since) == ((Interval(EVER, 100.0),), Interval(99.5, 100.0))
    assert told(news) == [Event.MEMBER_DOWN, Event.MEMBER_UP]
    assert news[1].fields["seconds"] is None  # nobody knows


# ---- outages


def test_an_outage_lasts_from_the_last_good_heartbeat_to_the_next_good_one() -> None:
    member, news = heard(up(10.0), bad(10.5), bad(11.0), bad(11.5), up(12.0, "b", 11.25))
    assert member.outages == (Interval(10.0, 12.0),)
    assert member.up_since == member.served_since == Interval(11.5, 12.0)
    assert (member.state, member.since, member.restarts, member.incarnation) == (UP, 12.0, 1, "b")
    assert told(news) == [Event.MEMBER_DOWN, Event.MEMBER_UP]
    assert (news[0].member, news[0].fields["state"], news[0].fields["reason"]) == (
        ID.address, "down", "Connection refused",
    )  # fmt: skip
    assert (news[1].fields["seconds"], news[1].fields["restarted"]) == (2.0, True)


def test_while_it_is_out_it_serves_nobody() -> None:
    for state in OUT:
        member, _ = heard(up(10.0), bad(10.5, state))
        assert (member.state, member.is_serving, member.served_since) == (state, False, None)
        assert member.outages == (Interval(10.0, math.inf),)


def test_one_that_was_frozen_is_the_same_process_after_an_outage() -> None:
    member, news = heard(up(10.0), bad(12.5, FROZEN), up(13.0))
    assert (member.restarts, member.incarnation, member.born) == (0, "a", Interval(0.0, 0.0))
    assert (member.outages, member.served_since) == ((Interval(10.0, 13.0),), Interval(12.5, 13.0))
    assert news[1].fields["restarted"] is False


def test_what_changes_its_kind_is_one_outage() -> None:
    member, news = heard(up(10.0), bad(12.5, FROZEN), bad(13.0), bad(13.5, FROZEN), up(14.0))
    assert member.outages == (Interval(10.0, 14.0),)
    assert told(news) == [Event.MEMBER_DOWN, Event.MEMBER_UP]


def test_a_mistake_of_ours_is_no_outage_and_breaks_nothing_of_what_it_was() -> None:
    before, _ = heard(up(10.0))
    member, news = heard(up(10.0), bad(10.5, UNREACHABLE))
    assert (member.state, member.is_serving, member.served_since) == (UNREACHABLE, True, before.served_since)
    secondary, _ = heard(up(10.0, is_serving=False), bad(10.5, UNREACHABLE))
    assert secondary.is_serving is False
    member, news = heard(up(10.0), bad(10.5, UNREACHABLE), up(20.0))
    assert (member.served_since, member.up_since, member.outages) == (before.served_since, before.up_since, ())
    assert news == ()


def test_a_mistake_of_ours_in_an_outage_does_not_end_it_and_says_nothing_of_when_it_ended() -> None:
    member, news = heard(up(10.0), bad(10.5), bad(11.0, UNREACHABLE))
    assert member.outages == (Interval(10.0, math.inf),)
    member, news = heard(up(10.0), bad(10.5), bad(11.0, UNREACHABLE), bad(15.0, UNREACHABLE), up(16.0))
    assert (member.outages, member.served_since) == ((Interval(10.0, 16.0),), Interval(10.5, 16.0))
    assert told(news) == [Event.MEMBER_DOWN, Event.MEMBER_UP]


def test_every_flap_is_an_outage_and_only_the_newest_are_kept() -> None:
    beats = [beat for n in range(2 * OUTAGES_KEPT) for beat in (up(10.0 * n), bad(10.0 * n + 5))]
    member, news = heard(*beats)
    begun = [10.0 * n for n in range(2 * OUTAGES_KEPT)]
    assert [outage.lo for outage in member.outages] == begun[-OUTAGES_KEPT:]
    assert [outage.hi for outage in member.outages] == [*begun[-OUTAGES_KEPT + 1 :], math.inf]
    assert told(news) == [Event.MEMBER_DOWN, Event.MEMBER_UP] * (2 * OUTAGES_KEPT - 1) + [Event.MEMBER_DOWN]


# ---- restarts


def test_a_restart_faster_than_any_heartbeat_is_an_outage_between_two_good_ones() -> None:
    member, news = heard(up(10.0), up(10.5, "b", Interval(9.6, 10.4)))
    assert (member.outages, member.restarts, member.incarnation) == ((Interval(10.0, 10.5),), 1, "b")
    assert member.born == Interval(10.0, 10.4)
    assert member.up_since == member.served_since == Interval(10.0, 10.5)
    assert told(news) == [Event.MEMBER_RESTARTED]
    assert news[0].fields["process_id"] == "b"


@pytest.mark.parametrize(
    "birth",
    [Interval(3.0, 4.0), Interval(9.0, 9.9), None],
    ids=["long before", "before the last good heartbeat", "not known"],
)
def test_another_process_that_was_there_before_is_no_restart(birth: Interval | None) -> None:
    """A load balancer, or a DNS entry that was changed: nothing has ended."""
    before, _ = heard(up(10.0, born=1.0))
    member, news = heard(up(10.0, born=1.0), up(10.5, "b", birth))
    assert (member.incarnation, member.process_id, member.born) == ("b", "b", birth)
    assert (member.outages, member.restarts, news) == ((), 0, ())
    assert (member.up_since, member.served_since) == (before.up_since, before.served_since)


def test_one_that_is_older_than_the_last_process_is_another_and_no_restart_of_it() -> None:
    member, news = heard(up(10.0, born=10.0), bad(10.2, UNREACHABLE), up(10.5, "b", Interval(8.0, 9.0)))
    assert (member.restarts, news) == (0, ())


def test_an_outage_after_which_another_old_process_answers_is_an_outage_and_no_restart() -> None:
    member, news = heard(up(10.0, born=5.0), bad(10.5), up(11.0, "b", 1.0))
    assert (member.outages, member.restarts) == ((Interval(10.0, 11.0),), 0)
    assert member.served_since == Interval(10.5, 11.0)  # here it served nobody before
    assert news[1].fields["restarted"] is False


# ---- births


def test_a_birth_that_is_known_to_the_second_is_narrowed_by_the_heartbeats_around_it() -> None:
    member, _ = heard(up(10.0), up(10.5, "b", Interval(9.7, 10.7)))
    assert member.born == Interval(10.0, 10.5)


def test_the_first_reading_of_a_birth_is_kept() -> None:
    member, _ = heard(up(10.0, "a", Interval(4.0, 5.0)), up(20.0, "a", Interval(3.0, 6.0)))
    assert member.born == Interval(4.0, 5.0)


# ---- serving


def test_it_serves_since_the_heartbeat_before_the_one_that_says_so() -> None:
    member, _ = heard(up(10.0, is_serving=False), up(10.5, is_serving=False))
    assert (member.is_serving, member.served_since, member.up_since) == (False, None, Interval(0.0, 10.0))
    member, _ = heard(up(10.0, is_serving=False), up(10.5, is_serving=False), up(11.0), up(11.5))
    assert (member.is_serving, member.served_since) == (True, Interval(10.5, 11.0))


def test_what_was_elected_while_we_made_a_mistake_may_have_been_so_for_all_that_time() -> None:
    member, _ = heard(up(10.0, is_serving=False), bad(10.5, UNREACHABLE), bad(19.5, UNREACHABLE), up(20.0))
    assert member.served_since == Interval(10.0, 20.0)


def test_a_step_down_and_another_election_begin_it_anew() -> None:
    member, news = heard(up(10.0), up(10.5, is_serving=False))
    assert (member.is_serving, member.served_since, member.outages, news) == (False, None, (), ())
    member, _ = heard(up(10.0), up(10.5, is_serving=False), up(11.0))
    assert member.served_since == Interval(10.5, 11.0)


# ---- incarnations where the server gives no process id


def test_without_a_process_id_each_return_is_another_incarnation() -> None:
    first, _ = heard(nameless(1.0), nameless(2.0))
    second, _ = heard(nameless(1.0), bad(2.0), nameless(3.0), nameless(4.0))
    third, _ = heard(nameless(1.0), bad(2.0), nameless(3.0), bad(4.0, FROZEN), nameless(5.0))
    names = [one.incarnation for one in (first, second, third)]
    assert names == ["10.0.0.1:27017@start", "10.0.0.1:27017@3.000", "10.0.0.1:27017@5.000"]
    assert third.restarts == 0  # nobody can know
    assert (third.process_id, third.born) == (None, None)


def test_two_returns_in_one_second_are_two_incarnations() -> None:
    one = (nameless(1.0), bad(10.6), nameless(10.7))
    assert heard(*one)[0].incarnation != heard(*one, bad(10.8), nameless(11.3))[0].incarnation


def test_a_mistake_of_ours_is_no_other_incarnation() -> None:
    member, _ = heard(nameless(1.0), bad(2.0, UNREACHABLE), nameless(3.0))
    assert member.incarnation == "10.0.0.1:27017@start"


# ---- the set


def test_the_last_words_of_a_member_that_was_dropped_are_not_heard() -> None:
    members = Members()
    members.fold([up(1.0), bad(2.0)])
    assert (members.now(), members.take_news()) == ({}, ())


def test_news_is_given_once() -> None:
    members = Members()
    members.expect([ID], frozenset(), 0.0)
    members.fold([bad(1.0)])
    assert told(members.take_news()) == [Event.MEMBER_DOWN]
    assert members.take_news() == ()


def test_what_tells_that_an_outage_has_begun_changes_then_and_at_no_other_time() -> None:
    beats = [up(1.0), bad(2.0), up(3.0, "b", 2.5), up(3.5, "b", 2.5), up(4.0, "c", 3.7)]
    members, seen = Members(), []
    members.expect([ID], frozenset(), 0.0)
    for beat in beats:
        members.fold([beat])
        seen.append(outage_starts(members.now(), ["main"]))
        assert outage_starts(members.now(), ["other"]) == frozenset()
    assert [old != new for old, new in pairwise(seen)] == [True, False, False, True]


# ---- whatever happens


@dataclass
class Truth:
    """A mongod as it is, and the heartbeat of each half second; one thing happens between two of them."""

    now: Mono = 100.0
    life: int = 1
    born: Mono = 50.25
    serving_from: Mono | None = 50.25
    state: MemberState = UP
    ours: bool = False  # a mistake of ours hides it
    lives_seen: list[int] = field(default_factory=list)

    def happens(self, what: str) -> None:
        middle = self.now - 0.25
        if what == "restart" or (what == "start" and self.state is DOWN):
            self.life, self.born, self.state = self.life + 1, middle, UP
            self.serving_from = middle
        elif what == "stop" and not self.ours:
            self.state, self.serving_from = DOWN, None
        elif what == "freeze" and self.state is UP and not self.ours:
            self.state, self.serving_from = FROZEN, None
        elif what == "thaw" and self.state is FROZEN:
            self.state, self.serving_from = UP, middle
        elif what == "step down" and self.state is UP and not self.ours:
            self.serving_from = None
        elif what == "election" and self.state is UP and self.serving_from is None:
            self.serving_from = middle
        elif what == "mistake":
            self.ours = not self.ours

    def beat(self) -> Heartbeat:
        if self.ours:
            return bad(self.now, UNREACHABLE)
        if self.state is not UP:
            return bad(self.now, self.state)
        self.lives_seen.append(self.life)
        birth = Interval(math.floor(self.born), min(self.now, math.floor(self.born) + 1.0))
        return up(self.now, f"life {self.life}", birth, is_serving=self.serving_from is not None)


THINGS = ["nothing", "restart", "stop", "start", "freeze", "thaw", "step down", "election", "mistake"]


@settings(max_examples=500)
@given(st.lists(st.sampled_from(THINGS), max_size=40))
def test_whatever_happens_what_is_known_of_a_member_is_true(things: list[str]) -> None:
    truth, members = Truth(), Members()
    members.expect([ID], frozenset(), truth.now)
    begun: list[Event] = []
    for thing in things:
        truth.now += 0.5
        truth.happens(thing)
        members.fold([truth.beat()])
        member = members.now()[ID]
        begun += [tell.event for tell in members.take_news()]
        assert all(lo <= hi for lo, hi in intervals(member)), member
        outages = member.outages
        assert all(old.hi <= new.lo for old, new in pairwise(outages)), outages
        if member.state is UP:
            known(truth, member)
        elif member.state in OUT:
            assert (member.is_serving, outages[-1].hi) == (False, math.inf)
        assert member.restarts <= max(0, len(set(truth.lives_seen)) - 1)
    alternating = [event for event in begun if event is not Event.MEMBER_RESTARTED]
    assert alternating == [Event.MEMBER_DOWN, Event.MEMBER_UP] * (len(alternating) // 2) + (
        [Event.MEMBER_DOWN] * (len(alternating) % 2)
    )


def known(truth: Truth, member: Member) -> None:
    """Claims that what is known of a member that is UP holds the truth, and not a moment less."""
    assert member.born is not None
    assert member.born.lo <= truth.born <= member.born.hi
    assert member.incarnation == f"life {truth.life}"
    assert not member.outages or member.outages[-1].hi <= truth.now
    assert member.is_serving is (truth.serving_from is not None)
    if truth.serving_from is not None:
        assert member.served_since is not None
        assert member.served_since.lo <= truth.serving_from <= member.served_since.hi
    if member.restarts:
        assert any(outage.lo <= truth.born for outage in member.outages)


def intervals(member: Member) -> Iterator[Interval]:
    yield from member.outages
    yield from filter(None, (member.born, member.up_since, member.served_since))


def test_heartbeats_that_come_at_once_say_the_same_as_one_by_one() -> None:
    beats = [up(10.0), bad(10.5), up(11.0, "b", 10.75), up(11.5, "b", 10.75, is_serving=False)]
    members = Members()
    members.expect([ID], frozenset(), 0.0)
    for beat in beats:
        members.fold([beat])
    assert (members.now()[ID], members.take_news()) == heard(*beats)
