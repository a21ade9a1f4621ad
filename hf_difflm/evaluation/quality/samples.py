"""``hf-difflm generate``: load, generate batch by batch, judge, print."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...runs.reading.places import shown
from ..generation.chat_prompts import written
from ..generation.denoising_frames import Frame, FrameStreamer, TokenText
from ..generation.denoising_page import FrameRecorder, check_page, write_denoising_page
from ..generation.denoising_view import DenoisingView, terminal_for_view
from ..generation.importance_weights import importance_for
from ..generation.options import GenerationOptions
from ..generation.prompts import Prompt
from ..generation.sample_output import as_json, as_json_line, as_record, as_text, together_line
from ..generation.texts import GeneratedText, GenerationStart, Importance, Watch, encoded_prompt, generate_samples
from ..targets import Target, load_target
from .reference_model import load_reference
from .sample_scores import quality_of_all, quality_of_each

TEXT, JSON, JSONL = "text", "json", "jsonl"


@dataclass(frozen=True)
class QualityRequest:
    """What to find out about the samples beside their text.

    Args:
        reference_model: folder or Hub name of a causal LM whose perplexity is told, with the entropy.
        real_texts: texts to compare with by MAUVE; needs the reference model.
    """

    reference_model: str | None = None
    real_texts: Sequence[str] = ()


@dataclass(frozen=True)
class OutputRequest:
    """How the samples are handed out.

    Args:
        form: ``text``, ``json`` or ``jsonl``.
        with_ids: JSON has the tokens too.
        watch: show the generation in the terminal while it goes on.
        frame_seconds: a step is shown at least so long.
        html: page to write, with the generation step by step.
    """

    form: str = TEXT
    with_ids: bool = False
    watch: bool = False
    frame_seconds: float = 0.03
    html: Path | None = None


def print_samples(
    target: str,
    prompts: Iterable[Prompt],
    options: GenerationOptions,
    num_samples: int,
    use_cpu: bool,
    output: OutputRequest,
    batch_size: int = 8,
    several: bool = True,
    quality: QualityRequest | None = None,
    revision: str | None = None,
    chat: bool = False,
    add_bos: bool | None = None,
    bos_token: str | None = None,
) -> None:
    """Generate ``num_samples`` texts after each prompt and print them, text and JSON lines as soon as there are any.

    Control characters are shown and not obeyed; JSON holds the exact text. Prompts are asked for only as they are
    needed: they may come from a pipe that goes on.

    Args:
        target: see :func:`load_target`.
        prompts: what to go on from.
        options: how.
        num_samples: texts of each prompt.
        use_cpu: generate on the CPU even where there is a GPU.
        revision: of a model on the Hub.
        output: what comes out.
        batch_size: texts generated at once.
        several: number the texts.
        quality: what is told about them.
        chat: each prompt is what the user says, or a conversation, which the tokenizer's chat template writes; of the text
            the answer alone is printed.
        add_bos, bos_token: see :func:`load_target`.

    Raises:
        UserError: nothing to load, a request the model cannot fulfil, or a quality that cannot be told.
    """
    if quality is not None and quality.real_texts and quality.reference_model is None:
        raise UserError("MAUVE compares features of a language model; name one with --reference-model")
    if output.html is not None:
        check_page(output.html)
    loaded = load_target(target, use_cpu=use_cpu, revision=revision, add_bos=add_bos, bos_token=bos_token)
    importance = importance_for(loaded, options)
    judge = _judge(quality, loaded.model.device)
    text = TokenText(loaded.tokenizer)
    recorder = FrameRecorder()
    if chat:
        prompts = written(loaded.tokenizer, prompts, loaded.source)
        options = dataclasses.replace(options, infill=False)
    rows = (prompt for prompt in prompts for _ in range(num_samples))
    samples: list[GeneratedText] = []
    records: list[dict[str, Any]] = []
    while batch := list(itertools.islice(rows, batch_size)):
        new = _generate(loaded, batch, options, len(samples), output, text, recorder, importance)
        qualities = judge(new)
        for prompt, sample, numbers in zip(batch, new, qualities, strict=True):
            if output.form == TEXT:
                print(as_text(sample, len(samples) if several else None, numbers, is_answer=chat), flush=True)
            else:
                records.append(as_record(sample, prompt.extra, numbers, output.with_ids))
                if output.form == JSONL:
                    print(as_json_line(records.pop()), flush=True)
            samples.append(sample)
    if not samples:
        raise UserError("there is no prompt on stdin; write one on each line")
    _print_together(samples, records, output.form, quality, judge)
    if output.html is not None:
        facts = _facts(loaded, options)
        page = write_denoising_page(
            recorder, text, output.html, title=f"Generation: {shown(Path(target))}", facts=facts
        )
        print(f"page: {page}", file=sys.stderr)


def _generate(
    loaded: Target,
    batch: Sequence[Prompt],
    options: GenerationOptions,
    first_row: int,
    output: OutputRequest,
    text: TokenText,
    recorder: FrameRecorder,
    importance: Importance | None,
) -> list[GeneratedText]:
    console = terminal_for_view(data_on_stdout=output.form != TEXT) if output.watch else None
    sinks: list[Callable[[Frame], None]] = [] if output.html is None else [recorder]
    view = None if console is None else DenoisingView(text, console, output.frame_seconds)
    if view is not None:
        sinks.append(view.show)

    def to_all(frame: Frame) -> None:
        for sink in sinks:
            sink(frame)

    def watch(start: GenerationStart) -> FrameStreamer:
        return FrameStreamer(start, to_all)

    watching: Watch | None = watch if sinks else None
    with view or nullcontext():
        return generate_samples(
            loaded.model,
            loaded.tokenizer,
            [prompt.text for prompt in batch],
            options,
            first_row=first_row,
            watch=watching,
            importance=importance,
            encoded=[
                encoded_prompt(loaded.model, loaded.text, prompt.text, options.infill is not False) for prompt in batch
            ],
        )


class _Judge:
    """Tells what texts are worth."""

    def __init__(self, request: QualityRequest, device: Any) -> None:
        self._request = request
        name = request.reference_model
        self._reference = load_reference(name, device) if name is not None else None

    def __call__(self, samples: Sequence[GeneratedText]) -> list[dict[str, Any]]:
        return quality_of_each(samples, self._reference)

    def together(self, samples: Sequence[GeneratedText]) -> dict[str, Any]:
        return quality_of_all(samples, self._reference, self._request.real_texts)


def _judge(quality: QualityRequest | None, device: Any) -> Any:
    if quality is None:
        return lambda samples: [None] * len(samples)
    return _Judge(quality, device)


def _print_together(
    samples: Sequence[GeneratedText],
    records: Sequence[dict[str, Any]],
    form: str,
    quality: QualityRequest | None,
    judge: Any,
) -> None:
    together = None if quality is None else judge.together(samples)
    if form == JSON:
        print(as_json(records, together))
    elif together is not None and len(samples) > 1:
        # stdout of JSON lines is for the texts alone.
        print(together_line(len(samples), together), file=sys.stdout if form == TEXT else sys.stderr)


def _facts(loaded: Target, options: GenerationOptions) -> dict[str, Any]:
    facts: dict[str, Any] = {"kind": "masked diffusion" if loaded.is_denoiser else "causal LM"}
    if loaded.step is not None:
        facts["optimiser steps"] = loaded.step
    given = dataclasses.asdict(options)
    if loaded.is_denoiser:  # what the model does where nothing was asked for
        names = ("sampler", "sampler_config", "max_denoising_steps")
        complete = loaded.model._prepare_generation_config(None, **{name: given[name] for name in names})
        own = complete.sampler_config.to_dict()
        given |= {"max_denoising_steps": complete.max_denoising_steps, "sampler": own.pop("sampler")}
        given["sampler_config"] = own or None
        given["infill"] = options.infill is not False
    return facts | {name: value for name, value in given.items() if value is not None}


def prompts_given(texts: Sequence[str], from_file: Iterator[Prompt] | None) -> Iterator[Prompt]:
    """Return the prompts of the command line, then those of a file; one empty prompt where there are none."""
    given = [Prompt(text) for text in texts]
    if from_file is not None:
        return itertools.chain(given, from_file)
    return iter(given or [Prompt("")])
