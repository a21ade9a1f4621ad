"""The tables of a model card, from the run log: likelihood beside the twin, data, settings."""

from __future__ import annotations

from typing import Any

from ...runs import Run, compare_runs
from ...runs.comparing.accuracies import accuracy_cells, accuracy_headings
from ...runs.comparing.exact_orders import EXACT_NOTE, exact_table
from ...runs.comparing.table import labels
from ...runs.comparing.verdicts import bound_note
from ...runs.journal.schema import EvaluationRecord
from ...runs.journal.tables import count, markdown_table, number, with_error
from ..source import PushSource
from .text import code, escaped, table

_HEADINGS = ("model", "objective", "step", "nats/token ± se", "bound", "bits/byte", "perplexity")
_SETTINGS = (
    "objective",
    "loss_form",
    "noise_sampling",
    "count_law",
    "loss_weight",
    "noise_schedule",
    "diffusion_block_size",
    "importance",
    "masking",
    "curriculum",
    "backbone",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "tie_word_embeddings",
    "block_size",
    "global_batch_size",
    "max_steps",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
    "ema_decay",
    "optim",
    "bf16",
    "seed",
    "lora_r",
    "lora_alpha",
    "lora_target_modules",
    "init_from",
)
_DATA = (
    "dataset",
    "dataset_config",
    "train_split",
    "eval_dataset",
    "eval_split",
    "eval_fraction",
    "tokenizer",
    "block_size",
)
_DENOISING_ONLY = {"loss_form", "noise_sampling", "count_law", "loss_weight", "noise_schedule", "diffusion_block_size"}
_ADAPTIVE_ONLY = {"importance", "masking", "curriculum"}


def likelihood(source: PushSource, run: Run, twin: Run | None) -> str:
    """Return the table of these weights and of the twin's best, and what there is to say about the numbers."""
    if source.evaluation is None:
        return (
            "Exactly these weights were not evaluated in training, so no number is given here; the run log has those of the "
            "weights that were."
        )
    runs, evaluation = [run] if twin is None else [run, twin], source.evaluation
    is_best = evaluation is run.best_evaluation
    if is_best and all(one.test_evaluation is not None for one in runs):  # as the notes below do
        runs = [one.quoting_test() for one in runs]
        evaluation = runs[0].best_evaluation or evaluation
    names = labels(runs)
    accuracies = accuracy_headings([each.objective for each in runs])
    rows = [_row("**this model**", run, evaluation, accuracies)]
    if len(runs) > 1 and (best := runs[1].best_evaluation) is not None:
        rows.append(_row(f"twin: {code(names[1])}", runs[1], best, accuracies))
    parts = [markdown_table([*_HEADINGS, *accuracies], rows), _explanation(evaluation, runs)]
    if is_best and (exact := exact_table(runs, ["this model", *(f"twin: {code(name)}" for name in names[1:])])):
        parts += ["Exact likelihoods:", markdown_table(*exact), EXACT_NOTE]
    if is_best:
        parts.append("\n".join(_note(note) for note in compare_runs(runs).notes()))
    return "\n\n".join(part for part in parts if part)


def data(run: Run) -> str:
    """Return the table of the training data, its fingerprint included."""
    rows = [(name, code(run.config[name])) for name in _DATA if run.config.get(name) is not None]
    mixture = run.header.data.get("mixture")
    for name, share in (mixture if isinstance(mixture, dict) else {}).items():
        if isinstance(share, (int, float)):
            rows.append((f"share of {code(name)}", f"{100 * share:.4g} % of the tokens"))
    counts = run.header.data.get("counts")
    for split, numbers in (counts if isinstance(counts, dict) else {}).items():
        if isinstance(numbers, dict):
            shown = [
                f"{number(value, 3) if isinstance(value, float) else count(value)} {escaped(name)}"
                for name, value in numbers.items()
                if isinstance(value, (int, float))
            ]
            rows.append((f"{escaped(split)} set", ", ".join(shown)))
    if run.tokens_seen is not None:
        rows.append(("tokens that gave a loss", count(run.tokens_seen)))
    if (fingerprint := run.header.data.get("fingerprint")) is not None:
        rows.append(("fingerprint", f"`{escaped(str(fingerprint))}`"))
    return table(rows, ("data", ""))


def settings(run: Run) -> str:
    """Return the table of hyper-parameters, hardware and versions."""
    hidden = (_DENOISING_ONLY if run.objective == "ar" else set()) | (
        _ADAPTIVE_ONLY if run.objective != "atat" else set()
    )
    rows = [(name, code(run.config[name])) for name in _SETTINGS if _is_told(run.config, name) and name not in hidden]
    facts = run.header.metadata
    rows += [(name, code(facts[name])) for name in ("dtype", "engine", "world_size", "device_name") if facts.get(name)]
    versions = facts.get("versions")
    rows += [(name, code(version)) for name, version in (versions if isinstance(versions, dict) else {}).items()]
    return table(rows, ("setting", "value"))


def _is_told(config: dict[str, Any], name: str) -> bool:
    return config.get(name) not in (None, "", {}, [])


def _row(name: str, run: Run, record: EvaluationRecord, accuracies: list[str]) -> list[str]:
    return [
        name,
        code(run.objective),
        count(record.iter),
        with_error(record.nll, record.nll_stderr),
        code(run.bound),
        number(record.number("eval_bpb"), 4),
        number(record.number("eval_ppl"), 3),
        *accuracy_cells(run.objective, record.number("eval_accuracy"), accuracies),
    ]


def _explanation(record: EvaluationRecord, runs: list[Run]) -> str:
    said = [
        "nats/token ± se is the negative log-likelihood per scored token, and the Monte-Carlo standard error of that number."
    ]
    if (spread := record.number("eval_nll_data_stderr")) is not None:
        said.append(f"Over the evaluated documents the standard error of this model's is {number(spread, 4)}.")
    if note := bound_note({run.bound for run in runs}):
        said.append(note)
    return " ".join(said)


def _note(note: str) -> str:
    return f"- {escaped(note[2:])}" if note.startswith("- ") else f"{escaped(note)}\n"
