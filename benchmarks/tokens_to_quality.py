"""How many tokens, FLOPs and seconds until a masked diffusion model is as good as before: P0 in nats/token, over seeds.

Sides: ``mdlm-loss``, the loss of MDLM (i.i.d. times, Bernoulli masks, 1/t) with AdamW; ``before``, exact counts, stratified
and uniform, with the bound's weights and AdamW; ``now``, what the recipe says; with ``--parts`` also ``now`` without its law
and weight, and ``now`` without its optimiser. Each takes the rate that is best for it at the whole budget with one seed, then
the warm-up that is best at this rate, and is trained with every seed for T = 1/4, 1/3, 1/2 and 1 of the recipe's steps, each
time with a schedule that ends there. A side reaches a value at the least T whose median over seeds is at or below it. FLOPs
are those of the log, Newton-Schulz included; seconds are the steps times the median step of one more run of each side, made
at the end, in turn: runs before that may share the machine with others. Runs that are finished in ``--folder`` are not
trained again, so the command can be given again.

    python benchmarks/tokens_to_quality.py --dataset ../shared/data/tinyshakespeare.txt --seeds 1,2,3
    python benchmarks/tokens_to_quality.py --toy
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from _alternate import RESULTS, about
from _claims import Claim

from hf_difflm.experiments.ablation.kept_logs import keep_logs, take_logs
from hf_difflm.experiments.recipe_settings import load_settings
from hf_difflm.experiments.run_folder import keeps_log
from hf_difflm.runs import Run, load_run
from hf_difflm.runs.journal.schema import COMPLETED

ADAMW = {
    "optim": "adamw_torch",
    "adamw_learning_rate": None,
    "lr_scheduler_type": "cosine",
    "lr_scheduler_kwargs": None,
}
BOUND = {"count_law": "uniform", "loss_weight": "nelbo"}
SIDES: dict[str, dict[str, Any]] = {
    "mdlm-loss": {**ADAMW, **BOUND, "loss_form": "time", "noise_sampling": "iid"},
    "before": {**ADAMW, **BOUND},
    "now": {},
    "now, law and weight of before": BOUND,
    "now, optimiser of before": ADAMW,
}
PARTS = 2  # the last of them
WARMUPS = (0.04, 0.1)
FACTORS = (0.5, 1.0, 2.0)  # of the rate: AdamW's is 2e-3, Muon's the recipe's
ADAMW_RATE = 2e-3
TIMED_STEPS = 60
TIMED_SEED = 10_000  # of no other run
BUDGETS = (Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(1))
TOY = {
    "dataset": "markov",
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "block_size": 32,
    "max_steps": 24,
    "max_eval_blocks": 32,
}


class Bench:
    """Trains what has not been trained yet, in processes of their own, and reads the logs."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        shared: dict[str, Any] = dict(TOY) if given.toy else {}
        if given.dataset:
            shared["dataset"] = given.dataset
        if given.hidden_size:
            shared["hidden_size"] = given.hidden_size
        if given.max_steps:
            shared["max_steps"] = given.max_steps
        recipe = load_settings(given.recipe, shared)
        self.steps: int = recipe.training["max_steps"]
        self.rate: float = recipe.training["learning_rate"]
        self.adamw_rate: float | None = recipe.training.get("adamw_learning_rate")
        if given.logs:
            take_logs(given.logs, given.folder)
        self.shared = shared | {"test_fraction": 0, "save_strategy": "no", "viz_interval": 0, "logging_steps": 20}

    def run(self, side: str, rate: float, warmup: float, budget: Fraction, seed: int) -> Run:
        """The finished run of a side, from its log or trained now."""
        steps = max(round(self.steps * budget), 1)
        values = {**self.shared, **SIDES[side], "max_steps": steps, "eval_steps": steps, "seed": seed}
        values |= {"learning_rate": rate, "warmup_steps": max(round(warmup * steps), 1)}
        if "optim" not in SIDES[side] and self.adamw_rate is not None:
            values["adamw_learning_rate"] = self.adamw_rate * rate / self.rate
        name = f"{side.replace(', ', '-').replace(' ', '_')}-lr{rate:g}-w{warmup:g}-T{steps}-seed{seed}"
        folder = self.given.folder / name
        if not (keeps_log(folder) and load_run(folder).status == COMPLETED):
            print(f"training {name}", file=sys.stderr, flush=True)
            train(self.given.recipe, values, folder)
        run = load_run(folder)
        if self.given.logs:
            keep_logs(self.given.folder, self.given.logs, [run])
        return run

    def best(self, side: str) -> tuple[float, float]:
        """Rate and warm-up with the lowest nll at the end of the whole budget, with the first seed: one, then the other."""
        base = ADAMW_RATE if "optim" in SIDES[side] else self.rate
        if self.given.quick_choice:
            return base, WARMUPS[0]

        def end(rate: float, warmup: float) -> float:
            return nll_of(self.run(side, rate, warmup, Fraction(1), self.given.seeds[0]))

        rate = min((base * factor for factor in FACTORS), key=lambda rate: end(rate, WARMUPS[0]))
        return rate, min(WARMUPS, key=lambda warmup: end(rate, warmup))

    def step_seconds(self, side: str, rate: float, warmup: float) -> float:
        """The median step of a short run that nothing else runs beside."""
        steps = Fraction(min(self.steps, TIMED_STEPS), self.steps)
        run = self.run(side, rate, warmup, steps, TIMED_SEED)
        return statistics.median(run.column("time_ms")) / 1e3


