"""The quality of a run's samples, kept in a file that is good as long as the weights and the options are the same."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...runs.journal.atomic_files import write_text
from ...runs.journal.strict_json import dumps, plain
from ..generation.importance_weights import importance_for
from ..generation.options import GenerationOptions
from ..targets import load_target
from .generation_cost import measure_generation
from .reference_model import load_reference

_KEPT = ("distinct_2", "unigram_entropy", "reference_perplexity", "forwards", "seconds")


def sample_numbers(
    run: Path,
    options: GenerationOptions,
    samples: int,
    file: Path,
    *,
    reference: Path | None = None,
    use_cpu: bool = False,
) -> dict[str, float]:
    """Draw texts from nothing with the weights of a run, and tell what they are worth and what they cost.

    Args:
        run: its folder.
        options: how to draw them; what does not fit an autoregressive model is left out for one.
        samples: how many texts.
        file: JSON that keeps the numbers; read instead of drawing again where weights and options are those in it.
        reference: run of a causal LM whose perplexity is told.
        use_cpu: draw on the CPU even where there is a GPU.

    Returns:
        distinct_2, unigram_entropy (nats), reference_perplexity, forwards and seconds a text.

    Raises:
        UserError: there is nothing to load, or the options do not fit the model.
    """
    made_from = {
        "weights": _checksum(run),
        "reference": None if reference is None else _checksum(reference),
        "options": {name: value for name, value in dataclasses.asdict(options).items() if value is not None},
        "samples": samples,
    }
    if (kept := _kept(file, made_from)) is not None:
        return kept
    target = load_target(str(run), use_cpu=use_cpu)
    judge = None
    if reference is not None:
        judge = load_reference(str(_weights(reference)), target.model.device)
    point, texts = measure_generation(
        target.model,
        target.tokenizer,
        options,
        samples,
        is_denoiser=target.is_denoiser,
        batch_size=samples,
        reference=judge,
        importance=importance_for(target, options),
    )
    numbers = {name: float(value) for name in _KEPT if (value := getattr(point, name)) is not None}
    record = {"made_from": made_from, "numbers": plain(numbers), "texts": [text.text for text in texts]}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, dumps(record, indent=1))
    return numbers


def _kept(file: Path, made_from: dict[str, Any]) -> dict[str, float] | None:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        # Nothing given is written as null or not at all: an option may be younger than the file.
        options = {name: value for name, value in record["made_from"]["options"].items() if value is not None}
        record["made_from"]["options"] = options
        return record["numbers"] if record["made_from"] == json.loads(dumps(made_from)) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # none yet, or not one of ours
        return None


def _weights(run: Path) -> Path:
    if not (run / "best" / "config.json").exists():
        raise UserError(f"{run} keeps no best weights to draw samples with; evaluate during its training")
    return run / "best"


def _checksum(run: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(_weights(run).glob("*.safetensors")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
