"""Put several runs into one table, and say what besides the objective differs between them."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..journal.measurements import last_measurements, numbers
from ..journal.quantities import NATS
from ..journal.run import Run, common_loss_unit
from ..journal.tables import UNKNOWN, count, markdown_table, number, shortened, text_table, with_error
from ..reading.load import as_runs
from .accuracies import accuracy_cells, accuracy_headings
from .exact_orders import EXACT_NOTE, exact_table
from .fairness import SEED_KEYS, differences, fairness_notes, minimised_notes, verdict
from .lossy import lossy_note
from .pairing import Difference, PairedDifference, paired_difference, paired_over_seeds
from .seeds import SeedGroup, mean_and_error, seed_groups, seed_of

SAMPLING = "sampling"
"""Source of measurements of how fast a model writes."""


@dataclass(frozen=True)
class ComparisonRow:
    """One run's line: the numbers are those of its best evaluation, None where unknown; nats per scored token."""

    run: str
    objective: str | None
    parameters: int | None
    tokens_seen: int | None
    tokens_per_sec: float | None
    eval_nll: float | None
    eval_nll_stderr: float | None
    eval_bpb: float | None
    eval_ppl: float | None
    eval_accuracy: float | None
    bound: str | None
    best_step: int | None
    known_words: float | None = None
    sampling_tokens_per_sec: float | None = None


@dataclass(frozen=True)
class SeedRow:
    """The mean over the seeds of one configuration; the error is that of the mean over seeds, None for one seed."""

    configuration: str
    objective: str | None
    seeds: list[Any]
    parameters: int | None
    tokens_seen: float | None
    tokens_per_sec: float | None
    eval_nll: float | None
    eval_nll_stderr: float | None
    eval_bpb: float | None
    eval_bpb_stderr: float | None
    eval_ppl: float | None
    eval_ppl_stderr: float | None
    eval_accuracy: float | None
    bound: str | None

    def cells(self) -> list[str]:
        """Return the cells under :data:`SEED_COLUMNS`."""
        return [with_error(self.eval_bpb, self.eval_bpb_stderr), with_error(self.eval_ppl, self.eval_ppl_stderr, 3)]


SEED_COLUMNS = ("bits/byte ± se", "perplexity ± se")


