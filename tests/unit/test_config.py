import contextlib
import dataclasses
import enum
import os
import re
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from pymongo.errors import PyMongoError
from pymongo.uri_parser import parse_uri

from watchdogd import config as configuration
from watchdogd.config import (
    DEFAULT_CONTROL_SOCKET,
    DEFAULT_STATE_DIR,
    Budget,
    Cause,
    Config,
    ConfigError,
    ConfigUnreadable,
    DeploymentConfig,
    HealthConfig,
    HistoryConfig,
    Idle,
    InstanceConfig,
    Mode,
    PolicyConfig,
    format_duration,
    found_instance,
    parse_duration,
    places,
    read_probe_url,
)
from watchdogd.config.addresses import parse_endpoint, read_uri
from watchdogd.config.keys import BUDGET, DEPLOYMENT, HEALTH, HISTORY, INSTANCE, POLICY, TOP
from watchdogd.config.strict_yaml import MAX_BYTES, Key
from watchdogd.model.base import CHAIN, RESTART, WORKERS, Command

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "config" / "config.yaml"
REFERENCE = ROOT / "docs" / "configuration.md"
SECRET = "hunter2"

ONE = "mongodb: [{uri: 'mongodb://127.0.0.1:27017/'}]\n"
TWO = """mongodb:
  - {name: main, uri: 'mongodb://127.0.0.1:27017/'}
  - {name: archive, uri: 'mongodb://127.0.0.1:27018/'}
"""

A_MISTAKE = re.compile(
    r"config\.yaml:([1-9][0-9]*):([1-9][0-9]*): ([a-z0-9_.\[\]-]+|the file): (.+)", re.DOTALL | re.IGNORECASE
)


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The working directory, so that messages begin with `config.yaml:`."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("etc")
        patch.chdir(path)
        patch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        yield path


def load(text: str | bytes) -> Config:
    path = Path("config.yaml")
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return configuration.load(path)


def mistakes(text: str | bytes) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.mistakes
    for mistake in caught.value.mistakes:
        assert A_MISTAKE.fullmatch(mistake)
    return [mistake.removeprefix("config.yaml:") for mistake in caught.value.mistakes]


def only_mistake(text: str | bytes) -> str:
    found = mistakes(text)
    assert len(found) == 1, found
    return found[0]


# ---- what is read


def test_the_smallest_file_gives_every_default() -> None:
    config = load(ONE)
    assert config == Config(
        deployments=(DeploymentConfig("main", "mongodb://127.0.0.1:27017/"),), path=Path("config.yaml")
    )
    assert config.instances is None


def test_every_key_is_read() -> None:
    config = load("""
mode: observe
interval: 100ms
mongodb:
  - name: main
    uri: mongodb://a.example.org:1,b.example.org:2/?replicaSet=rs0
    endpoints: [proxy:27018, "[::1]:27019"]
    learn_addresses: false
    probe_access: false
  - {name: archive, uri: mongodb+srv://archive.example.org/}
uwsgi:
  - name: shop
    master_fifo: /run/uwsgi/app/shop/fifo
    mongodb: [main, archive]
    reloads: [workers, restart]
    worker_reload_mercy: 1m30s
policy:
  linger: 16s
  idle: leave
  cause: any
  cooldown: 0s
  budget: {unproven: 4, total: 13, per: 2h}
  half_open_after: 1h30m
  max_parallel: 5
state_dir: /tmp/state
control_socket: /tmp/control.sock
""")
    assert config == Config(
        deployments=(
            DeploymentConfig(
                "main",
                "mongodb://a.example.org:1,b.example.org:2/?replicaSet=rs0",
                (("proxy", 27018), ("::1", 27019)),
                learn_addresses=False,
                probe_access=False,
            ),
            DeploymentConfig("archive", "mongodb+srv://archive.example.org/"),
        ),
        instances=(
            InstanceConfig(
                "shop",
                Path("/run/uwsgi/app/shop/fifo"),
                ("main", "archive"),
                frozenset({WORKERS, RESTART}),
                90.0,
            ),
        ),
        mode=Mode.OBSERVE,
        interval_s=0.1,
        policy=PolicyConfig(16.0, Idle.LEAVE, Cause.ANY, 0.0, Budget(4, 13, 7200.0), 5400.0, 5),
        state_dir=Path("/tmp/state"),
        control_socket=Path("/tmp/control.sock"),
        path=Path("config.yaml"),
    )


def test_an_instance_is_named_by_its_folder_and_belongs_to_the_only_deployment() -> None:
    config = load(ONE + "uwsgi: [{master_fifo: /run/uwsgi/app/shop/fifo}]")
    assert config.instances == (InstanceConfig("shop", Path("/run/uwsgi/app/shop/fifo"), ("main",)),)


def test_a_found_instance_is_named_by_its_folder_and_belongs_to_the_only_deployment() -> None:
    fifo = Path("/run/uwsgi/app/shop/fifo")
    assert found_instance(fifo, load(ONE)) == InstanceConfig("shop", fifo, ("main",))
    assert found_instance(fifo, load(TWO)) == InstanceConfig("shop", fifo, ())
    assert found_instance(Path("/fifo"), load(ONE)).name == "/"


def test_anchors_aliases_and_merge_keys_are_resolved() -> None:
    config = load(
        ONE
        + """uwsgi:
  - &base {name: shop, master_fifo: /run/shop/fifo, worker_reload_mercy: 5s, reloads: &all [workers]}
  - <<: *base
    name: blog
    master_fifo: /run/blog/fifo
  - {<<: [{worker_reload_mercy: 6s}, *base], name: wiki, master_fifo: /run/wiki/fifo, reloads: *all}
"""
    )
    assert config.instances is not None
    assert [(one.name, one.mercy_s) for one in config.instances] == [
        ("shop", 5.0),
        ("blog", 5.0),
        ("wiki", 6.0),
    ]
    assert all(one.reloads == {WORKERS} for one in config.instances)


