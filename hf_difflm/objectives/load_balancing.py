"""The router loss of mixtures of experts: what keeps tokens from going to a few experts alone.

Switch Transformer, equations 4-6 (arXiv 2101.03961), as transformers has it, but for each sequence by itself (as the
sequence-wise balance loss of DeepSeek-V3, arXiv 2412.19437, equation 17): the shares of two sequences are never
multiplied, so that the loss of an optimiser batch is a mean over its sequences, and its gradient is the same however the
batch is cut into micro-batches and processes. transformers takes the shares of a whole micro-batch; with one sequence in
each, both are the same number.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


def load_balancing_loss(
    router_logits: Sequence[torch.Tensor],
    top_k: int,
    weights_R: torch.Tensor,
    mask_RL: torch.Tensor | None = None,
) -> torch.Tensor:
    """E sum_e f_e P_e of each sequence, weighed and summed; scalar, float32. Of one sequence in balance it is ``top_k``.

    f_e is the share of the sequence's tokens, times ``top_k``, that went to expert e, and P_e the mean probability that its
    routers gave to e, both over all layers. Only P_e has a gradient.

    Args:
        router_logits: of each layer with experts, (R·L, E) or (R, L, E).
        top_k: experts of a token.
        weights_R: (R,) weights of the sequences.
        mask_RL: (R, L), 0 at padding, which is left out; None where there is none.
    """
    rows, experts = len(weights_R), router_logits[0].shape[-1]
    chosen_RE = probabilities_RE = torch.zeros(rows, experts, device=weights_R.device)
    for logits in router_logits:
        probabilities_RLE = logits.reshape(rows, -1, experts).to(weights_R.device).float().softmax(-1)
        length = probabilities_RLE.shape[1]
        real_RL = torch.ones(rows, length, device=weights_R.device) if mask_RL is None else mask_RL.float()
        experts_RX = probabilities_RLE.topk(top_k, dim=-1).indices.flatten(1)
        ones_RX = real_RL.repeat_interleave(top_k, dim=1)
        chosen_RE = chosen_RE + torch.zeros_like(chosen_RE).scatter_add_(1, experts_RX, ones_RX)
        probabilities_RE = probabilities_RE + (probabilities_RLE * real_RL.unsqueeze(-1)).sum(1)
    tokens_R1 = len(router_logits) * real_RL.sum(1, keepdim=True).clamp(min=1)
    loss_R = experts * (chosen_RE / tokens_R1 * (probabilities_RE / tokens_R1)).sum(-1)
    return (weights_R * loss_R).sum()
