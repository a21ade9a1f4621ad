"""The bounds of masked diffusion when tokens have schedules of their own: what one hidden token costs.

With lambda = 1 / (t s) and s = 1 - t + t r (odds scaling), each bound is sum_i 1[masked] lambda_i * cost_i, where

    P1  schedules by place:        cost = -log mu(x)
    P2  schedules by token value:  cost = -log mu(x) - 1 + s_x sum_v mu_v / s_v
    P3  schedules by context:      cost = -log mu(x) + log(s_hat / s) - 1 + s / s_hat

(P2: GenMD4, arXiv 2406.04329, section 6; P3: the KL between the reverse rate lambda to x and the model's rate lambda_hat mu;
cf. arXiv 2602.02112.) Costs are free of 1/t: finite at t = 0 and t = 1. Without what comes after -log mu(x), P2 and P3
can fall below the entropy.
"""

from __future__ import annotations

import torch

from .odds_scaling import slowness


def at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in float32, or in float64 where it is that already."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def token_value_log_mu(logits_NV: torch.Tensor, r_NV: torch.Tensor, t_N: torch.Tensor, tilt: bool) -> torch.Tensor:
    """(N, V) log mu of P2.

    The mu that makes P2 tight is the posterior p(x_i | z_t, t), in which having been masked by time t says something about
    the token: for tokens that are independent given the revealed ones it is p(x_i | revealed) (1 - alpha_{t,x_i}),
    normalised. With ``tilt`` the logits stand for the first factor and the second is put in by formula, so a denoiser that
    does not read t learns what P0 asks of it as well. Any mu keeps the bound a bound.

    Args:
        logits_NV: (N, V) logits at the masked positions; -inf for the mask token.
        r_NV: (N, V), or (V,), odds ratios of all token values.
        t_N: (N,) times.
        tilt: whether to multiply by 1 - alpha_{t,v}.
    """
    logits_NV = at_least_float32(logits_NV)
    if tilt:
        # 1 - alpha = t r / s; the factor t is common to all values.
        logits_NV = logits_NV + (r_NV.log() - slowness(t_N[:, None], r_NV).log())
    return logits_NV.log_softmax(-1)


def token_value_correction(
    log_mu_NV: torch.Tensor, targets_N: torch.Tensor, r_NV: torch.Tensor, t_N: torch.Tensor
) -> torch.Tensor:
    """(N,) what P2 adds to -log mu(x): s_x sum_v mu_v / s_v - 1. Its mean is 0 where mu is the posterior.

    Args:
        log_mu_NV: (N, V) log probabilities.
        targets_N: (N,) the true tokens.
        r_NV: (N, V), or (V,), odds ratios of all token values.
        t_N: (N,) times.
    """
    slowness_NV = slowness(t_N[:, None], r_NV)
    own_N = slowness_NV.gather(-1, targets_N[:, None]).squeeze(-1)
    return own_N * (log_mu_NV.exp() / slowness_NV).sum(-1) - 1.0


def contextual_correction(r_N: torch.Tensor, rate_r_N: torch.Tensor, t_N: torch.Tensor) -> torch.Tensor:
    """(N,) what P3 adds to -log mu(x): log(lambda / lambda_hat) - 1 + lambda_hat / lambda, never below 0.

    Args:
        r_N: (N,) odds ratios of the true tokens' schedules.
        rate_r_N: (N,) the odds ratio the rate head answers: lambda_hat = 1 / (t (1 - t + t r_hat)).
        t_N: (N,) times.
    """
    quotient_N = slowness(t_N, r_N) / slowness(t_N, rate_r_N)
    return quotient_N - 1.0 - quotient_N.log()
