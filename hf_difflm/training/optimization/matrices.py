"""Which weights of a network are hidden matrices, whose updates Muon makes orthogonal, and which are not."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

_DENSE = (nn.Linear, Conv1D)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def hidden_matrices(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Part the weights that are trained into hidden matrices and all others, each in the order of the model.

    Hidden matrices are the weights of dense layers (``nn.Linear``, and the ``Conv1D`` of GPT-2, which is transposed), and
    stacks of matrices (E, rows, columns), as those of experts or of BDH's heads, wherever they are. The others are
    embeddings, the LM head - tied or not -, norms, biases, routers that are no dense layer, kernels of convolutions, and
    whatever has one row or one column alone. Queries, keys and values in one weight are one matrix. It is decided by module
    and by identity, never by name, so that a head that is the embedding is an embedding.

    Args:
        model: the network, before anything shards or wraps it.

    Returns:
        The hidden matrices, and the others.
    """
    outer = {id(weight) for weight in _outer_weights(model)}
    hidden: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_dense = isinstance(module, _DENSE) and name == "weight" and parameter.ndim == 2
            is_stack = parameter.ndim == 3 and parameter.shape[0] > 1 and not isinstance(module, _CONVOLUTIONS)
            if (is_dense or is_stack) and min(parameter.shape[-2:]) > 1 and id(parameter) not in outer:
                hidden.add(id(parameter))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [p for p in trained if id(p) in hidden], [p for p in trained if id(p) not in hidden]


def parted_in_words(model: nn.Module) -> str:
    """What Muon trains of ``model`` and what AdamW, for the header of a run log."""
    parts = zip(hidden_matrices(model), ("matrix", "tensor"), ("matrices", "tensors"), strict=True)
    said = [
        f"{len(part):,} {one if len(part) == 1 else many} of {sum(p.numel() for p in part):,} weights"
        for part, one, many in parts
    ]
    return f"Muon trains {said[0]}, AdamW {said[1]}"


def _outer_weights(model: nn.Module) -> list[Any]:
    """Weights of the embeddings and of the LM head."""
    found = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    heads = [m.get_output_embeddings() for m in model.modules() if isinstance(m, PreTrainedModel)]
    known = [head.weight for head in heads if getattr(head, "weight", None) is not None]
    if not known:  # a network of the user's own: its head is what has a row for each token
        size = getattr(getattr(model, "config", None), "vocab_size", None)
        known = [m.weight for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == size]
    return found + known
