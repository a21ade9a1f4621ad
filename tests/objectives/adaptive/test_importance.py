"""The estimator: its range, what it reads, that it starts neutral, and that it finds what is hard to predict."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.objectives import AdaptiveSettings, MaskedDiffusionObjective, NoiseKey, adaptive_objective
from hf_difflm.objectives.adaptive.importance import (
    ImportanceEstimator,
    clean_embeddings,
    difficulty,
    quarter_width,
    regression_weights,
)
from hf_difflm.objectives.adaptive.rate_head import RateHead


def spoken(module):
    """The same network with an answer that depends on what it reads."""
    torch.manual_seed(1)
    torch.nn.init.normal_(module.score.weight)
    return module


@pytest.mark.parametrize(
    ("width", "heads", "expected"),
    [(768, 12, (192, 3)), (128, 4, (32, 1)), (16, 2, (4, 1)), (100, 10, (24, 2)), (6, 3, (2, 1))],
)
def test_the_width_is_a_quarter_of_the_models_and_splits_into_heads_of_even_size(width, heads, expected):
    found, found_heads = quarter_width(width, heads)
    assert (found, found_heads) == expected
    assert found % found_heads == 0
    assert found // found_heads % 2 == 0
    ImportanceEstimator(width, heads)(torch.randn(1, 3, width))


def test_it_says_one_half_everywhere_before_it_has_learned():
    answers = ImportanceEstimator(16, 2)(torch.randn(2, 5, 16))
    assert answers.shape == (2, 5)
    assert (answers == 0.5).all()
    assert (RateHead(16, 2)(torch.randn(7, 16), torch.rand(7)) == 1.0).all()


def test_it_reads_both_directions_and_nothing_of_the_padding():
    torch.manual_seed(0)
    estimator = spoken(ImportanceEstimator(16, 2)).eval()
    x = torch.randn(1, 5, 16)
    plain = estimator(x)
    for place in (0, 4):
        other = x.clone()
        other[:, place] = torch.randn(16)
        assert ((estimator(other) - plain).abs() > 1e-6).all()
    for side in ("left", "right"):
        pads = (2, 0) if side == "left" else (0, 2)
        padded = torch.nn.functional.pad(x, (0, 0, *pads), value=9.0)
        mask = torch.nn.functional.pad(torch.ones(1, 5, dtype=torch.long), pads)
        inside = estimator(padded, mask)[:, pads[0] : pads[0] + 5]
        torch.testing.assert_close(inside, plain, rtol=1e-5, atol=1e-6)


def test_the_rate_head_stays_within_the_clamp_and_depends_on_the_time():
    head = spoken(RateHead(16, 2))
    torch.nn.init.normal_(head.score.weight, std=50.0)
    hidden = torch.randn(200, 16)
    rates = head(hidden, torch.rand(200))
    assert (rates >= 0.25 * (1 - 1e-5)).all()
    assert (rates <= 4 * (1 + 1e-5)).all()
    spoken(head)
    assert not torch.equal(head(hidden, torch.full((200,), 0.1)), head(hidden, torch.full((200,), 0.9)))


def test_neither_sends_a_gradient_into_what_it_reads():
    x = torch.randn(2, 5, 16, requires_grad=True)
    (spoken(ImportanceEstimator(16, 2))(x).sum() + spoken(RateHead(16, 2))(x[0], torch.rand(5)).sum()).backward()
    assert x.grad is None


def test_clean_embeddings_are_those_of_the_model_without_a_gradient(tiny_denoiser):
    model = tiny_denoiser()
    ids = torch.tensor([[1, 5, 5]])
    found = clean_embeddings(model, ids)
    assert not found.requires_grad
    torch.testing.assert_close(found, model.get_input_embeddings()(ids).detach())


def test_difficulty_is_the_cross_entropy_in_units_of_log_v_within_0_and_1():
    nll = torch.tensor([0.0, math.log(260) / 4, math.log(260), 50.0], requires_grad=True)
    found = difficulty(nll, 260)
    assert not found.requires_grad
    torch.testing.assert_close(found, torch.tensor([0.0, 0.25, 1.0, 1.0]))


def test_regression_weights_count_every_token_once_whatever_the_masking_rate():
    counts, masked = torch.tensor([6, 6, 6, 4]), torch.tensor([3, 3, 3, 1])
    assert regression_weights(counts, masked).tolist() == [2, 2, 2, 4]


# ---- planted easy and hard positions ----

SYMBOLS, MARKER, MASK, LENGTH = 4, 4, 5, 24


def planted(rows: int, generator: np.random.Generator) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """(B, L) ids, (B, L) bool: which of them are drawn at random, and which follow from any of their neighbours.

    The marker, itself neither, announces a token drawn at random; all else is a pattern of the same symbols. So a
    token by itself says nothing of how hard it is.
    """
    ids_BL = np.tile(np.arange(LENGTH) % SYMBOLS, (rows, 1))
    places_B1 = np.arange(rows)[:, None]
    starts = np.stack([generator.permutation(LENGTH // 3)[:3] for _ in range(rows)]) * 3
    hard_BL = np.zeros((rows, LENGTH), dtype=bool)
    ids_BL[places_B1, starts] = MARKER
    ids_BL[places_B1, starts + 1] = generator.integers(0, SYMBOLS, starts.shape)
    hard_BL[places_B1, starts + 1] = True
    return torch.from_numpy(ids_BL), hard_BL, ~hard_BL & (ids_BL != MARKER)


def area_under_curve(high: np.ndarray, low: np.ndarray) -> float:
    """Probability that one of ``high`` is above one of ``low``, ties counted half."""
    return float((high[:, None] > low).mean() + 0.5 * (high[:, None] == low).mean())


@pytest.mark.slow
@pytest.mark.parametrize("masking", ["proportional", "time_only"])
def test_the_learned_importance_ranks_planted_hard_positions_above_easy_ones(masking):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    backbone = LlamaConfig(vocab_size=6, max_position_embeddings=64, initializer_range=0.1, **sizes)
    model = MaskedDiffusionForMaskedLM(MaskedDiffusionConfig(backbone_config=backbone))
    settings = AdaptiveSettings("learned_only", masking)
    objective = adaptive_objective(model.config, MaskedDiffusionObjective(MASK), settings)
    parameters = [{"params": list(model.parameters())}, {"params": list(objective.networks.parameters())}]
    optimiser = torch.optim.AdamW(parameters, lr=4e-3)
    generator = np.random.default_rng(0)
    spreads, correlations = [], []
    for step in range(300):
        ids, _, _ = planted(32, generator)
        output = objective(model, {"input_ids": ids, "labels": ids}, NoiseKey(0, step, np.arange(32), 32), ids.numel())
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        log = output.summary.metrics(output.summary.numbers())
        spreads.append(log["importance_std"])
        correlations.append(log.get("importance_difficulty_correlation", 0.0))
    ids, hard, easy = planted(200, generator)
    with torch.no_grad():
        learned = objective.reader(model, {"input_ids": ids, "labels": ids}, "cpu").values_BL
    assert area_under_curve(learned[hard], learned[easy]) > 0.9
    # No rule by the token alone could have done it.
    often = np.bincount(ids.numpy().ravel())[ids.numpy()]
    assert area_under_curve(-often[hard], -often[easy]) < 0.6
    assert spreads[0] == 0
    assert min(spreads[-50:]) > 0.1
    assert np.mean(correlations[-50:]) > 0.3
