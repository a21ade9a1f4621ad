"""Documents from files: .txt (one document each), .jsonl, .json, .csv, .parquet, compressed ones, folders, save_to_disk."""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
from datasets.exceptions import DatasetGenerationError

from hf_difflm.errors import UserError, first_line

from ..caching import code_digest
from ..options import kind_of
from . import compressed
from .bad_rows import BAD, HOPELESS, without_bad
from .columns import missing_column, text_only
from .compressed import opened
from .folders import find_files, is_saved, split_files


def load_local(path: Path, text_column: str) -> tuple[datasets.DatasetDict, list[str]]:
    """Return the splits (column ``text``) of a file or folder, and why rows of it that are not among them cannot be used.

    A folder whose every file is named like a split (``train.txt``, ``valid.jsonl``, ``test-00000-of-00002.parquet``)
    has those splits; anything else is one split, ``train``. Files are read in the order of their paths.

    Raises:
        UserError: nothing readable there, or something in it is not what its suffix promises.
    """
    if is_saved(path):
        return _load_saved(path, text_column), []
    splits = datasets.DatasetDict()
    bad: list[str] = []
    for split, paths in split_files(find_files(path)).items():
        splits[split], reasons = _read(paths, text_column)
        bad += reasons
    return splits, bad


def _load_saved(path: Path, text_column: str) -> datasets.DatasetDict:
    try:
        loaded = datasets.load_from_disk(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot load the save_to_disk folder {path}: {first_line(error)}; save it again") from error
    if isinstance(loaded, datasets.Dataset):
        loaded = datasets.DatasetDict({"train": loaded})
    return datasets.DatasetDict({split: text_only(rows, text_column, str(path)) for split, rows in loaded.items()})


def _read(files: list[Path], text_column: str) -> tuple[datasets.Dataset, list[str]]:
    parts: list[datasets.Dataset] = []
    bad: list[str] = []
    # The others are parsed here, for byte-exact text and for messages with line numbers.
    if parsed_here := [file for file in files if kind_of(file) != ".parquet"]:
        sources = (__file__, compressed.__file__)
        rows, bad = without_bad(generated(parsed_here, _documents, *sources, text_column=text_column))
        parts.append(rows)
    if built := [file for file in files if kind_of(file) == ".parquet"]:
        parts.append(_from_parquet(built, text_column))
    return (parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)), bad


def generated(
    files: list[Path],
    generate: Callable[..., Iterator[dict[str, Any]]],
    *sources: str,
    features: datasets.Features | None = None,
    **arguments: Any,
) -> datasets.Dataset:
    """Return the documents that ``generate(files=, stamps=, code=, **arguments)`` yields, cached.

    Args:
        files: that are read; one that changed is read again.
        generate: a function of a module, which gets the files' paths as text.
        features: columns, where there are more.
        sources: files of the code that it runs: ``__file__`` of its module, and of those that it leans on.
        arguments: further ones of ``generate``.

    Raises:
        UserError: raised by ``generate``.
    """
    stats = [file.stat() for file in files]
    try:
        return datasets.Dataset.from_generator(
            generate,
            features=features or datasets.Features({"text": datasets.Value("string"), BAD: datasets.Value("string")}),
            # `datasets` keys its cache by these.
            gen_kwargs={
                "files": [str(file.resolve()) for file in files],
                **arguments,
                "stamps": [(stat.st_size, stat.st_mtime_ns) for stat in stats],
                "code": code_digest(*sources),
            },
        )
    except DatasetGenerationError as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _from_parquet(files: list[Path], text_column: str) -> datasets.Dataset:
    where = str(files[0]) if len(files) == 1 else f"{len(files)} .parquet files from {files[0]} on"
    try:
        rows = datasets.load_dataset("parquet", data_files={"train": [str(file) for file in files]})["train"]
    except (
        Exception
    ) as error:  # each reader has its own exceptions, and the user needs the file's name with any of them
        cause = error.__cause__ if isinstance(error, DatasetGenerationError) and error.__cause__ else error
        raise UserError(f"cannot read {where} as .parquet: {first_line(cause)}; repair or remove it") from error
    return text_only(rows, text_column, where)


