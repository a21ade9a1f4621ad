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
import torch.nn.functional as F
from accelerate.utils import convert_outputs_to_fp32
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...models.masked_diffusion.labelled_head import chunk_rows
from ...objectives import (
    AdaptiveSettings,
    BlockDiffusionObjective,
    CausalObjective,
    MaskedDiffusionObjective,
    NoiseKey,
    Objective,
)
from ...objectives.adaptive.objective import make_networks
from ...objectives.block_diffusion import BlockCorruption
from ...objectives.masked_diffusion import Corruption
from .simulated_adaptive import SimulatedAdaptive, first_scored


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
        adaptive: what is adaptive, where that is what trains it.
    """

    def __init__(
        self,
        build: Callable[[], Any],
        dtype: torch.dtype = torch.float32,
        autocast: bool = False,
        adaptive: AdaptiveSettings | None = None,
    ) -> None:
        self._adaptive = adaptive
        self.networks: nn.ModuleDict | None = None
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self._autocast = autocast
        usual = torch.get_default_dtype()
        torch.set_default_dtype(dtype)  # a fake tensor cannot be given another type later
        try:
            with self._mode:
                self.model = build()
                torch.set_default_dtype(usual)
                if adaptive is not None:
                    config = self.model.config
                    self.networks = make_networks(adaptive, config.hidden_size, config.num_attention_heads)
        finally:
            torch.set_default_dtype(usual)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.num_parameters = sum(p.numel() for p in self.parameters)
        self.num_frozen = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)  # beside adapters
        beside = [] if self.networks is None else list(self.networks.parameters())
        self.num_beside = sum(p.numel() for p in beside)  # of the networks that the objective trains
        self.parameters += beside

        self.chunk_head(0)

    def chunk_head(self, rows: int) -> None:
        """Let the LM head take so many labelled positions at once; 0: all."""
        self._head_chunk_rows = self.model.head_chunk_rows = rows

    def block_sizes(self) -> tuple[int, int]:
        """Return the parameters of its largest layer, and of all that lies outside the layers."""
        names = set(getattr(self.model, "_no_split_modules", None) or ())
        blocks = [module for module in self.model.modules() if type(module).__name__ in names]
        sizes = [sum(p.numel() for p in block.parameters()) for block in blocks]
        return max(sizes, default=0), self.num_parameters - sum(sizes)

    def training_peak(
        self, rows: int, length: int, labelled: int, *, checkpointing: bool, accumulates: bool, reads: int = 1
    ) -> Peak:
        """Simulate the forward and backward pass of one micro-batch.

        Args:
            rows, length: of the micro-batch, in sequences and tokens.
            labelled: positions at which masked diffusion has a loss, in the whole micro-batch.
            reads: how many times each sequence is read with masks.
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
        with self._allocations(rows * reads, length, labelled) as seen:
            if accumulates:
                for p in self.parameters:
                    p.grad = torch.zeros_like(p)
                    seen.gradients += p.grad.untyped_storage().nbytes()
            loss = self._loss(rows, length, labelled, accuracy=False, reads=reads)
            assert loss is not None
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
            self._loss(rows, length, labelled, accuracy=True, native=False)
            self._loss(rows, length, labelled, accuracy=True, native=True)
        return Peak(seen.peak, 0, seen.logits_at_peak, 0)

    @contextmanager
    def _allocations(self, rows: int, length: int, labelled: int) -> Iterator[_Allocations]:
        chunk = chunk_rows(labelled, self.model.config.vocab_size, torch.device("cpu"), self._head_chunk_rows)
        heads = {labelled, chunk, rows * length}
        modules = [self.model] if self.networks is None else [self.model, self.networks]
        given = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
        seen = _Allocations(self.model.config.vocab_size, heads, given)
        with seen:
            yield seen

    def _objective(self, labelled: int, reads: int) -> Objective:
        config = self.model.config
        if getattr(config, "mask_token_id", None) is None:
            return CausalObjective()
        if config.diffusion_block_size is not None:
            return _CountedBlocks(config, labelled, reads)
        p0 = _CountedMasks(config.mask_token_id, labelled)
        if self._adaptive is None:
            return p0
        return SimulatedAdaptive(p0, self._adaptive, config.vocab_size, self.networks, labelled, self._estimate)

    def _loss(
        self, rows: int, length: int, labelled: int, *, accuracy: bool, native: bool | None = None, reads: int = 1
    ) -> torch.Tensor | None:
        """The loss of a step; in an evaluation that of what is reported, or of the native bound if there is one."""
        objective: Objective | None = self._objective(labelled, reads)
        assert objective is not None
        if native is not None:
            objective = objective.native(0) if native else objective.for_evaluation()
        if objective is None:
            return None
        if not isinstance(objective, _CountedBlocks):  # which has its clean text read once
            rows = rows * reads
        ids_BL = torch.zeros(rows, length, dtype=torch.long)
        labels_BL = ids_BL.clone()
        labels_BL[:, 0] = -100
        key = NoiseKey(0, 0, np.arange(rows), rows)
        return objective(self._call, {"input_ids": ids_BL, "labels": labels_BL}, key, 1, accuracy=accuracy).loss

    def _estimate(self, ids_BL: torch.Tensor) -> torch.Tensor:
        assert self.networks is not None
        with self._mode, torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
            weight_VD = self.model.get_input_embeddings().weight.detach()
            return self.networks["importance"](F.embedding(self._mode.from_tensor(ids_BL), weight_VD))

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
        ones_B = np.ones(len(scored_BL))
        return Corruption(first_scored(scored_BL, self._labelled), ones_B, ones_B, ones_B)

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> MaskedDiffusionObjective:
        return self


class _CountedBlocks(BlockDiffusionObjective):
    """The same with diffusion blocks."""

    def __init__(self, config: Any, labelled: int, reads: int) -> None:
        sampling = "pairs" if reads > 1 else "stratified"
        size, start = config.diffusion_block_size, config.diffusion_block_start
        super().__init__(config.mask_token_id, size, sampling, start)
        self._labelled = labelled

    def corrupt(
        self, scored_BL: np.ndarray, key: NoiseKey, attention_mask: np.ndarray | None = None, size: int | None = None
    ) -> BlockCorruption:
        masked_RL = first_scored(scored_BL.repeat(self.reads, axis=0), self._labelled)
        ones_P = np.ones(1)
        return BlockCorruption(masked_RL, np.ones(masked_RL.shape), np.zeros(masked_RL.shape, int), ones_P, ones_P)

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> BlockDiffusionObjective:
        return self


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
