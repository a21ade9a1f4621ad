"""Tables trained to the optimum of a training loss.

The loss of a table is a sum over its distributions, each of which can be chosen by itself. For a cross-entropy of whatever
weights a_v, that of one is sum_v -a_v log mu_v: its gradient at the logits is W mu - a with W = sum a, so two gradients tell
W and a, and mu = a / W is the optimum. Other losses begin there or, where that is no distribution, at the uniform one; go on
with damped steps mu_v <- mu_v - g_v / W, which would be exact for a cross-entropy; and end with Newton's steps, a block of
second derivatives for each distribution, from differences of gradients. The rates of P3 are exact after one step, for their
cost is W (s / s_hat + log s_hat) in the mean.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from .numbers import ObjectiveNumber
from .tabular import TabularDenoisers, TabularRateHead

GOOD_ENOUGH = 1e-9
"""Nats, the sum over all denoisers: what Newton's step promises to gain still."""
_DAMPED_STEPS, _NEWTON_STEPS, _DAMPING = 3, 15, 0.6
_SMALLEST_PART = 0.02  # that one step may leave of a probability
_DIFFERENCE = 1e-4
_LEAST = 1e-300
_LEAST_PROBABILITY = 1e-12


def train(
    number: ObjectiveNumber, model: TabularDenoisers, sources_DS: np.ndarray, rate_head: TabularRateHead | None = None
) -> float:
    """Give each denoiser the tables that minimise its training loss on its source.

    Args:
        number: whose training loss.
        model: D denoisers; a distribution that is never asked for becomes the uniform one.
        sources_DS: (D, S) probabilities.
        rate_head: of P3, trained with them.

    Returns:
        Nats that all together could still gain, as Newton's step promises it: about 0.
    """
    return _Training(number, model, sources_DS, rate_head).run()


class _Training:
    def __init__(
        self,
        number: ObjectiveNumber,
        model: TabularDenoisers,
        sources_DS: np.ndarray,
        rate_head: TabularRateHead | None,
    ) -> None:
        self.number, self.model, self.sources_DS = number, model, sources_DS
        self.logits = model.logits_DTZLV
        self.parameters: list[nn.Parameter] = [self.logits] + ([] if rate_head is None else [rate_head.scores_X])
        self.weight_DTZL1 = self._begin()

    def run(self) -> float:
        self._backward()
        gains = self._gains()
        worse = torch.zeros_like(gains[0], dtype=torch.bool)
        for step in range(_DAMPED_STEPS + _NEWTON_STEPS):
            if sum(map(torch.sum, gains)) < GOOD_ENOUGH:
                break
            steps = self._damped_steps()
            if step >= _DAMPED_STEPS:
                steps[0] = torch.where(worse[..., None], steps[0], self._newton_step(steps[0]))
            with torch.no_grad():
                for parameter, change in zip(self.parameters, steps, strict=True):
                    parameter.add_(change)
            self._backward()
            before, gains = gains, self._gains()
            worse = gains[0] > before[0]
        return float(sum(map(torch.sum, gains)))

    def _damped_steps(self) -> list[torch.Tensor]:
        parts = [
            (1 - g / w).clamp(min=_SMALLEST_PART).log()
            for g, w in zip(self._gradients(), self._curvatures(), strict=True)
        ]
        return [_DAMPING * parts[0], *parts[1:]]

    def _newton_step(self, damped: torch.Tensor) -> torch.Tensor:
        """Newton's step of the logits; the damped one where a block of second derivatives has no minimum."""
        gradient, tokens = self._gradients()[0].clone(), self.logits.shape[-1]
        columns = []
        for token in range(tokens):
            with torch.no_grad():
                self.logits[..., token] += _DIFFERENCE
            columns.append((self._backward() - gradient) / _DIFFERENCE)
            with torch.no_grad():
                self.logits[..., token] -= _DIFFERENCE
        hessian = torch.stack(columns, dim=-1) / self.weight_DTZL1[..., None]
        # Nothing changes if all logits do: that direction is given a curvature of its own.
        hessian = (hessian + hessian.transpose(-1, -2)) / 2 + 1 / tokens
        factor, failed = torch.linalg.cholesky_ex(hessian)
        newton = -torch.cholesky_solve((gradient / self.weight_DTZL1)[..., None], factor).squeeze(-1)
        # To first order the step itself, and exact for a token that has next to no probability.
        newton = (1 + newton - newton.amax(-1, keepdim=True)).clamp(min=_SMALLEST_PART).log()
        return torch.where((failed == 0)[..., None], newton, damped)

    def _begin(self) -> torch.Tensor:
        """Put the tables where a cross-entropy would have its optimum; (D, T, Z, L, 1) the weights W."""
        tokens = self.logits.shape[-1]
        with torch.no_grad():
            self.logits.zero_()
        at_uniform = self._backward()
        with torch.no_grad():
            self.logits.add_(torch.linspace(-0.5, 0.5, tokens, dtype=torch.float64))
        moved = self.logits.detach().softmax(-1) - 1 / tokens
        weight = ((self._backward() - at_uniform) * moved).sum(-1, keepdim=True) / moved.square().sum(-1, keepdim=True)
        weight = weight.clamp(min=_LEAST)
        wanted = 1 / tokens - at_uniform / weight
        usable = (weight > _LEAST) & (wanted > -1e-9).all(-1, keepdim=True)
        wanted = torch.where(usable, wanted, 1 / tokens).clamp(min=_LEAST_PROBABILITY)
        with torch.no_grad():
            self.logits.copy_((wanted / wanted.sum(-1, keepdim=True)).log())
        return weight

    def _curvatures(self) -> list[torch.Tensor]:
        """Second derivatives of each parameter, about: those of a cross-entropy."""
        logits = (self.weight_DTZL1 * self.logits.detach().softmax(-1)).clamp(min=_LEAST)
        rates = self.weight_DTZL1.expand(*self.logits.shape[:-1], 1).flatten()
        return [logits, rates][: len(self.parameters)]

    def _gains(self) -> list[torch.Tensor]:
        """Nats that Newton's step promises, of each distribution and each rate."""
        each = [g.square() / w / 2 for g, w in zip(self._gradients(), self._curvatures(), strict=True)]
        return [each[0].sum(-1), *each[1:]]

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _backward(self) -> torch.Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        self.number.backward(self.model, self.sources_DS)
        assert self.logits.grad is not None
        return self.logits.grad
