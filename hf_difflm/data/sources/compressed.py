"""Files as bytes, whether they are compressed or not."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from hf_difflm.errors import UserError, first_line


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """The content of a file, decompressed as its name says, as a binary file that reads forward.

    Raises:
        UserError: (inside the block) it is damaged, or compressed in another way.
    """
    try:
        with _open(path) as file:
            yield file
    except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk
            raise
        raise UserError(
            f"{path} cannot be decompressed ({first_line(error)}): repair it, or compress it again in the usual way"
        ) from error


def skip(file: Any, offset: int) -> None:
    """Go to a byte of what ``opened`` gave; of a compressed file all before it is decompressed."""
    if file.seekable():
        file.seek(offset)
        return
    while offset > 0 and (read := len(file.read(min(offset, 1 << 20)))):
        offset -= read


def _open(path: Path) -> Any:
    suffix = path.suffix.lower()
    if suffix == ".zst":  # frames that follow each other are one text, as in the other formats
        return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return openers.get(suffix, open)(path, "rb")
