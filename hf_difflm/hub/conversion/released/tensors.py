"""Safetensors under other names, copied file by file as bytes: no weight is ever held in memory.

A tensor of ours is a tensor of theirs, or several of theirs behind each other along the first axis (the experts of a
layer), or the other way round. Each is a range of bytes of a file, so that a conversion is exact in every precision.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ....errors import UserError
from ....models.file_names import INDEX, WEIGHTS

_AT_ONCE = 8 << 20  # bytes


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Attributes:
        file: the file.
        dtype: as safetensors call it, ``BF16``.
        shape: of the tensor.
        start: of its first byte, from the beginning of the file.
        bytes: how many it has.
    """

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    bytes: int


def stored_tensors(folder: Path, name: str) -> dict[str, Stored]:
    """All tensors in the safetensors of a model folder, in the order of its files.

    Args:
        folder: checked by :func:`~hf_difflm.models.untrusted.refuse_unsafe`.
        name: what the user knows it as.

    Raises:
        UserError: a file is damaged, or a tensor is in two of them.
    """
    found: dict[str, Stored] = {}
    for file in _files(folder, name):
        try:
            with safe_open(file, "pt"):
                pass  # it checks what is read below: sizes and places against the file
            with file.open("rb") as stream:
                (size,) = struct.unpack("<Q", stream.read(8))
                header = json.loads(stream.read(size))
        except (OSError, ValueError, SafetensorError) as error:
            raise UserError(f"{file.name} of {name} cannot be read ({error}); download it again") from error
        header.pop("__metadata__", None)
        for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            if key in found:
                raise UserError(f"{name} has the weights {key} in two files; download it again")
            start, end = entry["data_offsets"]
            found[key] = Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + size + start, end - start)
    return found


def joined(parts: Iterable[Stored], shape: tuple[int, ...]) -> list[Stored] | None:
    """Parts that make a tensor of this shape one behind the other; None where they do not."""
    parts = list(parts)
    kinds = {part.dtype for part in parts}
    inner = shape[len(shape) - len(parts[0].shape) + 1 :]
    fits = all(part.shape[1:] == inner for part in parts) if len(parts) > 1 else parts[0].shape == shape
    numbers = sum(math.prod(part.shape) for part in parts)
    return parts if len(kinds) == 1 and fits and numbers == math.prod(shape) else None


def write_tensors(tensors: Mapping[str, tuple[tuple[int, ...], list[Stored]]], folder: Path) -> None:
    """Write tensors as ranges of bytes of other files, one file for each of these.

    Args:
        tensors: shape and parts of each, by its name; it goes into the file that stands for that of its first part.
        folder: an existing one.
    """
    groups: dict[Path, list[str]] = {}
    for name, (_, parts) in tensors.items():
        groups.setdefault(parts[0].file, []).append(name)
    files = (
        [WEIGHTS]
        if len(groups) == 1
        else [f"model-{i + 1:05d}-of-{len(groups):05d}.safetensors" for i in range(len(groups))]
    )
    places: dict[str, str] = {}
    for file, names in zip(files, groups.values(), strict=True):
        _write({name: tensors[name] for name in names}, folder / file)
        places |= dict.fromkeys(names, file)
    if len(files) > 1:
        total = sum(part.bytes for _, parts in tensors.values() for part in parts)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _write(tensors: Mapping[str, tuple[tuple[int, ...], list[Stored]]], path: Path) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, parts) in tensors.items():
        start, end = end, end + sum(part.bytes for part in parts)
        header[name] = {"dtype": parts[0].dtype, "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for _, parts in tensors.values():
            for part in parts:
                with part.file.open("rb") as source:
                    source.seek(part.start)
                    left = part.bytes
                    while left:
                        piece = source.read(min(left, _AT_ONCE))
                        if not piece:
                            raise OSError(f"{part.file} ended early")
                        left -= stream.write(piece)


def _files(folder: Path, name: str) -> list[Path]:
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    try:
        places = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return [folder / file for file in sorted(set(places.values()))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{INDEX} of {name} cannot be read ({error}); download it again") from error
