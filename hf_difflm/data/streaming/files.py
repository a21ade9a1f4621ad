"""Streams of local files, compressed or not: .jsonl by lines, .txt by lines of about 64 KiB together, .parquet by rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hf_difflm.errors import UserError, first_line

from ..options import kind_of
from ..sources.bad_rows import SkippedRows
from ..sources.compressed import opened, skip
from ..sources.local_files import decode_text, parse_json
from .sources import Piece, Position, RowText

STREAMED = (".jsonl", ".txt", ".parquet")
_PIECE = 1 << 16
_ENDS = 1 << 16  # bytes read at either end of a file to tell whether it is still the same


@dataclass(frozen=True)
class Files:
    """The text of files, one after the other; a position is the number of the file and the byte (of its text) or
    row in it."""

    name: str
    paths: tuple[Path, ...]
    rows: RowText
    skip_bad_rows: bool = False

    @cached_property
    def skipped(self) -> SkippedRows:
        """The rows that were left out so far."""
        return SkippedRows(self.name, self.skip_bad_rows)

    @cached_property
    def fingerprint(self) -> str:
        """A SHA-256 over names, sizes, beginnings and ends of the files, and what of a row is read."""
        digest = hashlib.sha256(self.rows.fingerprint.encode())
        for path in self.paths:
            size = path.stat().st_size
            with path.open("rb") as file:
                ends = file.read(_ENDS)
                file.seek(max(size - _ENDS, 0))
                ends += file.read(_ENDS)
            digest.update(f"\n{path.name} {size} ".encode() + hashlib.sha256(ends).digest())
        return digest.hexdigest()

    def pieces(self, position: Position | None = None) -> Iterator[Piece]:
        """See :class:`Source`."""
        first, offset = (0, 0) if position is None else (position["file"], position["offset"])
        for number in range(first, len(self.paths)):
            path = self.paths[number]
            try:
                for start, text, starts in self._read(path, offset):
                    if text:
                        yield Piece({"file": number, "offset": start}, text, starts)
            except OSError as error:
                raise UserError(f"cannot read {path} ({error.strerror or first_line(error)}): check it") from error
            offset = 0

    def _read(self, path: Path, offset: int) -> Iterator[tuple[int, str, bool]]:
        kind = kind_of(path)
        if kind == ".parquet":
            return self._parquet_rows(path, offset)
        return self._lines(path, offset) if kind == ".jsonl" else _parts(path, offset)

    def _lines(self, path: Path, offset: int) -> Iterator[tuple[int, str, bool]]:
        with opened(path) as file:
            skip(file, offset)
            for line in file:
                where = f"the line at byte {offset:,} of {path}"
                try:
                    text = decode_text(line.rstrip(b"\r\n"), where)
                    found = self.rows.text(parse_json(text, where), where) if text.strip() else ""
                except UserError as error:
                    self.skipped.meet(error, (self.paths.index(path), offset))
                    found = ""
                if found:
                    yield offset, found, True
                offset += len(line)

    def _parquet_rows(self, path: Path, offset: int) -> Iterator[tuple[int, str, bool]]:
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                columns = self.rows.columns(file.schema_arrow, str(path))
                row = 0
                for group in range(file.num_row_groups):
                    size = file.metadata.row_group(group).num_rows
                    if row + size > offset:
                        at = row
                        for batch in file.iter_batches(64, row_groups=[group], columns=columns):
                            begin = max(offset - at, 0)
                            for place, found in enumerate(batch[begin:].to_pylist(), start=at + begin):
                                yield place, self._text(found, path, place), True
                            at += len(batch)
                    row += size
        except pa.ArrowException as error:
            raise UserError(f"cannot read {path} as .parquet: {first_line(error)}; repair or remove it") from error

    def _text(self, row: dict[str, Any], path: Path, number: int) -> str:
        try:
            return self.rows.text(row, f"row {number + 1:,} of {path}")
        except UserError as error:
            self.skipped.meet(error, (self.paths.index(path), number))
            return ""


def _parts(path: Path, offset: int) -> Iterator[tuple[int, str, bool]]:
    """Cut a text file after lines; a longer line is cut between two characters."""
    rest = b""
    with opened(path) as file:
        skip(file, offset)
        while content := rest + file.read(_PIECE - len(rest)):
            content += file.readline(_PIECE)
            whole = content if content.endswith(b"\n") else _whole_characters(content)
            content, rest = whole, content[len(whole) :]
            where = f"{path} from byte {offset:,} on"
            # A byte-order mark is a signature at the beginning alone, and a character elsewhere.
            yield offset, decode_text(content, where, signature=offset == 0), offset == 0
            offset += len(content)


def _whole_characters(content: bytes) -> bytes:
    """Leave out a character of UTF-8 that the end of ``content`` cuts in two."""
    for back in range(1, min(4, len(content)) + 1):
        byte = content[-back]
        if byte & 0xC0 != 0x80:  # the first byte of a character, which tells its length
            length = 4 if byte >= 0xF0 else 3 if byte >= 0xE0 else 2 if byte >= 0xC0 else 1
            return content[:-back] or content if length > back else content
    return content
