import math
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st
from pymongo import errors
from pymongo.errors import AutoReconnect, NetworkTimeout, OperationFailure, ProtocolError

from watchdogd.model.base import Interval, MemberId
from watchdogd.model.seen import MemberState
from watchdogd.observe.mongod.heartbeats import Heartbeat, birth, classify, is_serving, peers_of, process_id_of

# Renamed in 3.12.
NotPrimaryError: type[AutoReconnect] = getattr(errors, "NotPrimaryError", None) or errors.NotMasterError  # type: ignore[attr-defined]

# ---- failures: the words are those that pymongo 3.11.0 and 4.20.0 used for the real thing

TIMEOUTS = " (configured timeouts: socketTimeoutMS: 2000.0ms, connectTimeoutMS: 2000.0ms)"
SHUTDOWN = (
    "interrupted at shutdown, full error: {'ok': 0.0, 'errmsg': 'interrupted at shutdown', 'code': 11600, "
    "'codeName': 'InterruptedAtShutdown'}"
)
CLOSED = AutoReconnect(f"127.0.0.1:64707: connection closed{TIMEOUTS}")
CLOSED_IN_HANDSHAKE = AutoReconnect(
    "SSL handshake failed: 127.0.0.1:24900: [SSL: UNEXPECTED_EOF_WHILE_READING] EOF occurred in violation of "
    f"protocol (_ssl.c:1006){TIMEOUTS}"
)


@pytest.mark.parametrize(
    ("error", "state", "words"),
    [
        # mongod is not there, or ends
        (
            AutoReconnect(f"127.0.0.1:1: [Errno 111] Connection refused{TIMEOUTS}"),
            "DOWN",
            "[Errno 111]",
        ),
        (AutoReconnect(f"::1:21706: [Errno 111] Connection refused{TIMEOUTS}"), "DOWN", "[Errno 111]"),
        (AutoReconnect("a.example:1: [Errno 113] No route to host"), "DOWN", "[Errno 113] No route"),
        (AutoReconnect("127.0.0.1:17716: [Errno 104] Connection reset by peer"), "DOWN", "[Errno 104]"),
        (CLOSED, "DOWN", "connection closed"),
        (AutoReconnect("connection closed"), "DOWN", "connection closed"),
        (NotPrimaryError(SHUTDOWN, {"code": 11600}), "DOWN", "interrupted at shutdown"),
        (OperationFailure(SHUTDOWN, 11600), "DOWN", "interrupted at shutdown"),
        (CLOSED_IN_HANDSHAKE, "DOWN", "SSL handshake failed: [SSL: UNEXPECTED_EOF"),
        # it accepts and does not answer
        (NetworkTimeout(f"127.0.0.1:32913: timed out{TIMEOUTS}"), "FROZEN", "no answer within 2 s"),
        (
            NetworkTimeout("SSL handshake failed: 127.0.0.1:1: _ssl.c:989: The handshake operation timed out"),
            "FROZEN",
            "no answer within 2 s",
        ),
        # the name
        (
            AutoReconnect("x.invalid:27017: [Errno -2] Name or service not known"),
            "UNREACHABLE",
            "DNS: ",
        ),
        (AutoReconnect("x:27017: [Errno -3] Temporary failure in name resolution"), "UNREACHABLE", "DNS: "),
        (UnicodeError("label empty or too long"), "UNREACHABLE", "DNS: "),
        # TLS
        (
            AutoReconnect(
                "127.0.0.1:64707: [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: self-signed "
                f"certificate (_ssl.c:1006){TIMEOUTS}"
            ),
            "UNREACHABLE",
            "TLS: [SSL: CERTIFICATE_VERIFY_FAILED]",
        ),
        (
            AutoReconnect(
                "SSL handshake failed: 127.0.0.1:1: [SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"
            ),
            "UNREACHABLE",
            "TLS: [SSL: WRONG_VERSION_NUMBER]",
        ),
        # no mongod at all
        (
            ProtocolError("Got response id 1414012997 but expected 1681692777"),
            "UNREACHABLE",
            "this port does not speak the MongoDB protocol",
        ),
        (OperationFailure("no such command", 59), "UNREACHABLE", "this port does not speak"),
        # our own limits are no outage of anybody else
        (
            AutoReconnect("127.0.0.1:1: [Errno 24] Too many open files"),
            "UNREACHABLE",
            "the watchdog's own limits",
        ),
    ],
    ids=str,
)
def test_a_failure_says_what_state_the_member_is_in_and_why(error: Exception, state: str, words: str) -> None:
    seen, detail = classify(error, met=True)
    assert seen.name == state
    assert detail.startswith(words)
    assert "configured timeouts" not in detail
    assert "full error" not in detail


def test_a_connection_that_is_closed_before_the_first_answer_may_be_tls() -> None:
    assert classify(CLOSED, met=False)[0] is MemberState.DOWN
    assert "does it require TLS" in classify(CLOSED, met=False)[1]
    assert "TLS" not in classify(CLOSED, met=True)[1]


def test_where_nobody_has_ever_answered_the_port_may_be_wrong() -> None:
    refused = AutoReconnect("127.0.0.1:1: [Errno 111] Connection refused")
    assert classify(refused, met=True) == (MemberState.DOWN, "[Errno 111] Connection refused")
    state, detail = classify(refused, met=False)
    assert state is MemberState.DOWN
    assert detail == "[Errno 111] Connection refused; start mongod there, or mend host and port in the URI"


def test_a_handshake_that_has_never_worked_is_a_configuration_error() -> None:
    state, detail = classify(CLOSED_IN_HANDSHAKE, met=False)
    assert state is MemberState.UNREACHABLE
    assert detail.startswith("TLS: [SSL: UNEXPECTED_EOF_WHILE_READING]")


