"""What an audit found, in words and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from ...runs.journal.strict_json import dumps
from .examination import EntropyTest, Examination
from .kraft import KraftSum

_WHERE = {
    "optimum": "at the optimum of its training loss, sources from Dirichlet(0.05)",
    "random": "at random denoisers",
    "given": "as it is",
}
_TIGHT = 1e-5


def text_of(found: Examination) -> str:
    """The page that is printed; its last line is the verdict."""
    size = found.size
    lines = [
        f"{found.name}: {found.about}",
        f"V = {size.vocabulary} tokens, L = {size.length}: {size.sequences} sequences; noise "
        + ("summed exactly" if found.exact else "from replicates"),
    ]
    for where, sums in found.sums.items():
        lines.append(f"Kraft sum {_WHERE[where]} ({len(sums)}): {_range(sums)}")
    if (test := found.entropy) is not None:
        lines.append(f"entropy test: {_against(test)}")
    if (sampler := found.sampler) is not None:
        lines.append(f"sampler ({sampler.name}): {_law_said(found)}")
        lines.append(_margin_said(found))
    lines += found.notes
    return "\n".join([*lines, found.verdict.sentence])


def json_of(found: Examination, target: str) -> str:
    """The same as JSON."""
    record: dict[str, Any] = {
        "target": target,
        "about": found.about,
        "vocabulary": found.size.vocabulary,
        "length": found.size.length,
        "sequences": found.size.sequences,
        "seed": found.size.seed,
        "exact": found.exact,
        "kraft_sums": {where: [dataclasses.asdict(one) for one in sums] for where, sums in found.sums.items()},
        "entropy_test": None
        if found.entropy is None
        else {**dataclasses.asdict(found.entropy), "excess": found.entropy.excess},
        "sampler": None if found.sampler is None else dataclasses.asdict(found.sampler),
        "notes": list(found.notes),
        "verdict": found.verdict.outcome,
        "sentence": found.verdict.sentence,
    }
    return json.dumps(json.loads(dumps(record)), indent=2)


def _range(sums: list[KraftSum]) -> str:
    if len(sums) == 1:
        return str(sums[0])
    low, high = min(sums, key=lambda one: one.value), max(sums, key=lambda one: one.value)
    return f"{low} to {high}"


def _against(test: EntropyTest) -> str:
    interval = f" ± {test.half_width:.4f}" if test.half_width else ""
    if test.excess + test.half_width < -_TIGHT:
        there = f"source {test.source} has {test.entropy:.4f} and is put at {test.reported:.4f}{interval}"
        return f"down to {-test.excess:.4f} nats below the entropy; {there}"
    if test.most_excess > _TIGHT:
        return f"{max(test.excess, 0):.4f} to {test.most_excess:.4f} nats above the entropy, a looser bound than can be"
    return "reaches the entropy of each source" + (", within intervals" if interval else ", and goes no lower")


def _law_said(found: Examination) -> str:
    assert found.sampler is not None
    if "given" in found.sums:
        return f"writes one of these sequences with probability {found.sampler.most:.6g}"
    return f"normalised, its probabilities sum to {found.sampler.least:.6f} to {found.sampler.most:.6f}"


def _margin_said(found: Examination) -> str:
    assert found.sampler is not None
    if found.sampler.below == 0:
        return f"the number is nowhere below the nll of that sampler ({found.sampler.cases} sequences)"
    return (
        f"the number is below the nll of that sampler at {found.sampler.below} of {found.sampler.cases} sequences, by up to "
        f"{-found.sampler.margin:.2f} nats: it is no bound on what this sampler does"
    )
