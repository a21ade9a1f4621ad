"""Text in, fixed-length blocks of token ids out: corpora, tokenizers, packing and the collator.

The names below are imported on first use: the option declaration is needed before torch and datasets are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import on_first_use
from .options import DataOptions

_HOMES = {
    "Collator": ".collator",
    "MarkovSource": ".sources.markov",
    "PreparedData": ".prepared",
    "load_tokenizer": ".tokenizers",
    "prepare_data": ".prepare",
}
__all__ = ["Collator", "DataOptions", "MarkovSource", "PreparedData", "load_tokenizer", "prepare_data"]

if TYPE_CHECKING:
    from .collator import Collator
    from .prepare import prepare_data
    from .prepared import PreparedData
    from .sources.markov import MarkovSource
    from .tokenizers import load_tokenizer

__getattr__ = on_first_use(__name__, _HOMES)
