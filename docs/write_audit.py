"""Fills docs/audit.md: runs each `$ hf-difflm audit ...` of the page, and makes the table of the built-in subjects."""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
import tempfile
from pathlib import Path

from hf_difflm.commands import app
from hf_difflm.evaluation.audit.built_in import BUILT_IN, built_in
from hf_difflm.evaluation.audit.examination import examine
from hf_difflm.evaluation.audit.subjects import Size

PAGE = Path(__file__).with_name("audit.md")
_TABLE = re.compile(r"(<!-- make docs: begin -->\n).*?(<!-- make docs: end -->)", re.DOTALL)
_SHOWN = re.compile(r"(```text\n\$ hf-difflm )(audit [^\n]*)\n.*?```", re.DOTALL)


def page(text: str) -> str:
    """The page as it should be."""
    return _TABLE.sub(lambda found: f"{found[1]}{_table()}\n{found[2]}", with_outputs(text))


def with_outputs(text: str) -> str:
    """The page with what its commands print, run in a folder that has its `mine.py`."""
    (module,) = re.findall(r"```python\n# mine\.py\n(.*?)```", text, flags=re.DOTALL)
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "mine.py").write_text(module, encoding="utf-8")
        os.chdir(folder)
        sys.modules.pop("mine", None)
        try:
            return _SHOWN.sub(lambda found: f"{found[1]}{found[2]}\n{_printed(found[2])}\n```", text)
        finally:
            os.chdir(before)


def _printed(command: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        app(command.split())
    return out.getvalue().rstrip("\n")


def _table() -> str:
    lines = [
        "| subject | what it is | optimum | random | excess over the entropy, nats | verdict |",
        "|---|---|---|---|---|---|",
    ]
    size = Size()
    for name, (about, _) in BUILT_IN.items():
        found = examine(built_in(name, size), size)
        optimum, random = (max(one.value for one in found.sums[where]) for where in ("optimum", "random"))
        assert found.entropy is not None
        least, most = (round(value, 3) + 0.0 for value in (found.entropy.excess, found.entropy.most_excess))
        excess = f"{least:.3f} to {most:.3f}"
        lines.append(f"| `{name}` | {about} | {optimum:.3f} | {random:.3f} | {excess} | {found.verdict.outcome} |")
    return "\n".join(lines)


def main() -> None:
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
