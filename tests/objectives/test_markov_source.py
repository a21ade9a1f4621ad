"""A source of known entropy: both objectives come close to what no model can beat, and neither claims to beat it."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch

from hf_difflm.data import DataOptions, PreparedData, prepare_data
from hf_difflm.models.build import build_causal_lm, build_denoiser
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.models.options import ModelOptions
from hf_difflm.training import DiffusionTrainer, DiffusionTrainingArguments


@pytest.fixture(scope="module")
def markov(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
        return prepare_data(DataOptions(dataset="markov", block_size=65), tokenizer)


def evaluate_after(steps: int, objective: str, data: PreparedData, tokenizer, folder: Path) -> dict[str, float]:
    torch.manual_seed(0)
    options = ModelOptions(hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    if objective == "ar":
        model = build_causal_lm(options, tokenizer, data.block_size)
    else:
        model = build_denoiser(options, tokenizer, data.block_size, NoiseSchedule())
    arguments = DiffusionTrainingArguments(
        output_dir=str(folder),
        objective=objective,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        max_steps=steps,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        warmup_steps=0.1,
        ema_decay=0.98,
        logging_steps=steps,
        eval_strategy="no",
        save_strategy="no",
        save_log_to_json=False,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = DiffusionTrainer(model, arguments, data.train, data.eval, tokenizer)
    trainer.train()
    return trainer.evaluate()


@pytest.mark.slow
def test_the_causal_model_comes_within_one_and_a_half_percent_of_the_chain(markov, tokenizer, tmp_path):
    metrics = evaluate_after(150, "ar", markov, tokenizer, tmp_path)
    assert 0 < metrics["eval_nll"] / markov.source_nll - 1 < 0.015
    assert metrics["eval_bound"] == "exact"


@pytest.mark.slow
def test_the_denoiser_comes_within_three_percent_of_the_chain_and_not_below(markov, tokenizer, tmp_path):
    metrics = evaluate_after(500, "mdlm", markov, tokenizer, tmp_path)
    assert metrics["eval_nll"] / markov.source_nll - 1 < 0.03
    assert metrics["eval_nll"] + 3 * metrics["eval_nll_stderr"] > markov.source_nll
    assert metrics["eval_nll_stderr"] < 0.005 * markov.source_nll  # so that both lines say something
    assert metrics["eval_bound"] == "nelbo"
