"""Text from a model of either kind, through one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..errors import UserError
from .options import GenerationOptions


def generate_texts(model: Any, tokenizer: Any, prompts: Sequence[str], options: GenerationOptions) -> list[str]:
    """Continue each prompt (the empty one too); returns the new text alone.

    The same seed gives the same texts. Prompts are taken literally: special tokens in them stay text.

    Raises:
        UserError: a prompt and a text together longer than the model takes, or a value out of its range.
    """
    is_denoiser = model.config.model_type == "masked_diffusion"
    ids = [[tokenizer.bos_token_id, *encode(tokenizer, prompt)] for prompt in prompts]
    longest = max(len(row) for row in ids)
    # Padded on the left, by a mask: the pad token may be a token of the text.
    input_ids = torch.tensor([[tokenizer.pad_token_id] * (longest - len(row)) + row for row in ids])
    attention_mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in ids])
    limit = getattr(model.config, "max_position_embeddings", None)
    new_tokens = options.max_new_tokens or getattr(model.generation_config, "max_new_tokens", None) or 128
    if limit is not None and longest + new_tokens > limit:
        raise UserError(
            f"the longest prompt ({longest} tokens) and max_new_tokens {new_tokens} together exceed the {limit} tokens "
            "the model takes; shorten the prompt or lower --max-new-tokens"
        )
    arguments: dict[str, Any] = {"max_new_tokens": new_tokens, "temperature": options.temperature}
    arguments |= {"top_k": options.top_k, "top_p": options.top_p}
    if is_denoiser:
        arguments |= {
            "max_denoising_steps": options.max_denoising_steps,
            "sampler": options.sampler,
            "seed": options.seed,
        }
    else:
        for name in ("max_denoising_steps", "sampler"):
            if getattr(options, name) is not None:
                raise UserError(f"{name} is for masked diffusion models, but this is a causal LM; leave it out")
        greedy = options.temperature == 0
        # A stock causal LM would fall back on transformers' top_k of 50; here nothing is cut unless it is asked for.
        arguments |= {"do_sample": not greedy, "top_k": options.top_k or 0}
        arguments |= {"temperature": None if greedy else options.temperature, "pad_token_id": tokenizer.pad_token_id}
        torch.manual_seed(options.seed)
    arguments = {name: value for name, value in arguments.items() if value is not None}
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            sequences = model.generate(
                input_ids=input_ids.to(model.device), attention_mask=attention_mask.to(model.device), **arguments
            )
    finally:
        model.train(was_training)
    return [tokenizer.decode(row[longest:], skip_special_tokens=True) for row in sequences]


def encode(tokenizer: Any, text: str) -> list[int]:
    """Ids of a prompt, without special tokens around it or in it."""
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
