"""Write docs/results.md from the pages in docs/results/, each of which a command has written from run logs."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parent
PAGES = (
    "tinyshakespeare",
    "tinyshakespeare-generation",
    "ablation-atat",
    "ablation-atat-tinyshakespeare",
    "ablation-convert",
    "ablation-block-size",
    "convert-evaluations",
)
_HEAD = """# Results

Each part was written by the command it names, from run logs; this page is put together by `python docs/write_results.py`.
Other programs ran beside the ablations, the conversions and the first two runs (on one core): their tokens/s and seconds say
nothing. The samplers and the ablation on Tiny Shakespeare are of the network and the optimiser that its recipe had before
(128 wide, AdamW, 2.2265 nats/token). What adaptive masking
costs is measured by `python benchmarks/atat.py`.
Their evaluations drew the numbers of hidden tokens uniformly; evaluations now draw them by importance
([concepts.md](concepts.md#noise)), an estimate of the same number whose standard error is about a fifth smaller.
Verdicts and the sentences after a pair have been put into today's words; the numbers are as measured.
"""


def page() -> str:
    """The whole page: the parts one after another, their headings a level lower."""
    return "\n".join([_HEAD, *(_part(name) for name in PAGES if (DOCS / "results" / f"{name}.md").exists())])


def _part(name: str) -> str:
    lines, in_code = [], False
    for line in (DOCS / "results" / f"{name}.md").read_text(encoding="utf-8").splitlines():
        in_code ^= line.startswith("```")
        if not in_code:
            line = re.sub(r"^#", "##", line)
            line = re.sub(r"\]\((?=[\w-]+\.(png|svg|md)\))", "](results/", line)
        lines.append(line)
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    (DOCS / "results.md").write_text(page(), encoding="utf-8")
