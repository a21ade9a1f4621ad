"""P4 is what it says: exact conditionals give -log p, one token a block is exact, blocks of the whole text are P0."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput
from hf_difflm.objectives import BlockDiffusionObjective, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.noise import paired_uniforms, stratified_uniforms

MASK = 63


def denoiser(size: int | None, seed: int = 0) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(seed)
    config = MaskedDiffusionConfig(
        backbone_config={
            "model_type": "llama",
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
        },
        mask_token_id=MASK,
        diffusion_block_size=size,
    )
    return MaskedDiffusionForMaskedLM(config).eval()


def batch_of(rows: int, length: int, bos: bool = True) -> dict[str, torch.Tensor]:
    ids = torch.randint(0, MASK, (rows, length), generator=torch.Generator().manual_seed(3))
    labels = ids.clone()
    if bos:
        labels[:, 0] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def key_of(rows: int, step: int = 0, first: int = 0, size: int | None = None) -> NoiseKey:
    return NoiseKey(7, step, np.arange(first, first + rows), size or rows)


class Conditionals:
    """p(x_i | the clean blocks before, what is shown of its own block), of a joint distribution; or another model of these.

    With ``own`` false each block sees its noisy text alone: what a network that had lost its cache would say.
    """

    def __init__(self, joint: np.ndarray, size: int, own: bool = True) -> None:
        self.joint, self.size, self.length, self.vocabulary = joint, size, joint.ndim, joint.shape[0]
        self.reads_before = own

    def __call__(
        self, input_ids, clean_ids, labels, loss_weights, positions, output_correct=False, attention_mask=None
    ):
        nll = []
        for position in positions.tolist():
            row, place = divmod(position, self.length)
            first = place // self.size * self.size
            known: list = [slice(None)] * self.length
            if self.reads_before:
                known[:first] = clean_ids[row, :first].tolist()
            for i in range(first, min(first + self.size, self.length)):
                if (token := int(input_ids[row, i])) != self.vocabulary:
                    known[i] = token
            whole = self.joint[tuple(known)].sum()
            assert known[place] == slice(None)
            known[place] = int(labels[row, place])
            nll.append(-math.log(self.joint[tuple(known)].sum() / whole))
        token_nll = torch.tensor(nll, dtype=torch.float64)
        return MaskedDiffusionOutput(loss=(token_nll * loss_weights.flatten()[positions]).sum(), token_nll=token_nll)


def enumerated(model, mask_id: int, sequences_SL: np.ndarray, size: int, monkeypatch) -> np.ndarray:
    """(S,) the bound of each sequence: each block's counts and subsets, all in turn, through the objective."""
    length = sequences_SL.shape[1]
    found = np.zeros(len(sequences_SL))
    blocks = [range(first, min(first + size, length)) for first in range(0, length, size)]
    # Blocks are independent: all cases of one while the others stay at their first.
    for number, block in enumerate(blocks):
        for k in range(1, len(block) + 1):
            for subset in itertools.combinations(block, k):
                chance = 1 / len(block) / math.comb(len(block), k)
                scores = [0.1 if i in subset else 0.9 for i in range(length)]
                u_N = [(k - 0.5) / len(block) if b == number else 0.0 for b in range(len(blocks))]
                monkeypatch.setattr(
                    "hf_difflm.objectives.block_diffusion.paired_uniforms",
                    lambda key, blocks_B, u_N=u_N: np.tile(u_N, (len(blocks_B), 1)),
                )
                monkeypatch.setattr(
                    "hf_difflm.objectives.block_diffusion.row_uniforms",
                    lambda key, counts_B, scores=scores: [np.array([0.0] * len(blocks) + scores)] * len(counts_B),
                )
                ids = torch.from_numpy(sequences_SL)
                batch = {"input_ids": ids, "labels": ids}
                output = BlockDiffusionObjective(mask_id, size)(model, batch, key_of(len(ids)), 1)
                of_block_N = np.isin(output.columns_N, list(block))
                nll_N = output.token_weights_N * output.token_nll_N.double().numpy() * of_block_N
                found += chance * np.bincount(output.rows_N, nll_N, minlength=len(ids))
    return found