@dataclass(frozen=True)
class Comparison:
    """The table of several runs and what there is to say about it.

    Attributes:
        rows: one a run.
        seed_rows: one a configuration, where several seeds of one are among the runs; else empty.
        differences: every setting that differs, with its value in each run.
        silent: names of runs whose logs hold no settings.
        source_nll: nats per token of the source itself, where it is known.
        to_first: of more than two runs, each one's difference to the first, where both scored the same units.
        paired: the difference of exactly two runs over the documents both were scored on, or of two configurations
            over the seeds both have; None where neither is known.
        unit: of what the runs are ranked by; empty where not all of them log a nll per token.
        lossy: a sentence for each run whose tokenizer does not give the evaluation text back.
        fairness: what the fairness check has to say, one line each; empty for one run.
        verdict: what of it is not about one setting, in sentences without a capital.
        chosen: a sentence for each run of which another metric than the nll has chosen the evaluation that is quoted.
        minimised: a sentence for each run whose training loss is not the bound.
        sets: a sentence for each run on which of several evaluation sets it is quoted with.
        split: a sentence on which text the numbers are of, where some run has a test; else empty.
        on_test: whether that text is the test of every run.
        exact: headings and rows of exact likelihoods; None where no log has any.
    """

    rows: list[ComparisonRow]
    seed_rows: list[SeedRow]
    differences: dict[str, list[Any]]
    silent: list[str]
    source_nll: float | None
    paired: Difference | None
    unit: str = NATS
    lossy: list[str] = field(default_factory=list)
    fairness: list[str] = field(default_factory=list)
    verdict: list[str] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    minimised: list[str] = field(default_factory=list)
    sets: list[str] = field(default_factory=list)
    split: str = ""
    on_test: bool = False
    exact: tuple[list[str], list[list[str]]] | None = None
    to_first: list[PairedDifference] = field(default_factory=list)

    def to_text(self, width: int | None = None) -> str:
        """Return tables and notes as plain text; ``width`` limits them, by default to the terminal (none: 140)."""
        width = width or shutil.get_terminal_size((140, 24)).columns
        parts = [text_table(*self._table(), width)]
        if self.seed_rows:
            parts.append(f"Mean over seeds:\n{text_table(*self._seed_table(), width)}")
        if self.exact is not None:
            parts.append(f"Exact likelihoods:\n{text_table(*self.exact, width)}\n{EXACT_NOTE}")
        return "\n\n".join([*parts, "\n".join(self.notes())]).rstrip() + "\n"

    def to_markdown(self) -> str:
        """Return the tables and the notes as markdown."""
        parts = [markdown_table(*self._table())]
        if self.seed_rows:
            parts += ["Mean over seeds:", markdown_table(*self._seed_table())]
        if self.exact is not None:
            parts += ["Exact likelihoods:", markdown_table(*self.exact), EXACT_NOTE]
        for note in self.notes():
            if note.startswith("- ") and parts[-1].startswith("- "):
                parts[-1] += f"\n{note}"
            else:
                parts.append(note)
        return "\n\n".join(parts) + "\n"

    def notes(self) -> list[str]:
        """Return what there is to say besides the numbers, one line each: the pair, the source, fairness."""
        notes = [] if self.paired is None else [str(self.paired)]
        notes += map(str, self.to_first)
        notes += [*filter(None, [self.split]), *self.sets, *self.chosen, *self.lossy]
        if self.source_nll is not None:
            notes.append(f"The source itself has {number(self.source_nll, 4)} nats/token on these blocks.")
        if len(self.rows) > 1:
            notes += [*self.minimised, *self.fairness]
        return notes

    def _table(self) -> tuple[list[str], list[list[str]]]:
        accuracies, nll = accuracy_headings([row.objective for row in self.rows]), f"{self.unit or 'loss'} ± se"
        written = any(row.known_words is not None for row in self.rows)
        timed = any(row.sampling_tokens_per_sec is not None for row in self.rows)
        headings = [
            "run",
            "objective",
            "parameters",
            "tokens seen",
            "tokens/s",
            nll,
            "bits/byte",
            "perplexity",
            *accuracies,
            *(["words known"] if written else []),
            *(["tokens/s written"] if timed else []),
            "bound",
            "best step",
        ]
        return headings, [
            [
                row.run,
                shortened(row.objective) if row.objective else UNKNOWN,
                count(row.parameters),
                count(row.tokens_seen),
                count(row.tokens_per_sec),
                with_error(row.eval_nll, row.eval_nll_stderr),
                number(row.eval_bpb, 4),
                number(row.eval_ppl, 3),
                *accuracy_cells(row.objective, row.eval_accuracy, accuracies),
                *([UNKNOWN if row.known_words is None else f"{row.known_words:.0%}"] if written else []),
                *([count(row.sampling_tokens_per_sec)] if timed else []),
                shortened(row.bound) if row.bound else UNKNOWN,
                count(row.best_step),
            ]
            for row in self.rows
        ]

    def _seed_table(self) -> tuple[list[str], list[list[str]]]:
        accuracies = accuracy_headings([row.objective for row in self.seed_rows])
        nll = f"{self.unit or 'loss'} ± se"
        headings = ["configuration", "seeds", "tokens/s", nll, *SEED_COLUMNS, *accuracies, "bound"]
        return headings, [
            [
                row.configuration,
                ", ".join(map(str, row.seeds)),
                count(row.tokens_per_sec),
                with_error(row.eval_nll, row.eval_nll_stderr),
                *row.cells(),
                *accuracy_cells(row.objective, row.eval_accuracy, accuracies),
                row.bound or UNKNOWN,
            ]
            for row in self.seed_rows
        ]


def compare_runs(runs: Sequence[Run | str | Path], names: Sequence[str] | None = None) -> Comparison:
    """Return the comparison of one or more runs, in the order given.

    Args:
        runs: at least one; of a path what is read there (:func:`~hf_difflm.runs.load_run`).
        names: what to call them; by default their :func:`labels`.

    Raises:
        UserError: no run was given, or not one name for each, or there is no run at a path.
    """
    loaded = as_runs(runs)
    if not loaded:
        raise UserError("there is no run to compare; give at least one run folder")
    return _compared(loaded, names)


