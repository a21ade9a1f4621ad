"""Blocks that were tokenised once and lie in a folder, mapped into memory wherever they are used."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from hf_difflm.errors import UserError

from .encoding import DocumentEncoder
from .options import APART, CONCAT, DataOptions
from .prepare_held import TEST
from .prepared import PreparedData, RowCounts, SideCounts

CARD = "prepared.json"
_VERSION = 1
_AT_ONCE = 1024  # blocks that are written together
_SAMPLES, _SAMPLE = 256, 1 << 16  # pieces of a file that are checked, and their bytes: all of a file up to 16 MiB
# Options that were decided when the blocks were made, and are no decision any more when they are used.
_SETTLED = (
    "dataset_config",
    "text_column",
    "train_split",
    "eval_split",
    "eval_dataset",
    "eval_fraction",
    "test_fraction",
)


class BlockFile(Dataset[dict[str, Any]]):
    """Blocks in files, a column each; reads what it is asked for, and pickles as the paths.

    Args:
        columns: by name the file, the type and the shape of the column, whose first axis is the blocks.
        num_blocks: how many of them to use; None: all.
    """

    def __init__(self, columns: dict[str, tuple[Path, str, tuple[int, ...]]], num_blocks: int | None = None) -> None:
        self.columns = columns
        size = columns["input_ids"][2][0]
        self.num_blocks = size if num_blocks is None else min(size, num_blocks)
        self._map()

    def _map(self) -> None:
        self._arrays = {n: np.memmap(path, type_, "r", shape=shape) for n, (path, type_, shape) in self.columns.items()}

    def __getstate__(self) -> dict[str, Any]:
        return {"columns": self.columns, "num_blocks": self.num_blocks}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def __len__(self) -> int:
        return self.num_blocks

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return a block: ``input_ids`` (L,) int64, for evaluation also ``num_bytes``, ``document_ids`` and ``index``.

        Rows of documents that are kept apart are as long as they are; those to train on also have ``labels`` and
        ``piece_ids``.
        """
        if not 0 <= index < self.num_blocks:
            raise IndexError(f"block {index} of {self.num_blocks}")
        row = {name: np.array(array[index], dtype=np.int64) for name, array in self._arrays.items()}
        if (length := row.pop("length", None)) is None:
            return row
        return {name: values[:length] if values.ndim else values for name, values in row.items()}

    def _count_pieces(self, length_N: np.ndarray) -> int:
        """Pieces of (N,) rows of so many tokens: one more than there are borders between two."""
        count, column_M = 0, np.arange(1, self._arrays["piece_ids"].shape[1])
        for start in range(0, len(length_N), _AT_ONCE):
            ids_NL = self._arrays["piece_ids"][start : min(start + _AT_ONCE, len(length_N))]
            real_NM = column_M < length_N[start : start + _AT_ONCE, None]
            count += len(ids_NL) + int(((ids_NL[:, 1:] != ids_NL[:, :-1]) & real_NM).sum())
        return count

    @property
    def holds_documents(self) -> bool:
        """Whether a block holds several documents, which are to be kept apart."""
        return "piece_ids" in self.columns

    def counts(self) -> SideCounts:
        """How much there is in the blocks in use, of which nobody knows any more how many documents it is."""
        known, size = self._arrays.get("num_bytes"), self._arrays["input_ids"].shape[1]
        num_bytes = None if known is None else int(known[: self.num_blocks].sum())
        if "length" not in self._arrays:
            return SideCounts(None, self.num_blocks, self.num_blocks * (size - 1), 0, num_bytes)
        length_N = self._arrays["length"][: self.num_blocks].astype(np.int64)
        pieces, room = self.num_blocks, int(length_N.sum())
        if self.holds_documents:
            pieces, room = self._count_pieces(length_N), pieces * size
        padding = 1 - int(length_N.sum()) / room
        tokens = int(length_N.sum()) - pieces
        return RowCounts(None, self.num_blocks, tokens, 0, num_bytes, pieces=pieces, padding_share=padding)