def all_sequences(length: int, vocabulary: int) -> np.ndarray:
    return np.array(list(itertools.product(range(vocabulary), repeat=length)))


@pytest.mark.parametrize(("length", "size"), [(n, size) for n in (1, 2, 3, 4) for size in range(1, n + 2)])
def test_with_exact_conditionals_it_is_the_nll_of_each_sequence(small_joint, monkeypatch, length, size):
    joint = small_joint(length, 2, seed=length)
    nll = enumerated(Conditionals(joint, size), 2, all_sequences(length, 2), size, monkeypatch)
    np.testing.assert_allclose(nll, -np.log(joint).flatten(), atol=1e-6)
    assert nll @ joint.flatten() == pytest.approx(-(joint * np.log(joint)).sum(), abs=1e-6)
    assert np.exp(-nll).sum() <= 1 + 1e-6  # Kraft


def test_a_network_that_does_not_see_the_blocks_before_is_above_the_entropy(small_joint, monkeypatch):
    joint = small_joint(4, 2, seed=1)
    nll = enumerated(Conditionals(joint, 2, own=False), 2, all_sequences(4, 2), 2, monkeypatch)
    assert nll @ joint.flatten() > -(joint * np.log(joint)).sum() + 1e-3
    assert np.exp(-nll).sum() <= 1 + 1e-6


@pytest.mark.parametrize("size", [1, 2, 3])
@torch.no_grad()
def test_the_estimate_of_a_network_is_the_number_of_all_its_masks(monkeypatch, size):
    model, rows, length = denoiser(size), 4, 5
    batch = batch_of(rows, length, bos=False)
    exact = enumerated(model, MASK, batch["input_ids"].numpy(), size, monkeypatch)
    monkeypatch.undo()
    draws = []
    for step in range(300):
        output = BlockDiffusionObjective(MASK, size)(model, batch, key_of(rows, step), 1)
        draws.append(float(output.loss))
    error = np.std(draws, ddof=1) / len(draws) ** 0.5
    assert abs(np.mean(draws) - exact.sum()) < 4 * error + 1e-4
    if size == 1:
        assert np.ptp(draws) < 1e-4  # nothing is random