def _documents(
    files: list[str], text_column: str, stamps: list[tuple[int, int]], code: str
) -> Iterator[dict[str, str | None]]:
    num_documents = num_bad = 0
    first: UserError | None = None
    for file in files:
        numbers_alone = kind_of(Path(file)) == ".csv"
        try:
            for text in _texts(Path(file), text_column):
                if isinstance(text, UserError):
                    num_bad, first = num_bad + 1, first or text
                    if num_bad == HOPELESS > num_documents == 0:
                        raise first
                    yield {"text": "", BAD: str(text)}
                    continue
                num_documents += 1
                numbers_alone = numbers_alone and _is_number(text)
                yield {"text": text, BAD: None}
        except OSError as error:
            raise UserError(f"cannot read {file} ({error.strerror}): check its permissions") from error
        if numbers_alone and num_documents:
            raise UserError(
                f"column {text_column!r} of {file} holds numbers, not text: set text_column to a column of text"
            )
    if num_documents == num_bad == 0:
        yield {"text": "", BAD: None}  # `datasets` cannot load what it wrote from no rows


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _texts(path: Path, text_column: str) -> Iterator[str | UserError]:
    """Yield the text of each row, or why there is none."""
    if kind_of(path) == ".txt":
        with opened(path) as file:
            content = file.read()
        try:
            yield decode_text(content, str(path))
        except UserError as error:
            yield error
        return
    for record, where in {".jsonl": json_lines, ".csv": csv_rows}.get(kind_of(path), json_records)(path):
        try:
            yield record if isinstance(record, UserError) else text_of_record(record, text_column, where)
        except UserError as error:
            yield error


def decode_text(content: bytes, where: str, signature: bool = True) -> str:
    """Decode UTF-8 byte for byte; only a byte-order mark at the beginning, a ``signature`` and no text, is left out.

    Raises:
        UserError: it is not UTF-8; ``where`` is for the message.
    """
    try:
        return content.decode("utf-8-sig" if signature else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where} is not UTF-8 text (byte {error.start:,} is 0x{error.object[error.start]:02x}): "
            "convert it to UTF-8 or remove it"
        ) from error


def json_lines(path: Path) -> Iterator[tuple[Any, str]]:
    """Yield each line's value and where it stands; in place of a value that cannot be read the UserError that says why."""
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            where = f"line {number:,} of {path}"
            try:
                text = decode_text(line.rstrip(b"\r\n"), where)
                if text.strip():
                    yield parse_json(text, where), where
            except UserError as error:
                yield error, where


def json_records(path: Path) -> Iterator[tuple[Any, str]]:
    """Read one array of objects, one object, or objects line by line: all three go by the name .json."""
    with opened(path) as file:
        text = decode_text(file.read(), str(path))
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        yield from json_lines(path)
        return
    records = content if isinstance(content, list) else [content]
    for number, record in enumerate(records, start=1):
        yield record, f"record {number:,} of {path}"


def csv_rows(path: Path) -> Iterator[tuple[Any, str]]:
    """Read rows under a header, all that is in them text; in place of one that cannot be read the UserError that says why."""
    csv.field_size_limit(1 << 30)  # a document may be longer than the 128 KiB that the module takes by itself
    with opened(path) as file:
        # What is no UTF-8 becomes half surrogates, so that it is known which rows it stands in.
        lines = csv.DictReader(io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline=""), restval=_MISSING)
        try:
            header = lines.fieldnames
        except csv.Error as error:
            raise UserError(f"cannot read {path} as .csv: {first_line(error)}; repair or remove it") from error
        if not header:
            raise UserError(f"cannot read {path} as .csv: it has no header; repair or remove it")
        for number in itertools.count(1):
            where = f"row {number:,} of {path}"
            try:
                row = next(lines, None)
            except csv.Error as error:
                yield UserError(f"{where} is not valid CSV ({first_line(error)}): repair or remove it"), where
                continue
            if row is None:
                return
            yield _checked_csv(row, where), where


_MISSING = "\udfff"  # no text that a file can hold, not even a broken one


def _checked_csv(row: dict[Any, Any], where: str) -> Any:
    missing = sum(value == _MISSING for value in row.values())
    extra = len(row.get(None, ()))
    if missing or extra:
        named = len(row) - (None in row)
        return UserError(
            f"{where} has {named - missing + extra} fields and the header {named}: put text with commas in quotes, "
            "or remove the row"
        )
    try:
        "".join([*row, *row.values()]).encode("utf-8")
    except UnicodeEncodeError:
        return UserError(f"{where} is not UTF-8 text: convert it to UTF-8 or remove it")
    return row


def parse_json(text: str, where: str) -> Any:
    """Parse JSON; ``where`` is for messages.

    Raises:
        UserError: it is none.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{where} is not valid JSON ({error.msg.removesuffix(' at')} at column {error.colno}): repair or remove it"
        ) from error
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, brackets thousands deep
        raise UserError(f"{where} is not usable JSON ({first_line(error)}): repair or remove it") from error


def text_of_record(record: Any, text_column: str, where: str) -> str:
    """Return the text of an object of JSON, empty where it is null; ``where`` is for messages.

    Raises:
        UserError: it has no text.
    """
    if not isinstance(record, dict):
        raise UserError(f"{where} holds {type(record).__name__}, not an object with a column {text_column!r}")
    if text_column not in record:
        raise missing_column(text_column, list(record), where)
    text = record[text_column]
    if text is None:
        return ""
    if not isinstance(text, str):
        kind = type(text).__name__
        raise UserError(
            f"column {text_column!r} in {where} holds {kind}, not text: set text_column to a column of text"
        )
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where} holds half of a surrogate pair, which is no text: repair or remove it") from error
    return text
