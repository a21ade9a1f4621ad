"""The samples of runs sorted by what they have in common: one prompt and mode, over the steps and side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..journal.run import Run
from ..journal.schema import SampleRecord
from ..journal.tables import count, number

_WHITE = {" ": "space", "\n": "line break", "\t": "tab"}


@dataclass
class SampleGroup:
    """What was written after one prompt in one mode.

    Attributes:
        prompt: the prompt; "" for none.
        mode: ``greedy``, ``sampled`` or a name of your own; "" where the log does not say.
        place: 0 for the first text after this prompt at a step, 1 for the second, ...
        by_step: step to the place of the run to its sample.
    """

    prompt: str
    mode: str
    place: int
    by_step: dict[int, dict[int, SampleRecord]] = field(default_factory=dict)


def sample_groups(runs: Sequence[Run], prompt: str | None = None) -> list[SampleGroup]:
    """Return the groups in the order in which they first appear; those of one prompt alone, where one is given.

    Of one prompt the greedy texts come last: early in a training they are blank.
    """
    found: dict[tuple[str, str, int], SampleGroup] = {}
    for run_place, run in enumerate(runs):
        times: dict[tuple[int, str, str], int] = {}
        for sample in run.samples:
            if prompt is not None and sample.prompt != prompt:
                continue
            mode = mode_of(sample)
            # A prompt may be asked several times at a step: the first answers belong together, and so on.
            place = times.get((sample.iter, sample.prompt, mode), 0)
            times[sample.iter, sample.prompt, mode] = place + 1
            key = (sample.prompt, mode, place)
            group = found.setdefault(key, SampleGroup(*key))
            group.by_step.setdefault(sample.iter, {})[run_place] = sample
    order = {prompt: place for place, prompt in enumerate(dict.fromkeys(key[0] for key in found))}
    return sorted(found.values(), key=lambda group: (order[group.prompt], group.mode == "greedy"))


def mode_of(sample: SampleRecord) -> str:
    """Return how a text was drawn, "" where its record does not say."""
    mode = sample.extra.get("mode")
    return mode if isinstance(mode, str) else ""


def blank_said(text: str) -> str | None:
    """Return what a text of white space alone consists of, ``(95 spaces)``; None where there is anything to read."""
    if not text or text.strip():
        return None
    counted = Counter(_WHITE.get(letter, "other blank") for letter in text)
    return "(" + ", ".join(f"{count(n)} {name}" + ("s" if n > 1 else "") for name, n in counted.items()) + ")"


def quality_line(numbers: Mapping[str, Any]) -> str:
    """Return the quality of a text, as the ``extra`` of its record has it, on one line; "" where there is none.

    A perplexity under a reference model is told with the entropy of the same tokens or not at all: text that repeats
    itself has a low one (arXiv 2409.02908).
    """
    parts = []
    if (length := _number(numbers, "length")) is not None:
        parts.append(f"{count(length)} tokens")
    if (entropy := _number(numbers, "unigram_entropy")) is not None:
        parts.append(f"entropy {number(entropy, 2)} nats")
    distinct = [_number(numbers, f"distinct_{n}") for n in (1, 2, 3)]
    if any(value is not None for value in distinct):
        parts.append(f"distinct-1/2/3 {' / '.join(number(value, 2) for value in distinct)}")
    if (repeated := _number(numbers, "repeated_4")) is not None:
        parts.append(f"repeated 4-grams {number(100 * repeated, 0)} %")
    if (run := _number(numbers, "longest_run")) is not None:
        parts.append(f"longest run {count(run)}")
    if (share := _number(numbers, "top_share")) is not None:
        parts.append(f"top token {number(100 * share, 0)} %")
    perplexity, entropy = _number(numbers, "reference_perplexity"), _number(numbers, "reference_entropy")
    if perplexity is not None and entropy is not None:
        parts.append(f"reference perplexity {number(perplexity, 2)} at entropy {number(entropy, 2)} nats")
    return ", ".join(parts)


def _number(numbers: Mapping[str, Any], name: str) -> float | None:
    value: Any = numbers.get(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None
