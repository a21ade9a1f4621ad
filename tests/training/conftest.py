"""A tiny denoiser on the disk, and Trainers of adapters beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_difflm.models import MaskedDiffusionForMaskedLM


@pytest.fixture
def base(tmp_path: Path, tiny_denoiser: Any, tokenizer: Any) -> Path:
    """The folder of a denoiser whose mask is token 259."""
    folder = tmp_path / "base"
    tiny_denoiser(seed=3).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def adapt(base: Path, tmp_path: Path, make_diffusion_trainer: Any, train_rows: Any) -> Callable[..., Any]:
    """``adapt(*callbacks, **arguments)``: a Trainer of adapters beside the base: two checkpoints, evaluated at the end."""

    def make(*callbacks: Any, model: Any = None, **arguments: Any) -> Any:
        given = {"lora_r": 2, "save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 6}
        return make_diffusion_trainer(
            *callbacks,
            model=model or MaskedDiffusionForMaskedLM.from_pretrained(base),
            evaluation=train_rows(8, seed=5),
            **{"output_dir": str(tmp_path / "run"), "learning_rate": 0.05, **given, **arguments},
        )

    return make
