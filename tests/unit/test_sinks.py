from tests.world.sinks import FakeSink
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
