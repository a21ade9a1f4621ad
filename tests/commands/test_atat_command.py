"""``train --objective atat`` and what reads such a run: every mode trains, resumes and can be told what it was."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_difflm.evaluation.targets import load_target
from hf_difflm.objectives.adaptive.draft_importance import DraftImportance
from hf_difflm.objectives.adaptive.importance_file import load_importance
from hf_difflm.objectives.adaptive.names import IMPORTANCES, MASKINGS
from hf_difflm.runs import load_run

PAGE = Path(__file__).parents[2] / "docs" / "atat.md"
NATIVE = {"full": "nelbo_contextual", "learned_only": "nelbo_contextual", "frequency_only": "nelbo_token_value"}
SETTINGS = [(importance, "proportional") for importance in IMPORTANCES] + [
    ("full", masking) for masking in MASKINGS[1:]
]


@pytest.mark.parametrize(("importance", "masking"), SETTINGS)
def test_every_mode_trains_and_logs_what_it_is(hf, tiny, importance, masking):
    result = hf(
        "train", *tiny, "--objective", "atat", "--importance", importance, "--masking", masking, "--max-steps", "6",
        "--output-dir", "run",
    )  # fmt: skip
    assert result.code == 0, result.err
    run = load_run("run")
    assert (run.status, run.objective, run.bound) == ("completed", "atat", "nelbo")
    assert (run.config["importance"], run.config["masking"]) == (importance, masking)
    metrics = run.evaluations[-1].metrics
    native = None if masking in ("time_only", "none") else NATIVE.get(importance)
    assert metrics.get("eval_native_bound") == native
    assert ("eval_native_nll" in metrics) == (native is not None)
    assert ("train_objective" in run.header.metadata) == (native is not None)
    names = run.steps[-1].extra.keys()
    assert ("importance_mean" in names) == (importance != "none")
    assert ("importance_loss" in names) == (importance in ("full", "learned_only"))
    if importance != "none":
        assert load_importance(Path("run") / "best")[1].importance == importance
    assert hf("eval", "run", "--eval-replicates", "2").code == 0


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(hf, tiny, strike, tmp_path):
    command = ("train", *tiny, "--objective", "atat", "--curriculum", "thirds", "--max-steps", "6")
    assert hf(*command, "--output-dir", "whole").code == 0
    shutil.copytree("whole", "cut")
    shutil.rmtree("cut/checkpoint-6")
    strike(tmp_path / "cut", "completed")
    result = hf(*command, "--output-dir", "cut", "--resume")
    assert result.code == 0, result.err
    for name in ("model.safetensors", "importance.safetensors", "optimizer.pt"):
        ours, theirs = (tmp_path / run / "checkpoint-6" / name for run in ("cut", "whole"))
        assert ours.read_bytes() == theirs.read_bytes(), name
    ours, theirs = load_run("cut"), load_run("whole")
    assert [step.extra for step in ours.steps] == [step.extra for step in theirs.steps]
    told = [(event.iter, event.message) for event in ours.events if event.event == "curriculum"]
    assert set(told) == {(3, "curriculum stage 1 -> 2 (medium)"), (5, "curriculum stage 2 -> 3 (hard)")}


def test_a_stopped_run_is_not_gone_on_with_by_other_switches(hf, tiny, strike, tmp_path):
    command = ("train", *tiny, "--objective", "atat", "--max-steps", "6", "--output-dir", "run")
    assert hf(*command).code == 0
    strike(tmp_path / "run", "completed")
    code, _, err = hf(*command, "--resume", "--masking-temperature", "2")
    assert code == 2
    assert "masking_temperature = 2.0" in err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--importance", "ful"), "importance must be one of full"),
        (("--masking-temperature", "0"), "masking_temperature must be"),
        (("--curriculum", "third"), "did you mean 'thirds'"),
        (("--curriculum", "0.9,0.1"), "in order"),
        (("--curriculum", "early", "--importance", "none"), "importance is none"),
    ],
)
def test_a_wrong_switch_is_one_sentence_before_any_data_are_read(hf, tiny, flags, said):
    code, out, err = hf("train", *tiny, "--objective", "atat", *flags, "--max-steps", "6", "--output-dir", "run")
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert "preparing" not in out


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_switch_that_would_do_nothing_is_one_sentence(hf, tiny, command):
    code, out, err = hf(command, *tiny, "--masking", "inverse", "--max-steps", "6", "--output-dir", "run")
    assert (code, out) == (2, "")
    assert err == (
        "error: flag --masking is for the objective atat, but the objective is mdlm; leave it out, or train with "
        "--objective atat\n"
    )


def test_the_example_of_the_page_reads_the_importance_of_a_text(hf, tiny):
    assert hf("train", *tiny, "--objective", "atat", "--max-steps", "6", "--output-dir", "run").code == 0
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL):
        exec(example.replace("runs/atat", "run"), names)
    values_BL = names["importance_BL"]
    assert values_BL.shape == (1, 30)
    assert ((values_BL >= 0) & (values_BL <= 1)).all()
    assert names["text"].shape == (1, names["prompt"].shape[1] + 40)


def test_the_learned_importance_weighs_the_order_of_the_uncertainty_sampler(hf, tiny):
    assert hf("train", *tiny, "--objective", "atat", "--max-steps", "6", "--output-dir", "run").code == 0
    common = ["--max-new-tokens", "12", "--max-denoising-steps", "12", "--temperature", "0", "--use-cpu"]
    result = hf("generate", "run", "--sampler", "uncertainty", "--importance-weight", "5", *common, "--json", "--ids")
    assert result.code == 0, result.err
    target = load_target("run", use_cpu=True)
    reader, _ = load_importance(Path("run") / "best")
    expected = target.model.generate(
        torch.tensor([[target.tokenizer.bos_token_id]]),
        sampler="uncertainty",
        importance=DraftImportance(reader, target.model, 5.0),
        max_new_tokens=12,
        max_denoising_steps=12,
        temperature=0,
    )
    special = set(target.tokenizer.all_special_ids)
    assert json.loads(result.out)[0]["ids"] == [token for token in expected[0].tolist() if token not in special]
    grid = hf(
        "eval", "run", "--generation", "--samplers", "uncertainty,uncertainty:importance_weight=5", "--steps", "4",
        "--max-new-tokens", "12", "--num-samples", "2", "--json", "--use-cpu",
    )  # fmt: skip
    assert grid.code == 0, grid.err
    assert [point["parameters"] for point in json.loads(grid.out)["points"]] == [{}, {"importance_weight": 5}]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (
            ["--sampler", "uncertainty", "--importance-weight", "1"],
            "has no importance.safetensors; it is written by runs",
        ),
        (
            ["--importance-weight", "1"],
            "importance_weight is for the sampler uncertainty, but no sampler is named; add",
        ),
        (
            ["--sampler", "remdm", "--importance-weight", "1"],
            "is for the sampler uncertainty, but the sampler is remdm",
        ),
        (["--sampler", "uncertainty", "--importance-weight", "-1"], "importance_weight must be a number at least 0"),
    ],
)
def test_an_importance_weight_that_cannot_be_used_is_one_sentence(hf, trained, flags, said):
    code, out, err = hf("generate", trained, *flags, "--use-cpu")
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1


def test_the_recipes_say_what_they_set(hf):
    for name in ("demo-atat", "wikitext103-atat"):
        recipe = json.loads(hf("recipes", name, "--json").out)
        assert (recipe["objective"], recipe["importance"], recipe["curriculum"]) == ("atat", "full", "thirds")


def test_the_sanity_check_knows_the_estimator(hf, tiny):
    result = hf("train", *tiny, "--objective", "atat", "--max-steps", "6", "--sanity-check")
    assert result.code == 0, result.out
    assert "✗" not in result.out
