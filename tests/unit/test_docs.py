"""What the documents say of the program, held against it: diagrams, gates, verbs, targets, files, and numbers."""

import re
import shlex
from pathlib import Path

import pytest

from rig import settings
from rig.demo import WIDTH
from tests.world.command_line import arguments, verbs
from tests.world.prose import too_long
from watchdogd.act import end, end_helper, helper
from watchdogd.config import PolicyConfig
from watchdogd.core import case, forks, gates, phases, reload
from watchdogd.core.evidence import unconnected
from watchdogd.model.told import Event
from watchdogd.observe import observer
from watchdogd.observe.mongod import heartbeats
from watchdogd.observe.tcp import sock_diag
from watchdogd.report import history
from watchdogd.report.events import CATALOG

ROOT = Path(__file__).resolve().parents[2]
README, DESIGN, CONTRIBUTING = ROOT / "README.md", ROOT / "docs/design.md", ROOT / "CONTRIBUTING.md"
CONFIGURATION, RIGHTS, SECURITY = ROOT / "docs/configuration.md", ROOT / "docs/rights.md", ROOT / "SECURITY.md"
SET_UP = ROOT / "docs/mongodb-and-uwsgi.md"
PROMISES, FORMATS = ROOT / "docs/promises.md", ROOT / "docs/formats.md"
PAGES = pytest.mark.parametrize(
    "page", [README, CONTRIBUTING, SECURITY, *sorted(ROOT.glob("docs/*.md"))], ids=lambda page: page.name
)


def flat(page: Path) -> str:
    """The text of a page with its lines joined."""
    return " ".join(page.read_text().split())


