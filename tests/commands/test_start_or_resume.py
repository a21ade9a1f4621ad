"""``train --start-or-resume``: the same command line starts a run, goes on with it, and finds it complete."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_difflm.runs import load_run

pytestmark = pytest.mark.borders


def test_one_command_line_starts_goes_on_and_finds_nothing_left(hf, tiny, trained, strike):
    """As a preemptible job is run again: its weights must be those of a run that nobody stopped."""
    command = ["train", *tiny, "--max-steps", "6", "--output-dir", "job", "--start-or-resume"]
    started = hf(*command)
    assert started.code == 0, started.err
    assert len(load_run("job").headers) == 1
    shutil.rmtree("job/checkpoint-6")
    strike(Path("job"), "completed")
    resumed = hf(*command)
    assert resumed.code == 0, resumed.err
    run = load_run("job")
    assert [step.iter for step in run.steps] == [1, 2, 3, 4, 5, 6]
    assert [event.resumed_from_step for event in run.events if event.event == "resumed"] == [3]
    whole = load_file(trained / "checkpoint-6" / "model.safetensors")
    assert all(weights.equal(whole[name]) for name, weights in load_file("job/checkpoint-6/model.safetensors").items())
    finished = hf(*command)
    assert (finished.code, "nothing is left to train" in finished.out) == (0, True)


@pytest.mark.parametrize("cut", ["", '{"type": "run", "ru'])
def test_a_job_that_was_killed_before_its_first_record_starts_anew(hf, tiny, cut):
    Path("job").mkdir()
    Path("job/journal.jsonl").write_text(cut)
    result = hf("train", *tiny, "--max-steps", "1", "--output-dir", "job", "--start-or-resume")
    assert result.code == 0, result.err
    assert load_run("job").status == "completed"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "--start-or-resume needs --output-dir"),
        (["--output-dir", "job", "--resume"], "--start-or-resume and --resume exclude each other"),
        (["--output-dir", "job", "--overwrite"], "--start-or-resume and --overwrite exclude each other"),
        (["--output-dir", "job", "--sanity-check"], "--start-or-resume and --sanity-check exclude each other"),
    ],
)
def test_what_contradicts_it_is_refused(hf, tiny, flags, words):
    result = hf("train", *tiny, "--start-or-resume", *flags)
    assert (result.code, words in result.err) == (2, True)
    assert not Path("job").exists()


def test_another_experiment_in_the_folder_is_refused(hf, tiny, trained):
    result = hf("train", *tiny, "--max-steps", "9", "--output-dir", trained, "--start-or-resume")
    assert (result.code, "cannot resume" in result.err) == (2, True)
