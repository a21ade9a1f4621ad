"""Text from a model of either kind, through one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import UserError
from ..models.masked_diffusion.samplers import check_sampler
from .options import GenerationOptions
from .undisturbed import undisturbed


@dataclass(frozen=True)
class GeneratedText:
    """What a model wrote after a prompt.

    Attributes:
        prompt: as it was given.
        text: the new text alone.
        ids: its tokens, special ones (the end, padding) left out.
    """

    prompt: str
    text: str
    ids: list[int]


def generate_texts(model: Any, tokenizer: Any, prompts: Sequence[str], options: GenerationOptions) -> list[str]:
    """Continue each prompt; the texts of :func:`generate_samples`."""
    return [sample.text for sample in generate_samples(model, tokenizer, prompts, options)]


def generate_samples(
    model: Any, tokenizer: Any, prompts: Sequence[str], options: GenerationOptions
) -> list[GeneratedText]:
    """Continue each prompt (the empty one too) in one batch.

    The same seed gives the same texts. Prompts are taken literally: special tokens in them stay text. Neither the model
    nor any random number generator is changed, so this may be called in the middle of a training.

    Raises:
        UserError: a prompt and a text together longer than the model takes, a value out of its range, or an empty
            prompt and no token to begin with.
    """
    is_denoiser = getattr(model.config, "model_type", None) == "masked_diffusion"
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    longest = max(len(row) for row in ids)
    pad_id = _pad_id(tokenizer)
    # Padded on the left, by a mask: the pad token may be a token of the text.
    input_ids = torch.tensor([[pad_id] * (longest - len(row)) + row for row in ids])
    attention_mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    limit = length_limit(model)
    new_tokens = options.max_new_tokens or getattr(model.generation_config, "max_new_tokens", None) or 128
    if limit is not None and longest + new_tokens > limit:
        raise UserError(
            f"the longest prompt ({longest} tokens) and max_new_tokens {new_tokens} together exceed the {limit} tokens "
            "the model takes; shorten the prompt or lower --max-new-tokens"
        )
    arguments: dict[str, Any] = {"max_new_tokens": new_tokens, "temperature": options.temperature}
    arguments |= {"top_k": options.top_k, "top_p": options.top_p}
    if is_denoiser:
        try:
            check_sampler(options.sampler, options.sampler_config)
        except ValueError as error:
            raise UserError(str(error)) from None
        arguments |= {
            "max_denoising_steps": options.max_denoising_steps,
            "sampler": options.sampler,
            "sampler_config": options.sampler_config,
            "seed": options.seed,
        }
    else:
        for name in ("max_denoising_steps", "sampler", "sampler_config"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is for masked diffusion models, but this is a causal LM; leave it out")
        greedy = options.temperature == 0
        # A stock causal LM would fall back on transformers' top_k of 50; here nothing is cut unless it is asked for.
        arguments |= {"do_sample": not greedy, "top_k": options.top_k or 0, "pad_token_id": pad_id}
        if greedy:  # what shapes a draw has no use, and transformers would say so
            arguments |= {"temperature": None, "top_k": None, "top_p": None}
        arguments["use_cache"] = True  # a training with gradient checkpointing has switched it off
    arguments = {name: value for name, value in arguments.items() if value is not None}
    with undisturbed(model):
        torch.manual_seed(options.seed)
        sequences = model.generate(
            input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), **arguments
        )
    special = set(tokenizer.all_special_ids)
    samples = []
    for prompt, row in zip(prompts, sequences[:, longest:].tolist(), strict=True):
        text = tokenizer.decode(row, skip_special_tokens=True)
        samples.append(GeneratedText(prompt, text, [token for token in row if token not in special]))
    return samples


def length_limit(model: Any) -> int | None:
    """Return how many tokens, prompt and text together, a model takes; None where it does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def prompt_ids(tokenizer: Any, prompt: str) -> list[int]:
    """Ids of a prompt as a model gets it: after BOS, where the tokenizer has one; the empty prompt after BOS or EOS.

    Raises:
        UserError: an empty prompt, and the tokenizer has neither.
    """
    ids = encode(tokenizer, prompt)
    if tokenizer.bos_token_id is not None:
        return [tokenizer.bos_token_id, *ids]
    if ids:
        return ids
    first = first_token_id(tokenizer)
    if first is None:
        raise UserError("the tokenizer has neither a BOS nor an EOS token to begin an empty prompt with; give a prompt")
    return [first]


def first_token_id(tokenizer: Any) -> int | None:
    """Return the id that a text begins with: BOS, else EOS, which ends the text before it; None without either."""
    return tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a prompt, without special tokens around it or in it; a lone surrogate, which has no UTF-8, is U+FFFD."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


def _pad_id(tokenizer: Any) -> int:
    """An id to fill up with; padding is masked, so any will do, and the end of the text stays the end of the text."""
    for known in (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id):
        if known is not None:
            return known
    return 0
