"""Likelihoods under a protocol: the law summed over every mask, the authors' own numbers, and the parts of the difference."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from hf_difflm.evaluation.likelihood.continuations import Request, Scorer
from hf_difflm.evaluation.protocols.laws import EPS, LAWS
from hf_difflm.evaluation.protocols.scoring import Text, masked_nll, score_texts
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM

LLADA = Path(__file__).parents[2] / "fixtures" / "released" / "llada"
MASK, EOS = 259, 257
IDS = np.array([256, 97, 98, 99, 100, 97])
TEXT = Text(0, IDS, np.arange(2, 6))


@torch.no_grad()
def _by_subset(model, ids, places, raw):
    """Sum of the cross-entropies of each subset of the places, hidden, by a loop; ``raw``: with the mask token's logit."""
    found = {}
    for size in range(1, len(places) + 1):
        for hidden in itertools.combinations(places.tolist(), size):
            noisy = torch.tensor(ids[None])
            noisy[0, list(hidden)] = MASK
            if raw:
                states = model.backbone(noisy).last_hidden_state
                if model.config.shift_logits:
                    states = torch.cat([states[:, :1], states[:, :-1]], dim=1)
                logits = model.lm_head(states)
            else:
                logits = model(noisy).logits
            found[hidden] = float(
                F.cross_entropy(logits[0, list(hidden)].double(), torch.tensor(ids[list(hidden)]), reduction="sum")
            )
    return found


def _mean(nll, size):
    return np.mean([value for hidden, value in nll.items() if len(hidden) == size])


def _near(estimate, expected):
    return abs(estimate.value - expected) < 4 * estimate.stderr


@pytest.mark.parametrize("shift", [False, True])
def test_lladas_likelihood_is_its_law_summed_over_every_mask(tiny_denoiser, shift):
    model = tiny_denoiser(shift_logits=shift).eval()
    found = score_texts(model, LAWS["llada"], [TEXT], draws=2400, batch=8)
    raw, banned = (_by_subset(model, IDS, TEXT.places_N, kind) for kind in (True, False))
    p = {1: 1 / 8, 2: 3 / 8, 3: 1 / 8, 4: 3 / 8}
    expected = sum(chance * 4 / size * _mean(raw, size) for size, chance in p.items()) / 4
    assert _near(found.nll, expected)
    same_masks = sum(chance * 4 / size * _mean(banned, size) for size, chance in p.items()) / 4
    assert _near(found.mask_token, expected - same_masks)
    assert found.mask_token.value > 10 * found.mask_token.stderr
    bound = sum(_mean(banned, size) / size for size in p) / 4
    assert _near(found.p0, bound)
    assert _near(found.masks, same_masks - bound)
    assert abs(expected - bound) > 4 * found.nll.stderr  # else this could not tell them apart
    assert found.eos is None
    assert found.log_likelihoods_T.tolist() == [pytest.approx(-4 * found.nll.value)]


@torch.no_grad()
def test_dreams_likelihood_is_its_law_summed_over_every_mask(tiny_denoiser):
    model = tiny_denoiser(shift_logits=True).eval()
    found = score_texts(model, LAWS["dream"], [TEXT], draws=4000, batch=16, eos_token_id=EOS)
    with_eos = np.append(IDS, EOS)
    raw, banned = (_by_subset(model, with_eos, TEXT.places_N, kind) for kind in (True, False))
    alone = _by_subset(model, IDS, TEXT.places_N, False)
    nodes, weights = np.polynomial.legendre.leggauss(30)
    p_T, weights = EPS + (1 - EPS) * (nodes + 1) / 2, weights / 2

    def law(nll):
        return (
            sum(
                float(weights @ (p_T ** (len(hidden) - 1) * (1 - p_T) ** (4 - len(hidden)))) * value
                for hidden, value in nll.items()
            )
            / 4
        )

    def bound(nll):
        return sum(_mean(nll, size) / size for size in range(1, 5)) / 4

    assert _near(found.nll, law(raw))
    assert _near(found.mask_token, law(raw) - law(banned))
    assert _near(found.masks, law(banned) - bound(banned))
    assert _near(found.eos, bound(banned) - bound(alone))
    assert _near(found.p0, bound(alone))
    # Its draws are noisy; on every mask by itself the numbers are the same, and the EOS is seen.
    masked_DN = np.array([np.isin(TEXT.places_N, hidden) for hidden in raw])
    raw_D, spent_D = masked_nll(model, Text(0, with_eos, TEXT.places_N), masked_DN, 4)
    np.testing.assert_allclose(raw_D, list(raw.values()), rtol=1e-5)
    np.testing.assert_allclose(raw_D - spent_D, list(banned.values()), rtol=1e-5)
    assert abs(bound(banned) - bound(alone)) > 1e-3


