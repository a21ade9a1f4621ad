"""The adapter of a fine-tuned model, as PEFT wrote it, beside the weights that it is merged into."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..models.adapters.folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, AVERAGES, MERGED_ADAPTER, is_adapter_folder
from ..runs.journal.tables import fenced
from .repo_names import on_the_hub
from .source import PushSource


@dataclass(frozen=True)
class PushedAdapter:
    """An adapter that goes up.

    Attributes:
        base: the network it belongs to, ``OWNER/NAME``; None where that is not on the Hub.
        revision: of the network.
    """

    base: str | None
    revision: str | None


def copy_adapter(source: PushSource, folder: Path) -> PushedAdapter | None:
    """Copy the adapter that is merged into what goes up, if there is one; its configuration names no folder of this machine.

    None goes up where the merged weights are averages of several.

    Args:
        source: what is pushed.
        folder: what goes up; gets ``adapter/``.

    Raises:
        UserError: its configuration cannot be read.
    """
    place = source.folder if is_adapter_folder(source.folder) else source.folder / MERGED_ADAPTER
    if not (place / ADAPTER_WEIGHTS).is_file() or (place / AVERAGES).exists():
        return None
    try:
        config = json.loads((place / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{place / ADAPTER_CONFIG} cannot be read ({error}); take another checkpoint") from error
    if not isinstance(base, str) or not on_the_hub(base):
        config |= {"base_model_name_or_path": None, "revision": None}
    target = folder / MERGED_ADAPTER
    target.mkdir()
    shutil.copyfile(place / ADAPTER_WEIGHTS, target / ADAPTER_WEIGHTS)
    (target / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return PushedAdapter(config["base_model_name_or_path"], config.get("revision"))


def adapter_use(adapter: PushedAdapter, repo_id: str, revision: str | None, is_denoiser: bool, needs_code: bool) -> str:
    """Return what the card says of the adapter, and how PEFT puts it beside its network.

    Args:
        adapter: what went up.
        repo_id, revision: where.
        is_denoiser: whether the network is a masked LM and not a causal LM.
        needs_code: whether it is loaded with ``trust_remote_code=True``.
    """
    said = (
        "The weights are those of another network with an adapter merged in; `adapter/` is that adapter alone, as PEFT "
        "writes it."
    )
    if adapter.base is None:
        return f"{said} The network that it was trained beside is not on the Hub."
    auto = "AutoModelForMaskedLM" if is_denoiser else "AutoModelForCausalLM"
    base = f'"{adapter.base}"' + (f', revision="{adapter.revision}"' if adapter.revision else "")
    base += ", trust_remote_code=True" if needs_code else ""
    place = f'"{repo_id}"' + (f', revision="{revision}"' if revision else "")
    lines = f"""from peft import PeftModel
from transformers import {auto}
network = {auto}.from_pretrained({base})
model = PeftModel.from_pretrained(network, {place}, subfolder="{MERGED_ADAPTER}")"""
    return f"{said} With the network that it was trained beside:\n\n{fenced(lines, 'python')}"
