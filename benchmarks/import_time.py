"""How long the import of every callback takes beside that of transformers' Trainer alone, processes of their own in turn.

Claim: at most 1.2 times as long. What is compared is processor time; ``import hf_difflm.callbacks`` without a name is lazy.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from _alternate import write
from _claims import Claim

SIDES = {"Trainer": "from transformers import Trainer", "callbacks": "from hf_difflm.callbacks import *"}


def seconds(line: str) -> float:
    """Processor seconds of a process that runs one line."""
    root = Path(__file__).parents[1]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", line], env=os.environ | {"PYTHONPATH": path}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    given = parser.parse_args()
    taken: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(given.pairs + 1):
        for name, line in SIDES.items():
            found = seconds(line)
            if turn:  # the first finds the files on disk and not in memory
                taken[name].append(found)
    ratios = [ours / theirs for ours, theirs in zip(taken["callbacks"], taken["Trainer"], strict=True)]
    claim = Claim(
        what="import of all callbacks against that of transformers' Trainer alone",
        sides={name: round(statistics.median(values), 2) for name, values in taken.items()},
        unit="processor seconds",
        measure="callbacks / Trainer",
        value=statistics.median(ratios),
        asked="<= 1.2",
    )
    write("import_time", {"seconds": taken, "ratios": ratios, "pairs": given.pairs}, [claim])


if __name__ == "__main__":
    main()