def train(recipe: str, values: dict[str, Any], folder: Path) -> None:
    """One training of the command line."""
    texts = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    flags = [f"--{name.replace('_', '-')}={'none' if text is None else text}" for name, text in texts.items()]
    root = Path(__file__).parents[1]
    command = [sys.executable, str(root / "cli.py"), "train", "--recipe", recipe, "--output-dir", str(folder)]
    command += ["--overwrite", *flags]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")


def nll_of(run: Run) -> float:
    """P0 at the end of a run, in nats/token."""
    final = run.final_evaluation
    if final is None:
        raise SystemExit(f"{run.path} has no evaluation")
    return final.nll


def spent(run: Run) -> dict[str, float]:
    """What the training took: scored tokens and FLOPs."""
    return {"tokens": float(run.column("tokens_seen")[-1]), "flops": float(run.column("total_flops")[-1])}


def summary(bench: Bench, side: str) -> dict[str, Any]:
    """Medians and spread of a side at every budget, at its best rate and warm-up."""
    rate, warmup = bench.best(side)
    budgets = {}
    for budget in BUDGETS:
        runs = [bench.run(side, rate, warmup, budget, seed) for seed in bench.given.seeds]
        nlls = [nll_of(run) for run in runs]
        used = [spent(run) for run in runs]
        budgets[str(budget)] = {
            "nll": statistics.median(nlls),
            "nlls": nlls,
            **{name: statistics.median(one[name] for one in used) for name in used[0]},
        }
    return {"learning_rate": rate, "warmup": warmup, "budgets": budgets}


def reached(side: dict[str, Any], nll: float) -> str | None:
    """The least budget at whose end a side is at or below ``nll``."""
    return next((budget for budget, found in side["budgets"].items() if found["nll"] <= nll), None)


def claims(found: dict[str, Any], where: str) -> list[Claim]:
    """Tokens and FLOPs of ``now`` to the ends of the other two."""
    made = []
    for other in ("before", "mdlm-loss"):
        end = found[other]["budgets"]["1"]
        budget = reached(found["now"], end["nll"])
        # What it never comes to has cost the whole budget, and more.
        used, missed = found["now"]["budgets"][budget or "1"], "" if budget else " (not reached)"
        for name, asked in (("tokens", "<= 0.334"), ("flops", "<= 0.45")):  # a third, with the rounding of whole steps
            made.append(
                Claim(
                    what=f"{name} to the nll at which {other} ends{missed}, {where}",
                    sides={side: round(one["budgets"]["1"]["nll"], 4) for side, one in found.items()},
                    unit="nats/token at the whole budget",
                    measure=f"now / {other}",
                    value=used[name] / end[name],
                    asked=asked,
                )
            )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="demo")
    parser.add_argument("--dataset", help="another data set than the recipe's")
    parser.add_argument("--hidden-size", type=int)
    parser.add_argument("--max-steps", type=int, help="of the whole budget")
    parser.add_argument("--seeds", type=lambda text: [int(seed) for seed in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--folder", type=Path, default=Path("runs/tokens_to_quality"), help="of the runs")
    parser.add_argument(
        "--logs", type=Path, help="keep logs of finished runs there, compressed; take those not in --folder"
    )
    parser.add_argument("--parts", action="store_true", help="also what each part of now gives")
    parser.add_argument("--quick-choice", action="store_true", help="one rate and warm-up a side, not the best of six")
    parser.add_argument("--toy", action="store_true", help="a network that takes milliseconds, to try this out")
    parser.add_argument("--output", type=Path, help="JSON; default: benchmarks/results/tokens_to_quality-NAME.json")
    given = parser.parse_args()
    given.folder = given.folder.resolve()
    bench = Bench(given)
    names = list(SIDES) if given.parts else list(SIDES)[:-PARTS]
    found = {side: summary(bench, side) for side in names}
    for side, one in found.items():
        step = bench.step_seconds(side, one["learning_rate"], one["warmup"])
        for budget, numbers in one["budgets"].items():
            numbers["seconds"] = step * round(bench.steps * Fraction(budget))
    corpus = Path(str(given.dataset or load_settings(given.recipe, bench.shared).data.dataset)).stem
    where = f"{corpus}, hidden size {given.hidden_size or load_settings(given.recipe, bench.shared).model.hidden_size}"
    for side, one in found.items():
        print(f"{side}: rate {one['learning_rate']:g}, warm-up {one['warmup']:g}")
        for budget, numbers in one["budgets"].items():
            each = ", ".join(f"{nll:.3f}" for nll in numbers["nlls"])
            print(
                f"  T {budget:>3}: {numbers['nll']:.4f} nats/token ({each}), {numbers['tokens']:,.0f} tokens, "
                f"{numbers['flops']:.3g} FLOPs, {numbers['seconds']:.0f} s"
            )
    result = {
        **about("tokens_to_quality"),
        "claims": [claim.to_json() for claim in claims(found, where)],
        "seeds": given.seeds,
        "steps": bench.steps,
        "sides": found,
    }
    output = given.output or RESULTS / f"tokens_to_quality-{where.replace(', hidden size ', '-')}.json"
    output.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
