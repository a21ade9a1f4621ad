"""The table of an ablation: means over seeds with intervals, and what the paired difference to the baseline says.

Every number comes from finished runs; a variant that misses one of its runs has no numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..journal.run import Run
from ..journal.schema import COMPLETED
from ..journal.tables import UNKNOWN, count, markdown_table, number, text_table
from .pairing import unpaired
from .rates import Rates
from .reaching import Reached, median_reached
from .table import split_note
from .units import same_units
from .verdicts import Verdict, half_interval, verdict

_SPENT = ("tokens_seen", "total_flops")


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its interval over seeds (Student's t), None below two seeds."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        return number(self.mean, 4) if self.half is None else f"{number(self.mean, 4)} ± {number(self.half, 4)}"

    def signed(self) -> str:
        """Return it with the sign of the mean, as differences are written."""
        return f"{self.mean:+.4f}" if self.half is None else f"{self.mean:+.4f} ± {self.half:.4f}"


@dataclass(frozen=True)
class Entry:
    """A variant and what belongs to it.

    Attributes:
        name: of the variant.
        runs: by seed; None where there is no run of these settings.
        generation: by seed, the numbers of its samples, where they were drawn.
        weights: name of the variant whose runs these are.
    """

    name: str
    runs: Mapping[int, Run | None]
    generation: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    weights: str | None = None

    @property
    def missing(self) -> list[int]:
        """Seeds without a finished and evaluated run."""
        return [seed for seed, run in self.runs.items() if not is_finished(run)]

    @property
    def bound(self) -> str | None:
        """``"nelbo"`` or ``"exact"``, as the logs of its runs say; None where they do not say one and the same."""
        bounds = {run.bound for run in self.runs.values() if run is not None}
        return bounds.pop() if len(bounds) == 1 else None

    @property
    def rates(self) -> Rates | None:
        """Optimiser and learning rates of its runs; None where there are none, or they do not have the same."""
        rates = {Rates.of(run) for run in self.runs.values() if run is not None}
        return rates.pop() if len(rates) == 1 else None

    def nll(self, on_test: bool = False) -> dict[int, float]:
        """Nats per scored token of the best evaluation or of the test, by seed; empty unless all runs are finished."""
        if self.missing:
            return {}
        best = {seed: _quoted(run, on_test).best_evaluation for seed, run in self.runs.items() if run is not None}
        return {seed: found.nll for seed, found in best.items() if found is not None and found.nll is not None}


def is_finished(run: Run | None) -> bool:
    """Whether a run came to its end and was evaluated."""
    return run is not None and run.status == COMPLETED and run.best_evaluation is not None


@dataclass(frozen=True)
class AblationTable:
    """The rows of an ablation in the order given, as text, markdown or data."""

    entries: Sequence[Entry]
    baseline: str
    _same: dict[str, dict[int, bool | None]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def on_test(self) -> bool:
        """Whether the numbers are of the test: all finished runs have one."""
        finished = self._finished()
        return bool(finished) and all(run.test_evaluation is not None for run in finished)

    @property
    def split(self) -> str:
        """A sentence on which text the numbers are of, where some run has a test; else empty."""
        return split_note(self._finished())

    def _finished(self) -> list[Run]:
        runs = [run for entry in self.entries for run in entry.runs.values()]
        return [run for run in runs if run is not None and is_finished(run)]

    def to_text(self, width: int) -> str:
        """Return the table for a terminal, and below it what the differences mean."""
        told = [self.split] if self.split else []
        return "\n".join([text_table(self._headings(), self._cells(), width), *told, *self._sentences()])

    def to_markdown(self) -> str:
        """Return the table as markdown, and below it what the differences mean."""
        parts = [markdown_table(self._headings(), self._cells(), left=1), self.split, "\n".join(self._sentences())]
        return "\n\n".join(part for part in parts if part)

    def data(self) -> list[dict[str, Any]]:
        """Return a mapping a row, for JSON; nats per scored token."""
        return [self._row(entry) for entry in self.entries]

    def verdict(self, entry: Entry) -> str:
        """Say in a few words what the difference to the baseline, paired by seed, means."""
        if entry.missing:
            done = len(entry.runs) - len(entry.missing)
            return f"not finished ({done} of {len(entry.runs)} runs)"
        if entry.name == self.baseline:
            return "baseline"
        base = self._baseline()
        if entry.weights == base.weights and entry.weights is not None:
            return "same weights"
        difference = self.difference(entry)
        if difference is None:
            return "the baseline is not finished" if base.missing else "other data: not comparable"
        if difference.half is None:
            return "one seed: cannot tell"
        said = self._reading(entry, difference).short
        return said if self.is_paired(entry) else f"{said} (unpaired)"

    def _reading(self, entry: Entry, difference: Interval) -> Verdict:
        bounds = (entry.bound, self._baseline().bound)
        return verdict((entry.name, self.baseline), bounds, difference.mean, difference.half)

    def _sentences(self) -> list[str]:
        """One line a variant that has an interval: what its difference to the baseline says."""
        base = self._baseline()
        found = []
        for entry in self.entries:
            same = entry.weights is not None and entry.weights == base.weights
            difference = None if entry is base or same else self.difference(entry)
            if difference is not None and difference.half is not None:
                sentence = self._reading(entry, difference).sentence
                how = "" if self.is_paired(entry) else " (not paired: what text their runs scored the logs do not say)"
                found.append(f"- {entry.name} - {base.name}: {difference.signed()} nats/token{how}: {sentence}.")
        return found

    def difference(self, entry: Entry) -> Interval | None:
        """nll(entry) - nll(baseline) in nats per scored token over the seeds of both; None where it cannot be told.

        Paired by seed where both runs of each are proved to have been evaluated on the same units; else of the two means.
        """
        base = self._baseline()
        ours, theirs = entry.nll(self.on_test), base.nll(self.on_test)
        seeds = [seed for seed in ours if seed in theirs]
        if not seeds or any(_data(entry.runs[seed]) != _data(base.runs[seed]) for seed in seeds):
            return None
        same = self._same_units(entry, seeds)
        if False in same:
            return None
        if all(same):
            return interval([ours[seed] - theirs[seed] for seed in seeds])
        mean, stderr, degrees = unpaired([ours[seed] for seed in seeds], [theirs[seed] for seed in seeds])
        return Interval(mean, None if stderr is None else half_interval(stderr, degrees))

    def is_paired(self, entry: Entry) -> bool:
        """Whether the logs prove that the runs of each seed were evaluated on the same units as those of the baseline."""
        return all(self._same_units(entry, [seed for seed in entry.runs if seed in self._baseline().runs]))

    def _same_units(self, entry: Entry, seeds: Sequence[int]) -> list[bool | None]:
        if entry.name not in self._same:  # a file of each run is read for it
            base = self._baseline().runs
            pairs = {seed: (run, base.get(seed)) for seed, run in entry.runs.items()}
            self._same[entry.name] = {
                seed: None
                if ours is None or theirs is None
                else same_units(_quoted(ours, self.on_test), _quoted(theirs, self.on_test))
                for seed, (ours, theirs) in pairs.items()
            }
        return [self._same[entry.name][seed] for seed in seeds]

    def _baseline(self) -> Entry:
        return next(entry for entry in self.entries if entry.name == self.baseline)

    def _row(self, entry: Entry) -> dict[str, Any]:
        nll, difference = entry.nll(self.on_test), self.difference(entry)
        found: dict[str, Any] = {
            "variant": entry.name,
            "seeds": list(entry.runs),
            "finished": [seed for seed in entry.runs if seed not in entry.missing],
            "verdict": self.verdict(entry),
            "bound": entry.bound,
            "split": "test" if self.on_test else "eval",
            **dataclasses.asdict(entry.rates or Rates(None, None, None)),
            "eval_nll": _data_of(interval(nll.values())),
            "eval_native_nll": _data_of(self._mean(entry, _native)),
            "difference": _data_of(difference),
            "paired": difference is not None and self.is_paired(entry),
            "tokens_per_sec": _data_of(self._mean(entry, lambda run: run.tokens_per_sec)),
        }
        to_baseline = self._reached(entry)
        found["tokens_to_baseline"] = None if to_baseline is None else to_baseline.tokens
        found["flops_to_baseline"] = None if to_baseline is None else to_baseline.flops
        found["generation"] = {name: _data_of(self._of_texts(entry, name)) for name in self._text_names()}
        found["runs"] = {str(seed): str(run.path.parent) for seed, run in entry.runs.items() if run is not None}
        return found

    def _target(self) -> float | None:
        """Where the baseline ends, on average over its seeds, in nats/token."""
        found = interval(self._baseline().nll().values())
        return None if found is None else found.mean

    def _reached(self, entry: Entry) -> Reached | None:
        """The medians of what the runs of a variant spent until they were as good as the baseline in the end.

        The mean is not reached by each seed of the baseline itself, of which nothing is said.
        """
        target = self._target()
        if target is None or entry.missing or entry.name == self.baseline:
            return None
        return median_reached([run for run in entry.runs.values() if run is not None], target)

    def _text_names(self) -> list[str]:
        names = [name for entry in self.entries for numbers in entry.generation.values() for name in numbers]
        return list(dict.fromkeys(names))

    def _mean(self, entry: Entry, value_of: Any) -> Interval | None:
        if entry.missing:
            return None
        values = [value_of(run) for run in entry.runs.values()]
        return None if any(value is None for value in values) else interval(values)

    def _of_texts(self, entry: Entry, name: str) -> Interval | None:
        values = [numbers.get(name) for numbers in entry.generation.values()]
        if entry.missing or len(values) < len(entry.runs) or any(value is None for value in values):
            return None
        return interval([value for value in values if value is not None])

    def _headings(self) -> list[str]:
        of = " (evaluation set)" if self.on_test else ""
        native = [f"native nats/token{of}"] if self._has_native() else []
        return [
            "variant",
            *(["learning rate"] if self._has_rates() else []),
            "seeds",
            *([] if self._target() is None else [f"tokens to {number(self._target(), 4)}", "FLOPs to it"]),
            "nats/token (P0)",
            "bound",
            *native,
            "difference",
            "verdict",
            "tokens/s",
            *_text_headings(self._text_names()),
        ]

    def _has_rates(self) -> bool:
        """Whether the variants differ in them; the same for all is no column."""
        return len({entry.rates for entry in self.entries} - {None}) > 1

    def _has_native(self) -> bool:
        return any(self._mean(entry, _native) is not None for entry in self.entries)

    def _cells(self) -> list[list[str]]:
        rows = []
        for entry in self.entries:
            difference = self.difference(entry) if entry.name != self.baseline else None
            native = [_cell(self._mean(entry, _native))] if self._has_native() else []
            speed = self._mean(entry, lambda run: run.tokens_per_sec)
            rows.append(
                [
                    entry.name,
                    *([str(entry.rates or UNKNOWN)] if self._has_rates() else []),
                    str(len(entry.runs) - len(entry.missing)),
                    *([] if self._target() is None else self._spent_cells(entry)),
                    _cell(interval(entry.nll(self.on_test).values())),
                    entry.bound or UNKNOWN,
                    *native,
                    difference.signed() if difference is not None else UNKNOWN,
                    self.verdict(entry),
                    count(speed.mean if speed else None),
                    *(_text_cell(name, self._of_texts(entry, name)) for name in self._text_names()),
                ]
            )
        return rows

    def _spent_cells(self, entry: Entry) -> list[str]:
        if entry.name == self.baseline and not entry.missing:
            runs = [run for run in entry.runs.values() if run is not None]
            tokens, flops = (float(np.median([run.column(name)[-1] for run in runs])) for name in _SPENT)
            return [f"{tokens:,.0f} in all", f"{flops:.3g} in all" if np.isfinite(flops) else UNKNOWN]
        found = self._reached(entry)
        if found is None:
            return [UNKNOWN if entry.missing else "not reached", UNKNOWN]
        return [f"{found.tokens:,.0f}", UNKNOWN if found.flops is None else f"{found.flops:.3g}"]


def interval(values: Any) -> Interval | None:
    """Return the mean of some values with the half width of its interval at the 95 % level; None without values."""
    known = [float(value) for value in values]
    if not known:
        return None
    mean, n = math.fsum(known) / len(known), len(known)
    if n < 2:
        return Interval(mean, None)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1))
    return Interval(mean, half_interval(deviation / math.sqrt(n), n))


def _quoted(run: Run, on_test: bool) -> Run:
    return run.quoting_test() if on_test else run


def _native(run: Run | None) -> float | None:
    best = run.best_evaluation if run is not None else None
    return best.number("eval_native_nll") if best is not None else None


def _data(run: Run | None) -> Any:
    return run.header.data.get("fingerprint") if run is not None else None


def _data_of(value: Interval | None) -> dict[str, float | None] | None:
    return None if value is None else {"mean": value.mean, "half_interval": value.half}


def _cell(value: Interval | None) -> str:
    return UNKNOWN if value is None else str(value)


_TEXT_HEADINGS = {
    "distinct_2": "distinct-2",
    "unigram_entropy": "entropy",
    "reference_perplexity": "reference ppl",
    "forwards": "forwards/text",
    "seconds": "s/text",
}


def _text_headings(names: Sequence[str]) -> list[str]:
    return [_TEXT_HEADINGS.get(name, name.replace("_", " ")) for name in names]


def _text_cell(name: str, value: Interval | None) -> str:
    if value is None:
        return UNKNOWN
    return number(value.mean, 1 if name in ("reference_perplexity", "forwards") else 3)