# ---- births

BORN = 1_795_368_379
PROCESS = ObjectId(BORN.to_bytes(4) + bytes(8))


def hello(seconds_after_birth: float, **more: object) -> dict[str, Any]:
    """An answer, as pymongo decodes it: times are UTC without a time zone."""
    now = datetime.fromtimestamp(BORN, UTC) + timedelta(seconds=seconds_after_birth)
    return {
        "ismaster": True,
        "topologyVersion": {"processId": PROCESS, "counter": 0},
        "localTime": now.replace(tzinfo=None),
        **more,
    }


def test_a_birth_is_known_to_the_second_and_the_latency() -> None:
    assert birth(hello(10.0), at=500.0, latency_s=0.2) == pytest.approx((489.799, 491.0))


@given(
    clock_ahead=st.floats(-1e6, 1e6),
    born=st.floats(0, 1e6),
    age=st.floats(0.01, 1e6),
    latency=st.floats(0, 5),
    waited=st.floats(0, 1),
)
def test_the_interval_holds_the_birth_whatever_the_clock_of_that_host_says(
    clock_ahead: float, born: float, age: float, latency: float, waited: float
) -> None:
    """All times are those of a clock that nobody has; the member's own is `clock_ahead` of it."""
    made = math.floor(BORN + born + clock_ahead)
    read_ms = math.floor((BORN + born + age + clock_ahead) * 1000)
    answer = hello(0)
    answer["topologyVersion"]["processId"] = ObjectId(made.to_bytes(4) + bytes(8))
    answer["localTime"] = datetime(1970, 1, 1) + timedelta(milliseconds=read_ms)  # noqa: DTZ001 - as pymongo has it
    at = born + age + latency * waited
    interval = birth(answer, at, latency)
    assert interval is not None
    assert interval.lo - 1e-5 <= born <= interval.hi + 1e-5
    assert interval.hi - interval.lo <= 1.001 + latency + 1e-5
    assert interval.hi <= at


def test_a_clock_that_was_set_back_since_the_birth_says_only_that_it_is_past() -> None:
    assert birth(hello(-60.0), at=500.0, latency_s=0.0) == Interval.ever_until(500.0)


@pytest.mark.parametrize(
    "answer",
    [
        {"ismaster": True},
        hello(1, topologyVersion=None),
        hello(1, topologyVersion={"processId": "of some proxy"}),
        hello(1, localTime=None),
    ],
)
def test_without_a_process_id_or_a_clock_there_is_no_birth(answer: Mapping[str, Any]) -> None:
    assert birth(answer, at=500.0, latency_s=0.0) is None


def test_the_process_id_is_hex() -> None:
    assert process_id_of(hello(1)) == str(PROCESS)
    assert process_id_of({"ismaster": True}) is None


# ---- roles and peers

SET = {"setName": "rs", "hosts": ["A:1", "b:2"], "passives": ["c:3"], "arbiters": ["d:4"], "me": "e:5"}


@pytest.mark.parametrize(
    ("answer", "serves"),
    [
        ({"ismaster": True}, True),  # a standalone
        ({"isWritablePrimary": True, "setName": "rs"}, True),
        ({"ismaster": True, "msg": "isdbgrid"}, True),  # mongos
        ({"ismaster": False, "secondary": True, "setName": "rs"}, False),
        ({"ismaster": False, "arbiterOnly": True, "setName": "rs"}, False),
        ({"ismaster": False, "isreplicaset": True}, False),  # not initiated
    ],
)
def test_a_member_that_takes_writes_serves(answer: Mapping[str, Any], serves: bool) -> None:
    assert is_serving(answer) is serves


def test_the_peers_are_all_that_it_names_and_itself() -> None:
    assert peers_of(SET) == {"a:1", "b:2", "c:3", "d:4", "e:5"}
    assert peers_of({"ismaster": True}) == frozenset()


def test_a_peer_that_no_connection_can_lead_to_is_left_out() -> None:
    assert peers_of({"hosts": ["a:1", "[::1]:2", "no port", "x:99999", ""]}) == {"a:1", "[::1]:2"}


# ---- the value


def test_the_same_again_is_no_news_and_another_process_is() -> None:
    first = Heartbeat(MemberId("main", "a:1"), 1.0, MemberState.UP, "aa", Interval(0, 1), is_serving=True)
    again = Heartbeat(MemberId("main", "a:1"), 2.0, MemberState.UP, "aa", Interval(0, 1), is_serving=True)
    other = Heartbeat(MemberId("main", "a:1"), 2.0, MemberState.UP, "bb", Interval(1, 2), is_serving=True)
    assert again.says_the_same(first)
    assert not other.says_the_same(first)
    assert not first.says_the_same(None)


def test_the_modules_do_not_load_pymongo() -> None:
    modules = "watchdogd.observe.mongod.heartbeats, watchdogd.observe.mongod.resolve"
    program = f"import sys, {modules}; print('pymongo' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=50)
    assert done.stdout.strip() == "False"


def test_pymongo_is_loaded_without_pyopenssl_wherever_that_is_installed(tmp_path: Path) -> None:
    (tmp_path / "OpenSSL.py").write_text("raise SystemExit('loaded')")
    code = """\
import sys
sys.path.insert(0, sys.argv[1])
from watchdogd.observe.mongod.heartbeats import PymongoHeartbeats
PymongoHeartbeats(lambda: None, lambda job: None)
try:
    from OpenSSL import SSL  # as pymongo does
except ImportError:
    import pymongo.ssl_support
    assert pymongo.ssl_support.HAVE_SSL
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=20)
