"""Results that are kept row by row: a call that was cut off is gone on with, nothing is measured twice, nothing lost."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """``kept(**arguments)``: the result of a call with these, in a file of its own."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    module = importlib.import_module("_kept")

    def call(**more: Any) -> Any:
        plain = {"device": "cpu", "toy": True, "budget": 100.0, "output": tmp_path / "deep" / "result.json", "steps": 3}
        return module.Kept("gpu_train", argparse.Namespace(**plain | more), {"card": "CPU"})

    return call


def content(result: Any) -> dict[str, Any]:
    return json.loads(result._output.read_text())


def test_a_call_that_was_cut_off_is_gone_on_with_and_failed_rows_are_measured_again(kept):
    first = kept()
    first.measure({"side": "a"}, lambda: {"ms": 1})

    def broken() -> dict[str, Any]:
        raise ValueError("no\nlong story")

    first.measure({"side": "b"}, broken)
    assert content(first)["rows"] == [{"side": "a", "ms": 1}, {"side": "b", "error": "ValueError: no"}]
    assert content(first)["finished"] is False  # and here it was killed
    second = kept()
    second.measure({"side": "a"}, lambda: pytest.fail("measured twice"))
    second.measure({"side": "b"}, lambda: {"ms": 2})
    assert second.finish() == 0
    written = content(second)
    assert written["rows"] == [{"side": "a", "ms": 1}, {"side": "b", "ms": 2}]
    assert written["finished"] is True
    assert written["seconds"] >= content(first)["seconds"]
    assert [path.name for path in second._output.parent.iterdir()] == ["result.json"]


@pytest.mark.parametrize("change", [{"steps": 4}, {"device": "cuda"}])
def test_rows_of_another_call_are_not_taken_for_its_own(kept, change):
    kept().measure({"side": "a"}, lambda: {"ms": 1})
    other = kept(**change)
    other.measure({"side": "a"}, lambda: {"ms": 2})
    assert content(other)["rows"] == [{"side": "a", "ms": 2}]


def test_a_finished_result_is_made_anew(kept):
    first = kept()
    first.measure({"side": "a"}, lambda: {"ms": 1})
    first.finish()
    again = kept()
    again.measure({"side": "a"}, lambda: {"ms": 2})
    assert content(again)["rows"] == [{"side": "a", "ms": 2}]


def test_when_the_time_is_over_no_row_is_begun_and_the_result_says_which(kept):
    result = kept(budget=-1.0)
    result.measure({"side": "a"}, lambda: pytest.fail("begun"))
    assert result.finish() == 1
    assert content(result)["not_begun"] == [{"side": "a"}]
    assert content(result)["finished"] is False


@pytest.mark.parametrize("damaged", ["", "{", "[]", '{"benchmark": 1}'])
def test_a_damaged_file_is_written_anew(kept, damaged):
    result = kept()
    result._output.parent.mkdir()
    result._output.write_text(damaged)
    again = kept()
    again.measure({"side": "a"}, lambda: {"ms": 1})
    assert content(again)["rows"] == [{"side": "a", "ms": 1}]
