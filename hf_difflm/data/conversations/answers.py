"""Conversations to rows of token ids whose answers alone are scored."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from ..collator import IGNORED
from ..encoding import DocumentEncoder, bytes_of_tokens
from ..text_ids import control_ids
from .chat_template import prompt_and_completion, unwritten
from .messages import MESSAGES
from .rows import COMPLETION, PROMPT, UNUSED


@dataclass(frozen=True)
class EncodedAnswer:
    """One conversation of L tokens.

    Attributes:
        ids: (L,) int32: BOS, prompt, completion, EOS.
        context: how many of them, from the start, are context.
        num_bytes: bytes of UTF-8 that the completion stands for; its EOS and other special tokens stand for none.
        unused: keys of its messages and of itself that the chat template does not write.
    """

    ids: np.ndarray
    context: int
    num_bytes: int
    unused: tuple[str, ...] = ()


class AnswerEncoder:
    """Encodes the JSON of conversations, see :func:`~hf_difflm.data.conversations.rows.document_of_row`.

    Messages are written by the tokenizer's chat template, whose special tokens are special tokens; a prompt and a
    completion that are text stay the text that they are. Prompt and completion are encoded apart, as they are when a
    model answers. Every row begins with BOS and ends with the EOS of its answer: what a template writes behind an EOS is
    left out, and where it writes none, EOS is added.

    Args:
        tokenizer: with a chat template, BOS and EOS.
        filled_to: tokens to fill each row up to with further EOS tokens, which are scored; None: they end with the first.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, filled_to: int | None = None) -> None:
        self.tokenizer = tokenizer
        self.filled_to = filled_to
        self._plain = DocumentEncoder(tokenizer)
        self._special = sorted(control_ids(tokenizer))

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of everything the rows depend on."""
        parts = [self._plain.fingerprint, self.tokenizer.chat_template, self.filled_to]
        parts += [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.split_special_tokens]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def encode(self, document: str) -> EncodedAnswer:
        """Encode one conversation.

        Raises:
            UserError: the chat template refuses it or does not write its answer, or it holds the mask token.
        """
        conversation = json.loads(document)
        unused: list[str] = []
        if MESSAGES in conversation:
            texts = prompt_and_completion(self.tokenizer, conversation)
            unused = unwritten(self.tokenizer, conversation)
            (prompt, _), (completion, token_bytes) = (self._with_special_tokens(text) for text in texts)
        else:
            encoded = self._plain.encode([conversation[PROMPT], conversation[COMPLETION]])
            (prompt, _), (completion, token_bytes) = encoded
        completion, num_bytes = self._ended(completion, token_bytes)
        bos = self.tokenizer.bos_token_id
        if len(prompt) == 0 or prompt[0] != bos:
            prompt = np.insert(prompt, 0, bos)
        ids = np.concatenate([prompt, completion]).astype(np.int32)
        if (ids == self.tokenizer.mask_token_id).any():
            raise UserError(
                f"a conversation holds the mask token {self.tokenizer.mask_token!r}, which stands for hidden tokens alone; "
                "remove it from the text"
            )
        if self.filled_to is not None and len(ids) < self.filled_to:
            ids = np.pad(ids, (0, self.filled_to - len(ids)), constant_values=self.tokenizer.eos_token_id)
        return EncodedAnswer(ids, len(prompt), num_bytes, tuple(unused))

    def _with_special_tokens(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Return ids and the bytes of text behind each, 0 for special tokens; (T,) both."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids = np.array(encoded["input_ids"], dtype=np.int32)
        ends = np.array([end for _, end in encoded["offset_mapping"]], dtype=np.int64)
        return ids, np.where(np.isin(ids, self._special), 0, bytes_of_tokens(text, ends))

    def _ended(self, ids: np.ndarray, token_bytes: np.ndarray) -> tuple[np.ndarray, int]:
        """Return a completion up to its last EOS, which is added where there is none, and the bytes that it stands for."""
        ends = np.flatnonzero(ids == self.tokenizer.eos_token_id)
        length = int(ends[-1]) if len(ends) else len(ids)
        return np.append(ids[:length], self.tokenizer.eos_token_id), int(token_bytes[:length].sum())


@dataclass
class AnswerTables:
    """Tables of conversations (column ``text``) to rows; called with one after the other, in order.

    Attributes:
        encoder: of one conversation.
        with_document_ids: for evaluation: every conversation is a document.
    """

    encoder: AnswerEncoder
    with_document_ids: bool

    def __post_init__(self) -> None:
        self._num_rows = 0

    @property
    def features(self) -> datasets.Features:
        """``input_ids``, ``labels`` (L,), ``num_bytes``, ``unused``: see :class:`EncodedAnswer`.

        For evaluation also ``document_ids`` (L,), -1 at BOS, and ``index``.
        """
        ids = datasets.List(datasets.Value("int32"))
        features = {"input_ids": ids, "labels": ids, "num_bytes": datasets.Value("int64")}
        features[UNUSED] = datasets.List(datasets.Value("string"))
        if self.with_document_ids:
            features |= {"document_ids": ids, "index": datasets.Value("int64")}
        return datasets.Features(features)

    def __call__(self, table: pa.Table) -> pa.Table:
        answers = [self.encoder.encode(text) for text in table.column("text").to_pylist()]
        labels = [np.where(np.arange(len(a.ids)) < a.context, IGNORED, a.ids).astype(np.int32) for a in answers]
        kind = pa.list_(pa.int32())
        columns = {
            "input_ids": pa.array([answer.ids for answer in answers], kind),
            "labels": pa.array(labels, kind),
            "num_bytes": pa.array([answer.num_bytes for answer in answers], pa.int64()),
            UNUSED: pa.array([list(answer.unused) for answer in answers], pa.list_(pa.string())),
        }
        if self.with_document_ids:
            numbers = np.arange(len(answers)) + self._num_rows
            documents = [np.full(len(a.ids), number, np.int32) for a, number in zip(answers, numbers, strict=True)]
            for document in documents:
                document[0] = -1
            columns |= {"document_ids": pa.array(documents, kind), "index": pa.array(numbers)}
        self._num_rows += len(answers)
        return pa.table(columns)
