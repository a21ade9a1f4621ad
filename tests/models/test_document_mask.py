"""A mask that knows its documents gives what the plain mask gives, whatever is done with it on the way."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from hf_difflm.models.masked_diffusion import document_mask
from hf_difflm.models.masked_diffusion.diffusion_blocks import (
    documents_for_kernel,
    places_in_documents,
    same_document,
)
from hf_difflm.models.masked_diffusion.document_mask import DocumentMask, spans_of

ROWS = [[1, 1, 1, 2, 2, 3, 0, 0], [1, 1, 1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 2, 2, 2, 0], [0, 0, 0, 0, 0, 0, 0, 0]]


def heads(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, 2, 8, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_and_gradient_are_those_of_the_plain_mask(is_causal):
    documents = torch.tensor(ROWS)
    mask = documents_for_kernel(documents, "sdpa", torch.float32, is_causal)
    assert isinstance(mask, DocumentMask)
    plain = mask.as_subclass(torch.Tensor)
    expected = same_document(documents)[:, None]
    assert torch.equal(plain, expected & torch.ones(8, 8, dtype=torch.bool).tril() if is_causal else expected)
    real = (documents != 0)[:, None, :, None]
    found = []
    for seen in (mask, plain, mask[:, :, :, :8]):
        qkv = heads(0)
        out = F.scaled_dot_product_attention(*qkv, attn_mask=seen) * real
        assert type(out) is torch.Tensor
        found.append((out, torch.autograd.grad(out.pow(2).sum(), qkv)))
    for out, gradients in found[1:]:
        torch.testing.assert_close(out, found[0][0])
        torch.testing.assert_close(gradients, found[0][1])


def test_each_document_is_read_by_itself(monkeypatch):
    """Which is what the mask is for: no token is compared with one of another document."""
    sizes, kernel = [], F.scaled_dot_product_attention

    def counted(query, key, value, *args, **kwargs):
        sizes.append((len(query), query.shape[-2], key.shape[-2]))
        return kernel(query, key, value, *args, **kwargs)

    mask = documents_for_kernel(torch.tensor(ROWS), "sdpa", torch.float32)
    monkeypatch.setattr(document_mask, "F", SimpleNamespace(scaled_dot_product_attention=counted))
    document_mask._attention(*heads(0), attn_mask=mask)
    assert sizes == [(1, 3, 3), (1, 2, 2), (1, 1, 1), (1, 8, 8), (1, 2, 2), (1, 3, 3)]


@pytest.mark.parametrize(
    "change",
    [
        lambda mask: mask & torch.ones(8, 8, dtype=torch.bool).triu(-1),  # a window, which the documents do not know of
        lambda mask: mask[[1, 0, 2, 3]],
        lambda mask: torch.zeros(mask.shape, dtype=torch.float64).masked_fill(~mask, -1e9),
        lambda mask: mask.expand(4, 2, 8, 8),
    ],
)
def test_another_mask_that_is_made_of_it_is_that_mask(change):
    mask = documents_for_kernel(torch.tensor(ROWS), "sdpa", torch.float32)
    changed = change(mask)
    found = F.scaled_dot_product_attention(*heads(0), attn_mask=changed)
    expected = F.scaled_dot_product_attention(*heads(0), attn_mask=change(mask.as_subclass(torch.Tensor)))
    torch.testing.assert_close(found.as_subclass(torch.Tensor), expected)


def test_places_and_spans():
    documents = torch.tensor(ROWS)
    assert places_in_documents(documents)[0].tolist()[:6] == [0, 1, 2, 0, 1, 0]
    assert places_in_documents(documents)[2].tolist()[2:7] == [0, 1, 0, 1, 2]
    assert spans_of(documents) == [(0, 0, 3), (0, 3, 5), (0, 5, 6), (1, 0, 8), (2, 2, 4), (2, 4, 7)]
    plain = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0]])
    assert places_in_documents(plain)[0].tolist() == [0, 0, 0, 1, 2]
    assert places_in_documents(plain)[1].tolist()[:3] == [0, 1, 2]
