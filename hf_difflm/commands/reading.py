"""What every command that reads logs does: load what can be loaded, and say on stderr what cannot."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError

if TYPE_CHECKING:
    from ..runs import Run

DEFAULT_PLACE = Path("runs")


def load(paths: Sequence[Path], earlier: bool = False) -> list[Run]:
    """Return the runs at some paths (files, folders, folders of runs, globs; ``runs/`` by default).

    Each path without a run is a warning on stderr, and so are runs that share a name. ``earlier``: of a run folder also
    the runs before its newest.

    Raises:
        UserError: there is no run at all.
    """
    from ..runs.comparing.table import same_name_warnings
    from ..runs.journal.tables import printable
    from ..runs.reading.load import load_runs

    if not paths and not DEFAULT_PLACE.is_dir():
        raise UserError("there is no folder 'runs' here; name a run, a folder of runs or a glob")
    runs, problems = load_runs(list(paths) or [DEFAULT_PLACE], earlier)
    if not runs:
        where = ", ".join(map(str, paths)) or f"{DEFAULT_PLACE}/"
        raise UserError("; ".join(problems) or f"there is no run in {where}; name a run, a folder of runs or a glob")
    for sentence in [*problems, *same_name_warnings(runs)]:
        print(f"warning: {' '.join(printable(sentence).split())}", file=sys.stderr)
    return runs
