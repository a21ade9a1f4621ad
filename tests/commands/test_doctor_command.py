"""``doctor`` and ``train --sanity-check``: one line a check."""

from __future__ import annotations

import os
import shutil

import pytest

from hf_difflm.training import doctor as checks


def test_a_sound_machine_gets_one_tick_a_line_and_exit_code_0(hf):
    result = hf("doctor")
    assert result.code == 0, result.out
    lines = result.out.splitlines()
    names = ["versions", "devices", "memory", "free disk", "data loading", "model initialisation"]
    names += ["forward and backward pass", "each token counted once"]
    assert [line.split(":")[0] for line in lines] == [f"✓ {name}" for name in names]


def test_too_little_disk_is_one_cross_with_what_to_do_and_exit_code_1(hf, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    result = hf("doctor")
    assert result.code == 1
    (cross,) = [line for line in result.out.splitlines() if line.startswith("✗")]
    assert cross.startswith("✗ free disk: 0.0 GB free here")
    assert "give --output-dir on another disk" in cross


@pytest.mark.parametrize("flags", [[], ["--objective", "ar"], ["--loss-form", "time", "--noise-schedule", "cosine"]])
def test_the_sanity_check_tries_the_settings_themselves_and_trains_nothing(hf, tiny, flags):
    result = hf("train", *tiny, *flags, "--sanity-check", "--output-dir", "run")
    assert result.code == 0, result.out
    assert "✓ data loading: markov: train 8,192 blocks, eval 8 blocks" in result.out
    assert "✗" not in result.out
    assert not os.path.exists("run")


def test_the_sanity_check_goes_on_after_what_fails_and_exits_with_2(hf, tiny):
    result = hf("train", *tiny, "--dataset", "nowhere.txt", "--sanity-check")
    assert result.code == 2
    crosses = [line for line in result.out.splitlines() if line.startswith("✗")]
    assert crosses[0] == "✗ data loading: no such file or folder: nowhere.txt; check the path"
    assert len(crosses) == 4
    assert all("mend that first" in line for line in crosses[1:])
    assert result.err == "error: the sanity check failed; see the lines marked ✗ above\n"
