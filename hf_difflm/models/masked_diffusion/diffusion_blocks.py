"""Block diffusion (BD3-LM, arXiv 2503.09573): autoregressive over blocks of tokens, masked diffusion within a block.

Tokens of block b are predicted from what is shown of block b and from all blocks before it, clean. In training every block
of a text is predicted at once, so the network reads the text twice: clean, each token seeing the blocks up to its own, and
noisy, each token seeing its own noisy block and the clean blocks before it (section 3.1 there).

In two passes the clean text fills a key-value cache, which the noisy one reads; in one forward the two stand side by side.
They are the same network, and the same gradient. Two passes are faster, since no noisy token is compared with the others;
activation checkpointing, which takes caches away from the layers, needs one.

Every mask is given as the attention kernel takes it: ``sdpa`` a bool one, ``eager`` numbers that are added to the scores (a
bool one would be added, too, as 0 and 1), ``flex_attention`` a ``BlockMask``, whose empty tiles it skips: with it training
takes one forward.

Where a row holds several documents, ``attention_mask`` says which of them each token is of, from 1 on, 0 being padding:
documents see nothing of each other, and positions and blocks of each are counted from its first token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.attention.flex_attention import create_block_mask
from transformers import DynamicCache

from .document_mask import DocumentMask

BLOCK_KERNELS = ("sdpa", "eager", "flex_attention")
"""Attention kernels that take a mask of blocks."""


def block_numbers(
    attention_mask: torch.Tensor | None,
    length: int,
    size: int,
    device: torch.device,
    answer_starts: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (B, L) places, counted from the first token of a document, and the number of the block of each.

    Args:
        attention_mask: (B, L), 0 at padding, else the number of the document; None where there is no padding, and each row
            is one document: then B is 1.
        length: L.
        size: tokens of a block.
        device: where the ids lie.
        answer_starts: place of the first token of an answer, where blocks begin anew: (B,) of each row, or (B, L) of each
            token's document; None: nowhere.
    """
    row_1L = torch.arange(length, device=device)[None]
    places_BL = row_1L if attention_mask is None else places_in_documents(attention_mask)
    if answer_starts is None:
        return places_BL, places_BL // size
    starts_BL = answer_starts if answer_starts.dim() > 1 else answer_starts[:, None]
    return places_BL, number_from(places_BL, starts_BL, size)


def places_in_documents(document_ids: torch.Tensor) -> torch.Tensor:
    """(B, L) place of each token in its document, from 0 on; documents being runs of one number, and 0 padding."""
    is_real_BL = document_ids != 0
    places_BL = (is_real_BL.long().cumsum(-1) - 1).clamp(min=0)
    is_first_BL = torch.ones_like(is_real_BL)
    is_first_BL[:, 1:] = document_ids[:, 1:] != document_ids[:, :-1]
    return places_BL - places_BL.where(is_first_BL & is_real_BL, 0).cummax(-1).values


def same_document(document_ids: torch.Tensor) -> torch.Tensor:
    """(B, L, L) bool: each token sees those of its document, and padding padding alone, so that no row is empty."""
    return document_ids[:, None] == document_ids[..., None]


def number_from(places: Any, starts: Any, size: int) -> Any:
    """The number of the block of each place, blocks beginning anew at ``starts``; integers of torch, or of NumPy."""
    is_after = places >= starts
    return places // size * ~is_after + (-(-starts // size) + (places - starts) // size) * is_after


