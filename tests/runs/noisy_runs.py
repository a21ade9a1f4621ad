"""Runs in memory whose noise was drawn by the objective itself, and whose other quantities are those of a sound training."""

from __future__ import annotations

from typing import Any

import numpy as np
from made_runs import make_run

from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import BlockDiffusionObjective, CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.runs import Run
from hf_difflm.runs.checklist.all_checks import check_run
from hf_difflm.runs.checklist.checks import Check

STEPS, BATCH, TOKENS = 200, 8, 32
NOISE = {"noise drawn uniformly", "masking rates as prescribed"}
IMPORTANCE = {
    "importance tells tokens apart",
    "importance goes with difficulty",
    "gradients reach the estimator",
    "importance loss falls",
}
CURRICULUM = {"curriculum weights have mean 1", "curriculum stages begin when they should"}
SCHEDULE = {"noise_schedule": "loglinear", "schedule_exponent": 2.0, "sigma_min": 1e-4, "sigma_max": 20.0}


def drawn(
    steps: int = STEPS, batch: int = BATCH, tokens: int = TOKENS, seed: int = 0, ragged: bool = False, **options: Any
) -> dict[str, np.ndarray]:
    """``noise_level`` and ``masking_rate`` of each step (mean, ``_min``, ``_max``), with the seven digits of a log.

    With ``diffusion_block_size`` of block diffusion, each sequence having a BOS before its ``tokens``.
    """
    given = {"loss_form": "any_order", "noise_sampling": "stratified", **SCHEDULE, **options}
    schedule = NoiseSchedule(
        given["noise_schedule"], given["schedule_exponent"], given["sigma_min"], given["sigma_max"]
    )
    law = {name.removeprefix("count_law_"): value for name, value in options.items() if name.startswith("count_law_")}
    counts = CountLaw(given.get("count_law", "uniform"), **law)
    settings = (given["loss_form"], given["noise_sampling"], schedule)
    size = given.get("diffusion_block_size")
    objective = MaskedDiffusionObjective(4, *settings, count_law=counts)
    blocks = None
    if size is not None:
        blocks = BlockDiffusionObjective(4, size, settings[1], "text", settings[0], schedule, count_law=counts)
    lengths = np.random.default_rng(seed)
    found: dict[str, list[float]] = {}
    for step in range(steps):
        scored_BL = np.ones((batch, tokens), dtype=bool)
        if ragged:
            scored_BL = np.arange(tokens) < lengths.integers(tokens // 2, tokens + 1, (batch, 1))
        key = NoiseKey(seed, step, np.arange(batch), batch)
        if blocks is not None:
            in_blocks = blocks.corrupt(np.pad(scored_BL, ((0, 0), (1, 0))), key)
            values = in_blocks.noise_level_P, in_blocks.masking_rate_P
        else:
            corruption = objective.corrupt(scored_BL, key)
            values = corruption.noise_level_B, corruption.masking_rate_B
        for name, values_B in zip(("noise_level", "masking_rate"), values, strict=True):
            for end, value in (("", values_B.mean()), ("_min", values_B.min()), ("_max", values_B.max())):
                found.setdefault(name + end, []).append(float(f"{value:.7g}"))
        found.setdefault("tokens", []).append(float(scored_BL.sum()))
    columns = {name: np.array(values) for name, values in found.items()}
    columns["tokens_seen"] = np.cumsum(columns.pop("tokens"))
    return columns


def sound_run(
    steps: int = STEPS,
    columns: dict[str, np.ndarray] | None = None,
    noise: dict[str, np.ndarray] | None = None,
    objective: str = "mdlm",
    **config: Any,
) -> Run:
    """A run of ``mdlm`` that a checklist has nothing against, with what is to be wrong in ``columns`` and ``config``."""
    learning_rate = 1e-3 * np.minimum(np.arange(steps) / 20, (steps - np.arange(steps)) / (steps - 20))
    noise = drawn(steps) if noise is None else noise
    settings: dict[str, Any] = {
        "loss_form": "any_order",
        "noise_sampling": "stratified",
        "global_batch_size": BATCH,
        "max_steps": steps,
        "warmup_steps": 20,
        "lr_scheduler_type": "linear",
        "eval_strategy": "steps",
        **SCHEDULE,
        **config,
    }
    quantities = {"lr": learning_rate, **noise, **(columns or {})}
    run = make_run(steps=steps, objective=objective, columns=quantities, **settings)
    run.header.metadata["unigram_entropy"] = 3.0  # its loss falls to 2
    return run


def learnt_importance(steps: int = STEPS, seed: int = 0) -> dict[str, np.ndarray]:
    """What a run of ``atat`` logs of importance and a curriculum in thirds, when all is well."""
    noise = np.random.default_rng(seed).normal(0.0, 0.01, (4, steps))
    done = np.arange(steps) / steps
    return {
        "importance_mean": 0.5 - 0.1 * done + noise[0],
        "importance_std": 0.02 + 0.16 * (1 - np.exp(-5 * done)) + noise[1],
        "importance_min": np.full(steps, 0.02),
        "importance_max": np.full(steps, 0.98),
        "importance_loss": 0.05 + 0.2 * np.exp(-5 * done) + noise[2],
        "importance_difficulty_correlation": 0.6 * (1 - np.exp(-5 * done)) + noise[3],
        "curriculum_stage": 1.0 + (done >= 1 / 3) + (done >= 2 / 3),
        "curriculum_pace": np.minimum(done / (2 / 3), 1.0),
    }


def atat(steps: int = STEPS, columns: dict[str, Any] | None = None, **config: Any) -> Run:
    """A sound run of adaptive masking and a curriculum in thirds."""
    noise = drawn(steps, loss_form="time", noise_schedule="linear")  # times as those of adaptive masking
    settings = {"importance": "full", "masking": "proportional", "importance_loss_weight": 0.1, "curriculum": "thirds"}
    return sound_run(
        steps, {**learnt_importance(steps), **(columns or {})}, noise, objective="atat", **settings | config
    )


def found(run: Run) -> dict[str, Check]:
    return {check.name: check for check in check_run(run)}


def outcomes(run: Run, outcome: str) -> set[str]:
    return {check.name for check in check_run(run) if check.outcome == outcome}
