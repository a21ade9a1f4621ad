"""The rate head of P3: at which rate the model leaves the mask, from what it sees of a partly masked sequence."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import nn

from .importance import quarter_width
from .odds_scaling import LOG_R_MAX

_WAVES = 4


class RateHead(nn.Module):
    """A two-layer network on the denoiser's last hidden states (detached) and the time. It starts at r_hat = 1.

    The best rate is E[lambda | z_t], which lies between the rates of the smallest and the largest r; since lambda falls as r
    grows, it is the rate 1 / (t (1 - t + t r_hat)) of some r_hat between them. So the head answers r_hat, within the
    clamp of r: no answer makes the bound infinite, and the best one is always within its range.

    Args:
        hidden_size: width of the hidden states.
        num_attention_heads: only fixes the head's width to that of the importance estimator.
    """

    def __init__(self, hidden_size: int, num_attention_heads: int):
        super().__init__()
        self.hidden_size = hidden_size
        width, _ = quarter_width(hidden_size, num_attention_heads)
        self.narrow = nn.Linear(hidden_size, width)
        self.time = nn.Linear(_WAVES, width, bias=False)
        self.score = nn.Linear(width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)

    def forward(self, hidden_ND: torch.Tensor, t_N: torch.Tensor) -> torch.Tensor:
        """(N,) r_hat in [1/4, 4], float32.

        Args:
            hidden_ND: (N, D) last hidden states at the masked positions; no gradient flows into them.
            t_N: (N,) times in [0, 1].
        """
        waves_K = torch.arange(1, _WAVES + 1, device=t_N.device)
        waves_NK = torch.cos(math.pi * t_N.float()[:, None] * waves_K)
        hidden_NE = self.narrow(F.layer_norm(hidden_ND.detach().float(), (self.hidden_size,))) + self.time(waves_NK)
        return torch.exp(LOG_R_MAX * torch.tanh(self.score(F.gelu(hidden_NE)).squeeze(-1).float()))

    def training_flops(self, lengths: Mapping[int, int], predicted: int) -> float:
        """Model FLOPs of a forward and backward pass over ``predicted`` hidden tokens; as of the importance estimator."""
        width = self.narrow.out_features
        return predicted * 2 * width * (2 * (self.hidden_size + _WAVES) + 3)
