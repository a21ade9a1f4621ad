"""``--help``: every flag's whole name at any width, grouped, the common ones first; ``--help-all`` for the rest."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from ..training.declarations.fields import trainer_fields

COMMON = frozenset(
    {
        *("dataset", "eval_dataset", "tokenizer", "block_size", "sft", "backbone", "hidden_size", "num_hidden_layers"),
        *("num_attention_heads", "init_from", "objective", "max_steps", "num_train_epochs", "global_batch_size"),
        *("per_device_train_batch_size", "learning_rate", "warmup_steps", "eval_steps", "save_steps", "lora_r", "bf16"),
        *("use_cpu", "seed", "report_to"),
    }
)
"""What ``--help`` of a command that trains shows; the others have few flags, and show them all."""

_TITLES = ("Arguments", "Options")
_ALL = "hf_difflm.help_all"


def write_options(ctx: Any, formatter: Any, params: list[Any], *, only: frozenset[str] | None) -> None:
    """Write arguments, options and groups of options.

    Args:
        ctx, formatter: of click, or of typer's copy of it.
        params: of the command, in the order of the help.
        only: names of the grouped options to show; None: all.
    """
    whole = ctx.meta.get(_ALL, False)
    groups: dict[str, list[tuple[str, str]]] = {title: [] for title in _TITLES}
    left_out = 0
    for param in params:
        record = param.get_help_record(ctx)
        if record is None:
            continue
        is_argument = param.param_type_name == "argument"
        title = getattr(param, "rich_help_panel", None) or _TITLES[0 if is_argument else 1]
        if only is not None and not whole and title not in _TITLES and param.name not in only:
            left_out += 1
            continue
        groups.setdefault(title, []).append(record)
    for title, records in groups.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records, col_max=34)
    if left_out:
        formatter.write_paragraph()
        formatter.write_text(f"{left_out} more flags, and those of transformers' TrainingArguments: --help-all")


def write_commands(ctx: Any, formatter: Any, commands: Mapping[str, Any]) -> None:
    """Write the commands of a group, each with the first sentence of its help."""
    rows = [(name, " ".join((one.help or "").split("\n\n")[0].split())) for name, one in commands.items()]
    with formatter.section("Commands"):
        formatter.write_dl(rows)


def _print_all(ctx: typer.Context, wanted: bool) -> None:
    if not wanted:
        return
    ctx.meta[_ALL] = True
    formatter: Any = ctx.make_formatter()
    ctx.command.format_help(ctx, formatter)
    rows = []
    for field in trainer_fields().values():
        default = "" if field.default in (None, dataclasses.MISSING, "", ()) else field.default
        default = str(getattr(default, "value", default))
        what = " ".join(str(field.metadata.get("help", "")).split()).split(". ")[0].rstrip(".")
        rows.append((f"--{field.name.replace('_', '-')}", f"{what} (default: {default})" if default else what))
    with formatter.section("Flags of transformers' TrainingArguments"):
        formatter.write_dl(rows, col_max=34)
    typer.echo(formatter.getvalue().rstrip("\n"))
    raise typer.Exit


HelpAll = Annotated[
    bool,
    typer.Option(
        "--help-all",
        help="Show all flags, those of TrainingArguments too, and exit.",
        is_eager=True,
        callback=_print_all,
    ),
]
