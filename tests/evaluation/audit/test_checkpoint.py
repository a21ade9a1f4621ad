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
from hf_difflm.models.masked_diffusion import diffusion_blocks

LENGTH = 3


@pytest.fixture(params=["mdlm", "ar", "bd3lm:1", "bd3lm:2", "bd3lm:3", "bd3lm:2 answer", "bd3lm:4", "bd3lm:2 shifted"])
def target(request, tiny_denoiser, tiny_causal) -> Target:
    kind, _, blocks = request.param.partition(":")
    fields = {}
    if blocks:
        start = "answer" if "answer" in blocks else "text"
        fields = {"diffusion_block_size": int(blocks[0]), "diffusion_block_start": start}
        fields["shift_logits"] = "shifted" in blocks
    model = tiny_causal() if kind == "ar" else tiny_denoiser(**fields)
    return Target(model.eval(), load_tokenizer("bytes"), kind != "ar", "tiny", {}, None)


def borders(target: Target, length: int) -> list[range]:
    """Places, BOS being 0, of each block of a text after BOS; one where the model has no blocks."""
    config = target.model.config
    if config.diffusion_block_size is None:
        return [range(1, length + 1)]
    begins = range(config.diffusion_block_start == "answer", length + 1, config.diffusion_block_size)
    return [range(max(at, 1), min(at + begins.step, length + 1)) for at in begins if at + begins.step > 1]


@torch.no_grad()
def read(target: Target, ids: list[int]) -> torch.Tensor:
    """(L, vocabulary) log-probabilities."""
    at_answer = target.is_denoiser and target.model.config.diffusion_block_start == "answer"
    given = {"answer_starts": torch.tensor([1])} if at_answer else {}
    return target.model(torch.tensor([ids]), **given).logits[0].double().log_softmax(-1)


def nll(target: Target, ids: list[int]) -> float:
    """Nats of a text after BOS, from the model's logits alone: over all masks of each block, or from left to right."""
    whole = torch.tensor([[target.tokenizer.bos_token_id, *ids]])
    with torch.no_grad():
        if not target.is_denoiser:
            log_p = target.model(whole).logits.double().log_softmax(-1)[0, :-1]
            return -float(log_p.gather(-1, whole[0, 1:, None]).sum())
    total = 0.0
    for block in borders(target, len(ids)):
        for k in range(1, len(block) + 1):
            for hidden in itertools.combinations(block, k):
                seen = [
                    target.model.config.mask_token_id if i in hidden else whole[0, i].item() for i in range(block.stop)
                ]
                log_p = read(target, seen)
                total -= sum(float(log_p[i, ids[i - 1]]) for i in hidden) / k / math.comb(len(block), k)
    return total


def chance(target: Target, ids: list[int]) -> float:
    """The probability that the sampler writes a text after BOS: over all orders, or from left to right."""
    if not target.is_denoiser:
        return math.exp(-nll(target, ids))
    bos, mask, product = target.tokenizer.bos_token_id, target.model.config.mask_token_id, 1.0
    for block in borders(target, len(ids)):
        total = 0.0
        for order in itertools.permutations(block):
            state, log_p = [bos, *ids[: block.start - 1], *[mask] * len(block)], 0.0
            for place in order:
                log_p += float(read(target, state)[place, ids[place - 1]])
                state[place] = ids[place - 1]
            total += math.exp(log_p) / math.factorial(len(block))
        product *= total
    return product


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
    scores_V = read(target, [target.tokenizer.bos_token_id, *[259] * target.is_denoiser])[-1].numpy()
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


def test_a_block_that_reads_its_own_clean_text_is_found_out(tiny_denoiser, monkeypatch):
    """What evaluations say of all blocks at once is held against each block after clean ones, alone."""
    right = diffusion_blocks.before_and_own

    def reads_itself(blocks_BL, attention_mask):
        clean_BLL, own_BLL = right(blocks_BL, attention_mask).chunk(2, dim=-1)
        return torch.cat([clean_BLL | own_BLL, own_BLL], dim=-1)

    target = Target(tiny_denoiser(diffusion_block_size=2).eval(), load_tokenizer("bytes"), True, "tiny", {}, None)
    assert audit_checkpoint(target, Alphabet("ab"), LENGTH).sampler.below == 0
    monkeypatch.setattr(diffusion_blocks, "before_and_own", reads_itself)
    assert audit_checkpoint(target, Alphabet("ab"), LENGTH).sampler.below > 0


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
