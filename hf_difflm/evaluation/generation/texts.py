"""Text from a model of either kind, through one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.generation import StoppingCriteriaList

from ...data.text_ids import TextIds, pad_id
from ...errors import UserError
from ...models.backbones.check import takes_left_padding
from ...models.loading import is_denoiser
from ...models.masked_diffusion.generation_configuration import NEW_TOKENS
from ...models.masked_diffusion.generation_prefix import KeptPrefix
from ...models.masked_diffusion.samplers import check_sampler
from ..undisturbed import undisturbed
from .holes import PromptIds, with_holes
from .options import GenerationOptions
from .read_before import causal_cache, keep_causal, keeps_blocks
from .row_draws import Unwanted, drawn_by_row

logger = logging.getLogger(__name__)

DENOISER_OPTIONS = (
    "max_denoising_steps",
    "sampler",
    "sampler_config",
    "importance_weight",
    "block_length",
    "guidance_scale",
)
"""Options that a causal LM refuses."""


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote after a prompt, or into it.

    Attributes:
        prompt: as it was given.
        text: the new text alone; of a prompt with holes the whole text.
        ids: its tokens, special ones (the end, padding) left out.
        fills: what was written into each hole of the prompt; None where it has none.
    """

    prompt: str
    text: str
    ids: list[int]
    fills: tuple[str, ...] | None = None

    @property
    def context(self) -> str:
        """What the text goes on from: the prompt, nothing where the text holds it."""
        return self.prompt if self.fills is None else ""


@dataclass(frozen=True)
class GenerationStart:
    """What is known before the first forward, for those who watch.

    Attributes:
        rows: number of each text, counted over all calls.
        prompts: as they were given.
        ids_BP: (B, P) prompts, padded on the left; masks are holes.
        attention_BP: (B, P), 0 at padding.
        new_tokens: most tokens to come after the prompts.
        mask_id: the mask token; None for a causal LM.
    """

    rows: tuple[int, ...]
    prompts: tuple[str, ...]
    ids_BP: torch.Tensor
    attention_BP: torch.Tensor
    new_tokens: int
    mask_id: int | None


Watch = Callable[[GenerationStart], Any]
"""Gives the streamer of a generation that is about to start."""

Importance = Callable[[torch.Tensor], torch.Tensor]
"""Weights of positions for the (R, L) draft of some rows, see ``MaskedDiffusionForMaskedLM.generate``."""


def generate_samples(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    options: GenerationOptions,
    *,
    first_row: int = 0,
    watch: Watch | None = None,
    importance: Importance | None = None,
    encoded: Sequence[PromptIds] | None = None,
    new_tokens: int | None = None,
    seeds: Sequence[int] | None = None,
    kept: KeptPrefix | None = None,
) -> list[GeneratedText]:
    """Continue each prompt (the empty one too), or fill its holes, in one batch.

    The same seed gives the same texts; those of a denoiser depend on the seed and their number alone, not on the texts
    beside them. Prompts of several lengths go through a causal LM in several batches where padding would change a row.
    The names of control tokens in prompts are these tokens, as far as the tokenizer reads them
    (``split_special_tokens``); the mask token is a hole where a denoiser may infill, else it stays text. Neither the
    model nor any random number generator is changed, so this may be called in the middle of a training.

    Args:
        model: masked diffusion model or causal LM.
        tokenizer: its tokenizer.
        prompts: at least one.
        options: how.
        first_row: number of the first text, where this is one batch of several.
        watch: gives a streamer.
        importance: weighs positions for the uncertainty sampler; ``options.importance_weight`` needs it, see
            :func:`~hf_difflm.evaluation.generation.importance_weights.importance_for`.
        encoded: the prompts as the model gets them; None: see :func:`encoded_prompt`.
        new_tokens: after prompts without holes where ``options.max_new_tokens`` is None, or as many as the model takes
            there; None: as many as the model says.
        seeds: of each text, see :func:`row_seed`, so that a causal LM's do not depend on the texts beside them either;
            None: from ``options.seed`` and its number.
        kept: of one prompt: what was read for the text before, as far as the model can keep it; it has this one's afterwards.

    Raises:
        UserError: a prompt and a text together longer than the model takes, a value out of its range, an empty prompt
            and no token to begin with, or nothing to generate.
    """
    denoises = is_denoiser(model.config)
    arguments = _denoiser_arguments(options, importance) if denoises else _causal_arguments(options, pad_id(tokenizer))
    if encoded is None:
        text = texts_of(model, tokenizer)
        encoded = [encoded_prompt(model, text, prompt, options.infill is not False) for prompt in prompts]
        mask = getattr(tokenizer, "mask_token", None)
        if not denoises and options.infill is None and mask and any(mask in prompt for prompt in prompts):
            logger.warning("a causal LM goes on from a prompt and fills no holes: %s in it stays text", mask)
    by_length: dict[tuple[int, int], list[int]] = {}
    apart = not denoises and len({len(prompt.ids) for prompt in encoded}) > 1 and not takes_left_padding(model)
    for place, prompt in enumerate(encoded):
        length = new_tokens_after(model, prompt, options, new_tokens)
        by_length.setdefault((length, len(prompt.ids) if apart else 0), []).append(place)
    samples: dict[int, GeneratedText] = {}
    for (length, _), places in by_length.items():
        rows = [first_row + place for place in places]
        own = [row_seed(options.seed, row) for row in rows] if seeds is None else [seeds[place] for place in places]
        if denoises:
            arguments["seed"] = own
        elif seeds is not None:
            arguments = drawn_by_row(model, options, own, arguments)
        start = _start(
            tokenizer,
            [prompts[place] for place in places],
            [encoded[place] for place in places],
            length,
            denoises,
            rows,
        )
        with undisturbed(model):
            torch.manual_seed(options.seed if rows[0] == 0 else row_seed(options.seed, rows[0]) % 2**63)
            sequences = _generate(model, start, arguments | _watched(start, watch, denoises), denoises, kept)
        for place, row in zip(places, sequences.tolist(), strict=True):
            samples[place] = _sample(tokenizer, prompts[place], encoded[place], row, start.ids_BP.shape[1])
    return [samples[place] for place in range(len(prompts))]


