"""How much longer the demo trains on a CPU without AVX-512, where the same processor is told to leave it alone.

Each turn trains either objective of the recipe for a few steps with each instruction set, in processes of their own; what is
compared is the median step of both objectives together. Claim: at most 1.5 times as long.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _alternate import write
from _claims import Claim

from hf_difflm.runs import load_run

SIDES = {
    "all instructions": {},
    "AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
}


def step_ms(recipe: str, objective: str, steps: int, instructions: dict[str, str], folder: Path) -> float:
    """The median step of a training, without those of its first fifth."""
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "cli.py"), "train", "--recipe", recipe, "--objective", objective]
    command += ["--max-steps", str(steps), "--logging-steps", "1", "--eval-strategy", "no", "--save-strategy", "no"]
    command += ["--viz-interval", "0", "--generate-interval", "0", "--word-samples", "0", "--warmup-steps", "2"]
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    subprocess.run(
        [*command, "--overwrite", "--output-dir", str(folder)],
        env=os.environ | instructions | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
    )
    return statistics.median(load_run(folder).column("time_ms")[steps // 5 :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=3)
    given = parser.parse_args()
    taken: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(given.pairs):
            for side, instructions in SIDES.items():
                each = [step_ms(given.recipe, name, given.steps, instructions, Path(folder)) for name in ("mdlm", "ar")]
                taken[side].append(sum(each))
    ratios = [older / all_ for older, all_ in zip(taken["AVX2"], taken["all instructions"], strict=True)]
    claim = Claim(
        what="a step of both objectives of the demo without AVX-512",
        sides={side: round(statistics.median(values), 1) for side, values in taken.items()},
        unit="ms",
        measure="AVX2 / all instructions",
        value=statistics.median(ratios),
        asked="<= 1.5",
    )
    write("older_cpu", {"milliseconds": taken, "ratios": ratios, "steps": given.steps}, [claim])


if __name__ == "__main__":
    main()
