import json
import math
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.world.schemas import schema, strict
from tests.world.values import ANY_JSON
from watchdogd import codec
from watchdogd.codec import CONNECTIONS, FORMATS, INCIDENTS, STATUS, CodecError, Format, VersionError, decode, encode
from watchdogd.model.base import Interval
from watchdogd.model.remembered import Phase, Spent, State
from watchdogd.model.seen import Connection

THING = Format("thing", "the thing", 3, older=(1,))
ROOT = Path(__file__).resolve().parents[2]


def refused(content: bytes) -> str:
    with pytest.raises(CodecError) as error:
        THING.read(content)
    return str(error.value)


# ------------------------------------------------------------------------------------------------ versions


def test_a_document_that_was_written_is_read() -> None:
    document = THING.document(name="x", size=4)
    assert document == {"version": 3, "name": "x", "size": 4}
    assert THING.read(codec.text(document).encode()) == document
    assert THING.read(codec.text(document, indent=2).encode()) == document


@pytest.mark.parametrize("version", [1, 3, 3.0])
def test_every_version_that_is_named_is_read_with_whatever_else_it_has(version: float) -> None:
    document = {"version": version, "surprise": [1]}
    assert THING.read(json.dumps(document).encode()) == document
    assert THING.checked(document) == document


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (4, "the thing is of version 4, from a newer mongo-watchdog; this one reads version 1 or 3"),
        (2, "the thing is of version 2, from an older mongo-watchdog; this one reads version 1 or 3"),
        (-1, "the thing is of version -1, from an older mongo-watchdog; this one reads version 1 or 3"),
    ],
)
def test_another_version_is_refused_whole_and_said_to_be_of_a_newer_or_an_older_one(version: int, said: str) -> None:
    with pytest.raises(VersionError) as error:
        THING.checked({"version": version})
    assert (str(error.value), error.value.version) == (said, version)


@pytest.mark.parametrize(
    "content", [b"{}", b'{"version": null}', b'{"version": true}', b'{"version": "3"}', b'{"version": [3]}']
)
def test_a_document_without_a_version_is_refused(content: bytes) -> None:
    assert refused(content) == "the thing has no version of a mongo-watchdog; this one reads version 1 or 3"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the thing is not JSON: "),
        (b"\xff", "the thing is not JSON: "),
        (b'{"version": 3', "the thing is not JSON: "),
        (b"[" * 100_000, "the thing is not JSON: "),
        (b'{"version": 3, "at": NaN}', "the thing is not JSON: NaN is not a number of JSON"),
        (b'{"version": 3, "at": -Infinity}', "the thing is not JSON: -Infinity is not a number of JSON"),
        (b"[3]", "the thing is not a JSON object"),
    ],
    ids=range(7),
)
def test_what_is_no_document_is_refused_and_named(content: bytes, said: str) -> None:
    assert refused(content).startswith(said)


@given(st.binary() | ANY_JSON.map(lambda value: json.dumps(value).encode()))
def test_no_content_raises_but_a_codec_error(content: bytes) -> None:
    try:
        assert THING.read(content)["version"] in {1, 3}
    except CodecError as error:
        assert str(error).startswith("the thing ")  # noqa: PT017 - it may also be read


def test_no_document_is_written_that_is_not_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        codec.text(THING.document(at=math.nan))


# ------------------------------------------------------------------------------------------ values of the model


@pytest.mark.parametrize(
    ("kind", "data", "said"),
    [
        (Spent, {"at": 1, "proven": 1}, "spent.proven: expected bool, found '1'"),
        (Spent, {"at": True}, "spent.at: expected a number, found 'True'"),
        (Spent, {"at": 10**400}, "spent.at: expected a number, found '1000"),
        (Spent, {"at": 1e999}, "spent.at: expected a number, found 'inf'"),
        (Spent, {}, "spent: expected at in it, found '{}'"),
        (Spent, {"at": 1, "why": 2}, "spent: expected none of why, found "),
        (Interval, [1, "x"], "spent.hi: expected a number, found 'x'"),
        (Interval, [1], "spent: expected 2 values, found '[1]'"),
        (Phase, [], "spent: expected one of reloading, verifying, "),
        (tuple[Spent, ...], [{"at": 1}, None], "spent[1]: expected dict, found 'None'"),
    ],
)
def test_a_wrong_value_is_named_by_its_place(kind: Any, data: object, said: str) -> None:  # noqa: ANN401
    with pytest.raises(CodecError) as error:
        decode(kind, data, "spent")
    assert str(error.value).startswith(said)


def test_a_place_begins_with_what_the_document_has() -> None:
    with pytest.raises(CodecError, match=r"^at: expected a number"):
        decode(Spent, {"at": None}, "")
    with pytest.raises(CodecError, match=r"^the document: expected dict"):
        decode(Spent, None, "")


@pytest.mark.parametrize("kind", [State, tuple[Connection, ...]])
@given(data=ANY_JSON)
def test_nothing_but_a_codec_error_comes_of_any_json(kind: Any, data: object) -> None:  # noqa: ANN401
    try:
        decode(kind, data, "state")
    except CodecError as error:
        assert str(error).startswith("state")  # noqa: PT017 - it may also be decoded


def test_what_is_no_value_of_the_model_is_not_written() -> None:
    with pytest.raises(TypeError, match="not a value of the model"):
        encode(object())


# ------------------------------------------------------------------------------------------------- the schemas


def versions(value: Any) -> Iterator[int]:  # noqa: ANN401 - of JSON
    """Every version that a schema asks for."""
    if isinstance(value, dict):
        yield from [
            one["const"] for key, one in value.items() if key == "version" and isinstance(one, dict) and "const" in one
        ]
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from versions(one)


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.what)
def test_every_format_has_a_schema_of_its_version(one: Format) -> None:
    found = schema(one.schema)
    jsonschema.Draft202012Validator.check_schema(found)
    assert found["$id"] == one.id
    assert set(versions(found)) == {one.version}


def test_every_schema_is_of_a_format_and_stands_in_the_documents() -> None:
    names = {one.schema for one in FORMATS}
    folder = resources.files("watchdogd").joinpath("schemas")
    assert {path.name for path in folder.iterdir()} == {f"{name}.schema.json" for name in names}
    page = (ROOT / "docs/formats.md").read_text()
    for one in FORMATS:
        known = " and ".join(map(str, (*one.older, one.version)))
        assert f"| `{one.schema}` | {one.what} | {one.version} | {known} |" in page


def test_a_document_for_everybody_names_its_schema() -> None:
    for one in FORMATS:
        told = one.document(at=1).get("$schema")
        assert told == (one.id if one in (STATUS, CONNECTIONS, INCIDENTS) else None)


@pytest.mark.parametrize("name", ["status", "connections", "record", "incidents"])
def test_a_schema_of_what_is_only_shown_lets_fields_be_added(name: str) -> None:
    assert '"additionalProperties": false' not in json.dumps(schema(name))


def test_a_schema_of_what_something_is_done_with_lets_none_be_added() -> None:
    assert strict("state").schema == schema("state")
    request = {"version": 2, "verb": "status", "surprise": 1}
    answer = {"version": 2, "ok": True, "text": "", "exit": 0, "surprise": 1}
    control = jsonschema.Draft202012Validator(schema("control"))
    assert not control.is_valid(request)
    assert control.is_valid(answer)
    assert not strict("control", "answer").is_valid(answer)
