"""The completions against the command line: by the shells themselves where they are installed."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.world.command_line import arguments, verbs
from watchdogd.codec import FORMATS

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "completions"
BASH, ZSH, FISH = FOLDER / "mongo-watchdog.bash", FOLDER / "_mongo-watchdog", FOLDER / "mongo-watchdog.fish"
STATUS = {
    "deployments": [{"name": "main", "members": [{"name": "no"}]}],
    "instances": [{"name": "shop", "workers": [{"pid": 1}], "state": "watching"}, {"name": "blog@1"}],
    "not_covered": [{"name": "no"}],
}

LISTED = {"incidents": [{"id": "shop-17-2", "instance": "shop"}, {"id": "blog@1-17-1", "instance": "blog@1"}]}

NAMES = {one.schema for one in FORMATS}


def options(verb: str) -> set[str]:
    """The long options of a verb, as every verb has --help and --config."""
    return {one for action in arguments(verb) for one in action.option_strings if one.startswith("--")}


Offered = Callable[[str, str, Path], set[str]]

EVERY_VERB = pytest.mark.parametrize("verb", verbs())


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with a mongo-watchdog that has the status of a daemon with two instances, and notes how it was called."""
    (tmp_path / "status.json").write_text(json.dumps(STATUS, indent=2) + "\n")
    program = tmp_path / "mongo-watchdog"
    (tmp_path / "incidents.json").write_text(json.dumps(LISTED, indent=2) + "\n")
    which = f"case $* in *incidents*) cat {tmp_path}/incidents.json;; *) cat {tmp_path}/status.json;; esac"
    program.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/called\n{which}\n')
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def shell(command: list[str], path: str, cwd: Path) -> list[str]:
    environment = {"PATH": path, "HOME": str(cwd), "LC_ALL": "C.UTF-8"}
    ran = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=50)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout.splitlines()


def by_bash(line: str, path: str, cwd: Path) -> set[str]:
    """What bash offers at the end of the line."""
    script = (
        'source "$0"; read -ra COMP_WORDS <<<"$1"; [[ $1 != *" " ]] || COMP_WORDS+=("")\n'
        'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _mongo_watchdog; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    return set(shell(["bash", "-c", script, str(BASH), line], path, cwd)) - {""}


def by_fish(line: str, path: str, cwd: Path) -> set[str]:
    """What fish offers at the end of the line, without its descriptions."""
    if not shutil.which("fish"):
        pytest.skip("needs fish")
    script = f"source {FISH}; complete -C '{line}'"
    return {one.split("\t")[0] for one in shell(["fish", "--no-config", "-c", script], path, cwd)}


SHELLS = pytest.mark.parametrize("offered", [by_bash, by_fish], ids=["bash", "fish"])


@SHELLS
def test_without_a_verb_all_verbs_are_offered(offered: Offered, path: str, tmp_path: Path) -> None:
    for line in ("mongo-watchdog ", "mongo-watchdog --config /etc/x.yaml "):
        assert {one for one in offered(line, path, tmp_path) if not one.startswith("-")} == set(verbs())
    assert offered("mongo-watchdog re", path, tmp_path) == {"reconfigure", "reload", "resume"}
    assert "--version" in offered("mongo-watchdog --", path, tmp_path)


@SHELLS
@EVERY_VERB
def test_a_verb_has_its_options_and_no_others(verb: str, offered: Offered, path: str, tmp_path: Path) -> None:
    found = {one for one in offered(f"mongo-watchdog {verb} --", path, tmp_path) if one.startswith("--")}
    assert found == options(verb)


@SHELLS
def test_the_daemons_instances_are_offered(offered: Offered, path: str, tmp_path: Path) -> None:
    for verb in ("status", "reload"):
        found = offered(f"mongo-watchdog {verb} ", path, tmp_path)
        assert {one for one in found if not one.startswith("-")} == {"shop", "blog@1"}
    assert offered("mongo-watchdog --config my.yaml reload bl", path, tmp_path) == {"blog@1"}
    called = (tmp_path / "called").read_text().splitlines()
    assert {called[0], called[-1]} == {"status --json", "--config my.yaml status --json"}
    assert not {one for one in offered("mongo-watchdog pause ", path, tmp_path) if not one.startswith("-")}


@SHELLS
def test_the_recorded_incidents_are_offered(offered: Offered, path: str, tmp_path: Path) -> None:
    found = offered("mongo-watchdog --config my.yaml incidents ", path, tmp_path)
    assert {one for one in found if not one.startswith("-")} == {"shop-17-2", "blog@1-17-1"}
    assert (tmp_path / "called").read_text().splitlines() == ["--config my.yaml incidents --json"]


@SHELLS
def test_values_of_options_are_offered(offered: Offered, path: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.yaml").touch()
    assert "1h" in offered("mongo-watchdog pause --for ", path, tmp_path)
    assert offered("mongo-watchdog pause --reason ", path, tmp_path) == set()
    assert offered("mongo-watchdog check --config fi", path, tmp_path) == {"file.yaml"}
    assert {one.rstrip("/") for one in offered("mongo-watchdog install --root f", path, tmp_path)} == {"folder"}


@SHELLS
def test_the_schemas_are_offered(offered: Offered, path: str, tmp_path: Path) -> None:
    found = offered("mongo-watchdog schema ", path, tmp_path)
    assert {one for one in found if not one.startswith("-")} == NAMES


def test_zsh_offers_the_schemas() -> None:
    written = re.search(r"schema\) .*:name:\((.*)\)'", ZSH.read_text())
    assert written
    assert set(written[1].split()) == NAMES


@EVERY_VERB
def test_zsh_has_every_verb_with_its_options(verb: str) -> None:
    """Its completion runs in a line editor only; what is written is read instead, and zsh checks the syntax."""
    text = ZSH.read_text()
    assert re.search(rf"^        '{verb}:", text, re.MULTILINE)
    branch = re.search(rf"^                (?:\S+ \| )?{verb}(?: \| \S+)?\)(.*?);;", text, re.MULTILINE | re.DOTALL)
    found = set(re.findall(r"'(--[a-z-]+)\[", branch[1])) if branch else set()
    assert found == options(verb) - {"--config", "--help"}


def test_zsh_reads_its_completion(tmp_path: Path) -> None:
    if not shutil.which("zsh"):
        pytest.skip("needs zsh")
    assert shell(["zsh", "-n", str(ZSH)], os.environ["PATH"], tmp_path) == []
