"""One self-contained page about one run or several: it opens without a network and asks for nothing from anywhere."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ..errors import UserError
from .comparison import compare_runs, labels
from .files import write_text
from .html_data import page_data
from .html_importance import importance_section
from .html_sections import (
    commands_section,
    evaluations_section,
    fairness_section,
    samples_section,
    settings_section,
    summary_section,
    text,
)
from .places import relative, shown, shown_run
from .run import Run
from .seeds import seed_groups
from .strict_json import dumps, plain

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
Long curves keep the lowest and highest value of each stretch. Bars are standard errors.</p></section>"""


def write_html_report(
    runs: Sequence[Run],
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
        runs: one or more.
        path: the file, replaced in one step.
        names: what to call the runs; by default their own names.
        title: of the page; by default the name of the run, or their number.
        command: the command that writes this page; by default ``hf-difflm report`` with these runs.

    Raises:
        UserError: no run was given, the names do not fit, or the file cannot be written.
    """
    path = Path(path)
    comparison = compare_runs(runs, names)
    names = labels(runs, names)
    groups = seed_groups(runs, names)
    title = title or (names[0] if len(runs) == 1 else f"Comparison of {len(runs)} runs")
    if command is None:
        command = shlex.join(["hf-difflm", "report", *map(shown_run, runs), "--output", shown(path)])
    sections = [
        summary_section(runs, names, comparison),
        fairness_section(names, comparison),
        _CURVES,
        importance_section(runs, names),
        samples_section(runs, names),
        evaluations_section(runs, names),
        settings_section(runs, names, comparison),
        commands_section(runs, names, relative(command)),
    ]
    data = _for_script(dumps(plain(page_data(runs, names, groups)), separators=(",", ":")))
    page = _page(title, [section for section in sections if section], data)
    try:
        # A lone surrogate, which JSON can hold, has no UTF-8.
        write_text(path, page.encode("utf-8", "replace").decode("utf-8"))
    except OSError as error:
        raise UserError(
            f"the page {str(path)!r} cannot be written ({error.strerror}); name another --output"
        ) from error
    return path


def _page(title: str, sections: Sequence[str], data: str) -> str:
    # The licence goes with every copy.
    uplot = f"/*\n{_asset('uPlot.LICENSE.txt')}\n*/\n{_asset('uPlot.iife.min.js')}"
    script = _asset("report.js")
    style = _asset("uPlot.min.css") + _asset("report.css")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_source_hash(uplot)} {_source_hash(script)}",
            f"style-src {_source_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    body = "\n".join(sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{text(title)}</h1>
<nav>{_links(body)}</nav>
<main>
{body}
</main>
<script type="application/json" id="data">{data}</script>
<script>{uplot}</script>
<script>{script}</script>
</body>
</html>
"""


def _links(body: str) -> str:
    """Links to the sections, in their order."""
    found = [part.split('"', 1)[0] for part in body.split('<section id="')[1:]]
    return " ".join(f'<a href="#{name}">{name}</a>' for name in found)


def _for_script(json_text: str) -> str:
    """JSON that cannot end the element it stands in; it is ASCII already, so U+2028 and U+2029 are escapes in it."""
    return json_text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _source_hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def _asset(name: str) -> str:
    return files(__package__).joinpath("assets").joinpath(name).read_text(encoding="utf-8")