def _compared(runs: Sequence[Run], names: Sequence[str] | None) -> Comparison:
    split = split_note(runs)
    on_test = all(run.test_evaluation is not None for run in runs)
    if on_test:
        runs = [run.quoting_test() for run in runs]
    called = bool(names)
    names = labels(runs, names)
    groups = seed_groups(runs, names)
    several = any(len(group.runs) > 1 for group in groups)
    found = differences(runs)
    if several and len(groups) > 1 and len({frozenset(map(str, group.seeds)) for group in groups}) == 1:
        # Each configuration has the same seeds, so they are part of the design and no difference between the sides. Seeds
        # of one configuration alone are all the difference there is.
        found = {key: values for key, values in found.items() if key not in SEED_KEYS}
    sources = {run.source_nll for run in runs}
    named = list(zip(runs, names, strict=True))
    silent = [name for run, name in named if not run.config]
    return Comparison(
        rows=[_row(run, name) for run, name in zip(runs, names, strict=True)],
        seed_rows=[_seed_row(group) for group in groups] if several else [],
        differences=found,
        silent=silent,
        source_nll=sources.pop() if len(sources) == 1 else None,
        paired=_paired(runs, names if called else None, groups),
        unit=common_loss_unit(runs),
        fairness=fairness_notes(runs, names, found, silent) if len(runs) > 1 else [],
        verdict=verdict(runs, names, found, silent) if len(runs) > 1 else [],
        lossy=[note for run, name in named if (note := lossy_note(run, name)) is not None],
        chosen=[note for run, name in named if (note := _chosen_note(run, name)) is not None],
        sets=[f"Of {name}: {run.headline_note}." for run, name in named if run.headline_note],
        minimised=minimised_notes(runs, names),
        on_test=on_test,
        split=split,
        exact=exact_table(runs, names),
        to_first=[] if several else _to_first(runs, names),
    )


_TEST_NOTE = "The numbers are of the test, text that had no say in which weights best/ holds."


def split_note(runs: Sequence[Run]) -> str:
    """Say that the test of some runs is quoted, or why it is not; nothing where none has one."""
    without = [run for run in runs if run.test_evaluation is None]
    if len(without) == len(runs):
        return ""
    if not without:
        return _TEST_NOTE
    names = ", ".join(shortened(run.name) for run in without)
    return (
        "The numbers are of the evaluation set that chose the weights in best/, since there is no test of "
        f"{names}; hf-difflm eval RUN --split test makes one where text was held out for it."
    )


def _chosen_note(run: Run, name: str) -> str | None:
    best, lowest = run.best_evaluation, run.lowest_evaluation
    if best is None or lowest is None or best.iter == lowest.iter:
        return None
    return (
        f"Of {name} the evaluation of step {best.iter:,} is quoted, whose weights best/ holds: {run.best_metric} chose it; "
        f"its lowest {'nll' if run.loss_unit else 'loss'} is {number(lowest.nll, 4)}, of step {lowest.iter:,}."
    )


def labels(runs: Sequence[Run], names: Sequence[str] | None = None) -> list[str]:
    """Return a distinct name for each run.

    That is ``names`` where they are given; else the run's own name, with its seed, folder or place where two runs have
    the same one.

    Raises:
        UserError: there is not one name for each run, or a name is there twice.
    """
    if names:
        if len(names) != len(runs):
            given = "is 1 name" if len(names) == 1 else f"are {len(names)} names"
            counted = "1 run" if len(runs) == 1 else f"{len(runs)} runs"
            raise UserError(f"there {given} ({', '.join(names)}) for {counted}; give one name for each run")
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise UserError(f"the name {twice[0]!r} is given twice; give each run a name of its own")
        return list(names)
    found = [run.name for run in runs]
    counts = Counter(found)
    for name in [name for name, times in counts.items() if times > 1]:
        places = [place for place, run in enumerate(runs) if run.name == name]
        seeds = [seed_of(runs[place]) for place in places]
        by_seed = None not in seeds and len(set(map(str, seeds))) == len(seeds)
        folders = _told_apart([runs[place].path.parent for place in places])
        for place, seed, folder in zip(places, seeds, folders, strict=True):
            found[place] = f"{name} (seed {seed})" if by_seed else f"{name} ({folder})"
    counts = Counter(found)
    return [f"{name} #{place}" if counts[name] > 1 else name for place, name in enumerate(found, start=1)]


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """The last part of each path, or as many as it takes to tell them apart; where nothing does, the last part."""
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        tails = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(tails)) == len(tails):
            return tails
    return [folder.name for folder in folders]