def test_a_byte_order_mark_is_no_mistake() -> None:
    assert load(b"\xef\xbb\xbf" + ONE.encode()) == load(ONE)


# ---- one mistake each


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "1:1: the file: is empty; it needs at least `mongodb:`"),
        ("# nothing\n", "1:1: the file: is empty"),
        ("---\n", "1:1: the file: is empty"),
        ("~", "1:1: the file: is empty"),
        ("- mongodb", "1:1: the file: is not a mapping; expected `key: value`"),
        ("mode", "1:1: the file: is not a mapping"),
        (ONE + "---\n" + ONE, "2:1: the file: a second document begins here"),
        (ONE + "mode: [act", "2:11: the file: is not YAML: while parsing a flow sequence"),
        (ONE + "policy:\n\tlinger: 15s", "3:1: the file: is not YAML: while scanning for the next token"),
        (ONE + "state_dir: a: b", "2:13: the file: is not YAML: mapping values are not allowed here"),
        (ONE + "mode: *nothing", "2:7: the file: is not YAML: found undefined alias 'nothing'"),
        (ONE + 'mode: "\\UFFFFFFFF"', "1:1: the file: is not YAML; look for an escape"),
        (ONE + "mode: \x07", "2:7: the file: has a character that cannot be printed"),
        (ONE + "mode: " + "[" * 30, "2:26: the file: is not YAML: nested deeper than 20 levels"),
        ("mode: act", "1:1: mongodb: is missing; write `mongodb: "),
        ("mongodb: []", "1:10: mongodb: is an empty list"),
        ("mongodb:", "1:9: mongodb: is empty; expected a list of deployments"),
        ("mongodb: {uri: x}", "1:10: mongodb: is not a plain list; expected a list of deployments: begin"),
        ("mongodb: !!seq {uri: x}", "1:10: mongodb: is not a plain list"),
        ("mongodb: [x]", "1:11: mongodb[0]: is not a mapping; expected `key: value` with some of name,"),
        ("mongodb: [{}]", "1:11: mongodb[0].uri: is missing; one of `uri`, `uri_file` and"),
        ("mongodb: [{name: a/b, uri: 'mongodb://a/'}]", "1:18: mongodb[0].name: is not a name; use"),
        ("mongodb: [{name: '', uri: 'mongodb://a/'}]", "1:18: mongodb[0].name: has no text"),
        ("mongodb: [{name: no, uri: 'mongodb://a/'}]", "false; if you mean the text, put it in quotes"),
        ("mongodb: [{name: 12, uri: 'mongodb://a/'}]", "1:18: mongodb[0].name: `12` is read by YAML as"),
        (ONE + "mod: act", "2:1: mod: unknown key; did you mean `mode`?"),
        (ONE + "health: {}", "2:1: health: unknown key; expected `mode`, `interval`, `mongodb`, "),
        (ONE + "? [a]\n: b", "2:3: the file: unknown key"),
        (ONE + "mode: act\nmode: act", "3:1: mode: stands in line 2 already; keep one of them"),
        (ONE + "mode: on", "2:7: mode: `on` is read by YAML as the boolean true; expected `act` or"),
        (
            ONE + "policy: {tell_only: [born_early]}",
            "2:22: policy.tell_only[0]: `born_early` is none of its values; expected `leftover`, `waiting`, ",
        ),
        (ONE + "mode: obsreve", "2:7: mode: `obsreve` is none of its values; did you mean `observe`?"),
        (ONE + "mode: [act]", "2:7: mode: is a list; expected `act` or `observe`"),
        (ONE + "mode: !thing act", "2:7: mode: `act` is read by YAML as a special type; expected `act`"),
        (ONE + "mode: 2026-11-22", "2:7: mode: `2026-11-22` is read by YAML as a timestamp; expected"),
        (ONE + "interval:", "2:10: interval: is empty; expected a duration from 100ms to 1m, or leave the"),
        (ONE + "interval: 15", "2:11: interval: `15` has no unit; write `15s`"),
        (ONE + "interval: '15'", "2:11: interval: `15` has no unit; write `15s`"),
        (ONE + "interval: 1:30", "2:11: interval: `1:30` is read by YAML as the number 90; write `1m30s`"),
        (ONE + "interval: 0.5", "2:11: interval: `0.5` has no unit; write `500ms`"),
        (ONE + "interval: 99ms", "2:11: interval: 99ms is out of range; expected a duration from 100ms to"),
        (ONE + "interval: 61s", "2:11: interval: 61s is out of range"),
        (ONE + "interval: off", "2:11: interval: `off` is read by YAML as the boolean false; expected a"),
        (ONE + "policy: {linger: 0s}", "2:18: policy.linger: 0s is out of range"),
        (ONE + "policy: [linger]", "2:9: policy: is not a mapping; expected `key: value` with some of"),
        (ONE + "policy: {max_parallel: 0123}", "`0123` is read by YAML as the number 83; expected a whole"),
        (ONE + "policy: {max_parallel: 1:30}", "`1:30` is read by YAML as the number 90; expected a whole"),
        (ONE + "policy: {max_parallel: 1_000}", "`1_000` is read by YAML as the number 1000; expected a"),
        (ONE + "policy: {max_parallel: true}", "`true` is read by YAML as the boolean true; expected a"),
        (ONE + "policy: {max_parallel: '4'}", "2:24: policy.max_parallel: is a text; expected a whole"),
        (ONE + "policy: {max_parallel: 4.0}", "`4.0` is read by YAML as a number with a fraction;"),
        (ONE + "policy: {max_parallel: 0}", "0 is out of range; expected a whole number from 1 to 1000"),
        (ONE + "policy: {budget: {total: 2}}", "2:18: policy.budget: has a `total` of 2, below `unproven`"),
        (ONE + "policy: {budget: {per: 0.5d}}", "policy.budget.per: `0.5d` is not a duration; write `12h`"),
        (ONE + "policy: {<<: 1}", "2:14: policy: `<<` merges something that is not a mapping"),
        (ONE + "state_dir: var/lib", "2:12: state_dir: is a relative path; write the whole path"),
        (ONE + "state_dir: [/var]", "2:12: state_dir: is a list; expected an absolute path"),
        (ONE + 'state_dir: "/var\\0lib"', "2:12: state_dir: has no text, or a character that cannot be"),
        (ONE + "control_socket: c.sock", "2:17: control_socket: is a relative path"),
        (ONE + f"control_socket: /{'x' * 107}", "2:17: control_socket: is too long for a Unix socket"),
        (ONE + "uwsgi:", "2:7: uwsgi: is empty; expected a list of instances, or leave the key out"),
        (ONE + "uwsgi: []", "2:8: uwsgi: is an empty list; leave the key out to watch every instance"),
        (ONE + "uwsgi: [{name: a}]", "2:9: uwsgi[0].master_fifo: is missing; write `master_fifo: "),
        (ONE + "uwsgi: [{master_fifo: fifo}]", "2:23: uwsgi[0].master_fifo: is a relative path"),
        (ONE + "uwsgi: [{master_fifo: /a/b, mongodb: main}]", "is a single value; expected a list of"),
        (ONE + "uwsgi: [{master_fifo: /a/b, mongodb: []}]", "2:38: uwsgi[0].mongodb: is an empty list;"),
        (ONE + "uwsgi: [{master_fifo: /a/b, mongodb: [mian]}]", "no deployment `mian`; did you mean `main`?"),
        (ONE + "uwsgi: [{master_fifo: /a/b, reloads: []}]", "2:38: uwsgi[0].reloads: is an empty list; to"),
        (ONE + "uwsgi: [{master_fifo: /a/b, reloads: [w]}]", "2:39: uwsgi[0].reloads[0]: `w` is none of"),
        (ONE + "uwsgi: [{master_fifo: /a/b, reloads: [chain, chain]}]", "uwsgi[0].reloads[1]: stands"),
        (ONE + "uwsgi: [{master_fifo: /a/b}, {master_fifo: /a/b, name: c}]", "this FIFO stands in line 2"),
        (ONE + "uwsgi: [{master_fifo: /a/b}, {master_fifo: /a/c}]", "`a`, its name after its FIFO,"),
        (ONE + "uwsgi: [{name: x, master_fifo: /a/b}, {name: x, master_fifo: /b}]", "uwsgi[1].name: this"),
        (TWO + "uwsgi: [{master_fifo: /a/b}]", "4:9: uwsgi[0].mongodb: is missing; write which of main, archive"),
        (TWO.replace("name: main, ", ""), "2:5: mongodb[0].name: is missing; with several deployments"),
        (TWO.replace("archive", "main"), "3:12: mongodb[1].name: this name stands in line 2 already"),
        (b"mode: \xff", "1:7: the file: is not text in UTF-8"),
        ((ONE + "mode: \xff").encode("utf-16"), "1:1: the file: is not text in UTF-8"),
        ("#" * (MAX_BYTES + 1), "1:1: the file: is larger than 256 kB"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_the_mend(text: str | bytes, told: str) -> None:
    assert told in only_mistake(text)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("yes", "`yes` is read by YAML as the boolean true; expected `true` or `false`, without quotes"),
        ('"true"', "`true` is none of its values; expected `true` or `false`, without quotes"),
        ("1", "`1` is read by YAML as the number 1; expected `true` or `false`, without quotes"),
    ],
)
@pytest.mark.parametrize("key", ["learn_addresses", "probe_access"])
def test_a_flag_is_true_or_false_and_nothing_else(key: str, value: str, told: str) -> None:
    text = f"mongodb: [{{uri: 'mongodb://a/', {key}: {value}}}]"
    assert only_mistake(text).endswith(f"mongodb[0].{key}: {told}")


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    told = mistakes("""mode: on
uwsgi:
  - {master_fifo: run/fifo, reloads: [workers, chian]}
policy: {lingr: 5s, linger: 1.5s, budget: {unproven: 0}}
mongodb:
  - {uri: 'mongodb://a/', uri_file: /etc/nothing}
  - {name: b, uri: 'http://a/', endpoints: [a, 'b:0', '::1:7', '[::1]:7']}
statedir: /var
""")
    assert [one.split(" ")[0] + one.split(" ")[1] for one in told] == [
        "1:7:mode:",
        "3:19:uwsgi[0].master_fifo:",
        "3:48:uwsgi[0].reloads[1]:",
        "4:10:policy.lingr:",
        "4:29:policy.linger:",
        "4:54:policy.budget.unproven:",
        "6:5:mongodb[0].name:",
        "6:37:mongodb[0].uri_file:",
        "6:37:mongodb[0].uri_file:",
        "7:20:mongodb[1].uri:",
        "7:45:mongodb[1].endpoints[0]:",
        "7:48:mongodb[1].endpoints[1]:",
        "7:55:mongodb[1].endpoints[2]:",
        "8:1:statedir:",
    ]


