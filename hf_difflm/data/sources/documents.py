"""Documents with their content hashes, and the rules that keep training and evaluation text apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa

from hf_difflm.errors import UserError

from ..caching import cached_map, code_digest

# Hashed before each text: which documents are held out must not follow from hashes others sort by.
_SALT = b"hf_difflm document\n"
_FEATURES = datasets.Features({"digest": datasets.Value("binary"), "num_bytes": datasets.Value("int64")})


@dataclass(frozen=True)
class Documents:
    """Non-empty texts with what is known about each.

    Attributes:
        dataset: column ``text``, N rows.
        digests: (N, 32) uint8, the salted SHA-256 of each text in UTF-8.
        num_bytes: (N,) int64, the length of each text in UTF-8.
        num_empty: rows left out because they held no text.
    """

    dataset: datasets.Dataset
    digests: np.ndarray
    num_bytes: np.ndarray
    num_empty: int = 0

    def __len__(self) -> int:
        return len(self.num_bytes)

    @property
    def keys(self) -> np.ndarray:
        """(N,) uint64, equal for equal texts; unequal texts share one with probability 2^-64."""
        return np.ascontiguousarray(self.digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)

    @property
    def fingerprint(self) -> str:
        """A SHA-256 over all documents in their order."""
        return hashlib.sha256(self.digests.tobytes()).hexdigest()

    def select(self, chosen: np.ndarray) -> Documents:
        """Return the documents where ``chosen`` (N,) is true, in the same order."""
        if chosen.all():
            return self
        rows = self.dataset.select(np.flatnonzero(chosen))
        return Documents(rows, self.digests[chosen], self.num_bytes[chosen], self.num_empty)


def hash_documents(dataset: datasets.Dataset, where: str, *, workers: int = 1) -> Documents:
    """Hash the texts of ``dataset`` (column ``text``) and leave out the empty ones; ``where`` is for messages.

    Raises:
        UserError: there is no text at all, or text that is not UTF-8.
    """
    if len(dataset) == 0:
        raise UserError(f"{where} is empty: give a data set with at least one document")
    try:
        hashed = cached_map(
            dataset,
            _hash_table,
            kind="digests",
            key=[dataset._fingerprint, code_digest(__file__)],
            features=_FEATURES,
            description="Hashing documents",
            workers=workers,
        )
    except UnicodeDecodeError as error:
        raise UserError(f"{where} holds text that is not UTF-8 ({error.reason}): convert it to UTF-8") from error
    table = hashed.data
    digests = np.frombuffer(b"".join(table.column("digest").to_pylist()), dtype=np.uint8).reshape(-1, 32)
    num_bytes = table.column("num_bytes").to_numpy()
    documents = Documents(dataset, digests, num_bytes, num_empty=int((num_bytes == 0).sum()))
    if documents.num_empty == len(documents):
        raise UserError(f"{where} holds only empty documents ({len(documents):,} of them): give a data set with text")
    return documents.select(num_bytes > 0)


def _hash_table(table: pa.Table) -> pa.Table:
    texts = [(text or "").encode("utf-8") for text in table.column("text").to_pylist()]  # a null is an empty document
    return pa.table(
        {
            "digest": pa.array([hashlib.sha256(_SALT + text).digest() for text in texts], pa.binary()),
            "num_bytes": pa.array([len(text) for text in texts], pa.int64()),
        }
    )


def document_key(text: str) -> int:
    """Return the key of one text, see ``Documents.keys``."""
    return int.from_bytes(hashlib.sha256(_SALT + text.encode("utf-8")).digest()[:8], "big")


def hold_out(documents: Documents, fraction: float) -> tuple[Documents, Documents]:
    """Split off a share of the distinct documents by their hash: (training, evaluation) documents.

    Identical texts always land on the same side, and neither order nor number of processes matters.
    Needs at least two distinct documents; each side gets at least one.
    """
    distinct, rank = np.unique(documents.keys, return_inverse=True)
    num_held_out = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    held_out = rank < num_held_out
    return documents.select(~held_out), documents.select(held_out)


def cut_by_position(documents: Documents, fraction: float, where: str) -> tuple[Documents, Documents]:
    """Cut a lone document by characters: its first 1 - fraction is training text, the rest evaluation text.

    Raises:
        UserError: the document is too short to give both sides a character.
    """
    text = documents.dataset[0]["text"]
    cut = int(len(text) * (1 - fraction))
    if not 0 < cut < len(text):
        raise UserError(
            f"{where} is one document of {len(text)} characters, too short to hold out {fraction:g} of it for "
            "evaluation: give more text or an eval_dataset"
        )
    head, tail = (datasets.Dataset.from_dict({"text": [part]}) for part in (text[:cut], text[cut:]))
    return hash_documents(head, where), hash_documents(tail, where)


def drop_shared(train: Documents, evaluation: Documents) -> Documents:
    """Return the training documents whose text is not among the evaluation documents."""
    return train.select(~np.isin(train.keys, evaluation.keys))
