"""``--bf16``: the network computes in bfloat16; weights, optimiser and sums of the loss stay in float32."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

from hf_difflm.runs.journal.checkpoints import EMA_FILE


@pytest.fixture
def trainer(make_diffusion_trainer):
    return make_diffusion_trainer(bf16=True, max_steps=3, ema_decay=0.9)


def test_weights_optimiser_and_moving_average_stay_in_float32(trainer, tmp_path):
    seen: list[torch.dtype] = []
    first = next(module for module in trainer.model.backbone.modules() if isinstance(module, nn.Linear))
    first.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer.train()
    assert set(seen) == {torch.bfloat16}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}
    moments = [value for state in trainer.optimizer.state.values() for value in state.values()]
    assert moments
    assert {moment.dtype for moment in moments} == {torch.float32}
    assert trainer.ema is not None
    trainer.ema.save(tmp_path)
    assert {value.dtype for value in load_file(tmp_path / EMA_FILE).values()} == {torch.float32}


def test_gradients_arrive_in_float32(trainer):
    kinds: set[torch.dtype] = set()
    for parameter in trainer.model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda p: kinds.add(p.grad.dtype))
    trainer.train()
    assert kinds == {torch.float32}


@pytest.mark.parametrize("head_chunk_rows", [0, 16])
def test_the_loss_is_summed_in_float32(tiny_denoiser, head_chunk_rows):
    model = tiny_denoiser()
    model.head_chunk_rows = head_chunk_rows
    generator = torch.Generator().manual_seed(0)
    labels_BL = torch.randint(97, 123, (32, 48), generator=generator)
    ids_BL = torch.full_like(labels_BL, model.config.mask_token_id)
    weights_BL = torch.rand(labels_BL.shape, generator=generator)
    logits: list[torch.Tensor] = []
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(ids_BL, labels=labels_BL, loss_weights=weights_BL)
        logits.append(model(ids_BL, positions=torch.arange(ids_BL.numel())).logits)
    assert output.loss.dtype == output.token_nll.dtype == torch.float32
    # From the same bfloat16 logits, in float64. A sum of 1,536 terms kept in bfloat16 would be off by a percent.
    nll_N = F.cross_entropy(logits[0].double(), labels_BL.flatten(), reduction="none")
    expected = (nll_N * weights_BL.flatten().double()).sum()
    torch.testing.assert_close(output.token_nll.double(), nll_N, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(output.loss.double(), expected, rtol=1e-5, atol=0)
