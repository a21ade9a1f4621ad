"""Which checkpoints can be trusted: those whose manifest, written last, is there and matches."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path

MANIFEST = "manifest.json"
EMA_FILE = "ema.safetensors"
"""The moving average of the weights, beside the raw ones."""


def write_manifest(folder: Path) -> None:
    """Make a checkpoint good: record size and SHA-256 of every file in it, last of all and in one atomic step."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    entries = {str(p.relative_to(folder)): {"bytes": p.stat().st_size, "sha256": _sha256(p)} for p in files}
    temporary = folder / f".{MANIFEST}.tmp"
    temporary.write_text(json.dumps({"files": entries}, indent=1))
    os.replace(temporary, folder / MANIFEST)


def damage(folder: Path) -> str | None:
    """Say why a checkpoint cannot be trusted, or None."""
    try:
        entries = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {name: (entry["bytes"], entry["sha256"]) for name, entry in entries.items()}
    except FileNotFoundError:
        return "it was never finished"
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or JSON of another shape
        return "its manifest is damaged"
    for name, (size, sha256) in expected.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size or _sha256(path) != sha256:
            return f"{name} is damaged"
    return None


def checkpoints(run: Path) -> list[Path]:
    """All ``checkpoint-N`` folders of a run, newest first, good or not."""
    found = [
        (int(m[1]), p)
        for p in run.glob("checkpoint-*")
        if p.is_dir() and (m := re.fullmatch(r"checkpoint-(\d+)", p.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def newest_good(run: Path) -> tuple[Path | None, list[str]]:
    """The newest checkpoint that can be trusted, and a warning for each newer one that cannot."""
    warnings: list[str] = []
    for path in checkpoints(run):
        why = damage(path)
        if why is None:
            return path, warnings
        warnings.append(f"skipping {path.name}: {why}")
    return None, warnings


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
