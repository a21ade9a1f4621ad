"""Draws docs/images/architecture.png and the table of docs/architecture.md from the imports of the package.

The floors are those that tests/import_rules.py has; everything else is counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests"))

from import_rules import FLOORS, WINGS, dotted, modules, our_imports  # noqa: E402

PAGE, PICTURE = DOCS / "architecture.md", DOCS / "images" / "architecture.png"
BEGIN, END = "<!-- make docs: begin -->\n", "<!-- make docs: end -->\n"
PACKAGES = [package for floor in FLOORS for package in sorted(floor)]
"""Top to bottom."""


def wings_of(package: str) -> list[str]:
    """The folders inside a package, in the order of their floors where they have one."""
    there = {parts[1] for path in modules() if (parts := dotted(path).split("."))[0] == package and len(parts) > 2}
    ordered = [name for floor in WINGS.get(package, ()) for name in sorted(floor) if name in there]
    return ordered + sorted(there - set(ordered) - {"__init__"})


def imported(part: Callable[[str], str]) -> Counter[tuple[str, str]]:
    """How many imports lead from one part of the house to another; a module without a part is called ""."""
    pairs = ((part(one.source), part(one.target)) for one in our_imports())
    return Counter((source, target) for source, target in pairs if source != target and source and target)


def package_of(module: str) -> str:
    package = module.split(".")[0]
    return package if package in PACKAGES else ""


def wing_of_runs(module: str) -> str:
    parts = module.split(".")
    return parts[1] if parts[0] == "runs" and len(parts) > 2 else ""


def table() -> str:
    """A row a package, top to bottom: its wings, whom it imports; without numbers, which every change would change."""
    counts = imported(package_of)
    lines = ["| package | wings | imports from |", "|---|---|---|"]
    for package in PACKAGES:
        used = ", ".join(target for target in PACKAGES if counts[package, target])
        lines.append(f"| `{package}` | {', '.join(wings_of(package))} | {used} |")
    return "\n".join(lines) + "\n"


def matrix(axes: Axes, names: list[str], counts: Counter[tuple[str, str]], title: str, notes: dict[str, str]) -> None:
    """A cell for each pair: how often the row imports the column. All lies right of the diagonal: nothing imports up."""
    size = len(names)
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), aspect="equal")
    most = max(counts.values())
    for i, source in enumerate(names):
        axes.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, facecolor="#3b5b7a", edgecolor="white"))
        for j, target in enumerate(names):
            if n := counts[source, target]:
                shade = 0.15 + 0.75 * (n / most) ** 0.5
                axes.add_patch(Rectangle((j - 0.5, i - 0.5), 1, 1, facecolor="#d08a3e", alpha=shade, edgecolor="white"))
                axes.text(j, i, str(n), ha="center", va="center", size=9)
        axes.text(
            -0.75, i - (0.13 if notes.get(source) else 0), source, ha="right", va="center", weight="bold", size=11
        )
        axes.text(-0.75, i + 0.22, notes.get(source, ""), ha="right", va="center", size=7.5, color="#3b5b7a")
    for edge in range(size + 1):
        axes.axhline(edge - 0.5, color="#e2e2e2", lw=0.6, zorder=0)
        axes.axvline(edge - 0.5, color="#e2e2e2", lw=0.6, zorder=0)
    axes.set_xticks(range(size), names, rotation=40, ha="left", rotation_mode="anchor", size=9)
    axes.xaxis.tick_top()
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(title, size=9, color="#3b5b7a")


def picture() -> Figure:
    """Who imports whom: the packages, and the wings of the largest one."""
    figure = Figure(figsize=(16, 7.2), dpi=100)
    FigureCanvasAgg(figure)
    left = figure.add_axes((0.26, 0.04, 0.3375, 0.82))
    right = figure.add_axes((0.705, 0.12, 0.28, 0.66))
    notes = {package: " · ".join(wings_of(package)) for package in PACKAGES} | {"runs": "its wings: on the right"}
    matrix(
        left,
        PACKAGES,
        imported(package_of),
        "imports of the row from the column; nothing is left of the diagonal",
        notes,
    )
    wings = [name for floor in reversed(WINGS["runs"]) for name in sorted(floor)]
    matrix(right, wings, imported(wing_of_runs), "the wings of runs", {})
    return figure


def with_table(page: str) -> str:
    """The page with what stands between its two marks made anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    return before + begin + table() + end + after


def main() -> None:
    picture().savefig(PICTURE, metadata={"Software": None})
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
