"""Perplexity under a reference model, against a loop over tokens, and MAUVE on its features."""

from __future__ import annotations

import math
import sys

import pytest
import torch

from hf_difflm.errors import UserError
from hf_difflm.evaluation.metrics import METRICS, load_metric, metric_path
from hf_difflm.evaluation.quality.mauve_score import mauve_score, text_features
from hf_difflm.evaluation.quality.reference_model import ReferenceModel, load_reference
from hf_difflm.evaluation.quality.reference_perplexity import reference_perplexities, reference_perplexity
from hf_difflm.evaluation.quality.text_statistics import unigram_entropy

TEXTS = ["abc", "", "a", "the quick brown fox", "zzzzzzzz", "naïve \ufffd"]


@pytest.fixture
def reference(tiny_causal, tokenizer):
    return ReferenceModel(tiny_causal().eval(), tokenizer, "tiny")


def _nats(reference, before, own):
    """Token by token, one forward each."""
    total = 0.0
    for place, token in enumerate(own):
        ids_1L = torch.tensor([[*before, *own[:place]]])
        with torch.no_grad():
            total -= float(reference.model(ids_1L).logits[0, -1].double().log_softmax(-1)[token])
    return total


def test_each_text_is_scored_token_by_token_after_bos_and_its_context(reference, tokenizer):
    contexts = ["", "x", "", "see: ", "", "y"]
    found = reference_perplexities(TEXTS, reference, contexts=contexts, batch_size=4)
    for text, context, one in zip(TEXTS, contexts, found, strict=True):
        own = list(text.encode())
        nats = _nats(reference, [tokenizer.bos_token_id, *context.encode()], own)
        assert (one.tokens, one.nats) == (len(own), pytest.approx(nats, rel=1e-5))
        assert one.perplexity == (pytest.approx(math.exp(nats / len(own)), rel=1e-5) if own else None)
        assert one.unigram_entropy == unigram_entropy(own)
        assert one.first_token_scored


def test_all_texts_together_weigh_each_token_the_same_whatever_the_batches(reference):
    single = reference_perplexities(TEXTS, reference)
    expected = math.exp(sum(one.nats for one in single) / sum(one.tokens for one in single))
    entropies = [one.unigram_entropy for one in single if one.tokens]
    for batch_size in (1, 3, 16):
        found = reference_perplexity(TEXTS, reference, batch_size=batch_size)
        assert found.perplexity == pytest.approx(expected, rel=1e-5)
        assert found.unigram_entropy == pytest.approx(sum(entropies) / len(entropies))


def test_a_text_longer_than_the_model_scores_every_token_once_with_at_least_half_a_window_before_it(
    reference, tokenizer
):
    text = "".join(chr(97 + place * place % 23) for place in range(150))  # the model takes 64
    (found,) = reference_perplexities([text], reference)
    ids = [tokenizer.bos_token_id, *text.encode()]
    # The windows end at 64, 96, 128, 151.
    nats = 0.0
    for start, done, end in ((0, 1, 64), (32, 64, 96), (64, 96, 128), (87, 128, 151)):
        nats += _nats(reference, ids[start:done], ids[done:end])
    assert (found.tokens, found.nats) == (150, pytest.approx(nats, rel=1e-5))


def test_without_bos_and_eos_the_first_token_is_not_scored(reference, tokenizer):
    class Bare:
        """The byte tokenizer, had it no special tokens."""

        bos_token_id = eos_token_id = None

        def __call__(self, *args, **options):
            return tokenizer(*args, **options)

    (found,) = reference_perplexities(["abc"], ReferenceModel(reference.model, Bare(), "bare"))
    ids = list(b"abc")
    assert (found.tokens, found.nats) == (2, pytest.approx(_nats(reference, ids[:1], ids[1:]), rel=1e-5))
    assert not found.first_token_scored


def test_the_printed_form_never_has_the_perplexity_without_the_entropy(reference):
    told = str(reference_perplexity(["abc"], reference))
    assert "perplexity" in told
    assert "at unigram entropy 1.10 nats (3 tokens under tiny)" in told
    assert str(reference_perplexity([""], reference)) == "reference perplexity unknown: no token to score under tiny"


