"""Draws the pictures of docs/callbacks.md, and lists what TensorBoard gets, from one short run of the demo and its twin.

``python docs/draw_pictures.py`` trains both (minutes; ``--runs FOLDER`` keeps them there and takes them from there when
they are finished) and needs the ``[test]`` extra and Chromium for the page of samples.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from hf_difflm.runs import Run, load_run
from hf_difflm.runs.dashboard.figure import draw_dashboard
from hf_difflm.runs.pages.html import write_html_report
from hf_difflm.runs.plots.kinds import MEASURED_KINDS, plot_comparison, plot_runs

DOCS = Path(__file__).parent
LARGEST = 150_000  # bytes of a picture
FREQUENCIES = {"logging": 5, "eval": 50, "save": 150}
_PARTS = re.compile(r"layer_\d+|(?<=/)\d+|(?<=noise_)[\d.]+")  # layers, prompts, masking rates
INTERVALS = {"generate": 100, "statistics": 25, "viz": 100}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="where the runs are, or shall be")
    parser.add_argument("--steps", type=int, default=300, help="optimiser steps of each run")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.runs or Path(temporary)
        _train(folder, given.steps)
        run, twin = load_run(folder / "mdlm"), load_run(folder / "ar")
        pictures = [
            draw_dashboard(run, DOCS / "images/dashboard.png"),
            plot_comparison([run, twin], DOCS / "images/run-log.png"),
            *(_plotted(run, kind, Path(temporary)) for kind in MEASURED_KINDS),
            _samples([run, twin], DOCS / "images/samples.png", Path(temporary)),
        ]
        _list_tags(folder / "mdlm")
    for path in pictures:
        print(path.relative_to(DOCS.parent), _shrink(path), "bytes")


def _train(folder: Path, steps: int) -> None:
    command = [sys.executable, "-c", "from hf_difflm.commands import app; app()", "compare", "--recipe", "demo"]
    command += ["--output-dir", str(folder), "--max-steps", str(steps), "--report-to", "tensorboard"]
    for name, every in FREQUENCIES.items():
        command += [f"--{name}-steps", str(every)]
    for name, every in INTERVALS.items():
        command += [f"--{name}-interval", str(every)]
    subprocess.run(command, check=True)


def _plotted(run: Run, kind: str, temporary: Path) -> Path:
    """The picture of ``hf-difflm plot RUN --kind KIND``."""
    (path,) = plot_runs([run], temporary, [kind]).paths
    return Path(shutil.move(path, DOCS / "images" / path.name))


def _samples(runs: Sequence[Run], path: Path, temporary: Path) -> Path:
    """The drawn texts after a prompt, in the page of ``hf-difflm report``."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    page_path = write_html_report(runs, temporary / "page.html")
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = started.new_page(viewport={"width": 1200, "height": 900})
        page.goto(page_path.as_uri())
        shown = page.locator("details", has=page.locator("table")).filter(has_text="sampled").last
        shown.evaluate("details => { details.open = true }")
        shown.screenshot(path=path)
        started.close()
    return path


def _list_tags(folder: Path) -> None:
    """Write the names in TensorBoard's own reading of the run into the page; a * stands for one of many."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    events = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    tags: Any = [events.Runs()[name] for name in sorted(events.Runs())]
    lines = []
    for kind, found in (
        ("scalars", [tag for one in tags for tag in one["scalars"]]),
        ("histograms", [tag for one in tags for tag in one["histograms"]]),
        (
            "texts",
            [tag.removesuffix("/text_summary") for one in tags for tag in one["tensors"] if "_hparams_" not in tag],
        ),
    ):
        families: dict[str, set[str]] = {}
        for tag in found:
            family, _, rest = _PARTS.sub("*", tag).partition("/")
            families.setdefault(family, set()).add(rest)
        lines.append(f"{kind}:")
        for family, names in families.items():
            line = f"{family}: {', '.join(sorted(names))}".removesuffix(": ")
            lines += textwrap.wrap(line, 110, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
    page = DOCS / "callbacks.md"
    text, count = re.subn(
        r"(<!-- names in TensorBoard -->\n```text\n).*?(```\n)",
        lambda found: f"{found[1]}" + "\n".join(lines) + f"\n{found[2]}",
        page.read_text(encoding="utf-8"),
        flags=re.DOTALL,
    )
    if count != 1:
        raise SystemExit(f"{page.name} has no place for the names in TensorBoard")
    page.write_text(text, encoding="utf-8")


def _shrink(path: Path) -> int:
    """Give a picture at most 1,400 pixels of width and 255 colours, which few notice; return its bytes."""
    with Image.open(path) as image:
        small = image.convert("RGB")
    if small.width > 1400:
        small = small.resize((1400, round(small.height * 1400 / small.width)), Image.Resampling.LANCZOS)
    small.quantize(255).save(path, optimize=True)
    size = path.stat().st_size
    if size > LARGEST:
        raise SystemExit(f"{path.name} has {size} bytes, more than {LARGEST}")
    return size


if __name__ == "__main__":
    main()
