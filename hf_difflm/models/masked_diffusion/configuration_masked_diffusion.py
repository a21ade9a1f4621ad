"""Configuration of a masked diffusion language model around any transformers backbone."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

from transformers import AutoConfig, PreTrainedConfig

from .bdh_configuration import BdhConfig
from .dit_configuration import DiTConfig
from .noise_schedule import NoiseSchedule

# Backbones that are not in transformers; `AutoConfig` must know them wherever this file is, on the Hub too.
AutoConfig.register(DiTConfig.model_type, DiTConfig, exist_ok=True)
AutoConfig.register(BdhConfig.model_type, BdhConfig, exist_ok=True)

# Their position embeddings begin behind the index of the pad token, within max_position_embeddings rows ...
_BEHIND_PAD = frozenset(
    {
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "luke",
        "markuplm",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)
# ... and those of these at 2, of two rows more.
_AT_TWO = frozenset({"mra", "nystromformer", "yoso"})


class MaskedDiffusionConfig(PreTrainedConfig):
    """Configuration of :class:`MaskedDiffusionForMaskedLM`.

    Args:
        backbone_config: configuration (or its dict, with ``model_type``) of the network that reads the partly masked
            sequence. Decoders are made bidirectional with ``is_causal = False``.
        mask_token_id: id of the mask token; it has an embedding and is never predicted.
        noise_schedule: name of the noise schedule, see :class:`NoiseSchedule`.
        schedule_exponent: exponent of the polynomial schedule.
        sigma_min: least noise of the geometric schedule.
        sigma_max: most noise of the geometric schedule.
        tie_word_embeddings: whether the LM head shares the embedding matrix.
        shift_logits: whether the token at a position is read from the hidden state *before* it, as a causal LM learned
            to (DiffuLLaMA, arXiv 2410.17891); a first position, which has none before it, reads its own. The first token of
            a diffusion block is read from the clean text before it.
        head_bias: whether the LM head has a bias; None: as in the backbone's own masked LM, else none.
        reads_padding: whether a row of this backbone becomes something else beside padding. Then the rows of a padded
            batch go through it one by one; None: unknown, and all go at once.
        diffusion_block_size: tokens of a block of block diffusion (BD3-LM, arXiv 2503.09573), counted from the first token of
            a row that is no padding: autoregressive over blocks, masked diffusion within one. None: one masked diffusion
            over the whole text.
        diffusion_block_start: where the borders of blocks are counted from: the ``text``'s first token, so that new tokens
            finish the last block of a prompt; or the ``answer``'s, so that the last block of a prompt may be short.
        rotate_in_float32: whether a Llama rotates queries and keys in float32 whatever its weights are, as LLaDA does.
        converted_from: what :mod:`hf_difflm.hub.conversion` made the model of; None for models trained from scratch.
        format_version: version of this file format, so that old models keep loading.

    Raises:
        ValueError: ``mask_token_id`` outside the backbone's vocabulary, a schedule that does not exist, or blocks that do
            not.
    """

    model_type = "masked_diffusion"
    sub_configs: ClassVar[dict[str, Any]] = {"backbone_config": AutoConfig}
    has_no_defaults_at_init = True

    backbone_config: Any = None
    mask_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None
    noise_schedule: str = "loglinear"
    schedule_exponent: float = 2.0
    sigma_min: float = 1e-4
    sigma_max: float = 20.0
    tie_word_embeddings: bool = True
    shift_logits: bool = False
    head_bias: bool | None = None
    reads_padding: bool | None = None
    diffusion_block_size: int | None = None
    diffusion_block_start: str = "text"
    rotate_in_float32: bool = False
    converted_from: dict[str, Any] | None = None
    format_version: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        backbone = self.backbone_config
        if backbone is None:
            backbone = {"model_type": "llama"}
        if isinstance(backbone, dict):
            backbone = dict(backbone)
            backbone = AutoConfig.for_model(backbone.pop("model_type", "llama"), **backbone)
        else:
            # The caller's object stays causal: a causal LM built from it must not see the future.
            backbone = copy.deepcopy(backbone)
        backbone.is_causal = False
        backbone.tie_word_embeddings = self.tie_word_embeddings
        self.backbone_config = backbone
        super().__post_init__(**kwargs)
        if self.mask_token_id is None:
            self.mask_token_id = backbone.vocab_size - 1
        if not 0 <= self.mask_token_id < backbone.vocab_size:
            raise ValueError(
                f"mask_token_id {self.mask_token_id} is outside the vocabulary of {backbone.vocab_size} tokens; "
                "add the mask token to the tokenizer and resize the backbone"
            )
        self.schedule()
        self._check_blocks()

    def schedule(self) -> NoiseSchedule:
        """The noise schedule these fields describe."""
        return NoiseSchedule(self.noise_schedule, self.schedule_exponent, self.sigma_min, self.sigma_max)

    def _check_blocks(self) -> None:
        size, start = self.diffusion_block_size, self.diffusion_block_start
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"diffusion_block_size must be a positive integer, got {size!r}")
        if start not in ("text", "answer"):
            raise ValueError(f"diffusion_block_start must be text or answer, got {start!r}")

    @property
    def vocab_size(self) -> int:
        """Rows of the embedding matrix, the mask token's included."""
        return self.backbone_config.vocab_size

    @vocab_size.setter
    def vocab_size(self, value: int) -> None:
        self.backbone_config.vocab_size = value

    @property
    def hidden_size(self) -> int:
        """Width of the backbone."""
        return self.backbone_config.hidden_size

    @property
    def num_hidden_layers(self) -> int:
        """Layers of the backbone."""
        return self.backbone_config.num_hidden_layers

    @property
    def num_attention_heads(self) -> int:
        """Attention heads of the backbone."""
        return self.backbone_config.num_attention_heads

    @property
    def max_position_embeddings(self) -> int | None:
        """Longest sequence the backbone takes, or None where it sets no limit."""
        limit = getattr(self.backbone_config, "max_position_embeddings", None)
        return None if limit is None else limit - self._rows_before_positions

    @property
    def position_offset(self) -> int:
        """Position id of the first token: 0, but for RoBERTa and its kin."""
        return 2 if self.backbone_config.model_type in _AT_TWO else self._rows_before_positions

    @property
    def _rows_before_positions(self) -> int:
        return rows_before_positions(self.backbone_config.model_type, self.backbone_config.pad_token_id)


def rows_before_positions(model_type: str, pad_token_id: int | None) -> int:
    """Rows of a backbone's position embeddings that no token has, and that count in its ``max_position_embeddings``."""
    return pad_token_id + 1 if model_type in _BEHIND_PAD and pad_token_id is not None else 0


__all__ = ["MaskedDiffusionConfig", "rows_before_positions"]