def same_name_warnings(runs: Sequence[Run]) -> list[str]:
    """Return one sentence for each name that several runs share: which runs, and what they are called instead."""
    shown = labels(runs)
    warnings = []
    for name, times in Counter(run.name for run in runs).items():
        if times > 1:
            called = ", ".join(label for run, label in zip(runs, shown, strict=True) if run.name == name)
            warnings.append(f"{times} runs are named {shortened(name)!r}; they are shown as {called}")
    return warnings


def _paired(runs: Sequence[Run], names: Sequence[str] | None, groups: Sequence[SeedGroup]) -> Difference | None:
    if len(runs) == 2:
        # By their objectives, where those tell them apart and nobody gave the runs other names.
        alike = runs[0].objective == runs[1].objective
        return paired_difference(*runs, names=labels(runs) if alike and names is None else names)
    return paired_over_seeds(*groups) if len(groups) == 2 else None


def _to_first(runs: Sequence[Run], names: Sequence[str]) -> list[PairedDifference]:
    """Of more than two runs, each one's difference to the first, where both scored the same units."""
    if len(runs) < 3:
        return []
    found = (paired_difference(run, runs[0], names=(name, names[0])) for run, name in zip(runs, names, strict=True))
    return [difference for difference in found if isinstance(difference, PairedDifference)]


def _row(run: Run, label: str) -> ComparisonRow:
    best = run.best_evaluation
    parameters = run.header.model.get("parameters")
    measured = last_measurements(run)
    words, sampling = measured.get("words"), measured.get(SAMPLING)
    return ComparisonRow(
        run=label,
        objective=run.objective,
        parameters=parameters if isinstance(parameters, int) else None,
        tokens_seen=run.tokens_seen,
        tokens_per_sec=run.tokens_per_sec,
        eval_nll=best.nll if best else None,
        eval_nll_stderr=best.nll_stderr if best else None,
        eval_bpb=best.number("eval_bpb") if best else None,
        eval_ppl=best.number("eval_ppl") if best else None,
        eval_accuracy=best.number("eval_accuracy") if best else None,
        bound=run.bound,
        best_step=best.iter if best else None,
        known_words=None if words is None else numbers(words).get("known_words"),
        sampling_tokens_per_sec=None if sampling is None else numbers(sampling).get("sampling_tokens_per_sec"),
    )


def _seed_row(group: SeedGroup) -> SeedRow:
    best = [run.best_evaluation for run in group.runs]
    nll, nll_error = mean_and_error(record.nll if record else None for record in best)
    bpb, bpb_error = mean_and_error(record.number("eval_bpb") if record else None for record in best)
    ppl, ppl_error = mean_and_error(record.number("eval_ppl") if record else None for record in best)
    parameters = group.runs[0].header.model.get("parameters")
    return SeedRow(
        configuration=group.label,
        objective=group.runs[0].objective,
        seeds=list(group.seeds),
        parameters=parameters if isinstance(parameters, int) else None,
        tokens_seen=mean_and_error(run.tokens_seen for run in group.runs)[0],
        tokens_per_sec=mean_and_error(run.tokens_per_sec for run in group.runs)[0],
        eval_nll=nll,
        eval_nll_stderr=nll_error,
        eval_bpb=bpb,
        eval_bpb_stderr=bpb_error,
        eval_ppl=ppl,
        eval_ppl_stderr=ppl_error,
        eval_accuracy=mean_and_error(record.number("eval_accuracy") if record else None for record in best)[0],
        bound=group.runs[0].bound,
    )
