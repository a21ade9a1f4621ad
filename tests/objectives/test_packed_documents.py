"""Documents that share rows have the loss and the gradient that they have apart, whichever rows they are in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.objectives import (
    AdaptiveSettings,
    BlockDiffusionObjective,
    CausalObjective,
    CountLaw,
    MaskedDiffusionObjective,
    adaptive_objective,
)
from hf_difflm.objectives.base import NoiseKey
from hf_difflm.objectives.packed_documents import Layout, SideBySide, documents_apart, numbered

MASK, LENGTH = 19, 12
ROWS = [[(7, 5), (3, 3), (11, 4)], [(0, 12)], [(5, 2), (2, 7)]]  # (number of the document, tokens)
BACKBONE = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def batch_of(rows, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of documents, each document's tokens a function of its number alone."""
    shape = (len(rows), LENGTH)
    ids, labels, pieces = torch.zeros(shape).long(), torch.full(shape, -100), torch.full(shape, -1)
    for row, documents in enumerate(rows):
        start = 0
        for number, length in documents:
            here = slice(start, start + length)
            generator = torch.Generator().manual_seed(100 * seed + number)
            ids[row, here] = torch.randint(2, MASK, (length,), generator=generator)
            labels[row, here] = ids[row, here]
            ids[row, start], labels[row, start] = 0, -100
            pieces[row, here] = number
            start += length
    return {"input_ids": ids, "labels": labels, "attention_mask": (pieces >= 0).long(), "piece_ids": pieces}


def denoiser(name: str, kernel: str = "sdpa", **config) -> MaskedDiffusionForMaskedLM:
    """In float64, but under the networks of atat, which are in float32."""
    torch.manual_seed(0)
    made = MaskedDiffusionConfig(backbone_config=LlamaConfig(**BACKBONE), bos_token_id=0, **config)
    made._attn_implementation = kernel
    model = MaskedDiffusionForMaskedLM(made)
    return model if name.startswith("atat") else model.double()


def within(name: str) -> float:
    return 2e-6 if name.startswith("atat") else 1e-9


def loss_and_gradient(objective, model, batch, rows_apart: bool):
    apart, layout = documents_apart(batch)
    key = numbered(NoiseKey(0, 3, np.arange(len(batch["input_ids"])), 3), layout, layout.piece_D)
    called = model if rows_apart else SideBySide(model, layout, "cpu")
    output = objective(called, apart, key, int((batch["labels"] != -100).sum()), accuracy=True)
    model.zero_grad()
    output.loss.backward()
    by_document = {}
    for row, nll, weight in zip(output.rows_N, output.token_nll_N.tolist(), output.token_weights_N, strict=True):
        by_document.setdefault(int(layout.piece_D[row]), []).append(nll * weight)
    return output, {n: sum(v) for n, v in by_document.items()}, [p.grad.clone() for p in model.parameters()]


def adaptive(importance: str, masking: str, curriculum: str = "none"):
    def make(config):
        settings = AdaptiveSettings(importance=importance, masking=masking, curriculum=curriculum)
        objective = adaptive_objective(config, MaskedDiffusionObjective(MASK), settings, np.arange(1, 21), seed=0)
        objective.begin(10)
        return objective

    return make


