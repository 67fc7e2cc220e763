"""The JSON Schemas that are shipped, as the tests use them: a field that one does not have is a mistake."""

import json
from importlib import resources
from typing import Any

import jsonschema


def schema(name: str) -> dict[str, Any]:
    """What `mongo-watchdog schema NAME` prints."""
    text = resources.files("watchdogd").joinpath("schemas", f"{name}.schema.json").read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def strict(name: str, part: str | None = None) -> jsonschema.Draft202012Validator:
    """Its validator, or that of a part of its `$defs`, that lets nothing pass which the schema does not have.

    Those of what is only shown let others read what is added to it later; here that would be a field without a word.
    """
    closed = _closed(schema(name))
    return jsonschema.Draft202012Validator({**closed, "oneOf": [{"$ref": f"#/$defs/{part}"}]} if part else closed)


def _closed(value: Any) -> Any:  # noqa: ANN401 - of JSON
    if isinstance(value, list):
        return [_closed(one) for one in value]
    if not isinstance(value, dict):
        return value
    closed = {key: _closed(one) for key, one in value.items()}
    is_object = "object" in value.get("type", ()) and "properties" in value and "oneOf" not in value
    return {"additionalProperties": False, **closed} if is_object else closed
