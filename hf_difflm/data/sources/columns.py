"""The one text column of a data set."""

from __future__ import annotations

from datasets import Dataset, Value

from hf_difflm.errors import UserError, did_you_mean


def text_only(dataset: Dataset, column: str, where: str) -> Dataset:
    """Return ``dataset`` with the text column alone, named ``text``; ``where`` is for messages.

    Raises:
        UserError: there is no such column, or it does not hold text.
    """
    if column not in dataset.column_names:
        raise missing_column(column, dataset.column_names, where)
    kind = getattr(dataset.features[column], "dtype", type(dataset.features[column]).__name__)
    if kind not in ("string", "large_string", "null"):
        raise UserError(f"column {column!r} of {where} holds {kind}, not text: set text_column to a column of text")
    dataset = dataset.select_columns(column)
    if column != "text":
        dataset = dataset.rename_column(column, "text")
    # One type for all sources, so that parts of different kinds can be joined.
    return dataset if kind == "string" else dataset.cast_column("text", Value("string"))


def missing_column(column: str, known: list[str], where: str) -> UserError:
    """Return the error that names the columns there are, and the nearest."""
    names = ", ".join(known) or "(none)"
    if "messages" in known or {"prompt", "completion"} <= set(known):
        hint = "; conversations are trained on with --sft"
    else:
        hint = did_you_mean(column, known) or "; set text_column"
    return UserError(f"{where} has no column {column!r}, its columns are {names}{hint}")
