"""``objective="atat"`` in the Trainer: its networks train, clip, save and log apart from the model."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerCallback

from hf_difflm.data import Collator
from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood import evaluate_likelihood
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.objectives import NoiseKey, count_tokens
from hf_difflm.objectives.frequency_prior import frequency_importance
from hf_difflm.objectives.importance_file import load_importance
from hf_difflm.runs import load_run

STEPS = 9
V = 260
FORMS = {
    "p0": {"masking": "time_only"},
    "p0-curriculum": {"masking": "time_only", "curriculum": "thirds"},
    "p1": {"importance": "none", "position_bias": 0.7},
    "p2": {"importance": "frequency_only"},
    "p3": {},
    "p3-balanced-curriculum": {"masking": "balanced", "curriculum": "0.2,0.6", "curriculum_schedule": "exponential"},
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


class Rows(TrainerCallback):
    """Collects what the Trainer says of each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_training_iterations(self, args, state, rows):
        self.rows += rows


def state(trainer) -> dict[str, torch.Tensor]:
    """Weights of the model and of the networks, and the state of the optimiser."""
    found = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    if trainer.objective.networks is not None:
        found |= {f"networks.{name}": p.detach().clone() for name, p in trainer.objective.networks.named_parameters()}
    optimiser = trainer.optimizer.state_dict()["state"]
    return found | {f"optimizer.{i}.{name}": value for i, values in optimiser.items() for name, value in values.items()}


def differing(ours, theirs) -> list[str]:
    ours, theirs = state(ours), state(theirs)
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize("loss_form", ["any_order", "time"])
def test_with_nothing_adaptive_a_training_is_that_of_mdlm_bit_for_bit(make_diffusion_trainer, train_rows, loss_form):
    trainers, rows = {}, {}
    for objective in ("mdlm", "atat"):
        kept = Rows()
        trainers[objective] = make_diffusion_trainer(
            kept,
            objective=objective,
            importance="none",
            masking="none",
            loss_form=loss_form,
            save_log_to_json=False,
            evaluation=train_rows(6, seed=1),
        )
        trainers[objective].train()
        rows[objective] = kept.rows
    assert differing(*trainers.values()) == []
    clocks = {"time_ms", "tokens_per_sec", "mfu"}
    ours, theirs = ([{k: v for k, v in row.items() if k not in clocks} for row in found] for found in rows.values())
    assert ours == theirs
    clocks = {"eval_runtime", "eval_samples_per_second"}
    ours, theirs = ({k: v for k, v in t.evaluate().items() if k not in clocks} for t in trainers.values())
    assert ours == theirs


def test_an_estimator_that_only_watches_learns_and_leaves_the_model_bit_equal(make_diffusion_trainer):
    """The model is clipped at every step (its norm is logged as before), the networks apart from it."""
    settings = {"max_grad_norm": 0.1, "weight_decay": 0.1, "save_log_to_json": False}
    kept, others = Rows(), Rows()
    plain = make_diffusion_trainer(kept, **settings)
    plain.train()
    watching = make_diffusion_trainer(others, objective="atat", masking="time_only", **settings)
    before = {name: p.clone() for name, p in watching.objective.networks.named_parameters()}
    watching.train()
    for (name, ours), (_, theirs) in zip(
        plain.model.named_parameters(), watching.model.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    for name in ("loss", "grad_norm", "accuracy", "masking_rate"):
        assert [row[name] for row in kept.rows] == [row[name] for row in others.rows]
    assert max(row["grad_norm"] for row in kept.rows) > 0.1
    moved = [name for name, p in watching.objective.networks.named_parameters() if not torch.equal(p, before[name])]
    assert len(moved) == len(before)
    assert all(p.grad is None for p in watching.objective.networks.parameters())


def test_the_networks_have_an_optimiser_group_without_weight_decay(make_diffusion_trainer):
    trainer = make_diffusion_trainer(objective="atat", weight_decay=0.1, save_log_to_json=False)
    trainer.train()
    groups = trainer.optimizer.param_groups
    mine = {id(p) for p in trainer.objective.networks.parameters()}
    assert [{id(p) for p in group["params"]} == mine for group in groups] == [False, False, True]
    assert groups[-1]["weight_decay"] == 0.0
    assert groups[-1]["lr"] == groups[0]["lr"]
    trainer.train()  # again, from where it is: the group is not added twice
    assert len(trainer.optimizer.param_groups) == 3


@every_form
@pytest.mark.parametrize("cut", [2, 5])
def test_a_resumed_run_equals_the_uninterrupted_one(
    make_diffusion_trainer, tiny_denoiser, train_rows, tmp_path, form, cut
):
    settings = {
        "objective": "atat",
        "max_steps": STEPS,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "steps",
        "save_steps": cut,
        "save_total_limit": None,
        "ema_decay": 0.9,
        "warmup_steps": 3,
        "save_log_to_json": False,
        "evaluation": train_rows(6, seed=1),
        **form,
    }
    whole_rows, rows = Rows(), Rows()
    whole = make_diffusion_trainer(whole_rows, **settings)
    whole.train()
    resumed = make_diffusion_trainer(rows, model=tiny_denoiser(seed=99), **settings)
    if resumed.objective.networks is not None:
        for p in resumed.objective.networks.parameters():
            torch.nn.init.constant_(p, 0.123)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / f"checkpoint-{cut}"))
    assert differing(resumed, whole) == []
    clocks = {"time_ms", "tokens_per_sec", "mfu"}
    for row, expected in zip(rows.rows, whole_rows.rows[cut:], strict=True):
        assert {k: v for k, v in row.items() if k not in clocks} == {
            k: v for k, v in expected.items() if k not in clocks
        }
    ours, theirs = resumed.evaluate(), whole.evaluate()
    assert (ours["eval_nll"], ours.get("eval_native_nll")) == (theirs["eval_nll"], theirs.get("eval_native_nll"))


