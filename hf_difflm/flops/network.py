"""Model FLOPs: the floating-point operations that architecture and objective require, and nothing else.

Counted are the matrix products, a multiplication and an addition as 2 (the convention of PaLM, arXiv 2204.02311, appendix
B); the backward pass is twice the forward pass. Not counted is what a machine does beyond that: recomputation by activation
checkpointing, masked-out attention, logits nobody asked for. Embedding look-ups, norms and activations are no products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .bdh import BdhArchitecture
from .dit import DiTArchitecture

# Feed-forward layers with three matrices (gate, up, down), and with two.
_GATED = "llama mistral qwen2 qwen3 gemma gemma2 olmo2 phi3 smollm3 ernie4_5 granite cohere stablelm modernbert"
_PLAIN = "gpt2 gpt_neox bert phi starcoder2"
FAMILIES = {**dict.fromkeys(_GATED.split(), True), **dict.fromkeys(_PLAIN.split(), False)}
"""Model types of transformers whose layers are known, and whether their feed-forward layer is gated."""
# No causal mask, and a masked-LM head that multiplies each hidden state with one more matrix before the vocabulary's.
_ENCODERS = {"bert", "modernbert"}


@dataclass(frozen=True)
class Architecture:
    """The sizes of a transformer that decide its FLOPs.

    Args:
        width: of the residual stream.
        heads, kv_heads, head_dim: of the attention; fewer ``kv_heads`` than ``heads`` share keys and values.
        feed_forward: inner width of the feed-forward layers.
        gated: whether they have three matrices instead of two.
        vocabulary: columns of the LM head; that it may share the embedding matrix saves no FLOPs.
        windows: for each layer that is applied (one that is shared counts each time) how far it looks: the positions
            behind and, without a causal mask, ahead; None for all.
        causal: whether a position sees itself and those before it alone.
        head_transform: whether the LM head has a dense layer of its own.
        diffusion_block: tokens of a block of block diffusion, which reads a text twice, clean and noisy; None: no blocks.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    feed_forward: int
    gated: bool
    vocabulary: int
    windows: tuple[int | None, ...]
    causal: bool = True
    head_transform: bool = False
    diffusion_block: int | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture | BdhArchitecture | DiTArchitecture | None:
        """Return the architecture in the dict of a transformers configuration; None for a family that is not known.

        A configuration around another one (``backbone_config``) is that one; its head is a masked-LM head.
        """
        diffusion_block = config.get("diffusion_block_size")
        config = config.get("backbone_config") or config
        kind = config.get("model_type")
        if kind == "bdh":
            return BdhArchitecture.from_config(config)
        if kind == "dit":
            return DiTArchitecture.from_config(config)
        if kind not in FAMILIES:
            return None
        layers = _first(config, "num_hidden_layers", "n_layer")
        width = _first(config, "hidden_size", "n_embd")
        heads = _first(config, "num_attention_heads", "n_head")
        causal = kind not in _ENCODERS and config.get("is_causal", True)
        return cls(
            width=width,
            heads=heads,
            kv_heads=_first(config, "num_key_value_heads", default=heads),
            head_dim=_first(config, "head_dim", default=width // heads),
            feed_forward=_first(config, "intermediate_size", "n_inner", default=4 * width),
            gated=FAMILIES[kind],
            vocabulary=config["vocab_size"],
            windows=_windows(config, layers, causal),
            causal=causal,
            head_transform=kind in _ENCODERS,
            diffusion_block=diffusion_block,
        )

    def forward_flops(self, length: int, labelled: float, reads: int = 1) -> float:
        """Return the FLOPs of the forward passes over one sequence; with diffusion blocks, of the clean one, too.

        Of the clean one's last layer keys and values alone are needed.

        Args:
            length: tokens of the sequence.
            reads: how many times it is read, each time with other tokens hidden; the clean one is read once.
            labelled: positions at which the LM head is needed: all for an autoregressive model, (length + 1) / 2 on
                average for masked diffusion with uniform counts.
        """
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        projections = 2 * self.width * (2 * queries + 2 * keys)  # in: q, k, v; out: o
        feed_forward = 2 * self.width * self.feed_forward * (3 if self.gated else 2)
        head = 2 * self.width * (self.vocabulary + (self.width if self.head_transform else 0))
        layers = len(self.windows)
        if self.diffusion_block is not None:
            layer = length * (projections + feed_forward) + 4 * queries * _pairs_of_blocks(length, self.diffusion_block)
            clean = (layers - 1) * layer + length * 2 * self.width * 2 * keys
            return clean + reads * layers * layer + labelled * head
        pairs = sum(_pairs(length, window, self.causal) for window in self.windows)
        return reads * (length * layers * (projections + feed_forward) + 4 * queries * pairs) + labelled * head


def training_flops(
    architecture: Architecture | BdhArchitecture | DiTArchitecture,
    lengths: Mapping[int, int],
    labelled: float,
    reads: int = 1,
) -> float:
    """Return the FLOPs of training on some sequences: one forward pass and a backward pass of twice its FLOPs.

    Args:
        architecture: of the model.
        lengths: how many sequences there are of each length in tokens, padding left out.
        labelled: positions at which the LM head is needed, in all sequences together.
        reads: how many times each is read, each time with other tokens hidden.
    """
    forward = sum(count * architecture.forward_flops(length, 0, reads) for length, count in lengths.items())
    return 3 * (forward + architecture.forward_flops(0, labelled))


def mfu(flops: float | None, seconds: float, devices: int, peak: float | None) -> float | None:
    """Return the model FLOPs utilisation in per cent; None where the FLOPs or the peak are unknown.

    Args:
        flops: model FLOPs of all devices together.
        seconds: that they took.
        devices: that shared them.
        peak: dense FLOP/s of one device, see :func:`~hf_difflm.flops.peaks.peak_flops`.
    """
    if flops is None or peak is None or seconds <= 0:
        return None
    return 100 * flops / (seconds * devices * peak)


def _pairs(length: int, window: int | None, causal: bool) -> int:
    """Pairs of a query and a key that it sees."""
    reach = length - 1 if window is None else min(window, length - 1)
    behind = length * reach - reach * (reach + 1) // 2  # keys before the query; the first queries have fewer
    return length + (behind if causal else 2 * behind) if length else 0


def _pairs_of_blocks(length: int, block: int) -> int:
    """Pairs of a query and a key that it sees: those of its own block and of all before, in either of the two passes."""
    ends = [*range(block, length, block), length] if length else []
    return sum(end * (end - start) for start, end in zip([0, *ends], ends, strict=False))


def _windows(config: Mapping[str, Any], layers: int, causal: bool) -> tuple[int | None, ...]:
    if config.get("local_attention") is not None:  # of which half lies on either side
        reach = config["local_attention"] // 2
    elif config.get("sliding_window") is not None and config.get("use_sliding_window", True):
        # Causal masks count the query itself, bidirectional ones do not (transformers.masking_utils).
        reach = config["sliding_window"] - 1 if causal else config["sliding_window"]
    else:
        return (None,) * layers
    kinds = config.get("layer_types") or ["sliding_attention"] * layers
    return tuple(reach if kind == "sliding_attention" else None for kind in kinds)


def _first(config: Mapping[str, Any], *names: str, default: int | None = None) -> int:
    found = next((config[name] for name in names if config.get(name) is not None), default)
    if found is None:
        raise KeyError(names[0])
    return found
