"""Which checkpoints can be trusted: those whose manifest, written last, is there and matches."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
EMA_FILE = "ema.safetensors"
"""The moving average of the weights, beside the raw ones."""
FACTS_FILE = "resume.json"
"""What the run must have in common with one that goes on from here."""
_ASIDE = ".old"


def keeps_average(config: Mapping[str, Any]) -> bool:
    """Whether a run with these settings evaluates an average of its weights: its own, or that of its optimiser."""
    return config.get("ema_decay") is not None or str(config.get("optim")).startswith("schedule_free")


def write_manifest(folder: Path) -> None:
    """Make a checkpoint good: record size and SHA-256 of every file in it, last of all and in one atomic step.

    All files are on the disk before the manifest is, so that it vouches for them after a power cut, too.
    """
    entries = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        entries[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    flush(folder)
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps({"files": entries}, indent=1))
    _fsync(temporary)
    os.replace(temporary, folder / MANIFEST)
    _fsync(folder)
    _fsync(folder.parent)


def flush(folder: Path) -> None:
    """Wait until all files below ``folder``, and their names, are on the disk."""
    for path in [*folder.rglob("*"), folder]:
        if path.is_file() or path.is_dir():
            _fsync(path)


def damage(folder: Path) -> str | None:
    """Say why a checkpoint cannot be trusted, or None."""
    expected = _manifest(folder)
    if isinstance(expected, str):
        return expected
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or _sha256(path) != sha256:
            return f"{name} is damaged"
    return None


def checkpoints(run: Path) -> list[Path]:
    """All ``checkpoint-N`` folders of a run, newest first, good or not.

    Behind one that was being written again stands the one before, ``checkpoint-N.old``, where a kill has left it.
    """
    found = [
        (int(m[1]), not m[2], p)
        for p in run.glob("checkpoint-*")
        if p.is_dir() and (m := re.fullmatch(rf"checkpoint-(\d+)({re.escape(_ASIDE)})?", p.name))
    ]
    return [path for _, _, path in sorted(found, reverse=True)]


def newest_good(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be trusted, and a warning for each newer one that cannot."""
    warnings: list[str] = []
    for path in checkpoints(run):
        why = damage(path)
        if why is None:
            return path, warnings
        warnings.append(f"skipping {path.name}: {why}")
    return None, warnings


def set_aside(folder: Path) -> None:
    """Move away what is in the place of a checkpoint that shall be written; see :func:`put_back`."""
    if folder.exists():
        aside = folder.with_name(folder.name + _ASIDE)
        shutil.rmtree(aside, ignore_errors=True)
        os.replace(folder, aside)


def put_back(folder: Path) -> None:
    """Delete a checkpoint that could not be finished, and put what was in its place back."""
    shutil.rmtree(folder, ignore_errors=True)
    aside = folder.with_name(folder.name + _ASIDE)
    if aside.exists():
        os.replace(aside, folder)


def prune(newest: Path, limit: int | None) -> None:
    """Delete what the good checkpoint ``newest`` has made superfluous.

    That is what was set aside for it and, where there is a ``limit``, of the checkpoints of earlier steps those that are
    unfinished, and the oldest beyond ``limit`` in all. Later steps, of a run that was resumed before them, stay until they
    are written again.
    """
    shutil.rmtree(newest.with_name(newest.name + _ASIDE), ignore_errors=True)
    if limit is None or limit <= 0:
        return
    found = checkpoints(newest.parent)
    older = found[found.index(newest) + 1 :]
    kept = [path for path in older if _is_whole(path)][: limit - 1]
    for path in older:
        if path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _manifest(folder: Path) -> dict[str, tuple[int, str]] | str:
    """Size and checksum of each file by its name, or why they are not known."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        return {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or JSON of another shape
        return "its manifest is damaged"


def _is_whole(folder: Path) -> bool:
    """Whether all files are there in their sizes: :func:`damage` without reading them."""
    expected = _manifest(folder)
    if isinstance(expected, str):
        return False
    paths = [(folder / name, size) for name, (size, _) in expected.items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)


def _fsync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():  # which Windows cannot, and need not
        return
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
