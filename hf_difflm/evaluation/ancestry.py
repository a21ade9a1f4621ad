"""What weights were made from, as a run log and a converted model say it of their past."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub.repocard import metadata_load

from ..models.adapters.folders import base_name
from ..models.file_names import CARD
from ..runs import load_run
from ..runs.journal.atomic_files import JOURNAL_NAME
from .targets import Weights

_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}", re.ASCII)


def ancestry(found: Weights, source: str) -> dict[str, Any]:
    """Return what there is to say of the weights that something begins with; what is unknown is left out.

    Args:
        found: the weights.
        source: what the user named: of a folder its name alone goes in, since the log may go to the Hub.

    Returns:
        ``source``; ``commit`` of what was downloaded; ``license`` as the model's card names it; ``run``, its id, ``step`` and
        ``sft`` of a run; and its ``parent``, the same of what that run began with.
    """
    header = load_run(found.run).headers[0] if found.run is not None else None
    folder = found.run if found.run is not None else found.folder
    parent = None if header is None else header.metadata.get("parent")
    facts = {
        "source": source if found.commit is not None else folder.resolve().name,
        "commit": found.commit,
        "license": _license_in(found.folder),
        "run": None if header is None else header.run_id,
        "step": found.step,
        "sft": None if header is None else bool(header.config.get("sft")) or None,
        "parent": parent if isinstance(parent, dict) else None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def ancestry_of_model(model: Any) -> dict[str, Any] | None:
    """The same of a network that ``from_pretrained`` has loaded; None of one that it has not."""
    name = getattr(model, "name_or_path", None)
    if not isinstance(name, str) or not name:
        return None
    base, commit = base_name(name)
    if commit is not None:
        return ancestry(Weights(Path(name), None, name, commit=commit), str(base))
    folder = Path(name)
    if folder.is_dir():
        run = next((place for place in (folder, folder.parent) if (place / JOURNAL_NAME).exists()), None)
        return ancestry(Weights(folder, run, name), name)
    commit = getattr(model.config, "_commit_hash", None)
    return {"source": name} | ({"commit": commit} if isinstance(commit, str) else {})


def _license_in(folder: Path) -> str | None:
    """The identifier of a licence in the card beside the weights, which others may have written."""
    try:
        head = metadata_load(folder / CARD)
    except Exception:  # no card, no head of YAML, or one that its parser refuses: then there is nothing to repeat
        return None
    found = head.get("license") if isinstance(head, dict) else None
    return found if isinstance(found, str) and _LICENSE.fullmatch(found) else None
