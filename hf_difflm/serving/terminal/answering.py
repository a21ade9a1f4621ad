"""One answer of a model, shown while it is written where there is a terminal to draw on."""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from dataclasses import dataclass

from rich.console import Console

from ...evaluation.generation.denoising_frames import Frame, FrameStreamer, TokenText
from ...evaluation.generation.denoising_view import DenoisingView
from ...evaluation.generation.importance_weights import importance_for
from ...evaluation.generation.options import GenerationOptions
from ...evaluation.generation.read_before import keeps_anything
from ...evaluation.generation.texts import GenerationStart, generate_samples
from ...evaluation.targets import Target
from ...models.masked_diffusion.generation_prefix import KeptPrefix
from .conversation import Asked


@dataclass(frozen=True)
class Answer:
    """What the model said.

    Attributes:
        text: without the blanks around it.
        tokens: it has, the end and padding apart.
        drafts: of it that a denoiser has made; None where nobody looked, or tokens came one by one.
        seconds: it took.
        prompt_tokens: the model got.
        reused: of them that it had read for an earlier turn; None for a model that cannot keep any.
    """

    text: str
    tokens: int
    drafts: int | None
    seconds: float
    prompt_tokens: int
    reused: int | None


class Answerer:
    """Answers one question after the other, each with random numbers of its own.

    Args:
        loaded: the model.
        console: the terminal to draw on; None: nothing is drawn.
        frame_seconds: a step is shown at least so long.

    Attributes:
        drawn: answers begun since the seed was set: the number of the next text, as ``generate`` counts.
    """

    def __init__(self, loaded: Target, console: Console | None, frame_seconds: float) -> None:
        self._loaded, self._console, self._frame_seconds = loaded, console, frame_seconds
        self._text = TokenText(loaded.tokenizer)
        self._kept = KeptPrefix()
        self.drawn = 0

    def __call__(self, asked: Asked, options: GenerationOptions) -> Answer:
        """Answer a question; broken off, it leaves the cache empty.

        Raises:
            UserError: the model cannot do what the options ask for.
        """
        importance = importance_for(self._loaded, options)
        options = dataclasses.replace(options, infill=False if self._loaded.is_denoiser else None)
        row, self.drawn = self.drawn, self.drawn + 1
        last = -1
        view = None
        if self._console is not None:
            view = DenoisingView(self._text, self._console, self._frame_seconds, shows_given=False)

        def show(frame: Frame) -> None:
            nonlocal last
            if not frame.final:
                last = frame.number
            if view is not None:
                view.show(frame)

        def watch(start: GenerationStart) -> FrameStreamer:
            return FrameStreamer(start, show)

        begun = time.perf_counter()
        with view or nullcontext():
            (sample,) = generate_samples(
                self._loaded.model,
                self._loaded.tokenizer,
                [asked.prompt],
                options,
                first_row=row,
                watch=None if view is None else watch,
                importance=importance,
                encoded=[asked.encoded],
                kept=self._kept,
            )
        keeps = keeps_anything(self._loaded.model, dataclasses.asdict(options))
        return Answer(
            sample.text.strip(),
            len(sample.ids),
            last if view is not None and self._loaded.is_denoiser else None,
            time.perf_counter() - begun,
            len(asked.encoded.ids),
            self._kept.reused if keeps else None,
        )
