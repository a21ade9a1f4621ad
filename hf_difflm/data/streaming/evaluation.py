"""The evaluation documents of a stream: few enough to be held, and never trained on."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import datasets

from hf_difflm.errors import UserError

from ..encoding import DocumentEncoder
from .reader import LeftOut
from .sources import Source


def evaluation_documents(
    source: Source, encoder: DocumentEncoder, num_tokens: int, chosen: Sequence[LeftOut | None] = (None,)
) -> list[datasets.Dataset]:
    """Return the first documents (column ``text``) that make ``num_tokens`` tokens together, or all; cached.

    Args:
        source: where they are read from, once for all sets.
        encoder: counts the tokens.
        chosen: a set for each: take only these; None: take all. Only the first must hold a document.

    Raises:
        UserError: there is none.
    """
    folders = [_folder(source, encoder, num_tokens, one) for one in chosen]
    missing = [place for place, folder in enumerate(folders) if not folder.exists()]
    if missing:
        found = _texts(source, encoder, num_tokens, [chosen[place] for place in missing])
        for place, texts in zip(missing, found, strict=True):
            if not texts and place == 0:
                what = (
                    "no document"
                    if (of := chosen[0]) is None
                    else f"no document, or none among the {of.fraction:g} held out"
                )
                raise UserError(
                    f"{source.name} holds {what} to evaluate on: raise eval_fraction, or give an eval_dataset"
                )
            _save(datasets.Dataset.from_dict({"text": texts}), folders[place])
    return [datasets.load_from_disk(str(folder)) for folder in folders]


def _folder(source: Source, encoder: DocumentEncoder, num_tokens: int, chosen: LeftOut | None) -> Path:
    share = "" if chosen is None else f"{chosen.beyond!r} {chosen.fraction!r}"
    key = hashlib.sha256("\n".join([source.fingerprint, encoder.fingerprint, str(num_tokens), share]).encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_difflm" / f"stream-evaluation-{key.hexdigest()[:32]}"


def _texts(
    source: Source, encoder: DocumentEncoder, num_tokens: int, chosen: Sequence[LeftOut | None]
) -> list[list[str]]:
    left = [num_tokens] * len(chosen)
    found: list[list[str]] = [[] for _ in chosen]
    for piece in source.pieces():
        for place, one in enumerate(chosen):
            if left[place] > 0 and (one is None or piece.text in one):
                found[place].append(piece.text)
                left[place] -= len(encoder.encode_ids([piece.text])[0]) + 1  # and the EOS behind it
        if max(left) <= 0:
            break
    return found


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
