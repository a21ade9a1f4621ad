"""A real training that is killed and resumed leaves behind what one leaves that was left alone, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torture_resume
import torture_run_log
from killable_training import Nursery, differences, outcome

from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import newest_good

SETTINGS = {
    "mdlm": {"max_steps": 20, "logging_steps": 3, "eval_steps": 4, "save_steps": 5, "ema_decay": 0.9},
    "ar": {
        "objective": "ar",
        "max_steps": 20,
        "logging_steps": 4,
        "eval_steps": 6,
        "save_steps": 7,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
    },
}
MOMENTS = {
    "in-a-step": ("mdlm", ["step", "", 14]),
    "in-an-accumulated-step": ("ar", ["step", "", 9]),
    "in-an-evaluation": ("mdlm", ["evaluate", "", 9]),
    "best-weights-between-two-places": ("mdlm", ["rename", "/best", 3]),
    "half-of-a-checkpoint-written": ("mdlm", ["open", "checkpoint-10/trainer_state.json", 1]),
    "all-but-the-manifest-written": ("ar", ["rename", "checkpoint-14/manifest.json", 1]),
    "manifest-half-written": ("mdlm", ["open", "checkpoint-15/.manifest.json.tmp", 1]),
    "in-the-log": ("ar", ["rename", "/killed.json", 2]),
}


@pytest.fixture(scope="module")
def nursery():
    with Nursery() as running:
        yield running


@pytest.fixture(scope="module")
def left_alone(nursery, tmp_path_factory):
    """What each of the settings leaves behind where nobody disturbs it."""
    found = {}
    for name, settings in SETTINGS.items():
        folder = tmp_path_factory.mktemp(name)
        assert nursery.run(folder, settings=settings) == 0, (folder / "output.txt").read_text()
        found[name] = outcome(folder)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_a_moment_and_resumed_it_ends_the_same(nursery, left_alone, moment, tmp_path: Path):
    name, kill = MOMENTS[moment]
    assert nursery.run(tmp_path, settings=SETTINGS[name], kill=kill) == -signal.SIGKILL
    if moment == "in-the-log":  # and the power fails in the middle of a line
        journal = tmp_path / "journal.jsonl"
        journal.write_bytes(journal.read_bytes()[:-25])
    assert load_run(tmp_path).status == "running"
    assert nursery.run(tmp_path, settings=SETTINGS[name]) == 0, (tmp_path / "output.txt").read_text()[-3000:]
    assert (
        differences(outcome(tmp_path), left_alone[name] | {"damaged_lines": outcome(tmp_path)["damaged_lines"]}) == []
    )
    assert not list(tmp_path.glob("best.*"))


@pytest.mark.slow
def test_a_half_written_checkpoint_is_not_the_newest_good_one(nursery, tmp_path):
    kill = ["rename", "checkpoint-10/manifest.json", 1]
    assert nursery.run(tmp_path, settings=SETTINGS["mdlm"], kill=kill) == -signal.SIGKILL
    good, warnings = newest_good(tmp_path)
    assert good == tmp_path / "checkpoint-5"
    assert warnings == ["skipping checkpoint-10: it was never finished"]


@pytest.mark.slow
def test_kills_at_random_moments_of_random_trainings_leave_no_trace(tmp_path):
    found = torture_resume.torture(tmp_path, kills=4, seed=1)
    assert found["kills"] == 4


@pytest.mark.slow
def test_three_kills_leave_no_trace_in_the_log(tmp_path):
    torture_run_log.torture(tmp_path, kills=3)