def causal_documents(model: Any, document_ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a causal LM is called with so that each token of (B, L) documents sees those before it in its own.

    Raises:
        ValueError: its attention kernel takes no such mask.
    """
    kernel, dtype = model.config._attn_implementation, _mask_dtype(model)
    return {
        "attention_mask": documents_for_kernel(document_ids, kernel, dtype, is_causal=True),
        "position_ids": places_in_documents(document_ids),
    }


def documents_for_kernel(
    document_ids: torch.Tensor, kernel: str | None, dtype: torch.dtype, is_causal: bool = False
) -> Any:
    """The mask of (B, L) documents that see nothing of each other, as the attention kernel takes it.

    Raises:
        ValueError: a kernel that takes none.
    """
    seen_BLL = same_document(document_ids)
    if is_causal:
        length = document_ids.shape[1]
        seen_BLL = seen_BLL & torch.ones(length, length, dtype=torch.bool, device=document_ids.device).tril()
    mask = for_kernel(seen_BLL, kernel, dtype)
    return DocumentMask.of(mask, document_ids, is_causal) if kernel == "sdpa" else mask


def up_to_own_block(blocks_BL: torch.Tensor, attention_mask: torch.Tensor | None, queries: int) -> torch.Tensor:
    """(B, queries, L) bool: the last ``queries`` tokens see their own block and those before it."""
    own_BQ1 = blocks_BL[:, -queries:, None]
    return _without_padding(blocks_BL[:, None] <= own_BQ1, attention_mask)


def before_and_own(blocks_BL: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """(B, L, 2 L) bool: noisy tokens see the blocks before theirs in the clean text, and their own in the noisy one."""
    clean_BLL = _without_padding(blocks_BL[:, None] < blocks_BL[..., None], attention_mask, itself=False)
    noisy_BLL = _without_padding(blocks_BL[:, None] == blocks_BL[..., None], attention_mask)
    return torch.cat([clean_BLL, noisy_BLL], dim=-1)


def noisy_beside_clean(blocks_BL: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """(B, 2 L, 2 L) bool: of noisy and clean text side by side, what each token of the two sees."""
    clean_BLL = up_to_own_block(blocks_BL, attention_mask, blocks_BL.shape[1])
    before_BLL, own_BLL = before_and_own(blocks_BL, attention_mask).chunk(2, dim=-1)
    noisy_BLS = torch.cat([own_BLL, before_BLL], dim=-1)
    return torch.cat([noisy_BLS, torch.cat([torch.zeros_like(clean_BLL), clean_BLL], dim=-1)], dim=1)


def for_kernel(seen_BQK: torch.Tensor, kernel: str | None, dtype: torch.dtype) -> Any:
    """(B, 1, Q, K) mask of a bool one, as the attention kernel takes it; B may be 1 for all rows.

    Raises:
        ValueError: a kernel that takes none.
    """
    if kernel not in BLOCK_KERNELS:
        raise ValueError(
            f"the attention kernel {kernel!r} takes no mask of blocks or documents; load the model with attn_implementation "
            f"{' or '.join(BLOCK_KERNELS)}"
        )
    if kernel == "sdpa":
        return seen_BQK[:, None]
    if kernel == "flex_attention":
        rows, queries, keys = seen_BQK.shape

        def sees(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            return seen_BQK[row if rows > 1 else 0, query, key]

        return create_block_mask(sees, rows, None, queries, keys, device=seen_BQK.device)
    return torch.zeros(seen_BQK.shape, dtype=dtype, device=seen_BQK.device).masked_fill_(
        ~seen_BQK, torch.finfo(dtype).min
    )[:, None]


def noisy_hidden(
    backbone: Any,
    noisy_ids: torch.Tensor,
    clean_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    size: int,
    offset: int = 0,
    one_forward: bool | None = None,
    answer_starts: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Hidden states of a noisy text whose blocks each see the clean blocks before them.

    Args:
        backbone: a network of transformers.
        noisy_ids: (R, L) ids, the mask token where a token is hidden: of each text one row or several, as neighbours.
        clean_ids: (B, L) ids of the texts themselves.
        attention_mask: (B, L), 0 at padding on either side, else the number of the document; None where there is none.
        size: tokens of a block.
        offset: position id of the first token.
        one_forward: read both texts in one forward; None: under activation checkpointing, which has no cache, and with
            ``flex_attention``.
        answer_starts: see :func:`block_numbers`.
        kwargs: passed to the backbone.

    Returns:
        (R, L, D) hidden states of the noisy texts, (B, L, D) of the clean ones, and the output that the former are of.

    Raises:
        ValueError: an attention kernel that takes no mask of blocks, or a backbone that keeps no cache.
    """
    kernel, dtype, length = backbone.config._attn_implementation, _mask_dtype(backbone), noisy_ids.shape[1]
    reads = len(noisy_ids) // len(clean_ids)
    places_BL, blocks_BL = block_numbers(attention_mask, length, size, noisy_ids.device, answer_starts)
    positions_BL = places_BL + offset
    if one_forward is None:
        one_forward = _is_checkpointed(backbone) or kernel == "flex_attention"
    if one_forward:
        seen_BSS = noisy_beside_clean(blocks_BL, attention_mask)
        positions = torch.cat([positions_BL, positions_BL], dim=1)
        outputs = backbone(
            input_ids=torch.cat([noisy_ids, clean_ids.repeat_interleave(reads, dim=0)], dim=1),
            attention_mask=for_kernel(_for_each_reading(seen_BSS, reads), kernel, dtype),
            position_ids=_for_each_reading(positions, reads),
            use_cache=False,
            **kwargs,
        )
        noisy_RLD, clean_RLD = outputs.last_hidden_state.split(length, dim=1)
        return noisy_RLD, clean_RLD[::reads], outputs
    cache = DynamicCache()
    clean = backbone(
        input_ids=clean_ids,
        attention_mask=for_kernel(up_to_own_block(blocks_BL, attention_mask, length), kernel, dtype),
        position_ids=positions_BL,
        past_key_values=cache,
        use_cache=True,
    )
    refuse_no_cache(backbone, cache, length)
    if reads > 1:
        cache.batch_repeat_interleave(reads)
    outputs = backbone(
        input_ids=noisy_ids,
        attention_mask=for_kernel(_for_each_reading(before_and_own(blocks_BL, attention_mask), reads), kernel, dtype),
        position_ids=_for_each_reading(positions_BL, reads),
        past_key_values=cache,
        use_cache=True,
        **kwargs,
    )
    return outputs.last_hidden_state, clean.last_hidden_state, outputs


def first_from_clean(
    noisy_RLD: torch.Tensor,
    clean_BLD: torch.Tensor,
    attention_mask: torch.Tensor | None,
    size: int,
    answer_starts: torch.Tensor | None = None,
) -> torch.Tensor:
    """(R, L, D) of two, with the first token of each block from the clean text; of hidden states at the position *after*.

    The first token of all has none before it: it is from the noisy text, since the clean one shows it.

    Args:
        noisy_RLD: what the position before each says in the noisy texts, of each text one row or several, as neighbours.
        clean_BLD: the same in the clean ones.
        attention_mask, size, answer_starts: see :func:`block_numbers`.
    """
    _, blocks_BL = block_numbers(attention_mask, noisy_RLD.shape[1], size, noisy_RLD.device, answer_starts)
    begins_BL = torch.zeros_like(blocks_BL, dtype=torch.bool)
    begins_BL[:, 1:] = blocks_BL[:, 1:] != blocks_BL[:, :-1]
    reads = len(noisy_RLD) // len(clean_BLD)
    clean_RLD, begins_RL = _for_each_reading(clean_BLD, reads), _for_each_reading(begins_BL, reads)
    return clean_RLD.where(begins_RL.unsqueeze(-1), noisy_RLD)


def block_causal(
    backbone: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    size: int,
    offset: int = 0,
    cache: DynamicCache | None = None,
    answer_starts: torch.Tensor | None = None,
    **kwargs: Any,
) -> Any:
    """The output of a backbone in which each token sees its own block and those before it.

    Args:
        backbone: a network of transformers.
        input_ids: (B, Q) ids: those that follow what the cache holds.
        attention_mask: (B, cached + Q), 0 at padding; None where there is none.
        size: tokens of a block.
        offset: position id of the first token.
        cache: keys and values of the tokens before, which is added to; None: there are none before, and none are kept.
        answer_starts: see :func:`block_numbers`.
        kwargs: passed to the backbone.

    Raises:
        ValueError: an attention kernel that takes no mask of blocks, or a backbone that keeps no cache.
    """
    queries, cached = input_ids.shape[1], 0 if cache is None else cache.get_seq_length()
    places_BL, blocks_BL = block_numbers(attention_mask, cached + queries, size, input_ids.device, answer_starts)
    mask = for_kernel(
        up_to_own_block(blocks_BL, attention_mask, queries),
        backbone.config._attn_implementation,
        _mask_dtype(backbone),
    )
    kept = {"use_cache": False} if cache is None else {"past_key_values": cache, "use_cache": True}
    outputs = backbone(
        input_ids=input_ids,
        attention_mask=mask,
        position_ids=places_BL[:, -queries:] + offset,
        **kept,
        **kwargs,
    )
    if cache is not None:
        refuse_no_cache(backbone, cache, cached + queries)
    return outputs


def refuse_no_cache(backbone: Any, cache: DynamicCache, length: int) -> None:
    """Raise ValueError where a backbone was given a cache and has not put what it read into it."""
    if cache.get_seq_length() != length:
        raise ValueError(
            "it keeps no keys and values of the tokens it reads, which block diffusion needs; use another backbone than "
            f"{backbone.config.model_type!r}, such as llama"
        )


def refuse_several_blocks(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    size: int,
    mask_token_id: int,
    answer_starts: torch.Tensor | None = None,
) -> None:
    """Raise ValueError where masks stand in several blocks of a row: those of later ones would be predicted from masks.

    Waits for the device.
    """
    masked_BL = input_ids == mask_token_id
    if attention_mask is not None:
        masked_BL = masked_BL & (attention_mask != 0)
    _, blocks_BL = block_numbers(attention_mask, input_ids.shape[1], size, input_ids.device, answer_starts)
    blocks_BL = blocks_BL.expand_as(masked_BL)
    first_B = blocks_BL.masked_fill(~masked_BL, input_ids.shape[1]).amin(-1)
    last_B = blocks_BL.masked_fill(~masked_BL, -1).amax(-1)
    several_B = first_B < last_B
    if bool(several_B.any()):
        row = int(several_B.long().argmax())
        raise ValueError(
            f"row {row} has masks in blocks {int(first_B[row])} to {int(last_B[row])} of {size} tokens, but block diffusion "
            "predicts a block from clean blocks before it; fill one block after the other, as generate does"
        )


def _for_each_reading(of_texts: torch.Tensor, reads: int) -> torch.Tensor:
    """What is of each text, for each of its noisy rows; what is of all texts alike stays one row."""
    return of_texts if reads == 1 or len(of_texts) == 1 else of_texts.repeat_interleave(reads, dim=0)


def _without_padding(
    seen_BQK: torch.Tensor, attention_mask: torch.Tensor | None, *, itself: bool = True
) -> torch.Tensor:
    """Nobody sees padding but padding itself, so that no row of a softmax is empty; nor another document of its row."""
    if attention_mask is None:
        return seen_BQK
    real_BK = attention_mask != 0
    queries, keys = seen_BQK.shape[1:]
    own_BQ1 = attention_mask[:, -queries:, None]
    seen_BQK = seen_BQK & real_BK[:, None] & (attention_mask[:, None] == own_BQ1)
    if itself:
        own_QK = torch.eye(keys, dtype=torch.bool, device=seen_BQK.device)[-queries:]
        seen_BQK = seen_BQK | (own_QK & ~real_BK[:, None])
    return seen_BQK


def _is_checkpointed(backbone: nn.Module) -> bool:
    """Whether layers run a second time in the backward pass: by transformers, or in a wrapper of torch (FSDP's option)."""
    return backbone.training and any(
        getattr(module, "gradient_checkpointing", False) or type(module).__name__ == "CheckpointWrapper"
        for module in backbone.modules()
    )


def _mask_dtype(backbone: Any) -> torch.dtype:
    return backbone.get_input_embeddings().weight.dtype


__all__ = [
    "BLOCK_KERNELS",
    "before_and_own",
    "block_causal",
    "block_numbers",
    "causal_documents",
    "documents_for_kernel",
    "first_from_clean",
    "for_kernel",
    "noisy_beside_clean",
    "noisy_hidden",
    "number_from",
    "places_in_documents",
    "refuse_no_cache",
    "refuse_several_blocks",
    "up_to_own_block",
]
