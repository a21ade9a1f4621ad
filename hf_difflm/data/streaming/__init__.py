"""Training text that is never held as a whole: read, tokenised, packed and shuffled while the training goes on."""

from .blocks import BlockStream
from .evaluation import evaluation_documents
from .open import Opened, open_stream
from .packed import PackedStream
from .reader import LeftOut

__all__ = ["BlockStream", "LeftOut", "Opened", "PackedStream", "evaluation_documents", "open_stream"]
