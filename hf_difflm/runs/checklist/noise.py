"""Is the diffusion at work? Whether the noise of a run is drawn as its objective prescribes."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from ..journal.run import Run
from .checks import FEW, SURE, Check, failed, judged, known_rows, passed, setting, unknown
from .noise_law import SCHEDULES, NoiseLaw, ks_p_value

_DRAWN = "noise drawn uniformly"
_RATES = "masking rates as prescribed"
_CHANCE = 2e-7
_NUMBERS = {
    "exponent": "schedule_exponent",
    "sigma_min": "sigma_min",
    "sigma_max": "sigma_max",
    "count_exponent": "count_law_exponent",
    "centre": "count_law_centre",
    "width": "count_law_width",
    "uniform_share": "count_law_uniform_share",
}
"""What the log calls the numbers of a law."""
_STILL = 1e-3  # of masking rates that are meant to change
_LEAST_SPAN = 0.5
_MOST_SEQUENCES = 2**17  # of an optimiser batch; a law is computed sequence by sequence
_ROUNDING = 1e-6
# Schedules of single tokens stay within a factor 4 of the odds, so the mean rate within these; of r = 1/4 and r = 4.
_ADAPTIVE_MEANS = (0.283, 0.717)
_NO_DIFFUSION = "an autoregressive model masks nothing"
_SAME_NOISE = (
    "noise must be drawn anew for every sequence and step: see loss_form and noise_sampling, and that nothing sets them"
)
_OTHER_MASKS = "loss_form {} is not what masked these tokens: look for settings or code that changes the masks"


def noise_checks(run: Run) -> list[Check]:
    """Whether counts or times are uniform, and whether masking rates have the mean and the spread they should have."""
    if run.objective == "ar":
        return [unknown(_DRAWN, _NO_DIFFUSION), unknown(_RATES, _NO_DIFFUSION)]
    rates = known_rows(run, "masking_rate")[:, 1]
    if not len(rates):
        return [unknown(name, "the log has no masking_rate") for name in (_DRAWN, _RATES)]
    if len(rates) < FEW:
        said = f"too early to tell: {len(rates)} steps logged, {FEW} are needed"
        return [unknown(_DRAWN, said), unknown(_RATES, said)]
    if run.objective == "bd3lm" and run.config.get("diffusion_block_size") == 1:
        said = "diffusion blocks are one token, which is always hidden"
        return [passed(_DRAWN, said), passed(_RATES, said)]
    law = law_of(run)
    if law is None:
        why = "the log does not say how the noise was to be drawn"
        if run.config.get("count_law") == "optimal":
            why = "count_law optimal prescribes what is measured"
        return [_changing(run), unknown(_RATES, why)]
    if run.objective == "bd3lm":
        return [_changing(run), _rates_of_blocks(run, law, rates)]
    adaptive = train_form(run) in ("p1", "p2", "p3")
    return [_uniform(run, law), _adaptive_rates(rates) if adaptive else _prescribed_rates(run, law, rates)]


def train_form(run: Run) -> str:
    """``p0`` to ``p3``: the bound that training minimises, by the header or else by the settings of adaptive masking."""
    places: tuple[Any, ...] = (run.header.extra, run.header.metadata, run.config)
    said = next((place["train_objective"] for place in places if place.get("train_objective")), None)
    if isinstance(said, str):
        return said.split("+")[0]
    if run.objective != "atat":
        return "p0"
    importance, masking = run.config.get("importance", "full"), run.config.get("masking", "proportional")
    if importance == "none" or masking in ("time_only", "none"):
        return "p1" if setting(run, "position_bias") else "p0"
    return "p2" if importance == "frequency_only" else "p3"


def law_of(run: Run) -> NoiseLaw | None:
    """How the noise of the run was to be drawn; None where its log does not say."""
    config, sequences = run.config, batch_size(run)
    if sequences is None or sequences > _MOST_SEQUENCES or config.get("loss_form") not in ("any_order", "time"):
        return None
    schedule = config.get("noise_schedule", "loglinear")
    if schedule not in SCHEDULES:
        return None
    adaptive = train_form(run) in ("p1", "p2", "p3")
    counts = config.get("count_law", "uniform") if run.objective in ("mdlm", "bd3lm") else "uniform"
    if counts not in ("uniform", "importance", "bell"):
        return None
    numbers = {name: value for name, key in _NUMBERS.items() if (value := setting(run, key)) is not None and value > 0}
    return NoiseLaw(
        form="time" if adaptive else config["loss_form"],
        stratified=config.get("noise_sampling", "stratified") != "iid",
        pairs=config.get("noise_sampling") == "pairs" and not adaptive,
        sequences=sequences,
        tokens=tokens_of_a_sequence(run, sequences)[0],
        schedule="linear" if adaptive else schedule,
        counts=counts,
        **numbers,
    )


def batch_size(run: Run) -> int | None:
    """Sequences in an optimiser batch, where the log says so."""
    given = setting(run, "global_batch_size")
    if given is not None:
        return int(given) if given >= 1 else None
    micro = setting(run, "per_device_train_batch_size")
    world = run.header.metadata.get("world_size", 1)
    if micro is None or not isinstance(world, int):
        return None
    return int(micro * (setting(run, "gradient_accumulation_steps") or 1) * world) or None


def tokens_of_a_sequence(run: Run, sequences: int) -> tuple[int | None, float | None]:
    """Scored tokens of a sequence: exactly, where they are always as many, and on average; None where unknown."""
    rows = known_rows(run, "tokens_seen")
    if not len(rows):
        return None, None
    rows = np.concatenate([[[0.0, 0.0]], rows])
    per_step = np.diff(rows[:, 1]) / np.maximum(np.diff(rows[:, 0]), 1)
    mean = float(per_step.mean()) / sequences
    whole = round(mean)
    return (whole if whole > 0 and (per_step == whole * sequences).all() else None), mean


def _uniform(run: Run, law: NoiseLaw) -> Check:
    counts = law.form == "any_order"
    what, quantity = ("counts", "masking_rate") if counts else ("times", "noise_level")
    rows = known_rows(run, f"{quantity}_min", f"{quantity}_max")
    if len(rows) < FEW:
        return _changing(run)
    slack = 0.0
    if counts and law.tokens is None:
        tokens = tokens_of_a_sequence(run, law.sequences)[1]
        if tokens is None:
            return _changing(run)
        # Sequences differ in length: a rate says its u up to a token, which the N sequences of a batch magnify.
        slack = 2 * law.sequences * law.likeliest_count(tokens)
        if slack > 0.5:
            return _spanning(rows, law.sequences)
        law = dataclasses.replace(law, tokens=10**6)
    uniform_2S = law.uniform_extremes(rows[:, 1], rows[:, 2], np.random.default_rng(0))
    distance = max(ks_p_value(uniform_S)[0] for uniform_S in uniform_2S)
    chance = min(1.0, 2.0 * math.exp(-2.0 * len(rows) * max(distance - slack, 0.0) ** 2))
    how = "stratified" if law.stratified else "independent"
    finding = (
        f"{what} of {law.sequences} {how} sequences a step, {len(rows):,} steps: largest distance from uniform "
        f"{distance:.3f} (p {'<' if chance < 1e-6 else '='} {max(chance, 1e-6):.2g})"
    )
    return judged(_DRAWN, chance >= _CHANCE, finding, _SAME_NOISE)


def _spanning(rows: np.ndarray, sequences: int) -> Check:
    """Where a batch has more sequences of different lengths than tokens in each: do they span what they should?"""
    span, expected = float((rows[:, 2] - rows[:, 1]).mean()), (sequences - 1) / (sequences + 1)
    finding = f"masking rates of the {sequences} sequences of a step span {span:.3f} (about {expected:.3f} is expected)"
    return judged(_DRAWN, span >= _LEAST_SPAN * expected, finding, _SAME_NOISE)


def _changing(run: Run) -> Check:
    """Where nothing is known of how noise was to be drawn: does it change at all, within a step or between steps?"""
    rates = known_rows(run, "masking_rate")[:, 1]
    spans = known_rows(run, "masking_rate_min", "masking_rate_max")
    within = float((spans[:, 2] - spans[:, 1]).mean()) if len(spans) else 0.0
    finding = f"masking_rate from {rates.min():.3f} to {rates.max():.3f}, mean {rates.mean():.3f}"
    if max(float(rates.std()), within) < _STILL:
        return failed(_DRAWN, f"{finding}: it does not change", _SAME_NOISE)
    return passed(_DRAWN, f"{finding}: it changes (how it should, the log does not say)")


def _prescribed_rates(run: Run, law: NoiseLaw, rates: np.ndarray) -> Check:
    tokens = tokens_of_a_sequence(run, law.sequences)[1]
    if tokens is None or tokens <= 0:
        return unknown(_RATES, f"mean {rates.mean():.3f}; the log does not say how many tokens a sequence has")
    mean, spread = law.mean_and_spread(tokens)
    count = len(rates)
    found_mean, found_spread = float(rates.mean()), float(rates.std(ddof=1))
    # A log has seven digits; where sequences differ in length, the law is known up to a token.
    loose = _ROUNDING if law.tokens is not None else 1.0 / tokens
    off_mean = abs(found_mean - mean) > SURE * spread / math.sqrt(count) + loose
    widest = math.sqrt(1 + SURE * math.sqrt(2 / count))
    narrowest = math.sqrt(max(1 - SURE * math.sqrt(2 / count), 0.0))
    off_spread = not narrowest * spread - loose <= found_spread <= widest * spread + loose
    finding = (
        f"mean {found_mean:.4f} ± {spread / math.sqrt(count):.4f} (prescribed {mean:.4f}), "
        f"spread over steps {found_spread:.4f} (prescribed {spread:.4f})"
    )
    return judged(_RATES, not (off_mean or off_spread), finding, _OTHER_MASKS.format(law.form))


def _rates_of_blocks(run: Run, law: NoiseLaw, rates: np.ndarray) -> Check:
    """Block diffusion: the mean of what the law prescribes for each block, and no more spread than independent draws."""
    size, length = run.config.get("diffusion_block_size"), run.config.get("block_size")
    if run.config.get("diffusion_block_size_schedule"):
        return unknown(_RATES, "diffusion blocks grow, and each size has a law of its own")
    if not isinstance(size, int) or not isinstance(length, int) or law.tokens not in (length, length - 1):
        return unknown(_RATES, "sequences differ in length, and so do their blocks")
    scored_N = np.minimum(size, length - np.arange(0, length, size))
    scored_N[0] -= length - law.tokens  # after BOS
    one = dataclasses.replace(law, sequences=1, stratified=False)
    found = [one.mean_and_spread(int(scored)) for scored in scored_N if scored]
    mean = float(np.mean([mean for mean, _ in found]))
    most = math.sqrt(sum(spread**2 for _, spread in found) / law.sequences) / len(found)
    found_mean, found_spread = float(rates.mean()), float(rates.std(ddof=1))
    error = found_spread / math.sqrt(len(rates))
    off_mean = abs(found_mean - mean) > SURE * error + _ROUNDING
    off_spread = found_spread > most * math.sqrt(1 + SURE * math.sqrt(2 / len(rates))) + _ROUNDING
    finding = (
        f"mean {found_mean:.4f} ± {error:.4f} (prescribed {mean:.4f}), "
        f"spread over steps {found_spread:.4f} (independent blocks: {most:.4f})"
    )
    return judged(_RATES, not (off_mean or off_spread), finding, _OTHER_MASKS.format(law.form))


def _adaptive_rates(rates: np.ndarray) -> Check:
    low, high = _ADAPTIVE_MEANS
    mean = float(rates.mean())
    finding = f"mean {mean:.4f}; schedules of single tokens keep it between {low} and {high}"
    return judged(_RATES, low <= mean <= high, finding, "raise masking_temperature, or try --masking none")
