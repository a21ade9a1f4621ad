"""Two models on the same units: the difference of their nll, with the error of a paired comparison.

Documents differ far more among each other than two models do on one document, so the standard error of the paired
difference is much smaller than the data errors of the two numbers suggest. That holds for the same text in the same tokens
and context alone; where nothing proves them the same, the numbers are compared without pairing, or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..journal.quantities import NATS
from ..journal.run import Run, common_loss_unit
from .seeds import SeedGroup, mean_and_error
from .units import EvaluatedUnits, read_units, same_units, shared, units_file
from .verdicts import Verdict, half_interval, verdict

BITS = "bits/byte"
_UNTOLD = "what text {runs} scored {log} not say; evaluate again to pair them"
_TRIPLE = ("text", "token_ids", "context")


@dataclass(frozen=True)
class PairedDifference:
    """The number of the first less that of the second, over the units both were scored on.

    Args:
        first, second: names of the runs.
        nats: the difference, in the unit of ``measure``.
        stderr: its standard error over units.
        units: how many.
        unit: "documents", "blocks" or "seeds".
        bounds: bound of each number, "nelbo" or "exact".
        measure: nats/token; bits/byte where only the text is the same; "loss" of Trainers that do not say what they minimise.
        note: what else must be known of the units; may be empty.
    """

    first: str
    second: str
    nats: float
    stderr: float
    units: int
    unit: str
    bounds: tuple[str | None, str | None]
    measure: str = NATS
    note: str = ""

    @property
    def verdict(self) -> Verdict:
        """What it says of the two models."""
        half = half_interval(self.stderr, self.units)
        return verdict((self.first, self.second), self.bounds, self.nats, half)

    def __str__(self) -> str:
        return (
            f"{self.first} - {self.second}: {self.nats:+.4f} ± {self.stderr:.4f} {self.measure} "
            f"(best evaluations, paired over {self.units} {self.unit}{self.note}): {self.verdict.sentence}."
        )


@dataclass(frozen=True)
class UnpairedDifference:
    """The same of two runs that nothing proves to have scored the same units.

    Args:
        first, second: names of the runs.
        why: they are not paired.
        nats: the difference; None where the texts are known to differ, so that there is none.
        stderr: its standard error, from the data errors of both or the spread of their seeds; None where unknown.
        degrees: of freedom, plus 1; infinite for data errors.
        bounds, measure: as in :class:`PairedDifference`.
    """

    first: str
    second: str
    why: str
    nats: float | None
    stderr: float | None
    degrees: float
    bounds: tuple[str | None, str | None]
    measure: str = NATS

    @property
    def verdict(self) -> Verdict:
        """What it says of the two models."""
        half = None if self.stderr is None else half_interval(self.stderr, self.degrees)
        return verdict((self.first, self.second), self.bounds, math.nan if self.nats is None else self.nats, half)

    def __str__(self) -> str:
        if self.nats is None:
            return f"{self.first} and {self.second} are not compared: {self.why}."
        error = "" if self.stderr is None else f" ± {self.stderr:.4f}"
        return (
            f"{self.first} - {self.second}: {self.nats:+.4f}{error} {self.measure} "
            f"(best evaluations, not paired: {self.why}): {self.verdict.sentence}."
        )


Difference = PairedDifference | UnpairedDifference


def paired_difference(first: Run, second: Run, *, names: Sequence[str] | None = None) -> Difference | None:
    """Compare the best evaluations of two runs; None where neither is kept unit by unit, or both are one and the same.

    Paired are units with the same text, scored tokens and context. Where there are fewer than two, those with the same text
    are compared in bits per byte; where the log of a run does not say what its units are, the two numbers are.

    Args:
        first, second: the runs.
        names: what to call the two; by default their objectives, else their own names.
    """
    if units_file(first) == units_file(second):  # two documents in one folder: the file belongs to one of them at most
        return None
    a, b = read_units(first), read_units(second)
    if a is None and b is None:
        return None
    called = (names[0], names[1]) if names else (first.objective or first.name, second.objective or second.name)
    bounds = (first.bound, second.bound)
    silent = [name for name, units in zip(called, (a, b), strict=True) if units is None or not units.proved]
    if a is None or b is None or silent:
        return _without_proof(first, second, called, silent)
    if a.unit == b.unit:
        in_a, in_b = shared(a.keys(*_TRIPLE), b.keys(*_TRIPLE))
        if len(in_a) >= 2:
            nats, stderr = ratio_with_error(a.nll[in_a] - b.nll[in_b], a.tokens[in_a])
            whole = len(in_a) == len(a.tokens) == len(b.tokens)
            note = "" if whole else f" that both scored, of {len(a.tokens):,} and {len(b.tokens):,}"
            note += _other_steps(called, (first, second), (a, b))
            return PairedDifference(*called, nats, stderr, len(in_a), a.unit, bounds, note=note)
    in_a, in_b = shared(a.keys("text"), b.keys("text")) if a.text and b.text and a.unit == b.unit else ([], [])
    without = [name for name, run in zip(called, (first, second), strict=True) if not _has_bits(run)]
    if len(in_a) < 2 or without or a.num_bytes is None:
        why = _what_differs(a, b)
        if without:
            why += f"; of {' and '.join(without)} there are no bits per byte"
        return UnpairedDifference(*called, why, None, None, math.inf, bounds)
    bits, stderr = ratio_with_error((a.nll[in_a] - b.nll[in_b]) / math.log(2), a.num_bytes[in_a])
    note = f" of the same text, of {len(a.tokens):,} and {len(b.tokens):,}; tokens or context differ"
    note += _other_steps(called, (first, second), (a, b))
    return PairedDifference(*called, bits, stderr, len(in_a), a.unit, bounds, BITS, note)


def paired_over_seeds(first: SeedGroup, second: SeedGroup) -> Difference | None:
    """Compare two configurations seed by seed, by the best evaluation of each run; None below two seeds in common.

    Where the logs do not prove that both runs of each seed scored the same units, the two means are compared.
    """
    runs = [{str(seed): run for seed, run in zip(group.seeds, group.runs, strict=True)} for group in (first, second)]
    nll = [{seed: _nll(run) for seed, run in side.items() if _nll(run) is not None} for side in runs]
    seeds = [seed for seed in nll[0] if seed in nll[1]]
    mean, error = mean_and_error(nll[0][seed] - nll[1][seed] for seed in seeds)  # type: ignore[operator]
    if mean is None or error is None:
        return None
    bounds = (first.runs[0].bound, second.runs[0].bound)
    measure = common_loss_unit([*first.runs, *second.runs]) or "loss"
    same = [same_units(runs[0][seed], runs[1][seed]) for seed in seeds]
    if all(same):
        return PairedDifference(first.label, second.label, mean, error, len(seeds), "seeds", bounds, measure)
    if False in same:
        why = f"the runs of seed {seeds[same.index(False)]} were evaluated on different units"
        return UnpairedDifference(first.label, second.label, why, None, None, math.inf, bounds, measure)
    difference, stderr, degrees = unpaired([nll[0][seed] for seed in seeds], [nll[1][seed] for seed in seeds])
    why = _UNTOLD.format(runs="they", log="their logs do")
    return UnpairedDifference(first.label, second.label, why, difference, stderr, degrees, bounds, measure)


def unpaired(first: Sequence[float | None], second: Sequence[float | None]) -> tuple[float, float | None, float]:
    """Return the difference of two means, its standard error and its degrees of freedom plus 1, after Welch.

    The error is None below two values on either side.
    """
    (mean_1, error_1), (mean_2, error_2) = mean_and_error(first), mean_and_error(second)
    difference = (mean_1 or 0.0) - (mean_2 or 0.0)
    if error_1 is None or error_2 is None:
        return difference, None, 0.0
    spread = error_1**4 / (len(first) - 1) + error_2**4 / (len(second) - 1)
    degrees = (error_1**2 + error_2**2) ** 2 / spread if spread else math.inf
    return difference, math.hypot(error_1, error_2), degrees + 1


def _without_proof(first: Run, second: Run, names: tuple[str, str], silent: Sequence[str]) -> UnpairedDifference | None:
    """The two numbers as they stand, with their data errors as if independent."""
    best = [run.best_evaluation for run in (first, second)]
    nll = [record.nll if record else None for record in best]
    if nll[0] is None or nll[1] is None:
        return None
    errors = [record.number("eval_nll_data_stderr") if record else None for record in best]
    stderr = None if errors[0] is None or errors[1] is None else math.hypot(errors[0], errors[1])
    log = "their logs do" if len(silent) > 1 else f"the log of {silent[0]} does"
    why = _UNTOLD.format(runs="they" if len(silent) > 1 else "it", log=log)
    bounds = (first.bound, second.bound)
    measure = common_loss_unit([first, second]) or "loss"
    return UnpairedDifference(*names, why, nll[0] - nll[1], stderr, math.inf, bounds, measure)


def ratio_with_error(difference_U: np.ndarray, weight_U: np.ndarray) -> tuple[float, float]:
    """The sum of differences over the sum of weights (tokens, bytes), and its standard error over units."""
    total, units = weight_U.sum(), len(weight_U)
    mean = difference_U.sum() / total
    residual_U = difference_U - mean * weight_U
    return float(mean), float(math.sqrt(units / (units - 1) * (residual_U**2).sum()) / total)


def _what_differs(a: EvaluatedUnits, b: EvaluatedUnits) -> str:
    """Why two evaluations cannot be paired."""
    texts = len(shared(a.keys("text"), b.keys("text"))[0]) if a.text and b.text else 0
    tokens = len(shared(a.keys("text", "token_ids"), b.keys("text", "token_ids"))[0])
    if a.unit != b.unit:
        return f"one was evaluated by {a.unit}, the other by {b.unit}"
    if tokens >= 2:
        return (
            f"{tokens} {a.unit} are the same text in the same tokens, read in another context (block size, neighbours)"
        )
    if texts >= 2:
        return f"{texts} {a.unit} are the same text, cut into other tokens"
    common = texts or tokens
    return (
        f"they were evaluated on different texts: of {len(a.tokens):,} and {len(b.tokens):,} {a.unit} "
        f"{common or 'none'} {'is' if common == 1 else 'are'} the same"
    )


def _other_steps(names: Sequence[str], runs: Sequence[Run], units: Sequence[EvaluatedUnits]) -> str:
    """What is kept in ``best/`` need not be the evaluation with the lowest nll: another metric may have chosen it."""
    found = ""
    for name, run, known in zip(names, runs, units, strict=True):
        best = run.best_evaluation
        if best is not None and known.step is not None and known.step != best.iter:
            found += f"; of {name} the one of step {known.step:,}, kept in best/"
    return found


def _has_bits(run: Run) -> bool:
    best = run.best_evaluation
    return best is not None and best.number("eval_bpb") is not None


def _nll(run: Run) -> float | None:
    best = run.best_evaluation
    return None if best is None else best.nll
