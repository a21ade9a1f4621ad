"""Which project's likelihood is computed, as people write it; the declaration behind flags. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import UserError

PROTOCOLS = ("llada", "dream")


@dataclass
class ProtocolOptions:
    """Options of :func:`hf_difflm.evaluation.protocols.report.evaluate_protocol`."""

    protocol: str | None = field(
        default=None,
        metadata={"help": "the likelihood as this project computes it, beside eval_nll, and why", "choices": PROTOCOLS},
    )
    protocol_draws: int = field(
        default=128, metadata={"help": "masks for each text under --protocol (their mc_num)", "min": 1}
    )
    protocol_batch: int = field(
        default=16,
        metadata={
            "help": "masks of a text that are drawn together, spread over its length (their batch_size)",
            "min": 1,
        },
    )

    def check(self) -> None:
        """Raise UserError where the draws are no whole number of batches: theirs leave out what does not fill one."""
        if self.protocol_draws % self.protocol_batch:
            raise UserError(
                f"--protocol-draws {self.protocol_draws} is no multiple of --protocol-batch {self.protocol_batch}; give one"
            )
