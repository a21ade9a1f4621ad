"""The denoiser is one graph for ``torch.compile``: forward with a loss and forward of a generation, without a break."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import AutoConfig

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

VOCABULARY, MASK, ROWS, LENGTH = 40, 39, 3, 16
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
BACKBONES: dict[str, dict[str, Any]] = {
    "llama": {**SIZES, "intermediate_size": 32},
    "bert": {**SIZES, "intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "modernbert": {**SIZES, "intermediate_size": 32, "cls_token_id": None, "sep_token_id": None},
    "dit": {**SIZES, "dropout": 0.0},
    "bdh": {**SIZES, "dropout": 0.0},
}
every_backbone = pytest.mark.parametrize(
    "backbone", ["llama", *(pytest.param(name, marks=pytest.mark.slow) for name in BACKBONES if name != "llama")]
)


@pytest.fixture(autouse=True)
def nothing_compiled():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def build(backbone: str) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    sizes = AutoConfig.for_model(backbone, vocab_size=VOCABULARY, **special, **BACKBONES[backbone])
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=sizes, mask_token_id=MASK))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def batch(seed: int, labelled: int = 12) -> dict[str, torch.Tensor]:
    """A batch as the objective makes it, with as many labelled positions."""
    generator = torch.Generator().manual_seed(seed)
    ids_BL = torch.randint(3, MASK, (ROWS, LENGTH), generator=generator)
    positions_N = torch.randperm(ROWS * LENGTH, generator=generator)[:labelled].sort().values
    hidden_BL = torch.zeros(ROWS * LENGTH, dtype=torch.bool).index_fill(0, positions_N, True).view(ROWS, LENGTH)
    return {
        "input_ids": ids_BL.masked_fill(hidden_BL, MASK),
        "labels": ids_BL.masked_fill(~hidden_BL, -100),
        "loss_weights": torch.rand((ROWS, 1), generator=generator),
        "positions": positions_N,
    }


@every_backbone
@pytest.mark.parametrize("accuracy", [False, True], ids=["loss", "loss_and_accuracy"])
def test_model_and_loss_are_one_graph_with_the_same_loss_and_gradients(backbone, accuracy):
    model = build(backbone).train()
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=False)
    for seed in range(3):
        results = []
        for one in (model, compiled):
            model.zero_grad()
            output = one(**batch(seed), output_correct=accuracy)
            output.loss.backward()
            results.append((output.loss.detach(), output.token_nll, [p.grad.clone() for p in model.parameters()]))
        torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert graphs.frame_count == 1


@pytest.mark.slow
@every_backbone
def test_a_number_of_labels_that_changes_breaks_nothing(backbone):
    model = build(backbone).train()
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, fullgraph=True)
    for labelled in (12, 13, 20, 7, 31):
        given = batch(labelled, labelled)
        torch.testing.assert_close(compiled(**given).loss, model(**given).loss, rtol=1e-5, atol=1e-6)
    assert graphs.frame_count <= 3  # one for the first number, then one for any


@every_backbone
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@torch.no_grad()
def test_the_forward_of_a_generation_is_one_graph(backbone, padded):
    model = build(backbone).eval()
    graphs = CompileCounter()
    compiled = torch.compile(model, backend=graphs, fullgraph=True, dynamic=False)
    mask_BL = torch.ones((ROWS, LENGTH), dtype=torch.long)
    mask_BL[0, :4] = 0
    for seed in range(3):
        given = {name: batch(seed)[name] for name in ("input_ids", "positions")}
        given["attention_mask"] = mask_BL if padded else None
        torch.testing.assert_close(compiled(**given).logits, model(**given).logits, rtol=1e-5, atol=1e-6)
    assert graphs.frame_count == 1
