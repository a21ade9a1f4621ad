"""``hf-difflm convert``: from an autoregressive run to a denoiser that trains on, evaluates and generates."""

from __future__ import annotations

import json

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
