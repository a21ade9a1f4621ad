"""Merging adapters into the weights beside them, by the ``merge`` of PEFT's own layers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from ...errors import UserError, first_line

ADAPTER = "default"
"""The name that PEFT gives an adapter."""


def has_adapters(model: Any) -> bool:
    """Whether PEFT has put adapters into a model, by ``get_peft_model`` or by ``add_adapter``."""
    return bool(getattr(model, "peft_config", None))


def without_wrapper(model: Any) -> Any:
    """The network itself, whose layers have the adapters, within ``PeftModel``."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def config_of(model: Any) -> Any:
    """The configuration of the one adapter of a model.

    Raises:
        UserError: there are several, or it has a name, which no file would keep.
    """
    if list(model.peft_config) != [ADAPTER]:
        raise UserError(
            f"the model has the adapters {', '.join(model.peft_config)}, but one with the name {ADAPTER!r} is trained and "
            "saved; leave the others and its name out"
        )
    return model.peft_config[ADAPTER]


def adapted_layers(network: nn.Module) -> Iterator[Any]:
    """The layers that hold adapters, and those that hold weights which are trained beside them."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    return (module for module in network.modules() if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)))


def merged(model: Any) -> Any:
    """Return a plain network with the adapters of ``model`` merged in; ``model`` stays what it is, bit for bit.

    Layers without adapters are shared, the others are there twice for as long as the returned network is.
    """
    network = without_wrapper(model)
    own = {id(tensor) for layer in adapted_layers(network) for tensor in _tensors(layer)}
    shared = {id(tensor): tensor for tensor in _tensors(network) if id(tensor) not in own}
    return merge(_copied(network, shared))


def merge(network: Any) -> Any:
    """Merge the adapters in ``network`` into its weights, in place, and return it: a network like any other.

    A head that shares its weight with the embeddings gets a weight of its own, unless both are still the same afterwards.

    Raises:
        UserError: it has several adapters, or is quantised where they are.
    """
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = config_of(network)
    _refuse_quantised(network)
    was_tied = _untie(network)
    kind: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type]
    # PEFT's own object, without the layers that making it would add: `add_adapter` leaves none behind.
    tuner = kind.__new__(kind)
    nn.Module.__init__(tuner)
    tuner.model, tuner.peft_config = network, network.peft_config
    tuner.targeted_module_names = [name for name, layer in network.named_modules() if isinstance(layer, BaseTunerLayer)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|no longer tied)")  # which is seen to here
        network = tuner.merge_and_unload()
    network._hf_peft_config_loaded = False
    inputs, outputs = network.get_input_embeddings(), network.get_output_embeddings()
    if was_tied and torch.equal(inputs.weight, outputs.weight):
        outputs.weight = inputs.weight
    if outputs is not None:
        network.config.tie_word_embeddings = outputs.weight is inputs.weight
    return network


def check_mergeable(model: Any) -> None:
    """Merge a copy of the smallest layer of each kind.

    Raises:
        UserError: PEFT cannot merge one, or would round what it merges.
    """
    _refuse_quantised(model)
    smallest: dict[Any, Any] = {}
    for layer in adapted_layers(without_wrapper(model)):
        base = layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer
        kind = (type(layer), type(base), getattr(base, "bias", None) is None)
        size = sum(tensor.numel() for tensor in layer.parameters())
        if hasattr(layer, "merge") and (kind not in smallest or size < smallest[kind][0]):
            smallest[kind] = (size, layer)
    for _, layer in smallest.values():
        try:
            _copied(layer, {}).merge()
        except (RuntimeError, ValueError, NotImplementedError, TypeError, AttributeError) as error:
            raise UserError(
                f"the adapters in {type(layer).__name__} layers cannot be merged into the weights ({first_line(error)}); "
                "train others"
            ) from error


def merging_parameters(model: nn.Module) -> int:
    """How many weights there are twice, and for a moment thrice, while the adapters in ``model`` are merged."""
    sizes = [
        layer.get_base_layer().weight.numel() for layer in adapted_layers(model) if hasattr(layer, "get_base_layer")
    ]
    return sum(sizes) + max(sizes, default=0)


def _refuse_quantised(model: Any) -> None:
    for name, layer in without_wrapper(model).named_modules():
        base = getattr(layer, "base_layer", None)
        weight = getattr(base, "weight", None)
        if isinstance(weight, torch.Tensor) and not weight.is_floating_point():
            raise UserError(
                f"the adapter of {name} is beside a quantised {type(base).__name__}, into which it would be merged "
                "with another rounding; load the network without quantisation"
            )


def _tensors(module: nn.Module) -> Iterable[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _copied(module: Any, shared: dict[int, Any]) -> Any:
    """A deep copy, but for what is shared, and for views of weights (of tied adapters), which are computed."""
    memo = dict(shared)
    for part in module.modules():
        memo |= {id(view): view.detach().clone() for view in _views(vars(part))}
    return copy.deepcopy(module, memo)


def _views(attributes: dict[Any, Any]) -> Iterator[torch.Tensor]:
    for value in attributes.values():
        if isinstance(value, dict):
            yield from _views(value)
        elif isinstance(value, torch.Tensor) and not value.is_leaf:
            yield value


def _untie(network: Any) -> bool:
    """Give the head a weight of its own, so that what is merged into it does not reach the embeddings, and the reverse."""
    inputs, outputs = (_innermost(layer) for layer in (network.get_input_embeddings(), network.get_output_embeddings()))
    if outputs is None or outputs.weight is not inputs.weight:
        return False
    outputs.weight = nn.Parameter(outputs.weight.detach().clone(), outputs.weight.requires_grad)
    return True


def _innermost(layer: Any) -> Any:
    while (
        layer is not None
        and (inner := getattr(layer, "base_layer", getattr(layer, "original_module", None))) is not None
    ):
        layer = inner
    return layer
