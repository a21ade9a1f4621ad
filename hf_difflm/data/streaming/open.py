"""Find the text of a stream by name: training and evaluation source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_difflm.errors import UserError, did_you_mean

from ..options import kind_of
from ..sources.articles import is_wikitext
from ..sources.corpora import refuse_config
from ..sources.folders import find_files, is_saved, split_files
from .files import STREAMED, Files
from .hub import HubSource, open_builder, splits_of
from .sources import Articles, RowText, Source

_EMBEDDED = ("python-docs", "markov", "sums", "small-talk")


@dataclass(frozen=True)
class Opened:
    """A data set that is read as a stream.

    Attributes:
        name: as the user gave it.
        splits: names of its splits.
    """

    name: str
    splits: list[str]
    _files: Mapping[str, list[Path]] | None
    _builder: object
    _rows: RowText
    _skip_bad_rows: bool = False

    def source(self, split: str) -> Source:
        """Return the text of a split.

        Raises:
            UserError: there is no such split, or nothing in it can be read.
        """
        if split not in self.splits:
            hint = did_you_mean(split, self.splits)
            if "[" in split:
                hint = ": a stream has no slices, so name a whole split, or leave out streaming"
            raise UserError(
                f"data set {self.name!r} has no split {split!r}, its splits are {', '.join(self.splits)}{hint}"
            )
        if self._files is not None:
            return Files(self.name, tuple(self._files[split]), self._rows, self._skip_bad_rows)
        if is_wikitext(self.name):
            return Articles(HubSource(self.name, self._builder, split, self._rows, empty_too=True))
        return HubSource(self.name, self._builder, split, self._rows, skip_bad_rows=self._skip_bad_rows)


def open_stream(
    name: str, config: str | None, rows: RowText, skip_bad_rows: bool = False, kinds: Sequence[str] = STREAMED
) -> Opened:
    """Find the data set ``name`` without reading it: a path that exists, else one on the Hub.

    Args:
        name, config: of the data set.
        rows: what the text of a row is.
        skip_bad_rows: leave out rows that cannot be used.
        kinds: suffixes of the files that can be read.

    Raises:
        UserError: it cannot be found, or cannot be read as a stream.
    """
    if name in _EMBEDDED:
        raise UserError(f"data set {name} fits into memory and is no stream: leave out streaming")
    path = Path(name).expanduser()
    if path.exists() and config is None:
        if path.is_dir() and is_saved(path):
            raise UserError(f"{path} is a save_to_disk folder, which is mapped and not read: leave out streaming")
        files = split_files(find_files(path))
        for file in [file for part in files.values() for file in part]:
            if kind_of(file) not in kinds:
                raise UserError(
                    f"{file} cannot be read as a stream: convert it to {', '.join(kinds[:-1])} or {kinds[-1]}, "
                    "or leave out streaming"
                )
        return Opened(name, list(files), files, None, rows, skip_bad_rows)
    refuse_config(name, config)
    builder = open_builder(name, config)
    return Opened(name, splits_of(builder), None, builder, rows, skip_bad_rows)