def test_two_paths_of_one_fifo_are_one_instance(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "var").symlink_to("run")
    told = only_mistake(
        f"{ONE}uwsgi: [{{name: a, master_fifo: {folder}/run/fifo}}, {{name: b, master_fifo: {folder}/var/fifo}}]"
    )
    assert "uwsgi[1].master_fifo: this FIFO stands in line 2 already" in told


# ---- files that cost


@pytest.mark.parametrize(
    "text",
    [
        "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)),
        "a0: &a0 {x: x}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60)),
        "policy: &a {<<: *a}",
        "policy: &a {budget: *a}",
        "mongodb: &a [*a]",
        "? " * 3000,
        "- " * 3000,
        "[" * 3000,
        "{a: " * 3000,
    ],
)
def test_aliases_and_nesting_cost_nothing(text: str) -> None:
    began = time.process_time()
    mistakes(text)
    assert time.process_time() - began < 5


def test_a_thousand_instances_are_no_problem() -> None:
    text = ONE + "uwsgi:\n  - &base {name: i, master_fifo: /run/i/fifo, reloads: [workers]}\n"
    text += "".join(f"  - {{<<: *base, name: i{n}, master_fifo: /run/i{n}/fifo}}\n" for n in range(999))
    assert len(load(text).instances or ()) == 1000


