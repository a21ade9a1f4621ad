"""`datasets.map` with cache files that a second run finds, wherever the documents came from.

`datasets` hashes the mapped function by pickling it, which for a tokenizer changes with its first use, and it keeps
no cache file for documents in memory. So the key is spelled out here and the file lies in the cache of `datasets`.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets

from ..errors import UserError


def code_digest(*files: str) -> str:
    """Return a hash of source files: part of each cache key, so that results of older code are never met again."""
    return hashlib.sha256(b"".join(Path(file).read_bytes() for file in files)).hexdigest()


def cached_map(
    dataset: datasets.Dataset,
    function: Callable[..., Any],
    *,
    kind: str,
    key: list[str],
    features: datasets.Features,
    description: str,
    workers: int = 1,
) -> datasets.Dataset:
    """Map Arrow tables of a non-empty ``dataset`` to Arrow tables with ``features``, or find an earlier result.

    ``key`` names everything the result depends on, the content of ``dataset`` included; ``kind`` starts the name of
    the cache file.

    Raises:
        UserError: the folder of the cache cannot be read or written.
    """
    fingerprint = hashlib.sha256("\n".join([kind, *key]).encode()).hexdigest()[:32]
    workers = min(workers, len(dataset))
    folder = Path(datasets.config.HF_DATASETS_CACHE) / "hf_difflm"
    try:
        mapped = dataset.with_format("arrow").map(
            function,
            batched=True,
            batch_size=256,
            num_proc=workers if workers > 1 else None,  # `datasets` starts a pool for 1, too
            remove_columns=dataset.column_names,
            features=features,
            cache_file_name=str(folder / f"{kind}-{fingerprint}.arrow"),
            new_fingerprint=fingerprint,
            desc=description,
        )
    except OSError as error:
        raise _cannot(folder, error) from error
    return mapped.with_format(None)


def check_cache() -> None:
    """Find out whether the cache of `datasets` can be written, before anything is read.

    Raises:
        UserError: it cannot.
    """
    folder = Path(datasets.config.HF_DATASETS_CACHE)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _cannot(folder, error) from error


def _cannot(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"the cache of prepared text {folder} cannot be written ({error.strerror or error}); make room or give rights "
        "there, or name another folder by the environment variable HF_DATASETS_CACHE"
    )
