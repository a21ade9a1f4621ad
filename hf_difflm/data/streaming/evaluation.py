"""The evaluation documents of a stream: few enough to be held, and never trained on."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import datasets

from hf_difflm.errors import UserError

from ..encoding import DocumentEncoder
from .reader import LeftOut
from .sources import Source


def evaluation_documents(
    source: Source, encoder: DocumentEncoder, num_tokens: int, chosen: LeftOut | None = None
) -> datasets.Dataset:
    """Return the first documents (column ``text``) that make ``num_tokens`` tokens together, or all; cached.

    Args:
        source: where they are read from.
        encoder: counts the tokens.
        chosen: take only these; None: take all.

    Raises:
        UserError: there is none.
    """
    share = "" if chosen is None else repr(chosen.fraction)
    key = hashlib.sha256("\n".join([source.fingerprint, encoder.fingerprint, str(num_tokens), share]).encode())
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_difflm" / f"stream-evaluation-{key.hexdigest()[:32]}"
    if not folder.exists():
        texts = list(_texts(source, encoder, num_tokens, chosen))
        if not texts:
            what = "no document" if chosen is None else f"no document, or none among the {chosen.fraction:g} held out"
            raise UserError(f"{source.name} holds {what} to evaluate on: raise eval_fraction, or give an eval_dataset")
        _save(datasets.Dataset.from_dict({"text": texts}), folder)
    return datasets.load_from_disk(str(folder))


def _texts(source: Source, encoder: DocumentEncoder, num_tokens: int, chosen: LeftOut | None) -> Iterator[str]:
    left = num_tokens
    for piece in source.pieces():
        if chosen is None or piece.text in chosen:
            yield piece.text
            left -= len(encoder.encode_ids([piece.text])[0]) + 1  # and the EOS behind it
            if left <= 0:
                return


def _save(documents: datasets.Dataset, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    fresh = tempfile.mkdtemp(prefix="stream-evaluation-", dir=folder.parent)
    documents.save_to_disk(fresh)
    try:
        os.rename(fresh, folder)
    except OSError:
        shutil.rmtree(fresh)
        if not folder.exists():  # else another process was faster
            raise
