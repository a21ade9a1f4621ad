"""Training with diffusion blocks: the same loss for any cut, resumed bit for bit, evaluated by its own bound."""

from __future__ import annotations

import pytest
import torch
from processes.seen_rows import Rows

from hf_difflm.errors import UserError

SIZE = 4


def with_blocks(tiny_denoiser, size: int = SIZE, seed: int = 0):
    return tiny_denoiser(seed=seed, diffusion_block_size=size)


@pytest.mark.parametrize("kind", ["equal", "ragged", "prompts"])
@pytest.mark.parametrize("how", ["stratified", "iid", "checkpointed", "one token"])
def test_loss_gradient_norm_and_weights_do_not_depend_on_accumulation(
    make_diffusion_trainer, tiny_denoiser, train_rows, how, kind
):
    found = []
    for micro_batch, accumulation in ((8, 1), (4, 2), (1, 8)):
        seen = Rows()
        trainer = make_diffusion_trainer(
            seen,
            model=with_blocks(tiny_denoiser, 1 if how == "one token" else SIZE),
            train=train_rows(24, ragged=kind != "equal", prompts=kind == "prompts"),
            evaluation=train_rows(7, ragged=True, seed=1),
            objective="bd3lm",
            noise_sampling="iid" if how == "iid" else "stratified",
            gradient_checkpointing=how == "checkpointed",
            per_device_train_batch_size=micro_batch,
            per_device_eval_batch_size=micro_batch,
            gradient_accumulation_steps=accumulation,
            logging_steps=1,
            max_steps=3,
            save_log_to_json=False,
            optim="sgd",
            learning_rate=0.5,
            lr_scheduler_type="constant",
        )
        trainer.train()
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        found.append((seen.rows, weights, trainer.evaluate()))
    (rows, weights, evaluation), *others = found
    assert len(rows) == 3
    for other_rows, other_weights, other_evaluation in others:
        for row, expected in zip(other_rows, rows, strict=True):
            for name in ("loss", "grad_norm", "tokens", "noise_level", "masking_rate", "flops"):
                assert row[name] == pytest.approx(expected[name], rel=1e-5), name
        for name in ("eval_nll", "eval_nll_stderr", "eval_accuracy", "eval_scored_tokens"):
            assert other_evaluation[name] == pytest.approx(evaluation[name], rel=1e-5, abs=1e-7), name
        torch.testing.assert_close(other_weights, weights, rtol=1e-5, atol=1e-5)


def test_a_resumed_run_equals_the_uninterrupted_one(make_diffusion_trainer, tiny_denoiser, train_rows, tmp_path):
    settings = {
        "objective": "bd3lm",
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "save_total_limit": None,
        "save_log_to_json": False,
        "evaluation": train_rows(6, seed=1),
    }
    found = []
    for seed, checkpoint in ((0, None), (99, str(tmp_path / "run" / "checkpoint-2"))):
        seen = Rows()
        trainer = make_diffusion_trainer(seen, model=with_blocks(tiny_denoiser, seed=seed), **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        found.append(([row["loss"] for row in seen.rows[-4:]], weights, trainer.evaluate()["eval_nll"]))
    assert found[0][0] == found[1][0]
    assert found[0][2] == found[1][2]
    assert all(torch.equal(weight, found[1][1][name]) for name, weight in found[0][1].items())


def test_the_evaluation_is_a_bound_or_exact_and_the_same_each_time(make_diffusion_trainer, tiny_denoiser, train_rows):
    for size, bound in ((1, "exact"), (SIZE, "nelbo")):
        trainer = make_diffusion_trainer(
            model=with_blocks(tiny_denoiser, size), evaluation=train_rows(6), objective="bd3lm", save_log_to_json=False
        )
        once, again = trainer.evaluate(), trainer.evaluate()
        assert once["eval_bound"] == bound
        assert (once["eval_nll_stderr"] == 0) == (bound == "exact")
        assert once["eval_replicates"] == (1 if bound == "exact" else 2)
        assert once["eval_nll"] == again["eval_nll"]


def test_one_token_a_block_is_the_nll_of_reading_from_left_to_right(make_diffusion_trainer, tiny_denoiser, train_rows):
    model, rows = with_blocks(tiny_denoiser, 1), train_rows(5)
    trainer = make_diffusion_trainer(model=model, evaluation=rows, objective="bd3lm", save_log_to_json=False)
    nll, mask = [], model.config.mask_token_id
    with torch.no_grad():
        for row in rows:
            for place in range(1, len(row["input_ids"])):
                ids = torch.tensor([[*row["input_ids"][:place], mask]])
                nll.append(-model.eval()(ids).logits[0, -1].log_softmax(-1)[row["input_ids"][place]].item())
    assert trainer.evaluate()["eval_nll"] == pytest.approx(sum(nll) / len(nll), abs=1e-5)


def test_adapters_learn_beside_a_model_with_blocks(make_diffusion_trainer, tiny_denoiser):
    trainer = make_diffusion_trainer(
        model=with_blocks(tiny_denoiser), objective="bd3lm", lora_r=2, learning_rate=0.05, save_log_to_json=False
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("size", "arguments", "says"),
    [
        (None, {"objective": "bd3lm"}, "objective bd3lm needs a model with diffusion blocks, but this one has none"),
        (SIZE, {"objective": "mdlm"}, "the model has diffusion blocks of 4 tokens, but the objective is mdlm"),
        (SIZE, {"objective": "atat"}, "the model has diffusion blocks of 4 tokens, but the objective is atat"),
        (
            SIZE,
            {"objective": "bd3lm", "diffusion_block_size": 8},
            "diffusion_block_size is 8, but the model was built with 4",
        ),
        (
            None,
            {"diffusion_block_size": 8},
            "diffusion_block_size is for the objective bd3lm, but the objective is mdlm",
        ),
        (
            SIZE,
            {"objective": "bd3lm", "diffusion_block_size_schedule": "1,8"},
            "must end with the 4 tokens that the model was built with, but ends with 8",
        ),
        (
            SIZE,
            {"objective": "bd3lm", "loss_form": "time", "count_law": "bell"},
            "count_law bell is of exact counts, but loss_form is time",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(make_diffusion_trainer, tiny_denoiser, size, arguments, says):
    with pytest.raises(UserError, match=says):
        make_diffusion_trainer(model=with_blocks(tiny_denoiser, size), **arguments)
