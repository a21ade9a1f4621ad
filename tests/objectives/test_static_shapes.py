"""Stratified counts bound the labelled positions: one shape in every step, one compiled graph, even work of all ranks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounterWithBackend

from hf_difflm.data import Collator
from hf_difflm.errors import UserError
from hf_difflm.objectives import CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.noise import stratified_sums, van_der_corput_ranks
from hf_difflm.objectives.static_shapes import most_hidden

MASK, ROWS, LENGTH, BATCH = 259, 4, 12, 16
samplings = pytest.mark.parametrize("sampling", ["stratified", "pairs"])


def objective(sampling: str = "stratified", static: bool = True) -> MaskedDiffusionObjective:
    return MaskedDiffusionObjective(MASK, noise_sampling=sampling, static_shapes=static)


def key_of(step: int, micro: int = 0) -> NoiseKey:
    return NoiseKey(0, step, ROWS * micro + np.arange(ROWS), BATCH)


@pytest.fixture
def batch(tokenizer, train_rows):
    return Collator(tokenizer)(train_rows(ROWS, LENGTH))


def labelled(seen: list[dict[str, torch.Tensor]], model: torch.nn.Module) -> None:
    model.register_forward_pre_hook(lambda module, args, kwargs: seen.append(dict(kwargs)), with_kwargs=True)


@samplings
def test_every_micro_batch_of_every_step_has_as_many_positions_and_those_that_fill_up_have_no_label(
    tiny_denoiser, batch, sampling
):
    seen: list[dict[str, torch.Tensor]] = []
    model = tiny_denoiser()
    labelled(seen, model)
    noisy = objective(sampling)
    for step, micro in itertools.product(range(10), range(BATCH // ROWS)):
        output = noisy(model, batch, key_of(step, micro), 44, accuracy=True)
        call = seen[-1]
        assert len(call["positions"].unique()) == len(call["positions"])
        labels = call["labels"].flatten()[call["positions"]]
        count = len(output.rows_N)
        assert (labels[:count] != -100).all()
        assert (labels[count:] == -100).all()
        assert (call["labels"] != -100).sum() == count == len(output.token_nll_N) == len(output.token_correct_N)
    most = most_hidden(ROWS, LENGTH - 1, BATCH, noisy.reads)
    assert {len(call["positions"]) for call in seen} == {most}
    counts = {int((call["labels"] != -100).sum()) for call in seen}
    assert counts == {most} if sampling == "pairs" else len(counts) > 3


@pytest.mark.parametrize(
    "law", [CountLaw("importance"), CountLaw("bell"), CountLaw("bell", centre=0.7, width=0.05)], ids=str
)
def test_the_bound_of_a_law_holds_for_all_its_draws_and_is_near_the_most_of_them(law):
    noisy, scored = MaskedDiffusionObjective(MASK, count_law=law), np.ones((ROWS, 200), dtype=bool)
    most = most_hidden(ROWS, 200, BATCH, law=law)
    hidden = [
        noisy.corrupt(scored, key_of(step, micro)).masked_BL.sum()
        for step, micro in itertools.product(range(400), range(BATCH // ROWS))
    ]
    assert 0.9 * most < max(hidden) <= most < ROWS * 200


@samplings
def test_loss_and_gradients_are_those_of_the_dynamic_shapes(tiny_denoiser, batch, sampling):
    results = []
    for static in (False, True):
        model, noisy = tiny_denoiser(), objective(sampling, static)
        outputs = [noisy(model, batch, key_of(step), 44) for step in range(6)]
        torch.stack([output.loss for output in outputs]).sum().backward()
        results.append((outputs, [p.grad for p in model.parameters()]))
    (dynamic, gradients), (padded, padded_gradients) = results
    for ours, theirs in zip(padded, dynamic, strict=True):
        assert float(ours.loss.detach()) == pytest.approx(float(theirs.loss.detach()), rel=1e-6)
        torch.testing.assert_close(ours.token_nll_N, theirs.token_nll_N, rtol=1e-6, atol=1e-6)
    for one, other in zip(padded_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sampling", ["stratified", pytest.param("pairs", marks=pytest.mark.slow)])
def test_a_compiled_step_has_one_graph_without_a_break_whatever_the_noise(tiny_denoiser, batch, sampling):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    model, plain = tiny_denoiser(), tiny_denoiser()
    compiled = torch.compile(model, backend=counter, fullgraph=True)
    noisy, dynamic = objective(sampling), objective(sampling, static=False)
    for step in range(20):
        output = noisy(compiled, batch, key_of(step), 44)
        output.loss.backward()
        expected = dynamic(plain, batch, key_of(step), 44)
        assert float(output.loss.detach()) == pytest.approx(float(expected.loss.detach()), rel=1e-6)
    assert counter.frame_count == 1


@pytest.mark.slow
def test_without_static_shapes_a_compiled_step_is_compiled_again(tiny_denoiser, batch):
    """The test above can fail: the number of labelled positions is another in nearly every step."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled, noisy = torch.compile(tiny_denoiser(), backend=counter, dynamic=False), objective(static=False)
    for step in range(5):
        noisy(compiled, batch, key_of(step), 44)
    assert counter.frame_count > 2


