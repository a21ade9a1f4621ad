"""Model FLOPs of the diffusion transformer of MDLM (arXiv 2406.07524): its blocks, attention in both directions, its head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class DiTArchitecture:
    """The sizes of a DiT that decide its FLOPs.

    What its norms are modulated by is computed once for a whole batch, however many sequences it has, and is left out: less
    than one ten-thousandth of the published network's FLOPs.

    Args:
        width: of the residual stream.
        feed_forward: inner width of the feed-forward layers.
        layers: blocks.
        vocabulary: columns of the LM head.
    """

    width: int
    feed_forward: int
    layers: int
    vocabulary: int
    causal = False

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DiTArchitecture:
        """Return the architecture in the dict of a DiT configuration."""
        width = config["hidden_size"]
        return cls(
            width=width,
            feed_forward=config.get("intermediate_size") or 4 * width,
            layers=config["num_hidden_layers"],
            vocabulary=config["vocab_size"],
        )

    def forward_flops(self, length: int, labelled: float, reads: int = 1) -> float:
        """Return the FLOPs of the forward passes over one sequence.

        Args:
            length: tokens of the sequence.
            labelled: positions at which the LM head is needed.
            reads: how many times it is read.
        """
        matrices = 2 * self.width * (4 * self.width + 2 * self.feed_forward)  # q, k, v, o; up, down
        attention = 4 * self.width * length**2
        return reads * self.layers * (length * matrices + attention) + labelled * 2 * self.width * self.vocabulary
