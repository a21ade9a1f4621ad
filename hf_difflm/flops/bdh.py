"""Model FLOPs of BDH (arXiv 2509.26507), whose attention is among neurons and whose values are the residual stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class BdhArchitecture:
    """The sizes of a BDH model that decide its FLOPs.

    Args:
        width: of the residual stream.
        heads: that each read the whole residual stream.
        neurons: of all heads together.
        layers: how often the one block is applied.
        vocabulary: columns of the LM head.
        causal: whether a position sees those before it alone, or all others.
    """

    width: int
    heads: int
    neurons: int
    layers: int
    vocabulary: int
    causal: bool = True

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> BdhArchitecture:
        """Return the architecture in the dict of a BDH configuration."""
        width = config["hidden_size"]
        return cls(
            width=width,
            heads=config["num_attention_heads"],
            neurons=config.get("intermediate_size") or 128 * width,
            layers=config["num_hidden_layers"],
            vocabulary=config["vocab_size"],
            causal=config.get("is_causal", True),
        )

    def forward_flops(self, length: int, labelled: float, reads: int = 1) -> float:
        """Return the FLOPs of the forward passes over one sequence, its attention as pairs of positions.

        Args:
            length: tokens of the sequence.
            labelled: positions at which the LM head is needed.
            reads: how many times it is read.
        """
        matrices = 2 * self.width * self.neurons * 3  # two encoders and the decoder
        pairs = length * (length - 1) // (2 if self.causal else 1)  # none with itself
        attention = 2 * (self.neurons + self.heads * self.width) * pairs
        return reads * self.layers * (length * matrices + attention) + labelled * 2 * self.width * self.vocabulary
