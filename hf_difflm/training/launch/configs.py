"""Configurations of ``accelerate launch``: one YAML a way to spread a training, whose comment says when to use it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "accelerate_configs"


@dataclass(frozen=True)
class LaunchConfig:
    """A configuration that comes with the package."""

    name: str
    path: Path
    """The file, as ``accelerate launch --config_file`` takes it."""
    use: str
    """The first sentence of its comment: when to use it."""


def launch_configs() -> list[LaunchConfig]:
    """Return the configurations that come with the package, sorted by name."""
    return [LaunchConfig(path.stem, path, _first_sentence(path)) for path in sorted(FOLDER.glob("*.yaml"))]


def _first_sentence(path: Path) -> str:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            break
        lines.append(line.removeprefix("# ").strip())
    return re.split(r"(?<=\.)\s", " ".join(lines), maxsplit=1)[0]
