"""Names of a package that are imported on first use, so that asking for one does not wait for what the others need."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any


def on_first_use(
    package: str, homes: Mapping[str, str], before: Callable[[], None] | None = None
) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of a package.

    Args:
        package: its ``__name__``.
        homes: where each name is, as ``importlib.import_module`` takes it: ``.module`` or ``other.package``.
        before: called before each such import.
    """

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        if before is not None:
            before()
        return getattr(importlib.import_module(homes[name], package), name)

    return attribute
