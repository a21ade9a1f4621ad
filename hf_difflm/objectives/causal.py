"""The autoregressive twin: the exact nll of a stock causal LM, over the same scored tokens.

Of rows that hold several documents each token sees those before it in its own, whose positions begin at 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ..errors import UserError
from ..models.masked_diffusion.diffusion_blocks import causal_documents
from .base import Batch, NoiseKey, Objective, ObjectiveOutput, attention_mask_or_none, scored_mask, to_device, unwrapped
from .packed_documents import PIECES, Layout


class CausalObjective(Objective):
    """-log p(x_i | x_<i), summed over the scored tokens. The model is any transformers causal LM, as it is.

    It reads rows of several documents itself (``reads_rows``), which objectives of masks see one by one.

    The first token of a sequence has no context to be predicted from; if it is scored, UserError is raised.
    """

    name = "ar"
    bound = "exact"
    stochastic = False
    reads_rows = True

    def __call__(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str = "cpu",
        accuracy: bool = False,
    ) -> ObjectiveOutput:
        scored_BL = scored_mask(batch)
        mask = attention_mask_or_none(batch)
        document_BL = None if PIECES not in batch else Layout.of(batch[PIECES].numpy()).document_ids()
        context_BL = np.zeros_like(scored_BL)  # whether there is a token before
        if document_BL is not None:
            context_BL[:, 1:] = document_BL[:, 1:] == document_BL[:, :-1]
        else:
            context_BL[:, 1:] = True if mask is None else mask[:, :-1].numpy() != 0
        if (alone_B := (scored_BL & ~context_BL).any(-1)).any():
            raise UserError(
                f"sequence {int(alone_B.argmax())} of the batch has its first position scored, which a causal model cannot "
                "predict; start each sequence with BOS, or give the rows labels that are -100 there, where the tokenizer "
                "has none"
            )
        rows_N, columns_N = np.nonzero(scored_BL)
        positions_N = to_device(torch.from_numpy(rows_N * scored_BL.shape[1] + columns_N - 1), device)
        # Shift the labels, not the logits: a (B, L, V) tensor is never copied.
        targets_M = to_device(F.pad(batch["labels"], (0, 1), value=-100)[:, 1:].flatten(), device)
        padding = {}
        if document_BL is not None:
            padding = causal_documents(unwrapped(model), to_device(torch.from_numpy(document_BL), device))
        elif mask is not None:
            padding["attention_mask"] = to_device(mask, device)
            padding["position_ids"] = (padding["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
        logits_BLV = model(input_ids=to_device(batch["input_ids"], device), use_cache=False, **padding).logits
        logits_MV = logits_BLV.flatten(0, 1).float()
        nll_M = F.cross_entropy(logits_MV, targets_M, ignore_index=-100, reduction="none")
        correct_N = (logits_MV.argmax(-1) == targets_M)[positions_N] if accuracy else None
        return ObjectiveOutput(
            loss=nll_M.sum() / num_scored,
            rows_N=rows_N,
            columns_N=columns_N,
            token_nll_N=nll_M.detach()[positions_N],
            token_weights_N=np.ones(len(rows_N)),
            token_correct_N=correct_N,
        )
