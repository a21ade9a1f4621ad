"""The parts of a page about runs that need no script: tables and texts, escaped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..comparing.accuracies import accuracy_cells, accuracy_headings
from ..comparing.evaluation_table import evaluation_cells, evaluation_headings, evaluation_note
from ..comparing.exact_orders import EXACT_NOTE
from ..comparing.fairness import differ_heading, settings_of
from ..comparing.table import SEED_COLUMNS, Comparison
from ..comparing.verdicts import bound_note
from ..derived.document import summarize
from ..derived.sample_groups import SampleGroup, blank_said, quality_line, sample_groups
from ..journal.run import Run
from ..journal.schema import SampleRecord
from ..journal.tables import UNKNOWN, count, duration, number, with_error
from ..reading.places import relative
from .self_contained import text

_MAX_STEPS = 12  # of samples; first and last among them
_MAX_PROMPTS = 8
_MAX_CHARACTERS = 1200
_SHORT = 26  # a name that stays on one line


def summary_section(runs: Sequence[Run], names: Sequence[str], comparison: Comparison) -> str:
    """One line a run with the numbers people come for, the mean over seeds, the paired difference."""
    accuracies = accuracy_headings([row.objective for row in comparison.rows])
    headings = [
        "run",
        "objective",
        f"{comparison.unit or 'loss'} ± se",
        "bound",
        "bits/byte",
        "perplexity",
        *accuracies,
        "best / last step",
        "tokens seen",
        "tokens/s",
        "training time",
        "parameters",
        "status",
    ]
    rows = []
    for run, row in zip(runs, comparison.rows, strict=True):
        summary = summarize(run)
        rows.append(
            [
                row.run,
                row.objective or UNKNOWN,
                with_error(row.eval_nll, row.eval_nll_stderr),
                row.bound or UNKNOWN,
                number(row.eval_bpb, 4),
                number(row.eval_ppl, 3),
                *accuracy_cells(row.objective, row.eval_accuracy, accuracies),
                f"{count(row.best_step)} / {count(summary['final_iter'])}",
                count(row.tokens_seen),
                count(row.tokens_per_sec),
                duration(summary["train_seconds"]),
                count(row.parameters),
                run.shown_status,
            ]
        )
    parts = [_table(headings, rows, "summary")]
    if comparison.seed_rows:
        seeds = [
            [
                row.configuration,
                str(len(row.seeds)),
                with_error(row.eval_nll, row.eval_nll_stderr),
                *row.cells(),
                *accuracy_cells(row.objective, row.eval_accuracy, accuracies),
                row.bound or UNKNOWN,
            ]
            for row in comparison.seed_rows
        ]
        head = ["configuration", "seeds", f"{comparison.unit or 'loss'} ± se", *SEED_COLUMNS, *accuracies, "bound"]
        parts += ["<h3>Mean over seeds</h3>", _table(head, seeds, "summary")]
    if comparison.exact is not None:
        parts += [
            "<h3>Exact likelihoods</h3>",
            _table(*comparison.exact, "summary"),
            f'<p class="soft">{text(EXACT_NOTE)}</p>',
        ]
    if comparison.paired is not None:
        parts.append(f"<p><b>Difference:</b> {text(comparison.paired)}</p>")
    parts += [f"<p><b>Difference:</b> {text(difference)}</p>" for difference in comparison.to_first]
    parts += [f"<p>{text(note)}</p>" for note in (*comparison.sets, *comparison.lossy)]
    if comparison.source_nll is not None:
        parts.append(f"<p>The source itself has {number(comparison.source_nll, 4)} nats/token on these blocks.</p>")
    notes = f"{evaluation_note(comparison.unit)} Each line quotes the evaluation whose weights are in best/, with the lowest "
    notes += "value where no other metric chose it."
    notes += f" {bound_note({run.bound for run in runs})}"
    return section("summary", "Summary", *parts, f'<p class="soft">{notes.rstrip()}</p>')


def fairness_section(names: Sequence[str], comparison: Comparison) -> str:
    """Every setting, data property and size that differs between several runs; empty for one."""
    if len(names) < 2:
        return ""
    parts = []
    if comparison.silent:
        parts.append(
            f"<p>Nothing can be said about {text(', '.join(comparison.silent))}: the log holds no settings.</p>"
        )
    if comparison.differences:
        rows = [[key, *map(_value, values)] for key, values in comparison.differences.items()]
        heading = differ_heading(row.objective for row in comparison.rows)
        parts.append(f"<p>{heading[:1].upper() + heading[1:]}</p>")
        parts.append(_table(["setting", *names], rows, "settings"))
    parts += [f"<p>{text(sentence[:1].upper() + sentence[1:])}</p>" for sentence in comparison.verdict]
    return section("fairness", "Fairness check", *parts)


def samples_section(runs: Sequence[Run], names: Sequence[str]) -> str:
    """For each prompt and mode one table: what the runs wrote side by side, from the last step to the first."""
    groups = sample_groups(runs)
    if not groups:
        return ""
    shown = set(list(dict.fromkeys(group.prompt for group in groups))[:_MAX_PROMPTS])
    parts = []
    for place, group in enumerate(group for group in groups if group.prompt in shown):
        title = f'Prompt: <span class="text">{text(_cut(group.prompt))}</span>' if group.prompt else "No prompt"
        notes = [_cut(group.mode)] if group.mode else []
        notes += [f"number {group.place + 1}"] if group.place else []
        title += f' <span class="soft">{text(", ".join(notes))}</span>' if notes else ""
        opened = " open" if place == 0 else ""
        parts.append(f"<details{opened}><summary>{title}</summary>{_samples_table(group, names)}</details>")
    left = len({group.prompt for group in groups}) - len(shown)
    if left > 0:
        parts.append(f'<p class="soft">{left} more prompts are in the logs.</p>')
    return section("samples", "Samples over time", *parts)


def _samples_table(group: SampleGroup, names: Sequence[str]) -> str:
    """Steps down, runs across; a run that was sampled at other steps shows its last text since the step below."""
    by_step = group.by_step
    rows_at = _spread(sorted(by_step, reverse=True), _MAX_STEPS)
    having = sorted({place for samples in by_step.values() for place in samples})
    rows = []
    for step, below in zip(rows_at, [*rows_at[1:], -1], strict=True):
        cells = []
        for place in having:
            between = [other for other in by_step if below < other <= step and place in by_step[other]]
            at = max(between, default=None)
            note = "" if at in (None, step) else f'<div class="soft">step {count(at)}</div>'
            cells.append(note + _sample(None if at is None else by_step[at][place]))
        rows.append([count(step), *cells])
    return _raw_table(["step", *(names[place] for place in having)], rows, "texts")


def evaluations_section(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Every evaluation of every run, folded away."""
    parts = []
    for run, name in zip(runs, names, strict=True):
        rows = evaluation_cells(run)
        if rows:
            table = _table(evaluation_headings(run), rows, "summary")
            parts.append(f"<details><summary>{text(name)}: {len(rows)} evaluations</summary>{table}</details>")
    return section("evaluations", "Evaluations", *parts) if parts else ""


