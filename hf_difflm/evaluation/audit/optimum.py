"""Tables trained to the optimum of a training loss.

The loss of a table is a sum over its distributions, each of which can be chosen by itself. For a cross-entropy of whatever
weights a_v, that of one is sum_v -a_v log mu_v: its gradient at the logits is W mu - a with W = sum a, so two gradients tell
W and a, and mu = a / W is the optimum. Other losses begin there or, where that is no distribution, at the uniform one, and go
on with Newton's steps: a block of second derivatives for each distribution, from differences of gradients, in terms of mu,
in which the bounds are convex. The rates of P3 are exact after one step, for their cost is W (s / s_hat + log s_hat) in the
mean.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from .numbers import ObjectiveNumber
from .tabular import TabularDenoisers, TabularRateHead

GOOD_ENOUGH = 1e-9
"""Nats, the sum over all denoisers: what Newton's step promises to gain still."""
_STEPS, _DAMPING = 40, 0.6
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
        for _ in range(_STEPS):
            if self._gain() < GOOD_ENOUGH:
                break
            # As for a cross-entropy: exact for rates, and for distributions where nothing better is known.
            pairs = zip(self._gradients(), self._curvatures(), strict=True)
            steps = [(1 - gradient / curvature).clamp(min=_SMALLEST_PART).log() for gradient, curvature in pairs]
            steps[0] = self._newton_step(_DAMPING * steps[0])
            with torch.no_grad():
                for parameter, step in zip(self.parameters, steps, strict=True):
                    parameter.add_(step)
            self._backward()
        return self._gain()

    def _newton_step(self, otherwise: torch.Tensor) -> torch.Tensor:
        """Newton's step of the distributions, as one of the logits; ``otherwise`` where the loss is not convex."""
        gradient = self._gradients()[0].clone()
        hessian, mu = self._hessian(gradient), self.logits.detach().softmax(-1)
        # Nothing changes if all logits do: that of the likeliest token is held. (A curvature for the sum of all would let
        # the rounding of likely tokens into the steps of those that have next to no probability.)
        held = F.one_hot(mu.argmax(-1), mu.shape[-1]).double().diag_embed()
        factor, failed = torch.linalg.cholesky_ex(hessian / self.weight_DTZL1[..., None] + held)
        step = -torch.cholesky_solve((gradient / self.weight_DTZL1)[..., None], factor).squeeze(-1)
        change = step - (mu * step).sum(-1, keepdim=True)  # of mu, as a share of it
        whole = ((1 - _SMALLEST_PART) / (-change.amin(-1, keepdim=True)).clamp(min=_LEAST)).clamp(max=1)
        return torch.where((failed == 0)[..., None], (1 + whole * change).log(), otherwise)

    def _hessian(self, gradient: torch.Tensor) -> torch.Tensor:
        """(D, T, Z, L, V, V) J' H J: H of the loss in terms of mu, J of the softmax, whose own curvature is taken away."""
        mu, columns = self.logits.detach().softmax(-1), []
        for token in range(mu.shape[-1]):
            with torch.no_grad():
                self.logits[..., token] += _DIFFERENCE
            columns.append((self._backward() - gradient) / _DIFFERENCE)
            with torch.no_grad():
                self.logits[..., token] -= _DIFFERENCE
        hessian, crossed = torch.stack(columns, dim=-1), gradient[..., None] * mu[..., None, :]
        return (hessian + hessian.mT) / 2 - gradient.diag_embed() + crossed + crossed.mT

    def _begin(self) -> torch.Tensor:
        """Put the tables where a cross-entropy would have its optimum; (D, T, Z, L, 1) the weights W."""
        tokens = self.logits.shape[-1]
        with torch.no_grad():
            self.logits.zero_()
        at_uniform = self._backward().clone()
        # At the uniform distribution J' H J is that of diag(a), plus what is not of -a log mu.
        trace = self._hessian(at_uniform).diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
        weight = (trace * tokens / (tokens - 1)).clamp(min=_LEAST)
        with torch.no_grad():
            self.logits.add_(torch.linspace(-0.5, 0.5, tokens, dtype=torch.float64))
        moved = self.logits.detach().softmax(-1) - 1 / tokens
        exact = ((self._backward() - at_uniform) * moved).sum(-1, keepdim=True) / moved.square().sum(-1, keepdim=True)
        wanted = 1 / tokens - at_uniform / exact.clamp(min=_LEAST)
        usable = (weight > _LEAST) & ((exact / weight - 1).abs() < 0.01) & (wanted > -1e-9).all(-1, keepdim=True)
        wanted = torch.where(usable, wanted, 1 / tokens).clamp(min=_LEAST_PROBABILITY)
        with torch.no_grad():
            self.logits.copy_((wanted / wanted.sum(-1, keepdim=True)).log())
        return weight

    def _curvatures(self) -> list[torch.Tensor]:
        """Second derivatives of each parameter, about: those of a cross-entropy."""
        logits = (self.weight_DTZL1 * self.logits.detach().softmax(-1)).clamp(min=_LEAST)
        rates = self.weight_DTZL1.expand(*self.logits.shape[:-1], 1).flatten()
        return [logits, rates][: len(self.parameters)]

    def _gain(self) -> float:
        pairs = zip(self._gradients(), self._curvatures(), strict=True)
        return sum(float((gradient.square() / curvature).sum()) / 2 for gradient, curvature in pairs)

    def _gradients(self) -> list[torch.Tensor]:
        return [parameter.grad for parameter in self.parameters if parameter.grad is not None]

    def _backward(self) -> torch.Tensor:
        for parameter in self.parameters:
            parameter.grad = None
        self.number.backward(self.model, self.sources_DS)
        assert self.logits.grad is not None
        return self.logits.grad
