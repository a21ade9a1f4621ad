"""log p(continuation | context): exact for causal LMs, the bound of evaluation for masked diffusion models."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from hf_difflm.evaluation.likelihood.continuations import Request, Scorer, all_subsets

MASK = 259
RAGGED = [
    Request((256, 97, 98), (99, 100)),
    Request((256,), (97, 98, 99, 100), own_noise=True),
    Request((256, 100, 100, 100, 101), (102,)),
]


@pytest.fixture
def scorer(tiny_denoiser, tokenizer):
    def make(**settings):
        return Scorer(tiny_denoiser().eval(), tokenizer, is_denoiser=True, **settings)

    return make


@pytest.fixture
def causal_scorer(tiny_causal, tokenizer):
    return Scorer(tiny_causal().eval(), tokenizer, is_denoiser=False, batch_size=2)


@torch.no_grad()
def _log_p(model, ids, position):
    """log p of each token at one masked position."""
    return model(torch.tensor([ids])).logits[0, position].double().log_softmax(-1)


def _any_order_bound(model, request):
    """The mean over all orders of revealing the tokens one by one (arXiv 2110.02037): the same number as the bound."""
    start, length = len(request.context), len(request.continuation)
    totals = []
    for order in itertools.permutations(range(length)):
        ids = [*request.context, *[MASK] * length]
        total = 0.0
        for place in order:
            total += _log_p(model, ids, start + place)[request.continuation[place]].item()
            ids[start + place] = request.continuation[place]
        totals.append(total)
    return np.mean(totals)


def test_short_continuations_get_the_mean_over_all_orders_exactly(scorer):
    found = scorer(draws=15).log_likelihoods(RAGGED)
    expected = [_any_order_bound(scorer().model, request) for request in RAGGED]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_likelihood_of_one_token_is_exact_and_takes_one_forward(scorer):
    one = scorer(draws=64)
    calls = []
    hook = one.model.register_forward_hook(lambda module, args, output: calls.append(len(output.token_nll)))
    found = one.log_likelihoods([RAGGED[2]])
    hook.remove()
    assert calls == [1]
    expected = _log_p(one.model, [256, 100, 100, 100, 101, MASK], 5)[102].item()
    assert found[0] == pytest.approx(expected, rel=1e-6)


def test_draws_are_unbiased(scorer):
    """The mean over seeds is the mean over all orders; draws within a request are stratified over the counts."""
    request = Request((256, 97), (99, 100, 97, 102))
    exact = _any_order_bound(scorer().model, request)
    means = np.array([scorer(draws=6, seed=seed, batch_size=10).log_likelihoods([request])[0] for seed in range(40)])
    assert abs(means.mean() - exact) < 4 * means.std(ddof=1) / np.sqrt(len(means))
    assert means.std() > 0


def test_neither_neighbours_nor_order_nor_batches_matter(scorer):
    long = [Request((256, i), tuple(97 + (i * j) % 7 for j in range(8))) for i in range(97, 101)]
    together = scorer(draws=6, batch_size=7).log_likelihoods(long)
    alone = [scorer(draws=6, batch_size=1).log_likelihoods([request])[0] for request in reversed(long)]
    np.testing.assert_allclose(together, alone[::-1], rtol=1e-5)
    other = scorer(draws=6, seed=1).log_likelihoods(long)
    assert not np.allclose(together, other, rtol=1e-5)


def _masks(one, request):
    return np.array([masked for _, masked, _ in one._masked_work([request], [0])])


def test_choices_after_one_context_share_their_noise_and_windows_do_not(scorer):
    one = scorer(draws=6)
    choices = [Request((256, 97), (letter,) * 8) for letter in (99, 100)]
    assert (_masks(one, choices[0]) == _masks(one, choices[1])).all()
    windows = [Request((256, 97), (letter,) * 8, own_noise=True) for letter in (99, 100)]
    assert (_masks(one, windows[0]) != _masks(one, windows[1])).any()
    other = Request((256, 98), (99,) * 8)
    assert (_masks(one, choices[0]) != _masks(one, other)).any()


def test_counts_are_stratified_over_the_draws_of_a_request(scorer):
    counts = _masks(scorer(draws=8), Request((256, 97), (99,) * 8)).sum(-1)
    assert sorted(counts) == list(range(1, 9))


def test_all_subsets_have_the_weights_of_the_bound():
    masked, weights = all_subsets(3)
    assert sorted(map(tuple, masked.tolist())) == sorted(itertools.product((False, True), repeat=3))[1:]
    # A token's weights sum to 1: each is counted once.
    np.testing.assert_allclose((masked * weights[:, None]).sum(0), 1.0)


def test_a_causal_model_is_exact_whatever_stands_beside(causal_scorer):
    found = causal_scorer.log_likelihoods(RAGGED)
    with torch.no_grad():
        for request, log_p in zip(RAGGED, found, strict=True):
            log_p_LV = causal_scorer.model(torch.tensor([request.ids])).logits[0].double().log_softmax(-1)
            start = len(request.context)
            expected = sum(log_p_LV[start + i - 1, token].item() for i, token in enumerate(request.continuation))
            assert log_p == pytest.approx(expected, rel=1e-5)


def _greedy_of_causal(model, context, length):
    ids = list(context)
    for _ in range(length):
        with torch.no_grad():
            ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
    return tuple(ids[len(context) :])


def _greedy_of_denoiser(model, context, length):
    ids = [*context, *[MASK] * length]
    while MASK in ids:
        places = [place for place, token in enumerate(ids) if token == MASK]
        best = [_log_p(model, ids, place).max(-1) for place in places]
        surest = max(range(len(places)), key=lambda i: best[i].values.item())
        ids[places[surest]] = best[surest].indices.item()
    return tuple(ids[len(context) :])


@pytest.mark.parametrize("kind", ["causal", "denoiser"])
def test_greedy_is_what_greedy_decoding_writes(kind, causal_scorer, scorer):
    one = causal_scorer if kind == "causal" else scorer()
    decode = _greedy_of_causal if kind == "causal" else _greedy_of_denoiser
    contexts = [(256, 97, 98), (256,), (256, 100, 101, 102, 103)]
    right = [
        Request(context, decode(one.model, context, length))
        for context, length in zip(contexts, (3, 1, 4), strict=True)
    ]
    wrong = [Request(r.context, (*r.continuation[:-1], (r.continuation[-1] + 1) % 97)) for r in right]
    assert one.are_greedy([*right, *wrong]).tolist() == [True] * 3 + [False] * 3


def test_nothing_to_score_is_nothing(scorer, causal_scorer):
    for one in (scorer(), causal_scorer):
        assert one.log_likelihoods([]).shape == one.are_greedy([]).shape == (0,)
