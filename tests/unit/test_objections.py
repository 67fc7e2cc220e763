from dataclasses import replace

import pytest

from tests.world.cases import STUCK, case
from tests.world.pieces import AT, config, connection, instance, leftover, snapshot, well, worker
from watchdogd.config import Mode
from watchdogd.core.case import Case
from watchdogd.core.gates import ROOTS
from watchdogd.core.objections import Objection, objections
from watchdogd.core.outlook import UNMET
from watchdogd.model.base import MULES, RESTART, WORKERS
from watchdogd.model.decided import Blocked
from watchdogd.model.remembered import InstanceState, Pause, Spent, Stand, Standing, State
from watchdogd.model.seen import Hang, Hung, Instance
from watchdogd.model.text import Outside

WELL = instance(well(2), well(3))
HUNG = replace(worker(4, ready=None), threads=1, hung=Hung(Hang.GIL, since=replace(worker(4)).ready_since))  # type: ignore[arg-type]
ABSENT = replace(WELL, master=None, workers=())
UNREADABLE = "CAP_SYS_PTRACE is missing"
GAVE_UP = Standing(Stand.GAVE_UP, AT - 100, "no fork of it can connect")
SPENT = tuple(Spent(AT - 100 * n) for n in (3, 2, 1))


def calm(one: Instance = WELL, state: InstanceState | None = None, **changes: object) -> Case:
    return case(snapshot(one, connection(1), connection(2, cookie=9)), state or InstanceState(), **changes)  # type: ignore[arg-type]


def test_where_all_is_well_nothing_speaks_against_a_cure() -> None:
    assert list(objections(calm())) == []


def test_what_passes_by_itself_is_none() -> None:
    loading = calm(replace(WELL, workers=(well(2), worker(3, ready=None))))
    assert list(objections(loading)) == []
    assert list(objections(case(state=InstanceState(retry_at=AT + 5)))) == []


def test_what_holds_every_instance_alike_is_said_once_and_not_here() -> None:
    paused = State(paused=Pause(None, Outside("work")))
    assert list(objections(calm(whole=paused, using=replace(config(), mode=Mode.OBSERVE)))) == []


@pytest.mark.parametrize(
    ("one", "said", "until"),
    [
        (calm(ABSENT), "absent: no process has /run/uwsgi/app/shop/fifo open; is uWSGI running with ", None),
        (calm(replace(ABSENT, meant="perhaps /a")), f"absent: no process has {ABSENT.fifo} open; perhaps /a", None),
        (calm(replace(WELL, fifo_problem="deleted: it is gone; restart it")), "deleted: it is gone; restart it", None),
        (calm(replace(WELL, deployments=())), "", None),
        (calm(replace(WELL, uid=0), using=replace(config(), instances=None)), ROOTS, None),
        (calm(replace(WELL, met=frozenset()), using=replace(config(), instances=None)), UNMET, None),
        (calm(replace(WELL, threads_off=True)), "master 1 runs without Python threads, so ", None),
        (calm(replace(WELL, workers=(well(2), HUNG))), "worker 4 hangs since its fork: ", None),
        (
            calm(replace(WELL, workers=(well(2), replace(worker(4, ready=None), unjudged=UNREADABLE)))),
            "whether worker 4 hangs cannot be seen: CAP_SYS_PTRACE is missing",
            None,
        ),
        (calm(replace(WELL, blind=("CAP_SYS_PTRACE is missing",))), "CAP_SYS_PTRACE is missing", None),
        (calm(using=config([MULES])), "`reloads` of shop allows no command; add `workers` and `chain`", None),
        (
            calm(state=InstanceState(standing=GAVE_UP)),
            "it was given up: no fork of it can connect; once that is mended, `mongo-watchdog reload shop` tries again",
            AT - 100 + 1800,
        ),
        (
            calm(state=InstanceState(spent=SPENT)),
            "its budget is spent: 3 unproven reloads, of 3 allowed; `policy.budget` may allow more",
            AT - 300 + 3600,
        ),
    ],
)  # fmt: skip
def test_each_is_one_sentence_with_its_mend_and_its_end(one: Case, said: str, until: float | None) -> None:
    (objection,) = objections(one)
    assert objection.why.startswith(said)
    assert len(objection.why) > 10
    assert objection.until == until


def test_of_a_reload_that_is_due_only_what_somebody_must_mend_is_one() -> None:
    held = [
        Blocked("linger", "just back", AT + 5),
        Blocked("not_allowed", "add `restart`"),
        Blocked("cooldown", "young"),
    ]
    assert list(objections(case(), held)) == [Objection("add `restart`")]
    ends = [Blocked("no_restart", "a restart would end it")]
    assert list(objections(case(), ends)) == [Objection("a restart would end it")]


def test_an_instance_that_is_stuck_and_may_be_cured_has_none() -> None:
    assert list(objections(case())) == []
    by_restart = snapshot(STUCK, leftover(1, 2, 3), connection(1))
    assert list(objections(case(by_restart, using=config([WORKERS, RESTART])))) == []


def test_all_of_them_are_said() -> None:
    found = objections(
        calm(replace(WELL, fifo_problem="deleted: gone", blind=("no right",)), InstanceState(spent=SPENT))
    )
    assert [one.why.partition(":")[0] for one in found] == ["deleted", "no right", "its budget is spent"]
