"""Conversations to rows of token ids whose answers alone are scored."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from ..collator import IGNORED
from ..encoding import DocumentEncoder, bytes_of_tokens
from ..options import ALL, LAST
from ..sources.bad_rows import BAD
from ..text_ids import control_ids
from .chat_template import prompt_and_completion, unwritten
from .marked_text import TEXT, Markers
from .messages import MESSAGES, answered_turns, refuse_weight
from .rows import COMPLETION, PROMPT, UNUSED

ANSWERS, CONVERSATION = "answers", "conversation"
"""Columns: how many answers a conversation has, and its number."""


@dataclass(frozen=True)
class EncodedAnswer:
    """One answer of L tokens with its context.

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

    @property
    def labels(self) -> np.ndarray:
        """(L,) int32: the ids, -100 at context."""
        return np.where(np.arange(len(self.ids)) < self.context, IGNORED, self.ids).astype(np.int32)


class AnswerEncoder:
    """Encodes the JSON of conversations, see :func:`~hf_difflm.data.conversations.rows.document_of_row`.

    Messages are written by the tokenizer's chat template, whose special tokens are special tokens; so they are in text
    that holds the template's markers already. A prompt and a completion that are text stay the text that they are. Prompt
    and completion are encoded apart, as they are when a model answers. Every row begins with BOS and ends with the EOS of
    its answer: what a template writes behind an EOS is left out, and where it writes none, EOS is added.

    Of several answers each makes a row, with what comes before it: a model that reads both sides must not see what is
    said after an answer while it learns that answer.

    Args:
        tokenizer: with a chat template, BOS and EOS.
        filled_to: tokens to fill each row up to with further EOS tokens, which are scored; None: they end with the first.
        turns: which answers make rows, one of :data:`~hf_difflm.data.options.TURNS`.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, filled_to: int | None = None, turns: str = LAST) -> None:
        self.tokenizer = tokenizer
        self.filled_to = filled_to
        self.turns = turns
        self._plain = DocumentEncoder(tokenizer)
        self._special = sorted(control_ids(tokenizer))

    @property
    def fingerprint(self) -> str:
        """A SHA-256 of everything the rows depend on."""
        parts = [self._plain.fingerprint, self.tokenizer.chat_template, self.filled_to, self.turns]
        parts += [self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.split_special_tokens]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @functools.cached_property
    def _markers(self) -> Markers | None:
        return Markers.of(self.tokenizer)

    def encode(self, document: str) -> EncodedAnswer:
        """Encode the last answer of a conversation.

        Raises:
            UserError: the chat template refuses it or does not write its answer, or it holds the mask token.
        """
        return self._encode(json.loads(document), LAST)[-1]

    def rows(self, document: str) -> list[EncodedAnswer]:
        """Encode the answers of a conversation that are to be learned, in their order.

        Raises:
            UserError: see :meth:`encode`.
        """
        return self._encode(json.loads(document), self.turns)

    def num_answers(self, document: str) -> int:
        """Return how many answers a conversation has, whichever are learned."""
        conversation = json.loads(document)
        if MESSAGES in conversation:
            return max(len(answered_turns(conversation[MESSAGES])), 1)
        return len(self._marked(conversation[TEXT])) if TEXT in conversation else 1

    def scored_texts(self, document: str) -> list[str]:
        """Return what is scored of a conversation, where that is text: the completion, or the messages."""
        conversation = json.loads(document)
        if MESSAGES in conversation:
            spoken = conversation[MESSAGES]
            texts = [spoken[end]["content"] for end in self._ends(conversation, self.turns)]
        elif TEXT in conversation:
            found = self._marked(conversation[TEXT])
            markers = self._markers
            assert markers is not None
            texts = [markers.content(conversation[TEXT][begin:end]) for begin, end in self._chosen(found, self.turns)]
        else:
            texts = [conversation[COMPLETION]]
        return [text for text in texts if isinstance(text, str)]

    def _encode(self, conversation: dict[str, Any], turns: str) -> list[EncodedAnswer]:
        if MESSAGES in conversation:
            spoken = conversation[MESSAGES]
            parts = [{**conversation, MESSAGES: spoken[: end + 1]} for end in self._ends(conversation, turns)]
            pairs = [prompt_and_completion(self.tokenizer, part) for part in parts]
            unused = tuple(unwritten(self.tokenizer, conversation))
            rows = [self._written(prompt, completion) for prompt, completion in pairs]
            return [*rows[:-1], replace(rows[-1], unused=unused)]
        if TEXT in conversation:
            text = conversation[TEXT]
            found = self._chosen(self._marked(text), turns)
            return [self._written(text[:begin], text[begin:end]) for begin, end in found]
        encoded = self._plain.encode([conversation[PROMPT], conversation[COMPLETION]])
        (prompt, _), (completion, token_bytes) = encoded
        return [self._row(prompt, completion, token_bytes)]

    def _ends(self, conversation: dict[str, Any], turns: str) -> list[int]:
        """Places of the messages that are learned."""
        spoken = conversation[MESSAGES]
        if turns != ALL:
            return [len(spoken) - 1]
        ends = sorted({*answered_turns(spoken), len(spoken) - 1})
        for end in ends:
            refuse_weight(spoken[end], f"message {end + 1} in a conversation")
        return ends

    def _chosen(self, found: list[tuple[int, int]], turns: str) -> list[tuple[int, int]]:
        return found if turns == ALL else found[-1:]

    def _marked(self, text: str) -> list[tuple[int, int]]:
        """Where the answers of a text with markers are, those with something in them and before them."""
        markers = self._markers
        if markers is None:
            raise UserError(
                "the tokenizer's chat template writes nothing before an answer by which it could be found in a text; give "
                "messages, or prompt and completion"
            )
        found = markers.answers(text)
        good = [
            (begin, end)
            for begin, end in found
            if markers.content(text[begin:end].replace(markers.eos, "")) and text[: begin - len(markers.answer)].strip()
        ]
        if not good or good[-1] != found[-1]:
            raise UserError(
                "the last answer in the text of a conversation is empty, or nothing comes before it; repair or remove it"
            )
        return good

    def _written(self, prompt: str, completion: str) -> EncodedAnswer:
        """The row of texts in which the names of special tokens are these tokens."""
        (prompt_ids, _), (ids, token_bytes) = map(self._with_special_tokens, (prompt, completion))
        return self._row(prompt_ids, ids, token_bytes)

    def _row(self, prompt: np.ndarray, completion: np.ndarray, token_bytes: np.ndarray) -> EncodedAnswer:
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
        return EncodedAnswer(ids, len(prompt), num_bytes)

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
        self._num_rows = self._num_documents = 0

    @property
    def features(self) -> datasets.Features:
        """``input_ids``, ``labels`` (L,), ``num_bytes``, ``unused``: see :class:`EncodedAnswer`.

        ``conversation``, its number; ``answers``, how many it has, with its last row, else 0; ``bad``, why it makes no row,
        whose ids are empty then. For evaluation also ``document_ids`` (L,), -1 at BOS, and ``index``.
        """
        ids = datasets.List(datasets.Value("int32"))
        features = {"input_ids": ids, "labels": ids, "num_bytes": datasets.Value("int64")}
        features[UNUSED] = datasets.List(datasets.Value("string"))
        number = datasets.Value("int64")
        features |= {CONVERSATION: number, ANSWERS: number, BAD: datasets.Value("string")}
        if self.with_document_ids:
            features |= {"document_ids": ids, "index": datasets.Value("int64")}
        return datasets.Features(features)

    def __call__(self, table: pa.Table) -> pa.Table:
        answers: list[EncodedAnswer] = []
        documents: list[int] = []
        counts: list[int] = []
        bad: list[str | None] = []
        for text in table.column("text").to_pylist():
            found, reason, count = _found(self.encoder, text)
            answers += found
            documents += [self._num_documents] * len(found)
            counts += [0] * (len(found) - 1) + [count]
            bad += [reason] * len(found)
            self._num_documents += 1
        kind = pa.list_(pa.int32())
        columns = {
            "input_ids": pa.array([answer.ids for answer in answers], kind),
            "labels": pa.array([answer.labels for answer in answers], kind),
            "num_bytes": pa.array([answer.num_bytes for answer in answers], pa.int64()),
            UNUSED: pa.array([list(answer.unused) for answer in answers], pa.list_(pa.string())),
            CONVERSATION: pa.array(documents, pa.int64()),
            ANSWERS: pa.array(counts, pa.int64()),
            BAD: pa.array(bad, pa.string()),
        }
        if self.with_document_ids:
            numbered = [np.full(len(a.ids), number, np.int32) for a, number in zip(answers, documents, strict=True)]
            for document in numbered:
                document[:1] = -1
            numbers = np.arange(len(answers)) + self._num_rows
            columns |= {"document_ids": pa.array(numbered, kind), "index": pa.array(numbers)}
        self._num_rows += len(answers)
        return pa.table(columns)


def _found(encoder: AnswerEncoder, text: str) -> tuple[list[EncodedAnswer], str | None, int]:
    """The rows of a conversation and its number of answers; one row without tokens and the reason where it makes none."""
    try:
        return encoder.rows(text), None, encoder.num_answers(text)
    except UserError as error:
        return [EncodedAnswer(np.zeros(0, np.int32), 0, 0)], str(error), 0
