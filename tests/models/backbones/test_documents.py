"""Whether a network keeps the documents of a row apart is asked of a tiny copy, and seen where it does not."""

from __future__ import annotations

import pytest
import torch
from small_backbones import small

from hf_difflm.models.backbones.documents import why_not_apart
from hf_difflm.models.backbones.measure import measure


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("backbone", "causal"),
    [("llama", False), ("llama", True), ("gpt2", True), ("qwen3", False), ("bert", False), ("mixtral", True)],
)
def test_families_that_do(backbone, causal, kernel):
    config = small(backbone)
    config.is_causal = causal
    assert measure(config, causal=causal, kernel=kernel, documents=True).no_documents is None


@pytest.mark.parametrize(
    ("backbone", "causal", "why"),
    [
        ("recurrent_gemma", False, "a document that shares its row gives something else than alone"),
        ("jamba", True, "a document that shares its row gives something else than alone"),
        ("mamba", False, "it does not run so"),
        ("bloom", True, "it does not run so"),
    ],
)
def test_families_that_do_not(backbone, causal, why):
    config = small(backbone)
    config.is_causal = causal
    verdict = measure(config, causal=causal, documents=True)
    assert verdict.error is None
    assert verdict.no_documents.startswith(why)


def test_it_is_not_asked_unless_wanted():
    config = small("mamba")
    config.is_causal = True
    assert measure(config, causal=True).no_documents is None


def test_a_leak_is_seen():
    """A network that adds the mean of its row to each token, whatever documents it is told of."""
    table = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))

    def hidden(ids, document_ids):
        rows = table[ids]
        return rows + rows.mean(1, keepdim=True)

    ids = torch.arange(16)[None]
    assert why_not_apart(hidden, ids) == "a document that shares its row gives something else than alone"
    assert why_not_apart(lambda ids, _: table[ids], ids) is None