def is_prepared(name: str) -> bool:
    """Whether ``name`` is a folder of prepared blocks, finished or not."""
    return (Path(name).expanduser() / CARD).is_file()


def refuse_target(options: DataOptions, folder: Path, *, overwrite: bool) -> None:
    """Raise UserError where blocks cannot go into ``folder``, since it holds something else or finished ones."""
    if options.sft:
        raise UserError(
            "conversations are rows of their own and no blocks; leave out --sft, or train on them as they are"
        )
    if is_prepared(options.dataset):
        raise UserError(f"{options.dataset} is prepared already: give the data set it was made from")
    if is_prepared(str(folder)):
        if _read_card(folder).get("finished") and not overwrite:
            raise UserError(f"{folder} holds prepared blocks already; give --overwrite or another --output-dir")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty and holds no prepared blocks; give another --output-dir")


def write_prepared(
    data: PreparedData,
    folder: Path,
    options: DataOptions,
    tokenizer: PreTrainedTokenizerBase,
    *,
    overwrite: bool = False,
) -> dict[str, SideCounts]:
    """Write the blocks of ``data`` into ``folder``, a stream as one pass over its text; returns what was written.

    Needs no more memory for more blocks. The card is marked as finished last.

    Raises:
        UserError: the folder holds something else, or finished blocks and not ``overwrite``; it cannot be written; the
            training text is shorter than a block.
    """
    refuse_target(options, folder, overwrite=overwrite)
    ids_type = "uint16" if len(tokenizer) <= 1 << 16 else "uint32"
    apart = options.packing in APART
    card: dict[str, Any] = {"version": _VERSION, "finished": False}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_card(folder, card)
        sides = {
            "train": _write_side(
                folder, "train", _batches(data.train, data.block_size, apart), ids_type, data.block_size
            ),
            "eval": _write_side(folder, "eval", _batches(data.eval, data.block_size, apart), ids_type, data.block_size),
        }
        if data.test is not None:
            sides["test"] = _write_side(
                folder, "test", _batches(data.test, data.block_size, apart), ids_type, data.block_size
            )
        counts = {side: _counts(folder, side, columns, data) for side, columns in sides.items()}
        if not counts["train"].blocks:
            raise UserError("the training text is shorter than one block: lower block_size, or give more text")
        card |= {
            "finished": True,
            "block_size": data.block_size,
            "tokenizer": options.tokenizer,
            "tokenizer_fingerprint": DocumentEncoder(tokenizer).fingerprint,
            "fingerprint": data.fingerprint,
            "options": asdict(options),
            "columns": sides,
            "counts": {side: asdict(count) for side, count in counts.items()},
            "source_nll": data.source_nll,
            "notes": data.notes,
            "round_trip": data.round_trip,
        }
        _write_card(folder, card)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); give another --output-dir") from error
    return counts


