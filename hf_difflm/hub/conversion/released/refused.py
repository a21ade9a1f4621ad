"""Released models that are not converted, by name and reason: to run them as something else would be to invent numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from ....errors import UserError

_LLADA2 = (
    "LLaDA2, whose experts are chosen by a sigmoid with a bias and in groups, and whose heads are rotated by half: no "
    "network of transformers computes that"
)
_NEMOTRON = (
    "Nemotron-Labs-Diffusion, which reads committed text causally and the open block both ways, with an autoregressive head "
    "for the first token of a block: no block diffusion here reads so"
)
_DUO = "Duo, which replaces tokens by others (uniform noise) and has no mask token; the models here hide tokens"
_BD3LM = (
    "BD3-LM, whose diffusion transformer reads noisy and clean text as one input of twice the length; the one here has no "
    "blocks; `train --objective bd3lm` makes block diffusion models of other networks"
)
_GEMMA = (
    "DiffusionGemma, which replaces tokens by others (uniform noise) and conditions on its own last prediction; the models "
    "here hide tokens; generate with transformers, which has it"
)
_MMADA = (
    "MMaDA, whose vocabulary holds tokens of images beside those of text, which only an image tokenizer makes; the models "
    "here read text"
)
_DIFFUGPT = (
    "DiffuGPT, a GPT-2 that reads both ways, whose weights have names of their own (denoise_model) and whose configuration "
    "is that of GPT-2; nothing could be held against its authors' code, and DiffuLLaMA alone is converted (--as diffullama)"
)
# Their model types, which no transformers has; what is downloaded is let through to the reason below.
REFUSED_TYPES = {
    "llada2_moe": _LLADA2,
    "llada2_moe_veomni": _LLADA2,
    "nemotron_labs_diffusion": _NEMOTRON,
    "duo": _DUO,
    "bd3lm": _BD3LM,
    "mmada": _MMADA,
}
_REFUSED = REFUSED_TYPES | {
    "LLaDA2MoeModelLM": _LLADA2,
    "NemotronLabsDiffusionModel": _NEMOTRON,
    "DUO": _DUO,
    "BD3LM": _BD3LM,
    "MMadaModelLM": _MMADA,
    "diffusion_gemma": _GEMMA,
    "DiffusionGemmaForBlockDiffusion": _GEMMA,
}


def architectures_of(config: dict[str, Any]) -> list[str]:
    """The classes that ``config.json`` names."""
    said = config.get("architectures")
    return [one for one in said if isinstance(one, str)] if isinstance(said, list) else []


def refuse_by_weights(weights: Collection[str], name: str) -> None:
    """Refuse a model that only the names of its weights tell.

    Args:
        weights: names of all weights.
        name: what the user knows the model as.

    Raises:
        UserError: it is one, with the reason.
    """
    if any(weight.startswith("denoise_model.") for weight in weights):
        raise UserError(f"{name} is not converted: it is {_DIFFUGPT}")


def refuse_by_name(config: dict[str, Any], name: str) -> None:
    """Refuse a model that no conversion is for.

    Args:
        config: ``config.json``.
        name: what the user knows the model as.

    Raises:
        UserError: it is one, with the reason.
    """
    for one in (config.get("model_type"), *architectures_of(config)):
        if isinstance(one, str) and one in _REFUSED:
            raise UserError(f"{name} is not converted: it is {_REFUSED[one]}")
