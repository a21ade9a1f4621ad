"""Clipping whose norms, tensor by tensor, are kept for those that report them."""

from __future__ import annotations

from typing import Any

import torch
from accelerate.utils import DistributedType

from ...callbacks.reports import GradientNorms, reports_of
from .step_log import StepLogPart

_WHOLE = (DistributedType.NO, DistributedType.MULTI_GPU, DistributedType.MULTI_CPU)


class ClippingPart(StepLogPart):
    """At logging steps clips as the Trainer does, to the bit, and puts the norm of each gradient on the board.

    To clip takes the norm of every gradient anyway; a callback that takes them once more doubles the time.
    """

    def _clip_grad_norm(self, model: Any) -> Any:
        if self.accelerator.distributed_type not in _WHOLE or not self._logs_after_this_step():
            return super()._clip_grad_norm(model)
        parameters = [parameter for parameter in model.parameters() if parameter.grad is not None]
        gradients = [parameter.grad for parameter in parameters]
        if not gradients or not all(_is_plain(gradient, gradients[0].device) for gradient in gradients):
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        norms_N = torch.stack(torch._foreach_norm(gradients, 2.0))
        norm = torch.linalg.vector_norm(norms_N)
        torch.nn.utils.clip_grads_with_norm_(parameters, self.args.max_grad_norm, norm)
        reports_of(self.state).gradient_norms = GradientNorms(self.state.global_step + 1, parameters, norms_N)
        return norm


def _is_plain(gradient: torch.Tensor, device: torch.device) -> bool:
    """Whether it is whole, dense and in float32: what the Trainer's clipping takes in one pass, without conversions."""
    return (
        type(gradient) is torch.Tensor
        and gradient.dtype is torch.float32
        and gradient.layout is torch.strided
        and gradient.device == device
    )
