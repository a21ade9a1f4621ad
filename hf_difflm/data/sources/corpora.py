"""Find a data set by its name: embedded, a file or folder, or on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import datasets

from hf_difflm.errors import UserError, did_you_mean, first_line

from ..options import SUFFIXES, kind_of
from .articles import group_articles, is_wikitext
from .bad_rows import judge
from .columns import text_only
from .local_files import load_local
from .markov import MarkovSource, markov_documents
from .python_docs import python_docs

EMBEDDED = ("python-docs", "markov")


@dataclass(frozen=True)
class Corpus:
    """Documents by split.

    Attributes:
        name: as the user gave it.
        splits: data sets with the column ``text_column``.
        text_column: the column that holds the text.
        source: the chain behind the documents where they are synthetic: each document is then one block.
        note: on rows that were left out; may be empty.
    """

    name: str
    splits: datasets.DatasetDict
    text_column: str = "text"
    source: MarkovSource | None = None
    note: str = ""

    def split(self, spec: str) -> datasets.Dataset:
        """Return the documents (column ``text``) of a split such as ``train`` or a slice such as ``train[:80%]``.

        Raises:
            UserError: there is no such split, or its text column is missing or holds no text.
        """
        parts = [self._rows(*place) for place in self._places(spec)]
        return parts[0] if len(parts) == 1 else datasets.concatenate_datasets(parts)

    def shares_rows(self, spec: str, other: str) -> bool:
        """Tell whether two splits or slices have a row, not only a text, in common."""
        return any(
            name == other_name and max(start, other_start) < min(stop, other_stop)
            for name, start, stop in self._places(spec)
            for other_name, other_start, other_stop in self._places(other)
        )

    def _places(self, spec: str) -> list[tuple[str, int, int]]:
        sizes = {name: len(rows) for name, rows in self.splits.items()}
        try:
            parts = datasets.ReadInstruction.from_spec(spec).to_absolute(sizes)
        except (ValueError, AssertionError) as error:
            hint = did_you_mean(spec, self.splits) or "; a slice is written train[:80%]"
            known = ", ".join(self.splits)
            raise UserError(f"data set {self.name!r} has no split {spec!r}, its splits are {known}{hint}") from error
        return [(part.splitname, part.from_, part.to) for part in parts]

    def _rows(self, name: str, start: int, stop: int) -> datasets.Dataset:
        rows = text_only(self.splits[name], self.text_column, f"data set {self.name!r}")
        return rows if (start, stop) == (0, len(rows)) else rows.select(range(start, stop))


def load_corpus(
    name: str, config: str | None = None, *, text_column: str = "text", block_size: int, skip_bad_rows: bool = False
) -> Corpus:
    """Find the data set ``name``: an embedded one, else a path that exists, else one on the Hub.

    The lines of WikiText are put together to articles, which are its documents and what is sliced.

    Args:
        config: configuration of a Hub data set, or of a local folder laid out like one.
        text_column: column that holds the text, where the source has columns.
        skip_bad_rows: leave out rows of local files that cannot be used.
        block_size: length of the blocks to be made; ``markov`` documents are that long less the BOS.

    Raises:
        UserError: it cannot be found, reached or read.
    """
    if name == "python-docs":
        return Corpus(name, python_docs())
    if name == "sums":
        raise UserError("data set 'sums' holds conversations; add --sft")
    if name == "markov":
        source = MarkovSource()
        return Corpus(name, markov_documents(source, block_size - 1), source=source)
    path = Path(name).expanduser()
    if path.exists() and config is None:
        splits, bad = load_local(path, text_column)
        note = judge(bad, sum(map(len, splits.values())), name, skip_bad_rows)
        return Corpus(name, splits, note=note)
    refuse_missing(name)
    splits = load_from_hub(name, config)
    if is_wikitext(name):
        rows = {split: text_only(lines, text_column, f"data set {name!r}") for split, lines in splits.items()}
        return Corpus(name, datasets.DatasetDict({split: group_articles(lines) for split, lines in rows.items()}))
    return Corpus(name, splits, text_column)


def refuse_missing(name: str) -> None:
    """Raise UserError where ``name`` can only be a path and nothing is there; the Hub is not asked."""
    path = Path(name).expanduser()
    if not path.exists() and (kind_of(path) in SUFFIXES or name[:1] in "./~" or name.count("/") > 1):
        raise UserError(f"no such file or folder: {name}; check the path")


def refuse_config(name: str, config: str | None) -> None:
    """Raise UserError where a file has a configuration, which data sets of the Hub and folders like them have."""
    if config is not None and Path(name).expanduser().is_file():
        raise UserError(f"dataset_config {config!r} is of a data set of the Hub, but {name} is a file; leave it out")


def load_from_hub(name: str, config: str | None) -> datasets.DatasetDict:
    refuse_config(name, config)
    try:
        return datasets.load_dataset(name, config)
    except Exception as error:  # hub, network, cache and builder each raise their own; the user needs one sentence
        which = f"{name!r}" if config is None else f"{name!r} (configuration {config!r})"
        hint = did_you_mean(name, EMBEDDED) or "; check the name and the network"
        raise UserError(
            f"cannot load data set {which} from the Hugging Face Hub ({first_line(error)}), and it is neither a file "
            f"or folder here nor one of the embedded {', '.join(EMBEDDED)}{hint}"
        ) from error
