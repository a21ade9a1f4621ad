"""Which part of a transformers model a parameter belongs to: embeddings, attention, MLP, norms, head, and which layer."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import extract_model_from_parallel
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

GROUPS = ("embeddings", "attention", "mlp", "norms", "head", "other")
"""The groups, in the order in which they are reported; attention is also what mixes tokens in its place."""

_LAYER_LISTS = {"layers", "layer", "h", "blocks", "block"}
_NORM = re.compile(r"norm|^ln(_|$|\d)", re.IGNORECASE)
_ATTENTION = re.compile(r"attn|attention|mixer|mamba|ssm|conv|rglru|recurrent", re.IGNORECASE)
_MLP = re.compile(
    r"mlp|ffn|feed_?forward|ff$|expert|moe|router|gate|intermediate|output|^fc|^w[123]$|^lin\d|dense", re.IGNORECASE
)
_EMBEDDINGS = re.compile(r"embed|^w[tp]e$|^project_(in|out)$", re.IGNORECASE)
_HEAD = re.compile(r"head|classifier|^score$|^cls$|pooler|predict|qa_outputs|embed_out")


@dataclass(frozen=True)
class GroupedParameter:
    """A parameter, its group of :data:`GROUPS`, and its layer: from 0, None outside of the layers."""

    name: str
    parameter: nn.Parameter
    group: str
    layer: int | None

    @property
    def labels(self) -> list[str]:
        """All that its norm is summed into: ``global``, the group and, within a layer, ``layer_03``."""
        labels = ["global", self.group]
        if self.layer is not None:
            labels.append(layer_label(self.layer))
        return labels


def layer_label(layer: int) -> str:
    """Return the name of a layer in metrics: ``layer_03``."""
    return f"layer_{layer:02d}"


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model within the wrappers of DistributedDataParallel and ``torch.compile``."""
    return extract_model_from_parallel(model, keep_torch_compile=False)


def layers_of(model: nn.Module) -> list[nn.Module]:
    """Return the layers of a model from its input on; those of an encoder before those of its decoder."""
    return [module for _, module in _named_layers(model)]


def _named_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    within: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not name.startswith(within):
            children = [child for child in module.named_children() if next(child[1].parameters(), None) is not None]
            if children and all(_is_layer(name, child) for _, child in children):
                within += (f"{name}.",)
                yield from ((f"{name}.{place}", child) for place, child in children)


def _is_layer(list_name: str, module: nn.Module) -> bool:
    if isinstance(module, GradientCheckpointingLayer):
        return True
    known = list_name.rpartition(".")[2] in _LAYER_LISTS or type(module).__name__.endswith(("Layer", "Block"))
    return known and next(module.children(), None) is not None


def parameter_groups(model: nn.Module) -> list[GroupedParameter]:
    """Return every parameter of a model once, with its group, in the order of ``model.parameters()``.

    Norms are norms wherever they stand. A head tied to the embeddings is the embeddings. Adapters (LoRA) belong to what
    they adapt. Names are those of the model without its wrappers.
    """
    model = unwrapped(model)
    layers = [(f"{name}.", place) for place, (name, _) in enumerate(_named_layers(model))]
    adapted: Any = getattr(model, "get_base_model", None)  # of PEFT
    core: Any = adapted() if callable(adapted) else model
    base = getattr(core, "base_model", None)
    outside_base: set[int] = set()
    if isinstance(base, nn.Module) and base is not core:
        outside_base = {id(p) for p in core.parameters()} - {id(p) for p in base.parameters()}
    tables = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    classes = {name: type(module).__name__ for name, module in model.named_modules()}
    found = []
    for name, parameter in model.named_parameters():
        prefix, layer = next(((prefix, place) for prefix, place in layers if name.startswith(prefix)), ("", None))
        words = name.removeprefix(prefix).split(".")
        owner = classes[name.rpartition(".")[0]]
        if _is_norm(words, owner):
            group = "norms"
        elif layer is not None:
            group = _group_in_layer(words, _classes_on(name, prefix, classes))
        elif id(parameter) in tables:
            group = "embeddings"
        elif id(parameter) in outside_base:
            group = "head"
        else:
            group = _group_outside(words)
        found.append(GroupedParameter(name, parameter, group, layer))
    return found


def _is_norm(words: list[str], owner: str) -> bool:
    """By the class that holds the parameter, or, for classes of other names, by its own."""
    return bool(_NORM.search(owner)) or any(_NORM.search(word) for word in words[-2:])


def _classes_on(name: str, prefix: str, classes: dict[str, str]) -> list[str]:
    """Class names of the modules from below the layer down to the parameter."""
    parts = name.split(".")
    return [classes[".".join(parts[:end])] for end in range(prefix.count(".") + 1, len(parts))]


def _group_in_layer(words: list[str], classes: list[str]) -> str:
    # Names before classes: the projections of GPT-2 are Conv1D. Attention first: BERT's has an "output" too.
    for known_by in (words, classes):
        for group, pattern in (("attention", _ATTENTION), ("mlp", _MLP)):
            if any(pattern.search(name) for name in known_by):
                return group
    return "other"


def _group_outside(words: list[str]) -> str:
    for group, pattern in (("head", _HEAD), ("embeddings", _EMBEDDINGS)):
        if any(pattern.search(word) for word in words):
            return group
    return "other"


class NormSums:
    """Adds up norms of parameters into those of their labels, ``global`` first and layers last; made once for many sums."""

    def __init__(self, parameters: Iterable[GroupedParameter]) -> None:
        places: dict[str, list[int]] = {}
        for place, item in enumerate(parameters):
            for label in item.labels:
                places.setdefault(label, []).append(place)
        order = {label: rank for rank, label in enumerate(("global", *GROUPS))}
        labels = sorted(places, key=lambda label: (order.get(label, len(order)), len(label), label))
        self._places = {label: places[label] for label in labels}

    def of(self, norms: Sequence[float | None]) -> dict[str, float]:
        """Return the norm of each label from those of its parameters; None is left out."""
        found = {}
        for label, places in self._places.items():
            known = [norm for place in places if (norm := norms[place]) is not None]
            if known:
                found[label] = math.hypot(*known)
        return found


def rounded(value: float) -> float:
    """Return a number with the seven digits that float32 knows."""
    return float(f"{value:.7g}")
