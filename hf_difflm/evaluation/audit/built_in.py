"""The subjects that the library brings along, by name: bounds, exact numbers, and what looks like a bound and is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from ...errors import UserError
from ...models.masked_diffusion.noise_schedule import NoiseSchedule
from ...objectives import (
    AdaptiveSettings,
    BlockDiffusionObjective,
    CausalObjective,
    MaskedDiffusionObjective,
    Objective,
)
from ...objectives.adaptive.bound import AdaptiveBound
from ...objectives.adaptive.importance_values import Importance, ImportanceReader
from ...objectives.adaptive.odds_scaling import slowness
from ..likelihood.exact_options import ORDERS, ExactOptions, read_orders
from ..protocols.laws import LAWS
from .counterexamples import (
    DependentTokensObjective,
    ProtocolObjective,
    ReciprocalMaskProbability,
    ReciprocalOneMinusCosine,
    ScoredTokensObjective,
    UncorrectedTokenValueBound,
)
from .masks import time_nodes
from .numbers import ObjectiveNumber
from .orders import ExactOrderNumber
from .reverse_process import sampler_law
from .subjects import LEFT_TO_RIGHT, NODES, Size, Subject, left_to_right_law, objective_subject
from .tabular import TabularDenoisers, TabularRateHead

_REVERSE = "the reverse process of its schedules"


def built_in(name: str, size: Size) -> Subject:
    """The subject of this name.

    Raises:
        UserError: too large to be enumerated, or a ``tokens_per_step`` that the order does not have.
    """
    about, build = BUILT_IN.get(name) or _in_blocks(name)
    return replace(build(size), name=name, about=about)


def is_built_in(name: str) -> bool:
    """Whether there is a subject of this name: one of ``BUILT_IN``, or block diffusion with any size of blocks."""
    return name in BUILT_IN or name.partition(":")[0] == BLOCKS


def _plain(make: Callable[[int], Objective]) -> Callable[[Size], Subject]:
    def build(size: Size) -> Subject:
        return objective_subject(ObjectiveNumber(make(size.vocabulary), size.all_sequences()))

    return build


def _in_blocks(name: str) -> tuple[str, Callable[[Size], Subject]]:
    """Block diffusion, ``bd3lm:SIZE``."""
    size = name.partition(":")[2]
    if not (size.isascii() and size.isdigit() and int(size)):
        raise UserError(f"{name} names no size of diffusion blocks; give {BLOCKS}:SIZE, such as {BLOCKS}:2")
    about = f"block diffusion, blocks of {int(size)} token{'s' * (int(size) > 1)}"
    return about, _plain(lambda v: BlockDiffusionObjective(v, int(size)))


def _dependent(size: Size) -> Subject:
    """Its denoisers learn to predict the first hidden token alone, so only one sampler has learnt what it needs."""
    number = ObjectiveNumber(DependentTokensObjective(size.vocabulary), size.all_sequences())
    return Subject(number, number, LEFT_TO_RIGHT, left_to_right_law)


def _in_order(name: str) -> Callable[[Size], Subject]:
    """An exact order, at the optimum of P0."""

    def build(size: Size) -> Subject:
        written = f"random:{size.seed}" if name == "random" else name
        (order,) = read_orders(ExactOptions(exact_order=written, tokens_per_step=size.tokens_per_step))
        training = ObjectiveNumber(MaskedDiffusionObjective(size.vocabulary), size.all_sequences())
        return Subject(training, ExactOrderNumber(order, size.length, size.vocabulary), order.label)

    return build


def _by_position(size: Size) -> Subject:
    settings = AdaptiveSettings("none", "none", position_bias=1.0)
    bound = AdaptiveBound(size.vocabulary, settings, ImportanceReader(settings))
    all_1L = np.ones((1, size.length), dtype=bool)
    r_L = bound.odds_ratios(np.zeros((1, size.length), dtype=np.int64), all_1L, None, 0.0)[0]

    def law(model: TabularDenoisers) -> np.ndarray:
        slowness_TL = slowness(time_nodes(NODES)[0][:, None], r_L)
        mu_D1ZLV = model.log_probabilities().exp().numpy()
        return sampler_law(mu_D1ZLV / slowness_TL[:, None, :, None], size.vocabulary)

    number = ObjectiveNumber(bound, size.all_sequences(), nodes=NODES)
    return Subject(number, number, _REVERSE, law)


def _by_token(kind: type[AdaptiveBound]) -> Callable[[Size], Subject]:
    def build(size: Size) -> Subject:
        # A table that reads the time needs no formula's help: no tilt.
        settings = AdaptiveSettings("frequency_only", posterior_tilt=False)
        reader = ImportanceReader(settings, None, _frequencies(size.vocabulary))
        r_V = reader.token_value_r(1.0)[: size.vocabulary]

        def law(model: TabularDenoisers) -> np.ndarray:
            slowness_TV = slowness(time_nodes(NODES)[0][:, None], r_V)
            mu_DTZLV = model.log_probabilities().exp().numpy()
            return sampler_law(mu_DTZLV / slowness_TV[:, None, None], size.vocabulary)

        bound = kind(size.vocabulary, settings, reader)
        number = ObjectiveNumber(bound, size.all_sequences(), nodes=NODES)
        return Subject(number, number, _REVERSE, law, reads_time=True)

    return build


class _GivenSchedules(AdaptiveBound):
    """P3 whose schedules are a table of the whole text, as an estimator that reads it may have them."""

    r_SL: np.ndarray
    """(V^L, L) odds ratios."""

    def odds_ratios(
        self, ids_BL: np.ndarray, scored_BL: np.ndarray, importance: Importance | None, progress: float
    ) -> np.ndarray:
        places_L = self.mask_token_id ** np.arange(ids_BL.shape[1])[::-1]
        return self.r_SL[ids_BL @ places_L]


def _by_context(size: Size) -> Subject:
    states = NODES * size.denoisers * size.states * size.length
    rate_head = TabularRateHead(torch.zeros(states))
    reader = ImportanceReader(AdaptiveSettings("frequency_only"), None, _frequencies(size.vocabulary))
    bound = _GivenSchedules(size.vocabulary, AdaptiveSettings("learned_only"), reader, rate_head)
    generator = np.random.default_rng([size.seed, 2])
    bound.r_SL = np.exp(generator.uniform(-1.3, 1.3, (size.sequences, size.length)))

    def law(model: TabularDenoisers) -> np.ndarray:
        mu_DTZLV = model.log_probabilities().exp().numpy()
        s_hat_DTZL = rate_head.scores_X.detach().exp().numpy().reshape(mu_DTZLV.shape[:-1])
        return sampler_law(mu_DTZLV / s_hat_DTZL[..., None], size.vocabulary)

    number = ObjectiveNumber(bound, size.all_sequences(), nodes=NODES)
    return Subject(number, number, _REVERSE, law, reads_time=True, rate_head=rate_head)


def _frequencies(vocabulary: int) -> np.ndarray:
    """(V + 1,) token counts of a corpus in which each token is 0.4 times as frequent as the one before; no mask."""
    return np.append(np.ceil(1000 * 0.4 ** np.arange(vocabulary)), 0).astype(np.int64)


BLOCKS = BlockDiffusionObjective.name
_P0 = MaskedDiffusionObjective
_ORDERS = {
    "left_to_right": "exact nll, from left to right",
    "confidence": "exact nll, the largest probability first",
    "margin": "exact nll, the largest margin of the first two tokens first",
    "entropy": "exact nll, the lowest entropy first",
    "random": "exact nll, in one permutation from --seed",
}
BUILT_IN: dict[str, tuple[str, Callable[[Size], Subject]]] = {
    "p0": ("uniform masking, exact counts (loss_form any_order)", _plain(_P0)),
    "p0_time": ("uniform masking, masks by time (loss_form time)", _plain(lambda v: _P0(v, "time"))),
    "p0_cosine": (
        "the same under the cosine schedule",
        _plain(lambda v: _P0(v, "time", schedule=NoiseSchedule("cosine"))),
    ),
    "pairs": ("uniform masking in complementary pairs", _plain(lambda v: _P0(v, noise_sampling="pairs"))),
    "importance": ("uniform masking, counts drawn by importance", _plain(lambda v: _P0(v).for_evaluation())),
    "p1": ("schedules by position", _by_position),
    "p2": ("schedules by token value, with their correction", _by_token(AdaptiveBound)),
    "p3": ("schedules that read the text, with a rate head", _by_context),
    **{name: _in_blocks(name) for name in (f"{BLOCKS}:1", f"{BLOCKS}:2", f"{BLOCKS}:4")},
    **{name: (_ORDERS[name], _in_order(name)) for name in ORDERS},
    "ar": ("exact nll of a causal model", _plain(lambda v: CausalObjective())),
    "sum_over_masked": (
        "sum of cross-entropies / masked tokens of the batch",
        _plain(lambda v: _P0(v, loss_weight="flat")),
    ),
    "reciprocal_cosine": (
        "1 / p_mask under 1 - alpha = sin(pi t / 2)",
        _plain(lambda v: _P0(v, "time", schedule=ReciprocalMaskProbability("cosine"))),
    ),
    "sum_over_scored": ("sum of cross-entropies / scored tokens, no 1/k", _plain(ScoredTokensObjective)),
    "dependent_tokens": (
        "one joint probability of the hidden tokens for a product of independent ones",
        _dependent,
    ),
    "protocol_llada": (
        "the counts of eval --protocol llada, in batches of 16",
        _plain(lambda v: ProtocolObjective(v, LAWS["llada"])),
    ),
    "protocol_dream": (
        "the masks of eval --protocol dream, without its EOS",
        _plain(lambda v: ProtocolObjective(v, LAWS["dream"])),
    ),
    "p2_uncorrected": ("schedules by token value, cross-entropy alone", _by_token(UncorrectedTokenValueBound)),
    "reciprocal_one_minus_cosine": (
        "1 / p_mask under 1 - alpha = 1 - cos(pi t / 2)",
        _plain(lambda v: _P0(v, "time", schedule=ReciprocalOneMinusCosine())),
    ),
}
"""What each is, and how it is made."""
