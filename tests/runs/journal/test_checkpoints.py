"""Which checkpoints are trusted: only those whose manifest is there and matches every file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.runs.journal.checkpoints import checkpoints, damage, newest_good, write_manifest


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Checkpoints at 9, 10 and 100, all good."""
    for step in (9, 10, 100):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "inner").mkdir(parents=True)
        (folder / "weights.bin").write_bytes(bytes([step]) * 1000)
        (folder / "inner" / "state.json").write_text("{}")
        write_manifest(folder)
    return tmp_path


def test_the_newest_is_by_step_and_not_by_name(run):
    (run / "checkpoint-x").mkdir()
    (run / "checkpoint-200").write_text("a file")
    assert [path.name for path in checkpoints(run)] == ["checkpoint-100", "checkpoint-10", "checkpoint-9"]
    assert newest_good(run) == (run / "checkpoint-100", [])


def test_a_checkpoint_without_a_manifest_is_passed_over_with_a_warning(run):
    (run / "checkpoint-100" / "manifest.json").unlink()
    assert newest_good(run) == (run / "checkpoint-10", ["skipping checkpoint-100: it was never finished"])


@pytest.mark.parametrize("content", ["", "[]", '{"files": 3}', "\x00", '{"files": {"weights.bin": {}}}'])
def test_a_manifest_that_is_none_is_damage_and_no_traceback(run, content):
    (run / "checkpoint-100" / "manifest.json").write_text(content)
    assert damage(run / "checkpoint-100") == "its manifest is damaged"


def test_a_missing_file_is_named(run):
    (run / "checkpoint-100" / "inner" / "state.json").unlink()
    assert damage(run / "checkpoint-100") == "inner/state.json is missing"


def test_a_file_added_later_is_no_damage(run):
    (run / "checkpoint-100" / "notes.txt").write_text("mine")
    assert damage(run / "checkpoint-100") is None


def test_none_is_good_when_all_are_damaged(run):
    for path in checkpoints(run):
        (path / "weights.bin").write_bytes(b"")
    found, warnings = newest_good(run)
    assert found is None
    assert len(warnings) == 3


@settings(max_examples=50, deadline=None)
@given(content=st.binary(min_size=1, max_size=64), data=st.data())
def test_any_single_changed_or_lost_byte_is_found(tmp_path_factory, content, data):
    folder = tmp_path_factory.mktemp("checkpoint")
    (folder / "weights.bin").write_bytes(content)
    write_manifest(folder)
    assert damage(folder) is None
    place = data.draw(st.integers(0, len(content) - 1))
    flipped = content[place] ^ data.draw(st.integers(1, 255))
    (folder / "weights.bin").write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
    assert damage(folder) == "weights.bin is damaged"
    (folder / "weights.bin").write_bytes(content[:-1])
    assert damage(folder) == "weights.bin is damaged"
