"""The bounds P1, P2 and P3: masked diffusion whose tokens have schedules of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base import Batch, NoiseKey, Objective, ObjectiveOutput, scored_mask, to_device
from ..denoising import Hidden, hide
from .importance_values import Importance, ImportanceReader
from .losses import at_least_float32, contextual_correction, token_value_correction, token_value_log_mu
from .masking import AdaptiveCorruption, corrupt, draw
from .odds_scaling import LOG_R_MAX, centred_r, exponent_at, log_odds, position_log_odds
from .settings import BOUNDS, AdaptiveSettings


@dataclass
class TokenCosts:
    """What the hidden tokens of a batch cost.

    Args:
        output: loss and costs, see :class:`ObjectiveOutput`; ``token_nll_N`` is the whole cost of a token over its weight.
        nll_N: (N,) detached -log mu(x) alone.
        hidden: the tokens; None where the objective of P0 hid them.
    """

    output: ObjectiveOutput
    nll_N: torch.Tensor
    hidden: Hidden | None = None


class AdaptiveBound(Objective):
    """The bound that belongs to the schedules of ``settings``, at one moment of training.

    As an objective it is what ``eval_native_nll`` reports: an upper bound on the nll under the model's own forward process,
    whose name is ``bound``. (P1 ``nelbo_position``, P2 ``nelbo_token_value``, P3 ``nelbo_contextual``.)

    Args:
        mask_token_id: id of the mask token.
        settings: which schedules; ``settings.form`` must not be p0.
        reader: importance of the tokens.
        rate_head: network from (hidden_ND, t_N) to r_hat (N,); needed for P3.
        noise_sampling: ``stratified`` over the whole optimiser batch, or ``iid``.
        progress: share of training that is done, for evaluations.

    Raises:
        ValueError: P0, or a P3 without a rate head.
    """

    name = "atat"
    stochastic = True

    def __init__(
        self,
        mask_token_id: int,
        settings: AdaptiveSettings,
        reader: ImportanceReader,
        rate_head: nn.Module | None = None,
        noise_sampling: str = "stratified",
        progress: float = 0.0,
    ):
        if settings.form == "p0":
            raise ValueError("all schedules are alike: use MaskedDiffusionObjective")
        if settings.form == "p3" and rate_head is None:
            raise ValueError("schedules that depend on the context need a rate head")
        self.mask_token_id = mask_token_id
        self.settings = settings
        self.reader = reader
        self.rate_head = rate_head
        self.noise_sampling = noise_sampling
        self.progress = progress
        self.bound = BOUNDS[settings.form]

    def __call__(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str = "cpu",
        accuracy: bool = False,
    ) -> ObjectiveOutput:
        importance = self.reader(model, batch, device)
        return self.costs(model, batch, key, num_scored, device, accuracy, importance, self.progress).output

    def costs(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str,
        accuracy: bool,
        importance: Importance | None,
        progress: float,
        token_weights_BL: np.ndarray | None = None,
    ) -> TokenCosts:
        """Corrupt, run the model, weigh the costs; as ``__call__``, with what training adds.

        Args:
            model, batch, key, num_scored, device, accuracy: see :class:`Objective`.
            importance: of the tokens of this batch.
            progress: share of training that is done.
            token_weights_BL: (B, L) further weights of the denoiser's loss; the output's weights remain those of the bound.
        """
        corruption = self.corruption(batch, key, importance, progress)
        hidden = hide(model, batch, corruption.masked_BL, self.mask_token_id, device, corruption.t_B)
        weights_BL = corruption.weights_BL if token_weights_BL is None else corruption.weights_BL * token_weights_BL
        if self.settings.form == "p2":
            loss, nll_N, cost_N, correct_N = self._token_value(
                model, hidden, corruption, weights_BL, accuracy, progress
            )
        else:
            loss, nll_N, cost_N, correct_N = self._cross_entropy(model, hidden, corruption, weights_BL, accuracy)
        output = ObjectiveOutput(
            loss=loss / num_scored,
            rows_N=hidden.rows_N,
            columns_N=hidden.columns_N,
            token_nll_N=cost_N.detach(),
            token_weights_N=corruption.weights_BL[hidden.rows_N, hidden.columns_N],
            token_correct_N=correct_N,
            row_metrics={"noise_level": corruption.noise_level_B, "masking_rate": corruption.masking_rate_B},
        )
        return TokenCosts(output, nll_N, hidden)

    def corruption(
        self, batch: Batch, key: NoiseKey, importance: Importance | None, progress: float
    ) -> AdaptiveCorruption:
        """Which tokens of a batch are hidden, and what that costs; pure in the arguments."""
        scored_BL = scored_mask(batch)
        r_BL = self.odds_ratios(batch["input_ids"].numpy(), scored_BL, importance, progress)
        t_B, scores_BL = draw(scored_BL, key, self.noise_sampling == "stratified")
        return corrupt(scored_BL, r_BL, t_B, scores_BL)

    def odds_ratios(
        self, ids_BL: np.ndarray, scored_BL: np.ndarray, importance: Importance | None, progress: float
    ) -> np.ndarray:
        """(B, L) float64 r of each token's schedule, abs(log r) <= log 4."""
        exponent = exponent_at(self.settings.masking, self.settings.temperature, progress)
        by_place_BL = position_log_odds(scored_BL, self.settings.position_bias)
        if self.settings.form == "p2":
            log_r_BL = np.log(self.reader.token_value_r(exponent))[ids_BL] + by_place_BL
            return np.exp(log_r_BL.clip(-LOG_R_MAX, LOG_R_MAX))
        if self.settings.form == "p3" and importance is not None:
            by_place_BL = by_place_BL + log_odds(importance.values_BL, exponent)
        return centred_r(by_place_BL, scored_BL.astype(np.float64))

    token_value_correction = staticmethod(token_value_correction)

    def _cross_entropy(
        self, model: Any, hidden: Hidden, corruption: AdaptiveCorruption, weights_BL: np.ndarray, accuracy: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """P1, and P3 with its rate term: the loss, (N,) -log mu, (N,) cost, (N,) whether the likeliest token is right."""
        if self.settings.form == "p1":
            outputs = hidden.cross_entropy(model, weights_BL, accuracy)
            return outputs.loss, outputs.token_nll, outputs.token_nll, outputs.token_correct
        assert self.rate_head is not None
        outputs = hidden.cross_entropy(model, weights_BL, accuracy, output_hidden_states=True)
        hidden_ND = outputs.hidden_states[-1].detach().flatten(0, 1)[hidden.positions_N]
        t_N = hidden.on_device(corruption.t_B)
        rate_r_N = at_least_float32(self.rate_head(hidden_ND, t_N))
        rate_cost_N = contextual_correction(hidden.on_device(corruption.r_BL), rate_r_N, t_N)
        loss = outputs.loss + (hidden.on_device(corruption.weights_BL) * rate_cost_N).sum()
        return loss, outputs.token_nll, outputs.token_nll + rate_cost_N, outputs.token_correct

    def _token_value(
        self,
        model: Any,
        hidden: Hidden,
        corruption: AdaptiveCorruption,
        weights_BL: np.ndarray,
        accuracy: bool,
        progress: float,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """P2; the same four as of ``_cross_entropy``."""
        logits_NV = model(**hidden.inputs).logits
        t_N = hidden.on_device(corruption.t_B)
        exponent = exponent_at(self.settings.masking, self.settings.temperature, progress)
        r_V = to_device(torch.from_numpy(self.reader.token_value_r(exponent)).float(), hidden.device)
        if self.settings.position_bias:
            by_place_N = hidden.on_device(position_log_odds(corruption.scored_BL, self.settings.position_bias))
            r_V = (r_V.log() + by_place_N[:, None]).clamp(-LOG_R_MAX, LOG_R_MAX).exp()
        log_mu_NV = token_value_log_mu(logits_NV, r_V, t_N, self.settings.posterior_tilt)
        nll_N = -log_mu_NV.gather(-1, hidden.targets_N[:, None]).squeeze(-1)
        cost_N = nll_N + self.token_value_correction(log_mu_NV, hidden.targets_N, r_V, t_N)
        loss = (hidden.on_device(weights_BL) * cost_N).sum()
        # Accuracy is that of the denoiser P0 evaluates, with the factor of the schedule left out.
        correct_N = logits_NV.argmax(-1) == hidden.targets_N if accuracy else None
        return loss, nll_N.detach(), cost_N, correct_N


def progress_of(step: int, total_steps: int | None) -> float:
    """Share of training that is done before optimiser step ``step``, in [0, 1].

    Raises:
        ValueError: ``total_steps`` is not known: ``Objective.begin`` was not called.
    """
    if total_steps is None:
        raise ValueError("this objective changes as training goes on: call begin(total_steps) first")
    return min(step / max(total_steps, 1), 1.0)
