"""What the Trainer says of every step, for tests that compare trainings."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


class Rows(TrainerCallback):
    """Collects it, on each process its own."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def on_training_iterations(self, args, state, rows):
        self.rows += rows
