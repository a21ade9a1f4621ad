"""One optimiser batch, cut into any number of micro-batches, has one loss, one gradient and one update."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from processes.seen_rows import Rows

CUTS = [(16, 1), (8, 2), (4, 4), (2, 8)]


def train(make_diffusion_trainer, micro_batch: int, accumulation: int, **settings):
    seen = Rows()
    trainer = make_diffusion_trainer(
        seen,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        logging_steps=1,
        max_steps=3,
        save_log_to_json=False,
        optim="sgd",  # Adam's sign-like first steps would magnify rounding of tiny gradients
        learning_rate=0.5,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        **settings,
    )
    trainer.train()
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    return seen.rows, weights, trainer.evaluate() if trainer.eval_dataset is not None else {}


@pytest.mark.parametrize("kind", ["equal", "ragged", "prompts"])
@pytest.mark.parametrize("loss", ["mdlm", "mdlm-time-cosine", "mdlm-iid", "mdlm-pairs", "mdlm-bell", "ar"])
def test_loss_gradient_norm_and_weights_do_not_depend_on_accumulation(
    make_diffusion_trainer, tiny_denoiser, train_rows, loss, kind
):
    objective, *rest = loss.split("-")
    settings = {"objective": objective}
    if rest in (["iid"], ["pairs"]):
        settings["noise_sampling"] = rest[0]
    if rest == ["bell"]:
        settings |= {"count_law": "bell", "loss_weight": "flat"}
    if rest == ["time", "cosine"]:
        settings |= {"loss_form": "time"}
    rows = train_rows(48, ragged=kind != "equal", prompts=kind == "prompts")
    results = []
    for cut in CUTS:
        model = tiny_denoiser(noise_schedule="cosine") if "time" in rest else None
        evaluated = {"evaluation": train_rows(7, ragged=True, seed=1), "per_device_eval_batch_size": cut[0]}
        results.append(train(make_diffusion_trainer, *cut, model=model, train=rows, **evaluated, **settings))
    (expected_rows, expected_weights, expected_evaluation), *others = results
    assert len(expected_rows) == 3
    assert expected_evaluation["eval_nll_data_stderr"] > 0
    for (steps, weights, evaluation), cut in zip(others, CUTS[1:], strict=True):
        for name, value in expected_evaluation.items():
            if name not in ("eval_runtime", "eval_samples_per_second"):
                close = value if isinstance(value, str) else pytest.approx(value, rel=1e-5, abs=1e-6)
                assert evaluation[name] == close, (cut, name)
        for step, expected in zip(steps, expected_rows, strict=True):
            for name in ("loss", "grad_norm"):
                assert step[name] == pytest.approx(expected[name], rel=1e-5), (cut, name)
            assert step["tokens"] == expected["tokens"]
            for name in ("noise_level", "masking_rate", "accuracy"):
                if objective == "mdlm" or name == "accuracy":
                    assert step[name] == pytest.approx(expected[name], rel=1e-6), (cut, name)
        for name, weight in weights.items():
            torch.testing.assert_close(weight, expected_weights[name], rtol=1e-5, atol=1e-5, msg=f"{cut} {name}")


def test_the_loss_of_a_step_is_what_the_objective_says_of_the_whole_batch(
    make_diffusion_trainer, tiny_denoiser, tokenizer, train_rows
):
    """Against one call on all rows: neither the accumulation nor the Trainer rescales."""
    from hf_difflm.data import Collator
    from hf_difflm.objectives import MaskedDiffusionObjective, NoiseKey
    from hf_difflm.training.data_order import EpochSampler

    rows = train_rows(16, ragged=True)
    steps, *_ = train(make_diffusion_trainer, 2, 8, train=rows, seed=7)
    ordered = [rows[i] for i in EpochSampler(16, 16, 7)]
    batch = Collator(tokenizer)(ordered)
    model = tiny_denoiser()
    key = NoiseKey(7, 0, np.arange(16), 16)
    loss = MaskedDiffusionObjective(259)(model, batch, key, int((batch["labels"] != -100).sum())).loss
    loss.backward()
    norm = torch.nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert steps[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
    assert steps[0]["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_logged_gradient_norm_is_that_before_clipping(make_diffusion_trainer):
    tight, *_ = train(make_diffusion_trainer, 8, 1)
    assert all(row["grad_norm"] > 1.0 for row in tight[:1])


def test_without_clipping_there_is_a_gradient_norm_and_the_run_goes_on(make_diffusion_trainer, train_rows):
    """``max_grad_norm`` 0 means: do not clip. It is not a norm that is not a number."""
    seen = Rows()
    trainer = make_diffusion_trainer(seen, max_grad_norm=0.0, save_log_to_json=False, learning_rate=1e-3)
    trainer.train()
    assert [row["iter"] for row in seen.rows] == [1, 2, 3, 4, 5, 6]
    assert all(row["grad_norm"] > 0 for row in seen.rows)


@pytest.mark.borders
def test_padding_that_a_backbone_would_read_does_not_depend_on_the_cut(make_diffusion_trainer, tokenizer, train_rows):
    """Its rows of several lengths go through it one by one: which of them share a micro-batch is no matter."""
    from hf_difflm.models.build import build_denoiser
    from hf_difflm.models.options import ModelOptions

    options = ModelOptions(backbone="fnet", hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    results = []
    for cut in ((16, 1), (4, 4)):
        torch.manual_seed(0)
        model = build_denoiser(options, tokenizer, 32)
        rows, held = train_rows(48, ragged=True), train_rows(7, ragged=True, seed=1)
        results.append(train(make_diffusion_trainer, *cut, model=model, train=rows, evaluation=held))
    (one, weights, evaluation), (other, other_weights, other_evaluation) = results
    assert [row["loss"] for row in other] == pytest.approx([row["loss"] for row in one], rel=1e-5)
    assert other_evaluation["eval_nll"] == pytest.approx(evaluation["eval_nll"], rel=1e-5)
    for name, weight in other_weights.items():
        torch.testing.assert_close(weight, weights[name], rtol=1e-5, atol=1e-5)
