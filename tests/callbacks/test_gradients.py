"""The gradient norms of each part of a model are those before clipping, whatever the Trainer does with the gradients."""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from any_trainer import build_trainer
from reported import Reported, norms_by_name, unclipped_gradients
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from hf_difflm.callbacks import RunLogCallback, gradients
from hf_difflm.callbacks.gradients import GradientNormCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run


def check(reported: Reported, seen: list[dict[str, torch.Tensor]], steps: list[int], rel: float = 2e-6) -> None:
    measured = reported.measurements("gradients")
    assert list(measured) == steps
    for step, record in measured.items():
        assert record.metrics == pytest.approx(norms_by_name("grad_norm", seen[step - 1]), rel=rel), step


@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("max_grad_norm", [0.01, 1e9, 0.0], ids=["clipped", "not clipped", "clipping off"])
def test_norms_are_those_before_clipping_in_any_trainer(any_trainer, accumulation, max_grad_norm):
    reported = Reported()
    trainer = any_trainer(
        reported,
        GradientNormCallback(),
        max_grad_norm=max_grad_norm,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=4 // accumulation,
    )
    seen = unclipped_gradients(trainer)
    trainer.train()
    assert len(seen) == 6
    check(reported, seen, [2, 4, 6])
    logged = {entry["step"]: entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry}
    found = {step: record.metrics["grad_norm/global"] for step, record in reported.measurements("gradients").items()}
    assert found == pytest.approx(logged, rel=1e-6)


@pytest.mark.parametrize("kind", ["classifier", "causal", "diffusion"])
def test_norms_under_bfloat16_autocast(kind, tmp_path):
    reported = Reported()
    trainer = build_trainer(kind, tmp_path, reported, GradientNormCallback(), max_grad_norm=0.01, bf16=True)
    seen = unclipped_gradients(trainer)
    trainer.train()
    check(reported, seen, [2, 4, 6])


def test_norms_of_bfloat16_weights_are_as_good_as_the_logged_norm(tmp_path):
    reported = Reported()
    trainer = build_trainer("causal", tmp_path, reported, GradientNormCallback(), max_grad_norm=0.01)
    trainer.model.to(torch.bfloat16)
    seen = unclipped_gradients(trainer)
    trainer.train()
    check(reported, seen, [2, 4, 6], rel=0.01)  # the logged norm is a bfloat16 number


@pytest.mark.parametrize("max_grad_norm", [0.01, 0.0])
def test_the_loss_scale_of_float16_is_not_in_the_norms(tmp_path, monkeypatch, max_grad_norm):
    reported = Reported()
    trainer = build_trainer("causal", tmp_path, reported, GradientNormCallback(), max_grad_norm=max_grad_norm)
    accelerator = trainer.accelerator  # it has no float16 on a CPU, whose GradScaler and autocast work
    monkeypatch.setitem(accelerator.state.__dict__, "_mixed_precision", "fp16")
    accelerator.native_amp, accelerator.scaler = True, torch.amp.GradScaler("cpu", init_scale=1024.0)
    seen = unclipped_gradients(trainer)
    trainer.train()
    assert accelerator.scaler.get_scale() == 1024.0
    unscaled = [{name: gradient / 1024.0 for name, gradient in step.items()} for step in seen]
    check(reported, unscaled, [2, 4, 6])


def test_gradients_that_are_scaled_at_the_hook_are_unscaled_by_the_logged_norm(tmp_path):
    """As in a Trainer that unscales after its hooks."""
    harness = Harness(tmp_path)
    harness.backward(scale=512.0)
    true = norms_by_name("grad_norm", {name: p.grad / 512.0 for name, p in harness.model.named_parameters()})
    assert harness.report(grad_norm=true["grad_norm/global"]) == pytest.approx(true, rel=2e-6)


