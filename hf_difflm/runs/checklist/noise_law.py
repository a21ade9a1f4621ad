"""What masking rates a masked diffusion prescribes: their mean, their spread, and how their extremes are distributed.

A sequence has u uniform in [0, 1), by itself or stratified over the N sequences of the optimiser batch (there the N numbers
are a grid with a random offset). From exact counts (``any_order``): k = 1 + floor(u L) of L tokens are hidden; in
complementary pairs a sequence is read a second time with the other L - k hidden, and rates are those of both. From times
(``time``): t = 1 - u, and each token is hidden with probability 1 - alpha(t).

Where counts have a law p(k), k is the number up to which u has p(1) + ... + p(k): by importance p(k) ~ k^-exponent; in a bell
a normal density over (k - 1/2) / L, and uniform for a share. Stratified, each of the N numbers is then
anywhere in its stratum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

SCHEDULES = ("loglinear", "linear", "cosine", "polynomial", "geometric")

_MOST_OFFSETS, _MOST_NUMBERS = 512, 2**21


@dataclass(frozen=True)
class NoiseLaw:
    """How the noise of a run is drawn.

    Args:
        form: ``any_order`` or ``time``.
        stratified: whether the sequences of an optimiser batch share one offset.
        sequences: N, of an optimiser batch.
        tokens: L, scored tokens of a sequence; None where they differ.
        schedule: of the time form: ``loglinear``, ``linear``, ``cosine``, ``polynomial`` or ``geometric``.
        exponent, sigma_min, sigma_max: of the polynomial and the geometric schedule.
        pairs: whether each sequence is read under a mask and under its complement; exact counts, stratified.
        counts: law of exact counts: ``uniform``, ``importance`` or ``bell``.
        count_exponent: of ``importance``.
        centre, width, uniform_share: of ``bell``.
    """

    form: str
    stratified: bool
    sequences: int
    tokens: int | None
    schedule: str = "loglinear"
    exponent: float = 2.0
    sigma_min: float = 1e-4
    sigma_max: float = 20.0
    pairs: bool = False
    counts: str = "uniform"
    count_exponent: float = 1 / 3
    centre: float = 0.4
    width: float = 0.2
    uniform_share: float = 0.1

    def mean_and_spread(self, tokens: float) -> tuple[float, float]:
        """Mean and standard deviation of a step's mean masking rate.

        Args:
            tokens: scored tokens of a sequence, at least on average.
        """
        if self.pairs:
            return 0.5, 0.0  # k / L and 1 - k / L
        places = np.arange(self.sequences) / self.sequences
        count = max(16, min(_MOST_OFFSETS, _MOST_NUMBERS // self.sequences))
        offsets = (np.arange(count) + 0.5) / (count * self.sequences)
        u_ON = offsets[:, None] + places[None, :]
        binomial = 0.0
        if self.form == "any_order":
            whole = max(round(tokens), 1)
            if self.counts != "uniform":
                rate_ON = (1 + np.searchsorted(self._up_to(whole)[1:-1], u_ON, side="right")) / whole
                within = rate_ON.var(0).mean() if self.stratified else rate_ON.var()
                return float(rate_ON.mean()), float(np.sqrt(within / self.sequences))
            rate_ON = (1 + np.floor(u_ON * whole)) / whole
        else:
            rate_ON = self.hidden_share(1.0 - u_ON)
            binomial = float((rate_ON * (1 - rate_ON)).mean()) / (tokens * self.sequences)
        between = rate_ON.mean(1).var() if self.stratified else rate_ON.var() / self.sequences
        return float(rate_ON.mean()), float(np.sqrt(between + binomial))

    def likeliest_count(self, tokens: float) -> float:
        """The largest p(k) of a sequence of so many tokens."""
        return (
            float(np.diff(self._up_to(max(round(tokens), 1))).max()) if self.counts != "uniform" else 1 / max(tokens, 1)
        )

    def _up_to(self, tokens: int) -> np.ndarray:
        """(L + 1,) the probability of at most k = 0..L hidden tokens."""
        k_L = np.arange(1, tokens + 1)
        density_L = k_L**-self.count_exponent
        if self.counts == "bell":
            density_L = np.exp(-0.5 * (((k_L - 0.5) / tokens - self.centre) / self.width) ** 2)
            density_L = (1 - self.uniform_share) * density_L / density_L.sum() + self.uniform_share / tokens
        return np.concatenate([[0.0], np.cumsum(density_L / density_L.sum())])

    def hidden_share(self, t: np.ndarray) -> np.ndarray:
        """1 - alpha(t), as in the noise schedules of the model; ``t`` in (0, 1]."""
        if self.schedule == "cosine":
            return np.sin(0.5 * np.pi * t)
        if self.schedule == "polynomial":
            return t**self.exponent
        if self.schedule == "geometric":
            return np.expm1(-self._excess(t)) / np.expm1(self.sigma_min - self.sigma_max)
        return t

    def time_of(self, sigma: np.ndarray) -> np.ndarray:
        """The time t at which sigma = -log alpha(t)."""
        share = -np.expm1(-sigma)
        if self.schedule == "cosine":
            return np.arcsin(np.clip(share, 0.0, 1.0)) * 2 / np.pi
        if self.schedule == "polynomial":
            return share ** (1 / self.exponent)
        if self.schedule == "geometric":
            excess = -np.log1p(share * np.expm1(self.sigma_min - self.sigma_max))
            return np.log1p(excess / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)
        return share

    def _excess(self, t: np.ndarray) -> np.ndarray:
        return self.sigma_min * np.expm1(t * np.log(self.sigma_max / self.sigma_min))

    def uniform_extremes(self, low: np.ndarray, high: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """(2, steps) numbers that are uniform in [0, 1) if the noise is as prescribed: of the least and the most noise.

        Args:
            low, high: (steps,) of the any-order form the least and the largest masking rate of each step, of the time form
                those of ``noise_level``.
            generator: spreads each count evenly over what it stands for.
        """
        if self.form == "any_order":
            tokens = self.tokens or 1
            k_2S = np.rint(np.stack([low, high]) * tokens)
            # Of a pair it is v = u + 1 / (2 L) that is rounded, to the distance of v L from 0 on a circle of L.
            half = 0.5 if self.pairs else 0.0
            below_2S, above_2S = (k_2S - 1 + half) / tokens, (k_2S + half) / tokens
            if self.counts != "uniform":
                up_to_K, places_2S = self._up_to(tokens), k_2S.astype(int).clip(1, tokens)
                below_2S, above_2S = up_to_K[places_2S - 1], up_to_K[places_2S]
        else:
            # t = 1 - u: the extremes change places.
            below_2S = above_2S = 1.0 - self.time_of(np.stack([high, low]))
        chance = generator.random(below_2S.shape)
        found = []
        for place, of_extreme in enumerate((self._least, self._largest)):
            at, beyond = of_extreme(below_2S[place]), of_extreme(above_2S[place])
            found.append(at + chance[place] * (beyond - at))
        return np.stack(found)

    def _least(self, u: np.ndarray) -> np.ndarray:
        """P(the least of the N numbers is below u)."""
        u = np.clip(u, 0.0, 1.0)
        if self.pairs:  # both k and L - k: as near to 0 as the nearest of N numbers on a circle
            return np.minimum(2 * self.sequences * u, 1.0)
        return np.minimum(self.sequences * u, 1.0) if self.stratified else 1.0 - (1.0 - u) ** self.sequences

    def _largest(self, u: np.ndarray) -> np.ndarray:
        """P(the largest of the N numbers is below u)."""
        u = np.clip(u, 0.0, 1.0)
        if self.pairs:
            return np.clip(1.0 - 2 * self.sequences * (1.0 - u), 0.0, 1.0)
        return np.clip(1.0 - self.sequences * (1.0 - u), 0.0, 1.0) if self.stratified else u**self.sequences


def ks_p_value(values: np.ndarray) -> tuple[float, float]:
    """Kolmogorov-Smirnov: the largest distance of (n,) numbers from a uniform distribution, and a bound on its chance.

    The bound 2 exp(-2 n D^2) holds for every n (Massart, 1990).
    """
    ordered = np.sort(values)
    count = len(ordered)
    steps = np.arange(count + 1) / count
    distance = float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()))
    return distance, min(1.0, 2.0 * float(np.exp(-2.0 * count * distance**2)))
