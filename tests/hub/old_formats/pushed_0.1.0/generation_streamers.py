"""A streamer that keeps what it is given; :class:`transformers.TextDiffusionStreamer` prints."""

from __future__ import annotations

from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer


class RecordingStreamer(BaseStreamer):
    """Keeps prompt, drafts and text of a generation, whatever the number of rows.

    Attributes:
        prompt: (B, P) what stands before the first mask.
        drafts: (B, N) after each step that changed something, masks where nothing is revealed.
        text: (B, N) the result, N from the first mask on.
        ended: whether the generation is over.
    """

    def __init__(self) -> None:
        self.prompt: torch.Tensor | None = None
        self.drafts: list[torch.Tensor] = []
        self.text: torch.Tensor | None = None
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        if self.prompt is None:
            self.prompt = value.clone()
        else:
            self.text = value.clone()

    def put_draft(self, value: torch.Tensor, **unused: Any) -> None:
        """Keep a draft."""
        self.drafts.append(value.clone())

    def end(self) -> None:
        self.ended = True
