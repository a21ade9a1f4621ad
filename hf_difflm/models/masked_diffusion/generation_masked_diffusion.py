"""``generate`` for masked diffusion models, in the idiom transformers set with DiffusionGemma."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation import LogitsProcessorList
from transformers.generation.streamers import BaseStreamer
from transformers.utils import ModelOutput

from .generation_canvas import Canvas
from .generation_configuration import MaskedDiffusionGenerationConfig, merged_config
from .generation_loop import DenoisingLoop
from .generation_prefix import KeptPrefix
from .generation_random import RowDraws, row_seeds
from .generation_streamers import RecordingStreamer


@dataclass
class MaskedDiffusionGenerationOutput(ModelOutput):
    """What :meth:`generate` returns with ``return_dict_in_generate``; B is prompts x ``num_return_sequences``.

    Args:
        sequences: (B, P + max_new_tokens) ids, padding after the end of the text.
        tokens_per_forward: (B,) tokens filled in (padding apart) over the forwards their row took part in; with
            guidance each step counts as two.
        reveal_steps: (B, P + max_new_tokens) the step that revealed a position, counted from 1 over all blocks; 0 what
            was given, -1 what follows the end unrevealed.
        history: (B, P + max_new_tokens) canvas after each step that changed something, with ``output_history``.
    """

    sequences: torch.Tensor | None = None
    tokens_per_forward: torch.Tensor | None = None
    reveal_steps: torch.Tensor | None = None
    history: tuple[torch.Tensor, ...] | None = None


class MaskedDiffusionGenerationMixin:
    """Gives a denoiser ``generate``. Expects ``config.mask_token_id``, ``config.schedule()`` and SUBS logits."""

    config: Any
    generation_config: Any
    generation_config_class: Any

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor | None = None,
        generation_config: MaskedDiffusionGenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer: BaseStreamer | None = None,
        attention_mask: torch.Tensor | None = None,
        importance: torch.Tensor | Callable[[torch.Tensor], torch.Tensor] | None = None,
        kept: KeptPrefix | None = None,
        **kwargs: Any,
    ) -> torch.Tensor | MaskedDiffusionGenerationOutput:
        """Fill the masks of the prompts, and ``max_new_tokens`` masks after each.

        A row draws with random numbers of its own, so its text does not depend on the rows beside it. Draws are made in
        float64: float32 noise acts as a lower temperature (arXiv 2409.02908). Given tokens never change, nor do
        revealed ones (but for ``remdm``), and the mask token is never drawn.

        Args:
            input_ids: (B, P) prompts, padded on the left where they differ in length (where only holes are filled, on
                either side); None: one empty prompt (BOS).
            generation_config: parameters; keyword arguments of the same names win over it, and it over the model's own.
            logits_processor: called on (N, V) logits with the (N, P + max_new_tokens) canvas (masks at its padding),
                after guidance and before SUBS, temperature, top-k and top-p.
            streamer: gets what stands before the first mask (``put``), a draft after each step of what follows
                (``put_draft``, if it has one), the text. Before each step its ``unwanted``, if it has one, returns (B,) bool
                in NumPy: rows that are left as they are and cost nothing any more.
            attention_mask: (B, P), 0 at padding.
            importance: for the uncertainty sampler: (P + max_new_tokens,) or (B, P + max_new_tokens) weights of
                positions, or a callable that returns them for the (R, P + max_new_tokens) canvas of some rows in which
                each mask it may reveal is replaced by its likeliest token; the mask token stands at padding and at what
                comes later.
            kept: of a model with diffusion blocks, one row, no guidance: what the generation before has read. What the prompt
                shares with it, in whole blocks, is not read again, and the text is the same; it then has what was read here.
            kwargs: fields of :class:`MaskedDiffusionGenerationConfig`.

        Returns:
            (B x num_return_sequences, P + max_new_tokens) ids, or :class:`MaskedDiffusionGenerationOutput`.

        Raises:
            ValueError: no BOS token for an empty prompt, a text longer than the model takes, padding between a prompt
                and its text, nothing to fill, a mask in a prompt where ``infill`` is off, an unknown argument, logits that
                leave nothing to draw; of a model with diffusion blocks, what these do not go with.
        """
        config: Any = self._prepare_generation_config(generation_config, **kwargs)
        if importance is not None and config.sampler != "uncertainty":
            raise ValueError(f"importance is for the sampler uncertainty, but the sampler is {config.sampler}")
        size = getattr(self.config, "diffusion_block_size", None)
        if size is None and config.use_cache:
            raise ValueError(
                "use_cache is for models with diffusion blocks, but this one has none, so that each token that is revealed "
                "changes what all others see; leave it out"
            )
        if size is not None:
            _check_blocks(config, size)
        if kept is not None:
            _check_kept(config, size)
        prompt_BP, attention_BP = self._prepare_prompts(
            input_ids,
            attention_mask,
            config,
            shorten=generation_config is None and kwargs.get("max_new_tokens") is None,
        )
        copies = config.num_return_sequences
        if kept is not None and len(prompt_BP) * copies > 1:
            raise ValueError(f"kept is of one text, but there are {len(prompt_BP) * copies}; generate them one by one")
        seed = config.seed if config.seed is not None else int(torch.randint(2**62, ()).item())
        draws = RowDraws(row_seeds(seed, len(prompt_BP), copies))
        if isinstance(importance, torch.Tensor):
            length = prompt_BP.shape[1] + config.max_new_tokens
            if tuple(importance.shape) not in ((length,), (len(prompt_BP), length)):
                raise ValueError(
                    f"importance is {tuple(importance.shape)}, but must be ({length},) or ({len(prompt_BP)}, {length}): "
                    "prompts and new tokens"
                )
            importance = importance.expand(len(prompt_BP), -1).repeat_interleave(copies, 0)
        denoiser: Any = self
        canvas = Canvas(
            prompt_BP.repeat_interleave(copies, 0),
            None if attention_BP is None else attention_BP.repeat_interleave(copies, 0),
            config.max_new_tokens,
            self.config.mask_token_id,
            self.config.max_position_embeddings,
            _device_of(denoiser),
        )
        if canvas.first_hole == canvas.length:
            raise ValueError(
                "max_new_tokens is 0 and no prompt has a mask token: there is nothing to fill; raise max_new_tokens, or "
                "encode [MASK] as one token (split_special_tokens=False of the tokenizer)"
            )
        if not config.infill and canvas.first_hole < canvas.prompt_length:
            raise ValueError(
                f"a prompt has the mask token {canvas.mask_id} at position {canvas.first_hole}, but infill is off; "
                "take it out or set infill=True"
            )
        loop = DenoisingLoop(denoiser, canvas, config, logits_processor, draws, streamer, importance, kept)
        if streamer is not None:
            streamer.put(canvas.ids_BL[:, : loop.first_hole].cpu())
        loop.run()
        loop.check()
        return self._finished(loop, streamer)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        """The arguments of ``forward``, as they are: PEFT looks for this method (``task_type="CAUSAL_LM"``)."""
        return {"input_ids": input_ids, **kwargs}

    def _prepare_prompts(
        self, input_ids: torch.Tensor | None, attention_BP: torch.Tensor | None, config: Any, *, shorten: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prompts and their mask, checked against each other and the length of the context.

        With ``shorten``, where the caller did not say how long a text shall be, it is no longer than there is room.
        """
        if input_ids is None:
            if config.bos_token_id is None:
                raise ValueError(
                    "an empty prompt needs a bos_token_id in the generation config; pass input_ids instead"
                )
            input_ids = torch.tensor([[config.bos_token_id]])
        if not isinstance(input_ids, torch.Tensor) or input_ids.dim() != 2:
            got = tuple(input_ids.shape) if isinstance(input_ids, torch.Tensor) else type(input_ids).__name__
            raise ValueError(f"input_ids must be a tensor of prompts x tokens, got {got}")
        if attention_BP is not None and attention_BP.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask is {tuple(attention_BP.shape)} but input_ids is {tuple(input_ids.shape)}; "
                "they must have the same shape"
            )
        if attention_BP is not None and config.max_new_tokens:
            apart_B = (attention_BP[:, -1] == 0) & attention_BP.any(-1)
            if apart_B.any():
                raise ValueError(
                    f"prompt {int(apart_B.long().argmax())} is padded on the right, where new tokens are to follow; pad on "
                    'the left (padding_side="left" of the tokenizer), or set max_new_tokens=0 to fill holes alone'
                )
        limit = self.config.max_position_embeddings
        length = input_ids.shape[1] + config.max_new_tokens
        if limit is not None and length > limit:
            block = config.block_length
            if block is None or block >= config.max_new_tokens:
                if shorten and input_ids.shape[1] < limit:
                    config.max_new_tokens = limit - input_ids.shape[1]
                    return input_ids, attention_BP
                raise ValueError(
                    f"prompt of {input_ids.shape[1]} tokens + max_new_tokens {config.max_new_tokens} is longer than the "
                    f"{limit} positions the model takes; shorten one of them, or let block_length slide over the text"
                )
            if block >= limit:
                raise ValueError(
                    f"block_length {block} leaves no room for what stands before in the {limit} positions the model "
                    "takes; lower it"
                )
        return input_ids, attention_BP

    def _finished(self, loop: DenoisingLoop, streamer: BaseStreamer | None) -> Any:
        """Pad after the first EOS, and hand out."""
        canvas, config = loop.canvas, loop.config
        ids_BL = canvas.ids_BL
        new_BN = ids_BL[:, canvas.prompt_length :]
        ended_BN = _after_eos(new_BN, config.eos_token_id)
        pad_id = config.pad_token_id
        if pad_id is None and config.eos_token_id is not None:
            pad_id = config.eos_token_id if isinstance(config.eos_token_id, int) else config.eos_token_id[0]
        if pad_id is not None:
            new_BN.masked_fill_(ended_BN, pad_id)
        if streamer is not None:
            streamer.put(ids_BL[:, loop.first_hole :].cpu())
            streamer.end()
        if not config.return_dict_in_generate:
            return ids_BL
        filled_BL = canvas.holes_BL & ~canvas.masked_BL
        filled_BL[:, canvas.prompt_length :] &= ~ended_BN.cpu().numpy()
        return MaskedDiffusionGenerationOutput(
            sequences=ids_BL,
            tokens_per_forward=torch.from_numpy(filled_BL.sum(-1)) / loop.forwards_B.clamp(min=1),
            reveal_steps=torch.from_numpy(canvas.revealed_at_BL),
            history=tuple(loop.history) if config.output_history else None,
        )

    def _prepare_generation_config(
        self, generation_config: MaskedDiffusionGenerationConfig | None, **kwargs: Any
    ) -> MaskedDiffusionGenerationConfig:
        """A complete configuration, see :func:`merged_config`."""
        special = {name: getattr(self.config, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        return merged_config(generation_config, self.generation_config, special, kwargs)

    def adjust_generation_fn(
        self, generation_config: Any, from_auto_class: bool, from_pipeline: Any, name_or_path: Any, **loading: Any
    ) -> None:
        """Called by ``from_pretrained``: read ``generation_config.json`` where there is one."""
        if generation_config is not None:
            self.generation_config = self.generation_config_class.from_dict(generation_config.to_dict())
            return
        names = ("cache_dir", "force_download", "proxies", "local_files_only", "token", "revision", "subfolder")
        loading = {name: loading[name] for name in names if name in loading}
        try:
            self.generation_config = self.generation_config_class.from_pretrained(
                name_or_path, _from_auto=from_auto_class, _from_pipeline=from_pipeline, **loading
            )
        except OSError:
            # The file is optional, as for every transformers model: the defaults stay.
            self.generation_config = self.generation_config_class()


def _check_blocks(config: Any, size: int) -> None:
    """Take what a model with diffusion blocks can do; raises ValueError for what it cannot."""
    if config.block_length not in (None, size):
        raise ValueError(
            f"block_length is {config.block_length}, but the model has diffusion blocks of {size} tokens; leave it out"
        )
    if config.static_shapes:
        if config.use_cache:
            raise ValueError(
                "static_shapes does not go with use_cache, which grows from block to block; leave one of them out"
            )
        config.use_cache = False
    config.block_length = None  # which may slide over a text


def _check_kept(config: Any, size: int | None) -> None:
    """Raises ValueError where there is no cache that a later generation could read."""
    if size is None:
        raise ValueError("kept is for models with diffusion blocks, but this one has none; leave it out")
    if config.use_cache is False:
        raise ValueError(
            "kept needs the cache that use_cache=False or static_shapes has switched off; leave one of them out"
        )
    if config.guidance_scale not in (None, 1, 1.0):
        raise ValueError(
            f"kept does not go with guidance_scale {config.guidance_scale}, under which each prompt is also read as masks; "
            "leave one of them out"
        )


def _after_eos(ids_BN: torch.Tensor, eos_token_id: int | list[int] | None) -> torch.Tensor:
    """(B, N) True after the first EOS of a row."""
    if eos_token_id is None:
        return torch.zeros_like(ids_BN, dtype=torch.bool)
    is_eos_BN = torch.isin(ids_BN, torch.tensor(eos_token_id, device=ids_BN.device))
    return (is_eos_BN.cumsum(-1) - is_eos_BN.long()) > 0


def _device_of(model: Any) -> torch.device:
    """Where a model computes; of weights that are elsewhere until they are called, accelerate's hooks know it."""
    if model.device.type != "meta":
        return model.device
    hooks = (getattr(module, "_hf_hook", None) for module in model.modules())
    places = (getattr(hook, "execution_device", None) for hook in hooks)
    return torch.device(next((place for place in places if place is not None), "cpu"))


__all__ = [
    "KeptPrefix",
    "MaskedDiffusionGenerationConfig",
    "MaskedDiffusionGenerationMixin",
    "MaskedDiffusionGenerationOutput",
    "RecordingStreamer",
]
