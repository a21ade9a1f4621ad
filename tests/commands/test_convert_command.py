"""``hf-difflm convert``: from an autoregressive run to a denoiser that trains on, evaluates and generates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.runs import load_run


def test_an_autoregressive_run_trains_on_as_a_denoiser(hf, trained_ar, tiny, tmp_path):
    made = hf("convert", trained_ar, "--output-dir", tmp_path / "made", "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert (told["kind"], told["model_type"], told["mask_token"], told["shift_logits"]) == (
        "causal LM",
        "llama",
        "[MASK]",
        True,
    )
    assert told["difference"] < 1e-5
    origin = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "made").config.converted_from
    assert origin["run"] == load_run(trained_ar).headers[0].run_id
    options = (
        "--max-steps",
        "4",
        "--init-from",
        tmp_path / "made",
        "--eval-on-start",
        "--output-dir",
        tmp_path / "run",
    )
    trained = hf("train", *tiny, *options)
    assert trained.code == 0, trained.err
    run = load_run(tmp_path / "run")
    assert run.evaluations[0].iter == 0
    best = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run" / "best")
    assert best.config.shift_logits is True
    assert best.config.converted_from == origin


def test_the_diffusion_transformer_trains_and_generates_by_command(hf, tiny, tmp_path):
    trained = hf("train", *tiny, "--backbone", "dit", "--max-steps", "4", "--output-dir", tmp_path / "run")
    assert trained.code == 0, trained.err
    model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "run" / "best")
    assert model.config.backbone_config.model_type == "dit"
    text = hf("generate", tmp_path / "run", "--max-new-tokens", "4", "--json")
    assert text.code == 0, text.err


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("nowhere",), "nowhere does not exist"),
        (("RUN", "--mask-token", "a"), "ordinary token"),
        (("RUN", "--mask-token", "[EOS]"), "eos_token"),
        (("RUN", "--revision", "main"), "--revision is for models on the Hub"),
        (("RUN", "--shift", "--no-shiftt"), "no-shift"),
    ],
)
def test_bad_input_is_one_sentence(args, said, hf, trained_ar, tmp_path):
    result = hf("convert", *(trained_ar if arg == "RUN" else arg for arg in args), "--output-dir", tmp_path / "made")
    assert result.code == 2
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "made").exists()


RELEASED = Path(__file__).parents[1] / "fixtures" / "released"


def test_a_released_model_is_evaluated_sampled_tuned_and_given_back(hf, tmp_path):
    """The fixture is LLaDA's, made by its authors' code."""
    text = tmp_path / "notes.txt"
    text.write_text("the cat sat on a mat and the dog ran to the sea.\n" * 60)
    made = hf("convert", RELEASED / "llada", "--output-dir", tmp_path / "made", "--json")
    assert made.code == 0, made.err
    told = json.loads(made.out)
    assert (told["kind"], told["mask_token"], told["parameters"]) == ("LLaDA", "<|mdm_mask|>", 20472)
    data = ("--dataset", text, "--block-size", "16")
    bound = hf("eval", tmp_path / "made", *data, "--max-eval-blocks", "4", "--json")
    assert bound.code == 0, bound.err
    before = json.loads(bound.out)
    assert before["bound"] == "nelbo"
    assert before["eval_nll_stderr"] > 0
    texts = hf("generate", tmp_path / "made", "--prompt", "the cat", "--max-new-tokens", "4", "--json")
    assert texts.code == 0, texts.err
    options = ("--lora-r", "2", "--learning-rate", "1e-2", "--max-steps", "20", "--viz-interval", "0", "--use-cpu")
    tuned = hf("train", "--init-from", tmp_path / "made", *data, *options, "--output-dir", tmp_path / "run")
    assert tuned.code == 0, tuned.err
    after = json.loads(hf("eval", tmp_path / "run", "--max-eval-blocks", "4", "--json").out)
    assert after["eval_nll"] < before["eval_nll"] - 1
    pushed = hf("push", tmp_path / "run", "--repo-id", "owner/name", "--dry-run", "--export-dir", tmp_path / "up")
    assert pushed.code == 0, pushed.err
    assert "was converted from `llada` (LLaDA)" in (tmp_path / "up" / "README.md").read_text()
    back = hf("convert", tmp_path / "run", "--to", "llada", "--output-dir", tmp_path / "back", "--json")
    assert back.code == 0, back.err
    assert json.loads(back.out)["architecture"] == "LLaDAModelLM"
    again = hf("convert", tmp_path / "back", "--output-dir", tmp_path / "again")
    assert again.code == 0, again.err
    assert "published with: generate --sampler llada --max-new-tokens 128 --max-denoising-steps 128" in again.out
    found = json.loads(hf("eval", tmp_path / "again", *data, "--max-eval-blocks", "4", "--json").out)
    merged = json.loads(hf("eval", tmp_path / "up", *data, "--max-eval-blocks", "4", "--json").out)
    assert found["eval_nll"] == pytest.approx(merged["eval_nll"], rel=1e-5)


def test_a_released_model_for_ids_only(hf, tmp_path):
    made = hf(
        "convert", RELEASED / "a2d-qwen2", "--output-dir", tmp_path / "made", "--no-tokenizer", "--mask-token-id", "63"
    )
    assert made.code == 0, made.err
    assert "mask id 63, no tokenizer" in made.out
    assert "in Python, which takes ids" in made.out


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("RUN", "--no-tokenizer"), "--no-tokenizer is for released diffusion language models (LLaDA"),
        (("RUN", "--mask-token-id", "3"), "--mask-token-id is for released diffusion language models (LLaDA"),
        (("RUN", "--to", "llada"), "no masked diffusion model"),
        (("RUN", "--to", "llama"), "--to must be one of llada, dream, sdar, gguf"),
        (("RUN", "--to", "llada", "--no-shift"), "leave out all other options"),
        ((RELEASED / "llada", "--mask-token", "x"), "has a mask already"),
    ],
)
def test_options_of_released_models_are_refused_elsewhere(args, said, hf, trained_ar, tmp_path):
    result = hf("convert", *(trained_ar if arg == "RUN" else arg for arg in args), "--output-dir", tmp_path / "made")
    assert result.code == 2
    assert said in result.err
    assert len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "made").exists()
