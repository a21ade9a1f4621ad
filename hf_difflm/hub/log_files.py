"""The evidence beside the weights: the run log, its newest dashboard, the curves and the texts the model wrote."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..runs import Run
from ..runs.comparing.units import EVALUATION_FILE, TEST_FILE
from ..runs.journal.atomic_files import JOURNAL_NAME
from ..runs.journal.strict_json import dumps, dumps_line, loads
from ..runs.reading.dashboard_names import LATEST, SAMPLES
from ..runs.reading.places import relative

DASHBOARD, CURVES = "dashboard.png", "curves.png"
# Parts of a record in which a path of this machine may stand; texts that the model wrote are left as they are.
_WITH_PATHS = {"run": ("config", "data", "metadata", "parent_run"), "event": ("message",)}


def write_log_files(run: Run, twin: Run | None, folder: Path) -> None:
    """Write ``journal.jsonl``, the evaluations unit by unit, ``text_samples.json``, ``dashboard.png`` and ``curves.png``.

    The journal is the run's own but for absolute paths, of which the last part is left. The dashboard is the newest that the
    run has drawn, else one drawn now; the curves are drawn now, of both where there is a twin.

    Args:
        run: the run log.
        twin: the run it is compared with.
        folder: an existing folder.

    Raises:
        UserError: a picture cannot be drawn.
    """
    # They draw: a training that pushes nothing needs no matplotlib.
    from ..runs import plot_comparison
    from ..runs.dashboard.figure import draw_dashboard
    from ..runs.dashboard.files import default_folder, text_samples

    place = run.path.parent
    if run.path.suffix == ".jsonl":
        (folder / JOURNAL_NAME).write_bytes(portable_journal(run.path.read_bytes()))
    for name in (EVALUATION_FILE, TEST_FILE):
        if (place / name).is_file():
            shutil.copyfile(place / name, folder / name)
    if run.samples:
        (folder / SAMPLES).write_text(dumps(text_samples(run), indent=1) + "\n", encoding="utf-8")
    newest = default_folder(run.path) / LATEST
    if newest.is_file():
        shutil.copyfile(newest, folder / DASHBOARD)
    else:
        draw_dashboard(run, folder / DASHBOARD)
    plot_comparison([run] if twin is None else [run, twin], folder / CURVES)


def portable_journal(content: bytes) -> bytes:
    """Return a journal without absolute paths; lines that are no record, such as one being written, are left out."""
    lines = []
    for line in content.splitlines():
        try:
            record = loads(line)
        except ValueError:
            continue
        parts = _WITH_PATHS.get(str(record.get("type")), ()) if isinstance(record, dict) else ()
        if parts:
            changed = {name: _shortened(value) if name in parts else value for name, value in record.items()}
            line = dumps_line(changed).encode()
        lines.append(line)
    return b"".join(line + b"\n" for line in lines)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return relative(value) if isinstance(value, str) else value
