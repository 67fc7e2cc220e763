from tests.world.pieces import config, instance, snapshot
from tests.world.sinks import FakeKeeper, FakeSink
from watchdogd.model.decided import Decision
from watchdogd.model.remembered import State
from watchdogd.model.told import Started, Stopping, Tell
from watchdogd.report.sinks import Sinks

FIRST, SECOND = Tell(Started("0.1.0", "act", 1, None)), Tell(Stopping())


def test_each_sink_gets_every_event_with_its_time_and_in_order() -> None:
    one, other = FakeSink("one"), FakeSink("other")
    sinks = Sinks(one, other)
    sinks.tell(FIRST, 1.0)
    sinks.tell(SECOND, 2.0)
    assert one.told == other.told == [(FIRST, 1.0), (SECOND, 2.0)]
    assert sinks.blind() == ()


def test_one_that_raises_keeps_no_other_from_the_event_and_is_blind_until_it_takes_one() -> None:
    before, broken, behind = FakeSink("before"), FakeSink("broken", broken=True), FakeSink("behind")
    sinks = Sinks(before, broken, behind)
    sinks.tell(FIRST, 1.0)
    assert before.told == behind.told == [(FIRST, 1.0)]
    (blind,) = sinks.blind()
    assert str(blind.scope) == "sink broken"
    assert blind.why.startswith("it did not take started, and nothing else depends on it: internal error in ")
    assert blind.why.endswith("RuntimeError('a bug in broken'); please report it")
    broken.broken = False
    sinks.tell(SECOND, 2.0)
    assert sinks.blind() == ()
    assert broken.told == [(SECOND, 2.0)]


def test_one_that_keeps_what_was_found_gets_each_tick_and_then_writes() -> None:
    keeper, sink = FakeKeeper("keeper"), FakeSink("sink")
    sinks, seen, decision = Sinks(sink, keeper), snapshot(instance()), Decision(State(), (), None, {})
    sinks.look(seen, {}, decision, config())
    assert (keeper.looked, keeper.flushed) == ([(seen, decision)], 0)
    sinks.flush()
    assert keeper.flushed == 1
    assert sinks.blind() == ()
    keeper.deaf = "the disk is full"
    assert [(str(one.scope), one.why) for one in sinks.blind()] == [("sink keeper", "the disk is full")]


def test_a_bug_in_one_that_keeps_is_told_until_that_call_of_it_succeeds() -> None:
    keeper, other = FakeKeeper("keeper", broken=True), FakeKeeper("other")
    sinks, decision = Sinks(keeper, other), Decision(State(), (), None, {})
    sinks.look(snapshot(instance()), {}, decision, config())
    sinks.flush()
    assert (len(other.looked), other.flushed) == (1, 1)
    (blind,) = sinks.blind()
    assert "RuntimeError('a bug in keeper')" in blind.why
    keeper.broken = False
    sinks.look(snapshot(instance()), {}, decision, config())
    assert sinks.blind() != ()  # it has not written yet
    sinks.flush()
    assert sinks.blind() == ()
