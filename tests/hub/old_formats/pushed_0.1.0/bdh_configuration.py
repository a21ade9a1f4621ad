"""Configuration of BDH, "The Dragon Hatchling" (arXiv 2509.26507)."""

from __future__ import annotations

from typing import Any

from transformers import PreTrainedConfig


class BdhConfig(PreTrainedConfig):
    """Configuration of :class:`BdhModel`; the defaults are the sizes of the authors' code, 25.3 million parameters.

    Args:
        vocab_size: rows of the embedding matrix; 256 for bytes.
        hidden_size: width D of the residual stream.
        num_hidden_layers: how often the one block is applied; all layers share its weights.
        num_attention_heads: heads H.
        intermediate_size: neurons n of all heads together, n / H to a head; None: 128 D.
        rotary_base: base of the rotary frequencies.
        layer_norm_eps: added to the variance.
        dropout: of the neurons' activations.
        initializer_range: standard deviation of fresh weights.
        is_causal: whether a position sees those before it alone; if not, all others.

    Raises:
        ValueError: the neurons of a head do not pair up, as rotation needs.
    """

    model_type = "bdh"

    vocab_size: int = 256
    hidden_size: int = 256
    num_hidden_layers: int = 6
    num_attention_heads: int = 4
    intermediate_size: int | None = None
    rotary_base: float = 65536.0
    layer_norm_eps: float = 1e-5
    dropout: float = 0.1
    initializer_range: float = 0.02
    is_causal: bool = True
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.neurons % (2 * self.num_attention_heads):
            raise ValueError(
                f"intermediate_size {self.neurons} is not a multiple of twice num_attention_heads "
                f"{self.num_attention_heads}, as rotary positions need"
            )

    @property
    def neurons(self) -> int:
        """Neurons n of all heads together."""
        return 128 * self.hidden_size if self.intermediate_size is None else self.intermediate_size


__all__ = ["BdhConfig"]
