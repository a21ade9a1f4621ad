"""Conversations to train answers on: rows of ``messages``, or of ``prompt`` and ``completion``, from files or the Hub.

Each becomes a document: the JSON of what was said and nothing else, so that all that is done with documents (hashing,
holding out, dropping what both sides have) is done with conversations, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from hf_difflm.errors import UserError, did_you_mean, first_line

from ..caching import code_digest
from ..options import kind_of
from ..sources.arithmetic import sums_conversations
from ..sources.bad_rows import BAD, judge, without_bad
from ..sources.corpora import EMBEDDED, Corpus, load_from_hub, refuse_missing
from ..sources.folders import find_files, is_saved, split_files
from ..sources.local_files import csv_rows, generated, json_lines, json_records
from ..sources.small_talk import small_talk
from . import formats, messages
from .formats import COLUMNS, COMPLETION, PROMPT, brought, format_of, known_formats
from .marked_text import TEXT
from .messages import (
    ASSISTANT,
    MESSAGES,
    TEMPLATE_OPTIONS,
    TOOL_CALLS,
    TOOLS,
    WEIGHT,
    checked_messages,
    checked_tools,
    refuse_weight,
    without_nulls,
)

LABEL = "label"
_READ = (*COLUMNS, TOOLS, TEMPLATE_OPTIONS, WEIGHT, LABEL)
UNUSED = "unused"
"""Column beside the documents: the columns of the row that are in none."""
FORMAT = "format"
"""Column beside the documents: what the format of the row is called."""
SUMS, SMALL_TALK = "sums", "small-talk"

_SOURCES = (__file__, str(messages.__file__), str(formats.__file__))
_FEATURES = datasets.Features(
    {
        "text": datasets.Value("string"),
        UNUSED: datasets.List(datasets.Value("string")),
        BAD: datasets.Value("string"),
        FORMAT: datasets.Value("string"),
    }
)


def load_conversations(name: str, config: str | None = None, skip_bad_rows: bool = False) -> Corpus:
    """Find the conversations ``name``: ``sums`` or ``small-talk``, embedded, else a path that exists, else one on the Hub.

    Returns:
        A corpus whose texts are JSON: ``{"messages": [{"role": ..., "content": ...}, ...]}``, which ends with a message
        of the assistant and may have ``tools`` and ``chat_template_kwargs``, ``{"prompt": text, "completion": text}``, or
        ``{"text": text}``, in which a chat template's markers say what is an answer.

    Raises:
        UserError: it cannot be found, reached or read; a row without these columns, or with nothing to learn from.
    """
    if name == SUMS:
        return Corpus(name, sums_conversations())
    if name == SMALL_TALK:
        return Corpus(name, small_talk())
    if name in EMBEDDED:
        raise UserError(f"data set {name!r} is running text; leave out --sft, or take conversations such as {SUMS!r}")
    path = Path(name).expanduser()
    if path.exists() and config is None:
        found = _load_local(path)
    else:
        refuse_missing(name)
        found = _documents_of_splits(load_from_hub(name, config), f"data set {name!r}")
    splits = datasets.DatasetDict()
    bad: list[str] = []
    formats_met: dict[str, None] = {}
    for split, rows in found.items():
        good, reasons = without_bad(rows)
        formats_met |= dict.fromkeys(good.unique(FORMAT))
        splits[split] = good.remove_columns(FORMAT)
        bad += reasons
    note = judge(bad, sum(map(len, splits.values())), name, skip_bad_rows)
    told = f"conversations in the format {' and '.join(formats_met)}"
    return Corpus(name, splits, note=f"{told}; {note}" if note else told)


class ConversationText:
    """The JSON of a row's conversation, as the text of a stream; see :class:`~hf_difflm.data.streaming.sources.RowText`.

    Attributes:
        formats: that rows were read in so far.
    """

    def __init__(self) -> None:
        self.formats: dict[str, None] = {}

    @property
    def fingerprint(self) -> str:
        """Changes when the conversation of some row does."""
        return code_digest(*_SOURCES)

    def columns(self, schema: pa.Schema, where: str) -> list[str]:
        """Return which columns are read.

        Raises:
            UserError: no format has them.
        """
        if format_of(schema.names) is None:
            document_of_row(dict.fromkeys(schema.names), where)  # raises, since nothing is in them
        return [name for name in schema.names if name in _READ]

    def text(self, row: Any, where: str) -> str:
        """Return the conversation.

        Raises:
            UserError: see :func:`document_of_row`.
        """
        row = without_nulls(row)
        text = document_of_row(row, where)
        if (met := format_of(row)) is not None:
            self.formats[met.name] = None
        return text


def document_of_row(row: Any, where: str) -> str:
    """Return the JSON of a conversation; ``where`` is for messages.

    Lists of messages as prompt and completion make one conversation.

    Raises:
        UserError: the columns are missing or hold something else, or there is nothing to learn: no completion, or
            nothing before it; the row's label says that the answer is a bad one, or its weight that it counts less.
    """
    return _document_of_row(row, where)[0]


def _document_of_row(row: Any, where: str) -> tuple[str, list[str]]:
    """The JSON of a conversation, and the names of the columns with a value that is not in it."""
    if not isinstance(row, dict):
        raise UserError(
            f"{where} holds {type(row).__name__}, not an object with messages, or a prompt and a completion"
        )
    row, _ = brought(row, where)
    refuse_weight(row, where)
    if row.get(LABEL) is False:
        raise UserError(f"the label of {where} is false, so its answer is one to avoid; remove the row")
    filled = [name for name, value in row.items() if value is not None and name not in (WEIGHT, LABEL)]
    if row.get(MESSAGES) is not None:
        unused = [name for name in filled if name not in (MESSAGES, TOOLS, TEMPLATE_OPTIONS)]
        return _of_messages(row[MESSAGES], row, where), unused
    missing = [name for name in (PROMPT, COMPLETION) if row.get(name) is None]
    if missing and isinstance(row.get(TEXT), str):
        return _as_json({TEXT: row[TEXT]}, where), [name for name in filled if name != TEXT]
    if missing and row.get(TEXT) is not None:
        raise UserError(f"column {TEXT!r} in {where} holds {type(row[TEXT]).__name__}, not text; repair or remove it")
    if missing:
        names = ", ".join(row) or "(none)"
        hint = "" if PROMPT in row or COMPLETION in row else did_you_mean(MESSAGES, row)
        raise UserError(
            f"{where} has neither messages nor a prompt and a completion, its columns are {names}{hint or '; rename them'}; "
            f"the formats that are read: {known_formats()}"
        )
    prompt, completion = row[PROMPT], row[COMPLETION]
    if isinstance(prompt, list) and isinstance(completion, list):
        unused = [name for name in filled if name not in (PROMPT, COMPLETION, TOOLS, TEMPLATE_OPTIONS)]
        return _of_messages([*prompt, *completion], row, where), unused
    for name, value in ((PROMPT, prompt), (COMPLETION, completion)):
        if not isinstance(value, str):
            raise UserError(
                f"column {name!r} in {where} holds {type(value).__name__}; make prompt and completion both text, or both "
                "lists of messages"
            )
    if not completion.strip():
        raise UserError(f"the completion in {where} is empty, so there is nothing to learn; remove it")
    unused = [name for name in filled if name not in (PROMPT, COMPLETION)]
    return _as_json({PROMPT: prompt, COMPLETION: completion}, where), unused


def _of_messages(value: Any, row: dict[str, Any], where: str) -> str:
    spoken = checked_messages(value, where)
    if spoken[-1]["role"] != ASSISTANT:
        raise UserError(
            f"the last message in {where} is of the {spoken[-1]['role']}, so there is no answer to learn; end it with one of "
            f"the {ASSISTANT}, or remove it"
        )
    if not spoken[-1]["content"].strip() and not spoken[-1].get(TOOL_CALLS):
        raise UserError(f"the last message in {where} is empty, so there is no answer to learn; remove it")
    if len(spoken) == 1:
        raise UserError(f"nothing comes before the answer in {where}; put a message of the user there, or remove it")
    conversation: dict[str, Any] = {MESSAGES: spoken}
    if row.get(TOOLS):
        conversation[TOOLS] = checked_tools(row[TOOLS], where)
    if row.get(TEMPLATE_OPTIONS):
        if not isinstance(row[TEMPLATE_OPTIONS], dict):
            raise UserError(f"{TEMPLATE_OPTIONS} in {where} is no object; repair or remove it")
        conversation[TEMPLATE_OPTIONS] = row[TEMPLATE_OPTIONS]
    return _as_json(conversation, where)


def _as_json(conversation: dict[str, Any], where: str) -> str:
    text = json.dumps(conversation, ensure_ascii=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half of a surrogate pair, which is no text; repair or remove it") from error
    return text


def _load_local(path: Path) -> datasets.DatasetDict:
    if is_saved(path):
        try:
            saved = datasets.load_from_disk(str(path))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"cannot load the save_to_disk folder {path}: {first_line(error)}; save it again"
            ) from error
        splits = saved if isinstance(saved, datasets.DatasetDict) else datasets.DatasetDict({"train": saved})
        return _documents_of_splits(splits, str(path))
    return datasets.DatasetDict(
        {
            split: generated(files, _generate, *_SOURCES, features=_FEATURES)
            for split, files in split_files(find_files(path)).items()
        }
    )


def _documents_of_splits(splits: datasets.DatasetDict, where: str) -> datasets.DatasetDict:
    return datasets.DatasetDict({split: _documents(rows, f"{split} of {where}") for split, rows in splits.items()})


def _documents(rows: datasets.Dataset, where: str) -> datasets.Dataset:
    if format_of(rows.column_names) is None:
        document_of_row(dict.fromkeys(rows.column_names), where)  # raises, since nothing is in them
    read = [name for name in rows.column_names if name in _READ]
    others = [name for name in rows.column_names if name not in read]
    return rows.select_columns(read).map(
        _document,
        with_indices=True,
        fn_kwargs={"where": where, "others": others, "code": code_digest(*_SOURCES)},
        remove_columns=read,
        features=_FEATURES,
        desc="Reading conversations",
    )


def _document(row: dict[str, Any], number: int, where: str, others: list[str], code: str) -> dict[str, Any]:
    return _judged(without_nulls(dict(row)), f"row {number + 1:,} of {where}", others)


def _judged(row: Any, where: str, others: list[str]) -> dict[str, Any]:
    """The document of a row, or why there is none."""
    try:
        if isinstance(row, UserError):
            raise row
        text, unused = _document_of_row(row, where)
    except UserError as error:
        return {"text": "", UNUSED: [], BAD: str(error), FORMAT: None}
    met = format_of(name for name, value in row.items() if value is not None)
    return {"text": text, UNUSED: unused + others, BAD: None, FORMAT: met.name if met is not None else None}


def _generate(files: list[str], stamps: list[tuple[int, int]], code: str) -> Iterator[dict[str, Any]]:
    found = False
    for file in files:
        try:
            for row, where in _rows(Path(file)):
                found = True
                yield _judged(row, where, [])
        except OSError as error:
            raise UserError(f"cannot read {file} ({error.strerror}): check its permissions") from error
    if not found:
        raise UserError(f"{files[0]} holds no conversation; give rows of messages, or of prompt and completion")


def _rows(path: Path) -> Iterator[tuple[Any, str]]:
    kind = kind_of(path)
    if kind == ".txt":
        raise UserError(f"{path} has no columns; give conversations as .jsonl, .json, .parquet or .csv")
    if kind != ".parquet":
        yield from {".jsonl": json_lines, ".csv": csv_rows}.get(kind, json_records)(path)
        return
    try:
        for number, row in enumerate(_parquet_rows(path), start=1):
            yield row, f"row {number:,} of {path}"
    except pa.ArrowException as error:
        raise UserError(f"cannot read {path} as .parquet: {first_line(error)}; repair or remove it") from error


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        read = [name for name in names if name in _READ]
        others = dict.fromkeys((name for name in names if name not in read), "not read")
        for batch in file.iter_batches(columns=read):
            for row in batch.to_pylist():
                yield without_nulls(row) | others
