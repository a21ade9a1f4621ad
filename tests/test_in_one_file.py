"""The example in one file computes what the library computes, and docs/in-one-file.md shows what it says and prints."""

from __future__ import annotations

import importlib
import itertools
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_difflm.data.sources.markov import MarkovSource
from hf_difflm.objectives import MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.noise import stratified_uniforms

ROOT = Path(__file__).parents[1]
FILE = ROOT / "examples/masked_diffusion_in_100_lines.py"
PAGE = (ROOT / "docs/in-one-file.md").read_text(encoding="utf-8")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FILE.parent))
    return importlib.import_module(FILE.stem)


@pytest.fixture
def three_letters(example: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The example for texts of 3 tokens out of 3 kinds; the mask has the id 3."""
    for name, value in {"V": 3, "MASK": 3, "L": 3, "B": 3}.items():
        monkeypatch.setattr(example, name, value)
    return example


def logits_of(table) -> Any:
    """A network for the example that looks its logits up; the mask's is the largest, which SUBS has to undo."""
    return lambda z_BL: torch.nn.functional.pad(table.scores.detach()[tuple(z_BL.T)], (0, 1), value=9.0)


def chi_squared_p(observed: np.ndarray, expected: np.ndarray) -> float:
    statistic = ((observed - expected) ** 2 / expected).sum()
    half = torch.tensor([(len(expected) - 1) / 2, statistic / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def all_masks(length: int) -> torch.Tensor:
    return torch.tensor(list(itertools.product([False, True], repeat=length))[1:])


def enumerated_bound(example: Any, network: Any, x_L: list[int]) -> float:
    """Nats of a text: each set of k out of L is drawn with probability 1 / (L C(L, k))."""
    length, masked_ML = len(x_L), all_masks(len(x_L))
    nll_M = example.nelbo(network, torch.tensor(x_L).expand(len(masked_ML), -1), masked_ML)
    p_M = torch.tensor([1 / (length * math.comb(length, k)) for k in masked_ML.sum(-1).tolist()], dtype=nll_M.dtype)
    return length * float((nll_M * p_M).sum())


@pytest.fixture
def same_network(tiny_denoiser, example):
    """The library's denoiser, and its own logits before SUBS as a network for the example."""
    model = tiny_denoiser(vocab_size=example.V + 1, seed=3)
    assert model.config.mask_token_id == example.MASK
    return model, lambda z_BL: model.lm_head(model.backbone(input_ids=z_BL, use_cache=False).last_hidden_state)


def test_subs_is_the_librarys(example, same_network):
    model, network = same_network
    z_BL = torch.randint(0, example.V + 1, (16, 12), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(example.log_mu(network, z_BL), model(z_BL).logits.log_softmax(-1), atol=1e-6, rtol=1e-6)


def test_loss_and_gradient_are_the_objectives_for_the_same_masks(example, same_network):
    model, network = same_network
    x_BL = torch.randint(0, example.V, (16, 12), generator=torch.Generator().manual_seed(1))
    objective, key = MaskedDiffusionObjective(example.MASK), NoiseKey(5, 2, np.arange(16), 16)
    masked_BL = torch.from_numpy(objective.corrupt(np.ones(x_BL.shape, dtype=bool), key).masked_BL)
    losses = (
        example.nelbo(network, x_BL, masked_BL).mean(),
        objective(model, {"input_ids": x_BL, "labels": x_BL}, key, x_BL.numel()).loss,
    )
    ours, theirs = (torch.autograd.grad(loss, list(model.parameters())) for loss in losses)
    assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-6)
    for mine, its in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, its, atol=1e-6, rtol=1e-4)


def test_with_exact_conditionals_the_bound_of_every_text_is_its_likelihood(three_letters, small_joint, exact_denoiser):
    joint = small_joint(3, 3, 2)
    network = logits_of(exact_denoiser(joint))
    for x_L in itertools.product(range(3), repeat=3):
        assert enumerated_bound(three_letters, network, list(x_L)) == pytest.approx(-math.log(joint[x_L]), abs=1e-9)


def test_the_bound_is_the_librarys_mask_by_mask(three_letters, random_denoiser):
    """A network that fits no distribution; the objective's rows of one text come to all its masks."""
    model, x_L = random_denoiser(3, 3, 4), [2, 0, 1]
    x_BL, key = torch.tensor(x_L).expand(300, -1), NoiseKey(0, 0, np.arange(300), 300)
    objective = MaskedDiffusionObjective(3)
    masked_BL = objective.corrupt(np.ones((300, 3), dtype=bool), key).masked_BL
    output = objective(model, {"input_ids": x_BL, "labels": x_BL}, key, 1)
    weighted_N = output.token_weights_N * output.token_nll_N.numpy()
    nelbo_B = np.bincount(output.rows_N, weighted_N, minlength=300)
    assert len(np.unique(masked_BL, axis=0)) == 2**3 - 1
    ours_B = 3 * three_letters.nelbo(logits_of(model), x_BL, torch.from_numpy(masked_BL)).numpy()
    np.testing.assert_allclose(ours_B, nelbo_B, rtol=1e-9)


def test_an_evaluation_is_right_within_its_standard_error_and_disturbs_no_random_number(three_letters, random_denoiser):
    x_L, network = [2, 0, 1], logits_of(random_denoiser(3, 3, 4))
    source = SimpleNamespace(draw=lambda B, L: torch.tensor(x_L).expand(B, L))
    truth = enumerated_bound(three_letters, network, x_L) / 3
    before = torch.get_rng_state()
    bound, stderr = three_letters.evaluate(network, source, 2000)
    assert torch.equal(torch.get_rng_state(), before)
    assert abs(bound - truth) < 3 * stderr
    assert stderr < 0.01 * truth
    few = three_letters.evaluate(network, source, 500)
    assert few[1] == pytest.approx(2 * stderr, rel=0.15)  # a quarter of the replicates: twice the error
    torch.rand(1)  # training goes on
    assert three_letters.evaluate(network, source, 500) == few


@pytest.mark.parametrize(("size", "length"), [(8, 8), (64, 64), (10, 7), (7, 10), (64, 5)])
def test_the_counts_of_a_batch_are_those_of_the_objective(example, monkeypatch, size, length):
    """The same U gives the same counts, to the batch as a whole: the objective deals them out in another order."""
    for step in range(20):
        key = NoiseKey(0, step, np.arange(size), size)
        corruption = MaskedDiffusionObjective(example.MASK).corrupt(np.ones((size, length), dtype=bool), key)
        u = torch.tensor(stratified_uniforms(key)[0])  # the first place has the rank 0
        monkeypatch.setattr(torch, "rand", lambda *size, u=u, **kwargs: u)
        counts = example.counts(size, length)
        monkeypatch.undo()
        assert sorted(counts.tolist()) == sorted(corruption.masked_BL.sum(-1).tolist())


def test_each_count_is_uniform_by_itself_and_comes_once_a_batch_of_as_many_texts_as_tokens(example):
    torch.manual_seed(0)
    drawn_RB = torch.stack([example.counts(7, 7) for _ in range(7000)])
    assert (drawn_RB.sort(-1).values == torch.arange(1, 8)).all()
    for counts_R in drawn_RB.T:
        assert chi_squared_p(torch.bincount(counts_R - 1, minlength=7).numpy(), np.full(7, 1000.0)) > 1e-4


def test_every_set_of_k_tokens_is_as_likely_as_any_other(example):
    torch.manual_seed(0)
    bits_L = torch.tensor([8, 4, 2, 1])
    for k, sets in ((1, 4), (2, 6), (3, 4), (4, 1)):
        masked_BL = example.masks(torch.full((6000,), k), 4)
        assert (masked_BL.sum(-1) == k).all()
        often = torch.bincount((masked_BL * bits_L).sum(-1), minlength=16)
        often = often[often > 0].numpy()
        assert len(often) == sets
        assert sets == 1 or chi_squared_p(often, np.full(sets, 6000 / sets)) > 1e-4


def frequencies(example: Any, joint: np.ndarray, network: Any, together: int) -> tuple[np.ndarray, np.ndarray]:
    """Observed and expected numbers of each text in 40,000; those expected fewer than 5 times are one cell."""
    torch.manual_seed(0)
    x_BL = example.sample(network, 40_000, 3, together)
    observed = torch.bincount((x_BL * torch.tensor([9, 3, 1])).sum(-1), minlength=27).numpy()
    expected = joint.flatten() * 40_000
    few = expected < 5
    return np.append(observed[~few], observed[few].sum()), np.append(expected[~few], max(expected[few].sum(), 1e-9))


def test_one_token_a_forward_samples_the_exact_distribution_and_several_do_not(
    three_letters, small_joint, exact_denoiser
):
    joint = small_joint(3, 3, 0)
    network = logits_of(exact_denoiser(joint))
    assert chi_squared_p(*frequencies(three_letters, joint, network, 1)) > 1e-4
    assert chi_squared_p(*frequencies(three_letters, joint, network, 2)) < 1e-4
    assert chi_squared_p(*frequencies(three_letters, joint, network, 3)) < 1e-4


def test_tokens_appear_in_a_uniform_order_one_a_forward(three_letters):
    seen = []

    def network(z_BL):
        seen.append(z_BL == 3)
        return torch.zeros(*z_BL.shape, 4)

    torch.manual_seed(0)
    three_letters.sample(network, 6000, 3)
    assert [masked_BL.sum(-1).unique().tolist() for masked_BL in seen] == [[3], [2], [1]]
    which_F = [(masked_BL * torch.tensor([1, 2, 4])).sum(-1) for masked_BL in seen[1:]]
    orders = torch.bincount(8 * which_F[0] + which_F[1])
    orders = orders[orders > 0].numpy()
    assert len(orders) == 6
    assert chi_squared_p(orders, np.full(6, 1000.0)) > 1e-4


def test_the_source_is_the_librarys_chain(example):
    source, library = example.Markov(), MarkovSource()
    np.testing.assert_allclose(source.next_VV.numpy(), library.transitions, rtol=1e-12)
    np.testing.assert_allclose(source.first_V.numpy(), library.stationary, rtol=1e-9)
    assert source.entropy(10**9) == pytest.approx(library.entropy_rate(), abs=1e-8)
    torch.manual_seed(0)
    x_BL = source.draw(4000, 20)
    nll_B = source.nll(x_BL)
    np.testing.assert_allclose(nll_B.numpy(), library.sequence_nll(x_BL.numpy()) / 20, rtol=1e-9)
    assert float(nll_B.mean()) == pytest.approx(source.entropy(20), abs=4 * float(nll_B.std()) / 4000**0.5)


def test_the_network_sees_both_sides_and_where_things_are(example):
    torch.manual_seed(0)
    network = example.Denoiser()
    z_L = torch.tensor([0, 1, 2, example.MASK, 4, 5, 6])
    others = [z_L[[1, 0, 2, 3, 4, 5, 6]], z_L[[0, 1, 2, 3, 4, 6, 5]]]  # two letters change places, before or after
    at_the_mask = network(torch.stack([z_L, *others]))[:, 3]
    assert (at_the_mask[1:] - at_the_mask[0]).abs().amax(-1).min() > 1e-3


def test_it_trains_and_prints_what_the_page_shows(example, monkeypatch, capsys):
    """Short texts and a few steps: it has learnt more than how often each letter comes, and claims nothing impossible."""
    monkeypatch.setattr(example, "L", 16)
    monkeypatch.setattr(sys, "argv", [str(FILE), "--steps", "72"])
    example.main()
    printed = capsys.readouterr().out
    bound, stderr, limit = map(float, re.search(r"at the end +bound (\S+) ± (\S+) +limit (\S+)", printed).groups())
    assert limit - 3 * stderr < bound < 1.85
    assert example.Markov().entropy(1) > 1.9  # of a letter of whose neighbours one knows nothing
    exact, *_, at_once = map(float, re.findall(r"under the source (\S+)", printed))
    assert exact < at_once - 0.3
    (shown,) = re.findall(r"```text\n(.*?)```", PAGE, flags=re.DOTALL)
    assert shapes(shown) == shapes(printed)


def shapes(text: str) -> list[str]:
    """Lines without their numbers and letters of samples."""
    return [re.sub(r"[\d.]+|[a-h]{16,}", "#", " ".join(line.split())) for line in text.splitlines()]


def test_the_page_quotes_the_file_and_names_the_entropies(example):
    lines = FILE.read_text(encoding="utf-8")
    quotes = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    assert quotes
    assert all(quote in lines for quote in quotes)
    source = example.Markov()
    assert f"entropy rate {source.entropy(10**9):.3f}; of texts of 64 tokens {source.entropy(64):.3f}" in PAGE


def test_it_is_one_short_file_of_plain_torch():
    lines = [line.strip() for line in FILE.read_text(encoding="utf-8").splitlines()]
    assert sum(bool(line) and not line.startswith("#") for line in lines) <= 130
    imported = {line.split()[1].split(".")[0] for line in lines if re.match(r"(import|from) ", line)}
    assert imported == {"__future__", "argparse", "numpy", "time", "torch"}
