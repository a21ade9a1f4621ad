"""The model card says what the run log says, no more, and what others wrote in it is shown and never obeyed."""

from __future__ import annotations

import re

import pytest
from huggingface_hub import ModelCard
from made_models import make_run, tiny, write_checkpoint, write_run_log

from hf_difflm.errors import UserError
from hf_difflm.evaluation.run_measurements import record_measurement
from hf_difflm.hub.card.metadata import check_license, on_the_hub
from hf_difflm.hub.card.page import model_card
from hf_difflm.hub.card.text import code, escaped
from hf_difflm.hub.remote_code import read_config
from hf_difflm.hub.source import find_source
from hf_difflm.runs.comparing.twin import find_twin


@pytest.fixture
def run(tmp_path, tokenizer):
    return make_run(tmp_path / "runs" / "mdlm", tiny(1), tokenizer, dataset="Owner/data", ema_decay=0.9)


def card_of(target, weights=None, **options):
    source = find_source(target, weights)
    twin = find_twin(source.run) if source.run is not None else None
    text = model_card(source, read_config(source.folder), "o/n", twin=twin, needs_code=True, **options)
    return text, ModelCard(text).data


def test_the_numbers_are_those_of_the_log_with_their_bound_and_their_error(run):
    text, data = card_of(run)
    assert "| **this model** | `mdlm` | 20 | 2.0000 ± 0.0125 | `nelbo` | 2.8856 | 7.500 | - |" in text
    assert data.library_name == "transformers"
    assert data.datasets == ["Owner/data"]
    assert {"hf_difflm", "masked-diffusion"} <= set(data.tags)
    assert data.model_name == "n"
    results = {one.metric_type: one for one in data.eval_results}
    assert results["nats_per_token"].metric_value == 2.0
    assert results["nats_per_token"].metric_args == {"bound": "nelbo", "standard_error": 0.0125}
    assert results["bits_per_byte"].metric_value == 2.0 / 0.6931
    assert {one.dataset_name for one in data.eval_results} == {"Owner/data"}
    assert results["perplexity"].metric_name == "perplexity (upper bound: NELBO)"


def test_it_names_data_settings_samples_limits_and_what_to_cite(run):
    text, _ = card_of(run)
    assert f"| fingerprint | `{'f' * 64}` |" in text
    assert "| learning_rate | `0.001` |" in text
    assert "| train set | 8 documents, 512 tokens |" in text
    assert "| tokens that gave a loss | 2,000 |" in text
    assert "Prompt (greedy):\n\n```text\nThe \n```\n\nText:\n\n```text\nabc\n```" in text
    assert "It reads at most 64 tokens at once; it was trained on blocks of 33." in text
    assert "arXiv:2406.07524" in text
    assert "![dashboard of the run](dashboard.png)" in text
    assert "exponential moving average" in text


def test_exact_likelihoods_stand_beside_the_bound_and_those_of_other_weights_are_left_out(run):
    for step, nll in ((20, 1.9), (10, 6.0)):
        found = {
            "margin/eval_exact_nll": nll,
            "margin/eval_exact_ppl": 6.69,
            "margin/nelbo": 2.1,
            "margin/minus_nelbo": -0.2,
        }
        record_measurement(
            str(run), step, "exact", {**found, "margin/blocks": 64, "margin/units": 9, "margin/twin": 1.5}
        )
    text, _ = card_of(run)
    assert "| this model | drawn (its mean) | 2.1000 |" in text
    assert "| this model | margin | 1.9000 | -0.2000 |" in text
    assert "6.0000" not in text
    assert "| **this model** | `mdlm` | 20 | 2.0000 ± 0.0125 |" in text


def test_weights_that_were_not_evaluated_have_no_number(run, tokenizer):
    write_checkpoint(run, 20, tiny(2), tokenizer, average=tiny(1))
    text, data = card_of(run, "raw")
    assert "Exactly these weights were not evaluated" in text
    assert "2.0000" not in text
    assert data.eval_results is None
    assert "exponential moving average" not in text


def test_a_checkpoint_has_the_numbers_and_the_samples_of_its_step(run, tokenizer):
    checkpoint = write_checkpoint(run, 10, tiny(2), tokenizer, average=tiny(1))
    text, data = card_of(checkpoint)
    assert "| **this model** | `mdlm` | 10 | 7.0000 ± 0.0125 |" in text
    assert data.eval_results[0].metric_value == 7.0
    assert "As it wrote them at step 10" in text


