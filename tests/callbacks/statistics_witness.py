"""An own reckoning of the statistics of a step, from a copy of the model that does the step again."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from reported import Reported, labels_of, norms_by_name
from transformers import TrainerCallback

from hf_difflm.callbacks.measuring.histograms import BINS


def counted_by_numpy(found: dict, numbers: np.ndarray) -> list[int]:
    """The edges are multiples of a power of two, so that float64 knows the bin of every float32 exactly."""
    width = (found["high"] - found["low"]) / BINS
    bins = np.floor(numbers.astype(np.float64) / width) - np.floor(found["low"] / width)
    return np.bincount(bins.astype(int), minlength=BINS).tolist()


class Witness(TrainerCallback):
    """Keep a copy of the model before each step, the inputs of its forward passes, and the weights after it."""

    def __init__(self) -> None:
        self.before: dict[int, torch.nn.Module] = {}
        self.inputs: dict[int, list[dict[str, Any]]] = {}
        self.after: dict[int, dict[str, torch.Tensor]] = {}
        self._handle: Any = None

    def on_step_begin(self, args, state, control, model, **kwargs):
        step = state.global_step + 1
        self.before[step], self.inputs[step] = copy.deepcopy(model), []

        def keep(module, positional, named):
            inputs = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in named.items()}
            self.inputs[step].append(inputs)

        self._handle = model.register_forward_pre_hook(keep, with_kwargs=True)

    def on_step_end(self, args, state, control, model, **kwargs):
        self._handle.remove()
        self.after[state.global_step] = {name: p.detach().clone() for name, p in model.named_parameters()}


def layers(model: torch.nn.Module) -> Any:
    if hasattr(model, "bert"):
        return model.bert.encoder.layer
    return (model.backbone if hasattr(model, "backbone") else model.model).layers


def activations(witness: Witness, step: int) -> list[dict[str, np.ndarray]]:
    """For each layer the (N, D) outputs and (N, F) MLP units at the N tokens of a step that are no padding.

    The step is done again on a copy, whose modules' ``forward`` are wrapped.
    """
    model = witness.before[step]
    found: list[dict[str, list[torch.Tensor]]] = []
    mask: list[torch.Tensor | None] = [None]

    def keep_from(module: torch.nn.Module, kept: list[torch.Tensor]) -> None:
        forward = module.forward

        def forward_and_keep(*args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            values = output[0] if isinstance(output, tuple) else output
            kept.append(
                values.detach().float()[mask[0]] if mask[0] is not None else values.detach().float().flatten(0, 1)
            )
            return output

        module.forward = forward_and_keep

    for layer in layers(model):
        found.append({"output": [], "units": []})
        keep_from(layer, found[-1]["output"])
        act = layer.intermediate.intermediate_act_fn if hasattr(layer, "intermediate") else layer.mlp.act_fn
        keep_from(act, found[-1]["units"])
    for inputs in witness.inputs[step]:
        attention = inputs.get("attention_mask")
        mask[0] = None if attention is None else attention.bool()
        with torch.no_grad():
            model(**inputs)
    return [{name: torch.cat(parts).numpy() for name, parts in layer.items()} for layer in found]


def check(reported: Reported, witness: Witness, steps: list[int], relu: bool = False, rel: float = 1e-5) -> None:
    measured = reported.measurements("statistics")
    assert list(measured) == steps
    for step, record in measured.items():
        assert record.metrics == pytest.approx(expected_metrics(witness, step, relu), rel=rel, abs=1e-7), step
        check_histograms(record.histograms, witness, step, exact=rel <= 1e-5)


def expected_metrics(witness: Witness, step: int, relu: bool) -> dict[str, float]:
    before, after = dict(witness.before[step].named_parameters()), witness.after[step]
    expected = norms_by_name("param_norm", after)
    trained = {name: weight.detach() for name, weight in before.items() if weight.requires_grad}
    moved = norms_by_name("m", {name: after[name].double() - weight.double() for name, weight in trained.items()})
    for name, norm in norms_by_name("m", trained).items():
        expected[name.replace("m/", "update_ratio/")] = moved[name] / norm
    for place, layer in enumerate(activations(witness, step)):
        output, units = layer["output"].astype(np.float64), np.abs(layer["units"])
        expected[f"activation/layer_{place:02d}/mean"] = output.mean()
        expected[f"activation/layer_{place:02d}/rms"] = math.sqrt((output**2).mean())
        expected[f"activation/layer_{place:02d}/max_abs"] = np.abs(output).max()
        dead = (units == 0).all(0) if relu else (units < 1e-3).all(0)
        expected[f"activation/layer_{place:02d}/dead_share"] = dead.mean()
    return expected


def check_histograms(histograms: dict[str, Any], witness: Witness, step: int, exact: bool) -> None:
    expected: dict[str, list[np.ndarray]] = {}
    for name, weight in witness.after[step].items():
        expected.setdefault(f"weights/{labels_of(name)[1]}", []).append(weight.numpy().ravel())
    for place, layer in enumerate(activations(witness, step)):
        expected[f"activation/layer_{place:02d}"] = [layer["output"].ravel()]
    assert set(histograms) == set(expected)
    for name, parts in expected.items():
        numbers = np.concatenate(parts)
        assert sum(histograms[name]["counts"]) == numbers.size
        # A step that is done again rounds as the first time, unless its micro-batches were otherwise.
        if exact or name.startswith("weights"):
            assert histograms[name]["counts"] == counted_by_numpy(histograms[name], numbers), name


def without_dropout(trainer: Any) -> Any:
    """So that a step can be done again."""
    for module in trainer.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return trainer
