"""``train.log`` of a run from the command line, read with the grep lines that the field uses."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hf_difflm.runs import load_run

NOISE = r"noise_level\|masking_rate\|denoising"
IMPORTANCE = "importance_"
VALIDATION = r"val_loss\|perplexity"
STEPS = "Step.*Loss"


def grep(pattern: str, path: Path) -> list[str]:
    found = subprocess.run(["grep", pattern, str(path)], capture_output=True, text=True)
    assert found.returncode in (0, 1), found.stderr
    return found.stdout.splitlines()


def test_the_greps_of_the_seed_find_what_the_journal_says(trained):
    run, log = load_run(trained), trained / "train.log"
    rows = {row.iter: row for row in run.steps}
    steps = grep(STEPS, log)
    assert grep(NOISE, log) == steps
    assert len(steps) == 4  # each second step, and before the checkpoint at 3
    for line in steps:
        row = rows[int(re.match(r"Step (\d+)/6", line)[1])]
        assert f"noise_level={row.noise_level:.3f}, masking_rate={row.masking_rate:.3f}" in line
    evaluations = [
        f"Step {record.iter}/6 | val_loss: {record.nll:.4f} ± {record.nll_stderr:.4f} | "
        f"perplexity: {record.number('eval_ppl'):.2f} | accuracy: {record.number('eval_accuracy'):.3f}"
        for record in run.evaluations
    ]
    assert grep(VALIDATION, log) == evaluations
    assert len(evaluations) == 2
    assert grep(IMPORTANCE, log) == []


def test_the_grep_for_importance_finds_its_numbers_in_every_step_line_of_atat(hf, tiny):
    flags = ["--objective", "atat", "--curriculum", "thirds", "--max-steps", "6", "--generate-interval", "0"]
    result = hf("train", *tiny, *flags, "--output-dir", "run")
    assert result.code == 0, result.err
    rows = {row.iter: row for row in load_run("run").steps}
    lines = grep(IMPORTANCE, Path("run/train.log"))
    assert len(lines) == 4
    for line in lines:
        extra = rows[int(re.match(r"Step (\d+)/6", line)[1])].extra
        for name in ("mean", "std", "min", "max"):
            assert f"importance_{name}: {extra[f'importance_{name}']:.4g}" in line
    assert grep("curriculum stage 1 -> 2", Path("run/train.log"))


def test_the_terminal_and_the_file_have_the_same_step_lines(hf, tiny):
    result = hf("train", *tiny, "--max-steps", "2", "--generate-interval", "0", "--output-dir", "run")
    assert result.code == 0, result.err
    lines = grep(STEPS, Path("run/train.log"))
    assert lines
    assert [line for line in result.err.splitlines() if "| Loss" in line] == lines


def test_a_resumed_run_appends_and_says_from_where(hf, trained, strike):
    strike(trained, "completed")
    shutil.rmtree(trained / "checkpoint-6")
    before = (trained / "train.log").read_text()
    result = hf("train", "--resume", "--output-dir", trained)
    assert result.code == 0, result.err
    after = (trained / "train.log").read_text()
    assert after.startswith(before)
    first, *rest = after[len(before) :].splitlines()
    assert first.startswith("resumed from step 3 at ")
    again = [int(re.match(r"Step (\d+)", line)[1]) for line in rest if "| Loss" in line]
    assert again == [4, 6]


def test_overwrite_deletes_it_wherever_it_is(hf, tiny):
    flags = ["--max-steps", "2", "--generate-interval", "0", "--output-dir", "run", "--log-dir", "logs"]
    assert hf("train", *tiny, *flags).code == 0
    result = hf("train", *tiny, *flags, "--overwrite")
    assert result.code == 0, result.err
    lines = Path("logs/train.log").read_text().splitlines()
    assert [line.split(" at ")[0] for line in lines if not line.startswith("Step")] == ["started"]
    assert not Path("run/train.log").exists()


@pytest.mark.parametrize("flag", ["--no-text-log", "--no-save-log-to-json"])
def test_it_can_be_switched_off_and_is_where_the_run_log_is(hf, tiny, flag):
    flags = ["--max-steps", "2", "--generate-interval", "0", "--output-dir", "run", flag]
    assert hf("train", *tiny, *flags).code == 0
    assert not Path("run/train.log").exists()


def test_the_names_of_text_logs_stay_in_the_text_log(trained):
    journal = [json.loads(line) for line in (trained / "journal.jsonl").read_text().splitlines()]
    names = {name for record in journal if record["type"] == "evaluation" for name in record["metrics"]}
    assert names
    assert not {name for name in names if "perplexity" in name or name.startswith("val_loss")}