def paragraphs(page: Path) -> list[str]:
    """The paragraphs of a page, each cell of a table and each item of a list by itself; without code."""
    text = re.sub(
        r"^```.*?^```$|<!-- bench -->.*?<!-- /bench -->|^    .*?$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    return re.split(r"\n\s*\n|\n(?=[-#|])|\|", re.sub(r"`[^`]*`", "`CODE`", text))


@pytest.mark.parametrize(
    "page",
    [README, CONTRIBUTING, SECURITY, SET_UP, CONFIGURATION, DESIGN, RIGHTS, PROMISES, FORMATS],
    ids=lambda page: page.name,
)
def test_no_sentence_needs_a_second_reading(page: Path) -> None:
    assert too_long(paragraphs(page)) == []


def test_no_comment_of_the_shipped_configuration_needs_a_second_reading() -> None:
    comments = re.findall(r"(?:^ *#(?: .*)?\n)+", (ROOT / "config/config.yaml").read_text(), re.MULTILINE)
    assert len(comments) > 20
    assert too_long([re.sub(r"^ *#", "", one, flags=re.MULTILINE) for one in comments]) == []


def pattern(template: str) -> str:
    """What a sentence of the catalog can become: values in braces, and what is in brackets said or left out."""
    pieces = re.split(r"(\{[^}]*\}|\[(?:\w+(?:=\w+)?\?)?|\])", template)
    meant = {"{": ".+?", "[": "(?:", "]": ")?"}
    return "".join([meant[one[0]] if one[:1] in meant else re.escape(one) for one in pieces if one])


def test_the_readme_shows_what_the_demo_prints() -> None:
    shown = re.search(r"^```\n(── with mongo-watchdog.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert shown
    assert [line for line in shown[1].splitlines() if len(line) > WIDTH] == []
    told = re.findall(r"^ {8}watchdog: ([a-z_]+): (.*?)\n(?! {10})", shown[1], re.MULTILINE | re.DOTALL)
    assert [event for event, _ in told] == ["leftovers_found", "reload_due", "reload_sent", "recovered"]
    for event, sentence in told:
        assert re.fullmatch(pattern(CATALOG[Event(event)].sentence), " ".join(sentence.split())), sentence


def test_the_page_on_setting_up_has_every_setting_that_is_measured() -> None:
    table = re.search(r"<!-- settings -->\n(.*?)<!-- /settings -->", SET_UP.read_text(), re.DOTALL)
    assert table
    rows = [line.split("|")[1].strip() for line in table[1].splitlines()]
    assert rows[2:] == [*settings.SETTINGS]


def test_the_diagram_is_drawn_from_the_table() -> None:
    found = re.search(r"<!-- arrows -->\s*```mermaid\n(.*?)\n```\s*<!-- /arrows -->", DESIGN.read_text(), re.DOTALL)
    assert found, "docs/design.md has no diagram between its markers"
    assert found[1] == phases.diagram(), "draw it anew: python -m watchdogd.core.phases"


def test_the_readme_names_every_gate_in_the_order_of_the_table() -> None:
    found = re.search(r"is shown with its reason: ([a-z_, ]+)\.", flat(README))
    assert found
    assert found[1].split(", ") == [name for name, _ in gates.GATES]


def test_the_layout_names_every_module_and_every_kind_of_test() -> None:
    layout = re.search(r"### Layout\n(.*?)\n### |### Layout\n(.*?)\n## ", DESIGN.read_text(), re.DOTALL)
    assert layout
    modules = {path.name for path in (ROOT / "watchdogd").rglob("*.py") if not path.name.startswith("__")}
    modules -= {path.name for path in (ROOT / "watchdogd/config").glob("*.py")}  # named as one
    missing = {name for name in modules if not re.search(rf"(?<![a-z_]){re.escape(name)}", layout[0])}
    assert missing == set()
    kinds = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert kinds == set(re.findall(r"([a-z]+)/", layout[0].split("tests/")[1])) & kinds
    assert kinds == set(re.findall(r"\| `tests/([a-z]+)/` \|", CONTRIBUTING.read_text()))


@PAGES
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


@PAGES
def test_every_command_is_one_that_there_is(page: Path) -> None:
    in_code = r"^(?:    |\$ )(?:sudo )?(?:\S*/)?mongo-watchdog ([a-z][^#\n]*)"
    said = re.findall(in_code, page.read_text(), re.MULTILINE)
    said += re.findall(r"`mongo-watchdog ([a-z][^`|\n]*)`", page.read_text())
    for line in said:
        verb, *rest = shlex.split(line)
        assert verb in verbs(), line
        options = {option for one in arguments(verb) for option in one.option_strings}
        assert {one for one in rest if one.startswith("--")} <= options, line


@PAGES
def test_every_make_target_is_one_that_there_is(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    said = set(re.findall(r"(?:^    |`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE))
    assert said <= targets


def test_no_comment_leads_to_a_section_of_a_document_that_is_not_here() -> None:
    here = {path.name for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]}
    for path in sorted(one for folder in ("watchdogd", "rig", "tests") for one in (ROOT / folder).rglob("*.py")):
        named = set(re.findall(r"([\w-]+\.md) \d", path.read_text()))
        assert named <= here, path


POLICY = PolicyConfig()
NUMBERS = [
    (README, f"`linger` ({POLICY.linger_s:g} s, longer than any healthy driver needs)"),
    (DESIGN, f"| linger | {POLICY.linger_s:g} s, from mongod's return |"),
    (DESIGN, f"to every serving member, and to read what came (below), for {forks.FORK_SAFE_AFTER_S:g} s."),
    (DESIGN, f"Without that for {case.FORK_UNSAFE_FOR_S:g} s its monitor does not run"),
    (DESIGN, f"a worker that was used for {unconnected.USED_UNPROVEN_S:g} s without one makes it `reload_failed`"),
    (DESIGN, f"mercy + 2 x check interval + {reload.LOAD_S:g} s of loading"),
    (DESIGN, f"while a leftover or an outage exists, on request, else every {observer.FULL_EVERY_S:g} s"),
    (DESIGN, f"up to {sock_diag.MAX_FILTERED} addresses, then in Python"),
    (DESIGN, f"one pymongo client for each member, {heartbeats.HEARTBEAT_MS} ms, no credentials"),
    (CONFIGURATION, f"mongo-watchdog asks each member every {heartbeats.HEARTBEAT_MS} ms with `hello`"),
    (RIGHTS, f"names the moment ({helper.WITHIN_S:g} s ahead) after which nothing may be written"),
    (RIGHTS, f"and the moment, {helper.WITHIN_S:g} s ahead, after which nobody may be ended"),
    (RIGHTS, f"whose user's instances are named, {end_helper.MOST} in {end_helper.WITHIN_S:g} s"),
    (DESIGN, f"a process that was sent SIGKILL, {end.DEAD_WITHIN_MS / 1000:g} s"),
    (CONFIGURATION, f"One record takes {history.MAX_RECORD >> 10} KB at most"),
    (CONFIGURATION, f"all together {history.MAX_TOTAL >> 20} MB and {history.MAX_RECORDS} files"),
    (DESIGN, f"kept in full {history.CHANGES} times, then at most every 1/{history.CALMER} of the incident's age"),
    (RIGHTS, f"policy tries again for {reload.FIFO_TRIES_S:g} s"),
]  # fmt: skip


@pytest.mark.parametrize(("page", "sentence"), NUMBERS)
def test_a_number_is_that_of_the_code(page: Path, sentence: str) -> None:
    assert sentence in flat(page)
