"""P4 is what it says: exact conditionals give -log p, one token a block is exact, blocks of the whole text are P0."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput
from hf_difflm.models.masked_diffusion.noise_schedule import NoiseSchedule
from hf_difflm.objectives import BlockDiffusionObjective, CountLaw, MaskedDiffusionObjective, NoiseKey
from hf_difflm.objectives.noise import ChosenNoise, paired_uniforms, stratified_uniforms

MASK = 63


NELBO_SETTINGS: list[dict] = [{}, {"count_law": CountLaw("importance")}, {"count_law": CountLaw("bell")}]
ALL_SETTINGS: list[dict] = [
    *NELBO_SETTINGS,
    {"noise_sampling": "iid"},
    {"noise_sampling": "pairs"},
    {"loss_form": "time", "schedule": NoiseSchedule("cosine")},
    {"count_law": CountLaw("bell"), "loss_weight": "flat"},
    {"count_law": CountLaw("optimal")},
    {"static_shapes": True},
]


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


def enumerated(model, objective: BlockDiffusionObjective, sequences_SL: np.ndarray) -> np.ndarray:
    """(S,) the mean of the estimate over each block's counts, under the objective's law, and subsets; all through it."""
    rows, length = sequences_SL.shape
    ids, found = torch.from_numpy(sequences_SL), np.zeros(rows)
    size = objective.diffusion_block_size
    blocks = [range(first, min(first + size, length)) for first in range(0, length, size)]
    # Blocks are independent: all cases of one while the others stay at their first.
    for number, block in enumerate(blocks):
        p_K = objective.count_law.probabilities(len(block))
        for k in range(1, len(block) + 1):
            for subset in itertools.combinations(block, k):
                scores_BN = np.tile([0.1 if i in subset else 0.9 for i in range(length)], (rows, 1))
                u_BN = np.zeros((rows, len(blocks)))
                u_BN[:, number] = p_K[: k - 1].sum() + p_K[k - 1] / 2
                key = ChosenNoise(0, 0, np.arange(rows), rows, u_B=u_BN, scores_BN=scores_BN)
                output = objective(model, {"input_ids": ids, "labels": ids}, key, 1)
                of_block_N = np.isin(output.columns_N, list(block))
                nll_N = output.token_weights_N * output.token_nll_N.double().numpy() * of_block_N
                found += p_K[k - 1] / math.comb(len(block), k) * np.bincount(output.rows_N, nll_N, minlength=rows)
    return found


def all_sequences(length: int, vocabulary: int) -> np.ndarray:
    return np.array(list(itertools.product(range(vocabulary), repeat=length)))


@pytest.mark.parametrize(("length", "size"), [(n, size) for n in (1, 2, 3, 4) for size in range(1, n + 2)])
@pytest.mark.parametrize("settings", NELBO_SETTINGS, ids=str)
def test_with_exact_conditionals_it_is_the_nll_of_each_sequence(small_joint, length, size, settings):
    joint = small_joint(length, 2, seed=length)
    objective = BlockDiffusionObjective(2, size, **settings)
    nll = enumerated(Conditionals(joint, size), objective, all_sequences(length, 2))
    np.testing.assert_allclose(nll, -np.log(joint).flatten(), atol=1e-6)
    assert nll @ joint.flatten() == pytest.approx(-(joint * np.log(joint)).sum(), abs=1e-6)
    assert np.exp(-nll).sum() <= 1 + 1e-6  # Kraft


def test_a_network_that_does_not_see_the_blocks_before_is_above_the_entropy(small_joint):
    joint = small_joint(4, 2, seed=1)
    nll = enumerated(Conditionals(joint, 2, own=False), BlockDiffusionObjective(2, 2), all_sequences(4, 2))
    assert nll @ joint.flatten() > -(joint * np.log(joint)).sum() + 1e-3
    assert np.exp(-nll).sum() <= 1 + 1e-6


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"noise_sampling": "iid"},
        {"noise_sampling": "pairs"},
        {"loss_form": "time"},
        {"count_law": CountLaw("importance")},
        {"count_law": CountLaw("bell"), "loss_weight": "flat"},
        {"count_law": CountLaw("bell"), "loss_weight": "0.5", "noise_sampling": "iid"},
    ],
    ids=str,
)
@torch.no_grad()
def test_the_estimate_of_a_network_is_the_number_of_all_its_masks(size, settings):
    model, rows, length = denoiser(size), 4, 5
    batch, objective = batch_of(rows, length, bos=False), BlockDiffusionObjective(MASK, size, **settings)
    same_mean = objective if "count_law" in settings else BlockDiffusionObjective(MASK, size)
    exact = enumerated(model, same_mean, batch["input_ids"].numpy())
    draws = []
    for step in range(300):
        output = objective(model, batch, key_of(rows, step), 1)
        summed = float(output.token_weights_N @ output.token_nll_N.double().numpy())
        assert float(output.loss) == pytest.approx(summed, rel=1e-5, abs=1e-5)
        draws.append(summed)
    error = np.std(draws, ddof=1) / len(draws) ** 0.5
    assert abs(np.mean(draws) - exact.sum()) < 4 * error + 1e-4
    if size == 1 and settings.get("loss_form") != "time":
        assert np.ptp(draws) < 1e-4  # nothing is random


@pytest.mark.parametrize("size", [12, 13, 50])
@pytest.mark.parametrize("settings", ALL_SETTINGS, ids=str)
def test_blocks_as_long_as_the_text_are_mdlm_loss_gradient_and_noise(settings, size):
    batch, found = batch_of(8, 12), []
    for objective, model in (
        (MaskedDiffusionObjective(MASK, **settings), denoiser(None)),
        (BlockDiffusionObjective(MASK, size, **settings), denoiser(size)),
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


@pytest.mark.parametrize(("size", "settings"), [(1, {}), (4, {}), (5, {}), *((4, each) for each in ALL_SETTINGS[1:-1])])
def test_any_cut_of_the_optimiser_batch_has_the_same_loss_and_gradient(size, settings):
    batch, found = batch_of(8, 12), []
    for rows in (8, 4, 2, 1):
        model, objective = denoiser(size), BlockDiffusionObjective(MASK, size, **settings)
        loss = 0.0
        for first in range(0, 8, rows):
            part = {name: values[first : first + rows] for name, values in batch.items()}
            output = objective(model, part, key_of(rows, 2, first, 8), 88)
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
        np.testing.assert_array_equal(found.masked_RL[1, part], alone.masked_RL[0])
        np.testing.assert_array_equal(found.weights_RL[1, part], alone.weights_RL[0])
        assert not found.masked_RL[1, :left].any()
        assert not found.masked_RL[1, left + 10 :].any()


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
        assert not (found.masked_RL & ~scored).any()
        assert len(found.masking_rate_P) == 6 * 4 - 1
        sums += found.masked_RL * found.weights_RL / 2000
    np.testing.assert_allclose(sums[scored], 1, atol=0.15)
    assert sums[scored].mean() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("left", [0, 3])
def test_blocks_of_an_answer_begin_with_it(left):
    scored = np.zeros((2, 14), dtype=bool)
    scored[0, 6:] = scored[1, 1:] = True  # an answer after a prompt of 6; text after a BOS
    mask = np.ones_like(scored)
    scored, mask = (np.pad(rows, ((0, 0), (left, 0))) for rows in (scored, mask))
    found = BlockDiffusionObjective(MASK, 4, diffusion_block_start="answer").corrupt(scored, key_of(2), mask)
    assert found.blocks_RL[0, left + 6 :].tolist() == [0] * 4 + [1] * 4
    assert found.blocks_RL[1, left + 1 :].tolist() == [2] * 4 + [3] * 4 + [4] * 4 + [5]
    text = BlockDiffusionObjective(MASK, 4).corrupt(scored, key_of(2), mask)
    assert text.blocks_RL[0, left + 6 :].tolist() == [0] * 2 + [1] * 4 + [2] * 2


def test_one_token_a_block_is_exact_and_more_a_bound():
    one, more = (BlockDiffusionObjective(MASK, size) for size in (1, 2))
    assert (one.bound, one.stochastic) == ("exact", False)
    assert (more.bound, more.stochastic) == ("nelbo", True)


def test_complementary_pairs_read_each_token_of_each_block_once_after_one_clean_text():
    batch, calls = batch_of(4, 11), []
    model = denoiser(4)
    model.register_forward_pre_hook(lambda module, given, named: calls.append(named), with_kwargs=True)
    output = BlockDiffusionObjective(MASK, 4, "pairs")(model, batch, key_of(4), 40)
    (call,) = calls
    assert call["clean_ids"].shape == (4, 11)
    hidden = (call["input_ids"] == MASK).reshape(4, 2, 11)
    assert (hidden.sum(1) == (batch["labels"] != -100)).all()
    assert output.reads == 2
    assert len(output.row_metrics["masking_rate"]) == 2 * 4 * 3
    first, second = output.row_metrics["masking_rate"].reshape(-1, 2).T
    np.testing.assert_allclose(first + second, 1)


@pytest.mark.parametrize("rows", [1, 4])
def test_pairs_are_the_mean_of_two_readings_in_either_form_of_the_forward(rows):
    batch, found = batch_of(rows, 11), []
    for checkpointed in (False, True):
        model = denoiser(4).train()
        if checkpointed:
            model.gradient_checkpointing_enable()
        output = BlockDiffusionObjective(MASK, 4, "pairs")(model, batch, key_of(rows), 40)
        output.loss.backward()
        found.append((output.loss.detach(), [p.grad for p in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def test_static_shapes_ask_for_as_many_positions_in_every_micro_batch():
    sizes, model = set(), denoiser(4)
    model.register_forward_pre_hook(lambda module, given, named: sizes.add(len(named["positions"])), with_kwargs=True)
    plain, static = (BlockDiffusionObjective(MASK, 4, static_shapes=on) for on in (False, True))
    for step in range(40):
        key, batch = key_of(2, step, 2 * (step % 4), 8), batch_of(2, 27)
        with torch.no_grad():
            torch.testing.assert_close(static(model, batch, key, 1).loss, plain(model, batch, key, 1).loss)
    most = max(sizes)
    sizes.clear()
    with torch.no_grad():
        for step in range(40):
            static(model, batch_of(2, 27), key_of(2, step, 0, 8), 1)
    assert sizes == {most}
    assert most < 2 * 26  # which would be all of them


def test_the_measured_law_is_that_of_the_blocks_own_rates():
    model, objective = denoiser(4), BlockDiffusionObjective(MASK, 4, count_law=CountLaw("optimal"))
    for step in range(1, 41):
        objective(model, batch_of(8, 12), key_of(8, step), 88).loss.backward()
        objective.after_step(step)
    moments = objective.count_law.moments
    assert len(moments) == 16
    assert any(moment != 1 for moment in moments)
    # A new network's gradients are as large at all rates, once their weights, up to four times apart, are taken out.
    assert max(moments) < 1.2 * min(moments)


def test_blocks_that_grow_are_read_in_the_size_of_their_part_of_training_and_evaluated_in_the_last():
    batch = batch_of(4, 12)
    growing = BlockDiffusionObjective(MASK, 4, size_schedule=(1, 2, 4))
    assert growing.train_objective == "p4 in blocks of 1, 2, 4"
    with pytest.raises(ValueError, match="call begin"):
        growing(denoiser(4), batch, key_of(4), 44)
    growing.begin(9)
    assert [growing.size_at(step) for step in (0, 2, 3, 5, 6, 8, 9)] == [1, 1, 2, 2, 4, 4, 4]
    assert [step for step in range(10) if growing.transition(step)] == [3, 6]
    assert growing.transition(3) == "diffusion blocks of 1 -> 2 tokens"
    for step, size in ((0, 1), (4, 2), (8, 4)):
        found = growing(denoiser(4), batch, key_of(4, step), 44).loss
        fixed = BlockDiffusionObjective(MASK, size)(denoiser(size), batch, key_of(4, step), 44).loss
        torch.testing.assert_close(found, fixed)
    assert growing.for_evaluation().size_schedule == (4,)


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="noise_sampling must be stratified, iid or pairs, got 'other'"):
        BlockDiffusionObjective(MASK, 4, "other")
    with pytest.raises(ValueError, match="diffusion_block_size must be 1 or more, got 0"):
        BlockDiffusionObjective(MASK, 0)
    with pytest.raises(ValueError, match="size_schedule must rise to diffusion_block_size 4"):
        BlockDiffusionObjective(MASK, 4, size_schedule=(1, 8))
    with pytest.raises(ValueError, match="static shapes need blocks that begin with the text"):
        BlockDiffusionObjective(MASK, 4, diffusion_block_start="answer", static_shapes=True)
    with pytest.raises(ValueError, match="is of exact counts"):
        BlockDiffusionObjective(MASK, 4, loss_form="time", count_law=CountLaw("bell"))
