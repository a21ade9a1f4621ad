"""What objectives of masks share: the form of the bound, how counts or times are drawn, what a hidden token weighs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..models.masked_diffusion.noise_schedule import NoiseSchedule
from .base import Objective
from .count_laws import CountLaw
from .gradient_moments import GradientMoments
from .names import weight_power

UNIFORM = CountLaw()


class MaskingObjective(Objective):
    """Base: the settings of the noise, checked, and the law that is measured in training.

    Args:
        mask_token_id: id of the mask token.
        loss_form: ``any_order`` (exact counts) or ``time`` (Bernoulli masks).
        noise_sampling: ``stratified`` over the whole optimiser batch, ``iid``, or of the any-order form ``pairs``: stratified
            counts, each sequence read under a mask and under its complement.
        schedule: noise schedule of the time form; the any-order form is the same number under every schedule.
        static_shapes: ask the LM head for as many positions in every micro-batch, so that a compiled step has one shape: the
            most that stratified counts or pairs can hide. All micro-batches must have one shape and no padding.
        count_law: of the any-order form: how many tokens are hidden.
        loss_weight: of the any-order form: ``nelbo``, the bound's; ``flat`` or a power q, k^-q: another mixture of the same
            cross-entropies.

    Raises:
        ValueError: an unknown form or sampling; pairs, laws, weights or static shapes where they do not exist.
    """

    bound = "nelbo"
    stochastic = True
    form = "p0"
    """The bound whose weights are changed, as ``train_objective`` calls it."""

    def __init__(
        self,
        mask_token_id: int,
        loss_form: str,
        noise_sampling: str,
        schedule: NoiseSchedule | None,
        static_shapes: bool,
        count_law: CountLaw,
        loss_weight: str,
    ):
        if loss_form not in ("any_order", "time"):
            raise ValueError(f"loss_form must be any_order or time, got {loss_form!r}")
        if noise_sampling not in ("stratified", "iid", "pairs"):
            raise ValueError(f"noise_sampling must be stratified, iid or pairs, got {noise_sampling!r}")
        if noise_sampling == "pairs" and loss_form != "any_order":
            raise ValueError(f"pairs is of exact counts: loss_form must be any_order, got {loss_form!r}")
        plain = count_law == UNIFORM and loss_weight == "nelbo"
        if not plain and (noise_sampling == "pairs" or loss_form != "any_order"):
            raise ValueError(
                f"count_law {count_law.name} with loss_weight {loss_weight} is of exact counts, each sequence read once, not "
                f"of loss_form {loss_form}, {noise_sampling}"
            )
        if static_shapes and (loss_form != "any_order" or noise_sampling == "iid" or count_law.name == "optimal"):
            raise ValueError(
                f"static shapes need counts that have a bound, not loss_form {loss_form}, {noise_sampling}, {count_law.name}"
            )
        self.mask_token_id = mask_token_id
        self.loss_form = loss_form
        self.noise_sampling = noise_sampling
        self.schedule = schedule or NoiseSchedule()
        self.static_shapes = static_shapes
        self.count_law = count_law
        self.loss_weight = loss_weight
        if weight_power(loss_weight) is not None:
            weight = loss_weight if loss_weight == "flat" else f"k^-{loss_weight}"
            self.train_objective = f"{self.form}+{count_law.describe()}+{weight}"
        self._moments = GradientMoments() if count_law.name == "optimal" else None

    @property
    def reads(self) -> int:
        """How many times the model reads each sequence with masks."""
        return 2 if self.noise_sampling == "pairs" else 1

    def after_step(self, step: int) -> None:
        if self._moments is not None:
            self._moments.after_step(step)
            self.count_law = replace(self.count_law, moments=self._moments.moments)

    def save(self, folder: Path) -> None:
        if self._moments is not None:
            self._moments.save(folder)

    def load(self, folder: Path) -> None:
        if self._moments is not None:
            self._moments.load(folder)
            self.count_law = replace(self.count_law, moments=self._moments.moments)

    def _watched(
        self,
        rates_N: np.ndarray,
        weights_N: np.ndarray,
        num_scored: int | torch.Tensor,
        device: torch.device | str,
    ) -> dict[str, Callable[[torch.Tensor], None]]:
        """What the model is called with so that the law is measured: see :meth:`GradientMoments.watch`; most laws are not."""
        if self._moments is None or not torch.is_grad_enabled():
            return {}
        return {"on_labelled_gradient": self._moments.watch(rates_N, weights_N, num_scored, device)}


def bernoulli_rates(schedule: NoiseSchedule, u_B: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(B,) each, of the times 1 - u: the probability that a token is masked, the weight of one that is, sigma."""
    t_B = torch.from_numpy(1.0 - u_B)  # in (0, 1]: the rate is infinite at 0
    p_B = schedule.mask_probability(t_B).numpy()
    with np.errstate(divide="ignore"):
        sigma_B = -np.log1p(-np.minimum(p_B, 1.0))
    return p_B, schedule.rate(t_B).numpy(), sigma_B


def complements(k_R: np.ndarray, counts_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(R,) each, of k hidden of L tokens in complementary pairs: the weight of a hidden token, sigma."""
    halves_R = np.divide(counts_R, 2.0 * k_R, out=np.zeros(len(k_R)), where=k_R > 0)
    weights_R = np.where((k_R == counts_R) & (k_R > 0), 1.0, halves_R)  # all hidden: there is no other half
    return weights_R, np.abs(np.log1p(-k_R / (counts_R + 1)))  # no -0.0 in the log
