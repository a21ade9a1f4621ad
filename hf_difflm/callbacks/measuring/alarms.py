"""What counts as an alarm: judgements of single numbers against those before them, without a Trainer."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import UserError, did_you_mean
from ...runs.checklist.plateau_limits import NEAR as PLATEAU_NEAR
from ...runs.checklist.plateau_limits import SHARE as PLATEAU_SHARE

KINDS = (
    "loss_spike",
    "exploding_gradients",
    "vanishing_gradients",
    "data_stall",
    "degenerate_samples",
    "unigram_plateau",
)

_WINDOW = 50
_ENOUGH = 20  # values before a judgement: the first steps of a training are like none after them
_SPIKE_DEVIATIONS = 8.0
_SPIKE_SHARE = 0.2
_EXPLODING = 10.0
_VANISHING_SHARE = 1e-4
_VANISHING = 1e-7
_STALL_SHARE = 0.5
_STALL_SECONDS = 1.0  # steps of a few milliseconds may well take longer to fetch than to do
_DEGENERATE_SHARE = 0.5
_TO_DEVIATION = 1.4826  # the median absolute deviation of normal numbers, times this, is their standard deviation


def check_kinds(kinds: Sequence[str]) -> frozenset[str]:
    """Return the kinds that are meant: each for ``all``, no further one for ``none``.

    Raises:
        UserError: one is unknown.
    """
    known = (*KINDS, "all", "none")
    for kind in kinds:
        if kind not in known:
            raise UserError(f"fail_on must be among {', '.join(known)}, got {kind!r}{did_you_mean(kind, known)}")
    return frozenset(KINDS if "all" in kinds else kinds) - {"none"}


@dataclass(frozen=True)
class Alarm:
    """Something that should not happen: its kind (of :data:`KINDS`), the step, the value, its bound, and a sentence."""

    kind: str
    step: int
    value: float
    bound: float
    message: str


class _Recent:
    """The last finite values, and their median; they are kept in order, since each step asks for it."""

    def __init__(self) -> None:
        self._values: deque[float] = deque()
        self._ordered: list[float] = []

    def median(self) -> float | None:
        """Return the median; None where there are too few values to judge by."""
        return _middle(self._ordered) if len(self._ordered) >= _ENOUGH else None

    def deviation(self) -> float:
        """Return a robust estimate of the standard deviation: one spike hardly moves it."""
        middle = _middle(self._ordered)
        return _TO_DEVIATION * _middle(sorted(abs(value - middle) for value in self._ordered))

    def add(self, value: float) -> None:
        if math.isfinite(value):
            self._values.append(value)
            insort(self._ordered, value)
            if len(self._values) > _WINDOW:
                del self._ordered[bisect_left(self._ordered, self._values.popleft())]


class LossAlarm:
    """A loss 8 robust standard deviations and 20 % above the median of the 50 steps before it, or not finite."""

    def __init__(self) -> None:
        self._recent = _Recent()

    def judge(self, step: int, loss: float) -> Alarm | None:
        """Judge the loss of a step, and remember it."""
        middle = self._recent.median()
        alarm = None
        if not math.isfinite(loss):
            alarm = Alarm("loss_spike", step, loss, math.inf, f"the loss is {loss} at step {step}")
        # Nearly always the second condition spares the deviation, which is the longest to compute.
        elif middle is not None and loss > middle + _SPIKE_SHARE * abs(middle):
            bound = middle + max(_SPIKE_DEVIATIONS * self._recent.deviation(), _SPIKE_SHARE * abs(middle))
            if loss > bound:
                message = f"the loss is {loss:.4g} at step {step}, the median of the steps before {middle:.4g}"
                alarm = Alarm("loss_spike", step, loss, bound, message)
        self._recent.add(loss)
        return alarm


class GradientAlarm:
    """A pre-clip gradient norm above 10 times the median of the 50 before it, or below 1e-4 of it or 1e-7."""

    def __init__(self) -> None:
        self._recent = _Recent()

    def judge(self, step: int, norm: float) -> Alarm | None:
        """Judge the gradient norm of a step, and remember it."""
        middle = self._recent.median()
        self._recent.add(norm)
        if not math.isfinite(norm):
            message = f"the gradient norm is {norm} at step {step}"
            return Alarm("exploding_gradients", step, norm, math.inf, message)
        # Without a past to compare with, only a norm that no optimiser step could use is too small.
        least = _VANISHING if middle is None else max(_VANISHING, _VANISHING_SHARE * middle)
        if norm < least:
            message = f"the gradient norm is {norm:.3g} at step {step}"
            return Alarm("vanishing_gradients", step, norm, least, message)
        if middle is not None and norm > _EXPLODING * middle:
            message = f"the gradient norm is {norm:.4g} at step {step}, the median of the steps before {middle:.4g}"
            return Alarm("exploding_gradients", step, norm, _EXPLODING * middle, message)
        return None


class PlateauAlarm:
    """A loss that rests at the entropy of the token frequencies: within 2 % of it in both halves of a tenth of the training.

    Args:
        entropy: in nats per scored token.
        steps: of the whole training; a tenth, and at least 20, are looked at.
        warmup: the first of them, in which no loss has yet had the time to leave it.
        muon: whether Muon is the optimiser already.
    """

    def __init__(self, entropy: float, steps: int, warmup: int = 0, muon: bool = False) -> None:
        self._entropy = entropy
        self._warmup = warmup
        self._advice = "more warmup_steps or a lower learning_rate" + ("" if muon else ", or optim muon,")
        self._losses: deque[float] = deque(maxlen=2 * math.ceil(max(PLATEAU_SHARE * steps, _ENOUGH) / 2))
        self._since = 0

    def judge(self, step: int, loss: float) -> Alarm | None:
        """Judge the loss of a step, and remember it; again after as many steps as are looked at."""
        if step <= self._warmup:
            return None
        self._losses.append(loss)
        self._since += 1
        if self._since < (self._losses.maxlen or 0):
            return None
        half = len(self._losses) // 2
        values = list(self._losses)
        means = [math.fsum(part) / half for part in (values[:half], values[half:])]
        if any(not abs(mean - self._entropy) <= PLATEAU_NEAR * self._entropy for mean in means):
            return None
        self._since = 0
        loss = sum(means) / 2
        message = (
            f"the loss has not left the unigram plateau: {loss:.4g} in the {len(values)} steps up to step {step}, where "
            f"token frequencies alone give {self._entropy:.4g}; {self._advice} may help"
        )
        return Alarm("unigram_plateau", step, loss, (1 - PLATEAU_NEAR) * self._entropy, message)


def judge_waiting(step: int, waited: float, seconds: float) -> Alarm | None:
    """Judge how much of the last ``seconds`` of training were waiting for data: an alarm is more than half, and a second."""
    if waited < _STALL_SECONDS or waited <= _STALL_SHARE * seconds:
        return None
    message = f"up to step {step} {waited:.1f} s of {seconds:.1f} s passed waiting for data; use more workers"
    return Alarm("data_stall", step, waited / seconds, _STALL_SHARE, message)


def judge_sample(step: int, top_share: float, prompt: str) -> Alarm | None:
    """Judge a generated text by the share of its most frequent token: more than half is an alarm."""
    if top_share <= _DEGENERATE_SHARE:
        return None
    after = f"after {prompt[:40]!r}" if prompt else "without a prompt"
    message = f"{100 * top_share:.0f} % of the text generated {after} at step {step} are one token"
    return Alarm("degenerate_samples", step, top_share, _DEGENERATE_SHARE, message)


def _middle(ordered: Sequence[float]) -> float:
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
