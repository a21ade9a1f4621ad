"""How fast models write, beside each other and in turn: the same rows, tokens and steps for each."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from ...runs.comparing.table import SAMPLING
from ..run_measurements import record_measurement
from ..targets import Target, load_target

_ROWS, _MOST_TOKENS, _TURNS = 2, 256, 3


def record_writing_speeds(runs: Sequence[str], block_size: int, use_cpu: bool = False) -> None:
    """Let every run's best weights write, and keep the tokens a second, of all rows together, in its log.

    Each writes 2 rows of as many tokens as a block has after BOS, at most 256, at temperature 1 and to their end. Denoisers
    take half as many steps as there are tokens, and at least one a diffusion block; an autoregressive model a token a step,
    with its cache. Medians of three turns after one that is not counted, the sides of a turn one after the other.

    Args:
        runs: their folders.
        block_size: tokens that all of them take.
        use_cpu: write on the CPU though there is a GPU.
    """
    targets = {run: load_target(run, use_cpu=use_cpu) for run in runs}
    new_tokens = min(block_size - 1, _MOST_TOKENS)
    seconds: dict[str, list[float]] = {run: [] for run in runs}
    for turn in range(1 + _TURNS):
        for run, target in targets.items():
            start = time.perf_counter()
            _write(target, new_tokens, turn)
            if turn:
                seconds[run].append(time.perf_counter() - start)
    for run, target in targets.items():
        speed = _ROWS * new_tokens / statistics.median(seconds[run])
        record_measurement(run, target.step, SAMPLING, {"sampling_tokens_per_sec": speed})


@torch.no_grad()
def _write(target: Target, new_tokens: int, seed: int) -> None:
    """Write once, and wait for the device."""
    model: Any = target.model
    prompt_RP = torch.full((_ROWS, 1), target.tokenizer.bos_token_id, device=model.device)
    if target.is_denoiser:
        size = model.config.diffusion_block_size or new_tokens
        blocks = -(-(1 + new_tokens) // size)
        found = model.generate(
            prompt_RP,
            max_new_tokens=new_tokens,
            max_denoising_steps=max(-(-new_tokens // 2), blocks),
            do_sample=True,
            temperature=1.0,
            eos_token_id=None,
            seed=seed,
        )
    else:
        torch.manual_seed(seed)
        found = model.generate(
            prompt_RP,
            attention_mask=torch.ones_like(prompt_RP),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            pad_token_id=target.tokenizer.pad_token_id,
        )
    found.cpu()
