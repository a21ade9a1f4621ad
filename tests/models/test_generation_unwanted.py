"""Rows that nobody waits for leave a generation: no further forward reads them, and the other rows' texts stay."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.models import RecordingStreamer
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS


class Leaving(RecordingStreamer):
    """Drops a row after so many drafts."""

    def __init__(self, row: int, rows: int, after: int) -> None:
        super().__init__()
        self._gone, self._rows, self._after = np.arange(rows) == row, rows, after

    def unwanted(self) -> np.ndarray:
        return self._gone & (len(self.drafts) >= self._after)


def watched_rows(model):
    """How many rows each forward reads, as they come."""
    rows: list[int] = []
    model.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


@pytest.mark.parametrize("sampler", OWN_SAMPLERS)
@pytest.mark.parametrize("size", [None, 4])
def test_a_row_that_leaves_costs_nothing_more_and_changes_no_other(tiny_denoiser, sampler, size):
    model = tiny_denoiser(diffusion_block_size=size).double().eval()
    prompts = torch.tensor([[256, 65], [256, 66], [256, 67]])
    given = {"max_new_tokens": 12, "max_denoising_steps": 12, "sampler": sampler, "seed": [1, 2, 3]}
    rows = watched_rows(model)
    whole = model.generate(prompts, **given)
    all_rows = sum(rows)
    rows.clear()
    streamer = Leaving(1, 3, after=2)
    left = model.generate(prompts, streamer=streamer, **given)
    assert torch.equal(left[[0, 2]], whole[[0, 2]])
    assert torch.equal(left[1, 2:], streamer.drafts[-1][1]), "it is left as it was"
    assert (left[1] == model.config.mask_token_id).any()
    assert sum(rows) < all_rows


def test_where_all_have_left_no_forward_follows(tiny_denoiser):
    model = tiny_denoiser().eval()
    rows = watched_rows(model)
    model.generate(
        torch.tensor([[256]]), max_new_tokens=20, max_denoising_steps=20, sampler="entropy", seed=0,
        streamer=Leaving(0, 1, after=3),
    )  # fmt: skip
    assert len(rows) == 3
