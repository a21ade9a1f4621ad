"""How much an evaluation varies at equal forwards: i.i.d. Bernoulli masks, exact counts, complementary pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.models.masked_diffusion.modeling_masked_diffusion import MaskedDiffusionOutput
from hf_difflm.objectives import MaskedDiffusionObjective, NoiseKey

MASK, STATES, LENGTH = 12, 12, 24
SEQUENCES, FORWARDS = 16, 128  # forwards a sequence


def walks(count: int, seed: int) -> torch.Tensor:
    """(count, LENGTH) ids of walks on a ring: a step to either side, rarely a jump."""
    generator = np.random.default_rng(seed)
    steps = generator.choice([-1, 1], (count, LENGTH))
    jumps = generator.random((count, LENGTH)) < 0.1
    steps = np.where(jumps, generator.integers(0, STATES, (count, LENGTH)), steps)
    return torch.from_numpy(steps.cumsum(-1) % STATES)


@pytest.fixture(scope="module")
def trained_denoiser():
    from transformers import LlamaConfig

    from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    backbone = LlamaConfig(vocab_size=STATES + 1, max_position_embeddings=LENGTH, **sizes)
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone, mask_token_id=MASK))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(150):
        ids = walks(32, seed=step + 1)
        loss = MaskedDiffusionObjective(MASK)(
            model, {"input_ids": ids, "labels": ids}, NoiseKey(0, step, np.arange(32), 32), ids.numel()
        ).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 2.1  # it has learned: guessing costs log 12 = 2.5 nats
    return model


def score(model, ids: torch.Tensor, objective, replicates: int):
    batches = [{"input_ids": ids, "labels": ids, "index": torch.arange(len(ids))}]
    return evaluate_likelihood(model, objective, batches, len(ids), replicates=replicates, replicates_at_once=8)


def test_on_a_trained_denoiser_all_are_far_below_bernoulli_masks(trained_denoiser):
    ids, p0 = walks(SEQUENCES, seed=0), MaskedDiffusionObjective(MASK)
    iid = MaskedDiffusionObjective(MASK, loss_form="time", noise_sampling="iid")
    bernoulli = score(trained_denoiser, ids, iid, FORWARDS)
    stratified = score(trained_denoiser, ids, p0, FORWARDS)
    importance = score(trained_denoiser, ids, p0.for_evaluation(), FORWARDS)
    pairs = score(trained_denoiser, ids, p0.for_evaluation(pairs=True), FORWARDS // 2)
    assert {r.forwards for r in (bernoulli, stratified, importance, pairs)} == {FORWARDS * SEQUENCES}
    for one, other in ((bernoulli, stratified), (stratified, pairs), (pairs, importance)):  # one number, four estimates
        assert one.nll == pytest.approx(other.nll, abs=4 * (one.nll_stderr**2 + other.nll_stderr**2) ** 0.5)
    # A standard error of 128 draws is itself known to 6 %, of 64 to 9 %.
    assert stratified.nll_stderr < 0.6 * bernoulli.nll_stderr
    assert importance.nll_stderr < 0.5 * bernoulli.nll_stderr
    assert pairs.nll_stderr < 0.65 * bernoulli.nll_stderr


class ContextFree(torch.nn.Module):
    """Predicts each token by its frequency, whatever it sees: called as ``MaskedDiffusionForMaskedLM.forward`` is."""

    def __init__(self, probabilities_V: torch.Tensor) -> None:
        super().__init__()
        self.nll_V = -probabilities_V.double().log()

    def forward(self, input_ids, attention_mask, labels, loss_weights, positions, output_correct):
        nll_N = self.nll_V[labels.flatten()[positions]]
        loss = (nll_N * loss_weights.expand(input_ids.shape).flatten()[positions]).sum()
        return MaskedDiffusionOutput(loss=loss, token_nll=nll_N, token_correct=nll_N > 0)


def test_pairs_and_importance_err_less_where_tokens_differ_and_their_context_does_not_matter():
    """Against the variance of means without replacement (Cochran, Sampling Techniques, eq. 2.9): S^2 (1/k - 1/L)."""
    length, replicates = 12, 400
    probabilities_V = torch.tensor([0.6, 0.3, 0.08, 0.02])
    model = ContextFree(probabilities_V)
    ids = torch.multinomial(probabilities_V.expand(16, -1), length, True, generator=torch.Generator().manual_seed(0))
    p0 = MaskedDiffusionObjective(4)
    alone = score(model, ids, p0, replicates)
    importance = score(model, ids, p0.for_evaluation(), replicates)
    pairs = score(model, ids, p0.for_evaluation(pairs=True), replicates // 2)
    nll_BL = model.nll_V[ids].numpy()
    k_K = np.arange(1, length)
    spread = nll_BL.var(1, ddof=1).sum() / len(ids) ** 2  # S^2 of the sequences, for the mean over the set
    of_one = (1 / k_K - 1 / length).sum() / length  # nothing varies with k = L
    law_K = np.arange(1, length + 1) ** (-1 / 3)
    law_K = (law_K / law_K.sum())[:-1]
    of_importance = ((1 / k_K - 1 / length) / law_K).sum() / length**2
    of_pair = ((1 / k_K - 1 / length) * ((length - 2 * k_K) / (length - k_K)) ** 2 / 4).sum() / length
    assert alone.nll == pytest.approx(nll_BL.mean(), abs=4 * alone.nll_stderr)
    assert pairs.nll == pytest.approx(nll_BL.mean(), abs=4 * pairs.nll_stderr)
    # Known to 3.5 % and 5 %: within four standard deviations.
    assert alone.nll_stderr == pytest.approx((spread * of_one / replicates) ** 0.5, rel=0.14)
    assert pairs.nll_stderr == pytest.approx((spread * of_pair / (replicates // 2)) ** 0.5, rel=0.20)
    assert pairs.nll_stderr < 0.9 * alone.nll_stderr
    # Of importance, theory leaves out what its weights let through of the differences between sequences: little here.
    assert importance.nll == pytest.approx(nll_BL.mean(), abs=4 * importance.nll_stderr)
    assert importance.nll_stderr == pytest.approx((spread * of_importance / replicates) ** 0.5, rel=0.14)
    assert importance.nll_stderr < 0.95 * alone.nll_stderr


def test_sequences_of_all_lengths_are_no_noise_of_their_own():
    """Half of the sequences have 2 tokens and half 40, all as likely: weights of whole sequences would be all that varies."""
    lengths, replicates = np.array([2, 40] * 8), 200
    model = ContextFree(torch.full((4,), 0.25))
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (16, 40)))
    labels = ids.masked_fill(torch.arange(40) >= torch.from_numpy(lengths)[:, None], -100)
    batch = {"input_ids": ids, "labels": labels, "index": torch.arange(16)}
    result = evaluate_likelihood(
        model, MaskedDiffusionObjective(4).for_evaluation(), [batch], 16, replicates=replicates, replicates_at_once=8
    )
    assert result.nll == pytest.approx(np.log(4), abs=4 * result.nll_stderr)
    assert result.nll_stderr * replicates**0.5 < 0.01  # of one replicate; it would be 0.1 without the control variate


def test_accuracy_and_nll_by_masking_rate_are_those_of_uniform_counts(trained_denoiser):
    """Importance draws few hidden tokens more often; without its weights the accuracy would be 0.260, of easier draws."""
    ids, p0 = walks(SEQUENCES, seed=0), MaskedDiffusionObjective(MASK)
    uniform, importance = (score(trained_denoiser, ids, objective, FORWARDS) for objective in (p0, p0.for_evaluation()))
    assert uniform.accuracy == pytest.approx(0.245, abs=0.005)
    assert importance.accuracy == pytest.approx(uniform.accuracy, abs=0.005)
    np.testing.assert_allclose(importance.nll_by_noise, uniform.nll_by_noise, atol=0.1)
    np.testing.assert_allclose(importance.accuracy_by_noise, uniform.accuracy_by_noise, atol=0.05)
