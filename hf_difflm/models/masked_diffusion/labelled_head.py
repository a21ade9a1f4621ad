"""LM head and cross-entropy in chunks of labelled positions, the gradients made in the forward pass.

The weight of each position in the loss is known before the head runs, so the gradient of a chunk's logits, w (softmax -
onehot), is as well: it becomes gradients of hidden states and head at once, and the logits are forgotten. No tensor of all
labelled positions times the vocabulary exists, and no product is computed twice. (Liger Kernel does so for a mean over
positions, arXiv 2410.10989, section 3.2.) ``torch.nn.functional.linear_cross_entropy`` of torch 2.13 is not used: it weighs
classes, not positions; it makes gradients in the forward pass only where it sums or averages, and then does not tell what
each token costs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

IGNORED = -100
"""The label of a position that only fills up a shape: it costs nothing and counts for nothing."""

_CHUNK_BYTES = {"cpu": 2**26}
_CHUNK_BYTES_ELSEWHERE = 2**29
_FEW_ROWS, _FEW_WIDE_ROWS, _WIDE = 8, 6, 512
_LARGE_WEIGHT = 2**22  # 16 MiB in float32


def _any_global_hook() -> bool:
    """Whether a hook of every module is set; torch 2.6 has no function that says so."""
    every = torch.nn.modules.module
    before = every._global_forward_pre_hooks or every._global_backward_pre_hooks
    return bool(before or every._global_forward_hooks or every._global_backward_hooks)


def automatic_chunk_rows(vocabulary: int, device_type: str) -> int:
    """Return the most labelled positions whose float32 logits take at most 64 MiB on a CPU, 512 MiB elsewhere; at least 1.

    On a CPU larger buffers are slower, too; a GPU wants large products.
    """
    return max(_CHUNK_BYTES.get(device_type, _CHUNK_BYTES_ELSEWHERE) // (4 * vocabulary), 1)


def chunk_rows(rows: int, vocabulary: int, device: torch.device, head_chunk_rows: int | None = None) -> int:
    """Return how many of ``rows`` labelled positions the head takes at once.

    Args:
        rows: labelled positions.
        vocabulary: columns of the logits.
        device: where they are.
        head_chunk_rows: most positions of a chunk; 0: all at once; None: :func:`automatic_chunk_rows`.
    """
    if head_chunk_rows is None:
        head_chunk_rows = automatic_chunk_rows(vocabulary, device.type)
    if head_chunk_rows == 0 or rows <= head_chunk_rows:
        return rows
    chunks = -(-rows // head_chunk_rows)
    return -(-rows // chunks)  # of nearly one size, rather than a small one at the end


def reads_plainly(head: nn.Module, hidden_ND: torch.Tensor) -> bool:
    """Whether a product with the weight of ``head`` is all that calling it would do.

    So it is with ``nn.Linear`` itself alone, with plain tensors on the device of the hidden states, and with nothing that
    waits for its call: no adapter around it, no quantisation, no parametrisation, no hook, no weight that is elsewhere until
    then. (ZeRO-3's own hooks bring the weight, which is brought to whoever reads it as well.)
    """
    if type(head) is not nn.Linear:
        return False
    hooks = (head._forward_hooks, head._forward_pre_hooks, head._backward_hooks, head._backward_pre_hooks)
    return (
        "forward" not in head.__dict__  # in whose place accelerate puts its hooks
        and all(_is_plain(tensor, hidden_ND.device) for tensor in (head.weight, head.bias) if tensor is not None)
        and all(_is_deepspeed(hook) for kind in hooks for hook in kind.values())
        and not _any_global_hook()
    )


def _is_plain(tensor: torch.Tensor, device: torch.device) -> bool:
    """A fake tensor, of an estimate of memory, is as plain as the one that it stands for."""
    plain = type(tensor) in (nn.Parameter, torch.Tensor) or hasattr(tensor, "fake_mode")
    return plain and tensor.device == device


def _is_deepspeed(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).startswith("deepspeed.")


def product_of_few_rows(hidden_ND: torch.Tensor, weight_VD: torch.Tensor) -> torch.Tensor | None:
    """(N, V) product with the weight of a head, the other way round; None where that is not faster.

    On a CPU, 2 to 8 rows (6 of wide ones) by a weight that no cache holds take 1.2 to 5 times as long as ``weight @ hidden``
    (``benchmarks/few_rows.py``, one and two threads). In the backward pass nothing is won, and a compiler knows better.
    """
    plain = (
        hidden_ND.device.type == "cpu"
        and hidden_ND.dtype == weight_VD.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )
    most = _FEW_ROWS if weight_VD.shape[1] <= _WIDE else _FEW_WIDE_ROWS
    if not plain or not 2 <= len(hidden_ND) <= most or weight_VD.numel() < _LARGE_WEIGHT:
        return None
    return (weight_VD @ hidden_ND.T).T.contiguous()


def can_chunk(head: nn.Module, hidden_ND: torch.Tensor, weights_N: torch.Tensor) -> bool:
    """Whether :func:`chunked_cross_entropy` serves; else all logits are made at once.

    It does not serve a head that has to be called (:func:`reads_plainly`), weights of the loss that are learned, float16,
    whose small gradients need the scaled loss, and ``torch.compile``, which fuses by itself.
    """
    return (
        reads_plainly(head, hidden_ND)
        and not weights_N.requires_grad
        and _compute_dtype(hidden_ND) != torch.float16
        and not torch.compiler.is_compiling()
    )


def chunked_cross_entropy(
    hidden_ND: torch.Tensor,
    head: nn.Linear,
    labels_N: torch.Tensor,
    weights_N: torch.Tensor,
    mask_token_id: int,
    rows: int,
    output_correct: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Return the weighted sum of the cross-entropies under SUBS, and its terms.

    Products are computed in the type of the hidden states or that of autocast; all sums are kept in float32 (float64 where
    that is the type). There is no second derivative.

    Args:
        hidden_ND: (N, D) hidden states, N at least 1.
        head: projection to the vocabulary, with or without a bias.
        labels_N: (N,) ids, :data:`IGNORED` at positions that cost nothing.
        weights_N: (N,) weight of each position in the loss.
        mask_token_id: the token that has probability 0.
        rows: most positions whose logits exist at a time, at least 1.
        output_correct: also return whether the likeliest token is the label.

    Returns:
        The loss, a scalar; (N,) the cross-entropy of each position in nats, detached; (N,) bool or None.
    """
    inputs: tuple[torch.Tensor | None, ...] = (hidden_ND, head.weight, head.bias)
    if not torch.is_grad_enabled():  # of which a Function's needs_input_grad knows nothing
        inputs = tuple(None if tensor is None else tensor.detach() for tensor in inputs)
    loss, nll_N, correct_N = _ChunkedCrossEntropy.apply(
        *inputs, labels_N, weights_N, mask_token_id, rows, output_correct
    )
    return loss, nll_N, correct_N if output_correct else None


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
        weights_N: torch.Tensor,
        mask_token_id: int,
        rows: int,
        output_correct: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        compute = _compute_dtype(hidden_ND)
        weights_N = weights_N.to(_sum_dtype(compute)).masked_fill(labels_N == IGNORED, 0.0)
        # Autocast would cast the weight anew for each chunk.
        with torch.autocast(hidden_ND.device.type, enabled=False):
            chunks = _Chunks(weight_VD.to(compute), bias_V, mask_token_id, rows, ctx.needs_input_grad)
            parts = zip(hidden_ND.to(compute).split(rows), labels_N.split(rows), weights_N.split(rows), strict=True)
            nll, correct, gradient = zip(*(chunks(*part, output_correct) for part in parts), strict=True)
        nll_N, correct_N, gradient_ND = torch.cat(nll), torch.cat(correct), torch.cat(gradient)
        # In the types of the inputs, as autograd wants them.
        ctx.save_for_backward(
            gradient_ND.to(hidden_ND.dtype) if ctx.needs_input_grad[0] else None,
            None if chunks.gradient_VD is None else chunks.gradient_VD.to(weight_VD.dtype),
            None if chunks.gradient_V is None or bias_V is None else chunks.gradient_V.to(bias_V.dtype),
        )
        ctx.mark_non_differentiable(nll_N, correct_N)
        return (nll_N * weights_N).sum(), nll_N, correct_N

    @staticmethod
    def backward(ctx: Any, grad_loss: torch.Tensor, *_: Any) -> tuple[torch.Tensor | None, ...]:
        # Not in place: a graph that is kept goes backward twice.
        ready = (None if gradient is None else gradient * grad_loss for gradient in ctx.saved_tensors)
        return (*ready, None, None, None, None, None)


class _Chunks:
    """One chunk after the other through the same buffer; the gradients of the head add up."""

    def __init__(
        self,
        weight_VD: torch.Tensor,
        bias_V: torch.Tensor | None,
        mask_token_id: int,
        rows: int,
        needs_gradient: tuple[bool, ...],
    ) -> None:
        self._weight_VD, self._bias_V, self._mask_token_id = weight_VD, bias_V, mask_token_id
        self._needs_hidden, self._needs_weight, self._needs_bias = needs_gradient[:3]
        self._logits_RV = weight_VD.new_empty(rows, len(weight_VD))
        self.gradient_VD: torch.Tensor | None = None
        self.gradient_V: torch.Tensor | None = None

    def __call__(
        self, hidden_RD: torch.Tensor, labels_R: torch.Tensor, weights_R: torch.Tensor, output_correct: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return (R,) cross-entropies, (R,) whether the label is likeliest, if asked for, and (R, D) gradients, if needed."""
        is_ignored_R, compute = labels_R == IGNORED, hidden_RD.dtype
        labels_R1 = labels_R.masked_fill(is_ignored_R, 0).unsqueeze(-1)
        product_RV = torch.mm(hidden_RD, self._weight_VD.T, out=self._logits_RV[: len(hidden_RD)])
        logits_RV = product_RV.to(weights_R.dtype)
        if self._bias_V is not None:
            logits_RV += self._bias_V
        logits_RV[:, self._mask_token_id] = float("-inf")
        correct_R = logits_RV.argmax(-1) == labels_R if output_correct else is_ignored_R
        # softmax = e / s with e = exp(logits - max), in place.
        max_R1 = logits_RV.amax(-1, keepdim=True)
        label_R1 = logits_RV.gather(-1, labels_R1)
        e_RV = logits_RV.sub_(max_R1).exp_()
        s_R1 = e_RV.sum(-1, keepdim=True)
        nll_R = (max_R1 + s_R1.log() - label_R1).squeeze(-1).masked_fill(is_ignored_R, 0.0)
        if not (self._needs_hidden or self._needs_weight or self._needs_bias):
            return nll_R, correct_R, hidden_RD
        # s (softmax - onehot); the rest of the gradient, w / s, goes to the narrow factor of each product.
        e_RV.scatter_add_(-1, labels_R1, -s_R1)
        scale_R1 = weights_R.unsqueeze(-1) / s_R1
        error_RV = e_RV if e_RV.dtype == compute else product_RV.copy_(e_RV)
        if self._needs_weight:
            self._add_to_head(error_RV, (hidden_RD * scale_R1).to(compute), weights_R.dtype)
        if self._needs_bias:
            gradient_V = e_RV.T @ scale_R1.squeeze(-1)
            self.gradient_V = gradient_V if self.gradient_V is None else self.gradient_V.add_(gradient_V)
        gradient_RD = error_RV @ self._weight_VD * scale_R1 if self._needs_hidden else hidden_RD
        return nll_R, correct_R, gradient_RD

    def _add_to_head(self, error_RV: torch.Tensor, hidden_RD: torch.Tensor, dtype: torch.dtype) -> None:
        if self.gradient_VD is None:
            self.gradient_VD = (error_RV.T @ hidden_RD).to(dtype)
        elif dtype == error_RV.dtype:
            self.gradient_VD.addmm_(error_RV.T, hidden_RD)
        else:
            self.gradient_VD += error_RV.T @ hidden_RD


def _compute_dtype(hidden_ND: torch.Tensor) -> torch.dtype:
    device = hidden_ND.device.type
    # Autocast leaves float64 alone.
    if torch.is_autocast_enabled(device) and hidden_ND.dtype != torch.float64:
        return torch.get_autocast_dtype(device)
    return hidden_ND.dtype


def _sum_dtype(compute: torch.dtype) -> torch.dtype:
    return torch.promote_types(compute, torch.float32)
