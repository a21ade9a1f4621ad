"""A trained model on a small alphabet: the numbers are its own, and the rest of its vocabulary is one outcome."""

from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_difflm.data import load_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.evaluation.audit import checkpoint as module
from hf_difflm.evaluation.audit.checkpoint import Alphabet, audit_checkpoint
from hf_difflm.evaluation.audit.report import text_of
from hf_difflm.evaluation.targets import Target

LENGTH = 3


@pytest.fixture(params=["mdlm", "ar"])
def target(request, tiny_denoiser, tiny_causal) -> Target:
    kind = request.param
    model = tiny_denoiser() if kind == "mdlm" else tiny_causal()
    return Target(model.eval(), load_tokenizer("bytes"), kind == "mdlm", "tiny", {}, None)


def nll(target: Target, ids: list[int]) -> float:
    """Nats of a text after BOS, from the model's logits alone: over all masks, or from left to right."""
    whole = torch.tensor([[target.tokenizer.bos_token_id, *ids]])
    with torch.no_grad():
        if not target.is_denoiser:
            log_p = target.model(whole).logits.double().log_softmax(-1)[0, :-1]
            return -float(log_p.gather(-1, whole[0, 1:, None]).sum())
        total = 0.0
        for masked in itertools.product([False, True], repeat=len(ids)):
            if (k := sum(masked)) == 0:
                continue
            hidden = torch.tensor([[False, *masked]])
            logits = target.model(whole.masked_fill(hidden, target.model.config.mask_token_id)).logits.double()
            cost = -logits.log_softmax(-1)[hidden].gather(-1, whole[hidden][:, None]).sum()
            total += float(cost) / k / math.comb(len(ids), k)
        return total


def chance(target: Target, ids: list[int]) -> float:
    """The probability that the sampler writes a text after BOS: over all orders, or from left to right."""
    if not target.is_denoiser:
        return math.exp(-nll(target, ids))
    bos, mask, total = target.tokenizer.bos_token_id, target.model.config.mask_token_id, 0.0
    for order in itertools.permutations(range(len(ids))):
        state, log_p = [mask] * len(ids), 0.0
        for place in order:
            with torch.no_grad():
                logits_V = target.model(torch.tensor([[bos, *state]])).logits[0, 1 + place].double()
            log_p += float(logits_V.log_softmax(-1)[ids[place]])
            state[place] = ids[place]
        total += math.exp(log_p) / math.factorial(len(ids))
    return total


def test_the_probability_of_the_sampler_is_that_of_all_its_orders(target):
    one = audit_checkpoint(target, Alphabet(text="ab"), LENGTH)
    expected = sum(chance(target, list(ids)) for ids in itertools.product(b"ab", repeat=LENGTH))
    assert one.sampler.most == pytest.approx(expected, rel=1e-4)


def test_the_sum_is_that_of_the_models_own_numbers(target):
    one = audit_checkpoint(target, Alphabet(text="cab"), LENGTH)
    expected = sum(math.exp(-nll(target, list(ids))) for ids in itertools.product(b"abc", repeat=LENGTH))
    assert one.sums["given"][0].value == pytest.approx(expected, rel=1e-4)
    assert one.verdict.sentence == "bound: no counterexample in 1 denoiser at V^L = 27"
    assert one.sampler.below == 0
    assert expected <= one.sampler.most * 1.0001
    assert one.sampler.most < 1
    page = text_of(one)
    assert "'a' 'b' 'c'; all other tokens are one outcome" in page
    assert "one-sided" in page


def test_the_most_frequent_tokens_are_those_the_model_begins_with(target):
    ids = Alphabet(most_frequent=4).ids(target)
    ids_BL = [[target.tokenizer.bos_token_id]] if not target.is_denoiser else [[target.tokenizer.bos_token_id, 259]]
    with torch.no_grad():
        scores_V = target.model(torch.tensor(ids_BL)).logits[0, -1].double().numpy()
    if target.is_denoiser:
        scores_V[259] = -np.inf
    assert ids == sorted(np.argsort(-scores_V)[:4].tolist())


def test_a_number_that_is_no_nll_of_the_model_would_be_seen(target, monkeypatch):
    """The test above can fail: with its nats halved a model's numbers are above what its sampler gives."""
    sums, test = module.kraft_sums, module.sampler_test
    monkeypatch.setattr(module, "kraft_sums", lambda values, count: sums(values / 2, count))
    monkeypatch.setattr(module, "sampler_test", lambda name, law, values: test(name, law, values / 2))
    one = audit_checkpoint(target, Alphabet(text="ab"), LENGTH)
    assert one.sampler.below == 8
    assert one.verdict.sentence.startswith("cannot be told here: the sum is above the ")


class Peeking(torch.nn.Module):
    """A causal model that reads the token it predicts."""

    config = SimpleNamespace(vocab_size=260)
    device = torch.device("cpu")

    def forward(self, input_ids, **others):
        logits = torch.nn.functional.one_hot(input_ids, 260).float() * 9
        return SimpleNamespace(logits=torch.nn.functional.pad(logits[:, 1:], (0, 0, 0, 1)))


def test_a_causal_model_that_reads_ahead_is_found_out():
    one = audit_checkpoint(
        Target(Peeking(), load_tokenizer("bytes"), False, "peeking", {}, None), Alphabet("ab"), LENGTH
    )
    assert one.verdict.sentence.startswith("not a bound: sums to 7.")
    assert one.sampler.most == pytest.approx(8 / 260**3, rel=1e-3)


@pytest.mark.parametrize(
    ("alphabet", "length", "said"),
    [
        (Alphabet(text="aaa"), 3, "fewer than two different tokens"),
        (Alphabet(most_frequent=400), 3, "fewer than the 260 tokens"),
        (Alphabet(text="abc"), 30, "more than 65,536; give fewer"),
    ],
)
def test_too_few_tokens_or_too_many_sequences_are_refused(target, alphabet, length, said):
    with pytest.raises(UserError, match=said):
        audit_checkpoint(target, alphabet, length)
