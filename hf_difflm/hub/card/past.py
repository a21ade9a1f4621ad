"""What a model was made from: the weights that its training began with, and those before, as log and configuration say."""

from __future__ import annotations

from typing import Any

from ...runs import Run
from ...runs.journal.tables import count
from ..repo_names import on_the_hub
from .text import code, escaped

_MOST = 8  # generations: what others wrote in a configuration has an end


def ancestors(run: Run | None, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a model was made from, the nearest first, see :func:`~hf_difflm.evaluation.ancestry.ancestry`.

    Args:
        run: its run log.
        config: ``config.json``; one that was converted says so in ``converted_from``.
    """
    parent = run.header.metadata.get("parent") if run is not None else None
    return [*_line(parent), *_line(config.get("converted_from"))][:_MOST]


def base_on_the_hub(chain: list[dict[str, Any]]) -> str | None:
    """The nearest of them that can be found by its name on the Hub."""
    return next((each["source"] for each in chain if on_the_hub(each["source"])), None)


def past(chain: list[dict[str, Any]], license_id: str | None) -> str:
    """Return a list of the ancestors, and what their licences mean for this model's."""
    lines, child = [], "This model"
    for each in chain:
        made = "was converted from" if "kind" in each else "was trained from"
        child, line = code(each["source"]), f"{child} {made} {code(each['source'])}{_details(each)}."
        lines.append(f"- {line}")
    if license_id is None and any(isinstance(each.get("license"), str) for each in chain):
        lines.append("- This card names no licence of its own; that of a model it was made from may bind it, too.")
    return "\n".join(lines)


def _line(first: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while isinstance(first, dict) and isinstance(first.get("source"), str) and first["source"] and len(found) < _MOST:
        found.append(first)
        first = first.get("parent")
    return found


def _details(each: dict[str, Any]) -> str:
    said = [escaped(each["kind"])] if isinstance(each.get("kind"), str) else []
    said += [f"commit {code(each['commit'])}"] if isinstance(each.get("commit"), str) else []
    said += [f"run {code(each['run'])}"] if isinstance(each.get("run"), str) else []
    said += [f"step {count(each['step'])}"] if isinstance(each.get("step"), int) else []
    said += [f"licence {code(each['license'])}"] if isinstance(each.get("license"), str) else []
    return f" ({', '.join(said)})" if said else ""