class Harness:
    """The hooks of a step, called by hand, on the tiny Llama."""

    def __init__(self, folder, interval: int | None = None) -> None:
        torch.manual_seed(0)
        self.model = build_trainer("causal", folder).model
        self.args = TrainingArguments(output_dir=str(folder), logging_steps=1, use_cpu=True)
        self.state = TrainerState(max_steps=10, logging_steps=1)
        self.callback, self.reported = GradientNormCallback(interval), Reported()
        for callback in (self.reported, self.callback):
            callback.on_train_begin(self.args, self.state, TrainerControl(), model=self.model)

    def backward(self, scale: float = 1.0) -> None:
        self.model.zero_grad()
        ids_BL = torch.arange(24).view(2, 12)
        (scale * self.model(input_ids=ids_BL, labels=ids_BL).loss).backward()

    def take(self) -> None:
        self.callback.on_pre_optimizer_step(self.args, self.state, TrainerControl(), model=self.model)

    def report(self, **logs: float) -> dict[str, float] | None:
        self.take()
        self.state.global_step += 1
        self.callback.on_log(self.args, self.state, TrainerControl(), logs={"loss": 1.0, **logs})
        record = self.reported.measurements("gradients").get(self.state.global_step)
        return None if record is None else record.metrics

    def expected(self) -> dict[str, float]:
        named = self.model.named_parameters()
        return norms_by_name("grad_norm", {name: p.grad.to_dense() for name, p in named if p.grad is not None})


def test_without_a_logged_norm_the_gradients_count_as_they_are(tmp_path):
    harness = Harness(tmp_path)
    harness.backward()
    assert harness.report() == pytest.approx(harness.expected(), rel=2e-6)


def test_frozen_weights_and_weights_without_gradient_are_left_out(tmp_path):
    harness = Harness(tmp_path)
    harness.model.lm_head.requires_grad_(False)
    harness.model.model.layers[0].requires_grad_(False)
    harness.backward()
    harness.model.model.norm.weight.grad = None
    metrics = harness.report()
    assert metrics == pytest.approx(harness.expected(), rel=2e-6)
    assert "grad_norm/head" not in metrics
    assert "grad_norm/layer_00" not in metrics


def test_sparse_gradients_count_with_their_doubles_added_up(tmp_path):
    harness = Harness(tmp_path)
    harness.backward()
    table = harness.model.model.embed_tokens.weight
    indices, values = torch.tensor([[3, 5, 3]]), torch.randn(3, 16)
    table.grad = torch.sparse_coo_tensor(indices, values, table.shape)
    assert harness.report() == pytest.approx(harness.expected(), rel=2e-6)


@pytest.mark.parametrize("logged", [math.inf, math.nan])
def test_after_a_norm_that_is_not_finite_all_are_null(tmp_path, logged):
    harness = Harness(tmp_path)
    harness.backward()
    assert all(math.isnan(value) for value in harness.report(grad_norm=logged).values())
    harness.backward()
    assert harness.report() == pytest.approx(harness.expected(), rel=2e-6)


def test_a_part_that_is_not_finite_is_null_and_flagged_in_the_log_and_training_goes_on(tmp_path):
    trainer = build_trainer("causal", tmp_path, RunLogCallback(run_name="a"), GradientNormCallback(), max_grad_norm=0.0)
    weight = trainer.model.model.layers[1].mlp.down_proj.weight
    weight.register_hook(lambda gradient: torch.full_like(gradient, math.inf))
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "journal.jsonl").read_text().splitlines()]
    first = next(line for line in lines if line["type"] == "measurement")
    assert set(first["metrics"].values()) == {None}  # clipping by an infinite norm has left nothing of the others
    assert set(first["nonfinite"]) == {f"metrics.{name}" for name in first["metrics"]}
    assert [record.iter for record in load_run(tmp_path).measurements] == [2, 4, 6]


def test_where_an_engine_keeps_the_gradients_that_is_said_once_and_nothing_is_reported(tmp_path, caplog):
    harness = Harness(tmp_path)
    with caplog.at_level(logging.WARNING, logger=gradients.__name__):
        assert harness.report(grad_norm=1.0) is None
        assert harness.report(grad_norm=1.0) is None
    assert len([record for record in caplog.records if record.name == gradients.__name__]) == 1


