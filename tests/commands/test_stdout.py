"""What is on stdout is what was asked for: libraries that print there are led to stderr, or away."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import datasets
import pytest

from hf_difflm.runs import load_run

pytestmark = pytest.mark.borders

_GREETED = """
from hf_difflm.commands.quiet import quiet_libraries
quiet_libraries()
import deepspeed.accelerator, logging
deepspeed.accelerator.get_accelerator()
logging.getLogger("DeepSpeed").warning("something that matters")
print("the answer")
"""


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed")
def test_deepspeed_does_not_greet_on_stdout_and_what_it_warns_of_is_on_stderr():
    done = subprocess.run([sys.executable, "-c", _GREETED], capture_output=True, text=True, check=True)
    assert done.stdout == "the answer\n"
    assert "something that matters" in done.stderr
    assert "Setting accelerator" not in done.stderr


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["runs"], "hf-difflm runs needs a command: list, show, "),
        (["data"], "hf-difflm data needs a command: prepare; "),
        (["train", ""], "an argument is empty (''), as an unset variable of a shell leaves it; "),
        (["train", "--=3"], "flag '--=3' has no name; "),
    ],
)
def test_an_error_is_a_sentence_with_something_in_it(hf, line, sentence):
    result = hf(*line)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert result.err.startswith(f"error: {sentence}")
    assert result.err.endswith(" --help`\n")


def test_a_cache_that_cannot_be_written_is_a_sentence(hf, tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "a file" / "cache"))
    (tmp_path / "text.txt").write_text("some words\n\n" * 2000)
    result = hf(
        "train", "--dataset", "text.txt", "--block-size", "33", "--max-steps", "1", "--use-cpu", "--output-dir", "run"
    )
    assert result.code == 2
    assert "a file/cache cannot be written (Not a directory)" in result.err
    assert "HF_DATASETS_CACHE" in result.err
    assert not (tmp_path / "run").exists()


def test_a_training_says_where_in_what_and_how_much_it_computes_before_its_first_step(hf, tiny):
    batch = ["--per-device-train-batch-size", "2", "--gradient-accumulation-steps", "3"]
    result = hf("train", *tiny, *batch, "--max-steps", "4", "--output-dir", "run")
    assert result.code == 0, result.err
    line = "on cpu in float32, batch 6 = 2 per device x 3 accumulated x 1 process, 4 steps"
    assert result.out.splitlines().count(line) == 1
    assert result.out.index(line) < result.out.index("done:")
    again = hf("train", *tiny, *batch, "--max-steps", "4", "--save-steps", "2", "--bf16", "--output-dir", "other")
    assert line.replace("float32", "bfloat16") in again.out


def test_the_notes_of_the_data_are_said_once(start, tiny, tmp_path):
    process = start("train", *tiny, "--max-steps", "1", "--max-eval-blocks", "2", "--output-dir", tmp_path / "run")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    notes = load_run(tmp_path / "run").header.data["notes"]
    assert notes
    assert [(out + err).count(note) for note in notes] == [1] * len(notes)
