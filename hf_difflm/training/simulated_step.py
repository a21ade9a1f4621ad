"""One training step and one evaluation step on tensors without memory: what a real step would allocate, and when.

The network, the objective and autograd are the real ones; only the tensors are fake (shapes and types, no numbers). So the
answer holds for any backbone, with or without activation checkpointing, and takes seconds for hundreds of millions of
parameters. What a CPU would run is what is counted; attention without materialised scores (sdpa) is the same on a GPU.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import convert_outputs_to_fp32
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..objectives import CausalObjective, MaskedDiffusionObjective, NoiseKey, Objective
from ..objectives.masked_diffusion import Corruption


@dataclass(frozen=True)
class Peak:
    """Bytes at the moment of a step at which most are in use; the parameters are not among them.

    Args:
        total: of all that the step allocated.
        gradients: of those, the gradients of the parameters.
        logits: of those, tensors with one number for each head position and token of the vocabulary.
        saved: all that is kept for the backward pass at the end of the forward pass.
    """

    total: int
    gradients: int
    logits: int
    saved: int

    @property
    def activations(self) -> int:
        """What is neither gradients nor logits: what the backward pass needs, and working memory."""
        return self.total - self.gradients - self.logits


class SimulatedNetwork:
    """A network on tensors without memory.

    Args:
        build: makes the network; called where nothing is allocated.
        dtype: type of its weights; bfloat16 where a sharding engine keeps them in it.
        autocast: whether the forward pass computes in bfloat16 with float32 weights.
    """

    def __init__(self, build: Callable[[], Any], dtype: torch.dtype = torch.float32, autocast: bool = False) -> None:
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._autocast = autocast
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # a fake tensor cannot be given another type later
        try:
            with self._mode:
                self.model = build()
        finally:
            torch.set_default_dtype(usual)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.num_parameters = sum(p.numel() for p in self.parameters)

    def block_sizes(self) -> tuple[int, int]:
        """Return the parameters of its largest layer, and of all that lies outside the layers."""
        names = set(getattr(self.model, "_no_split_modules", None) or ())
        blocks = [module for module in self.model.modules() if type(module).__name__ in names]
        sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
        return max(sizes, default=0), self.num_parameters - sum(sizes)

    def training_peak(self, rows: int, length: int, labelled: int, *, checkpointing: bool, accumulates: bool) -> Peak:
        """Simulate the forward and backward pass of one micro-batch.

        Args:
            rows, length: of the micro-batch, in sequences and tokens.
            labelled: positions at which masked diffusion has a loss, in the whole micro-batch.
            checkpointing: recompute activations in the backward pass.
            accumulates: whether the gradients of an earlier micro-batch are there already.
        """
        self.model.train()
        if checkpointing:
            _switch(self.model, "activation_checkpointing_enable", "gradient_checkpointing_enable")
        else:
            _switch(self.model, "activation_checkpointing_disable", "gradient_checkpointing_disable")
        for p in self.parameters:
            p.grad = None
        with self._allocations(rows, length, labelled) as seen:
            if accumulates:
                for p in self.parameters:
                    p.grad = torch.zeros_like(p)
                    seen.gradients += p.grad.untyped_storage().nbytes()
            loss = self._loss(rows, length, labelled, accuracy=False)
            saved = seen.live - seen.gradients
            hooks = []
            if not accumulates:
                hooks = [p.register_post_accumulate_grad_hook(seen.note_gradient) for p in self.parameters]
            loss.backward()
            for hook in hooks:
                hook.remove()
        return Peak(seen.peak, seen.gradients_at_peak, seen.logits_at_peak, saved)

    def evaluation_peak(self, rows: int, length: int, labelled: int) -> Peak:
        """The same for a forward pass alone, with the accuracy."""
        self.model.eval()
        with self._allocations(rows, length, labelled) as seen, torch.no_grad():
            self._loss(rows, length, labelled, accuracy=True)
        return Peak(seen.peak, 0, seen.logits_at_peak, 0)

    @contextmanager
    def _allocations(self, rows: int, length: int, labelled: int) -> Iterator[_Allocations]:
        heads = {labelled, rows * length}
        seen = _Allocations(self.model.config.vocab_size, heads, [*self.model.parameters(), *self.model.buffers()])
        with seen:
            yield seen

    def _loss(self, rows: int, length: int, labelled: int, *, accuracy: bool) -> torch.Tensor:
        mask_id = getattr(self.model.config, "mask_token_id", None)
        objective: Objective = CausalObjective() if mask_id is None else _CountedMasks(mask_id, labelled)
        ids_BL = torch.zeros(rows, length, dtype=torch.long)
        labels_BL = ids_BL.clone()
        labels_BL[:, 0] = -100
        key = NoiseKey(0, 0, np.arange(rows), rows)
        return objective(self._call, {"input_ids": ids_BL, "labels": labels_BL}, key, 1, accuracy=accuracy).loss

    def _call(self, **inputs: Any) -> Any:
        def forward(**fake: Any) -> Any:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
                return self.model(**fake)

        with self._mode:
            fake = {
                name: self._mode.from_tensor(value) if isinstance(value, torch.Tensor) else value
                for name, value in inputs.items()
            }
            # Mixed precision of the Trainer hands its outputs on in float32.
            return convert_outputs_to_fp32(forward)(**fake) if self._autocast else forward(**fake)


class _CountedMasks(MaskedDiffusionObjective):
    """Masks as many positions of the micro-batch as it is told, whatever the noise."""

    def __init__(self, mask_token_id: int, labelled: int) -> None:
        super().__init__(mask_token_id)
        self._labelled = labelled

    def corrupt(self, scored_BL: np.ndarray, key: NoiseKey) -> Corruption:
        order_M = np.cumsum(scored_BL.ravel()).reshape(scored_BL.shape)
        ones_B = np.ones(len(scored_BL))
        return Corruption(scored_BL & (order_M <= self._labelled), ones_B, ones_B, ones_B)


class _Allocations(TorchDispatchMode):
    """Counts the bytes of the storages that operations make and that are still referred to."""

    def __init__(self, vocabulary: int, head_positions: set[int], given: list[torch.Tensor]) -> None:
        super().__init__()
        self.live = self.peak = self.gradients = self.logits = 0
        self.gradients_at_peak = self.logits_at_peak = 0
        self._vocabulary, self._head_positions = vocabulary, head_positions
        self._known = {_address(tensor) for tensor in given}

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and _address(tensor) not in self._known:
                self._add(tensor)
        return result

    def note_gradient(self, parameter: torch.Tensor) -> None:
        if parameter.grad is not None:
            self.gradients += parameter.grad.untyped_storage().nbytes()

    def _add(self, tensor: torch.Tensor) -> None:
        storage, address = tensor.untyped_storage(), _address(tensor)
        size = storage.nbytes()
        has_logits = (
            tensor.ndim > 1
            and tensor.shape[-1] == self._vocabulary
            and tensor.numel() // self._vocabulary in self._head_positions
        )
        logits = size if has_logits else 0
        self._known.add(address)
        weakref.finalize(storage, self._remove, address, size, logits)
        self.live += size
        self.logits += logits
        if self.live > self.peak:
            self.peak, self.gradients_at_peak, self.logits_at_peak = self.live, self.gradients, self.logits

    def _remove(self, address: int, size: int, logits: int) -> None:
        self._known.discard(address)
        self.live -= size
        self.logits -= logits


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _switch(model: Any, *names: str) -> None:
    """Call the first of the methods that the model has: transformers renamed them."""
    next(getattr(model, name) for name in names if hasattr(model, name))()