def test_a_first_token_that_is_never_hidden_cannot_be_scored(tiny_denoiser):
    with pytest.raises(ValueError, match="text 3 begins with a scored token"):
        score_texts(tiny_denoiser().eval(), LAWS["dream"], [Text(3, IDS, np.arange(6))], draws=16, eos_token_id=EOS)


@pytest.mark.parametrize("name", LAWS)
def test_the_parts_sum_to_the_whole_and_what_is_left_is_the_bound(name, tiny_denoiser, tokenizer):
    model = tiny_denoiser().eval()
    texts = [TEXT, Text(1, np.array([256, 100, 101]), np.array([1, 2])), Text(2, np.array([256, 97]), np.array([1]))]
    found = score_texts(model, LAWS[name], texts, draws=640, batch=16, eos_token_id=EOS, rows=7)
    parts = [found.mask_token, found.masks, found.eos, found.p0]
    assert sum(part.value for part in parts if part is not None) == pytest.approx(found.nll.value, rel=1e-12)
    requests = [Request(tuple(ids[: places[0]].tolist()), tuple(ids[places].tolist())) for _, ids, places in texts]
    bound = -Scorer(model, tokenizer, is_denoiser=True, draws=64).log_likelihoods(requests).sum() / 7
    assert _near(found.p0, bound)
    assert (found.scored_tokens, found.lengths) == (7, (4, 2, 1))
    assert -found.log_likelihoods_T.sum() / 7 == pytest.approx(found.nll.value)


def test_on_the_masks_of_get_log_likelihood_it_is_the_number_of_the_authors_code(tmp_path):
    model = MaskedDiffusionForMaskedLM.from_pretrained(convert(str(LLADA), tmp_path / "made").folder).eval()
    tensors = load_file(LLADA / "expected.safetensors")
    official = json.loads((LLADA / "expected.json").read_text())["get_log_likelihood"]
    start, noisy = official["prompt_length"], tensors["likelihood_noisy"]
    text = Text(0, tensors["text"][0].numpy(), np.arange(start, noisy.shape[1]))
    masked_DN = (noisy == model.config.mask_token_id).numpy()[:, start:]
    with torch.no_grad():
        raw_D, spent_D = masked_nll(model, text, masked_DN, 5)
    weights_D = masked_DN.shape[1] / masked_DN.sum(-1)
    assert -float(weights_D @ raw_D) / len(noisy) == pytest.approx(official["value"], rel=1e-5)
    assert float(weights_D @ spent_D) / len(noisy) > 1e-4  # and without its mask token it is another
    drawn = score_texts(model, LAWS["llada"], [text], draws=1600, batch=8)
    # Two batches of theirs, whose errors are those of one of ours by the square root of the numbers of batches.
    error = drawn.nll.stderr * np.sqrt(1600 / official["mc_num"])
    assert abs(drawn.nll.value + official["value"] / masked_DN.shape[1]) < 4 * error


def test_the_draws_of_a_text_are_its_own_and_those_of_its_seed(tiny_denoiser):
    model = tiny_denoiser().eval()
    one = score_texts(model, LAWS["llada"], [TEXT], draws=16, batch=16)
    two = score_texts(model, LAWS["llada"], [Text(7, IDS, TEXT.places_N), TEXT], draws=16, batch=16, rows=3)
    assert one.log_likelihoods_T[0] == pytest.approx(two.log_likelihoods_T[1], rel=1e-6)
    assert two.log_likelihoods_T[0] != pytest.approx(two.log_likelihoods_T[1], rel=1e-6)
    other = score_texts(model, LAWS["llada"], [TEXT], draws=16, batch=16, seed=1)
    assert other.log_likelihoods_T[0] != pytest.approx(one.log_likelihoods_T[0], rel=1e-6)
    assert one.nll.stderr is None  # one batch has no spread
