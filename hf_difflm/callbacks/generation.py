"""Let the model write while it trains: the same prompts, the same seeds, step after step."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import is_deepspeed_zero3_enabled

from ..errors import UserError
from ..evaluation.generation.chat_prompts import chat_prompt
from ..evaluation.generation.holes import PromptIds
from ..evaluation.generation.options import GenerationOptions
from ..evaluation.generation.prompts import checked_prompt
from ..evaluation.generation.texts import GeneratedText, encoded_prompt, generate_samples, length_limit, texts_of
from ..evaluation.quality.reference_model import ReferenceModel, load_reference
from ..evaluation.quality.reference_perplexity import ReferencePerplexity, pooled, reference_perplexities
from ..evaluation.quality.text_statistics import TextQuality, mean_quality, text_quality
from ..evaluation.undisturbed import undisturbed
from ..runs.journal.schema import MeasurementRecord, SampleRecord
from .reports import reports_of

logger = logging.getLogger(__name__)

DEFAULT_PROMPTS = ("", "To be or not to be", "Once upon a time", "In a galaxy far, far away")
Prompt = str | Mapping[str, Any] | Sequence[Mapping[str, Any]] | Sequence[int]
"""A text; a conversation, or its messages alone; or ids."""
GREEDY, SAMPLED = "greedy", "sampled"
_TEMPERATURES = {GREEDY: 0.0, SAMPLED: 1.0}


class GenerationSamplesCallback(TrainerCallback):
    """Generate text at every ``interval`` steps and at the last one, in any Trainer whose model can generate.

    The training is not changed by it: neither weights nor modes nor random numbers, bit for bit. Every process
    generates, since sharded weights need all of them; world zero publishes a :class:`SampleRecord` for each text, with
    its quality in ``extra`` (see :class:`TextQuality`), and one :class:`MeasurementRecord` with the means.

    A model that cannot generate, or a Trainer without tokenizer, is one warning. Prompts that take more than half of the
    model's length are left out with one, and ``max_new_tokens`` is lowered to what the length leaves. In a prompt of a
    masked diffusion model ``[MASK]`` is a hole and ``[MASK]{12}`` twelve: they are filled, and nothing is appended.

    Text begins with BOS where the tokenizer or :func:`hf_difflm.data.load_tokenizer` made it so, and the names of control
    tokens in it are these tokens, as far as the tokenizer reads them.

    Args:
        prompts: what to go on from: texts, the empty one is text from nothing; lists of messages, which the chat template
            writes; lists of ids, which are taken as they are; or objects as in a file of ``--generation-prompts``, with
            ``prompt``, a text, or ``messages``, and perhaps ``tools`` and ``chat_template_kwargs``.
        interval: optimiser steps between samples.
        max_new_tokens: tokens of each text; None: as many as the model's length leaves, at most 1024.
        greedy_and_sampled: a text of the likeliest tokens and a drawn one for each prompt; else the drawn one alone.
        seed: the same at each step, so that the texts differ by what the model has learnt alone.
        before_training: sample the untrained model too, as step 0.
        reference_model: folder or Hub name of a causal LM whose perplexity of each text is noted beside its entropy.
        weights: called for a context in which the model has the weights to sample from, e.g. a moving average.
        tokenizer: instead of the Trainer's ``processing_class``.

    Raises:
        UserError: an argument out of its range; at the start of training, a reference model that cannot be loaded.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt] = DEFAULT_PROMPTS,
        interval: int = 1000,
        max_new_tokens: int | None = 100,
        greedy_and_sampled: bool = True,
        seed: int = 0,
        before_training: bool = False,
        reference_model: str | None = None,
        weights: Callable[[], AbstractContextManager[Any]] | None = None,
        tokenizer: Any = None,
    ) -> None:
        if isinstance(prompts, str) or not prompts:
            raise UserError(f"prompts is {prompts!r}; give a list with at least one prompt")
        if interval < 1:
            raise UserError(f"interval is {interval}; give a number of steps of at least 1")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}; give at least 1")
        if seed < 0:
            raise UserError(f"seed is {seed}; give 0 or more")
        checked = [checked_prompt(prompt, f"prompts[{number}]") for number, prompt in enumerate(prompts)]
        self.prompts = tuple({repr(prompt): prompt for prompt in checked}.values())
        self.interval = interval
        self.max_new_tokens = max_new_tokens
        self.modes = (GREEDY, SAMPLED) if greedy_and_sampled else (SAMPLED,)
        self.seed = seed
        self.before_training = before_training
        self.reference_model = reference_model
        self.weights = weights or nullcontext
        self.tokenizer = tokenizer
        self.last_samples: list[SampleRecord] = []
        """Those of the latest step, on world zero."""
        self._reference: ReferenceModel | None = None
        self._why_off: str | None = None
        self._usable: list[tuple[str, PromptIds]] = []
        self._new_tokens = 0
        self._sampled_step: int | None = None
        self._evaluated_step: int | None = None
        self._stopped_step: int | None = None

    # ---- hooks of any Trainer ----

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        processing_class: Any = None,
        **kwargs: Any,
    ) -> None:
        self._sampled_step = self._evaluated_step = self._stopped_step = None
        self._why_off = self._prepare(model, processing_class, warn=state.is_world_process_zero)
        if self._why_off is not None:
            if state.is_world_process_zero:
                logger.warning("no text is generated during this training: %s", self._why_off)
            return
        if self.reference_model is not None and state.is_world_process_zero and self._reference is None:
            if is_deepspeed_zero3_enabled():
                raise UserError("reference_model does not work under ZeRO-3, which would shard it too; leave it out")
            inner = extract_model_from_parallel(model)
            with undisturbed(inner):  # loading may draw random numbers
                self._reference = load_reference(self.reference_model, inner.device)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if self.before_training and state.global_step == 0:
            self._sample(state, model)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step % self.interval == 0 or state.global_step >= state.max_steps:
            self._sample(state, model)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if control.should_training_stop:  # before an evaluation could have stopped it: that logs first
            self._stopped_step = state.global_step

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        self._evaluated_step = state.global_step

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        # An evaluation ended the training (early stopping): this is the last step. An interrupt is not kept waiting.
        step = state.global_step
        if control.should_training_stop and self._evaluated_step == step and self._stopped_step != step:
            self._sample(state, model)

    # ---- sampling ----

    def _prepare(self, model: Any, processing_class: Any, warn: bool) -> str | None:
        """Find out what can be generated; returns why nothing can."""
        tokenizer = self.tokenizer or processing_class
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)  # of a processor of text and images
        if model is None or not callable(getattr(extract_model_from_parallel(model), "generate", None)):
            return f"a {type(model).__name__} cannot generate"
        inner = extract_model_from_parallel(model)
        if getattr(inner, "config", None) is None:
            return f"a {type(inner).__name__} has no configuration that says how it generates"
        if getattr(inner.config, "is_encoder_decoder", False):
            return f"a {type(inner).__name__} answers a text and does not go on from it"
        if not callable(getattr(tokenizer, "decode", None)):
            return "the Trainer has no tokenizer; give it as processing_class"
        self._tokenizer = tokenizer
        limit = length_limit(inner)
        encoded = [self._encoded(inner, prompt) for prompt in self.prompts]
        self._usable = [found for found in encoded if found is not None and _fits(found[1], limit)]
        left_out = [prompt for prompt, found in zip(self.prompts, encoded, strict=True) if found not in self._usable]
        if not self._usable:
            return f"none of the {len(self.prompts)} prompts fits a model of {limit} tokens"
        if left_out and warn:
            logger.warning(
                "no text is generated after %d of %d prompts, for which a model of %s tokens has no room or the tokenizer "
                "no first token or chat template: %.60r",
                len(left_out),
                len(self.prompts),
                limit,
                left_out[0],
            )
        # Nothing is appended to a prompt with holes.
        appended = [found for _, found in self._usable if not found.spans]
        longest = max((len(found.ids) for found in appended), default=0)
        room = 1024 if limit is None else limit - longest
        self._new_tokens = min(self.max_new_tokens or 1024, room)
        return None if self._new_tokens >= 1 else f"a model of {limit} tokens has no room for text"

    def _encoded(self, model: Any, prompt: Prompt) -> tuple[str, PromptIds] | None:
        """The prompt as text and as the model gets it; None where it cannot be, or has more holes than the model takes."""
        text = texts_of(model, self._tokenizer)
        try:
            if isinstance(prompt, str):
                return prompt, encoded_prompt(model, text, prompt, infill=True)
            if isinstance(prompt, Mapping):
                return chat_prompt(text, prompt)
            return text.shown(prompt), PromptIds(list(prompt))  # type: ignore[arg-type]
        except UserError:
            return None

    def _sample(self, state: TrainerState, model: Any) -> None:
        if self._why_off is not None or self._sampled_step == state.global_step:
            return
        started = time.perf_counter()
        self._sampled_step = state.global_step
        inner = extract_model_from_parallel(model)
        found: dict[str, list[GeneratedText]] = {}
        try:
            with undisturbed(inner), self.weights():
                for mode in self.modes:
                    options = GenerationOptions(temperature=_TEMPERATURES[mode], seed=self.seed)
                    found[mode] = generate_samples(
                        inner,
                        self._tokenizer,
                        [prompt for prompt, _ in self._usable],
                        options,
                        new_tokens=self._new_tokens,
                        encoded=[ids for _, ids in self._usable],
                    )
        except (ValueError, NotImplementedError) as error:  # generate refuses the model or its generation configuration
            self._why_off = str(error)
            if state.is_world_process_zero:
                logger.warning("no text is generated any more: %s", " ".join(self._why_off.split()))
            return
        if state.is_world_process_zero:
            self._publish(state, found)
        reports_of(state).leave_out("sampling", time.perf_counter() - started)

    def _publish(self, state: TrainerState, found: dict[str, list[GeneratedText]]) -> None:
        board = reports_of(state)
        metrics: dict[str, float | None] = {}
        self.last_samples = []
        for mode, texts in found.items():
            qualities = [text_quality(text.ids) for text in texts]
            perplexities = self._perplexities(texts)
            for text, quality, perplexity in zip(texts, qualities, perplexities, strict=True):
                extra = {
                    "mode": mode,
                    "seed": self.seed,
                    **quality.as_dict(),
                    **(perplexity.as_dict() if perplexity else {}),
                }
                record = SampleRecord(iter=state.global_step, prompt=text.prompt, text=text.text, extra=extra)
                self.last_samples.append(record)
                board.publish(record)
            metrics |= _means(mode, qualities, perplexities)
        board.publish(MeasurementRecord(iter=state.global_step, source="samples", metrics=metrics))

    def _perplexities(self, texts: Sequence[GeneratedText]) -> list[ReferencePerplexity | None]:
        if self._reference is None:
            return [None] * len(texts)
        with torch.autocast(self._reference.model.device.type, enabled=False):
            return list(
                reference_perplexities(
                    [text.text for text in texts], self._reference, contexts=[text.context for text in texts]
                )
            )


def _fits(prompt: PromptIds, limit: int | None) -> bool:
    """Whether there is room for the prompt: half of the model's length, all of it where only holes are filled."""
    return limit is None or len(prompt.ids) <= (limit if prompt.spans else max(limit // 2, 1))


def _means(
    mode: str, qualities: Sequence[TextQuality], perplexities: Sequence[ReferencePerplexity | None]
) -> dict[str, float | None]:
    """The means over prompts, by names as trackers have them: ``samples_greedy/distinct_2``."""
    metrics: dict[str, Any] = mean_quality(qualities)
    known = [perplexity for perplexity in perplexities if perplexity is not None]
    if known:
        judged = pooled(known, known[0].reference).as_dict()
        metrics |= {name: judged[name] for name in ("reference_perplexity", "reference_entropy")}
    return {f"samples_{mode}/{name}": value for name, value in metrics.items()}
