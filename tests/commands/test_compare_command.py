"""``compare``: both objectives on the same tokens, once."""

from __future__ import annotations

import shutil

import pytest

from hf_difflm.runs import load_run
from hf_difflm.training import DiffusionTrainer


@pytest.fixture
def flags(tiny):
    return [*tiny, "--max-steps", "6", "--output-dir", "both"]


def test_both_are_trained_on_the_same_tokens_in_the_same_order_and_shown_side_by_side(hf, flags, tmp_path, monkeypatch):
    seen: dict[str, list[list[int]]] = {"mdlm": [], "ar": []}
    original = DiffusionTrainer.training_step

    def watch(self, model, inputs, *args, **kwargs):
        seen[self.training_objective.name].append(inputs["input_ids"].tolist())
        return original(self, model, inputs, *args, **kwargs)

    monkeypatch.setattr(DiffusionTrainer, "training_step", watch)
    result = hf("compare", *flags)
    assert result.code == 0, result.err
    assert len(seen["mdlm"]) == 6
    assert seen["mdlm"] == seen["ar"]
    runs = [load_run(f"both/{objective}") for objective in ("mdlm", "ar")]
    assert runs[0].header.data["fingerprint"] == runs[1].header.data["fingerprint"]
    assert runs[0].tokens_seen == runs[1].tokens_seen
    assert runs[0].header.model["parameters"] == runs[1].header.model["parameters"]
    for run in runs:
        assert f"{run.best_evaluation.nll:.4f}" in result.out
        assert f"--- {run.objective}, step 6, no prompt" in result.out
    assert "differ in their objective only" in result.out
    assert "mdlm - ar: " in result.out
    assert "next: hf-difflm generate both/mdlm" in result.out
    assert (tmp_path / "both" / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "both" / "comparison.md").read_text().startswith("# Masked diffusion")


def test_the_words_of_samples_that_the_training_text_has_are_counted_and_in_the_table(hf, flags):
    result = hf("compare", *flags, "--word-samples", "3")
    assert result.code == 0, result.err
    words = [line for line in result.out.splitlines() if line.startswith("words: ")]
    assert len(words) == 2
    told = [line.split()[1] for line in words if "occur in the training text" in line]
    shares = [
        record.metrics["known_words"]
        for name in ("mdlm", "ar")
        for record in load_run(f"both/{name}").measurements
        if record.source == "words"
    ]
    assert [f"{share:.0%}" for share in shares] == told
    assert ("words known" in result.out) is bool(told)


def test_a_second_call_trains_nothing_and_says_the_same(hf, flags, snapshot, tmp_path):
    first = hf("compare", *flags)
    before = {objective: snapshot(tmp_path / "both" / objective) for objective in ("mdlm", "ar")}
    second = hf("compare", *flags)
    assert second.code == 0
    assert second.out.count("reusing the finished run") == 2
    assert "Step" not in second.err
    assert {objective: snapshot(tmp_path / "both" / objective) for objective in ("mdlm", "ar")} == before
    assert second.out[second.out.index("objective") :] == first.out[first.out.index("objective   ") :]


def test_what_an_interrupted_call_left_is_finished_and_what_is_finished_stays(hf, flags, strike, tmp_path, snapshot):
    assert hf("compare", *flags).code == 0
    shutil.rmtree("both/ar/checkpoint-6")
    strike("both/ar", "completed")
    before = snapshot(tmp_path / "both" / "mdlm")
    result = hf("compare", *flags)
    assert "mdlm: reusing the finished run" in result.out
    assert "ar: going on with the unfinished run" in result.out
    resumed = [event.resumed_from_step for event in load_run("both/ar").events if event.event == "resumed"]
    assert resumed == [3]
    assert load_run("both/ar").status == "completed"
    assert snapshot(tmp_path / "both" / "mdlm") == before


def test_other_settings_are_refused_until_overwrite(hf, flags, snapshot, tmp_path):
    assert hf("compare", *flags).code == 0
    before = snapshot(tmp_path)
    result = hf("compare", *flags, "--learning-rate", "1e-3")
    assert result.code == 2
    assert "holds a run with learning_rate = 0.0003, not 0.001" in result.err
    assert snapshot(tmp_path) == before
    assert hf("compare", *flags, "--learning-rate", "1e-3", "--overwrite").code == 0
    assert {load_run(f"both/{objective}").config["learning_rate"] for objective in ("mdlm", "ar")} == {1e-3}


def test_keys_under_an_objective_apply_to_it_alone(hf, flags, tmp_path):
    (tmp_path / "mine.yaml").write_text("weight_decay: 0.1\nmdlm:\n  ema_decay: 0.9\nar:\n  weight_decay: 0.2\n")
    result = hf("compare", "--recipe", "mine.yaml", *flags)
    assert result.code == 0, result.err
    configs = [load_run(f"both/{objective}").config for objective in ("mdlm", "ar")]
    assert [config["ema_decay"] for config in configs] == [0.9, None]
    assert [config["weight_decay"] for config in configs] == [0.1, 0.2]
    assert "besides the objective these differ" in result.out


def test_seeds_train_each_objective_once_with_each_and_are_shown_as_mean_and_error(hf, tiny, tmp_path):
    result = hf("compare", *tiny, "--max-steps", "3", "--seeds", "1,2", "--output-dir", "both")
    assert result.code == 0, result.err
    names = ["ar-seed1", "ar-seed2", "mdlm-seed1", "mdlm-seed2"]
    assert sorted(path.name for path in (tmp_path / "both").iterdir() if path.is_dir()) == names
    runs = {name: load_run(f"both/{name}") for name in names}
    assert [runs[name].config["seed"] for name in names] == [1, 2, 1, 2]
    assert runs["mdlm-seed1"].best_evaluation.nll != runs["mdlm-seed2"].best_evaluation.nll
    mean = sum(runs[f"ar-seed{seed}"].best_evaluation.nll for seed in (1, 2)) / 2
    assert f"{mean:.4f}" in result.out
    assert "next: hf-difflm generate both/mdlm-seed1" in result.out
    assert hf("compare", *tiny, "--max-steps", "3", "--seeds", "1,2", "--output-dir", "both").out.count("reusing") == 4


@pytest.mark.parametrize("seeds", ["", "1,x", "1,1", "-1", "1.5"])
def test_bad_seeds_are_one_sentence(hf, tiny, seeds):
    result = hf("compare", *tiny, "--seeds", seeds)
    assert result.code == 2
    assert result.err.strip() == (
        f"error: --seeds must be different whole numbers with commas between them, got {seeds!r}"
    )


def test_a_folder_whose_run_keeps_no_log_is_refused_with_a_sentence(hf, flags, tmp_path):
    (tmp_path / "both/mdlm/checkpoint-3").mkdir(parents=True)
    result = hf("compare", *flags)
    assert result.code == 2
    assert "keeps no log" in result.err