def test_a_checkpoint_without_the_networks_is_not_resumed(make_diffusion_trainer, tmp_path):
    settings = {"objective": "atat", "save_strategy": "steps", "save_steps": 3, "save_log_to_json": False}
    make_diffusion_trainer(**settings).train()
    checkpoint = tmp_path / "run" / "checkpoint-3"
    (checkpoint / "importance.safetensors").unlink()
    with pytest.raises(UserError, match=r"checkpoint-3.*importance\.safetensors"):
        make_diffusion_trainer(**settings).train(resume_from_checkpoint=str(checkpoint))


def test_resuming_with_another_setting_is_refused(make_diffusion_trainer, tmp_path):
    settings = {"objective": "atat", "save_strategy": "steps", "save_steps": 3, "save_log_to_json": False}
    make_diffusion_trainer(**settings).train()
    with pytest.raises(UserError, match="masking = 'inverse'"):
        make_diffusion_trainer(masking="inverse", **settings).train(
            resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")
        )


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
            objective, model = self.trainer.objective, self.trainer.model
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
    native = evaluate_likelihood(trainer.model, trainer.objective.native(6), [batch], 6, replicates=2, seed=0)
    assert metrics["eval_native_nll"] == pytest.approx(native.nll, rel=1e-6)
    assert metrics["eval_native_nll_stderr"] == pytest.approx(native.nll_stderr, rel=1e-6)
    run = load_run(Path(trainer.args.output_dir))
    assert run.header.metadata["train_objective"] == "p3"
    assert run.evaluations[-1].metrics["eval_native_nll"] == metrics["eval_native_nll"]
    assert run.evaluations[-1].metrics["eval_native_bound"] == "nelbo_contextual"


def test_best_is_by_p0_loads_without_the_networks_and_has_them_beside_it(make_diffusion_trainer, train_rows):
    trainer = make_diffusion_trainer(
        objective="atat",
        evaluation=train_rows(6, seed=1),
        eval_strategy="steps",
        eval_steps=6,
        save_log_to_json=False,
    )
    trainer.train()
    best = Path(trainer.args.output_dir) / "best"
    assert trainer.state.best_metric == trainer.evaluate()["eval_nll"]
    model = MaskedDiffusionForMaskedLM.from_pretrained(best)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), trainer.model.parameters(), strict=True))
    reader, settings = load_importance(best)
    assert settings == trainer.objective.settings
    networks = trainer.objective.networks
    assert all(
        torch.equal(a, b)
        for a, b in zip(reader.estimator.parameters(), networks["importance"].parameters(), strict=True)
    )


def test_stages_and_their_beginnings_are_logged(make_diffusion_trainer, tmp_path):
    settings = {"objective": "atat", "curriculum": "thirds", "max_steps": STEPS, "save_strategy": "steps", "save_steps": 3}
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


def test_weights_of_the_networks_that_are_not_finite_are_never_saved(make_diffusion_trainer, tmp_path):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                torch.nn.init.constant_(trainer.objective.networks["importance"].narrow.bias, math.nan)

    trainer = make_diffusion_trainer(
        Break(), objective="atat", save_strategy="steps", save_steps=3, save_log_to_json=False
    )
    with pytest.raises(UserError, match="stopped being finite"):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoint-3").exists()


def test_flops_hold_those_of_the_networks(make_diffusion_trainer):
    """Against a count of the multiplications of their matrices."""
    kept, plain = Rows(), Rows()
    trainer = make_diffusion_trainer(kept, objective="atat", masking="time_only", save_log_to_json=False)
    trainer.train()
    make_diffusion_trainer(plain, save_log_to_json=False).train()
    estimator = trainer.objective.networks["importance"]
    tokens, length = 4 * 12, 12
    expected = 0.0
    for name, module in estimator.named_modules():
        if isinstance(module, torch.nn.Linear):
            expected += tokens * 2 * module.weight.numel() * (2 if name == "narrow" else 3)
    width = estimator.layers.config.num_attention_heads * estimator.layers.config.head_dim
    expected += 3 * 2 * (2 * 2 * 4 * length**2 * width)  # 2 layers: queries with keys, weights with values
    extra = [row["flops"] - other["flops"] for row, other in zip(kept.rows, plain.rows, strict=True)]
    assert extra == pytest.approx([expected] * 6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"curriculum": "often"}, "curriculum must be one of"),
        ({"curriculum": "0.6,0.2"}, "in order"),
        ({"curriculum": "thirds", "importance": "none"}, "importance is none"),
    ],
)
def test_settings_that_make_no_objective_are_told(make_diffusion_trainer, settings, said):
    with pytest.raises(UserError, match=said):
        make_diffusion_trainer(objective="atat", **settings)


def test_the_bos_of_rows_without_labels_is_context_and_is_not_counted(make_diffusion_trainer, train_rows):
    data = train_rows(24)
    trainer = make_diffusion_trainer(objective="atat", train=data)
    counts_V = trainer.objective.counts_V
    assert counts_V[256] == 0
    assert counts_V.sum() == 24 * 11
    np.testing.assert_array_equal(counts_V, np.bincount(np.array([r["input_ids"][1:] for r in data]).ravel(), minlength=V))


def test_a_causal_model_is_refused(make_diffusion_trainer, tiny_causal):
    with pytest.raises(UserError, match="objective atat needs a MaskedDiffusionForMaskedLM"):
        make_diffusion_trainer(objective="atat", model=tiny_causal())
