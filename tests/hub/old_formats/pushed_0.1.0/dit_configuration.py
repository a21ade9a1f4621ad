"""Configuration of the diffusion transformer of MDLM (arXiv 2406.07524)."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class DiTConfig(PreTrainedConfig):
    """Configuration of :class:`DiTModel`; the defaults are the sizes of ``kuleshov-group/mdlm-owt``.

    Args:
        vocab_size: rows of the embedding matrix, the mask token's included.
        hidden_size: width D.
        num_hidden_layers: blocks.
        num_attention_heads: heads H; each has D / H dimensions.
        intermediate_size: inner width of the feed-forward layers; None: 4 D.
        conditioning_size: width C of the vector that every norm is modulated by.
        frequency_embedding_size: sines and cosines that the noise level is told in.
        max_position_embeddings: longest sequence.
        rotary_base: base of the rotary frequencies.
        layer_norm_eps: added to the variance.
        dropout: after attention and after the feed-forward layer.
        initializer_range: standard deviation of fresh weights.
        head_bias: whether the LM head on top has a bias.

    Raises:
        ValueError: ``hidden_size`` is no multiple of twice ``num_attention_heads``: rotation turns pairs.
    """

    model_type = "dit"

    vocab_size: int = 50258
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int | None = None
    conditioning_size: int = 128
    frequency_embedding_size: int = 256
    max_position_embeddings: int = 1024
    rotary_base: float = 10000.0
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    initializer_range: float = 0.02
    head_bias: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} is not a multiple of twice num_attention_heads "
                f"{self.num_attention_heads}, which rotary positions need"
            )


__all__ = ["DiTConfig"]
