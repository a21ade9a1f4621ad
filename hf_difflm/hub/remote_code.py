"""The code of our own models beside their weights, so that they load where only torch and transformers are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import UserError, first_line
from ..models import masked_diffusion, register_auto_classes
from ..models.file_names import CONFIG

_PACKAGE = masked_diffusion.__name__


def read_config(folder: Path) -> dict[str, Any]:
    """Return ``config.json`` of a model folder.

    Raises:
        UserError: there is none, or it is no JSON object that names a ``model_type``.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {CONFIG}; give a run, a checkpoint or a model folder") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / CONFIG} cannot be read ({first_line(error)}); take another checkpoint") from error
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UserError(f"{folder / CONFIG} names no model_type; give a run, a checkpoint or a model folder")
    return config


def auto_map(model_type: str) -> dict[str, str]:
    """Return which class of which of our files each auto class is to load; empty for a model of transformers itself."""
    register_auto_classes()
    from transformers.models.auto import modeling_auto
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        return {}
    config_class = CONFIG_MAPPING[model_type]
    found: dict[str, Any] = {
        "AutoConfig": config_class,
        "AutoModel": modeling_auto.MODEL_MAPPING.get(config_class, None),
        "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING.get(config_class, None),
        "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING.get(config_class, None),
    }
    return {name: _place(kind) for name, kind in found.items() if kind is not None and _is_ours(kind)}


def write_config_and_code(config: dict[str, Any], folder: Path) -> bool:
    """Write ``config.json``, and for a model of ours its code with the ``auto_map`` that leads to it.

    The map is written by hand: transformers' own (``register_for_auto_class``) names a generated class where the model was
    trained under FSDP2, and copies the files of torch.

    Args:
        config: of the model, see :func:`read_config`.
        folder: an existing folder.

    Returns:
        Whether the model needs code that is not in transformers.
    """
    classes = auto_map(config["model_type"])
    config = {name: value for name, value in config.items() if name != "auto_map"}
    if config.get("architectures"):
        config["architectures"] = [name.removeprefix("FSDP") for name in config["architectures"]]
    if classes:
        config["auto_map"] = classes
        for path in code_files():
            shutil.copyfile(path, folder / path.name)
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return bool(classes)


def code_files() -> list[Path]:
    """The Python files that travel with a model of ours."""
    place = Path(str(masked_diffusion.__file__)).parent
    return sorted(path for path in place.glob("*.py") if not path.name.startswith("_"))


def _is_ours(kind: type) -> bool:
    return kind.__module__.rpartition(".")[0] == _PACKAGE


def _place(kind: type) -> str:
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
