"""LLaDA's published sampling law as a plain loop over whole tensors, at temperature 0 (arXiv 2502.09992, algorithm 5)."""

from __future__ import annotations

from collections.abc import Callable

import torch


@torch.no_grad()
def plain_llada(
    logits_of: Callable[[torch.Tensor], torch.Tensor],
    prompt_BP: torch.Tensor,
    *,
    mask_id: int,
    new_tokens: int,
    steps: int,
    block_length: int,
) -> torch.Tensor:
    """(B, P + new) texts: a block after the other, each step forwards all rows and keeps the likeliest tokens of each.

    Args:
        logits_of: (B, L) ids to (B, L, V) logits, the mask token's among them.
        prompt_BP: prompts of one length.
        mask_id: what hides a token; it is not kept from being drawn.
        new_tokens: whole blocks.
        steps: of all blocks together, as many for each.
        block_length: tokens of a block.

    Raises:
        ValueError: blocks or steps that do not divide evenly.
    """
    blocks = new_tokens // block_length
    if new_tokens % block_length or steps % blocks:
        raise ValueError(
            f"{new_tokens} tokens and {steps} steps are no blocks of {block_length} with as many steps each"
        )
    canvas_BL = torch.nn.functional.pad(prompt_BP, (0, new_tokens), value=mask_id)
    for block in range(blocks):
        begin = prompt_BP.shape[1] + block * block_length
        end, block_steps = begin + block_length, steps // blocks
        # Counted in the block alone, though any mask before its end may be taken.
        holes_B = (canvas_BL[:, begin:end] == mask_id).sum(-1)
        for step in range(block_steps):
            count_B = holes_B // block_steps + (step < holes_B % block_steps)
            logits_BLV = logits_of(canvas_BL)
            drawn_BL = logits_BLV.argmax(-1)
            # In the type of the logits: in bfloat16 many are 1, and topk's order of equal numbers decides.
            confidence_BL = logits_BLV.softmax(-1).gather(-1, drawn_BL.unsqueeze(-1)).squeeze(-1)
            open_BL = canvas_BL == mask_id
            open_BL[:, end:] = False
            confidence_BL = confidence_BL.masked_fill(~open_BL, float("-inf"))
            for row, count in enumerate(count_B.tolist()):
                chosen_K = confidence_BL[row].topk(count).indices
                # Where fewer masks are left than the count says, the rest are no masks and stay.
                chosen_K = chosen_K[open_BL[row, chosen_K]]
                canvas_BL[row, chosen_K] = drawn_BL[row, chosen_K]
    return canvas_BL
