"""Which files of a folder are the text, which splits they make, and what is left out."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from hf_difflm.errors import UserError

from ..options import COMPRESSIONS, SUFFIXES, kind_of
from ..sentences import plural

_SPLIT_FILE = re.compile(r"(train|validation|valid|val|dev|test)(-\d+(-of-\d+)?)?")
_SPLIT_NAMES = {"valid": "validation", "val": "validation", "dev": "validation"}
_ABOUT = re.compile(
    r"(licen[cs]e|copying|readme)([-_. ].*)?|copyright|notice|citation|authors|changelog|dataset_infos?", re.IGNORECASE
)
"""Names of files that tell of a data set."""
_NAMED = 3


def is_saved(path: Path) -> bool:
    """Whether ``path`` is a folder that ``save_to_disk`` has written."""
    return path.is_dir() and any((path / name).is_file() for name in ("dataset_dict.json", "dataset_info.json"))


def find_files(path: Path) -> list[Path]:
    """Return a file, or the readable files in a folder in the order of their paths.

    Files that by their names tell of the data (a licence, a README) are text only where there is no other.

    Raises:
        UserError: there is none.
    """
    if path.is_file():
        if kind_of(path) not in SUFFIXES:
            raise UserError(f"cannot read {path}: rename it to one of {', '.join(SUFFIXES)}, whichever it is")
        return [path]
    readable = [file for file in _inside(path) if kind_of(file) in SUFFIXES]
    files = [file for file in readable if not _ABOUT.fullmatch(_stem(file))] or readable
    if not files and any(path.glob("*-input_ids.bin")):
        raise UserError(
            f"{path} holds prepared blocks, but its prepared.json is missing; run `hf-difflm data prepare` again"
        )
    if not files:
        raise UserError(
            f"folder {path} holds no readable file: put {', '.join(SUFFIXES)} files there, those of text also as "
            f"{', '.join(COMPRESSIONS)}"
        )
    return files


def left_out(path: Path) -> str:
    """Return a sentence on the files of a folder that are not read; empty where there is none."""
    if not path.is_dir() or is_saved(path):
        return ""
    files = set(find_files(path))
    others = [file for file in _inside(path) if file not in files]
    if not others:
        return ""
    kinds = Counter(file.suffix.lower() for file in others[_NAMED:])
    more = [f"{count} more {kind or 'without a suffix'}" for kind, count in kinds.most_common()]
    names = ", ".join([*(str(file.relative_to(path)) for file in others[:_NAMED]), *more])
    return f"left out {plural(len(others), 'file')} of {path}: {names}"


def split_files(files: list[Path]) -> dict[str, list[Path]]:
    """Return files by split, see :func:`hf_difflm.data.sources.local_files.load_local`."""
    matches = [_SPLIT_FILE.fullmatch(_stem(file)) for file in files]
    names = [match.group(1) for match in matches if match]
    if len(names) < len(files) or "train" not in names:
        return {"train": files}
    splits: dict[str, list[Path]] = {}
    for name, file in zip(names, files, strict=True):
        splits.setdefault(_SPLIT_NAMES.get(name, name), []).append(file)
    return splits


def _inside(folder: Path) -> list[Path]:
    """All files in a folder and below it, but for hidden ones."""
    found = [file for file in folder.rglob("*") if not any(p.startswith(".") for p in file.relative_to(folder).parts)]
    return sorted(file for file in found if file.is_file())


def _stem(file: Path) -> str:
    return Path(file.stem).stem if file.suffix.lower() in COMPRESSIONS else file.stem
