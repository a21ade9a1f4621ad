"""Has a run learnt more than how frequent each token is? Before that its loss rests at the entropy of these frequencies."""

from __future__ import annotations

import math

from ..journal.run import Run
from ..journal.schema import COMPLETED
from .checks import FEW, Check, failed, known_rows, passed, planned_steps, unknown
from .plateau_limits import NEAR, SHARE

_NAME = "loss has left the unigram plateau"


def plateau_check(run: Run) -> Check:
    """Whether the loss of the last tenth of the run is below what token frequencies alone give."""
    entropy = run.header.metadata.get("unigram_entropy")
    if not isinstance(entropy, (int, float)) or not entropy > 0:
        return unknown(_NAME, "the log does not say how frequent tokens are")
    source = run.header.data.get("source_nll")
    if isinstance(source, (int, float)) and source > (1 - NEAR) * entropy:
        return unknown(
            _NAME, f"there is no more to learn of this source than token frequencies ({entropy:.4f} nats/token)"
        )
    rows, planned = known_rows(run, "loss"), planned_steps(run)
    start = (rows[-1, 0] if len(rows) else 0) - math.ceil(SHARE * (planned or 0))
    late = rows[rows[:, 0] > start] if planned else rows[:0]
    if len(late) < FEW:
        late = rows[-FEW:]
    if planned is None or len(late) < FEW:
        return unknown(
            _NAME, f"too early to tell: {len(rows)} steps logged; token frequencies alone give {entropy:.4f}"
        )
    loss = float(late[:, 1].mean())
    finding = (
        f"{loss:.4f} nats/token in the last {len(late):,} rows, up to step {late[-1, 0]:,.0f}; token frequencies alone give "
        f"{entropy:.4f}"
    )
    if loss < (1 - NEAR) * entropy:
        return passed(_NAME, finding)
    half = len(late) // 2
    rests = all(abs(part.mean() - entropy) <= NEAR * entropy for part in (late[:half, 1], late[half:, 1]))
    if loss > (1 + NEAR) * entropy or not (rests or run.status == COMPLETED):
        return unknown(_NAME, f"{finding}: it does not rest there")
    muon = "" if run.config.get("optim") == "muon" else ", optim muon"
    bell = (
        ""
        if run.objective == "ar" or run.config.get("count_law") == "bell"
        else ", masking rates from a bell (count_law)"
    )
    return failed(_NAME, finding, f"what helps: more warmup_steps, a lower learning_rate{muon}{bell}")