@given(rows=st.integers(1, 12), micro=st.integers(1, 12), rest=st.integers(0, 11), length=st.integers(1, 40))
def test_the_least_and_the_largest_sum_are_those_of_a_search_over_offsets(rows, micro, rest, length):
    size = rows * micro + rest % rows
    v_WR = (van_der_corput_ranks(size) / size)[: rows * micro].reshape(micro, rows)
    # The sums change where a number wraps round: just before and at each such offset.
    wraps = np.concatenate([1 - v_WR.ravel(), 1 - v_WR.ravel() - 1e-9, [0.0]]) % 1.0
    sums = ((wraps[:, None, None] + v_WR) % 1.0).sum(-1)
    low, high = stratified_sums(rows, size)
    assert low == pytest.approx(sums.min(), abs=1e-6)
    assert high == pytest.approx(sums.max(), abs=1e-6)


@given(
    log_ranks=st.integers(0, 3),
    accumulation=st.integers(1, 5),
    rows=st.integers(1, 6),
    scored=st.integers(1, 50),
    step=st.integers(0, 10**6),
)
def test_no_rank_has_more_labelled_positions_than_the_bound_and_ranks_differ_by_what_it_allows(
    log_ranks, accumulation, rows, scored, step
):
    """Places as the Trainer numbers them: ((micro-batch x ranks) + rank) x rows + row."""
    ranks = 2**log_ranks
    size = ranks * accumulation * rows
    drawn = MaskedDiffusionObjective(MASK).corrupt(
        np.ones((size, scored), dtype=bool), NoiseKey(0, step, np.arange(size), size)
    )
    labelled_AR = drawn.masked_BL.sum(-1).reshape(accumulation, ranks, rows).sum(-1)
    low, high = stratified_sums(rows, size)
    assert labelled_AR.max() <= most_hidden(rows, scored, size)
    assert (labelled_AR.max(1) - labelled_AR.min(1)).max() <= rows + scored * (high - low)


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_ranks_wait_less_for_each_other_than_under_independent_noise(ranks):
    """What the slowest rank has more than the mean, as a share of the mean; 8 sequences a rank, two micro-batches."""
    rows, scored, accumulation = 8, 128, 2
    size = ranks * accumulation * rows

    def excess(sampling: str) -> float:
        noisy = MaskedDiffusionObjective(MASK, noise_sampling=sampling)
        found = []
        for step in range(50):
            key = NoiseKey(0, step, np.arange(size), size)
            masked = noisy.corrupt(np.ones((size, scored), dtype=bool), key).masked_BL
            work_AR = masked.sum(-1).reshape(accumulation, ranks, -1).sum(-1)
            found.append((work_AR.max(1) / work_AR.mean(1) - 1).mean())
        return float(np.mean(found))

    assert excess("stratified") < excess("iid") / 2
    assert excess("pairs") == 0.0


def test_shapes_that_differ_and_padding_are_refused_in_one_sentence(tiny_denoiser, tokenizer, train_rows, batch):
    model, noisy = tiny_denoiser(), objective()
    noisy(model, batch, key_of(0), 44)
    with pytest.raises(UserError, match=r"one of 4 x 8 tokens after one of 4 x 12; pack the text"):
        noisy(model, Collator(tokenizer)(train_rows(ROWS, 8)), key_of(1), 28)
    with pytest.raises(UserError, match="with padding"):
        objective()(model, Collator(tokenizer)(train_rows(ROWS, LENGTH, ragged=True)), key_of(0), 30)


@pytest.mark.parametrize(("form", "sampling"), [("time", "stratified"), ("any_order", "iid")])
def test_noise_without_a_bound_has_no_static_shapes(form, sampling):
    with pytest.raises(ValueError, match="bound"):
        MaskedDiffusionObjective(MASK, form, sampling, static_shapes=True)
