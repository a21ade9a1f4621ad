"""Documents to token ids, each token with the bytes of text it stands for."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .caching import cached_map, code_digest
from .sources.documents import Documents
from .tokenizers import byte_characters

_FEATURES = datasets.Features(
    {
        "input_ids": datasets.List(datasets.Value("int32")),
        "token_bytes": datasets.List(datasets.Value("int32")),
    }
)


class DocumentEncoder:
    """Encodes whole documents; never reads special-token strings inside text as special tokens.

    It works on its own copy of the tokenizer's backend, without the padding and truncation that other users of the
    tokenizer switch on, and pickles as its JSON.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        description = json.loads(tokenizer.backend_tokenizer.to_str())
        description |= {"padding": None, "truncation": None}
        self.description = json.dumps(description, sort_keys=True)
        self.mask_token_id = tokenizer.mask_token_id
        self._prepare(description)

    def _prepare(self, description: dict[str, Any]) -> None:
        self._ids_of_bytes = _byte_level_ids(description)
        self._backend = Tokenizer.from_str(self.description)
        self._backend.encode_special_tokens = True  # "encode the text of special tokens, too"
        self.unk_token_id = _unknown_id(description["model"], self._backend)

    def __getstate__(self) -> dict[str, Any]:
        return {"description": self.description, "mask_token_id": self.mask_token_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._prepare(json.loads(self.description))

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of everything the ids depend on."""
        return hashlib.sha256(f"{self.mask_token_id} {self.description}".encode()).hexdigest()

    @property
    def is_of_bytes(self) -> bool:
        """Whether each byte of UTF-8 is a token, so that all text comes back."""
        return self._ids_of_bytes is not None

    def decode(self, ids: list[np.ndarray]) -> list[str]:
        """Return the text of each row of ids, (T,) int32; special tokens, the unknown one among them, by their names."""
        return self._backend.decode_batch([each.tolist() for each in ids], skip_special_tokens=False)

    def encode(self, texts: list[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return (ids, bytes of UTF-8 text behind each id), both (T,) int32, for each text.

        Raises:
            UserError: the tokenizer makes the mask token from plain text.
        """
        if self._ids_of_bytes is not None:
            return [_encode_bytes(text, self._ids_of_bytes) for text in texts]
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        pairs = []
        for text, encoding in zip(texts, encodings, strict=True):
            ids = self._checked(encoding.ids)
            ends = np.fromiter((end for _, end in encoding.offsets), dtype=np.int64, count=len(ids))
            pairs.append((ids, bytes_of_tokens(text, ends)))
        return pairs

    def encode_ids(self, texts: list[str]) -> list[np.ndarray]:
        """Return the ids, (T,) int32, of each text: all that training needs, in less time.

        Raises:
            UserError: see :meth:`encode`.
        """
        if self._ids_of_bytes is not None:
            return [_encode_bytes(text, self._ids_of_bytes)[0] for text in texts]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [self._checked(encoding.ids) for encoding in encodings]

    def _checked(self, ids: list[int]) -> np.ndarray:
        ids_T = np.array(ids, dtype=np.int32)
        if (ids_T == self.mask_token_id).any():
            raise UserError(
                f"the tokenizer turns plain text into its mask token (id {self.mask_token_id}), which no model may "
                "predict: choose a tokenizer whose mask is a special token, or remove that text"
            )
        return ids_T

    def __call__(self, table: pa.Table) -> pa.Table:
        """Encode the column ``text`` of a table: the form `datasets` maps."""
        pairs = self.encode(table.column("text").to_pylist())
        offsets = np.cumsum([0, *(len(ids) for ids, _ in pairs)], dtype=np.int32)
        columns = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
        return pa.table(
            {name: pa.ListArray.from_arrays(offsets, column) for name, column in zip(_FEATURES, columns, strict=True)}
        )


def encode_documents(documents: Documents, encoder: DocumentEncoder, *, workers: int = 1) -> datasets.Dataset:
    """Return a row a document: ``input_ids`` and ``token_bytes``, without special tokens; cached."""
    return cached_map(
        documents.dataset,
        encoder,
        kind="tokens",
        key=[documents.fingerprint, encoder.fingerprint, code_digest(__file__)],
        features=_FEATURES,
        description="Tokenising",
        workers=workers,
    )


def bytes_of_tokens(text: str, ends: np.ndarray) -> np.ndarray:
    """Share the bytes of ``text`` among its tokens: (T,) int32 that sum to its length in UTF-8 if T > 0.

    Token i covers what lies between the furthest end of the tokens before it and its own end (``ends`` (T,), in
    characters); text behind the last token, such as a space that the tokenizer drops, goes to that token.
    """
    if len(ends) == 0:
        return np.zeros(0, dtype=np.int32)
    code_points = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
    widths = 1 + (code_points >= 0x80).astype(np.int64) + (code_points >= 0x800) + (code_points >= 0x10000)
    bytes_before = np.concatenate([[0], np.cumsum(widths)])
    covered = bytes_before[np.maximum.accumulate(ends)]
    covered[-1] = bytes_before[-1]
    return np.diff(covered, prepend=0).astype(np.int32)


def _unknown_id(model: dict[str, Any], backend: Tokenizer) -> int | None:
    """The id that the model of a tokenizer gives to what it does not know; the tokenizer may have no name for it."""
    if model.get("unk_id") is not None:  # Unigram
        return int(model["unk_id"])
    return backend.token_to_id(model["unk_token"]) if model.get("unk_token") else None


def _encode_bytes(text: str, ids_of_bytes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    ids = ids_of_bytes[np.frombuffer(text.encode("utf-8"), dtype=np.uint8)]
    return ids, np.ones(len(ids), dtype=np.int32)


def _byte_level_ids(description: dict[str, Any]) -> np.ndarray | None:
    """Return the id of each byte, (256,) int32, if this tokenizer maps each byte to one token; else None.

    A table look-up is some fifty times as fast as the general way, and each token is exactly one byte.
    """
    model, pre_tokenizer = description["model"], description["pre_tokenizer"] or {}
    plain = (
        model["type"] == "BPE"
        and not model["merges"]
        and pre_tokenizer.get("type") == "ByteLevel"
        and not pre_tokenizer["add_prefix_space"]
        and description["normalizer"] is None
        and all(token["special"] for token in description["added_tokens"])
    )
    characters = byte_characters()
    if not plain or any(character not in model["vocab"] for character in characters):
        return None
    return np.array([model["vocab"][character] for character in characters], dtype=np.int32)