def test_the_hook_asks_the_device_for_no_number_and_nothing_is_done_at_other_steps(tmp_path):
    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls.append(str(function))
            return function(*args, **(kwargs or {}))

    harness = Harness(tmp_path)
    harness.backward()
    with Watch() as due:
        harness.take()
    assert any("_foreach_norm" in call for call in due.calls)
    assert not any("_local_scalar_dense" in call or "nonzero" in call for call in due.calls)
    harness.state.logging_steps = 2
    with Watch() as other:
        harness.take()
    assert other.calls == []


@pytest.mark.parametrize(
    ("interval", "arguments", "steps"),
    [
        (None, {}, [2, 4, 6]),
        (None, {"logging_first_step": True, "logging_steps": 4}, [1, 4]),
        (3, {"logging_steps": 1}, [3, 6]),
        (3, {"logging_steps": 2}, [4, 6]),  # the logging step after
        (5, {"logging_steps": 2}, [6]),
        (0, {}, []),
        (None, {"logging_strategy": "epoch", "max_steps": 12}, [6, 12]),
        (None, {"logging_strategy": "no"}, []),
        (None, {"eval_strategy": "steps", "eval_steps": 1}, [2, 4, 6]),  # an evaluation logs, too
    ],
)
def test_when_it_reports(tmp_path, interval, arguments, steps):
    reported = Reported()
    trainer = build_trainer("causal", tmp_path, reported, GradientNormCallback(interval), **arguments)
    seen = unclipped_gradients(trainer)
    trainer.train()
    check(reported, seen, steps)


def test_the_last_step_that_only_some_trainers_log_is_reported_by_them(tmp_path):
    reported = Reported()
    trainer = build_trainer("diffusion", tmp_path, reported, GradientNormCallback(), logging_steps=4)
    trainer.train()
    assert list(reported.measurements("gradients")) == [4, 6]


def test_training_again_reports_again_with_the_parameters_of_that_training(tmp_path):
    reported, callback = Reported(), GradientNormCallback(interval=4)
    build_trainer("causal", tmp_path / "a", callback).train()
    trainer = build_trainer("classifier", tmp_path / "b", reported, callback)
    seen = unclipped_gradients(trainer)
    trainer.train()
    check(reported, seen, [4])


def test_the_weights_after_training_are_the_same_bits_with_and_without(any_trainer):
    without = any_trainer(max_grad_norm=0.1)
    without.train()
    with_norms = any_trainer(GradientNormCallback(), max_grad_norm=0.1)
    with_norms.train()
    for (name, ours), theirs in zip(with_norms.model.named_parameters(), without.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_other_processes_than_world_zero_report_nothing(tmp_path):
    harness = Harness(tmp_path)
    harness.state.is_world_process_zero = False
    harness.backward()
    assert harness.report(grad_norm=1.0) is None


def test_an_interval_below_zero_is_an_error():
    with pytest.raises(UserError, match="-1"):
        GradientNormCallback(-1)


def test_a_model_split_over_several_types_is_summed_in_float32(tmp_path):
    harness = Harness(tmp_path)
    harness.backward()
    head = harness.model.lm_head.weight
    head.grad = None
    head.data = head.data.to(torch.float16)
    head.grad = torch.full_like(head, 200.0)  # its norm is more than float16 can sum
    assert harness.report()["grad_norm/head"] == pytest.approx(200.0 * head.numel() ** 0.5, rel=1e-6)


def test_parameters_that_are_unfrozen_later_have_their_share(make_trainer, tmp_path):
    class Unfreeze(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            for name, parameter in model.named_parameters():
                parameter.requires_grad_("lm_head" in name)

        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 3:
                model.requires_grad_(True)

    trainer = make_trainer(RunLogCallback(run_name="tiny"), GradientNormCallback(), Unfreeze(), logging_steps=1)
    trainer.train()
    norms = [record.metrics for record in load_run(tmp_path / "out").measurements if record.source == "gradients"]
    assert [set(metrics) == {"grad_norm/global", "grad_norm/head"} for metrics in norms] == [True] * 3 + [False] * 3
    last = norms[-1]
    assert last["grad_norm/head"] < last["grad_norm/global"]
    logged = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    assert last["grad_norm/global"] == pytest.approx(logged[-1], rel=1e-5)
