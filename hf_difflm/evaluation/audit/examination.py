"""One audit: the Kraft sums at optima and at random denoisers, the entropy test, the law of the sampler, the verdict."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .kraft import KraftSum, Verdict, deviations, judge, kraft_sums
from .optimum import train
from .subjects import Size, Subject, random_tables
from .tabular import TabularDenoisers

CONCENTRATION = 0.05
"""Of the Dirichlet law of the sources: most of the probability on a few sequences, so tokens depend on each other."""
LEAST_PROBABILITY = 1e-9
_ROUNDING = 1e-4  # nats: objectives compute in float32
_STANDARD_ERRORS = 4  # below the sampler's nll, to be counted as below it
UNTRAINED = 1e-3
"""Nats: more than this left to gain, the optimum was not reached."""


@dataclass(frozen=True)
class SamplerTest:
    """The sampler of the bound, enumerated.

    Args:
        name: which.
        least, most: sums of its probabilities over all sequences, of all denoisers.
        margin: the smallest nats by which a number is above the sampler's own nll, over all sequences and denoisers:
            below 0, the number is no bound on *this* sampler's nll sequence by sequence.
        below: for how many of the sequences it is below.
        cases: sequences times denoisers.
    """

    name: str
    least: float
    most: float
    margin: float
    below: int
    cases: int


@dataclass(frozen=True)
class EntropyTest:
    """The number in the mean over the source that its denoiser was trained on, against the entropy of the source.

    Args:
        source: where it is lowest above the entropy, or furthest below, its interval taken into account.
        entropy: of that source, in nats.
        reported: the number there.
        most_excess: nats that it is above the entropy at least, for the source where that is most.
        half_width: of the interval of ``reported``, those of all sources holding together; 0 where it is exact.
    """

    source: int
    entropy: float
    reported: float
    most_excess: float
    half_width: float = 0.0

    @property
    def excess(self) -> float:
        """Nats above the entropy: below 0, the number goes below it."""
        return self.reported - self.entropy


@dataclass(frozen=True)
class Examination:
    """What an audit found.

    Args:
        name, about: the number.
        size: of the audit.
        exact: whether noise was summed exactly.
        sums: of ``optimum`` (of the training loss), ``random`` (denoisers) or ``given`` (what was given to audit).
        entropy: None where nothing was trained.
        sampler: None where there is none.
        verdict: the last line.
        notes: what else is to be known.
    """

    name: str
    about: str
    size: Size
    exact: bool
    sums: dict[str, list[KraftSum]]
    entropy: EntropyTest | None
    sampler: SamplerTest | None
    verdict: Verdict
    notes: tuple[str, ...] = ()


def sources(size: Size) -> np.ndarray:
    """(D, S) distributions from Dirichlet(0.05), no sequence quite impossible."""
    drawn_DS = np.random.default_rng([size.seed, 0]).dirichlet([CONCENTRATION] * size.sequences, size.denoisers)
    return (drawn_DS + LEAST_PROBABILITY) / (1 + size.sequences * LEAST_PROBABILITY)


def examine(subject: Subject, size: Size) -> Examination:
    """Audit a subject; the same seed gives the same numbers."""
    sources_DS = sources(size)
    model = random_tables(size, subject)
    random_RDS = subject.reported.values(model)
    random_law_DS = _law(subject, model, random_RDS)
    gain = train(subject.training, model, sources_DS, subject.rate_head)
    trained_RDS = subject.reported.values(model)
    law_DS = np.concatenate([random_law_DS, _law(subject, model, trained_RDS)])
    sampler = sampler_test(subject.sampler, law_DS, np.concatenate([random_RDS, trained_RDS], axis=1))
    count = 2 * size.denoisers
    sums = {"optimum": kraft_sums(trained_RDS, count), "random": kraft_sums(random_RDS, count)}
    untold = None
    if np.isnan(trained_RDS).any() or np.isnan(random_RDS).any():
        untold = "some of the numbers are NaN"
    elif gain > UNTRAINED:
        untold = f"the training loss was not minimised, {gain:.2g} nats are left to gain"
    return Examination(
        subject.name,
        subject.about,
        size,
        subject.reported.exact,
        sums,
        _entropy_test(trained_RDS, sources_DS),
        sampler,
        judge([*sums["optimum"], *sums["random"]], size.sequences, untold),
        subject.notes,
    )


def _law(subject: Subject, model: TabularDenoisers, values_RDS: np.ndarray) -> np.ndarray:
    return np.exp(-values_RDS.mean(0)) if subject.law is None else subject.law(model)


def sampler_test(name: str, law_DS: np.ndarray, values_RDS: np.ndarray) -> SamplerTest:
    """The law of a sampler, and the number beside it; one replicate: exact."""
    sums_D = law_DS.sum(-1)
    with np.errstate(divide="ignore"):
        above_DS = values_RDS.mean(0) + np.log(law_DS)
    noise_DS = np.zeros(above_DS.shape)
    if len(values_RDS) > 1:
        noise_DS = _STANDARD_ERRORS * values_RDS.std(0, ddof=1) / len(values_RDS) ** 0.5
    below = int((above_DS + noise_DS < -_ROUNDING).sum())
    return SamplerTest(name, float(sums_D.min()), float(sums_D.max()), float(above_DS.min()), below, above_DS.size)


def _entropy_test(values_RDS: np.ndarray, sources_DS: np.ndarray) -> EntropyTest:
    entropy_D = -(sources_DS * np.log(sources_DS)).sum(-1)
    means_RD = (values_RDS * sources_DS).sum(-1)
    reported_D, half_D = means_RD.mean(0), np.zeros(len(entropy_D))
    if len(means_RD) > 1:
        half_D = deviations(len(entropy_D)) * means_RD.std(0, ddof=1) / len(means_RD) ** 0.5
    source = int((reported_D + half_D - entropy_D).argmin())
    most = float((reported_D - half_D - entropy_D).max())
    return EntropyTest(source, float(entropy_D[source]), float(reported_D[source]), most, float(half_D[source]))
