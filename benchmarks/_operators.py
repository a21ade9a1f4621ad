"""Kinds of operators in a training step, by their names and shapes in a torch profile."""

from __future__ import annotations

from collections.abc import Sequence

KINDS = (
    "matrix products of the LM head",
    "matrix products of the layers",
    "softmax and cross-entropy over the vocabulary",
    "attention",
    "optimizer and moving average",
    "gradient norms, clipping, scaling and adding of gradients",
    "norms, activations, rotations, copies and all else",
)
KERNELS = ("matrix products", "attention", "fused by the compiler", "optimizer", "copies", "all else")
# By what their names hold, the first that fits.
_KERNELS = {
    "attention": ("flash", "fmha", "attention", "sdpa"),
    "optimizer": ("adam", "multi_tensor"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "xmma", "splitk"),
    "fused by the compiler": ("triton",),
    "copies": ("memcpy", "memset"),
}
_PRODUCTS = ("mm", "addmm", "addmm_", "bmm", "baddbmm", "linear", "matmul")
_CROSS_ENTROPY = ("log_softmax", "nll_loss", "logsumexp")
_OPTIMIZER = ("adam", "lerp")
_GRADIENTS = ("vector_norm", "foreach", "embedding_dense_backward")


def kind_of(name: str, shapes: Sequence[Sequence[int]], vocabulary: int) -> str:
    """Return which of :data:`KINDS` an operator is.

    Args:
        name: as a profile calls it, such as ``aten::mm``.
        shapes: of its arguments, empty where one is no tensor. The head's weights and all of its size have ``vocabulary``
            rows, logits as many columns.
        vocabulary: V.
    """
    plain = name.removeprefix("aten::").lower()
    head, layers, cross_entropy, attention, optimizer, gradients, rest = KINDS
    if plain in _PRODUCTS:
        return head if any(vocabulary in shape for shape in shapes) else layers
    if "attention" in plain:
        return attention
    if any(word in plain for word in _OPTIMIZER):
        return optimizer
    if any(word in plain for word in _CROSS_ENTROPY) or any(shape[-1:] == [vocabulary] for shape in map(list, shapes)):
        return cross_entropy
    if any(word in plain for word in _GRADIENTS) or any(shape[:1] == [vocabulary] for shape in map(list, shapes)):
        return gradients
    return rest


def kind_of_kernel(name: str) -> str:
    """Return which of :data:`KERNELS` a kernel of a GPU is, by its name."""
    plain = name.lower()
    return next((kind for kind, words in _KERNELS.items() if any(word in plain for word in words)), KERNELS[-1])