# ---- secrets


@pytest.mark.parametrize(
    "text",
    [
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}@'}}]",
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}@h:port/'}}]",
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}@p@h/'}}]",
        f"mongodb: [{{uri: 'mongodb://u:a/{SECRET}@h/'}}]",
        f"mongodb: [{{uri: 'mongodb://u:a:{SECRET}@h/'}}]",
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}%@h/'}}]",
        f"mongodb: [{{uri: 'mongodb://u:p?{SECRET}@h/'}}]",
        f"mongodb: [{{uri: 'mongodb://{SECRET}:x'}}]",
        f"mongodb: [{{uri: 'mongo://u:{SECRET}@h/'}}]",
        f"mongodb: [{{uri: 'u:{SECRET}@h'}}]",
        f"mongodb: [{{uri: '{SECRET}'}}]",
        f"mongodb: [{{uri: mongodb://u:p,{SECRET},x@h/}}]",
        f"mongodb: [{{uri: mongodb://u:p, {SECRET}@h/: 1}}]",
        f"mongodb: [uri: mongodb://u:{SECRET}@h/: x]",
        f"mongodb: 'mongodb://u:{SECRET}@h/'",
        f"mongodb: ['mongodb://u:{SECRET}@h/']",
        f"mongodb: [{{name: 'mongodb://u:{SECRET}@h/', uri: 'mongodb://h/'}}]",
        f"mongodb: [{{uri_file: 'mongodb://u:{SECRET}@h/'}}]",
        f"mongodb: [{{uri_credential: 'mongodb://u:{SECRET}@h/'}}]",
        f"mongodb: [{{uri: 'mongodb://h/', endpoints: ['mongodb://u:{SECRET}@h/']}}]",
        f"mongodb: [{{uri: 'mongodb://h/', endpoints: [mongodb://u:p,{SECRET},x@h/]}}]",
        f"'mongodb://u:{SECRET}@h/': x",
        f"mode: 'mongodb://u:{SECRET}@h/'",
        f"interval: mongodb://u:{SECRET}@h/",
        f"policy: {{max_parallel: 'mongodb://u:{SECRET}@h/'}}",
        f"control_socket: mongodb://u:{SECRET}@h/",
        f"uwsgi: [{{master_fifo: 'mongodb://u:{SECRET}@h/', mongodb: ['mongodb://u:{SECRET}@h/']}}]",
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}@h/}}]",
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}@h/'}}, password: {SECRET}]",
        f"mongodb: [{{uri: 'mongodb://u:{SECRET}@h/'}}]\nmode: on",
        f"mongodb: [{{uri: *mongodb://u:{SECRET}@h/}}]",
        f"mongodb: [{{uri: !mongodb://u:{SECRET}@h/ x}}]",
    ],
)  # fmt: skip
def test_no_mistake_shows_a_password(text: str) -> None:
    assert SECRET not in "\n".join(mistakes(text))


def test_neither_repr_nor_error_of_a_file_shows_a_password(folder: Path) -> None:
    assert SECRET not in repr(load(f"mongodb: [{{uri: 'mongodb://u:{SECRET}@h/'}}]"))
    Path("main.uri").write_text(f"mongodb://u:{SECRET}@h:x/\n")
    told = only_mistake(f"mongodb: [{{uri_file: {folder}/main.uri}}]")
    assert told.startswith("1:22: mongodb[0].uri_file: the URI in it host 1 of 1 has no valid port")
    assert SECRET not in told


# ---- where the URI comes from


def test_a_uri_file_has_the_uri_in_its_only_line(folder: Path) -> None:
    Path("main.uri").write_text("\n  mongodb://u:p@h, \u00fc/ \r\n\n")
    assert load(f"mongodb: [{{uri_file: {folder}/main.uri}}]").deployments[0].uri == "mongodb://u:p@h, \u00fc/"


