"""The evaluation documents of a stream: few enough to be held, and never trained on."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import datasets

from hf_difflm.errors import UserError

from .reader import LeftOut
from .sources import Source


class Measure(Protocol):
    """How much a document is.

    Attributes:
        fingerprint: changes when the size of some document does.
    """

    @property
    def fingerprint(self) -> str: ...

    def size(self, text: str) -> int: ...


def evaluation_documents(
    source: Source, measure: Measure, amount: int, chosen: Sequence[LeftOut | None] = (None,)
) -> list[datasets.Dataset]:
    """Return the first documents (column ``text``) that make ``amount`` together, or all; cached.

    Args:
        source: where they are read from, once for all sets.
        measure: how much a document is: tokens, or rows.
        chosen: a set for each: take only these; None: take all. Only the first must hold a document.

    Raises:
        UserError: there is none.
    """
    folders = [_folder(source, measure, amount, one) for one in chosen]
    missing = [place for place, folder in enumerate(folders) if not folder.exists()]
    if missing:
        found = _texts(source, measure, amount, [chosen[place] for place in missing])
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


def _folder(source: Source, measure: Measure, amount: int, chosen: LeftOut | None) -> Path:
    share = "" if chosen is None else f"{chosen.beyond!r} {chosen.fraction!r}"
    key = hashlib.sha256("\n".join([source.fingerprint, measure.fingerprint, str(amount), share]).encode())
    return Path(datasets.config.HF_DATASETS_CACHE) / "hf_difflm" / f"stream-evaluation-{key.hexdigest()[:32]}"


def _texts(source: Source, measure: Measure, amount: int, chosen: Sequence[LeftOut | None]) -> list[list[str]]:
    left = [amount] * len(chosen)
    found: list[list[str]] = [[] for _ in chosen]
    for piece in source.pieces():
        for place, one in enumerate(chosen):
            if left[place] > 0 and (one is None or piece.text in one):
                found[place].append(piece.text)
                left[place] -= measure.size(piece.text)
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
