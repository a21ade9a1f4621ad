"""What the log of ``objective="atat"`` says: importance, stages, bounds and FLOPs, against numbers computed otherwise."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes.seen_rows import Rows

from hf_difflm.data import Collator
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.objectives import NoiseKey, count_tokens
from hf_difflm.objectives.adaptive.frequency_prior import frequency_importance
from hf_difflm.runs import load_run

STEPS = 9
V = 260


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_what_the_log_says_of_importance_is_what_it_is(make_diffusion_trainer, tokenizer, train_rows, parts):
    """Against the estimator's answers, taken anew for the whole optimiser batch before each step."""
    found: list[dict[str, float]] = []
    data = train_rows(24)

    class Witness(Rows):
        trainer: Any = None

        def on_step_begin(self, args, state, control, **kwargs):
            order = list(iter(self.trainer._train_order))[4 * state.global_step :][:4]
            batch = Collator(tokenizer)([data[i] for i in order])
            key = NoiseKey(args.seed, state.global_step, np.arange(4), 4)
            objective, model = self.trainer.training_objective, self.trainer.model
            scored_BL = (batch["labels"] != -100).numpy()
            with torch.no_grad():
                learned_BL = objective.networks["importance"](model.get_input_embeddings()(batch["input_ids"]))
                output = objective(model, batch, key, int(scored_BL.sum()))
            prior_V = frequency_importance(count_tokens(data, V, bos_token_id=256))
            values_BL = 0.7 * learned_BL.double().numpy() + 0.3 * prior_V[batch["input_ids"].numpy()]
            values_N = values_BL[output.rows_N, output.columns_N]
            hidden = torch.from_numpy(output.rows_N), torch.from_numpy(output.columns_N)
            # P3: the cost of a token holds its rate's as well; masking is time_only here, so there is none.
            difficulty_N = (output.token_nll_N.double().numpy() / math.log(V)).clip(0, 1)
            weights_N = 11 / np.bincount(output.rows_N, minlength=4)[output.rows_N]
            errors_N = (learned_BL[hidden].double().numpy() - difficulty_N) ** 2
            scored = values_BL[scored_BL]
            found.append(
                {
                    "importance_mean": scored.mean(),
                    "importance_std": scored.std(),
                    "importance_min": scored.min(),
                    "importance_max": scored.max(),
                    "importance_difficulty_correlation": np.corrcoef(values_N, difficulty_N)[0, 1],
                    "importance_loss": (weights_N * errors_N).sum() / weights_N.sum(),
                }
            )

    witness = Witness()
    trainer = make_diffusion_trainer(
        witness,
        objective="atat",
        masking="time_only",
        train=data,
        per_device_train_batch_size=4 // parts,
        gradient_accumulation_steps=parts,
        save_log_to_json=False,
    )
    witness.trainer = trainer
    trainer.train()
    assert len(witness.rows) == len(found) == 6
    for row, expected in zip(witness.rows, found, strict=True):
        assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert witness.rows[-1]["importance_loss"] < witness.rows[0]["importance_loss"]


def test_evaluation_is_p0_and_the_native_bound_stands_beside_it(make_diffusion_trainer, tokenizer, train_rows):
    rows = train_rows(6, seed=1)
    trainer = make_diffusion_trainer(
        objective="atat", evaluation=rows, eval_strategy="steps", eval_steps=3, save_log_to_json=True
    )
    trainer.train()
    metrics = trainer.evaluate()
    assert (metrics["eval_bound"], metrics["eval_native_bound"]) == ("nelbo", "nelbo_contextual")
    plain = make_diffusion_trainer(model=trainer.model, evaluation=rows, save_log_to_json=False)
    assert plain.evaluate()["eval_nll"] == metrics["eval_nll"]
    batch = Collator(tokenizer)(rows) | {"index": torch.arange(6)}
    native = evaluate_likelihood(trainer.model, trainer.training_objective.native(6), [batch], 6, replicates=2, seed=0)
    assert metrics["eval_native_nll"] == pytest.approx(native.nll, rel=1e-6)
    assert metrics["eval_native_nll_stderr"] == pytest.approx(native.nll_stderr, rel=1e-6)
    run = load_run(Path(trainer.args.output_dir))
    assert run.header.metadata["train_objective"] == "p3"
    assert run.evaluations[-1].metrics["eval_native_nll"] == metrics["eval_native_nll"]
    assert run.evaluations[-1].metrics["eval_native_bound"] == "nelbo_contextual"


def test_stages_and_their_beginnings_are_logged(make_diffusion_trainer, tmp_path):
    settings = {
        "objective": "atat",
        "curriculum": "thirds",
        "max_steps": STEPS,
        "save_strategy": "steps",
        "save_steps": 3,
    }
    trainer = make_diffusion_trainer(**settings)
    trainer.train()

    def told():
        return [(e.iter, e.message) for e in load_run(tmp_path / "run").events if e.event == "curriculum"]

    run = load_run(tmp_path / "run")
    assert [step.extra["curriculum_stage"] for step in run.steps] == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    paces = [step.extra["curriculum_pace"] for step in run.steps]
    assert paces == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1, 1, 1], abs=1e-6)
    expected = [(4, "curriculum stage 1 -> 2 (medium)"), (7, "curriculum stage 2 -> 3 (hard)")]
    assert told() == expected
    assert run.header.metadata["train_objective"] == "p3+curriculum"


def test_flops_hold_those_of_the_networks(make_diffusion_trainer):
    """Against a count of the multiplications of their matrices."""
    kept, plain = Rows(), Rows()
    trainer = make_diffusion_trainer(kept, objective="atat", masking="time_only", save_log_to_json=False)
    trainer.train()
    make_diffusion_trainer(plain, save_log_to_json=False).train()
    estimator = trainer.training_objective.networks["importance"]
    tokens, length = 4 * 12, 12
    expected = 0.0
    for name, module in estimator.named_modules():
        if isinstance(module, torch.nn.Linear):
            expected += tokens * 2 * module.weight.numel() * (2 if name == "narrow" else 3)
    width = estimator.layers.config.num_attention_heads * estimator.layers.config.head_dim
    expected += 3 * 2 * (2 * 2 * 4 * length**2 * width)  # 2 layers: queries with keys, weights with values
    extra = [row["flops"] - other["flops"] for row, other in zip(kept.rows, plain.rows, strict=True)]
    assert extra == pytest.approx([expected] * 6)


def test_how_far_the_training_is_decides_the_native_bound_and_is_asked_for(make_diffusion_trainer, train_rows):
    """With epochs the length is not known before training: until then there is P0 alone."""
    settings = {"objective": "atat", "masking": "balanced", "save_log_to_json": False}
    trainer = make_diffusion_trainer(evaluation=train_rows(6), max_steps=-1, num_train_epochs=1, **settings)
    assert "eval_native_nll" not in trainer.evaluate()
    trainer.train()
    assert trainer.training_objective.total_steps == 6
    assert "eval_native_nll" in trainer.evaluate()
    assert "eval_native_nll" in make_diffusion_trainer(evaluation=train_rows(6), **settings).evaluate()