OBJECTIVES = {
    "mdlm": ({}, lambda c: MaskedDiffusionObjective(MASK)),
    "mdlm, bell and flat": (
        {},
        lambda c: MaskedDiffusionObjective(MASK, count_law=CountLaw("bell"), loss_weight="flat"),
    ),
    "mdlm, pairs": ({}, lambda c: MaskedDiffusionObjective(MASK, noise_sampling="pairs")),
    "mdlm, time": ({}, lambda c: MaskedDiffusionObjective(MASK, loss_form="time")),
    "mdlm, shift": ({"shift_logits": True}, lambda c: MaskedDiffusionObjective(MASK)),
    "bd3lm": ({"diffusion_block_size": 4}, lambda c: BlockDiffusionObjective(MASK, 4)),
    "bd3lm, pairs": (
        {"diffusion_block_size": 4},
        lambda c: BlockDiffusionObjective(MASK, 4, noise_sampling="pairs"),
    ),
    "bd3lm, shift": ({"diffusion_block_size": 4, "shift_logits": True}, lambda c: BlockDiffusionObjective(MASK, 4)),
    "bd3lm, answer": (
        {"diffusion_block_size": 4, "diffusion_block_start": "answer"},
        lambda c: BlockDiffusionObjective(MASK, 4, diffusion_block_start="answer"),
    ),
    "atat": ({}, adaptive("full", "proportional")),
    "atat, by tokens": ({}, adaptive("frequency_only", "inverse")),
    "atat, curriculum": ({}, adaptive("full", "none", "thirds")),
}


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_packed_is_apart(name, kernel):
    config, make = OBJECTIVES[name]
    model, batch = denoiser(name, kernel, **config), batch_of(ROWS)
    objective = make(model.config)
    alone, of_alone, gradient_alone = loss_and_gradient(objective, model, batch, rows_apart=True)
    packed, of_packed, gradient = loss_and_gradient(objective, model, batch, rows_apart=False)
    assert packed.loss.item() == pytest.approx(alone.loss.item(), rel=within(name))
    assert of_packed == pytest.approx(of_alone, rel=within(name))
    torch.testing.assert_close(packed.token_correct_N, alone.token_correct_N)
    for one, other in zip(gradient, gradient_alone, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=within(name))


@pytest.mark.parametrize("name", ["mdlm", "bd3lm", "atat"])
def test_a_document_in_another_row_costs_the_same(name):
    """Its noise hangs on its number in the data, and on the numbers in the optimiser batch, not on the row."""
    config, make = OBJECTIVES[name]
    model = denoiser(name, **config)
    objective = make(model.config)
    moved = [[(2, 7), (11, 4)], [(0, 12)], [(5, 2), (3, 3), (7, 5)]]
    _, before, _ = loss_and_gradient(objective, model, batch_of(ROWS), rows_apart=False)
    _, after, _ = loss_and_gradient(objective, model, batch_of(moved), rows_apart=False)
    assert after == pytest.approx(before, rel=within(name))


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_causal_lm_reads_rows_of_documents(kernel):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**BACKBONE)).double()
    model.set_attn_implementation(kernel)
    batch, key = batch_of(ROWS), NoiseKey(0, 0, np.arange(3), 3)
    apart, _ = documents_apart(batch)
    scored = int((batch["labels"] != -100).sum())
    alone, packed = CausalObjective()(model, apart, key, scored), CausalObjective()(model, batch, key, scored)
    assert packed.loss.item() == pytest.approx(alone.loss.item(), rel=1e-9)
    torch.testing.assert_close(packed.token_nll_N, alone.token_nll_N)


def test_documents_of_all_micro_batches_are_stratified_together():
    """Two cuts of one optimiser batch draw the same masks: places are ranks among all of its documents."""
    objective, pieces = MaskedDiffusionObjective(MASK), np.array([7, 3, 11, 0, 5, 2])
    whole, layout = documents_apart(batch_of(ROWS))
    key = numbered(NoiseKey(0, 1, np.arange(3), 3), layout, pieces)
    assert sorted(key.places_B) == list(range(6))
    assert key.size == 6
    masked = objective.corrupt((whole["labels"] != -100).numpy(), key).masked_BL
    rows = 0
    for part in (ROWS[:1], ROWS[1:]):
        apart, layout = documents_apart(batch_of(part))
        key = numbered(NoiseKey(0, 1, np.arange(len(part)), 3), layout, pieces)
        found = objective.corrupt((apart["labels"] != -100).numpy(), key).masked_BL
        np.testing.assert_array_equal(found, masked[rows : rows + len(found), : found.shape[1]])
        rows += len(found)


def test_the_layout_of_rows():
    layout = Layout.of(batch_of(ROWS)["piece_ids"].numpy())
    assert layout.piece_D.tolist() == [7, 3, 11, 0, 5, 2]
    assert layout.length_D.tolist() == [5, 3, 4, 12, 2, 7]
    assert layout.document_ids()[2].tolist() == [1, 1, *[2] * 7, 0, 0, 0]
    assert layout.index(2)[:2, 0].tolist() == [0, LENGTH]  # each reading in a row of its own


def test_a_mask_beside_document_ids_is_refused():
    model, batch = denoiser("mdlm"), batch_of(ROWS)
    with pytest.raises(ValueError, match="leave attention_mask out"):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], document_ids=batch["piece_ids"] + 1)
