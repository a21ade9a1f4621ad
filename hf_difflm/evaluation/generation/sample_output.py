"""How generated texts are written out: for people, as JSON, as JSON lines while they come."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...runs.derived.sample_groups import quality_line
from ...runs.journal.strict_json import plain
from ...runs.journal.tables import number, printable
from .texts import GeneratedText

# What drives a terminal or has no UTF-8: controls, directions of writing, line separators, lone surrogates.
_NOT_AS_IT_IS = re.compile("[\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_RESULTS = frozenset({"prompt", "text", "fills", "ids", "quality"})


def as_record(
    sample: GeneratedText, extra: Mapping[str, Any], quality: Mapping[str, Any] | None, with_ids: bool
) -> dict[str, Any]:
    """Return a text as one JSON object: what its prompt came with, prompt, text, on wish ids and quality.

    A prompt with holes has ``fills``, one text for each. What prompts came with under the names of results is left out:
    it would be taken for one.
    """
    handed_on = {name: value for name, value in extra.items() if name not in _RESULTS}
    record: dict[str, Any] = {**handed_on, "prompt": sample.prompt, "text": sample.text}
    if sample.fills is not None:
        record["fills"] = list(sample.fills)
    if with_ids:
        record["ids"] = sample.ids
    if quality:
        record["quality"] = plain(quality)
    return record


def as_json(records: Sequence[dict[str, Any]], together: Mapping[str, Any] | None) -> str:
    """Return all texts as JSON: a list, or an object with the quality of all together."""
    data: Any = records if together is None else {"samples": records, "overall": plain(together)}
    return _harmless(json.dumps(data, ensure_ascii=False, indent=2, allow_nan=False))


def as_json_line(record: dict[str, Any]) -> str:
    """Return one text as a line of JSON."""
    return _harmless(json.dumps(record, ensure_ascii=False, allow_nan=False))


def as_text(
    sample: GeneratedText, place: int | None, quality: Mapping[str, Any] | None, is_answer: bool = False
) -> str:
    """Return a text for people; ``place`` is its number where there are several. An answer stands without its prompt."""
    lines = [] if place is None else [f"--- sample {place + 1}"]
    lines.append(printable(sample.text.strip() if is_answer else sample.context + sample.text))
    if quality:
        lines.append(f"    [{quality_line(quality)}]")
    return "\n".join(lines)


def together_line(count: int, together: Mapping[str, Any]) -> str:
    """Return the quality of all texts together on one line."""
    mauve = f", MAUVE {number(together['mauve'], 4)}" if "mauve" in together else ""
    return f"--- all {count} samples: {quality_line(together)}{mauve}"


def _harmless(text: str) -> str:
    return _NOT_AS_IT_IS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