def new_tokens_after(model: Any, prompt: PromptIds, options: GenerationOptions, default: int | None = None) -> int:
    """Return the most tokens that follow a prompt: what the options say, else 0 after holes and ``default`` elsewhere.

    Raises:
        UserError: more than the model takes, or nothing to generate.
    """
    length = options.max_new_tokens
    if length is None:
        default = default or getattr(model.generation_config, "max_new_tokens", None) or NEW_TOKENS
        length = 0 if prompt.spans else _within(default, prompt, options, length_limit(model))
    _check_length(model, prompt, length, options)
    return length


def check_options(model: Any, tokenizer: Any, options: GenerationOptions, importance: Importance | None = None) -> Any:
    """Return the complete generation configuration of a denoiser, what it will do; None of a causal LM.

    Raises:
        UserError: an option that the model does not take, or a value out of its range.
    """
    if not is_denoiser(model.config):
        _causal_arguments(options, pad_id(tokenizer))
        return None
    arguments = _denoiser_arguments(options, importance)
    arguments.pop("importance", None)
    try:
        return model._prepare_generation_config(None, **arguments)
    except ValueError as error:
        raise UserError(str(error)) from error


def _watched(start: GenerationStart, watch: Watch | None, denoises: bool) -> dict[str, Any]:
    """The arguments of those who watch; a denoiser asks the streamer itself which rows are unwanted."""
    if watch is None:
        return {}
    streamer = watch(start)
    if denoises or not hasattr(streamer, "unwanted"):
        return {"streamer": streamer}
    return {"streamer": streamer, "stopping_criteria": StoppingCriteriaList([Unwanted(streamer)])}


def _within(new_tokens: int, prompt: PromptIds, options: GenerationOptions, limit: int | None) -> int:
    """The length of a text that nobody has said: no more than the model takes after the prompt."""
    room = new_tokens if limit is None or options.block_length is not None else limit - len(prompt.ids)
    return min(new_tokens, room) if room > 0 else new_tokens


