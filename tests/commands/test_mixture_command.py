"""``--dataset a.jsonl=0.7 b/=0.3``: typed, resumed, named in the log."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.runs import load_run

pytestmark = pytest.mark.borders


@pytest.fixture
def two() -> list[str]:
    for name in "ab":
        lines = [json.dumps({"text": f"{name}{n:03} " * 8}) + "\n" for n in range(200)]
        Path(f"{name}.jsonl").write_text("".join(lines))
    return ["--dataset", "a.jsonl=0.7", "b.jsonl=0.3"]


def test_a_streamed_mixture_that_was_cut_off_ends_with_the_weights_of_one_that_was_not(hf, tiny, two, strike):
    flags = [*two, *tiny[2:], "--streaming", "--shuffle-window", "8", "--max-steps", "6", "--output-dir", "run"]
    result = hf("train", *flags)
    assert result.code == 0, result.err
    assert load_run("run").header.data["mixture"] == {"a.jsonl": 0.7, "b.jsonl": 0.3}
    assert "a.jsonl 70 %, b.jsonl 30 % of the tokens" in hf("runs", "show", "run").out
    assert "a.jsonl (70 % of the tokens)" in result.out
    assert Path("run/a+b-mdlm.json").exists()
    whole = load_file("run/checkpoint-6/model.safetensors")
    shutil.rmtree("run/checkpoint-6")
    strike(Path("run"), "completed")
    resumed = hf("train", "--output-dir", "run", "--resume")
    assert resumed.code == 0, resumed.err
    assert all(part.equal(whole[name]) for name, part in load_file("run/checkpoint-6/model.safetensors").items())


def test_a_recipe_has_a_mixture_as_a_mapping():
    Path("mine.yaml").write_text("dataset:\n  a.jsonl: 0.7\n  b/: 0.3\n")
    assert load_settings("mine.yaml", {}).data.dataset == "a.jsonl=0.7 b/=0.3"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["a.jsonl=0.7", "c.jsonl=0.3"], "no such file or folder: c.jsonl"),
        (["a.jsonl=0.7 b.jsonl"], "several with a share each"),
        (["a.jsonl=1", "b.jsonl=0.0001"], "below a thousandth"),
    ],
)
def test_a_wrong_mixture_is_one_sentence(hf, tiny, two, values, words):
    result = hf("train", "--dataset", *values, *tiny[2:], "--max-steps", "1", "--output-dir", "run")
    assert (result.code, words in result.err) == (2, True), result.err
