"""Statistics of the activations of each layer, from hooks that are there for one optimiser step."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from .device_fetch import DeviceFetch
from .histograms import Histogram, add_over_processes, keeper
from .parameter_groups import layer_label, layers_of, rounded

DEAD_BELOW = 1e-3
"""A unit of a smooth activation (SiLU, GELU) counts as dead whose magnitude stays below this."""
_EXACT_ZERO = ("ReLU", "ReLU6", "ReLUSquaredActivation")
_NO_ACTIVATIONS = ("MultiheadAttention", "Softmax", "Softmax2d", "LogSoftmax", "Softmin")
_HOMES = ("transformers.activations", "torch.nn.modules.activation")
_NO_MLP = ("attn", "attention", "mixer", "mamba", "expert")
Add = Callable[[torch.Tensor, torch.Tensor | None], None]


class ActivationHooks:
    """Watch the layers of a model during the forward passes of a step, of all its micro-batches.

    Counted are forward passes of the whole model in training mode with gradients; not evaluation, and not the second
    forward of activation checkpointing, which runs outside of the model's own. Positions count where the 2-D
    ``attention_mask`` is not 0; all do where there is none, and in an encoder-decoder. Sums stay on the device.

    Args:
        model: a model with layers, without its wrappers (:func:`unwrapped`); where it has none, nothing is reported.
        histograms: whether to keep histograms, too.
    """

    def __init__(self, model: nn.Module, histograms: bool) -> None:
        self.seconds = 0.0
        """Host seconds spent in the hooks so far."""
        self._inside = False
        self._mask: torch.Tensor | None = None
        self._two_masks = bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))
        layers = layers_of(model)
        self._layers = [_LayerSums(next(layer.parameters()).device, histograms) for layer in layers]
        self._handles = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, always_call=True),
        ]
        for sums, layer in zip(self._layers, layers, strict=True):
            self._handles.append(layer.register_forward_hook(self._watch(sums.add_output)))
            for place, module in enumerate(_mlp_activations(layer)):
                exact = type(module).__name__ in _EXACT_ZERO
                self._handles.append(module.register_forward_hook(self._watch(sums.adder_of_units(place, exact))))

    def remove(self) -> None:
        """Take the hooks off; harmless where that has been done."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def report(self, fetch: DeviceFetch, metrics: dict[str, Any], histograms: dict[str, Any]) -> None:
        """Ask for the numbers of all processes; every process must call this, and all get the same."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            for sums in self._layers:
                sums.reduce()
            add_over_processes([sums.histogram for sums in self._layers if sums.histogram], (dist.group.WORLD,))
        for place, sums in enumerate(self._layers):
            sums.report(fetch, f"activation/{layer_label(place)}", metrics, histograms)

    def _enter(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._inside = module.training and torch.is_grad_enabled()
        mask = kwargs.get("attention_mask")
        self._mask = None
        if self._inside and not self._two_masks and isinstance(mask, torch.Tensor) and mask.dim() == 2:
            self._mask = mask != 0

    def _leave(self, *_: Any) -> None:
        self._inside, self._mask = False, None

    def _watch(self, add: Add) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            values = output[0] if isinstance(output, (tuple, list)) else output
            if not self._inside or not isinstance(values, torch.Tensor):
                return
            start = time.perf_counter()
            with torch.no_grad():
                add(values.detach(), _counted(values, self._mask))
            self.seconds += time.perf_counter() - start

        return hook


class _LayerSums:
    """What is summed up of one layer, on its device."""

    def __init__(self, device: torch.device, histogram: bool) -> None:
        wide = torch.float32 if device.type == "mps" else torch.float64
        self.histogram = Histogram(device) if histogram else None
        self._sums_3 = torch.zeros(3, dtype=wide, device=device)  # count, sum, sum of squares
        self._largest = torch.zeros(1, device=device)
        self._units: dict[int, tuple[bool, torch.Tensor]] = {}  # of each activation function: greatest magnitudes

    def add_output(self, values: torch.Tensor, counted: torch.Tensor | None) -> None:
        """Add the (..., D) output of the layer, where ``counted`` (..., 1) is True."""
        values = values.float()
        kept = values if counted is None else values.where(counted, 0.0)
        self._sums_3[0] += values.numel() if counted is None else counted.sum() * values.shape[-1]
        self._sums_3[1] += kept.sum()
        self._sums_3[2] += kept.square().sum()
        self._largest = torch.maximum(self._largest, kept.abs().max())
        if self.histogram is not None:
            self.histogram.add(values, counted)

    def adder_of_units(self, place: int, exact: bool) -> Add:
        """Return what adds the (..., F) output of the activation function ``place`` of the MLP."""

        def add(values: torch.Tensor, counted: torch.Tensor | None) -> None:
            kept = values if counted is None else values.where(counted, 0.0)
            # One pass, no copy: these are the largest activations there are.
            largest_F = torch.linalg.vector_norm(kept.flatten(0, -2), math.inf, dim=0).float()
            if place in self._units:
                largest_F = torch.maximum(self._units[place][1], largest_F)
            self._units[place] = exact, largest_F

        return add

    def reduce(self) -> None:
        """Sum over all processes."""
        dist.all_reduce(self._sums_3)
        for largest in [self._largest, *(units_F for _, units_F in self._units.values())]:
            dist.all_reduce(largest, dist.ReduceOp.MAX)

    def report(self, fetch: DeviceFetch, name: str, metrics: dict[str, Any], histograms: dict[str, Any]) -> None:
        def tell(numbers: list[float]) -> None:
            count, total, squares, largest = numbers
            if count:
                metrics[f"{name}/mean"] = rounded(total / count)
                metrics[f"{name}/rms"] = rounded(math.sqrt(squares / count))
                metrics[f"{name}/max_abs"] = rounded(largest)

        fetch.add(torch.cat([self._sums_3, self._largest.to(self._sums_3)]), tell)
        if self._units:
            dead = torch.stack([_dead(exact, units_F).sum() for exact, units_F in self._units.values()])
            units = sum(len(units_F) for _, units_F in self._units.values())

            def tell_dead(numbers: list[float]) -> None:
                metrics[f"{name}/dead_share"] = rounded(sum(numbers) / units)

            fetch.add(dead, tell_dead)
        if self.histogram is not None:
            fetch.add(self.histogram.pack(), keeper(histograms, name))


def _dead(exact: bool, largest_F: torch.Tensor) -> torch.Tensor:
    return largest_F == 0 if exact else largest_F < DEAD_BELOW


def _counted(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor | None:
    """Return which positions of (..., D) values count, as (..., 1); None for all, as where positions are no more in rows."""
    if mask is None or mask.numel() != math.prod(values.shape[:-1]):
        return None
    return mask.reshape(values.shape[:-1]).unsqueeze(-1)


def _mlp_activations(layer: nn.Module) -> list[nn.Module]:
    """The activation functions of a layer's MLP. Those of experts are left out: which tokens they see is not known."""
    found = []
    for name, module in layer.named_modules():
        known = type(module).__module__ in _HOMES and type(module).__name__ not in _NO_ACTIVATIONS
        if known and not any(word in name.lower() for word in _NO_MLP):
            found.append(module)
    return found