@pytest.mark.parametrize("size", [12, 13, 50])
@pytest.mark.parametrize("sampling", ["stratified", "iid"])
def test_blocks_as_long_as_the_text_are_mdlm_loss_gradient_and_noise(sampling, size):
    batch, found = batch_of(8, 12), []
    for objective, model in (
        (MaskedDiffusionObjective(MASK, noise_sampling=sampling), denoiser(None)),
        (BlockDiffusionObjective(MASK, size, sampling), denoiser(size)),
    ):
        output = objective(model, batch, key_of(8, step=4), 88)
        output.loss.backward()
        found.append((output, [p.grad for p in model.parameters()]))
    (p0, of_p0), (p4, of_p4) = found
    assert (p0.rows_N == p4.rows_N).all()
    assert (p0.columns_N == p4.columns_N).all()
    assert (p0.token_weights_N == p4.token_weights_N).all()
    torch.testing.assert_close(p4.loss, p0.loss, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(of_p4, of_p0, rtol=1e-6, atol=1e-6)
    for name, values in p0.row_metrics.items():
        np.testing.assert_array_equal(values, p4.row_metrics[name])


@pytest.mark.parametrize("size", [1, 4, 5])
def test_any_cut_of_the_optimiser_batch_has_the_same_loss_and_gradient(size):
    batch, found = batch_of(8, 12), []
    for rows in (8, 4, 2, 1):
        model = denoiser(size)
        loss = 0.0
        for first in range(0, 8, rows):
            part = {name: values[first : first + rows] for name, values in batch.items()}
            output = BlockDiffusionObjective(MASK, size)(model, part, key_of(rows, 2, first, 8), 88)
            output.loss.backward()
            loss += output.loss.item()
        found.append((torch.tensor(loss), [p.grad for p in model.parameters()]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampling", ["stratified", "iid"])
def test_padding_and_longer_rows_beside_it_change_nothing_of_a_row(sampling):
    objective, key = BlockDiffusionObjective(MASK, 4, sampling), key_of(1, first=5, size=16)
    alone = objective.corrupt(np.ones((1, 10), dtype=bool), key)
    for left, right in ((0, 7), (7, 0), (3, 4)):
        real = np.pad(np.ones((1, 10), dtype=bool), ((0, 0), (left, right)))
        both = np.concatenate([np.ones_like(real), real])
        found = objective.corrupt(both, NoiseKey(7, 0, np.array([2, 5]), 16), both)
        part = slice(left, left + 10)
        np.testing.assert_array_equal(found.masked_BL[1, part], alone.masked_BL[0])
        np.testing.assert_array_equal(found.weights_BL[1, part], alone.weights_BL[0])
        assert not found.masked_BL[1, :left].any()
        assert not found.masked_BL[1, left + 10 :].any()


@pytest.mark.parametrize(("sequences", "blocks"), [(1, 1), (8, 1), (8, 4), (6, 4), (5, 7), (32, 16), (12, 18)])
def test_strata_are_over_all_pairs_and_over_either_side(sequences, blocks):
    key = NoiseKey(3, 5, np.arange(sequences), sequences)
    u_BN, pairs = paired_uniforms(key, np.full(sequences, blocks)), sequences * blocks
    np.testing.assert_allclose(np.diff(np.sort(u_BN.flatten())), 1 / pairs)
    for of_sequence in u_BN:
        np.testing.assert_allclose(np.diff(np.sort(of_sequence)), 1 / blocks)
    for of_block in u_BN.T:
        np.testing.assert_allclose(np.diff(np.sort(of_block)), 1 / sequences, atol=math.gcd(sequences, blocks) / pairs)
    if blocks == 1:
        np.testing.assert_array_equal(u_BN[:, 0], stratified_uniforms(key))


def test_each_scored_token_counts_once():
    scored = np.ones((6, 13), dtype=bool)
    scored[:, 0] = scored[2, :6] = False  # BOS; a row whose first block has nothing that is scored
    objective, sums = BlockDiffusionObjective(MASK, 4), np.zeros(scored.shape)
    for step in range(2000):
        found = objective.corrupt(scored, key_of(6, step))
        assert not (found.masked_BL & ~scored).any()
        assert len(found.masking_rate_P) == 6 * 4 - 1
        sums += found.masked_BL * found.weights_BL / 2000
    np.testing.assert_allclose(sums[scored], 1, atol=0.15)
    assert sums[scored].mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("left", [0, 3])
def test_blocks_of_an_answer_begin_with_it(left):
    scored = np.zeros((2, 14), dtype=bool)
    scored[0, 6:] = scored[1, 1:] = True  # an answer after a prompt of 6; text after a BOS
    mask = np.ones_like(scored)
    scored, mask = (np.pad(rows, ((0, 0), (left, 0))) for rows in (scored, mask))
    found = BlockDiffusionObjective(MASK, 4, diffusion_block_start="answer").corrupt(scored, key_of(2), mask)
    assert found.pairs_BL[0, left + 6 :].tolist() == [0] * 4 + [1] * 4
    assert found.pairs_BL[1, left + 1 :].tolist() == [2] * 4 + [3] * 4 + [4] * 4 + [5]
    text = BlockDiffusionObjective(MASK, 4).corrupt(scored, key_of(2), mask)
    assert text.pairs_BL[0, left + 6 :].tolist() == [0] * 2 + [1] * 4 + [2] * 2


def test_one_token_a_block_is_exact_and_more_a_bound():
    one, more = (BlockDiffusionObjective(MASK, size) for size in (1, 2))
    assert (one.bound, one.stochastic) == ("exact", False)
    assert (more.bound, more.stochastic) == ("nelbo", True)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="noise_sampling must be stratified or iid, got 'pairs'"):
        BlockDiffusionObjective(MASK, 4, "pairs")
    with pytest.raises(ValueError, match="diffusion_block_size must be 1 or more, got 0"):
        BlockDiffusionObjective(MASK, 0)
    with pytest.raises(UserError, match="eval_pairs is for the objectives mdlm and atat"):
        BlockDiffusionObjective(MASK, 4).for_evaluation(pairs=True)