def test_a_credential_is_read_from_the_directory_of_systemd(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("main.uri").write_text("mongodb://u:p@h/")
    text = "mongodb: [{uri_credential: main.uri}]"
    assert "$CREDENTIALS_DIRECTORY is not set" in only_mistake(text)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    assert load(text).deployments[0].uri == "mongodb://u:p@h/"
    assert "cannot be read: No such file" in only_mistake("mongodb: [{uri_credential: archive.uri}]")
    assert "is not a name" in only_mistake("mongodb: [{uri_credential: ../main.uri}]")


@pytest.mark.parametrize("content", ["", "\n", "mongodb://a/\nmongodb://b/"])
def test_a_uri_file_with_no_or_several_lines_is_a_mistake(folder: Path, content: str) -> None:
    Path("main.uri").write_text(content)
    assert "is not a file with one line" in only_mistake(f"mongodb: [{{uri_file: {folder}/main.uri}}]")


def test_a_uri_file_that_is_a_folder_or_a_fifo_or_not_text_is_a_mistake(folder: Path) -> None:
    os.mkfifo("fifo")
    Path("binary").write_bytes(b"mongodb://\xff\xfe/")
    assert "is not a file with one line" in only_mistake(f"mongodb: [{{uri_file: {folder}/fifo}}]")
    assert "cannot be read: Is a directory" in only_mistake(f"mongodb: [{{uri_file: {folder}}}]")
    assert "the URI in it host 1 of 1 is neither" in only_mistake(f"mongodb: [{{uri_file: {folder}/binary}}]")


def test_one_of_the_three_ways_to_give_a_uri_is_enough(folder: Path) -> None:
    Path("main.uri").write_text("mongodb://h/")
    text = f"mongodb: [{{uri: 'mongodb://h/', uri_file: {folder}/main.uri}}]"
    assert "mongodb[0].uri_file: stands beside `uri`; keep one of them" in only_mistake(text)


# ---- addresses


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://127.0.0.1",
        "mongodb://localhost:27017/shop?tls=true&connectTimeoutMS=100",
        "mongodb://a,b:27018,[::1]:27019,[fe80::1%25eth0]/?replicaSet=rs0",
        "mongodb://user:p%40ss%3Aword@db_1.example.org./",
        "mongodb://user@h/",
        "mongodb://CN%3Dclient@h/?authMechanism=MONGODB-X509",
        "mongodb://h/?readPreference=secondary&readPreferenceTags=dc:a&readPreferenceTags=",
        "mongodb://h/shop.orders",
        "mongodb://h:27018/a%2Eb?w=1",
    ],
)
def test_a_uri_that_pymongo_takes_is_taken_for_the_same_members(uri: str) -> None:
    nodes = parse_uri(uri)["nodelist"]
    assert [(host, port or 27017) for host, port in read_uri(uri).hosts] == nodes


@pytest.mark.parametrize(
    ("uri", "hosts"),
    [
        ("mongodb://h?tls=true", [("h", None)]),  # pymongo 3 wants a slash, 4 does not
        ("mongodb://u:p@h:1,g?replicaSet=rs0", [("h", 1), ("g", None)]),
        ("mongodb://u:p@a:1, b:2/", [("a", 1), ("b", 2)]),
        ("mongodb://b\u00fccher.example:1/", [("xn--bcher-kva.example", 1)]),
    ],
)
def test_a_uri_is_read_as_drivers_read_it(uri: str, hosts: list[tuple[str, int | None]]) -> None:
    assert list(read_uri(uri).hosts) == hosts


def test_a_name_of_other_letters_is_looked_up_as_a_driver_does() -> None:
    assert parse_endpoint("B\u00fccher.example:1") == ("xn--bcher-kva.example", 1)
    for bad in ("\u00e9" * 300, "\u00e9..", "\u00e9\u202e x"):
        with pytest.raises(ValueError, match="is neither a host name nor an IP address"):
            parse_endpoint(f"{bad}:1")


OLD_NAMES = [
    ("ssl=true", {"tls": "true"}),
    ("SSL=false", {"tls": "false"}),
    ("ssl=true&tls=true", {"tls": "true"}),
    ("ssl_ca_certs=%2Fca.pem", {"tls": "true", "tlsCAFile": "/ca.pem"}),
    ("ssl=true&ssl_cert_reqs=CERT_NONE", {"tls": "true", "tlsAllowInvalidCertificates": "true"}),
    ("ssl_cert_reqs=CERT_NONE", {"tlsAllowInvalidCertificates": "true"}),  # no TLS, with pymongo 3 and 4
    ("ssl_cert_reqs=CERT_REQUIRED", {"tls": "true", "tlsAllowInvalidCertificates": "false"}),
    ("ssl_cert_reqs=CERT_OPTIONAL", {"tls": "true", "tlsAllowInvalidCertificates": "false"}),
    ("ssl=true&ssl_match_hostname=false", {"tls": "true", "tlsAllowInvalidHostnames": "true"}),
    ("ssl_match_hostname=true", {"tls": "true", "tlsAllowInvalidHostnames": "false"}),
    ("ssl_certfile=a&ssl_keyfile=a", {"tls": "true", "tlsCertificateKeyFile": "a"}),
    ("ssl_pem_passphrase=b%26", {"tls": "true", "tlsCertificateKeyFilePassword": "b&"}),
    ("ssl_crlfile=a", {"tls": "true", "tlsCRLFile": "a"}),
    ("tlscafile=a", {"tls": "true", "tlsCAFile": "a"}),
    ("tlsInsecure=true", {"tlsInsecure": "true"}),
]


