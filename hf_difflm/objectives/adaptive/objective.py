"""ATAT: masking and curriculum that follow the importance of tokens, with a valid bound for every setting.

Whatever the schedules, evaluations report P0 on the same denoiser; training minimises the bound that belongs to the schedules
(P0 to P3, see ``adaptive_losses``). With nothing adaptive this is :class:`MaskedDiffusionObjective`, bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..base import Batch, NoiseKey, Objective, ObjectiveOutput, scored_mask, to_device
from ..denoising import hide
from ..masked_diffusion import MaskedDiffusionObjective
from .bound import AdaptiveBound, TokenCosts, progress_of
from .curriculum import STAGES
from .importance import ImportanceEstimator, difficulty, regression_weights
from .importance_file import load_into, write_importance
from .importance_values import Importance, ImportanceReader
from .rate_head import RateHead
from .settings import AdaptiveSettings
from .summary import AdaptiveSummary, pair_sums


class AdaptiveMaskingObjective(Objective):
    """Trains a denoiser and, beside it, the importance estimator and the rate head, as far as the settings need them.

    The estimator's regression and the denoiser's loss share no gradient: the regression adds its gradient to ``loss`` but not
    its value, so ``loss`` is the bound in nats per token.

    Args:
        p0: the objective of uniform masking: it evaluates, and trains where the settings leave masking uniform.
        settings: what is adaptive.
        vocab_size: V, the unit of difficulty is log V.
        networks: ``importance`` (:class:`ImportanceEstimator`) and ``rate`` (:class:`RateHead`), as far as needed.
        counts_V: (V,) how often each token occurs in the training data, where ``settings.needs_counts``.

    Raises:
        ValueError: a network or the counts are needed and missing; noise in complementary pairs or static shapes, which
            belong to uniform masking alone.
    """

    name = "atat"
    bound = "nelbo"
    stochastic = True

    def __init__(
        self,
        p0: MaskedDiffusionObjective,
        settings: AdaptiveSettings,
        vocab_size: int,
        networks: nn.ModuleDict | None = None,
        counts_V: np.ndarray | None = None,
    ):
        lawful = p0.count_law.name == "uniform" and p0.train_objective is None
        if p0.noise_sampling == "pairs" or p0.static_shapes or not lawful:
            raise ValueError(
                "complementary pairs, count laws and static shapes are for uniform masking: use MaskedDiffusionObjective"
            )
        self.p0 = p0
        self.settings = settings
        self.vocab_size = vocab_size
        self.networks = networks
        self.counts_V = counts_V
        parts: dict[str, Any] = {} if networks is None else dict(networks.items())
        self.reader = ImportanceReader(settings, parts.get("importance"), counts_V)
        self.curriculum = settings.make_curriculum()
        self.total_steps: int | None = None
        self._rate_head = parts.get("rate")
        self._adaptive = None if settings.form == "p0" else self._bound(0.0)
        if settings.form != "p0" or self.curriculum is not None:
            self.train_objective = settings.form + ("" if self.curriculum is None else "+curriculum")

    def begin(self, total_steps: int) -> None:
        self.total_steps = total_steps

    def for_evaluation(self, pairs: bool = False, replicates: int = 8) -> Objective:
        return self.p0.for_evaluation(pairs, replicates)

    def native(self, step: int) -> Objective | None:
        if self.settings.form == "p0" or (self.settings.depends_on_progress and self.total_steps is None):
            return None
        return self._bound(self._progress(step))

    def transition(self, step: int) -> str | None:
        if self.curriculum is None or step == 0:
            return None
        before, now = (self.curriculum.stage(self._progress(s)) for s in (step - 1, step))
        return None if now == before else f"curriculum stage {before} -> {now} ({STAGES[now - 1]})"

    def _bound(self, progress: float) -> AdaptiveBound:
        mask_id, sampling = self.p0.mask_token_id, self.p0.noise_sampling
        return AdaptiveBound(mask_id, self.settings, self.reader, self._rate_head, sampling, progress)

    def _progress(self, step: int) -> float:
        return progress_of(step, self.total_steps) if self.settings.depends_on_progress else 0.0

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
        progress = self._progress(int(key.row_steps[0]))  # in training all rows are of one step
        scored_BL = scored_mask(batch)
        token_weights_BL = None
        if self.curriculum is not None and importance is not None and self.curriculum.pace(progress) < 1.0:
            token_weights_BL = self.curriculum.weights(importance.values_BL, scored_BL, progress)
        if self._adaptive is not None:
            found = self._adaptive.costs(
                model, batch, key, num_scored, device, accuracy, importance, progress, token_weights_BL
            )
        elif token_weights_BL is not None:
            found = self._weighted_p0(model, batch, key, num_scored, device, accuracy, token_weights_BL)
        else:
            output = self.p0(model, batch, key, num_scored, device, accuracy)
            if importance is None:
                return output
            found = TokenCosts(output, output.token_nll_N, None)
        summary = AdaptiveSummary(None, None)
        if importance is not None:
            summary = self._learn(found, importance, scored_BL, num_scored, device)
        if self.curriculum is not None:
            summary.stage, summary.pace = self.curriculum.stage(progress), self.curriculum.pace(progress)
        found.output.summary = summary
        return found.output

    def _weighted_p0(
        self,
        model: Any,
        batch: Batch,
        key: NoiseKey,
        num_scored: int | torch.Tensor,
        device: torch.device | str,
        accuracy: bool,
        token_weights_BL: np.ndarray,
    ) -> TokenCosts:
        """P0 in the earlier stages of a curriculum; the output's weights remain those of the bound."""
        corruption = self.p0.corrupt(scored_mask(batch), key)
        hidden = hide(model, batch, corruption.masked_BL, self.p0.mask_token_id, device)
        outputs = hidden.cross_entropy(model, corruption.weights_B[:, None] * token_weights_BL, accuracy)
        output = ObjectiveOutput(
            loss=outputs.loss / num_scored,
            rows_N=hidden.rows_N,
            columns_N=hidden.columns_N,
            token_nll_N=outputs.token_nll,
            token_weights_N=corruption.weights_B[hidden.rows_N],
            token_correct_N=outputs.token_correct,
            row_metrics={"noise_level": corruption.noise_level_B, "masking_rate": corruption.masking_rate_B},
        )
        return TokenCosts(output, outputs.token_nll, hidden)

    def _learn(
        self,
        found: TokenCosts,
        importance: Importance,
        scored_BL: np.ndarray,
        num_scored: int | torch.Tensor,
        device: torch.device | str,
    ) -> AdaptiveSummary:
        """Add the gradient of the estimator's regression to the loss; say how importance and difficulty go together."""
        rows_N, columns_N = found.output.rows_N, found.output.columns_N
        difficulty_N = difficulty(found.nll_N, self.vocab_size)
        values_N = to_device(torch.from_numpy(importance.values_BL[rows_N, columns_N]).float(), device)
        error_N = weights_N = None
        if importance.learned_BL is not None:
            masked_B = np.bincount(rows_N, minlength=len(scored_BL))
            weights_N = regression_weights(
                torch.from_numpy(scored_BL.sum(-1)[rows_N]), torch.from_numpy(masked_B[rows_N])
            ).float()
            weights_N = to_device(weights_N, device)
            positions_N = to_device(torch.from_numpy(rows_N * scored_BL.shape[1] + columns_N), device)
            error_N = (importance.learned_BL.flatten()[positions_N] - difficulty_N) ** 2
            regression = self.settings.loss_weight * (weights_N * error_N).sum() / num_scored
            # Its gradient, and none of its value: the logged loss is the bound.
            found.output.loss = found.output.loss + (regression - regression.detach())
        sums = pair_sums(values_N, difficulty_N, error_N, weights_N)
        return AdaptiveSummary(importance.values_BL[scored_BL], sums)

    def save(self, folder: Path) -> None:
        """Write ``importance.safetensors``: the networks and the token counts; nothing where there is neither."""
        if self.networks is not None or self.counts_V is not None:
            write_importance(folder, self.settings, self.networks, self.counts_V)

    def load(self, folder: Path) -> None:
        """Read the networks back, for a resumed run.

        Raises:
            UserError: the file is missing, or is one of other settings or another model.
        """
        if self.networks is not None:
            load_into(folder, self.networks)


