"""The head in chunks is the plain head: loss, terms and gradients, whatever the sizes, types and what is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hf_difflm.models.masked_diffusion.labelled_head import (
    automatic_chunk_rows,
    can_chunk,
    chunk_rows,
    chunked_cross_entropy,
)

MASK = 259


def plain(
    hidden_ND: torch.Tensor, head: nn.Linear, labels_N: torch.Tensor, weights_N: torch.Tensor, mask: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    logits_NV = head(hidden_ND).float() if hidden_ND.dtype != torch.float64 else head(hidden_ND)
    logits_NV = logits_NV.index_fill(-1, torch.tensor([mask]), float("-inf"))
    nll_N = F.cross_entropy(logits_NV, labels_N, reduction="none", ignore_index=-100)
    return (nll_N * weights_N).sum(), nll_N.detach(), logits_NV.argmax(-1) == labels_N


@st.composite
def problems(draw: Any) -> tuple[nn.Linear, torch.Tensor, torch.Tensor, torch.Tensor, int, int]:
    n, d, v = draw(st.integers(1, 40)), draw(st.integers(1, 9)), draw(st.integers(3, 60))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    mask = draw(st.integers(0, v - 1))
    head = nn.Linear(d, v, bias=draw(st.booleans()))
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(draw(st.sampled_from([0.1, 1.0, 10.0])) * torch.randn(parameter.shape, generator=generator))
    hidden_ND = torch.randn(n, d, generator=generator).requires_grad_()
    labels_N = (mask + torch.randint(1, v, (n,), generator=generator)) % v
    labels_N[torch.rand(n, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = -100
    weights_N = torch.rand(n, generator=generator) * 3
    return head, hidden_ND, labels_N, weights_N, mask, draw(st.integers(1, 45))


@given(problems(), st.floats(0.01, 100))
def test_chunks_give_what_the_plain_head_gives(problem, factor):
    head, hidden_ND, labels_N, weights_N, mask, rows = problem
    inputs = [hidden_ND, *head.parameters()]
    loss, nll_N, correct_N = plain(hidden_ND, head, labels_N, weights_N, mask)
    gradients = torch.autograd.grad(factor * loss, inputs)
    ours, our_nll_N, our_correct_N = chunked_cross_entropy(hidden_ND, head, labels_N, weights_N, mask, rows, True)
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(our_nll_N, nll_N, rtol=1e-5, atol=1e-5)
    assert torch.equal(our_correct_N[labels_N != -100], correct_N[labels_N != -100])
    assert not our_nll_N[labels_N == -100].any()
    assert not our_nll_N.requires_grad
    for got, wanted in zip(torch.autograd.grad(factor * ours, inputs), gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5 * float(1 + wanted.abs().max()))


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_are_those_of_finite_differences_in_float64(bias):
    torch.manual_seed(0)
    head = nn.Linear(3, 7, bias=bias, dtype=torch.float64)
    hidden_ND = torch.randn(9, 3, dtype=torch.float64, requires_grad=True)
    labels_N, weights_N = torch.randint(6, (9,)), torch.rand(9, dtype=torch.float64)
    labels_N[4] = -100

    def loss(hidden_ND: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return chunked_cross_entropy(hidden_ND, head, labels_N, weights_N, 6, 4)[0]

    assert torch.autograd.gradcheck(loss, (hidden_ND, *head.parameters()))


def test_a_kept_graph_goes_backward_twice():
    head, hidden_ND = nn.Linear(3, 7), torch.randn(5, 3, requires_grad=True)
    loss = chunked_cross_entropy(hidden_ND, head, torch.arange(5), torch.ones(5), 6, 2)[0]
    (first,) = torch.autograd.grad(3 * loss, [head.weight], retain_graph=True)
    (second,) = torch.autograd.grad(loss, [head.weight])
    torch.testing.assert_close(first, 3 * second)


def test_nothing_is_as_large_as_all_labelled_positions_times_the_vocabulary():
    head, hidden_ND = nn.Linear(4, 500), torch.randn(96, 4, requires_grad=True)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            sizes = [x.untyped_storage().nbytes() for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
            largest = max([largest, *sizes])
            return result

    with Watch():
        loss = chunked_cross_entropy(hidden_ND, head, torch.randint(499, (96,)), torch.ones(96), 499, 8, True)[0]
        loss.backward()
    assert largest == 4 * 8 * 500


def test_without_gradients_no_gradient_is_computed():
    head, hidden_ND = nn.Linear(3, 7), torch.randn(5, 3)
    products: list[Any] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
                products.append(function)
            return function(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        chunked_cross_entropy(hidden_ND, head, torch.arange(5), torch.ones(5), 6, 1)
    assert len(products) == 5  # the logits of each chunk


def test_a_frozen_head_gets_no_gradient_and_passes_on_that_of_the_hidden_states():
    head, hidden_ND = nn.Linear(3, 7), torch.randn(5, 3, requires_grad=True)
    labels_N, weights_N = torch.arange(5), torch.rand(5)
    (wanted,) = torch.autograd.grad(plain(hidden_ND, head, labels_N, weights_N, 6)[0], [hidden_ND])
    head.requires_grad_(False)
    chunked_cross_entropy(hidden_ND, head, labels_N, weights_N, 6, 2)[0].backward()
    torch.testing.assert_close(hidden_ND.grad, wanted)
    assert head.weight.grad is None


def test_under_autocast_products_are_bfloat16_and_sums_float32():
    torch.manual_seed(0)
    head, hidden_ND = nn.Linear(32, 300), torch.randn(64, 32, requires_grad=True)
    labels_N, weights_N = torch.randint(299, (64,)), torch.rand(64)
    exact = torch.autograd.grad(plain(hidden_ND, head, labels_N, weights_N, 299)[0], [hidden_ND, *head.parameters()])
    with torch.autocast("cpu", torch.bfloat16):
        autocast = plain(hidden_ND, head, labels_N, weights_N, 299)[0]
        loss, nll_N, _ = chunked_cross_entropy(hidden_ND, head, labels_N, weights_N, 299, 8)
    theirs = torch.autograd.grad(autocast, [hidden_ND, *head.parameters()])
    ours = torch.autograd.grad(loss, [hidden_ND, *head.parameters()])
    assert loss.dtype == nll_N.dtype == torch.float32
    for got, other, wanted in zip(ours, theirs, exact, strict=True):
        assert got.dtype == torch.float32
        assert (got - wanted).norm() < 1.5 * (other - wanted).norm()  # no further off than the plain head


def test_which_heads_are_chunked():
    head, hidden_ND, weights_N = nn.Linear(3, 7), torch.randn(5, 3), torch.ones(5)
    assert can_chunk(head, hidden_ND, weights_N)
    assert not can_chunk(nn.Sequential(head), hidden_ND, weights_N)
    assert not can_chunk(head, hidden_ND.half(), weights_N)
    assert not can_chunk(head, hidden_ND, weights_N.clone().requires_grad_())
    special = nn.Linear(3, 7)
    special.weight = type("Special", (nn.Parameter,), {})(special.weight)
    assert not can_chunk(special, hidden_ND, weights_N)


def test_how_many_positions_a_chunk_takes():
    cpu = torch.device("cpu")
    assert chunk_rows(2048, 258, cpu) == 2048  # two megabytes
    assert chunk_rows(1024, 50_258, cpu) == 256  # four chunks of one size, each within 64 MiB
    assert 4 * 50_258 * automatic_chunk_rows(50_258, "cpu") <= 2**26
    assert chunk_rows(1024, 50_258, cpu, 0) == chunk_rows(1024, 50_258, cpu, 5000) == 1024
    assert chunk_rows(10, 50_258, cpu, 4) == 4
    assert chunk_rows(0, 50_258, cpu, 4) == 0
    assert automatic_chunk_rows(2**30, "cpu") == 1


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randint(0, 100, (4, 10), generator=generator)
    hidden = torch.rand(4, 10, generator=generator) < 0.4
    return {
        "input_ids": clean.masked_fill(hidden, MASK),
        "labels": clean.masked_fill(~hidden, -100),
        "loss_weights": torch.rand(4, 1, generator=generator) + 0.5,
    }


@pytest.mark.parametrize(
    "config", [{}, {"tie_word_embeddings": False}, {"head_bias": True}], ids=["tied", "untied", "bias"]
)
@pytest.mark.parametrize("weighted", [True, False])
def test_a_model_that_chunks_trains_as_one_that_does_not(tiny_denoiser, batch, config, weighted):
    if not weighted:
        del batch["loss_weights"]
    found = []
    for head_chunk_rows in (0, 3):
        model = tiny_denoiser(**config)
        model.head_chunk_rows = head_chunk_rows
        for _ in range(2):  # gradients accumulate
            output = model(**batch, output_correct=True)
            (output.loss / 7).backward()
        found.append((output, {name: p.grad for name, p in model.named_parameters()}))
    (all_at_once, wanted), (in_chunks, got) = found
    torch.testing.assert_close(in_chunks.loss, all_at_once.loss)
    torch.testing.assert_close(in_chunks.token_nll, all_at_once.token_nll)
    assert torch.equal(in_chunks.token_correct, all_at_once.token_correct)
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    if not config.get("tie_word_embeddings", True):
        assert not got["lm_head.weight"][MASK].any()


@pytest.mark.parametrize("head_chunk_rows", [0, 3])
@pytest.mark.parametrize("weighted", [True, False])
def test_positions_without_a_label_fill_up_a_shape_and_change_nothing(tiny_denoiser, batch, head_chunk_rows, weighted):
    if not weighted:
        del batch["loss_weights"]
    model = tiny_denoiser()
    model.head_chunk_rows = head_chunk_rows
    labels_M = batch["labels"].flatten()
    labelled, other = (torch.nonzero(where).squeeze(-1) for where in (labels_M != -100, labels_M == -100))
    short = model(**batch, positions=labelled)
    short.loss.backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    filled = model(**batch, positions=torch.cat([labelled, other[:7]]))
    filled.loss.backward()
    torch.testing.assert_close(filled.loss, short.loss)
    torch.testing.assert_close(filled.token_nll[: len(labelled)], short.token_nll)
    assert not filled.token_nll[len(labelled) :].any()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-6, msg=name)


def test_compiled_the_model_makes_all_logits_at_once_and_gives_the_same(tiny_denoiser, batch):
    model = tiny_denoiser()
    model.head_chunk_rows = 3
    batch["positions"] = torch.nonzero(batch["labels"].flatten() != -100).squeeze(-1)
    wanted = model(**batch)
    wanted.loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch._dynamo.reset()
    got = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch)
    got.loss.backward()
    torch.testing.assert_close(got.loss, wanted.loss)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, gradients[name], rtol=1e-4, atol=1e-6, msg=name)
