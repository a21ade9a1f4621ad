"""Every mask that an objective of this library can draw, with its probability, as numbers that make it draw that mask."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...models.masked_diffusion.diffusion_blocks import number_from
from ...objectives import BlockDiffusionObjective, MaskedDiffusionObjective, NoiseKey, Objective
from ...objectives.adaptive.bound import AdaptiveBound
from ...objectives.adaptive.odds_scaling import mask_probability
from ...objectives.noise import ChosenNoise
from .tabular import all_sequences

TIME_NODES = 16
"""Of the quadrature over t. For odds ratios r in [1/4, 4] its error falls as 3^-2T: nothing is left of it."""


@dataclass
class Masks:
    """All cases of the noise of L scored tokens.

    Args:
        u_C: (C,) the number of the sequence; (C, n) those of its n blocks.
        masked_CL: (C, L) bool, what is hidden; with complementary pairs in the first reading.
        chance_SC: (S, C) or (1, C) probability of each case for each sequence; sums to 1 over C, or to what is left
            where masks that hide nothing, and cost nothing, are left out.
    """

    u_C: np.ndarray
    masked_CL: np.ndarray
    chance_SC: np.ndarray

    def key(self, sequences: int) -> NoiseKey:
        """The key under which row s·C + c of a batch of S·C rows draws case c."""
        u_B, masked_BL = np.concatenate([self.u_C] * sequences), np.tile(self.masked_CL, (sequences, 1))
        # A number of 0 hides its token, a number of 1 does not; and counts are drawn as of a large set.
        return ChosenNoise(0, 0, np.arange(len(u_B)), 2**20, u_B=u_B, scores_BN=1.0 - masked_BL)


def masks_of(objective: Objective, sequences_SL: np.ndarray, nodes: int = TIME_NODES, context: int = 0) -> Masks | None:
    """The masks of an objective, or None where it is of no kind whose noise is known.

    Args:
        objective: what draws them.
        sequences_SL: (S, L) all that is asked about; every token is scored.
        nodes: T, of the Gauss-Legendre quadrature over t in [0, 1].
        context: tokens before each sequence, which are not scored; blocks are counted from them.
    """
    if isinstance(objective, BlockDiffusionObjective):
        if objective.loss_form != "any_order" or len(objective.size_schedule) > 1:
            return None
        return _in_blocks(objective, block_numbers(objective, sequences_SL.shape[1], context))
    if not objective.stochastic:
        return Masks(np.zeros(1), np.zeros((1, sequences_SL.shape[1]), dtype=bool), np.ones((1, 1)))
    if isinstance(objective, MaskedDiffusionObjective):
        if objective.loss_form == "any_order":
            return _counted(objective, sequences_SL.shape[1])
        return _at_times(
            lambda t_B1: objective.schedule.mask_probability(torch.from_numpy(t_B1)).numpy(), sequences_SL, nodes
        )
    if isinstance(objective, AdaptiveBound) and objective.reader.estimator is None:
        return _given_one(_odds_ratios(objective, sequences_SL), sequences_SL, nodes)
    return None


def time_nodes(nodes: int = TIME_NODES) -> tuple[np.ndarray, np.ndarray]:
    """(T,) nodes and weights of the Gauss-Legendre quadrature over [0, 1]."""
    node_T, weight_T = np.polynomial.legendre.leggauss(nodes)
    return (node_T + 1) / 2, weight_T / 2


def block_numbers(objective: BlockDiffusionObjective, length: int, context: int = 0) -> np.ndarray:
    """(L,) the diffusion block that each scored token is in, after some tokens of context."""
    starts = context if objective.diffusion_block_start == "answer" else 0
    return number_from(np.arange(context, context + length), starts, objective.diffusion_block_size)


def _in_blocks(objective: BlockDiffusionObjective, number_L: np.ndarray) -> Masks:
    """Every subset but the empty one of every block with every one of the others: k by its law, subsets of k alike."""
    blocks = [np.flatnonzero(number_L == number) for number in np.unique(number_L)]
    each = [_counted(objective, len(block)) for block in blocks]
    cases_CB = np.array(list(itertools.product(*(range(len(own.u_C)) for own in each))))
    masked_CL = np.zeros((len(cases_CB), len(number_L)), dtype=bool)
    u_CN, chance_C = np.zeros((len(cases_CB), int(number_L.max()) + 1)), np.ones(len(cases_CB))
    for block, own, case_C in zip(blocks, each, cases_CB.T, strict=True):
        masked_CL[:, block] = own.masked_CL[case_C]
        u_CN[:, number_L[block[0]]] = own.u_C[case_C]
        chance_C *= own.chance_SC[0, case_C]
    return Masks(u_CN, masked_CL, chance_C[None])


def _counted(objective: MaskedDiffusionObjective | BlockDiffusionObjective, length: int) -> Masks:
    """Every subset but the empty one: k by its law, subsets of k alike."""
    masked_CL = all_sequences(length, 2)[1:].astype(bool)
    k_C = masked_CL.sum(-1)
    law_L = objective.count_law.probabilities(length)
    ends_L = np.cumsum(law_L)
    u_C = (ends_L - law_L / 2)[k_C - 1]
    chance_C = law_L[k_C - 1] / np.array([math.comb(length, k) for k in k_C.tolist()])
    return Masks(u_C, masked_CL, chance_C[None])


def _at_times(hidden_at: Callable[[np.ndarray], np.ndarray], sequences_SL: np.ndarray, nodes: int) -> Masks:
    """Every subset but the empty one at every node of the quadrature; ``hidden_at``: (.., 1) times to p (.., 1 or L)."""
    masked_CL, t_C, weight_C = _subsets_at_nodes(sequences_SL.shape[1], nodes)
    p_C1 = hidden_at(t_C[:, None])
    chance_C = weight_C * np.where(masked_CL, p_C1, 1 - p_C1).prod(-1)
    return Masks(1 - t_C, masked_CL, chance_C[None])


def _given_one(r_SL: np.ndarray, sequences_SL: np.ndarray, nodes: int) -> Masks:
    """The same where each token has its own schedule; drawn given that something is hidden, so that much likelier."""
    masked_CL, t_C, weight_C = _subsets_at_nodes(sequences_SL.shape[1], nodes)
    p_SCL = mask_probability(t_C[:, None], r_SL[:, None])
    some_SC = 1 - (1 - p_SCL).prod(-1)
    chance_SC = weight_C * np.where(masked_CL, p_SCL, 1 - p_SCL).prod(-1) / some_SC
    return Masks(1 - t_C, masked_CL, chance_SC)


def _subsets_at_nodes(length: int, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(C, L) subsets, (C,) times, (C,) weights; nodes outside, subsets inside."""
    masked_ML = all_sequences(length, 2)[1:].astype(bool)
    t_T, weight_T = time_nodes(nodes)
    return np.tile(masked_ML, (nodes, 1)), np.repeat(t_T, len(masked_ML)), np.repeat(weight_T, len(masked_ML))


def _odds_ratios(objective: AdaptiveBound, sequences_SL: np.ndarray) -> np.ndarray:
    ids = torch.from_numpy(sequences_SL)
    batch: dict[str, Any] = {"input_ids": ids, "labels": ids}
    importance = objective.reader(None, batch, "cpu")
    scored_SL = np.ones(sequences_SL.shape, dtype=bool)
    return objective.odds_ratios(sequences_SL, scored_SL, importance, objective.progress)
