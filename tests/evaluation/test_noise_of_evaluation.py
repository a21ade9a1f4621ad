"""How much an evaluation varies at equal forwards: i.i.d. Bernoulli masks, stratified counts, complementary pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.evaluation.likelihood import evaluate_likelihood
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


def test_on_a_trained_denoiser_both_are_far_below_bernoulli_masks(trained_denoiser):
    ids, p0 = walks(SEQUENCES, seed=0), MaskedDiffusionObjective(MASK)
    iid = MaskedDiffusionObjective(MASK, loss_form="time", noise_sampling="iid")
    bernoulli = score(trained_denoiser, ids, iid, FORWARDS)
    stratified = score(trained_denoiser, ids, p0.for_evaluation(), FORWARDS)
    pairs = score(trained_denoiser, ids, p0.for_evaluation(pairs=True), FORWARDS // 2)
    assert bernoulli.forwards == stratified.forwards == pairs.forwards == FORWARDS * SEQUENCES
    for one, other in ((bernoulli, stratified), (stratified, pairs)):  # one number, three estimates
        assert one.nll == pytest.approx(other.nll, abs=4 * (one.nll_stderr**2 + other.nll_stderr**2) ** 0.5)
    # A standard error of 128 draws is itself known to 6 %, of 64 to 9 %.
    assert stratified.nll_stderr < 0.6 * bernoulli.nll_stderr
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


def test_pairs_err_less_where_tokens_differ_and_their_context_does_not_matter():
    """Against the variance of means without replacement (Cochran, Sampling Techniques, eq. 2.9): S^2 (1/k - 1/L)."""
    length, replicates = 12, 400
    probabilities_V = torch.tensor([0.6, 0.3, 0.08, 0.02])
    model = ContextFree(probabilities_V)
    ids = torch.multinomial(probabilities_V.expand(8, -1), length, True, generator=torch.Generator().manual_seed(0))
    p0 = MaskedDiffusionObjective(4)
    alone = score(model, ids, p0.for_evaluation(), replicates)
    pairs = score(model, ids, p0.for_evaluation(pairs=True), replicates // 2)
    nll_BL = model.nll_V[ids].numpy()
    k_K = np.arange(1, length)
    spread = nll_BL.var(1, ddof=1).sum() / len(ids) ** 2  # S^2 of the sequences, for the mean over the set
    of_one = (1 / k_K - 1 / length).sum() / length  # nothing varies with k = L
    of_pair = ((1 / k_K - 1 / length) * ((length - 2 * k_K) / (length - k_K)) ** 2 / 4).sum() / length
    assert alone.nll == pytest.approx(nll_BL.mean(), abs=4 * alone.nll_stderr)
    assert pairs.nll == pytest.approx(nll_BL.mean(), abs=4 * pairs.nll_stderr)
    # Known to 3.5 % and 5 %: within four standard deviations.
    assert alone.nll_stderr == pytest.approx((spread * of_one / replicates) ** 0.5, rel=0.14)
    assert pairs.nll_stderr == pytest.approx((spread * of_pair / (replicates // 2)) ** 0.5, rel=0.20)
    assert pairs.nll_stderr < 0.9 * alone.nll_stderr
