"""A folder that is there is whole."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ....errors import UserError


@contextmanager
def all_or_nothing(folder: Path) -> Iterator[Path]:
    """A new place, which becomes the folder when all went well.

    Args:
        folder: missing, or empty.

    Raises:
        UserError: it cannot be written.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as place:
            whole = Path(place) / "model"
            whole.mkdir()
            yield whole
            if folder.exists():
                folder.rmdir()
            whole.rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror or error}); give another --output-dir") from error
