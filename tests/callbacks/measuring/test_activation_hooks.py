"""The hooks count each position once, and wait for no device."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from any_trainer import build_trainer
from torch.utils._python_dispatch import TorchDispatchMode

from hf_difflm.callbacks.measuring import histograms
from hf_difflm.callbacks.measuring.activation_hooks import ActivationHooks
from hf_difflm.callbacks.measuring.device_fetch import DeviceFetch


class Blocks(torch.nn.Module):
    """Layers that are called, hooks and all, within a checkpoint."""

    class Block(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.act, self.down = torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)

        def forward(self, x_BLD):
            return self.down(self.act(self.up(x_BLD)))

    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([self.Block(), self.Block()])
        self.reentrant = reentrant

    def forward(self, x_BLD, attention_mask=None):
        for layer in self.layers:
            x_BLD = torch.utils.checkpoint.checkpoint(layer, x_BLD, use_reentrant=self.reentrant)
        return x_BLD


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_layer_whose_hooks_run_again_in_the_backward_pass_counts_once(reentrant):
    torch.manual_seed(0)
    model = Blocks(reentrant).train()
    hooks, fetch = ActivationHooks(model, histograms=True), DeviceFetch()
    x_BLD = torch.randn(2, 5, 3, requires_grad=True)
    mask_BL = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    model(x_BLD, attention_mask=mask_BL).sum().backward()
    metrics: dict[str, Any] = {}
    counted: dict[str, Any] = {}
    hooks.report(fetch, metrics, counted)
    fetch.run()
    hooks.remove()
    units = model.layers[0].act(model.layers[0].up(x_BLD))
    output = model.layers[0].down(units)[mask_BL.bool()]
    assert sum(counted["activation/layer_00"]["counts"]) == 7 * 3
    assert metrics["activation/layer_00/rms"] == pytest.approx(output.square().mean().sqrt().item(), rel=1e-5)
    dead = (units[mask_BL.bool()] == 0).all(0).float().mean().item()
    assert metrics["activation/layer_00/dead_share"] == pytest.approx(dead)


def test_the_hooks_ask_the_device_for_no_number(tmp_path, monkeypatch):
    class Watch(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.calls.append(str(function))
            return function(*args, **(kwargs or {}))

    monkeypatch.setattr(histograms, "may_wait_for", lambda device: False)  # as for any device but a CPU
    model = build_trainer("causal", tmp_path).model.train()
    ids_BL = torch.arange(24).view(2, 12)

    def waits() -> tuple[int, int]:
        with Watch() as watch:
            model(input_ids=ids_BL, attention_mask=torch.ones_like(ids_BL))
        asked = sum("_local_scalar_dense" in call or "nonzero" in call for call in watch.calls)
        return asked, sum("histc" in call for call in watch.calls)

    without = waits()
    hooks = ActivationHooks(model, histograms=True)
    within = waits()
    hooks.remove()
    assert within == (without[0], 2)  # the model itself may ask for some
