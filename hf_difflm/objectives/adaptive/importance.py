"""The importance estimator: a small network that reads the clean text and says how hard each token is to predict.

It regresses the detached difficulty of the masked tokens, and reads the denoiser's token embeddings without a gradient, so it
cannot change what the denoiser learns; masking and curriculum use its answer without a gradient, so they cannot change what
it learns to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaModel

from ...flops.network import Architecture, training_flops
from ..base import unwrapped

LAYERS = 2


class ImportanceEstimator(nn.Module):
    """Two bidirectional transformer layers of a quarter of the model's width, and a sigmoid. It starts at 0.5 everywhere.

    Args:
        hidden_size: width of the token embeddings it reads.
        num_attention_heads: heads of the model; the estimator has a quarter of them.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.hidden_size, self.num_attention_heads = hidden_size, num_attention_heads
        width, heads = quarter_width(hidden_size, num_attention_heads)
        config = LlamaConfig(
            vocab_size=1,
            bos_token_id=None,
            eos_token_id=None,
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=LAYERS,
            num_attention_heads=heads,
        )
        config.is_causal = False
        self.narrow = nn.Linear(hidden_size, width)
        self.layers = LlamaModel(config)
        self.layers.set_input_embeddings(nn.Identity())  # it reads embeddings, not ids
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, embeddings_BLD: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """(B, L) importance in [0, 1], float32.

        Args:
            embeddings_BLD: (B, L, D) embeddings of the clean tokens; no gradient flows into them.
            attention_mask: (B, L), 0 at padding on either side; None where there is none.
        """
        # Their scale is the denoiser's affair and changes as it trains.
        hidden_BLE = self.narrow(F.layer_norm(embeddings_BLD.detach().float(), (self.hidden_size,)))
        positions = {}
        if attention_mask is not None:
            positions["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        outputs = self.layers(
            inputs_embeds=hidden_BLE, attention_mask=attention_mask, use_cache=False, **positions
        ).last_hidden_state
        return self.score(outputs).squeeze(-1).float().sigmoid()

    def training_flops(self, lengths: Mapping[int, int], predicted: int) -> float:
        """Model FLOPs of a forward and backward pass, see :mod:`hf_difflm.flops.network`.

        Args:
            lengths: how many sequences there are of each length in tokens.
            predicted: hidden tokens in all of them; here all tokens are read, whichever are hidden.
        """
        tokens = sum(length * count for length, count in lengths.items())
        architecture = Architecture.from_config(self.layers.config.to_dict())
        assert architecture is not None
        # No gradient flows into the embeddings: of the first layer there are two products and not three.
        narrow = 2 * 2 * self.hidden_size * architecture.width
        return tokens * narrow + training_flops(architecture, lengths, tokens)


def quarter_width(hidden_size: int, num_attention_heads: int) -> tuple[int, int]:
    """Width nearest to a quarter of ``hidden_size`` that splits into heads of even size, and a quarter of the heads.

    So its heads are as wide as the model's: as many heads as the model has, a quarter as wide, cost twice as much.
    """
    heads = max(1, round(num_attention_heads / 4))
    return heads * max(2, 2 * round(hidden_size / 4 / heads / 2)), heads


def clean_embeddings(model: Any, ids_BL: torch.Tensor) -> torch.Tensor:
    """(B, L, D) detached rows of the model's embedding matrix; ``model`` may be wrapped (DDP, FSDP2, torch.compile).

    A matrix that is not there to be read (one with an adapter, offloaded, quantised) is asked for its rows.
    """
    embeddings = unwrapped(model).get_input_embeddings()
    if (
        not isinstance(embeddings, nn.Embedding)
        or embeddings.weight.is_meta
        or not embeddings.weight.is_floating_point()
    ):
        with torch.no_grad():
            return embeddings(ids_BL).detach()
    weight_VD = embeddings.weight.detach()
    if hasattr(weight_VD, "full_tensor"):  # sharded by FSDP2: all ranks are here together
        weight_VD = weight_VD.full_tensor()
    return F.embedding(ids_BL, weight_VD)


def difficulty(nll_N: torch.Tensor, vocab_size: int) -> torch.Tensor:
    """(N,) detached masked cross-entropy / log V, clipped to [0, 1]: 1 is a uniform guess or worse."""
    return (nll_N.detach().float() / math.log(vocab_size)).clamp(0.0, 1.0)


def regression_weights(counts_N: torch.Tensor, masked_N: torch.Tensor) -> torch.Tensor:
    """(N,) L_b / k_b of the sequence each masked token is in: every token counts once in the mean, whatever the rate.

    Args:
        counts_N: (N,) scored tokens L_b of the sequence.
        masked_N: (N,) masked tokens k_b of the sequence.
    """
    return counts_N / masked_N.clamp(min=1)