def test_no_random_number_is_drawn_and_a_folder_loads(reference, tmp_path, tokenizer):
    reference.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_reference(str(tmp_path))
    before = torch.get_rng_state()
    assert reference_perplexity(TEXTS, loaded).nats == reference_perplexity(TEXTS, reference).nats
    assert torch.equal(torch.get_rng_state(), before)


def test_bad_requests_are_sentences(reference, tmp_path):
    with pytest.raises(UserError, match="6 texts but 1 contexts"):
        reference_perplexities(TEXTS, reference, contexts=["x"])
    with pytest.raises(UserError, match="batch_size is 0"):
        reference_perplexities(TEXTS, reference, batch_size=0)
    with pytest.raises(UserError, match="cannot be loaded as a causal LM"):
        load_reference(str(tmp_path))


def test_features_are_the_last_hidden_state_at_the_last_token(reference, tokenizer):
    features_ND = text_features(TEXTS, reference, batch_size=2)
    for text, feature_D in zip(TEXTS, features_ND, strict=True):
        ids_1L = torch.tensor([[tokenizer.bos_token_id, *text.encode()]])
        with torch.no_grad():
            expected_D = reference.model.model(ids_1L).last_hidden_state[0, -1]
        assert torch.allclose(torch.from_numpy(feature_D), expected_D, atol=1e-5)


def test_mauve_tells_equal_texts_from_others_and_repeats_itself(reference):
    pytest.importorskip("mauve", reason="the [eval] extra is not installed")
    real = [f"number {place} of the real texts" for place in range(40)]
    other = ["zzzz" + "y" * (place % 7) for place in range(40)]
    same = mauve_score(real, real, reference)
    different = mauve_score(other, real, reference)
    assert same.mauve == pytest.approx(1.0, abs=1e-3)
    assert different.mauve < 0.5
    assert different == mauve_score(other, real, reference)
    assert str(different).startswith("MAUVE 0.")
    with pytest.raises(UserError, match="1 generated and 40 real"):
        mauve_score(["x"], real, reference)


def test_mauve_without_its_package_is_a_sentence(reference, monkeypatch):
    monkeypatch.setitem(sys.modules, "mauve", None)
    with pytest.raises(UserError, match="mauve-text"):
        mauve_score(["a", "b"], ["c", "d"], reference)


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_loads_through_evaluate_and_describes_itself(name):
    metric = load_metric(name)
    assert metric.description
    assert "predictions" in metric.inputs_description


def test_the_evaluate_modules_say_what_the_functions_say(reference, tmp_path, tokenizer):
    texts = ["the the cat sat", "on the mat the cat sat on the mat the cat"]
    words = [text.split() for text in texts]
    distinct = load_metric("distinct_n").compute(predictions=texts)
    assert distinct["distinct_1"] == len({word for text in words for word in text}) / 15
    assert load_metric("distinct_n").compute(predictions=[[1, 1, 2], [1]])["distinct_1"] == 0.5
    assert load_metric("distinct_n").compute(predictions=["aab"], unit="bytes")["distinct_1"] == pytest.approx(2 / 3)
    assert load_metric("repetition").compute(predictions=texts) == pytest.approx(
        {"longest_run": 1.5, "repeated_4": (0 + 2 / 8) / 2, "top_share": (2 / 4 + 4 / 11) / 2}
    )
    entropy = load_metric("unigram_entropy").compute(predictions=texts)
    assert entropy["unigram_entropy"] == pytest.approx(sum(map(unigram_entropy, words)) / 2)
    reference.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    found = load_metric("reference_perplexity").compute(predictions=texts, model=str(tmp_path))
    expected = reference_perplexity(texts, reference)
    assert found["reference_perplexity"] == pytest.approx(expected.perplexity)
    assert (found["reference_entropy"], found["tokens"]) == (expected.unigram_entropy, expected.tokens)


def test_a_metric_that_is_not_there_names_the_nearest():
    with pytest.raises(UserError, match="did you mean 'distinct_n'"):
        metric_path("distinct")
