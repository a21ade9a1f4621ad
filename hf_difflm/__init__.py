"""Masked diffusion language models next to their autoregressive twin, in the Hugging Face Trainer.

The names below are imported on first use, so that ``hf-difflm --help`` does not wait for torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .lazy import on_first_use

__version__ = "0.2.0"

_HOMES = {
    "MaskedDiffusionConfig": "hf_difflm.models",
    "MaskedDiffusionForMaskedLM": "hf_difflm.models",
    "DiffusionTrainer": "hf_difflm.training",
    "DiffusionTrainingArguments": "hf_difflm.training",
}
__all__ = [
    "DiffusionTrainer",
    "DiffusionTrainingArguments",
    "MaskedDiffusionConfig",
    "MaskedDiffusionForMaskedLM",
    "__version__",
]

if TYPE_CHECKING:
    from .models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
    from .training import DiffusionTrainer, DiffusionTrainingArguments

__getattr__ = on_first_use(__name__, _HOMES)
