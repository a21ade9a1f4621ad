"""A compiled denoiser: with static shapes it is compiled a few times, whatever is generated."""

from __future__ import annotations

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import LlamaConfig

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.generation_logits import head_rows

SETTINGS = {"max_new_tokens": 40, "max_denoising_steps": 30, "seed": 3, "eos_token_id": 1, "pad_token_id": 0}


@pytest.fixture(params=[None, 8])
def model(request):
    torch._dynamo.reset()
    torch.manual_seed(0)
    backbone = LlamaConfig(
        vocab_size=9, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    special = {"mask_token_id": 8, "eos_token_id": None, "pad_token_id": None, "bos_token_id": None}
    config = MaskedDiffusionConfig(backbone_config=backbone, diffusion_block_size=request.param, **special)
    yield MaskedDiffusionForMaskedLM(config).double().eval()
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["ddpm_cache", "low_confidence", "entropy_bounded"])
def test_it_is_compiled_a_few_times_and_writes_the_same(model, sampler):
    prompts = torch.tensor([[2, 3, 4], [5, 6, 7], [3, 3, 3]])
    plain = model.generate(prompts, sampler=sampler, **SETTINGS)
    graphs = CompileCounter()
    model.compile(backend=graphs, dynamic=False)
    static = model.generate(prompts, sampler=sampler, static_shapes=True, **SETTINGS)
    assert torch.equal(static, plain)
    sizes = {head_rows(wanted, 3 * 43) for wanted in range(1, 3 * 40 + 1)}
    assert 1 <= graphs.frame_count <= len(sizes) == 4
    model.generate(prompts, sampler=sampler, static_shapes=True, **SETTINGS | {"seed": 4})
    assert graphs.frame_count <= len(sizes)


@pytest.mark.slow
@pytest.mark.parametrize("model", [None], indirect=True)
def test_without_it_every_number_of_positions_is_a_graph(model):
    prompts = torch.tensor([[2, 3, 4]])
    graphs = CompileCounter()
    model.compile(backend=graphs, dynamic=False)
    model.generate(prompts, sampler="low_confidence", max_new_tokens=7, max_denoising_steps=7, seed=0)
    assert graphs.frame_count == 7


@pytest.mark.parametrize("positions", [1, 2, 63, 64, 1000, 4097])
def test_the_head_has_four_sizes_of_which_one_always_fits(positions):
    sizes = [head_rows(wanted, positions) for wanted in range(1, positions + 1)]
    assert all(wanted <= size <= positions for wanted, size in enumerate(sizes, start=1))
    assert len(set(sizes)) <= 4
    assert sizes == sorted(sizes)
