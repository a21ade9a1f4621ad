"""How many positions of a micro-batch can be masked at once: what the LM head must have memory for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...models.masked_diffusion.noise_schedule import NoiseSchedule
from ...objectives import BlockDiffusionObjective, CountLaw, MaskedDiffusionObjective, NoiseKey
from ...objectives.adaptive.masking import draw
from ...objectives.adaptive.odds_scaling import LOG_R_MAX, mask_probability
from ...objectives.static_shapes import most_hidden, most_hidden_in_blocks
from ...training.noise_combinations import read_block_sizes
from ...training.objective_choice import adaptive_settings, count_law

_DRAWS, _DEVIATIONS = 64, 4.0


def reads_of(training: Mapping[str, Any]) -> int:
    """How many times a training step reads each sequence with masks: twice in complementary pairs."""
    return 2 if training["objective"] in ("mdlm", "bd3lm") and training["noise_sampling"] == "pairs" else 1


def most_labelled(training: Mapping[str, Any], rows: int, length: int, batch: int) -> int:
    """Return how many positions of a micro-batch have a loss at most.

    Args:
        training: objective, loss form, sampling and schedule by name.
        rows, length: of the micro-batch, in sequences and tokens; the first token of each is context.
        batch: sequences of the optimiser batch it is a part of.

    Exact counts by a fixed law, stratified, have a bound, which is returned; of all other noise the mean over draws and four
    standard deviations. Where tokens have schedules of their own, the schedules are taken that hide most of a sequence.
    """
    scored = length - 1
    if training["objective"] == "ar":
        return rows * scored
    if training["objective"] == "atat" and adaptive_settings(training).form != "p0":
        return _most_adaptive(training["noise_sampling"] == "stratified", rows, scored, batch)
    blocks = training["diffusion_block_size"] if training["objective"] == "bd3lm" else None
    law = count_law(training) if training["objective"] in ("mdlm", "bd3lm") else CountLaw()
    stratified = training["loss_form"] == "any_order" and training["noise_sampling"] in ("stratified", "pairs")
    if stratified and law.name != "optimal":
        if blocks is not None and blocks < length:
            # Where blocks grow, those of one token are hidden whole.
            sizes = read_block_sizes(training["diffusion_block_size_schedule"]) or (blocks,)
            most = max(most_hidden_in_blocks(rows, length, size, batch, reads_of(training), law) for size in sizes)
            return min(most, rows * scored)
        return most_hidden(rows, scored, batch, reads_of(training), law)
    schedule = NoiseSchedule(
        training["noise_schedule"], training["schedule_exponent"], training["sigma_min"], training["sigma_max"]
    )
    noise: dict[str, Any] = {"loss_form": training["loss_form"], "schedule": schedule, "count_law": law}
    scored_BL = np.ones((rows, scored), dtype=bool)
    keys = [NoiseKey(0, step, np.arange(rows), max(batch, rows)) for step in range(_DRAWS)]
    if blocks is not None:
        in_blocks = BlockDiffusionObjective(0, blocks, training["noise_sampling"], **noise)
        counts = [in_blocks.corrupt(scored_BL, key).masked_RL.sum() for key in keys]
    else:
        p0 = MaskedDiffusionObjective(0, noise_sampling=training["noise_sampling"], **noise)
        counts = [p0.corrupt(scored_BL, key).masked_BL.sum() for key in keys]
    return min(int(np.mean(counts) + _DEVIATIONS * np.std(counts)), rows * scored)


def _most_adaptive(stratified: bool, rows: int, scored: int, batch: int) -> int:
    scored_BL = np.ones((rows, scored), dtype=bool)
    counts = []
    for step in range(_DRAWS):
        t_B, scores_BL = draw(scored_BL, NoiseKey(0, step, np.arange(rows), max(batch, rows)), stratified)
        counts.append((scores_BL < _most_hidden(t_B)[:, None]).sum())
    return min(int(np.mean(counts) + _DEVIATIONS * np.std(counts)), rows * scored)


def _most_hidden(t_B: np.ndarray) -> np.ndarray:
    """(B,) the largest share of a sequence that is hidden on average at a time, over all r with a geometric mean of 1.

    Some of its tokens have log r = a <= 0 and the others b >= 0: more than two values cannot do more.
    """
    below_A = np.linspace(-LOG_R_MAX, 0, 33)
    p_BA, p_BC = (mask_probability(t_B[:, None], np.exp(log_r)) for log_r in (below_A, -below_A[::-1]))
    above_C = -below_A[::-1]
    share_AC = -below_A[:, None] / np.maximum(above_C - below_A[:, None], 1e-12)  # of the tokens with the larger r
    return (p_BA[:, :, None] * (1 - share_AC) + p_BC[:, None, :] * share_AC).max((1, 2))
