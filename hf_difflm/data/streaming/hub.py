"""Streams of the Hugging Face Hub, or of a folder laid out like a data set there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import datasets

from hf_difflm.errors import UserError, did_you_mean, first_line

from ..sources.columns import missing_column
from .sources import Piece, Position


class HubSource:
    """A split of a data set, read by `datasets` as a stream; a position is its ``state_dict`` before a row.

    Args:
        empty_too: yield rows without text, which are no documents but may be lines.
    """

    def __init__(self, name: str, builder: Any, split: str, text_column: str, empty_too: bool = False) -> None:
        self.name = name
        self.split = split
        self.text_column = text_column
        self.empty_too = empty_too
        self._builder = builder
        self._check()
        parts = [name, str(builder.config.name), str(builder.hash), split, text_column]
        self.fingerprint = hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def _check(self) -> None:
        stream = self._stream()
        columns = stream.column_names
        if columns is not None and self.text_column not in columns:
            raise missing_column(self.text_column, columns, f"data set {self.name!r}")

    def _stream(self) -> datasets.IterableDataset:
        try:
            return self._builder.as_streaming_dataset(split=self.split)
        except Exception as error:  # each builder has its own exceptions; the user needs one sentence
            raise UserError(f"cannot stream split {self.split!r} of {self.name!r}: {first_line(error)}") from error

    def pieces(self, position: Position | None = None) -> Iterator[Piece]:
        """See :class:`Source`."""
        stream = self._stream()
        if position is not None:
            stream.load_state_dict(position)
        before = json.dumps(stream.state_dict())
        try:
            for row in stream:
                text = row.get(self.text_column)
                if text is not None and not isinstance(text, str):
                    raise UserError(
                        f"column {self.text_column!r} of {self.name!r} holds {type(text).__name__}, not text: set "
                        "text_column to a column of text"
                    )
                if text or self.empty_too:
                    yield Piece(json.loads(before), text or "")
                before = json.dumps(stream.state_dict())
        except (OSError, ValueError, RuntimeError) as error:
            raise UserError(f"reading {self.name!r} broke off: {first_line(error)}; go on with --resume") from error


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
