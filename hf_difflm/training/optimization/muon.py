"""Muon for hidden matrices and AdamW for all else, in one optimiser: its groups say which of the two they are for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from ...flops.newton_schulz import newton_schulz_flops
from ..launch.shards import local_part, shard_like, whole

MUON = "muon"
"""What ``optim`` calls it, and the flag of the groups whose weights are matrices."""
MOMENTUM = 0.95
NS_STEPS = 5
# Of the quintic iteration x -> a x + b x^3 + c x^5, with the steepest slope at 0 that still ends near 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_EPSILON = 1e-7


def muon_of(optimizer: Any) -> Muon | None:
    """The Muon that ``optimizer`` is, or that accelerate has wrapped in it; None where it is another."""
    inner = getattr(optimizer, "optimizer", optimizer)
    return inner if isinstance(inner, Muon) else None


def newton_schulz(matrices: Tensor, steps: int = NS_STEPS, dtype: torch.dtype | None = None) -> Tensor:
    """Return (..., rows, columns) matrices with the singular vectors of those given and singular values from 0.7 to 1.2.

    The iteration is that of https://kellerjordan.github.io/posts/muon/ and of ``torch.optim.Muon``, which has it in
    bfloat16 alone. That is fast on GPUs; CPUs without AVX-512 take 25 times as long for it as for float32.

    Args:
        matrices: (..., rows, columns); zero stays zero.
        steps: iterations.
        dtype: that it computes in; None: float32 on a CPU, bfloat16 elsewhere.

    Returns:
        A new tensor of the shape of ``matrices`` in ``dtype``.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(dtype or (torch.float32 if matrices.device.type == "cpu" else torch.bfloat16))
    if matrices.ndim > 3:
        x = x.flatten(0, -3)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_EPSILON)
    multiply = torch.addmm if x.ndim == 2 else torch.baddbmm
    for _ in range(steps):
        gram = x @ x.mT
        x = multiply(x, multiply(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(matrices.shape)


class Muon(torch.optim.Optimizer):
    """Muon (https://kellerjordan.github.io/posts/muon/) for groups with ``muon=True``, AdamW for all others.

    Of a matrix with gradient G: B <- m B + (1 - m) G; U = NS((1 - m) G + m B), Nesterov's momentum made orthogonal by
    :func:`newton_schulz`; W <- (1 - lr weight_decay) W - 0.2 sqrt(max(rows, columns)) lr U. The factor gives the update the
    root mean square that AdamW's has (arXiv 2502.16982, eq. 4; ``adjust_lr_fn="match_rms_adamw"`` of ``torch.optim.Muon``),
    and is the same for a matrix that is stored transposed. A tensor of three dimensions is a stack of matrices.

    One optimiser of two rules, so that schedules, checkpoints and engines that know of one keep both. Under FSDP2 each
    process puts the update of a matrix together, computes the iteration as a whole, and keeps its share. To clip the
    gradient changes no update of a matrix but by its weight in the momentum: U has lost its length.

    What is equal between cuts of one optimiser batch: gradients to 1e-5, as with AdamW. The iteration raises small singular
    values, and the rounding in them: after 6 steps of 16 sequences at once or 2 at a time, weights were measured to differ by
    1.4e-5 of the way that they had gone in float32 (CPUs), and by 0.07 of it in bfloat16 (GPUs), for mdlm and ar alike.

    Args:
        params: weights, or groups of them.
        lr: learning rate of groups that do not say their own; the same holds for what follows.
        betas: of AdamW.
        eps: of AdamW.
        weight_decay: decoupled, of both.
        momentum: of Muon.
        ns_steps: iterations of Newton-Schulz.

    Raises:
        ValueError: a value that makes no optimiser, or a weight of a ``muon`` group that is no matrix.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = MOMENTUM,
        ns_steps: int = NS_STEPS,
    ) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"momentum must be at least 0 and below 1, got {momentum}")
        if not 1 <= ns_steps < 100:
            raise ValueError(f"ns_steps must be from 1 to 99, got {ns_steps}")
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "ns_steps": ns_steps,
            MUON: False,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; without ``muon=True`` it is AdamW's, as is what an objective trains beside the model."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        flat = [tuple(parameter.shape) for parameter in group["params"] if parameter.ndim < 2]
        if group[MUON] and flat:
            raise ValueError(f"Muon is for matrices, and {flat[0]} is the shape of none")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradient = [parameter for parameter in group["params"] if parameter.grad is not None]
            if group[MUON]:
                for parameter in with_gradient:
                    self._orthogonal_step(parameter, group)
            elif with_gradient:
                self._adamw_step(with_gradient, group)
        return loss

    @property
    def adamw_learning_rate(self) -> float | None:
        """The rate that AdamW's weights have now; None where there are none."""
        return next((float(group["lr"]) for group in self.param_groups if not group[MUON] and group["params"]), None)

    def flops(self) -> float:
        """The FLOPs of Newton-Schulz in one step, of whole matrices, however many processes compute them."""
        return sum(
            newton_schulz_flops([p.shape for p in group["params"]], group["ns_steps"])
            for group in self.param_groups
            if group[MUON]
        )

    def _orthogonal_step(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        assert parameter.grad is not None
        gradient, momentum = local_part(parameter.grad), local_part(state["momentum_buffer"])
        momentum.lerp_(gradient, 1 - group["momentum"])
        update = whole(gradient.lerp(momentum, group["momentum"]), parameter)
        update = shard_like(newton_schulz(update, group["ns_steps"]), parameter)
        weight = local_part(parameter)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(parameter.shape[-2:])))

    def _adamw_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
