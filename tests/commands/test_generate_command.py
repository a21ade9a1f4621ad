"""``generate``: text from either kind of model."""

from __future__ import annotations

import json

import pytest


@pytest.fixture(params=["trained", "trained_ar"])
def run_of_either_kind(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def samples(hf):
    def call(*args):
        result = hf("generate", *args, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)

    return call


def test_prompts_come_back_in_order_with_their_samples(samples, run_of_either_kind, tmp_path):
    (tmp_path / "prompts.txt").write_text("from a file\nnaïve 😀\n")
    prompts = ["--prompt", "abc", "--prompt", "", "--prompt-file", "prompts.txt"]
    found = samples(run_of_either_kind, *prompts, "--num-samples", "2", "--max-new-tokens", "4")
    expected = ["abc", "abc", "", "", "from a file", "from a file", "naïve 😀", "naïve 😀"]
    assert [sample["prompt"] for sample in found] == expected


def test_the_same_seed_gives_the_same_text_and_another_seed_another(samples, run_of_either_kind):
    flags = [run_of_either_kind, "--max-new-tokens", "16"]
    assert samples(*flags, "--seed", "1") == samples(*flags, "--seed", "1")
    assert samples(*flags, "--seed", "1") != samples(*flags, "--seed", "2")


def test_samples_of_one_prompt_differ(samples, run_of_either_kind):
    first, second = samples(run_of_either_kind, "--num-samples", "2", "--max-new-tokens", "16")
    assert first["text"] != second["text"]


def test_temperature_0_does_not_depend_on_the_seed_of_an_autoregressive_model(samples, trained_ar):
    flags = [trained_ar, "--temperature", "0", "--max-new-tokens", "16"]
    assert samples(*flags, "--seed", "1") == samples(*flags, "--seed", "2")


def test_a_prompt_does_not_change_with_the_prompts_beside_it(samples, trained_ar):
    flags = [trained_ar, "--temperature", "0", "--max-new-tokens", "8"]
    alone = samples(*flags, "--prompt", "ab")
    beside = samples(*flags, "--prompt", "ab", "--prompt", "a much longer prompt")
    assert beside[0] == alone[0]


@pytest.mark.parametrize(
    "flags", ["--sampler ddpm", "--sampler ddpm_cache --max-denoising-steps 4", "--top-k 1", "--top-p 0.5"]
)
def test_samplers_and_truncations_work_and_never_emit_the_mask(samples, trained, flags):
    (sample,) = samples(trained, *flags.split(), "--max-new-tokens", "16")
    assert "[MASK]" not in sample["text"]


def test_control_tokens_in_a_prompt_are_these_tokens_and_a_mask_that_is_no_hole_is_text(
    hf, samples, run_of_either_kind
):
    (sample,) = samples(run_of_either_kind, "--prompt", "[MASK] [EOS]", "--no-infill", "--max-new-tokens", "4")
    assert sample["prompt"] == "[MASK] [EOS]"
    assert "fills" not in sample
    # BOS, six bytes of the mask, a blank and EOS leave room for 1015 of 1024 tokens.
    refused = hf("generate", run_of_either_kind, "--prompt", "[MASK] [EOS]", "--no-infill", "--max-new-tokens", "1016")
    assert "the longest prompt (9 tokens) and max_new_tokens 1016 together exceed" in refused.err


def test_plain_output_is_prompt_and_text_and_numbers_several(hf, run_of_either_kind):
    assert hf("generate", run_of_either_kind, "--prompt", "abc", "--max-new-tokens", "4").out.startswith("abc")
    several = hf("generate", run_of_either_kind, "--num-samples", "2", "--max-new-tokens", "4").out
    assert several.startswith("--- sample 1\n")
    assert "\n--- sample 2\n" in several


def test_a_checkpoint_and_the_run_of_its_step_write_the_same(samples, trained):
    flags = ["--max-new-tokens", "8"]
    assert samples(trained / "checkpoint-6", *flags) == samples(trained, *flags)


def test_parameters_of_a_sampler_are_given_as_json_and_a_wrong_one_is_a_sentence(hf, trained):
    common = ["--sampler", "uncertainty", "--max-new-tokens", "8", "--max-denoising-steps", "4", "--use-cpu", "--json"]
    texts = []
    for order in ("confident_first", "uncertain_first"):
        result = hf("generate", trained, *common, "--sampler-config", json.dumps({"order": order}))
        assert result.code == 0, result.err
        texts.append(json.loads(result.out)[0]["text"])
    assert texts[0] != texts[1]
    wrong = hf("generate", trained, *common, "--sampler-config", '{"measur": "margin"}')
    assert wrong.code == 2
    assert wrong.err == "error: sampler uncertainty has no parameter 'measur'; did you mean measure?\n"
