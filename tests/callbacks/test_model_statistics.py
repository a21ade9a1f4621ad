"""The statistics of weights and activations are those of an own reckoning in plain torch, and change no training."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from any_trainer import build_trainer
from reported import Reported, norms_by_name
from statistics_witness import Witness, check, layers, without_dropout
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback

from hf_difflm.callbacks import RunLogCallback, model_statistics
from hf_difflm.callbacks.model_statistics import ModelStatisticsCallback
from hf_difflm.errors import UserError
from hf_difflm.runs import load_run


@pytest.mark.parametrize("accumulation", [1, 4])
def test_statistics_are_those_of_plain_torch_in_any_trainer(any_trainer, accumulation):
    reported, witness = Reported(), Witness()
    trainer = any_trainer(
        reported,
        witness,
        ModelStatisticsCallback(4),
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=4 // accumulation,
        max_grad_norm=0.1,
    )
    without_dropout(trainer).train()
    assert len(witness.inputs[4]) == accumulation
    check(reported, witness, [4, 6])


def test_padding_does_not_count(tmp_path):
    reported, witness = Reported(), Witness()
    trainer = build_trainer("classifier", tmp_path, reported, witness, ModelStatisticsCallback(2))
    trainer.train_dataset = [
        {"input_ids": [256, *range(97, 98 + place % 9)], "attention_mask": [1] * (2 + place % 9), "labels": place % 3}
        for place in range(24)
    ]
    without_dropout(trainer).train()
    assert any((inputs["attention_mask"] == 0).any() for inputs in witness.inputs[2])
    check(reported, witness, [2, 4, 6])


def test_units_of_relu_are_dead_where_they_are_exactly_zero(tmp_path):
    reported, witness = Reported(), Witness()
    trainer = build_trainer("classifier", tmp_path, reported, witness, ModelStatisticsCallback(6))
    config = BertConfig(
        vocab_size=260,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        hidden_act="relu",
        num_labels=3,
    )
    trainer.model = trainer.model_wrapped = BertForSequenceClassification(config)
    with torch.no_grad():
        trainer.model.bert.encoder.layer[0].intermediate.dense.bias[:8] = -1e4
        trainer.model.bert.encoder.layer[1].intermediate.dense.bias[:] = 1e2
        trainer.model.bert.encoder.layer[1].intermediate.dense.bias[3] = -1e4
    without_dropout(trainer).train()
    check(reported, witness, [6], relu=True)
    metrics = reported.measurements("statistics")[6].metrics
    assert metrics["activation/layer_00/dead_share"] >= 8 / 32
    assert metrics["activation/layer_01/dead_share"] == 1 / 32


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_does_not_count_twice(tmp_path, reentrant):
    reported, witness = Reported(), Witness()
    trainer = build_trainer(
        "causal",
        tmp_path,
        reported,
        witness,
        ModelStatisticsCallback(3),
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        gradient_accumulation_steps=2,
    )
    calls = count_calls(layers(trainer.model)[0].mlp.act_fn)
    trainer.train()
    assert len(calls) == 6 * 2 * 2  # it did run twice
    check(reported, witness, [3, 6])


def test_where_an_engine_keeps_the_weights_the_activations_alone_are_reported(tmp_path, caplog):
    reported = Reported()
    trainer = build_trainer("causal", tmp_path, reported, ModelStatisticsCallback(3))
    for parameter in trainer.model.parameters():
        parameter.ds_id = 0  # the mark of ZeRO-3
    with caplog.at_level(logging.WARNING, logger=model_statistics.__name__):
        trainer.train()
    assert [record.name for record in caplog.records].count(model_statistics.__name__) == 1
    for record in reported.measurements("statistics").values():
        assert {name.split("/")[0] for name in record.metrics} == {"activation"}


def count_calls(module: torch.nn.Module) -> list[int]:
    calls: list[int] = []
    forward = module.forward

    def forward_and_count(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return forward(*args, **kwargs)

    module.forward = forward_and_count
    return calls


def test_evaluation_does_not_count(tmp_path):
    reported, witness = Reported(), Witness()
    callback = ModelStatisticsCallback(2)
    trainer = build_trainer("causal", tmp_path, reported, witness, callback, eval_strategy="steps", eval_steps=1)

    class EvaluatesWithinTheStep(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            ids_BL = torch.full((2, 5), 97)
            with torch.no_grad():
                model(input_ids=ids_BL)  # as a metric in training mode
            model.eval()
            model(input_ids=ids_BL)
            model.train()
            witness.inputs[state.global_step + 1] = witness.inputs[state.global_step + 1][:1]

    trainer.add_callback(EvaluatesWithinTheStep())
    trainer.train()
    check(reported, witness, [2, 4, 6])


def test_frozen_weights_have_norms_and_no_updates(tmp_path):
    reported, witness = Reported(), Witness()
    trainer = build_trainer("causal", tmp_path, reported, witness, ModelStatisticsCallback(3))
    trainer.model.model.embed_tokens.requires_grad_(False)
    trainer.train()
    check(reported, witness, [3, 6])
    metrics = reported.measurements("statistics")[3].metrics
    assert "param_norm/embeddings" in metrics
    assert "update_ratio/embeddings" not in metrics


def test_bfloat16_autocast_and_weights(tmp_path):
    for name, arguments in (("autocast", {"bf16": True}), ("weights", {})):
        reported, witness = Reported(), Witness()
        callback = ModelStatisticsCallback(3)
        trainer = build_trainer("causal", tmp_path / name, reported, witness, callback, **arguments)
        if name == "weights":
            trainer.model.to(torch.bfloat16)
        trainer.train()
        record = reported.measurements("statistics")[3]
        after = norms_by_name("param_norm", {key: value.float() for key, value in witness.after[3].items()})
        assert {key: record.metrics[key] for key in after} == pytest.approx(after, rel=1e-5)
        assert record.metrics["activation/layer_01/rms"] > 0


def test_weights_that_are_not_finite_are_null_in_the_log_and_left_out_of_histograms(tmp_path):
    class Breaks(TrainerCallback):
        def on_optimizer_step(self, args, state, control, model, **kwargs):
            if state.global_step == 5:
                with torch.no_grad():
                    model.model.layers[0].mlp.up_proj.weight[0, 0] = math.nan
                    model.model.layers[0].mlp.up_proj.weight[0, 1] = math.inf

    trainer = build_trainer("causal", tmp_path, RunLogCallback(run_name="a"), Breaks(), ModelStatisticsCallback(6))
    trainer.train()
    (record,) = load_run(tmp_path).measurements
    unknown = {f"{kind}/{part}" for kind in ("param_norm", "update_ratio") for part in ("global", "mlp", "layer_00")}
    assert {name for name, value in record.metrics.items() if value is None} == unknown
    assert set(record.nonfinite) == {f"metrics.{name}" for name in unknown}
    size = sum(p.numel() for name, p in trainer.model.named_parameters() if "mlp" in name)
    assert sum(record.histograms["weights/mlp"]["counts"]) == size - 2


@pytest.mark.parametrize(
    ("interval", "arguments", "steps"),
    [(4, {}, [4, 6]), (3, {}, [3, 6]), (500, {}, [6]), (0, {}, []), (4, {"logging_strategy": "no"}, [4, 6])],
)
def test_when_it_reports_and_that_no_hook_stays(tmp_path, interval, arguments, steps):
    class Counts(TrainerCallback):
        def __init__(self) -> None:
            self.hooks: dict[tuple[int, str], int] = {}

        def count(self, model: torch.nn.Module) -> int:
            return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            self.hooks[state.global_step + 1, "within"] = self.count(model)

        def on_step_end(self, args, state, control, model, **kwargs):
            self.hooks[state.global_step, "after"] = self.count(model)

    reported, counts = Reported(), Counts()
    trainer = build_trainer("causal", tmp_path, reported, ModelStatisticsCallback(interval), counts, **arguments)
    own = counts.count(trainer.model)
    trainer.train()
    assert list(reported.measurements("statistics")) == steps
    for (step, when), hooks in counts.hooks.items():
        assert (hooks > own) == (step in steps and when == "within"), (step, when)
    assert {what for what, _ in reported.left_out} == ({"statistics"} if steps else set())
    assert all(seconds >= 0 for _, seconds in reported.left_out)


def test_the_weights_after_training_are_the_same_bits_with_and_without(any_trainer):
    without = any_trainer()
    without.train()
    with_statistics = any_trainer(ModelStatisticsCallback(2))
    with_statistics.train()
    for (name, ours), theirs in zip(with_statistics.model.named_parameters(), without.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_histograms_can_be_left_out(tmp_path):
    reported = Reported()
    build_trainer("causal", tmp_path, reported, ModelStatisticsCallback(6, histograms=False)).train()
    assert reported.measurements("statistics")[6].histograms is None


def test_under_torch_compile_the_weights_alone_are_reported_and_that_is_said_once(tmp_path, caplog):
    reported = Reported()
    arguments = {"torch_compile": True, "torch_compile_backend": "eager", "max_steps": 3}
    trainer = build_trainer("causal", tmp_path, reported, ModelStatisticsCallback(2), **arguments)
    with caplog.at_level(logging.WARNING, logger=model_statistics.__name__):
        trainer.train()
    assert len([record for record in caplog.records if record.name == model_statistics.__name__]) == 1
    for record in reported.measurements("statistics").values():
        assert {name.split("/")[0] for name in record.metrics} == {"param_norm", "update_ratio"}


def test_training_again_after_an_error_within_a_step_leaves_no_hook_of_before(tmp_path):
    class Fails(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            raise RuntimeError("out of memory")

    callback = ModelStatisticsCallback(1)
    failing = build_trainer("causal", tmp_path / "a", callback, Fails())
    with pytest.raises(RuntimeError, match="out of memory"):
        failing.train()
    build_trainer("causal", tmp_path / "b", callback).train()
    assert not any(module._forward_hooks for module in failing.model.modules())


def test_an_interval_below_zero_is_an_error():
    with pytest.raises(UserError, match="-1"):
        ModelStatisticsCallback(-1)
