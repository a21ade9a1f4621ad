"""``objective="atat"`` in the Trainer: its networks train, clip, save and log apart from the model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from processes.seen_rows import Rows
from transformers import TrainerCallback

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.objectives.adaptive.importance_file import load_importance

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


def state(trainer) -> dict[str, torch.Tensor]:
    """Weights of the model and of the networks, and the state of the optimiser."""
    found = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    if trainer.training_objective.networks is not None:
        found |= {
            f"networks.{name}": p.detach().clone() for name, p in trainer.training_objective.networks.named_parameters()
        }
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
    before = {name: p.clone() for name, p in watching.training_objective.networks.named_parameters()}
    watching.train()
    for (name, ours), (_, theirs) in zip(
        plain.model.named_parameters(), watching.model.named_parameters(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    for name in ("loss", "grad_norm", "accuracy", "masking_rate"):
        assert [row[name] for row in kept.rows] == [row[name] for row in others.rows]
    assert max(row["grad_norm"] for row in kept.rows) > 0.1
    moved = [
        name for name, p in watching.training_objective.networks.named_parameters() if not torch.equal(p, before[name])
    ]
    assert len(moved) == len(before)
    assert all(p.grad is None for p in watching.training_objective.networks.parameters())


def test_the_networks_have_an_optimiser_group_without_weight_decay(make_diffusion_trainer):
    trainer = make_diffusion_trainer(objective="atat", weight_decay=0.1, save_log_to_json=False)
    trainer.train()
    groups = trainer.optimizer.param_groups
    mine = {id(p) for p in trainer.training_objective.networks.parameters()}
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
    if resumed.training_objective.networks is not None:
        for p in resumed.training_objective.networks.parameters():
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
    assert settings == trainer.training_objective.settings
    networks = trainer.training_objective.networks
    assert all(
        torch.equal(a, b)
        for a, b in zip(reader.estimator.parameters(), networks["importance"].parameters(), strict=True)
    )


def test_weights_of_the_networks_that_are_not_finite_are_never_saved(make_diffusion_trainer, tmp_path):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == 3:
                torch.nn.init.constant_(trainer.training_objective.networks["importance"].narrow.bias, math.nan)

    trainer = make_diffusion_trainer(
        Break(), objective="atat", save_strategy="steps", save_steps=3, save_log_to_json=False
    )
    with pytest.raises(UserError, match="stopped being finite"):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoint-3").exists()


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
    counts_V = trainer.training_objective.counts_V
    assert counts_V[256] == 0
    assert counts_V.sum() == 24 * 11
    np.testing.assert_array_equal(
        counts_V, np.bincount(np.array([r["input_ids"][1:] for r in data]).ravel(), minlength=V)
    )


def test_a_causal_model_is_refused(make_diffusion_trainer, tiny_causal):
    with pytest.raises(UserError, match="objective atat needs a MaskedDiffusionForMaskedLM"):
        make_diffusion_trainer(objective="atat", model=tiny_causal())


@pytest.mark.parametrize("form", [{}, {"importance": "frequency_only"}], ids=["p3", "p2"])
@pytest.mark.parametrize("flags", [{"bf16": True}, {"gradient_checkpointing": True}], ids=["bf16", "checkpointing"])
def test_flags_that_save_memory_leave_the_losses_nearly_as_they_are(make_diffusion_trainer, train_rows, form, flags):
    """bfloat16 has three digits; computing activations again changes nothing."""
    kept: list[Rows] = []
    for settings in ({}, flags):
        kept.append(Rows())
        evaluation = train_rows(6, seed=1)
        more = {"objective": "atat", "save_log_to_json": False, "evaluation": evaluation, **form, **settings}
        trainer = make_diffusion_trainer(kept[-1], **more)
        trainer.train()
        assert math.isfinite(trainer.evaluate()["eval_native_nll"])
    plain, saving = ([row["loss"] for row in rows.rows] for rows in kept)
    assert saving == pytest.approx(plain, rel=2e-2 if "bf16" in flags else 1e-6)
