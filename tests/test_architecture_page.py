"""docs/architecture.md: its table is what the imports say, and every file that it names is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_table_is_what_the_imports_say(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    drawing = importlib.import_module("draw_architecture")
    page = PAGE.read_text(encoding="utf-8")
    assert drawing.with_table(page) == page, "run make docs"


def test_the_picture_has_a_cell_for_each_pair_of_packages_and_none_left_of_the_diagonal(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    drawing = importlib.import_module("draw_architecture")
    counts = drawing.imported(drawing.package_of)
    place = {package: i for i, package in enumerate(drawing.PACKAGES)}
    assert all(place[source] < place[target] for source, target in counts)
    left, right = drawing.picture().axes
    assert {text.get_text() for text in left.texts} >= {*drawing.PACKAGES, *map(str, counts.values())}
    assert {text.get_text() for text in right.texts} >= {"journal", "pages"}


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+\.py|[\w/]+/)`", PAGE.read_text(encoding="utf-8")))))
def test_every_place_that_the_page_names_is_there(name):
    assert (ROOT / "hf_difflm" / name).exists() or (ROOT / name).exists()
