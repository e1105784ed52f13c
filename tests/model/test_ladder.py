"""The page of the chapter's arrangements shows what their inventories say today."""

from __future__ import annotations

from pathlib import Path
from textwrap import indent

import pytest

from tests.operator import ROOT
from tests.pictures import LADDER, PICTURES, draw

PAGE = ROOT / "docs" / "ladder.md"
ARRANGEMENTS = sorted(LADDER.glob("*.py"))


@pytest.mark.parametrize("name", list(PICTURES))
def test_picture_is_current(name: str) -> None:
    """Each picture is what the inventory gives now; `make pictures` draws it anew."""
    assert (ROOT / "docs" / name).read_text(encoding="utf-8") == draw(PICTURES[name])


@pytest.mark.parametrize("inventory", ARRANGEMENTS, ids=lambda path: path.stem)
def test_page_shows_arrangement(inventory: Path) -> None:
    """Picture and hosts of each arrangement are there, in the chapter's order."""
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition(f"\n## {inventory.stem[0]}. ")[2].partition("\n## ")[0]
    assert f"](ladder/{inventory.stem}.svg)" in section
    hosts = inventory.read_text(encoding="utf-8").partition("import lab_host\n\n")[2]
    assert indent(hosts.partition("\ncluster(")[0], "    ") in section


def test_page_has_a_place_for_the_climb() -> None:
    """A test on hosts writes there how long each step took, and what visitors saw."""
    page = PAGE.read_text(encoding="utf-8")
    assert page.count("<!-- climb -->\n") == page.count("<!-- /climb -->\n") == 1
    assert page.index("<!-- climb -->") < page.index("<!-- /climb -->")