@pytest.mark.parametrize(("options", "read"), OLD_NAMES)
def test_options_for_tls_are_taken_by_the_names_of_older_drivers_too(options: str, read: dict[str, str]) -> None:
    assert read_uri(f"mongodb://h/?{options}").tls == read


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("ssl_keyfile=a", "has ssl_keyfile, which pymongo 4 does not take; put key and certificate into one file"),
        ("ssl_certfile=a&ssl_keyfile=b", "has ssl_keyfile, which pymongo 4 does not take"),
        (
            "ssl_cert_reqs=none",
            "has no valid value of ssl_cert_reqs; write CERT_NONE or CERT_OPTIONAL or",
        ),
        ("tls=True", "has no valid value of tls; write true or false"),
        ("tlsinsecure=yes", "has no valid value of tlsInsecure; write true or false"),
        ("ssl=true&tls=false", "says two things of tls; keep one of them"),
        ("ssl_ca_certs=a&tlsCAFile=b", "says two things of tlsCAFile"),
        ("tls=false&tlsCAFile=a", "has options for TLS beside tls=false"),
        (
            "tlsCaBundle=a",
            "has an option for TLS that pymongo does not take; there are tls, tlsAllow",
        ),
    ],
)
def test_what_no_driver_could_make_of_options_for_tls_is_told_with_its_line(options: str, told: str) -> None:
    assert f"1:17: mongodb[0].uri: {told}" in only_mistake(f"mongodb: [{{uri: 'mongodb://h/?{options}'}}]")


def test_a_srv_uri_is_taken() -> None:
    read_uri("mongodb+srv://user:pw@cluster0.example.mongodb.net/?appName=shop")  # pymongo would ask DNS


@pytest.mark.parametrize(
    "uri",
    [
        "mongodb://",
        "mongodb://a,,b/",
        "mongodb://a:0/",
        "mongodb://a:x/",
        "mongodb://[::1/",
        "mongodb://::1/",
        "mongodb://:p@h/",
        "mongodb://u:p:q@h/",
        "mongodb://u:p@q@h/",
        "mongodb://h/a b",
        "mongodb://h/?tls",
        "mongodb://h/?a=b&",
        "mongo://h/",
    ],
)
def test_a_uri_that_pymongo_refuses_is_refused(uri: str) -> None:
    with pytest.raises((ValueError, PyMongoError)):
        parse_uri(uri)
    with pytest.raises(ValueError, match=";"):
        read_uri(uri)


@pytest.mark.parametrize(
    ("uri", "told"),
    [
        ("", "is not a MongoDB URI"),
        ("mongodb:/h/", "is not a MongoDB URI"),
        ("MONGODB://h/", "is not a MongoDB URI"),
        ("mongodb://", "host 1 of 1 has no name"),
        ("mongodb:///shop", "host 1 of 1 has no name"),
        ("mongodb://a,,b/", "host 2 of 3 has no name"),
        ("mongodb://a:0/", "host 1 of 1 has no valid port"),
        ("mongodb://a:65536/", "host 1 of 1 has no valid port"),
        ("mongodb://a:/", "host 1 of 1 has no valid port"),
        ("mongodb://a:²/", "host 1 of 1 has no valid port"),
        ("mongodb://[::1/", "host 1 of 1 is not an IPv6 address"),
        ("mongodb://[::g]/", "host 1 of 1 is not an IPv6 address"),
        ("mongodb://[::1]x/", "host 1 of 1 is not an IPv6 address"),
        ("mongodb://::1/", "host 1 of 1 looks like an IPv6 address"),
        ("mongodb://127.0.0.256/", "host 1 of 1 is neither a host name nor an IP address"),
        ("mongodb://a b/", "host 1 of 1 is neither"),
        ("mongodb://-a/", "host 1 of 1 is neither"),
        ("mongodb://%2Ftmp%2Fmongodb-27017.sock/", "host 1 of 1 is a Unix socket"),
        ("mongodb:///tmp/mongodb-27017.sock", "host 1 of 1 is a Unix socket"),
        ("mongodb://a,%2Ftmp%2Fmongodb-27017.sock/", "host 2 of 2 is a Unix socket"),
        ("mongodb://u:p?x@h/", "has a user or password with one of"),
        ("mongodb://u:%@h/", "has a user or password with one of"),  # pymongo 3.11 takes it
        ("mongodb+srv://h:27017/", "takes one name"),
        ("mongodb+srv://a,b/", "takes one name"),
    ],
)
def test_a_uri_that_cannot_be_right_is_a_mistake(uri: str, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        read_uri(uri)


@given(st.text(st.sampled_from("mongodb+srv://@:,?%[]0a.-é\x00\n"), max_size=30))
def test_no_uri_and_no_endpoint_makes_the_checks_fail_otherwise(text: str) -> None:
    for check in (read_uri, parse_endpoint):
        for one in (text, f"mongodb://{text}", f"[{text}]:1"):
            with contextlib.suppress(ValueError):
                check(one)


@given(st.ip_addresses(), st.integers(1, 65535))
def test_an_endpoint_of_any_address_is_read(address: object, port: int) -> None:
    written = f"[{address}]:{port}" if ":" in str(address) else f"{address}:{port}"
    assert parse_endpoint(written) == (str(address), port)


# ---- durations


@given(st.integers(0, 10**12))
def test_a_duration_is_read_as_it_is_written(ms: int) -> None:
    assert parse_duration(format_duration(ms / 1000)) == ms / 1000


@given(st.tuples(*[st.none() | st.integers(0, 999_999_999)] * 5).filter(any))
def test_each_unit_counts(parts: tuple[int | None, ...]) -> None:
    written = "".join(f"{n}{unit}" for n, unit in zip(parts, ("d", "h", "m", "s", "ms"), strict=True) if n is not None)
    ms = sum((n or 0) * size for n, size in zip(parts, (86_400_000, 3_600_000, 60_000, 1000, 1), strict=True))
    assert parse_duration(written) == pytest.approx(ms / 1000)


@given(st.text() | st.text(st.sampled_from("0123456789dhms. -²"), max_size=12))
@example("15m\n")
def test_what_is_no_duration_is_told_with_one_that_is(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ValueError as error:
        suggested = re.findall(r"`([^`]+)`", str(error))
        assert suggested
        assert all(parse_duration(one) >= 0 for one in suggested)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("15", "15s"),
        ("60", "60s"),
        ("1.5", "1s500ms"),
        ("15 s", "15s"),
        ("15sec", "15s"),
        ("2 Minutes", "2m"),
        ("0.5h", "30m"),
        ("1.5d", "1d12h"),
        ("90 Days", "90d"),
        ("250 millis", "250ms"),
        ("300msec", "300ms"),
    ],
)
def test_a_duration_of_another_notation_is_told_with_the_right_one(text: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"write `{meant}`"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["", "s", "-5s", "1s1m", "15s ", "1h 30m", "1e3s", "\uff11s", "15x"])
def test_what_only_looks_like_a_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write"):
        parse_duration(text)


