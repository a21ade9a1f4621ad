"""The same denoiser with LM head and cross-entropy at every position, as most implementations have them: the same loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from hf_difflm import MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput


class FullHead(MaskedDiffusionForMaskedLM):
    """Logits of all positions, of which the labels then choose."""

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        output_correct: bool = False,
        **kwargs: Any,
    ) -> MaskedDiffusionOutput:
        if labels is None or loss_weights is None or positions is None:  # not a training step
            return super().forward(input_ids, attention_mask, labels, loss_weights, positions, output_correct, **kwargs)
        if (position_ids := self._position_ids(input_ids, attention_mask)) is not None:
            kwargs.setdefault("position_ids", position_ids)
        kwargs.setdefault("use_cache", False)
        hidden_BLD = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs).last_hidden_state
        logits_MV = self._head(hidden_BLD.flatten(0, 1)).float()
        is_masked_BL = input_ids == self.config.mask_token_id
        labels_M = labels.masked_fill(~is_masked_BL, -100).flatten()
        nll_M = F.cross_entropy(logits_MV, labels_M, ignore_index=-100, reduction="none")
        correct_N = None
        if output_correct:
            correct_N = ((logits_MV.argmax(-1) == labels_M) | ~is_masked_BL.flatten())[positions]
        return MaskedDiffusionOutput(
            loss=(nll_M * loss_weights.expand(input_ids.shape).flatten()).sum(),
            token_nll=nll_M.detach()[positions],
            token_correct=correct_N,
        )
