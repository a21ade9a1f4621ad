"""Several seeds of one configuration: which runs they are, and their mean with its standard error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..journal.run import Run
from ..journal.strict_json import dumps, plain
from .fairness import SEED_KEYS, settings_of

_SEED_ENDING = re.compile(r"(?:(?:^|[-_. ])s(?:eed)?[-_. =(]*\d*|[-_. =(]+)$")


@dataclass(frozen=True)
class SeedGroup:
    """Runs that differ in their seed alone; a run without such siblings is a group of one.

    Args:
        label: name of the configuration.
        places: of its runs in the list that was grouped.
        runs: the same order.
    """

    label: str
    places: tuple[int, ...]
    runs: tuple[Run, ...]

    @property
    def seeds(self) -> tuple[object, ...]:
        """The seed of each run."""
        return tuple(seed_of(run) for run in self.runs)


def seed_of(run: Run) -> object:
    """Return the seed of a run, None where its log does not say."""
    return run.config.get("seed")


def seed_groups(runs: Sequence[Run], names: Sequence[str]) -> list[SeedGroup]:
    """Return the runs grouped by configuration, groups and runs in the order given.

    Runs belong together where objective, settings, data and size are equal and the seeds are all known and different:
    the same seed twice is no second sample, and a log without settings says nothing about what it shares.

    Args:
        runs: any number.
        names: a distinct name for each; a group of one keeps it.
    """
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        found.setdefault(_configuration(run) if seed_of(run) is not None else f"#{place}", []).append(place)
    groups = []
    for places in found.values():
        seeds = [seed_of(runs[place]) for place in places]
        alone = len(set(map(str, seeds))) < len(seeds)
        for members in [[place] for place in places] if alone else [places]:
            label = names[members[0]] if len(members) == 1 else _shared_name([runs[place] for place in members])
            groups.append(SeedGroup(label, tuple(members), tuple(runs[place] for place in members)))
    groups.sort(key=lambda group: group.places[0])
    return groups


def mean_and_error(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """Return the mean and its standard error (sample deviation / sqrt(n)); None where unknown, the error below n = 2."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return None, None
    mean = math.fsum(known) / len(known)
    if len(known) < 2:
        return mean, None
    variance = math.fsum((value - mean) ** 2 for value in known) / (len(known) - 1)
    return mean, math.sqrt(variance / len(known))


def _configuration(run: Run) -> str:
    settings = {key: value for key, value in settings_of(run).items() if key not in SEED_KEYS}
    return dumps(plain([run.objective, run.header.model.get("type"), settings]), sort_keys=True)


def _shared_name(runs: Sequence[Run]) -> str:
    """What the names of the seeds have in common, such as ``demo-mdlm`` of ``demo-mdlm-seed1`` and ``-seed2``."""
    first, *others = [run.name for run in runs]
    length = 0
    while length < len(first) and all(name[length : length + 1] == first[length] for name in others):
        length += 1
    shared = first[:length]
    if length < len(first) or any(len(name) > length for name in others):
        shared = _SEED_ENDING.sub("", shared)
    return shared or runs[0].objective or first
