"""docs/results.md is what its command makes of the pages that other commands have written."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def _write_results():
    spec = importlib.util.spec_from_file_location("write_results", DOCS / "write_results.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_put_together_from_its_parts():
    assert (DOCS / "results.md").read_text(encoding="utf-8") == _write_results().page()


def test_every_picture_and_page_it_names_is_there():
    for name in re.findall(r"\]\(([\w/-]+\.(?:png|svg|md))\)", (DOCS / "results.md").read_text(encoding="utf-8")):
        assert (DOCS / name).is_file(), name