# ---- any file at all

WORDS = [key.name for keys in (TOP, DEPLOYMENT, INSTANCE, POLICY, BUDGET, HISTORY) for key in keys]
VALUES = [
    "on",
    "1:30",
    "0123",
    "15s",
    "main",
    "workers",
    "/run/a/fifo",
    "mongodb://h/",
    "127.0.0.1:1",
    "[::1]:1",
    "",
    "~",
]
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.dates() | st.text(max_size=8) | st.sampled_from(VALUES)
)
KEYS = st.sampled_from(WORDS) | st.text(string.ascii_letters, max_size=4) | st.integers(0, 9) | st.none()
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def loads_or_tells(content: bytes) -> None:
    try:
        load(content)
    except ConfigError as error:
        told = error.mistakes
    else:
        return
    assert told
    for mistake in told:
        assert A_MISTAKE.fullmatch(mistake)
        assert mistake.isprintable()


@given(TREES)
def test_any_yaml_tree_loads_or_is_told(tree: object) -> None:
    loads_or_tells(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@given(st.dictionaries(st.sampled_from(WORDS), TREES, max_size=5), st.booleans())
def test_any_values_of_the_keys_load_or_are_told(tree: dict[str, Any], flow: bool) -> None:
    tree = {
        "mongodb": [{"uri": "mongodb://h/"} | tree],
        "uwsgi": [{"master_fifo": "/a/b"} | tree],
        "policy": tree,
    } | tree
    loads_or_tells(yaml.safe_dump(tree, default_flow_style=flow).encode())


@given(
    st.lists(
        st.sampled_from([*WORDS, *VALUES, *"{}[]:,-?&*!|>'\"%@`#\n \t", ": ", "\n  ", "&a ", "*a", "<<: ", "!!seq "])
    )
)
def test_any_text_loads_or_is_told(parts: list[str]) -> None:
    loads_or_tells("".join(parts).encode())


@given(st.binary())
def test_any_bytes_load_or_are_told(content: bytes) -> None:
    loads_or_tells(content)


# ---- files that cannot be read


def test_a_file_that_is_not_there_is_told_like_a_mistake() -> None:
    with pytest.raises(ConfigUnreadable) as caught:
        configuration.load(Path("nothing.yaml"))
    (told,) = caught.value.mistakes
    assert told.startswith("nothing.yaml:1:1: the file: cannot be read: No such file or directory; expected a file")


def test_the_control_socket_is_found_in_a_file_with_mistakes() -> None:
    path = Path("config.yaml")
    path.write_text("mongodb: [{uri_credential: main.uri}]\nmode: on\ncontrol_socket: /tmp/c.sock")
    assert places(path) == (Path("/tmp/c.sock"), DEFAULT_STATE_DIR)
    path.write_text("mode: on\nstate_dir: /tmp/state")
    assert places(path) == (DEFAULT_CONTROL_SOCKET, Path("/tmp/state"))
    for text in ("control_socket: c.sock", "", "- a", "control_socket: [", "a: b: c"):
        path.write_text(text)
        with pytest.raises(ConfigError):
            places(path)


def test_reading_the_configuration_needs_no_pymongo() -> None:
    program = "import sys, watchdogd.config; print({'pymongo', 'bson', 'difflib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# ---- health

SHOP = ONE + "uwsgi:\n  - master_fifo: /run/uwsgi/app/shop/fifo\n    health: "


def test_health_is_read() -> None:
    config = load(
        SHOP + '{url: "https://h:8443/ping", timeout: 500ms, expect: 200-299, host: "a.example", verify: false}'
    )
    assert config.instances
    health = HealthConfig(read_probe_url("https://h:8443/ping"), 0.5, (200, 299), "a.example", verify=False)
    assert config.instances[0].health == health


def test_health_has_defaults() -> None:
    config = load(SHOP + '{url: "uwsgi+unix:///run/shop.sock:/ping", expect: 204}')
    assert config.instances
    one = config.instances[0].health
    assert one == HealthConfig(read_probe_url("uwsgi+unix:///run/shop.sock:/ping"), 5.0, (204, 204), "", verify=True)


@pytest.mark.parametrize(
    ("health", "message"),
    [
        ("{}", 'uwsgi[0].health.url: is missing; write `url: "http://127.0.0.1:8080/ping"`'),
        ("http://h/", "uwsgi[0].health: is not a mapping; expected `key: value` with some of url, timeout"),
        ('{url: "h:80/"}', "uwsgi[0].health.url: is no URL of a health check; write http://HOST:PORT/PATH"),
        ('{url: "http://h/", timeout: 5}', "uwsgi[0].health.timeout: `5` has no unit; write `5s`"),
        ('{url: "http://h/", timeout: 1m}', "uwsgi[0].health.timeout: 1m is out of range"),
        ('{url: "http://h/", expect: 299-200}', "uwsgi[0].health.expect: is no status of HTTP and no range of them"),
        ('{url: "http://h/", expect: ok}', "expected a status like `200`, or a range like `200-399`"),
        ('{url: "http://h/", host: "a b"}', "uwsgi[0].health.host: is neither a host name nor an IP address"),
        (
            '{url: "http://h/", verify: false}',
            "uwsgi[0].health.verify: stands beside a `url` without TLS; leave it out",
        ),
        ('{url: "http://h/", path: /ping}', "uwsgi[0].health.path: unknown key"),
    ],
)
def test_a_mistake_in_health_is_told_with_its_mend(health: str, message: str) -> None:
    assert message in only_mistake(SHOP + health)


# ---- what is shipped, and the docs

SECTIONS: list[tuple[str, tuple[Key, ...], type]] = [
    ("", TOP, Config),
    ("mongodb[].", DEPLOYMENT, DeploymentConfig),
    ("uwsgi[].", INSTANCE, InstanceConfig),
    ("uwsgi[].health.", HEALTH, HealthConfig),
    ("policy.", POLICY, PolicyConfig),
    ("policy.budget.", BUDGET, Budget),
    ("history.", HISTORY, HistoryConfig),
]


def shipped_with_every_key() -> dict[str, Any]:
    """The shipped file with its commented keys: `#key`, while `# text` is prose."""
    tree = yaml.safe_load(re.sub(r"(?m)^( *)#(?=[a-z-])", r"\1", SHIPPED.read_text()))
    assert isinstance(tree, dict)
    return tree


def default(key: Key, values: type) -> object:
    return {one.name: one.default for one in dataclasses.fields(values)}.get(key.attribute, dataclasses.MISSING)


def written(key: Key, value: object) -> object:
    """A default as it is written in the file."""
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, frozenset):
        return [one.word for one in Command if one in value]
    return format_duration(float(str(value))) if key.attribute.endswith("_s") else value