def adaptive_objective(
    model_config: Any,
    p0: MaskedDiffusionObjective,
    settings: AdaptiveSettings,
    counts_V: np.ndarray | None = None,
    seed: int = 0,
) -> AdaptiveMaskingObjective:
    """The objective with freshly initialised networks for a model.

    Args:
        model_config: has ``hidden_size``, ``num_attention_heads`` and ``vocab_size``.
        p0: uniform masking, as the run is configured otherwise.
        settings: what is adaptive.
        counts_V: token counts of the training data, see :func:`~hf_difflm.objectives.adaptive.frequency_prior.count_tokens`.
        seed: of the initial weights; the global generator is left as it was.
    """
    networks = make_networks(settings, model_config.hidden_size, model_config.num_attention_heads, seed)
    return AdaptiveMaskingObjective(p0, settings, model_config.vocab_size, networks, counts_V)


def make_networks(
    settings: AdaptiveSettings, hidden_size: int, num_attention_heads: int, seed: int = 0
) -> nn.ModuleDict | None:
    """The networks the settings need, on the CPU, in float32; None where they need none."""
    if not settings.learns:
        return None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        networks = nn.ModuleDict({"importance": ImportanceEstimator(hidden_size, num_attention_heads)})
        if settings.form == "p3":
            networks["rate"] = RateHead(hidden_size, num_attention_heads)
    return networks