def load_prepared(options: DataOptions, tokenizer: PreTrainedTokenizerBase, *, need_train: bool = True) -> PreparedData:
    """Return the blocks of the folder ``options.dataset``; ``max_train_blocks`` and its like keep the first ones.

    Raises:
        UserError: the folder is unfinished or damaged, or its blocks were made with another tokenizer or block size, or
            for other options.
    """
    folder = Path(options.dataset).expanduser()
    card = _read_card(folder)
    if not card.get("finished"):
        raise UserError(f"{folder} was never finished: run `hf-difflm data prepare` again with the same --output-dir")
    if DocumentEncoder(tokenizer).fingerprint != card["tokenizer_fingerprint"]:
        raise UserError(
            f"{folder} was prepared with tokenizer {card['tokenizer']}, not {options.tokenizer}: set tokenizer to "
            f"{card['tokenizer']} as it was then, or prepare the data again"
        )
    if options.block_size != card["block_size"]:
        raise UserError(
            f"{folder} was prepared with block_size {card['block_size']}, not {options.block_size}: set block_size to "
            f"{card['block_size']}, or prepare the data again"
        )
    if options.packing != (packing := card["options"].get("packing", CONCAT)):
        raise UserError(
            f"{folder} was prepared with packing {packing}, not {options.packing}: set packing to {packing}, or prepare the "
            "data again"
        )
    defaults = DataOptions()
    for name in _SETTLED:
        value = getattr(options, name)
        held_out = name == "eval_split" and not need_train and value == TEST and TEST in card["columns"]
        if value not in (getattr(defaults, name), card["options"].get(name)) and not held_out:
            raise UserError(
                f"{folder} was prepared with {name} {card['options'].get(name)}, not {value}: leave out {name}, or prepare "
                "the data again"
            )
    if options.eval_split == TEST and TEST in card["columns"] and not need_train:
        for part in (card["columns"], card["counts"]):
            part["eval"] = part[TEST]
    sides = {side: _open_side(folder, columns) for side, columns in card["columns"].items()}
    counted = RowCounts if packing in APART else SideCounts
    counts = {side: counted(**count) for side, count in card["counts"].items()}
    notes = [*card["notes"]]
    if "round_trip" not in card and "num_bytes" in sides["eval"] and not DocumentEncoder(tokenizer).is_of_bytes:
        del sides["eval"]["num_bytes"]
        counts["eval"] = replace(counts["eval"], num_bytes=None)
        notes.append(
            f"{folder} was prepared before it was looked at whether the tokenizer gives the text back, so it has no bits "
            "per byte; prepare the data again"
        )
    most = {"train": options.most_train_blocks(), "eval": options.max_eval_blocks, TEST: options.max_eval_blocks}
    for side, columns in sides.items():
        limit = most[side]
        if limit is not None and limit < counts[side].blocks:
            notes.append(f"{side}: used the first {limit:,} of {counts[side].blocks:,} prepared blocks")
            part = BlockFile(columns, limit)
            counts[side] = part.counts()
    return PreparedData(
        train=BlockFile(sides["train"], most["train"]) if need_train else None,
        eval=BlockFile(sides["eval"], most["eval"]),
        source_nll=card["source_nll"] if counts["eval"].blocks == card["counts"]["eval"]["blocks"] else None,
        fingerprint=card["fingerprint"],
        counts=counts if need_train else {"eval": counts["eval"]},
        block_size=options.block_size,
        notes=notes,
        test=BlockFile(sides[TEST], most[TEST]) if TEST in sides else None,
        round_trip=card.get("round_trip", {}),  # of a folder prepared before it was looked at, nothing is known
    )


# Writing.


def _batches(blocks: Any, block_size: int, apart: bool) -> Iterator[dict[str, np.ndarray]]:
    """Columns of blocks, some at a time."""
    if getattr(blocks, "holds_documents", False):
        parts: Any = blocks.one_pass(_AT_ONCE) if getattr(blocks, "is_stream", False) else _rows(blocks)
        for rows in parts:
            yield _padded({name: [row[name] for row in rows] for name in rows[0]}, block_size)
        return
    if getattr(blocks, "is_stream", False):
        for ids_NL in blocks.one_pass(_AT_ONCE):
            yield {"input_ids": ids_NL}
        return
    for start in range(0, len(blocks), _AT_ONCE):
        batch = blocks[start : start + _AT_ONCE]
        yield _padded(batch, block_size) if apart else {name: np.asarray(column) for name, column in batch.items()}


def _rows(rows: Any) -> Iterator[list[dict[str, np.ndarray]]]:
    for start in range(0, len(rows), _AT_ONCE):
        yield [rows[number] for number in range(start, min(start + _AT_ONCE, len(rows)))]