def test_the_shipped_file_loads_and_has_nothing_but_defaults() -> None:
    assert dataclasses.replace(configuration.load(SHIPPED), path=Path("config.yaml")) == load(ONE)


def test_the_shipped_file_shows_every_key() -> None:
    tree = shipped_with_every_key()
    trees = {"": tree, "mongodb[].": tree["mongodb"][0], "uwsgi[].": tree["uwsgi"][0]}
    trees |= {
        "uwsgi[].health.": tree["uwsgi"][0]["health"],
        "policy.": tree["policy"],
        "policy.budget.": tree["policy"]["budget"],
        "history.": tree["history"],
    }
    for prefix, keys, _ in SECTIONS:
        assert list(trees[prefix]) == [key.name for key in keys], prefix


def test_the_shipped_file_shows_the_defaults() -> None:
    tree = shipped_with_every_key()
    del tree["mongodb"][0]["uri_file"], tree["mongodb"][0]["uri_credential"]
    config = load(yaml.safe_dump(tree))
    assert config.instances is not None
    shown: dict[str, Any] = {"": config, "uwsgi[].": config.instances[0]}
    shown |= {"policy.": config.policy, "policy.budget.": config.policy.budget, "history.": config.history}
    for prefix, keys, values in SECTIONS:
        for key in keys:
            if prefix in shown and not key.absent and not key.required:
                assert getattr(shown[prefix], key.attribute) == default(key, values), key.name


def option_table() -> str:
    lines = ["| key | value | default | what it is |", "|---|---|---|---|"]
    for prefix, keys, values in SECTIONS:
        for key in keys:
            value = written(key, default(key, values))
            if key.required or key.absent:
                told = key.absent or "required"
            elif isinstance(value, list):
                told = f"`[{', '.join(value)}]`"
            else:
                told = "" if dataclasses.is_dataclass(value) else "none" if value == () else f"`{value}`"
            lines.append(f"| `{prefix}{key.name}` | {key.reader.kind} | {told} | {key.meaning} |")
    return "\n".join(lines)


def test_the_table_of_the_reference_is_that_of_the_code() -> None:
    text = REFERENCE.read_text()
    begin, end = "<!-- options -->\n", "<!-- /options -->\n"
    head, rest = text.split(begin)
    _, tail = rest.split(end)
    up_to_date = f"{head}{begin}{option_table()}\n{end}{tail}"
    if os.environ.get("MONGO_WATCHDOG_WRITE_DOCS") == "1":
        REFERENCE.write_text(up_to_date)
    assert REFERENCE.read_text() == up_to_date, "run this test with MONGO_WATCHDOG_WRITE_DOCS=1"


def test_the_examples_of_the_reference_load(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    for name in ("main.uri", "archive.uri"):
        (folder / name).write_text("mongodb://h/")
    examples = re.findall(r"```yaml\n(.*?)```", REFERENCE.read_text(), re.DOTALL)
    assert len(examples) >= 3
    for text in examples:
        assert load(text.replace("/etc/mongo-watchdog", str(folder))).deployments


def test_the_mistakes_of_the_reference_are_those_that_are_told() -> None:
    shown = re.findall(r"config\.yaml:\d+:(\d+: .*)", REFERENCE.read_text())
    told = mistakes(ONE + "interval: 1:30\npolicy:\n  lingr: 5s")
    assert [one.partition(":")[2] for one in told] == shown


def test_both_ways_of_reloading_without_a_gap_are_the_default() -> None:
    assert InstanceConfig("a", Path("/a"), ()).reloads == {WORKERS, CHAIN}
