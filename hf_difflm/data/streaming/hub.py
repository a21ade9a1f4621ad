"""Streams of the Hugging Face Hub, or of a folder laid out like a data set there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import datasets

from hf_difflm.errors import UserError, did_you_mean, first_line

from ..sources.bad_rows import SkippedRows
from .sources import Piece, Position, RowText


class HubSource:
    """A split of a data set, read by `datasets` as a stream; a position is its ``state_dict`` before a row, and its number.

    Args:
        rows: what the text of a row is.
        empty_too: yield rows without text, which are no documents but may be lines.
        skip_bad_rows: leave out rows that cannot be used, counted and the first few told.
    """

    def __init__(
        self, name: str, builder: Any, split: str, rows: RowText, empty_too: bool = False, skip_bad_rows: bool = False
    ) -> None:
        self.name = name
        self.split = split
        self.rows = rows
        self.empty_too = empty_too
        self.skipped = SkippedRows(name, skip_bad_rows)
        self._builder = builder
        self._check()
        parts = [name, str(builder.config.name), str(builder.hash), split, rows.fingerprint]
        self.fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _check(self) -> None:
        stream = self._stream()
        if stream.features is not None:
            self.rows.columns(stream.features.arrow_schema, f"data set {self.name!r}")

    def _stream(self) -> datasets.IterableDataset:
        try:
            return self._builder.as_streaming_dataset(split=self.split)
        except Exception as error:  # each builder has its own exceptions; the user needs one sentence
            raise UserError(f"cannot stream split {self.split!r} of {self.name!r}: {first_line(error)}") from error

    def pieces(self, position: Position | None = None) -> Iterator[Piece]:
        """See :class:`Source`."""
        stream = self._stream()
        number = 0
        if position is not None:
            stream.load_state_dict(position["stream"])
            number = position["row"]
        before = json.dumps(stream.state_dict())
        try:
            for row in stream:
                text = self._text(row, number)
                if text or (self.empty_too and text is not None):
                    yield Piece({"row": number, "stream": json.loads(before)}, text)
                before = json.dumps(stream.state_dict())
                number += 1
        except UserError:
            raise
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"reading {self.name!r} broke off: {first_line(error)}; go on with --resume") from error

    def _text(self, row: Any, number: int) -> str | None:
        """The text of a row; None where it cannot be used."""
        try:
            return self.rows.text(row, f"row {number + 1:,} of {self.name!r}")
        except UserError as error:
            self.skipped.meet(error, (0, number))
            return None


def open_builder(name: str, config: str | None) -> Any:
    """Find a data set on the Hub without reading it.

    Raises:
        UserError: it cannot be found or reached.
    """
    try:
        return datasets.load_dataset_builder(name, config)
    except Exception as error:  # hub, network and builder each raise their own; the user needs one sentence
        which = f"{name!r}" if config is None else f"{name!r} (configuration {config!r})"
        hint = did_you_mean(name, ("python-docs", "markov")) or "; check the name and the network"
        raise UserError(
            f"cannot stream data set {which} from the Hugging Face Hub ({first_line(error)}), and it is no file or "
            f"folder here{hint}"
        ) from error


def splits_of(builder: Any) -> list[str]:
    """Names of the splits, as far as they are known without reading."""
    if builder.info.splits:
        return list(builder.info.splits)
    return [str(split) for split in (builder.config.data_files or {})]