def test_the_twin_beside_it_is_in_the_table_and_the_nearest_one_is_taken(run):
    write_run_log(run.parent / "ar", "ar", 1.5, dataset="Owner/data", ema_decay=0.9)
    write_run_log(run.parent / "a-distant-ar", "ar", 1.0, dataset="Owner/data", ema_decay=0.9, learning_rate=3.0)
    write_run_log(run.parent / "another-mdlm", "mdlm", 0.5, dataset="Owner/data")
    text, data = card_of(run)
    assert "| twin: `made-ar` | `ar` | 20 | 1.5000 ± 0.0125 | `exact` |" in text
    assert "the runs differ in their objective only" in text
    assert "1.0000" not in text
    assert data.eval_results[0].metric_value == 2.0, "the results are this model's alone"
    (run.parent / "ar" / "journal.jsonl").unlink()
    text, _ = card_of(run)
    assert "| twin: `made-ar` | `ar` | 20 | 1.0000 ± 0.0125 | `exact` |" in text
    assert r"learning\_rate: 0.001 / 3.0" in text


def test_a_run_on_other_data_or_a_broken_log_is_no_twin(run):
    other = run.parent / "ar"
    write_run_log(other, "ar", 1.5)
    path = other / "journal.jsonl"
    path.write_text(path.read_text().replace("f" * 64, "e" * 64))
    (run.parent / "broken").mkdir()
    (run.parent / "broken" / "journal.jsonl").write_text('{"type":"run"}\nnonsense\n')
    assert "twin:" not in card_of(run)[0]


def test_a_model_with_diffusion_blocks_cites_their_paper(run):
    source = find_source(run)
    config = {**read_config(source.folder), "diffusion_block_size": 4}
    text = model_card(source, config, "o/n", needs_code=True)
    assert "arXiv:2503.09573" in text
    assert "arXiv:2406.07524" not in text


def test_an_autoregressive_model_is_used_by_its_own_class_without_trust(tmp_path, tiny_causal, tokenizer):
    run = make_run(tmp_path / "ar", tiny_causal(), tokenizer, objective="ar")
    source = find_source(run)
    text = model_card(source, read_config(source.folder), "o/n", needs_code=False, revision="v1")
    assert 'AutoModelForCausalLM.from_pretrained("o/n", revision="v1")' in text
    assert "trust_remote_code" not in text
    assert "2406.07524" not in text
    assert ModelCard(text).data.pipeline_tag == "text-generation"


def test_a_licence_is_named_where_one_is_given_and_else_left_out(run):
    text, data = card_of(run)
    assert data.license is None
    assert "license" not in text.split("---")[1]
    text, data = card_of(run, license_id="cc-by-4.0")
    assert data.license == "cc-by-4.0"
    for wrong in ("", "MIT", "mit\ntags: x", "a b"):
        with pytest.raises(UserError, match="is no identifier of a licence"):
            check_license(wrong)


def test_a_model_folder_without_a_log_has_a_card_without_numbers(tmp_path, tokenizer):
    tiny(1).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text, data = card_of(tmp_path / "model")
    assert "No run log came with these weights." in text
    assert data.eval_results is None
    assert "journal.jsonl" not in text


EVIL = "```\n---\nlicense: evil\n---\n# Injected <script>alert(1)</script> ![x](http://e.org/i.png) | a\x1b[31m"


def test_texts_and_names_of_others_cannot_break_out_of_their_place(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", tiny(1), tokenizer, samples=(EVIL,), dataset=EVIL, text_column=EVIL)
    text, data = card_of(run)
    assert data.license is None
    assert "\x1b" not in text
    inside = re.findall(r"^(`{4,})text\n(.*?)^\1$", text, flags=re.MULTILINE | re.DOTALL)
    assert any("# Injected <script>" in body for _, body in inside), "a fence longer than those in the text"
    outside = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text.split("\n---\n", 1)[1], flags=re.MULTILINE | re.DOTALL)
    spans = re.sub(r"`[^`\n]*`", "", outside)
    assert "<script>" not in spans
    assert "![x]" not in spans
    assert not re.search(r"^# Injected", outside, flags=re.MULTILINE)


def test_one_line_of_text_means_nothing_to_markdown():
    assert escaped("a_b *c* <i> [d](e) `f`\n# g") == r"a\_b \*c\* \<i\> \[d\](e) \`f\` \# g"
    assert code("a`b|c\nd") == "`a'b¦c d`"
    assert code(None) == "`not set`"
    assert code("/data/me/corpus.txt") == "`corpus.txt`"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Owner/data", True),
        ("markov", False),
        ("./data/x", False),
        ("folder/file.jsonl", False),
        ("/abs/path", False),
        ("a/b/c", False),
        ("here/data", False),
    ],
)
def test_only_names_of_the_hub_are_linked_to(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    assert on_the_hub(name) == expected
