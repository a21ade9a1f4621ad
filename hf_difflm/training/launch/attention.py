"""Which attention kernel a training asks transformers for: what cannot run here is refused before anything is built."""

from __future__ import annotations

from transformers import utils
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from ...errors import UserError, did_you_mean

# Versions of FlashAttention: whether each can be imported, and the package that brings it.
_FLASH = {
    "flash_attention_2": (utils.is_flash_attn_2_available, "flash-attn"),
    "flash_attention_3": (utils.is_flash_attn_3_available, "flash-attn-3"),
    "flash_attention_4": (utils.is_flash_attn_4_available, "flash-attn-4"),
}


def check_attention(name: str, *, on_cpu: bool, half: bool) -> None:
    """Refuse an ``attn_implementation`` with which this training cannot run.

    Args:
        name: as in ``ModelOptions.attn_implementation``; a kernel of the Hub (``owner/name``) is left to transformers.
        on_cpu: whether the training is on a CPU.
        half: whether the forward pass computes in bfloat16 or float16.

    Raises:
        UserError: an unknown name, a kernel without backward pass on a CPU, a GPU's kernel on a CPU, in float32, or without
            its package.
    """
    known = [key for key in ("eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()) if not key.startswith("paged|")]
    known = list(dict.fromkeys(known))
    if "/" not in name and name not in known:
        raise UserError(
            f"attn_implementation must be one of {', '.join(known)}, got {name!r}{did_you_mean(name, known)}"
        )
    if name == "flex_attention" and on_cpu:
        raise UserError("attn_implementation flex_attention does not train on a CPU; use sdpa")
    if name not in _FLASH:
        return
    is_available, package = _FLASH[name]
    if on_cpu:
        raise UserError(f"attn_implementation {name} runs on GPUs only, and this training is on a CPU; use sdpa")
    if not half:
        raise UserError(f"attn_implementation {name} computes in half precision only; add --bf16, or use sdpa")
    if not (is_available() or utils.is_kernels_available()):  # with `kernels`, transformers finds it on the Hub
        raise UserError(
            f"attn_implementation {name} needs the package {package}, which is not installed; install it, or use sdpa"
        )


__all__ = ["check_attention"]
