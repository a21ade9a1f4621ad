"""``generate``: the quality of what it writes, and a terminal that stays itself."""

from __future__ import annotations

import json

import pytest

from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.sample_output import as_json, as_json_line, as_record, as_text
from hf_difflm.evaluation.generation.texts import GeneratedText, generate_samples
from hf_difflm.evaluation.quality.text_statistics import distinct_n, text_quality
from hf_difflm.evaluation.targets import load_target

SHORT = ["--max-new-tokens", "16", "--use-cpu"]
HOSTILE = "a\x1b[2J\x9b31m\u202e\ud800<script>$_\n\tb"


def test_quality_is_that_of_the_tokens_each_and_all_together(hf, trained):
    result = hf("generate", trained, "--num-samples", "3", "--quality", "--json", *SHORT)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert len(found["samples"]) == 3
    target = load_target(str(trained), use_cpu=True)
    samples = generate_samples(target.model, target.tokenizer, [""] * 3, GenerationOptions(max_new_tokens=16))
    assert [sample["text"] for sample in found["samples"]] == [sample.text for sample in samples]
    tokens = [sample.ids for sample in samples]
    for sample, own in zip(found["samples"], tokens, strict=True):
        assert sample["quality"] == pytest.approx(text_quality(own).as_dict())
    for n in (1, 2, 3):
        assert found["overall"][f"distinct_{n}"] == pytest.approx(distinct_n(tokens, n))
    mean = sum(sample["quality"]["unigram_entropy"] for sample in found["samples"]) / 3
    assert found["overall"]["unigram_entropy"] == pytest.approx(mean)


def test_a_reference_perplexity_is_told_with_its_entropy_in_text_and_json(hf, trained, trained_ar):
    flags = ["--num-samples", "2", "--reference-model", trained_ar / "best", *SHORT]
    lines = [line for line in hf("generate", trained, *flags).out.splitlines() if "perplexity" in line]
    assert len(lines) == 3  # each, and both together
    assert all("at entropy" in line for line in lines)
    found = json.loads(hf("generate", trained, *flags, "--json").out)
    assert {"reference_perplexity", "reference_entropy"} <= set(found["overall"])


def test_mauve_needs_a_reference_model_and_compares_with_the_lines_of_a_file(hf, trained, trained_ar, tmp_path):
    pytest.importorskip("mauve", reason="the [eval] extra is not installed")
    (tmp_path / "real.txt").write_text("\n".join(f"real text {place}" for place in range(12)))
    flags = ["--num-samples", "12", "--real-texts", tmp_path / "real.txt", *SHORT]
    refused = hf("generate", trained, *flags)
    assert refused.code == 2
    assert "--reference-model" in refused.err
    result = hf("generate", trained, *flags, "--reference-model", trained_ar / "best")
    assert result.code == 0, result.err
    assert "MAUVE 0." in result.out.splitlines()[-1] or "MAUVE 1." in result.out.splitlines()[-1]


def test_a_reference_that_is_none_is_a_sentence(hf, trained, tmp_path):
    result = hf("generate", trained, "--reference-model", tmp_path, *SHORT)
    assert result.code == 2
    assert "cannot be loaded as a causal LM" in result.err
    assert "Traceback" not in result.err
    denoiser = hf("generate", trained, "--reference-model", trained, *SHORT)
    assert denoiser.code == 2
    assert "(it is a masked_diffusion model)" in denoiser.err


def test_the_terminal_gets_no_control_character_and_json_the_exact_text():
    sample = GeneratedText(HOSTILE, HOSTILE, [1, 2])
    printed = as_text(sample, None, None)
    assert all(char in "\n\t" or char.isprintable() for char in printed)
    assert "\\x1b[2J\\x9b31m" in printed
    record = as_record(sample, {}, None, with_ids=False)
    for text in (as_json([record], None), as_json_line(record)):
        assert all(char == "\n" or char.isprintable() for char in text)
    assert json.loads(as_json([record], None)) == [json.loads(as_json_line(record))]
    assert json.loads(as_json_line(record)) == {"prompt": HOSTILE, "text": HOSTILE}


def test_a_prompt_of_bytes_that_are_no_text_works(hf, trained_ar):
    result = hf("generate", trained_ar, "--prompt", "a\udcff\x1b[31m", *SHORT)
    assert result.code == 0, result.err
    assert result.out.startswith("a\\udcff\\x1b[31m")