def length_limit(model: Any) -> int | None:
    """Return how many tokens, prompt and text together, a model takes; None where it does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def texts_of(model: Any, tokenizer: Any) -> TextIds:
    """Return how text becomes ids for a model: a masked diffusion model was trained here, of others the tokenizer knows."""
    return TextIds.of(tokenizer, trained_here=True if is_denoiser(model.config) else None)


def encoded_prompt(model: Any, text: TextIds, prompt: str, infill: bool) -> PromptIds:
    """Return a prompt as a model gets it: of a denoiser that may ``infill`` with holes. Raises UserError as its parts do."""
    holed = with_holes(text, prompt, length_limit(model)) if infill and is_denoiser(model.config) else None
    return PromptIds(text.prompt(prompt)) if holed is None else holed


def _check_length(model: Any, prompt: PromptIds, new_tokens: int, options: GenerationOptions) -> None:
    limit = length_limit(model)
    # Block by block the model slides over a text of any length.
    slides = options.block_length is not None and options.block_length < new_tokens
    if limit is not None and len(prompt.ids) + new_tokens > limit and not slides:
        raise UserError(
            f"the longest prompt ({len(prompt.ids)} tokens) and max_new_tokens {new_tokens} together exceed the {limit} "
            "tokens the model takes; shorten the prompt or lower --max-new-tokens"
        )
    if new_tokens == 0 and not prompt.spans:
        raise UserError(
            "max_new_tokens is 0 and a prompt has no hole to fill; raise --max-new-tokens, or write [MASK] in the prompt "
            "of a masked diffusion model"
        )


def _denoiser_arguments(options: GenerationOptions, importance: Importance | None) -> dict[str, Any]:
    if options.importance_weight is not None and importance is None:
        raise UserError("importance_weight needs the importance that a run with the objective atat has learned")
    try:
        check_sampler(options.sampler, options.sampler_config)
    except ValueError as error:
        raise UserError(str(error)) from None
    names = {*DENOISER_OPTIONS, "temperature", "top_k", "top_p", "repetition_penalty"} - {"importance_weight"}
    arguments = {name: value for name in names if (value := getattr(options, name)) is not None}
    return arguments if importance is None else arguments | {"importance": importance}


def _causal_arguments(options: GenerationOptions, filler: int) -> dict[str, Any]:
    for name in DENOISER_OPTIONS:
        if getattr(options, name) is not None:
            raise UserError(f"{name} is for masked diffusion models, but this is a causal LM; leave it out")
    if options.infill:
        raise UserError("infill is for masked diffusion models, but this is a causal LM; leave it out")
    greedy = options.temperature == 0
    arguments: dict[str, Any] = {"do_sample": not greedy, "pad_token_id": filler}
    if options.repetition_penalty is not None:
        arguments["repetition_penalty"] = options.repetition_penalty
    if not greedy:  # what shapes a draw has no use otherwise, and transformers would say so
        # A stock causal LM would fall back on transformers' top_k of 50; here nothing is cut unless it is asked for.
        shapes = {"temperature": options.temperature, "top_k": options.top_k or 0, "top_p": options.top_p}
        arguments |= {name: value for name, value in shapes.items() if value is not None}
    arguments["use_cache"] = True  # a training with gradient checkpointing has switched it off
    return arguments


def _start(
    tokenizer: Any,
    prompts: Sequence[str],
    encoded: Sequence[PromptIds],
    new_tokens: int,
    is_denoiser: bool,
    rows: Sequence[int],
) -> GenerationStart:
    longest = max(len(prompt.ids) for prompt in encoded)
    filler = pad_id(tokenizer)
    # Padded on the left, by a mask: the pad token may be a token of the text.
    padding = [longest - len(prompt.ids) for prompt in encoded]
    ids_BP = torch.tensor([[filler] * pad + prompt.ids for pad, prompt in zip(padding, encoded, strict=True)])
    attention_BP = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
    mask_id = tokenizer.mask_token_id if is_denoiser else None
    return GenerationStart(tuple(rows), tuple(prompts), ids_BP, attention_BP, new_tokens, mask_id)


def _generate(
    model: Any, start: GenerationStart, arguments: dict[str, Any], is_denoiser: bool, kept: KeptPrefix | None
) -> torch.Tensor:
    ids_BP = start.ids_BP.to(model.device)
    cache = None
    if kept is not None and is_denoiser and keeps_blocks(model, arguments):
        arguments = arguments | {"kept": kept}
    elif kept is not None and not is_denoiser and (cache := causal_cache(model, kept, ids_BP[0])) is not None:
        arguments = arguments | {"past_key_values": cache}
    try:
        sequences = model.generate(
            input_ids=ids_BP,
            attention_mask=start.attention_BP.to(model.device),
            max_new_tokens=start.new_tokens,
            **arguments,
        )
    except ValueError as error:
        if not is_denoiser:
            raise
        raise UserError(str(error)) from error  # ours, and made to be read
    if kept is not None and cache is not None:
        keep_causal(kept, cache, sequences[0])
    return sequences


def _sample(tokenizer: Any, prompt: str, encoded: PromptIds, row: list[int], prompt_length: int) -> GeneratedText:
    special = set(tokenizer.all_special_ids)
    if not encoded.spans:
        new = row[prompt_length:]
        text = tokenizer.decode(new, skip_special_tokens=True)
        return GeneratedText(prompt, text, [token for token in new if token not in special])
    whole = row[prompt_length - len(encoded.ids) :]
    fills = tuple(tokenizer.decode(whole[start:end], skip_special_tokens=True) for start, end in encoded.spans)
    text = tokenizer.decode(whole, skip_special_tokens=True)
    return GeneratedText(prompt, text, [token for token in whole if token not in special], fills)


def row_seed(seed: int, row: int) -> int:
    """The seed of one text, from that of all and its number."""
    return int(np.random.SeedSequence([seed, row]).generate_state(1, np.uint64)[0])
