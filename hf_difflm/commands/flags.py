"""Flags from the declarations: each field of the options dataclasses becomes an option of a typer command."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import typer

from ..training.declarations.fields import Field, own_fields
from ..training.declarations.typed_values import alternatives, typed_value
from .spelling import trainer_flags

PANELS = {
    "data": "Data",
    "model": "Model",
    "training": "Objective and training",
    "monitoring": "Monitoring",
    "generation": "Generation",
    "serving": "Server",
    "zero_shot": "Text that the model was not trained on",
    "exact": "Exact likelihoods",
    "protocol": "Protocols of other projects",
    "harness": "Tasks of lm-evaluation-harness",
}
_METAVARS = {dict: "JSON", int: "INT", float: "NUMBER", str: "TEXT", list: "NAME,NAME"}


def with_flags(fields: Iterable[Field]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace ``**flags`` in a command's signature by one option per field.

    The command gets every option in ``flags``: None where it was not given, a bool for a switch, and text otherwise -
    ``load_settings`` and ``typed_flags`` turn the text into values, so that the error sentences are ours.
    """
    options = [_option(field) for field in fields]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            command(**arguments)

        wrapper.__signature__ = signature.replace(parameters=[*keyword, *options])  # type: ignore[attr-defined]
        return wrapper

    return decorate


def given_flags(ctx: typer.Context, flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flags that were given, those of TrainingArguments included, for ``load_settings``."""
    return {name: value for name, value in flags.items() if value is not None} | trainer_flags(ctx)


def typed_flags(fields: Mapping[str, Field], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the given flags, typed and checked against their ``fields``.

    Raises:
        UserError: a value of the wrong type, out of range, or none of the choices.
    """
    return {name: typed_value(fields[name], value) for name, value in flags.items() if value is not None}


def pick_fields(*names: str) -> dict[str, Field]:
    """Return some of our own fields by name."""
    return {name: own_fields()[name] for name in names}


def _option(field: Field) -> inspect.Parameter:
    flag = f"--{field.name.replace('_', '-')}"
    is_switch = field.hint in (bool, bool | None)
    option = typer.Option(
        None,
        *([f"{flag}/--no-{flag[2:]}"] if is_switch else [flag, *field.metadata.get("also", ())]),
        help=_help(field),
        metavar=None if is_switch else _metavar(field),
        rich_help_panel=PANELS[field.group],
        autocompletion=(lambda: [str(one) for one in choices]) if (choices := field.metadata.get("choices")) else None,
    )
    annotation = bool | None if is_switch else str | None
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=annotation)


def _help(field: Field) -> str:
    """Return the field's help with its default, unless that is None or empty."""
    text = field.metadata["help"]
    notes = []
    if field.metadata.get("choices"):
        notes.append(f"one of {', '.join(field.metadata['choices'])}")
    if field.default is not None and field.default not in ({}, []):
        on_off = "on" if field.default else "off"
        words = ",".join(field.default) if isinstance(field.default, list) else field.default
        notes.append(f"default: {on_off if field.hint is bool else words}")
    return f"{text} ({'; '.join(notes)})" if notes else text


def _metavar(field: Field) -> str:
    if field.metadata.get("choices"):
        return "NAME"  # the help names them: as a metavar they would squeeze its column
    kinds = alternatives(field.hint)
    return next(word for kind, word in _METAVARS.items() if kind in kinds)