def _padded(columns: dict[str, Any], block_size: int) -> dict[str, np.ndarray]:
    """Columns of rows of several lengths, filled up to ``block_size``, and ``length``, which says what is not filled."""
    lengths = np.array([len(ids) for ids in columns["input_ids"]])
    here_NL = np.arange(block_size) < lengths[:, None]
    found = {"length": lengths}
    for name, rows in columns.items():
        if np.ndim(rows[0]) == 0:
            found[name] = np.asarray(rows)
            continue
        found[name] = np.zeros(here_NL.shape, dtype=np.int64)
        found[name][here_NL] = np.concatenate(list(rows))
    return found


def _write_side(
    folder: Path, side: str, batches: Iterable[dict[str, np.ndarray]], ids_type: str, block_size: int
) -> dict[str, dict[str, Any]]:
    """Write a file a column; returns what the card says of each."""
    types = {"input_ids": ids_type, "document_ids": "int32", "num_bytes": "int32", "index": "int64"}
    types |= {"labels": "int32", "piece_ids": "int64", "length": "int32"}
    for old in folder.glob(f"{side}-*.bin"):
        old.unlink()
    files: dict[str, Any] = {"input_ids": (folder / f"{side}-input_ids.bin").open("wb")}
    num_blocks = 0
    try:
        for batch in batches:
            num_blocks += len(batch["input_ids"])
            for name, column in batch.items():
                if name not in files:
                    files[name] = (folder / f"{side}-{name}.bin").open("wb")
                files[name].write(np.ascontiguousarray(column.astype(types[name])).tobytes())
    finally:
        for file in files.values():
            if not file.closed:
                file.flush()
                os.fsync(file.fileno())
                file.close()
    return {
        name: {
            "file": Path(file.name).name,
            "type": types[name],
            "shape": [num_blocks] if name in ("num_bytes", "index", "length") else [num_blocks, block_size],
            "sha256": _digest(Path(file.name)),
        }
        for name, file in files.items()
    }


def _counts(folder: Path, side: str, columns: dict[str, dict[str, Any]], data: PreparedData) -> SideCounts:
    known = data.counts.get(side)
    blocks = columns["input_ids"]["shape"][0]
    if known is not None and known.blocks == blocks:
        return known
    return replace(BlockFile(_open_side(folder, columns)).counts(), num_bytes=None)


def _write_card(folder: Path, card: dict[str, Any]) -> None:
    fresh = folder / f"{CARD}.tmp"
    with fresh.open("w", encoding="utf-8") as file:
        json.dump(card, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, folder / CARD)


# Reading.


def _read_card(folder: Path) -> dict[str, Any]:
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if card["version"] != _VERSION:
            raise UserError(f"{folder} was prepared by another version of hf-difflm: prepare the data again")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder / CARD} is damaged: prepare the data again") from error
    return card


def _open_side(folder: Path, columns: dict[str, dict[str, Any]]) -> dict[str, tuple[Path, str, tuple[int, ...]]]:
    opened = {}
    for name, column in columns.items():
        path = folder / column["file"]
        size = int(np.prod(column["shape"])) * np.dtype(column["type"]).itemsize
        found = path.stat().st_size if path.is_file() else None
        if found is None:
            raise UserError(f"{path} is missing: prepare the data again")
        if found != size or _digest(path) != column["sha256"]:
            raise UserError(f"{path} is damaged: prepare the data again")
        opened[name] = (path, column["type"], tuple(column["shape"]))
    return opened


def _digest(path: Path) -> str:
    """A SHA-256 of pieces evenly spread over a file, its ends included: reading all of it would take minutes."""
    digest = hashlib.sha256()
    size = path.stat().st_size
    last = max(size - _SAMPLE, 0)
    num_pieces = min(_SAMPLES, -(-size // _SAMPLE))
    with path.open("rb") as file:
        for start in np.linspace(0, last, max(num_pieces, 1)).astype(np.int64).tolist():
            file.seek(start)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()
