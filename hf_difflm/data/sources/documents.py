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


NO_DOCUMENTS = Documents(
    datasets.Dataset.from_dict({"text": []}), np.zeros((0, 32), dtype=np.uint8), np.zeros(0, dtype=np.int64)
)


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


def hold_out(
    documents: Documents, fraction: float, for_test: float = 0.0
) -> tuple[Documents, Documents, Documents | None]:
    """Split off shares of the distinct documents by their hash: (training, evaluation, test) documents.

    Identical texts always land on the same side, and neither order nor number of processes matters.
    Needs at least two distinct documents; training and evaluation get at least one each, and the evaluation documents are
    the same whatever the test takes. There is no test below three documents.
    """
    distinct, rank = np.unique(documents.keys, return_inverse=True)
    num_held_out = min(max(1, round(fraction * len(distinct))), len(distinct) - 1)
    num_test = min(max(1, round(for_test * len(distinct))), len(distinct) - 1 - num_held_out) if for_test else 0
    held_out, tested = rank < num_held_out, (rank >= num_held_out) & (rank < num_held_out + num_test)
    test = documents.select(tested) if num_test else None
    return documents.select(~held_out & ~tested), documents.select(held_out), test


def cut_by_position(
    documents: Documents, fraction: float, where: str, for_test: float = 0.0
) -> tuple[Documents, Documents, Documents | None]:
    """Cut a lone document by characters: its end is evaluation text, what comes before that the test's, the rest training's.

    Returns:
        training, evaluation and test documents.

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
    begin = int(len(text) * (1 - fraction - for_test)) if for_test else cut
    if not 0 < begin < cut:
        begin = cut  # too short for a test
    train, test, tail = (
        hash_documents(datasets.Dataset.from_dict({"text": [part]}), where) if part else None
        for part in (text[:begin], text[begin:cut], text[cut:])
    )
    assert train is not None
    assert tail is not None
    return train, tail, test


def drop_shared(train: Documents, evaluation: Documents) -> Documents:
    """Return the training documents whose text is not among the evaluation documents."""
    return train.select(~np.isin(train.keys, evaluation.keys))
