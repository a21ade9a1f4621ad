"""Clipping that keeps the norms it takes: the same bits as the Trainer's, and numbers that are those of the gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import Trainer, TrainerCallback

from hf_difflm.callbacks import GradientNormCallback
from hf_difflm.callbacks.reports import reports_of
from hf_difflm.training import DiffusionTrainer


class _Published(TrainerCallback):
    """Keeps what was published."""

    def on_train_begin(self, args, state, control, **kwargs):
        self.published: list[dict] = []
        reports_of(state).listen(lambda record: self.published.append(record.metrics))


def test_weights_and_logged_norms_are_those_of_the_trainers_own_clipping_to_the_bit(
    make_diffusion_trainer, tiny_denoiser, tmp_path, monkeypatch
):
    model, trainers = tiny_denoiser(), []
    for stock in (False, True):
        with monkeypatch.context() as patched:
            if stock:
                patched.setattr(DiffusionTrainer, "_clip_grad_norm", Trainer._clip_grad_norm)
            folder = str(tmp_path / str(stock))
            trainer = make_diffusion_trainer(
                model=copy.deepcopy(model), logging_steps=1, max_grad_norm=0.05, output_dir=folder
            )
            trainer.train()
            trainers.append(trainer)
    mine, theirs = (list(trainer.model.parameters()) for trainer in trainers)
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
    logged = [[row["grad_norm"] for row in t.state.log_history if "grad_norm" in row] for t in trainers]
    assert logged[0] == logged[1]
    assert min(logged[0]) > 0.05  # something was clipped


def test_reported_norms_are_those_before_clipping(make_diffusion_trainer, monkeypatch):
    before: list[float] = []

    def note(trainer: Trainer, model: torch.nn.Module) -> torch.Tensor:
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        before.append(float(torch.cat(gradients).double().norm()))
        return clip(trainer, model)

    clip = DiffusionTrainer._clip_grad_norm
    monkeypatch.setattr(DiffusionTrainer, "_clip_grad_norm", note)
    published = _Published()
    trainer = make_diffusion_trainer(published, GradientNormCallback(), logging_steps=2, max_grad_norm=0.05)
    trainer.train()
    assert reports_of(trainer.state).gradient_norms.step == 6
    assert [metrics["grad_norm/global"] for metrics in published.published] == pytest.approx(before[1::2], rel=1e-5)


def test_a_frozen_part_is_no_reason_to_take_the_norms_twice(make_diffusion_trainer, tiny_denoiser):
    model = tiny_denoiser()
    model.get_input_embeddings().weight.requires_grad_(False)
    published = _Published()
    trainer = make_diffusion_trainer(published, GradientNormCallback(), model=model, logging_steps=1, max_steps=2)
    trainer.train()
    assert len(reports_of(trainer.state).gradient_norms.parameters) == sum(p.requires_grad for p in model.parameters())
    assert "grad_norm/embeddings" not in published.published[-1]
