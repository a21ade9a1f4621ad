"""Rows of an evaluation set with bytes and documents."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def rows(train_rows: Callable[..., list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """22 ragged rows whose documents are about a block and a half: some begin in the middle of a row."""
    made = train_rows(22, ragged=True)
    for number, row in enumerate(made):
        row["num_bytes"] = len(row["input_ids"]) - 1
        row["document_ids"] = [-1] + [(number * 12 + i) // 18 for i in range(len(row["input_ids"]) - 1)]
    return made
