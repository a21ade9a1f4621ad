"""log p(continuation | context) of models with diffusion blocks: block after block, each given the clean text before it."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from hf_difflm.evaluation.likelihood.continuations import Request, Scorer

MASK = 259
RAGGED = [
    Request((256, 97, 98), (99, 100, 101, 102, 103)),
    Request((256,), (97, 98, 99, 100), own_noise=True),
    Request((256, 100, 100, 100, 101, 102), (102, 97)),
    Request((256, 100, 101, 100), (103,)),
]
SIZES = [1, 2, 3, 4, 16]
STARTS = ["text", "answer"]


@pytest.fixture
def scorer(tiny_denoiser, tokenizer):
    def make(size, start="text", shifted=False, **settings):
        config = {"diffusion_block_size": size, "diffusion_block_start": start, "shift_logits": shifted}
        model = tiny_denoiser(**config).eval()
        return Scorer(model, tokenizer, is_denoiser=True, **settings)

    return make


def borders(request: Request, size: int, start: str) -> list[range]:
    """The places of each block that has tokens of the continuation."""
    first, end = len(request.context), len(request.ids)
    begin = first if start == "answer" else first // size * size
    return [range(max(at, first), min(at + size, end)) for at in range(begin, end, size)]


@torch.no_grad()
def log_p_at(model, ids: list[int], place: int, start: int) -> torch.Tensor:
    given = {"answer_starts": torch.tensor([start])} if model.config.diffusion_block_start == "answer" else {}
    return model(torch.tensor([ids]), **given).logits[0, place].double().log_softmax(-1)


def mean_over_orders(model, request: Request) -> float:
    """A sum over blocks of the mean over all orders of revealing their tokens one by one: the same number as the bound."""
    total, config = 0.0, model.config
    for block in borders(request, config.diffusion_block_size, config.diffusion_block_start):
        of_orders = []
        for order in itertools.permutations(block):
            ids = [*request.ids[: block.start], *[MASK] * len(block)]
            log_p = 0.0
            for place in order:
                log_p += log_p_at(model, ids, place, len(request.context))[request.ids[place]].item()
                ids[place] = request.ids[place]
            of_orders.append(log_p)
        total += np.mean(of_orders)
    return total


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("size", SIZES)
def test_blocks_with_few_subsets_get_the_mean_over_all_orders(scorer, size, start, shifted):
    one = scorer(size, start, shifted, draws=31)
    expected = [mean_over_orders(one.model, request) for request in RAGGED]
    np.testing.assert_allclose(one.log_likelihoods(RAGGED), expected, rtol=2e-6)


@pytest.mark.parametrize("start", STARTS)
def test_blocks_of_one_token_are_a_causal_model_and_take_one_forward(scorer, start):
    """Read from the position before, as a causal model does; it gives the mask token a probability besides."""
    one = scorer(1, start, shifted=True)
    causal = LlamaForCausalLM(one.model.config.backbone_config).eval()
    causal.model.load_state_dict(one.model.backbone.state_dict())
    causal.lm_head.load_state_dict(one.model.lm_head.state_dict())
    causal.config.is_causal = True
    for layer in causal.model.layers:
        layer.self_attn.is_causal = True
    rows = []
    one.model.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    found = one.log_likelihoods(RAGGED)
    assert rows == [len(RAGGED)]
    for request, log_p in zip(RAGGED, found, strict=True):
        with torch.no_grad():
            logits_LV = causal(torch.tensor([request.ids])).logits[0].double()
        logits_LV[:, MASK] = -torch.inf
        first = len(request.context)
        expected = logits_LV.log_softmax(-1)[range(first - 1, len(request.ids) - 1), request.continuation].sum()
        assert log_p == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("size", "start"), [(8, "text"), (64, "text")])
def test_blocks_as_long_as_the_text_are_the_model_without_blocks(scorer, size, start):
    np.testing.assert_allclose(
        scorer(size, start).log_likelihoods(RAGGED), scorer(None).log_likelihoods(RAGGED), rtol=2e-6
    )


def test_draws_are_unbiased_where_only_some_blocks_are_enumerated(scorer):
    request = Request((256, 97), (99, 100, 97, 102, 98, 99))  # blocks of 2 and of 4
    exact = mean_over_orders(scorer(4).model, request)
    assert scorer(4, draws=15).log_likelihoods([request])[0] == pytest.approx(exact, rel=1e-6)
    means = np.array([scorer(4, draws=6, seed=seed, batch_size=10).log_likelihoods([request])[0] for seed in range(40)])
    assert abs(means.mean() - exact) < 4 * means.std(ddof=1) / np.sqrt(len(means))
    assert means.std() > 0


def test_a_block_with_few_subsets_has_all_of_them_beside_one_that_is_drawn(scorer):
    masked_DL, weights_DL = scorer(4, draws=6)._cases(Request((256, 97), (99,) * 6))
    assert sorted(map(tuple, masked_DL[:, :2].tolist()))[3:] == [(False, True), (True, False), (True, True)]
    assert weights_DL[:, :2][masked_DL[:, :2]].sum() == pytest.approx(2)  # each token once
    assert masked_DL[:, 2:].any(-1).all()  # in each draw


@pytest.mark.parametrize("start", STARTS)
def test_neither_neighbours_nor_order_nor_batches_matter(scorer, start):
    long = [Request((256, *range(97, i)), tuple(97 + (i * j) % 7 for j in range(i - 90))) for i in range(97, 103)]
    together = scorer(4, start, draws=6, batch_size=7).log_likelihoods(long)
    alone = [scorer(4, start, draws=6, batch_size=1).log_likelihoods([one])[0] for one in reversed(long)]
    np.testing.assert_allclose(together, alone[::-1], rtol=1e-5)
    other = scorer(4, start, draws=6, seed=1).log_likelihoods(long)
    assert not np.allclose(together, other, rtol=1e-5)


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("start", STARTS)
def test_a_context_read_once_says_what_all_blocks_at_once_say(scorer, start, shifted, monkeypatch):
    contexts = [(256, *range(97, end)) for end in (101, 106, 103, 110)]  # one is the beginning of another
    asked = [Request(context, tuple(99 + (i * j) % 5 for j in range(i))) for context in contexts for i in (3, 1, 6)]
    once = scorer(4, start, shifted, draws=6, batch_size=4)
    assert sum(map(once._context_pays, asked)) >= 9  # of 12
    read = []
    once.model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(args[0].numel() if args else 2 * kwargs["input_ids"].numel()),
        with_kwargs=True,
    )
    found, tokens = once.log_likelihoods(asked), sum(read)
    read.clear()
    monkeypatch.setattr(Scorer, "_context_pays", lambda self, request: False)
    np.testing.assert_allclose(found, once.log_likelihoods(asked), rtol=1e-5)
    assert tokens < sum(read) / 2


def test_choices_after_one_context_share_their_noise(scorer):
    one = scorer(8, draws=6)
    choices = [one._cases(Request((256, 97), (letter,) * 12))[0] for letter in (99, 100)]
    assert (choices[0] == choices[1]).all()
    other = one._cases(Request((256, 98), (99,) * 12))[0]
    assert (choices[0] != other).any()
    windows = [one._cases(Request((256, 97), (letter,) * 12, own_noise=True))[0] for letter in (99, 100)]
    assert (windows[0] != windows[1]).any()


@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("size", SIZES)
def test_greedy_is_what_generate_writes_by_confidence(scorer, size, start, shifted):
    one = scorer(size, start, shifted)
    by_confidence = {"sampler": "uncertainty", "sampler_config": {"measure": "max_probability"}, "do_sample": False}
    right = []
    for context, length in (((256, 97, 98), 6), ((256,), 1), ((256, 100, 101, 102, 103), 4)):
        written = one.model.generate(
            torch.tensor([context]), max_new_tokens=length, max_denoising_steps=length, **by_confidence
        )
        right.append(Request(context, tuple(written[0, len(context) :].tolist())))
    wrong = [Request(r.context, (*r.continuation[:-1], (r.continuation[-1] + 1) % 97)) for r in right]
    assert one.are_greedy([*right, *wrong]).tolist() == [True] * 3 + [False] * 3
