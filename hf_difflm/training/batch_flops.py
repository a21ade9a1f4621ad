"""Model FLOPs of a micro-batch: the sizes of the network, and what the objective asked of it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from ..flops.network import Architecture, training_flops
from ..objectives import Batch, ObjectiveOutput
from ..objectives.packed_documents import PIECES, Layout


class BatchFlops:
    """FLOPs of training on a batch, from host numbers alone.

    Args:
        model: the network; of families that :mod:`hf_difflm.flops.network` does not know, and of weights beside adapters,
            nothing is counted.
        networks: what the objective trains beside it; each knows ``training_flops(lengths, predicted)``.

    Attributes:
        of_optimizer: FLOPs of an optimiser step, by its number of micro-batches: those of Newton-Schulz, counted once
            though each process may compute them.
    """

    def __init__(self, model: Any, networks: nn.ModuleDict | None = None) -> None:
        config: Any = getattr(model, "config", None)
        # The backward pass of frozen weights is shorter, by how much depends on where adapters are: not counted.
        frozen = isinstance(model, nn.Module) and not all(p.requires_grad for p in model.parameters())
        known = hasattr(config, "to_dict") and not frozen
        self._architecture = Architecture.from_config(config.to_dict()) if known else None
        self.of_optimizer = 0.0
        self._networks: list[Any] = [] if networks is None else list(networks.values())

    def __call__(self, batch: Batch, output: ObjectiveOutput) -> float | None:
        """Return the model FLOPs of one forward and backward pass, with its share of the optimiser's; None if not known.

        Args:
            batch: on the host, see :data:`~hf_difflm.objectives.Batch`.
            output: tells at how many positions the head was needed.
        """
        if self._architecture is None:
            return None
        mask_BL = batch.get("attention_mask")
        rows, length = batch["input_ids"].shape
        if PIECES in batch:  # no token is compared with those of another document, whatever a kernel does
            lengths = Counter(Layout.of(batch[PIECES].numpy()).length_D.tolist())
        elif mask_BL is None or bool(mask_BL.all()):
            lengths = Counter({length: rows})
        else:
            lengths = Counter((mask_BL != 0).sum(-1).tolist())
        predicted = len(output.rows_N)
        beside = sum(network.training_flops(lengths, predicted) for network in self._networks)
        return training_flops(self._architecture, lengths, predicted, output.reads) + beside + self.of_optimizer
