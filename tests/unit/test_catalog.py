import re
from pathlib import Path

from watchdogd.report.catalog import WIDTH, catalog
from watchdogd.report.events import CATALOG

SHIPPED = Path(__file__).resolve().parents[2] / "systemd" / "mongo-watchdog.catalog"


def test_the_shipped_catalog_is_made_of_the_events_of_now() -> None:
    assert SHIPPED.read_text() == catalog(), f"python -m watchdogd.report.catalog >{SHIPPED.name}"


def test_it_has_an_entry_for_each_message_id() -> None:
    assert re.findall(r"^-- (.+)$", catalog(), re.MULTILINE) == [entry.message_id for entry in CATALOG.values()]


def test_every_entry_has_its_headers_and_its_text() -> None:
    for entry in catalog().split("\n-- ")[1:]:
        head, _, text = entry.partition("\n\n")
        assert [line.partition(":")[0] for line in head.splitlines()[1:]] == ["Subject", "Defined-By", "Documentation"]
        assert text.strip()
        assert max(map(len, text.splitlines())) <= WIDTH
