"""One self-contained page about one run or several: it opens without a network and asks for nothing from anywhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from ..comparing.seeds import seed_groups
from ..comparing.table import compare_runs, labels
from ..journal.atomic_files import write_page
from ..journal.run import Run
from ..journal.strict_json import plain
from ..reading.load import as_runs
from ..reading.places import relative, shown, shown_run
from .block_sizes import block_sizes_section
from .curves import not_drawn, page_data
from .importance import importance_section
from .sections import (
    commands_section,
    evaluations_section,
    fairness_section,
    samples_section,
    settings_section,
    summary_section,
)
from .self_contained import asset, page, text

_CURVES = """<section id="curves"><h2>Curves</h2>
<noscript><p>The curves need JavaScript; everything else on this page does not.</p></noscript>
<div class="tools">
<label>x <select id="x-axis"></select></label>
<label>smoothing <input type="range" id="smoothing" min="0" max="100" value="0"><output id="window"></output></label>
<label><input type="checkbox" id="log-x"> log x</label>
<label><input type="checkbox" id="log-y"> log y</label>
<span><button type="button" id="zoom-in" title="the last half of what is shown">zoom in</button>
<button type="button" id="zoom-out">zoom out</button> <button type="button" id="zoom-reset">reset</button></span>
</div>
<div class="runs" id="runs"></div>
<div class="charts" id="charts"></div>
<p class="soft">Drag over a chart to zoom, double-click to go back; hover or touch for numbers; a run's button hides it.
Long curves keep the lowest and highest value of each stretch. Bars are standard errors.</p>{more}</section>"""
_NAMED = 12  # of what has no chart


def write_html_report(
    runs: Sequence[Run | str | Path],
    path: str | Path,
    *,
    names: Sequence[str] | None = None,
    title: str | None = None,
    command: str | None = None,
) -> Path:
    """Write the page and return its path.

    It holds a summary, the fairness check, interactive curves, the importance of a text's tokens, samples over time, every
    evaluation and the settings. Text from runs is escaped, absolute paths are shortened, and the page's own policy forbids
    every request and every script but its two.

    Args:
        runs: one or more, or the paths of their logs.
        path: the file, replaced in one step.
        names: what to call the runs; by default their own names.
        title: of the page; by default the name of the run, or their number.
        command: the command that writes this page; by default ``hf-difflm report`` with these runs.

    Raises:
        UserError: no run was given, the names do not fit, or the file cannot be written.
    """
    path, runs = Path(path), as_runs(runs)
    comparison = compare_runs(runs, names)
    names = labels(runs, names)
    groups = seed_groups(runs, names)
    title = title or (names[0] if len(runs) == 1 else f"Comparison of {len(runs)} runs")
    if command is None:
        command = shlex.join(["hf-difflm", "report", *map(shown_run, runs), "--output", shown(path)])
    sections = [
        summary_section(runs, names, comparison),
        fairness_section(names, comparison),
        block_sizes_section(groups),
        _curves_section(runs),
        importance_section(runs, names),
        samples_section(runs, names),
        evaluations_section(runs, names),
        settings_section(runs, names, comparison),
        commands_section(runs, names, relative(command)),
    ]
    content = "\n".join(section for section in sections if section)
    # The licence goes with every copy.
    uplot = f"/*\n{asset('uPlot.LICENSE.txt')}\n*/\n{asset('uPlot.iife.min.js')}"
    body = f"<nav>{_links(content)}</nav>\n<main>\n{content}\n</main>"
    data = plain(page_data(runs, names, groups))
    style = asset("uPlot.min.css") + asset("report.css")
    write_page(path, page(title, body, data, [uplot, asset("report.js")], style), "--output")
    return path


def _curves_section(runs: Sequence[Run]) -> str:
    """Where the script draws, and what it has no chart of."""
    names = not_drawn(runs)
    said = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    more = f"Without a chart here, but in the logs: {said} (hf-difflm plot RUN --metric NAME)." if names else ""
    return _CURVES.replace("{more}", f'<p class="soft">{text(more)}</p>' if more else "")


def _links(body: str) -> str:
    """Links to the sections, in their order."""
    found = [part.split('"', 1)[0] for part in body.split('<section id="')[1:]]
    return " ".join(f'<a href="#{name}">{name}</a>' for name in found)
