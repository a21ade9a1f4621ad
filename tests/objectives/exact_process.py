"""A forward process on a small joint distribution, without the package's formulas, and the denoiser made for it."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import numpy as np
import torch

from hf_difflm.models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput


class Process:
    """All of a forward process on a small joint distribution: an independent computation, without the package's formulas.

    Args:
        joint: (V,) * L distribution.
        r_SL: (S, L) odds ratio of each token of each sequence, in the order of ``sequences``.
    """

    def __init__(self, joint: np.ndarray, r_SL: np.ndarray) -> None:
        self.length, self.vocabulary = joint.ndim, joint.shape[0]
        self.sequences_SL = np.array(list(itertools.product(range(self.vocabulary), repeat=self.length)))
        self.p_S, self.r_SL = joint.flatten(), r_SL
        self.entropy = -(joint * np.log(joint)).sum()

    def given(self, z_L: tuple[int, ...], t: float) -> np.ndarray:
        """(S,) p(x | z_t, t), unnormalised: p(x) times the probability that x is masked to z by time t."""
        odds_SL = t / (1 - t) * self.r_SL
        masked_L = np.array(z_L) == self.vocabulary
        chance_SL = np.where(masked_L, odds_SL / (1 + odds_SL), 1 / (1 + odds_SL))
        fits_S = (masked_L | (self.sequences_SL == np.array(z_L))).all(-1)
        return self.p_S * fits_S * chance_SL.prod(-1)

    def rates(self, t: float) -> np.ndarray:
        """(S, L) -d log(alpha)-style rate: the numerical derivative of 1 - alpha, over 1 - alpha."""
        hidden = [((t + e) / (1 - t - e) * self.r_SL) for e in (-1e-6 * t * (1 - t), 1e-6 * t * (1 - t))]
        low, high = (odds / (1 + odds) for odds in hidden)
        return (np.log(high) - np.log(low)) / (2e-6 * t * (1 - t))

    def posterior(self, z_L: tuple[int, ...], t: float) -> np.ndarray:
        """(L, V) p(x_i | z_t, t)."""
        return self._table(self.given(z_L, t)[:, None].repeat(self.length, 1))

    def reveal(self, z_L: tuple[int, ...], t: float) -> tuple[np.ndarray, np.ndarray]:
        """(L, V) mu proportional to E[lambda 1(x_i = v) | z_t], and (L,) E[lambda | z_t]: the best rates."""
        given_S, rate_SL = self.given(z_L, t), self.rates(t)
        return self._table(given_S[:, None] * rate_SL), given_S @ rate_SL / given_S.sum()

    def _table(self, weight_SL: np.ndarray) -> np.ndarray:
        table_LV = np.stack(
            [
                np.bincount(self.sequences_SL[:, i], weight_SL[:, i], minlength=self.vocabulary)
                for i in range(self.length)
            ]
        )
        return table_LV / table_LV.sum(-1, keepdims=True)


class Perfect(torch.nn.Module):
    """A denoiser that computes what it should answer from the process; its last hidden state is the best r_hat.

    Args:
        process: what to be perfect for.
        mu: ``posterior`` or ``reveal``.
        reads_time: False: it answers the conditionals p(x_i | revealed), whatever the time.
    """

    count = 1

    def __init__(self, process: Process, mu: str, reads_time: bool = True) -> None:
        super().__init__()
        self.process, self.mu = process, mu
        self.config = SimpleNamespace(time_conditioned=reads_time)

    def read_rows(self, rows_B, gradient_weights_B=None):
        """All rows are read by the one there is."""

    def forward(
        self,
        input_ids,
        positions,
        attention_mask=None,
        labels=None,
        loss_weights=None,
        output_correct=False,
        times=None,
        output_hidden_states=False,
    ):
        answers, heads = [], []
        for z_L, t in zip(
            input_ids.tolist(), [1e-9] * len(input_ids) if times is None else times.tolist(), strict=True
        ):
            if not self.config.time_conditioned:
                process = Process(
                    self.process.p_S.reshape((self.process.vocabulary,) * self.process.length), np.ones(1)
                )
                answers.append(process.posterior(tuple(z_L), 0.5))
                continue
            answers.append(getattr(self.process, self.mu)(tuple(z_L), t))
            if self.mu == "reveal":
                answers[-1], rate_L = answers[-1]
                heads.append((1 / (t * rate_L) - 1 + t) / t)  # r_hat with 1 / (t (1 - t + t r_hat)) = the rate
        log_mu_NV = torch.from_numpy(np.stack(answers)).log().flatten(0, 1)[positions]
        hidden = (torch.from_numpy(np.stack(heads))[..., None],) if heads else None
        if labels is None:
            return MaskedDiffusionOutput(logits=torch.nn.functional.pad(log_mu_NV, (0, 1), value=-torch.inf))
        nll_N = -log_mu_NV.gather(-1, labels.flatten()[positions][:, None]).squeeze(-1)
        loss = (nll_N * loss_weights.expand(input_ids.shape).flatten()[positions]).sum()
        return MaskedDiffusionOutput(loss=loss, token_nll=nll_N, hidden_states=hidden)
