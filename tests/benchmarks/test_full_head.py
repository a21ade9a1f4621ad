"""The full head that benchmarks compare with computes the same loss and the same gradients as the labelled one."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
def test_loss_gradients_and_tokens_are_those_of_the_labelled_head(padded, monkeypatch, tiny_denoiser):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    labelled = tiny_denoiser()
    full = importlib.import_module("_full_head").FullHead(labelled.config)
    full.load_state_dict(labelled.state_dict())
    generator = torch.Generator().manual_seed(0)
    ids_BL = torch.randint(97, 123, (3, 12), generator=generator)
    mask_BL = torch.ones_like(ids_BL)
    mask_BL[0, :4] = 0
    hidden_BL = (torch.rand(ids_BL.shape, generator=generator) < 0.5) & (mask_BL != 0)
    given = {
        "input_ids": ids_BL.masked_fill(hidden_BL, 259),
        "attention_mask": mask_BL if padded else None,
        "labels": ids_BL.masked_fill(~hidden_BL, -100),
        "loss_weights": torch.rand((3, 1), generator=generator),
        "positions": hidden_BL.flatten().nonzero().squeeze(-1),
        "output_correct": True,
    }
    ours, theirs = labelled(**given), full(**given)
    ours.loss.backward()
    theirs.loss.backward()
    torch.testing.assert_close(theirs.loss, ours.loss)
    torch.testing.assert_close(theirs.token_nll, ours.token_nll, rtol=1e-5, atol=1e-6)
    assert torch.equal(theirs.token_correct, ours.token_correct)
    for one, other in zip(labelled.parameters(), full.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6)
