"""How text that a model was not trained on becomes blocks to evaluate: the one declaration behind flags and recipe keys."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ...recipes import FOLDER, read_mapping

SETS_FOLDER = FOLDER / "evaluation"
DETOKENIZER_NAMES = ("ptb", "wikitext", "lm1b", "lambada", "scientific_papers")


@dataclass
class ZeroShotOptions:
    """Options of :func:`hf_difflm.evaluation.likelihood.zero_shot.evaluation_data`."""

    detokenizer: str | None = field(
        default=None,
        metadata={"help": "rules that undo the spacing of a benchmark's text", "choices": DETOKENIZER_NAMES},
    )


def evaluation_set_names() -> list[str]:
    """Return the names of the sets that come with the package, sorted."""
    return sorted(path.stem for path in SETS_FOLDER.glob("*.yaml"))


def evaluation_set(name: str) -> dict[str, Any]:
    """Return the settings of a named set: fields of DataOptions and ZeroShotOptions, and a ``description``."""
    return read_mapping(SETS_FOLDER / f"{name}.yaml", f"evaluation set {name}")
