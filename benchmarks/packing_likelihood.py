"""What documents that see nothing of each other do to the likelihood: training with it and without, over seeds.

Corpora: the pages of ``python-docs``, and the speeches of Tiny Shakespeare, each a document. A run is evaluated both ways,
on documents apart and on blocks of one stream, so that training is compared on one text at a time. Runs that are finished in
``--folder`` are not trained again. Differences are paired by seed, with their 95 % interval (t, seeds as the only error).

    python benchmarks/packing_likelihood.py --tinyshakespeare tinyshakespeare.txt
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from _alternate import RESULTS, about

from hf_difflm.experiments.run_folder import keeps_log
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.schema import COMPLETED

SETTINGS = {"block-size": 256, "global-batch-size": 8, "per-device-train-batch-size": 8, "max-steps": 400}
TOY = {"block-size": 64, "global-batch-size": 2, "per-device-train-batch-size": 2, "max-steps": 3, "hidden-size": 32}
NO_FRILLS = {
    "save-strategy": "best",
    "viz-interval": 0,
    "generate-interval": 0,
    "test-fraction": 0,
    "word-samples": 0,
    "eval-replicates": 4,
}
PACKINGS, OBJECTIVES = ("concat", "best-fit"), ("mdlm", "ar")
ROOT = Path(__file__).parents[1]


def hf_difflm(*arguments: str) -> str:
    """What the command line prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def speeches(path: Path, folder: Path) -> Path:
    """The speeches of Tiny Shakespeare, which stand between empty lines, as a document each."""
    written = folder / "speeches.jsonl"
    written.parent.mkdir(parents=True, exist_ok=True)
    texts = [text.strip() for text in path.read_text(encoding="utf-8").split("\n\n") if text.strip()]
    written.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return written


def nlls_of(folder: Path, settings: dict[str, Any]) -> dict[str, float]:
    """Nats/token of a run, trained now if it is not there, on documents apart and on blocks of one stream."""
    kept = folder / "both.json"
    if kept.is_file():
        return json.loads(kept.read_text())
    if not (keeps_log(folder) and load_run(folder).status == COMPLETED):
        print(f"training {folder.name}", file=sys.stderr, flush=True)
        flags = [f"--{name}={value}" for name, value in settings.items()]
        hf_difflm("train", "--recipe", "demo", "--output-dir", str(folder), "--overwrite", *flags)
    found = {}
    for packing in PACKINGS:
        told = json.loads(hf_difflm("eval", str(folder), "--packing", packing, "--json"))
        found[packing] = told["eval_nll"]
    kept.write_text(json.dumps(found))
    return found


def difference(apart: list[float], concat: list[float]) -> dict[str, float]:
    """The mean of the differences over seeds, and half of its 95 % interval."""
    found = [one - other for one, other in zip(apart, concat, strict=True)]
    if len(found) < 2:
        return {"mean": found[0]}
    from scipy import stats

    half = stats.t.ppf(0.975, len(found) - 1) * statistics.stdev(found) / math.sqrt(len(found))
    return {"mean": statistics.mean(found), "half_interval": float(half)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tinyshakespeare", type=Path, required=True)
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("runs/packing_likelihood"), help="of the runs")
    parser.add_argument("--toy", action="store_true", help="a few steps of one seed, printed and not kept")
    given = parser.parse_args()
    seeds = given.seeds[:1] if given.toy else given.seeds
    corpora = {"python-docs": "python-docs", "tinyshakespeare": str(speeches(given.tinyshakespeare, given.folder))}
    found: dict[str, Any] = {}
    for corpus, dataset in corpora.items():
        for objective in OBJECTIVES:
            runs: dict[str, list[dict[str, float]]] = {packing: [] for packing in PACKINGS}
            for seed in seeds:
                for packing, nlls in runs.items():
                    settings = {**(TOY if given.toy else SETTINGS), **NO_FRILLS, "dataset": dataset}
                    settings |= {"objective": objective, "packing": packing, "seed": seed, "max-eval-blocks": 64}
                    settings["eval-steps"] = settings["max-steps"]
                    name = f"{corpus}-{objective}-{packing}-seed{seed}"
                    nlls.append(nlls_of((given.folder / name).resolve(), settings))
            rows = {}
            for text in PACKINGS:
                apart, concat = ([nll[text] for nll in runs[packing]] for packing in ("best-fit", "concat"))
                rows[f"evaluated on {text}"] = {
                    "trained on concat": statistics.median(concat),
                    "trained on best-fit": statistics.median(apart),
                    "best-fit less concat": difference(apart, concat),
                }
            found[f"{corpus}, {objective}"] = rows
    result = {**about("packing_likelihood"), "settings": SETTINGS, "seeds": seeds, "nats_per_token": found}
    print(json.dumps(result, indent=2))
    if not given.toy:
        (RESULTS / "packing_likelihood.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
