"""``hf-difflm doctor``: is this machine ready?"""

from __future__ import annotations

import typer


def doctor() -> None:
    """Check versions, devices, memory, disk, model, data and one training step; one line each, with what to do.

    Exits with code 1 if a check failed.
    """
    from ..training.doctor import run_checks
    from .quiet import quiet_libraries

    quiet_libraries()
    raise typer.Exit(0 if run_checks() else 1)
