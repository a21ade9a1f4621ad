"""The tokenizers of released models, without the code beside them."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ....data import load_tokenizer
from ....errors import UserError
from ....models.file_names import BESIDE, TOKENIZER_CONFIG

# Classes in their own files, and the class of transformers that splits text alike.
_SAME_AS = {"DreamTokenizer": "Qwen2Tokenizer"}
_FILES = ("tokenizer.json", "vocab.json", "tokenizer.model")


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder has a tokenizer."""
    return any((folder / file).exists() for file in _FILES)


@contextmanager
def tokenizer_source(folder: Path, name: str, tokenizer: str | None) -> Iterator[str]:
    """What to load the tokenizer from: what the user names, the folder, or a copy of its files that names no code.

    Args:
        folder: of the model.
        name: what the user knows it as.
        tokenizer: what the user names; None: nothing.

    Raises:
        UserError: the folder has none.
    """
    if tokenizer is not None:
        yield tokenizer
        return
    if not has_tokenizer(folder):
        raise UserError(f"{name} has no tokenizer; name it (--tokenizer), or convert it for ids only (--no-tokenizer)")
    place = folder / TOKENIZER_CONFIG
    config: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    if "auto_map" not in config and config.get("tokenizer_class") not in _SAME_AS:
        yield str(folder)
        return
    config.pop("auto_map", None)
    if (kind := config.get("tokenizer_class")) in _SAME_AS:
        config["tokenizer_class"] = _SAME_AS[kind]
    with tempfile.TemporaryDirectory() as copy:
        for file in BESIDE:
            if (folder / file).is_file() and file != TOKENIZER_CONFIG:
                shutil.copyfile(folder / file, Path(copy) / file)
        (Path(copy) / TOKENIZER_CONFIG).write_text(json.dumps(config), encoding="utf-8")
        yield copy


def own_mask(folder: Path, name: str, tokenizer: str | None) -> int | None:
    """The number of the mask token that a model's tokenizer says it has; None where it says none.

    Args:
        folder, name, tokenizer: see :func:`tokenizer_source`.

    Raises:
        UserError: there is no tokenizer, or it cannot be loaded.
    """
    with tokenizer_source(folder, name, tokenizer) as source:
        return load_tokenizer(source, needs_mask=False, called=tokenizer or name).mask_token_id
