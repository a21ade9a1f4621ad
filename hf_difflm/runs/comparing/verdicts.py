"""What the difference of two negative log-likelihoods says, where each is exact or an upper bound: one table for all.

With n the number of a model and t its true nll: t = n where n is exact, t ≤ n where n is an upper bound. So of t₁ - t₂ the
difference n₁ - n₂ is the value itself (both exact), an upper bound (the first a bound), a lower bound (the second a bound),
or nothing of the kind (both). A bound *below* an exact number therefore means at least that far apart, and only a bound
*above* one leaves it open whether the models are closer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

EXACT, BOUND, UNTOLD = "exact", "upper bound", "untold"
CONFIDENCE = 0.95
NOT_RESOLVED = "not resolved"
_UNRESOLVED = NOT_RESOLVED + ": the {level} interval, ± {half}, holds 0"


@dataclass(frozen=True)
class Verdict:
    """What a difference says.

    Attributes:
        sentence: for people, with the names of both sides, without its full stop.
        short: a few words about the first side, for a cell of a table.
        resolved: whether the interval leaves out 0.
    """

    sentence: str
    short: str
    resolved: bool


def kind_of(bound: str | None) -> str:
    """Return what a number is by the ``bound`` that its log records: EXACT, BOUND, or UNTOLD where it records none."""
    if bound == "exact":
        return EXACT
    return BOUND if bound is not None and bound.startswith("nelbo") else UNTOLD


# (the lower number, the higher number, resolved): the sentence. {low} and {high} are names, {half} the half interval.
SENTENCES = {
    (EXACT, EXACT, True): "{low} has the lower nll",
    (BOUND, EXACT, True): (
        "{low} has the lower nll, by at least this much, since its number is an upper bound and that of {high} is exact"
    ),
    (EXACT, BOUND, True): (
        "the number of {high} is an upper bound and that of {low} is exact, so the models may be closer than this, or {high} "
        "the better one"
    ),
    (BOUND, BOUND, True): "{low} has the lower upper bound; which model has the lower nll two bounds do not settle",
    (EXACT, EXACT, False): _UNRESOLVED,
    (BOUND, EXACT, False): f"{_UNRESOLVED}; the number of {{low}} is an upper bound, so it may lie lower still",
    (EXACT, BOUND, False): f"{_UNRESOLVED}; the number of {{high}} is an upper bound, so it may be the lower one",
    (BOUND, BOUND, False): f"{_UNRESOLVED}; both numbers are upper bounds",
    (UNTOLD, UNTOLD, True): "{low} has the lower number; whether both are exact or upper bounds their logs do not say",
    (UNTOLD, UNTOLD, False): _UNRESOLVED,
}
# (the first side, the second side, whether the first is lower): what is said of the first where it is resolved.
SHORT = {
    (EXACT, EXACT, True): "better",
    (EXACT, EXACT, False): "worse",
    (BOUND, EXACT, True): "better, at least by this",
    (BOUND, EXACT, False): "a bound above: open",
    (EXACT, BOUND, True): "below a bound: open",
    (EXACT, BOUND, False): "worse, at least by this",
    (BOUND, BOUND, True): "better bound",
    (BOUND, BOUND, False): "worse bound",
    (UNTOLD, UNTOLD, True): "lower number",
    (UNTOLD, UNTOLD, False): "higher number",
}


def verdict(
    names: tuple[str, str], bounds: tuple[str | None, str | None], difference: float, half: float | None
) -> Verdict:
    """Say what the number of the first less that of the second means.

    Args:
        names: of both sides.
        bounds: what their logs record: "exact", "nelbo" (and its kin), None.
        difference: first - second, of a nll in any unit.
        half: half the interval at the level :data:`CONFIDENCE`, in that unit; None where there is no telling.
    """
    if half is None or not math.isfinite(half) or not math.isfinite(difference):
        return Verdict(f"{NOT_RESOLVED}: there is no interval", NOT_RESOLVED, False)
    kinds = (kind_of(bounds[0]), kind_of(bounds[1]))
    if UNTOLD in kinds:  # a bound of which side, nobody can say
        kinds = (UNTOLD, UNTOLD)
    first_lower, resolved = difference < 0, abs(difference) > half
    low, high = names if first_lower else names[::-1]
    lower, higher = kinds if first_lower else kinds[::-1]
    words = SENTENCES[(lower, higher, resolved)]
    sentence = words.format(low=low, high=high, half=f"{half:.4f}", level=f"{CONFIDENCE:.0%}")
    return Verdict(sentence, SHORT[(kinds[0], kinds[1], first_lower)] if resolved else NOT_RESOLVED, resolved)


def half_interval(stderr: float, units: float) -> float | None:
    """Return half the interval at the level :data:`CONFIDENCE` (Student's t, ``units`` - 1 degrees); None below two units."""
    if units < 2:
        return None
    from scipy import special

    return float(special.stdtrit(units - 1, (1 + CONFIDENCE) / 2)) * stderr


def bound_note(bounds: set[str | None]) -> str:
    """Return what must be known of an upper bound among some numbers; empty where there is none."""
    if not any(kind_of(bound) == BOUND for bound in bounds):
        return ""
    return "A nelbo is an upper bound on it, so the model itself may be better; exact is the value itself."