def settings_section(runs: Sequence[Run], names: Sequence[str], comparison: Comparison) -> str:
    """Every setting of every run, what differs marked; hardware and versions after them."""
    settings = [settings_of(run) for run in runs]
    keys = sorted(dict.fromkeys(key for setting in settings for key in setting))
    rows = [[key, *(_value(setting.get(key)) for setting in settings)] for key in keys]
    marked = {place for place, key in enumerate(keys) if key in comparison.differences}
    parts = [f"<details{' open' if len(runs) == 1 else ''}><summary>{len(keys)} settings</summary>"]
    parts += [_table(["setting", *names], rows, "settings", marked), "</details>"]
    facts = [dict(_facts(run.header.metadata, "")) for run in runs]
    known = list(dict.fromkeys(key for fact in facts for key in fact))
    if known:
        rows = [[key, *(_value(fact.get(key)) for fact in facts)] for key in known]
        differing = {place for place, row in enumerate(rows) if len(set(row[1:])) > 1}
        table = _table(["", *names], rows, "settings", differing)
        parts.append(f"<details><summary>Hardware and versions</summary>{table}</details>")
    return section("configuration", "Configuration", *parts)


def commands_section(runs: Sequence[Run], names: Sequence[str], command: str) -> str:
    """The commands that made the runs and this page."""
    made: dict[str, list[str]] = {}
    for run, name in zip(runs, names, strict=True):
        for header in run.headers:
            line = header.metadata.get("command")
            if isinstance(line, str) and name not in made.setdefault(relative(line), []):
                made[relative(line)].append(name)
    parts = [f"<p>{text(', '.join(having))}:</p><pre>{text(line)}</pre>" for line, having in made.items()]
    parts.append(f"<p>This page, from the logs alone:</p><pre>{text(command)}</pre>")
    return section("commands", "How this was made", *parts)


def section(name: str, title: str, *parts: str) -> str:
    """Return a section of a page: its name is its anchor, its parts are HTML."""
    return f'<section id="{name}"><h2>{title}</h2>\n' + "\n".join(parts) + "</section>"


def _table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str, marked: set[int] | frozenset[int] = frozenset()
) -> str:
    return _raw_table(headings, [[row[0], *map(text, row[1:])] for row in rows], kind, marked)


def _raw_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], kind: str, marked: set[int] | frozenset[int] = frozenset()
) -> str:
    """A table whose cells beyond the first column are HTML already."""
    head = "".join(f'<th scope="col">{text(heading)}</th>' for heading in headings)
    lines = []
    for place, row in enumerate(rows):
        cells = "".join(f"<td>{cell}</td>" for cell in row[1:])
        differs = ' class="differs"' if place in marked else ""
        short = ' class="short"' if len(row[0]) <= _SHORT else ""
        lines.append(f'<tr{differs}><th scope="row"{short}>{text(row[0])}</th>{cells}</tr>')
    return (
        f'<div class="wide"><table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _sample(sample: SampleRecord | None) -> str:
    """One text with its quality below it in small letters."""
    if sample is None:
        return '<span class="soft">–</span>'
    quality = quality_line(sample.extra)
    below = f'<small class="soft">{text(quality)}</small>' if quality else ""
    written = f'<div class="text">{text(_cut(sample.text))}</div>' if sample.text else '<span class="soft">–</span>'
    if (blank := blank_said(sample.text)) is not None:
        written = f'<span class="soft">{blank}</span>'
    return written + below


def _cut(value: str) -> str:
    return value if len(value) <= _MAX_CHARACTERS else value[:_MAX_CHARACTERS] + " …"


def _value(value: Any) -> str:
    return "not set" if value is None else _cut(relative(str(value)))


def _facts(values: dict[str, Any], prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _facts(value, f"{prefix}{key}.")
        elif f"{prefix}{key}" != "command":
            found.append((f"{prefix}{key}", value))
    return found


def _spread(items: list[int], most: int) -> list[int]:
    """At most this many of the items, evenly chosen, first and last among them."""
    if len(items) <= most:
        return items
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
