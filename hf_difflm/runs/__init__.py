"""The run log: writing it, reading it back, comparing, plotting and reporting runs. Nothing in here imports torch.

The names below are imported on first use, so that importing one part does not wait for matplotlib.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import on_first_use

_HOMES = {
    "Journal": ".journal.append_only",
    "Run": ".journal.run",
    "compare_runs": ".comparing.table",
    "differences": ".comparing.table",
    "load_run": ".reading.load",
    "load_runs": ".reading.load",
    "plot_comparison": ".plots.kinds",
    "plot_runs": ".plots.kinds",
    "recover": ".derived.rebuild",
    "write_html_report": ".pages.html",
    "write_report": ".pages.markdown",
}
__all__ = [
    "Journal",
    "Run",
    "compare_runs",
    "differences",
    "load_run",
    "load_runs",
    "plot_comparison",
    "plot_runs",
    "recover",
    "write_html_report",
    "write_report",
]

if TYPE_CHECKING:
    from .comparing.table import compare_runs, differences
    from .derived.rebuild import recover
    from .journal.append_only import Journal
    from .journal.run import Run
    from .pages.html import write_html_report
    from .pages.markdown import write_report
    from .plots.kinds import plot_comparison, plot_runs
    from .reading.load import load_run, load_runs

__getattr__ = on_first_use(__name__, _HOMES)
