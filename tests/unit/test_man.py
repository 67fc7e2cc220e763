"""The man pages against the program: every verb, option, exit status and key stands in them as it is."""

import dataclasses
import enum
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.world.command_line import arguments, verbs
from tests.world.prose import too_long
from watchdogd import config as configuration
from watchdogd.cli.main import Exit
from watchdogd.config import (
    Budget,
    Config,
    DeploymentConfig,
    HealthConfig,
    HistoryConfig,
    InstanceConfig,
    PolicyConfig,
    format_duration,
)
from watchdogd.config.keys import BUDGET, DEPLOYMENT, HEALTH, HISTORY, INSTANCE, POLICY, TOP
from watchdogd.config.strict_yaml import Key
from watchdogd.model.base import Command
from watchdogd.service.start import EX_CONFIG, EX_TEMPFAIL

ROOT = Path(__file__).resolve().parents[2]
COMMAND = ROOT / "docs/man/mongo-watchdog.8"
FILE = ROOT / "docs/man/mongo-watchdog.yaml.5"
PAGES = pytest.mark.parametrize("page", [COMMAND, FILE], ids=lambda page: page.name)
SECTIONS: tuple[tuple[str, tuple[Key, ...], type], ...] = (
    ("", TOP, Config),
    ("mongodb[].", DEPLOYMENT, DeploymentConfig),
    ("uwsgi[].", INSTANCE, InstanceConfig),
    ("uwsgi[].health.", HEALTH, HealthConfig),
    ("policy.", POLICY, PolicyConfig),
    ("policy.budget.", BUDGET, Budget),
    ("history.", HISTORY, HistoryConfig),
)


def roff(text: str) -> str:
    r"""A text of the code in roff: `code` is bold, and a hyphen that can be copied is written \-."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"`([^`]*)`", r"\\fB\1\\fR", text)


def default(key: Key, values: type) -> str:
    """What holds without the key, as the table of docs/configuration.md has it; "" for a mapping."""
    if key.required or key.absent:
        return key.absent or "required"
    value = next(one.default for one in dataclasses.fields(values) if one.name == key.attribute)
    if dataclasses.is_dataclass(value):
        return ""
    if isinstance(value, enum.Enum):
        return f"`{value.value}`"
    if isinstance(value, frozenset):
        return f"`[{', '.join(one.word for one in Command if one in value)}]`"
    if key.attribute.endswith("_s"):
        return f"`{format_duration(float(str(value)))}`"
    return "none" if value == () else f"`{value}`"


def options() -> Iterator[str]:
    for prefix, keys, values in SECTIONS:
        for key in keys:
            absent = default(key, values)
            told = f"; {'' if absent.endswith('required') else 'default: '}{absent}" if absent else ""
            yield f".TP\n.B {roff(prefix + key.name)}"
            yield roff(key.meaning)
            yield f".br\n{roff(f'Value: {key.reader.kind}{told}.')}"


def plain(page: Path) -> str:
    r"""The text of a page without fonts (.BR and \fB), with plain hyphens and single blanks."""
    text = re.sub(r"\\f[A-Z]|\"", "", page.read_text().replace(r"\-", "-"))
    text = re.sub(r"^\.(?:B|I|BR|BI|RB|RI|IR) ", "", text, flags=re.MULTILINE)
    return re.sub(r" +", " ", text).replace(" ,", ",")


def paragraphs(page: Path) -> list[str]:
    """The paragraphs of a page, without what stands as it is typed; a text that is bold or italic alone is one word."""
    text = re.sub(r'^\.nf$.*?^\.fi$|^\.\\".*?$', "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\.[BI] .*$|\\f[BI].*?\\fR", "CODE", text, flags=re.MULTILINE).replace(r"\-", "-")
    text = re.sub(r"^\.[BIR]{2} (.*)$", lambda line: "".join(shlex.split(line[1])), text, flags=re.MULTILINE)
    return re.split(r"^\.TP\n.*$|^\.(?:TH|SH|SS|PP|IP|RS|RE|br).*$", text, flags=re.MULTILINE)


@PAGES
def test_no_sentence_needs_a_second_reading(page: Path) -> None:
    assert too_long(paragraphs(page)) == []


def test_the_keys_of_the_page_are_those_of_the_code() -> None:
    begin, end = '.\\" options\n', '.\\" /options\n'
    head, rest = FILE.read_text().split(begin)
    _, tail = rest.split(end)
    up_to_date = f"{head}{begin}" + "".join(f"{line}\n" for line in options()) + f"{end}{tail}"
    if os.environ.get("MONGO_WATCHDOG_WRITE_DOCS") == "1":
        FILE.write_text(up_to_date)
    assert FILE.read_text() == up_to_date, "run this test with MONGO_WATCHDOG_WRITE_DOCS=1"


@PAGES
def test_a_page_has_its_name_and_section_and_no_warning(page: Path) -> None:
    name, _, section = page.name.rpartition(".")
    assert f".TH {roff(name).upper()} {section} " in page.read_text()
    assert page.read_text().isascii()
    if not shutil.which("groff"):
        pytest.skip("needs groff")
    command = ["groff", "-man", "-Tascii", "-ww", "-z", str(page)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("name", verbs())
def test_a_verb_stands_in_the_page_with_all_its_options_and_no_other(name: str) -> None:
    found = re.search(rf"^\.TP\n({name}(?: .*)?)$", plain(COMMAND), re.MULTILINE)
    assert found, f"{COMMAND.name}: no paragraph begins with {name}"
    actions = [one for one in arguments(name) if one.dest not in {"help", "config"}]
    expected = {one.option_strings[-1] if one.option_strings else str(one.metavar) for one in actions}
    expected |= {str(one.metavar) for one in actions if one.metavar}
    assert set(re.findall(r"--[a-z-]+|[A-Z]{2,}", found[1])) == expected


def test_the_options_of_all_verbs_stand_in_the_page() -> None:
    for option in ("--config FILE", "--version", "-h, --help"):
        assert f".TP\n{option}\n" in plain(COMMAND)


def test_every_exit_status_that_is_told_stands_in_the_page() -> None:
    section = plain(COMMAND).split(".SH EXIT STATUS\n")[1].split(".SH ")[0]
    told = {int(code) for code in re.findall(r"^\.TP\n([0-9]+)$", section, re.MULTILINE)}
    signals = {Exit.INTERRUPTED, Exit.BROKEN_PIPE}  # what every command ends with
    assert told == {int(code) for code in set(Exit) - signals} | {2, EX_TEMPFAIL, EX_CONFIG}


def test_the_examples_of_the_page_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "archive.uri").write_text("mongodb://archive.example.org/\n")
    examples = re.findall(r"^\.nf\n(.*?)^\.fi", FILE.read_text().replace(r"\-", "-"), re.MULTILINE | re.DOTALL)
    assert len(examples) == 2
    for text in examples:
        (tmp_path / "config.yaml").write_text(text)
        assert configuration.load(tmp_path / "config.yaml").deployments
