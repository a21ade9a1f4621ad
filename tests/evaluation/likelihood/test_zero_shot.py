"""Zero-shot likelihood: named sets from the Hub's cache, the packing of the MDLM paper, any file, and the run log."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch

from hf_difflm.data.options import DataOptions
from hf_difflm.errors import UserError
from hf_difflm.evaluation.likelihood import zero_shot
from hf_difflm.evaluation.likelihood.zero_shot import evaluation_data
from hf_difflm.evaluation.likelihood.zero_shot_options import ZeroShotOptions, evaluation_set, evaluation_set_names
from hf_difflm.evaluation.report import evaluate_target
from hf_difflm.evaluation.targets import Target
from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.journal.measurements import measurement_lines
from hf_difflm.runs.journal.schema import RunRecord

BOS, EOS = 256, 257
PAPER = ["ag_news", "arxiv", "lambada", "lm1b", "ptb", "pubmed", "wikitext"]
RAW = "the dog 's tail , he said . “ Why ? ”"
PLAIN = {
    "ptb": "the dog's tail , he said . “ Why ? ”",
    "wikitext": "the dog's tail, he said. “ Why? ”",
    "lm1b": "the dog's tail, he said. “ Why? ”",
    "lambada": '\nthe dog \'s tail , he said . " Why ? "',
    "ag_news": RAW,
    "pubmed": "the dog's tail, he said. “ Why? ”",
    "arxiv": "the dog's tail, he said. “ Why? ”",
}


@pytest.fixture(autouse=True)
def _own_caches(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def target(tiny_denoiser, tokenizer):
    return Target(
        tiny_denoiser(), tokenizer, True, "run", {"dataset": "markov", "block_size": 20, "eval_fraction": 0.1}, 3
    )


@pytest.fixture
def put_into_cache(tmp_path):
    """``put_into_cache(name, texts)``: the split of a named set, as `huggingface_hub` would have left it."""

    def put(name, texts, part=""):
        one = evaluation_set(name)
        folder = tmp_path / "hub" / f"datasets--{one['dataset'].replace('/', '--')}"
        ref = folder / "refs" / "refs" / "convert" / "parquet"
        ref.parent.mkdir(parents=True)
        ref.write_text("0" * 40)
        split = folder / "snapshots" / ("0" * 40) / one.get("dataset_config", "default") / (part + one["eval_split"])
        split.mkdir(parents=True)
        columns = {one["text_column"]: texts, "label": list(range(len(texts)))}
        datasets.Dataset.from_dict(columns).to_parquet(split / "0000.parquet")

    return put


def _text(blocks, tokenizer):
    """The text behind blocks of the paper's packing, documents apart."""
    ids = np.concatenate([row[1:-1] for row in blocks["input_ids"]])
    return tokenizer.decode(ids).split("[EOS]")


def test_the_sets_are_those_of_the_paper_and_name_known_settings():
    assert evaluation_set_names() == PAPER
    known = {field.name for options in (DataOptions, ZeroShotOptions) for field in dataclasses.fields(options)}
    for name in PAPER:
        one = evaluation_set(name)
        assert one.keys() - known == {"description"}
        assert one["packing"] == "mdlm"
        assert {"dataset", "eval_split", "text_column"} <= one.keys()


@pytest.mark.parametrize("name", PAPER)
def test_a_named_set_is_read_from_the_cache_and_detokenised(name, target, tokenizer, put_into_cache):
    put_into_cache(name, [RAW] * 8)
    options, data, _ = evaluation_data(target, {"dataset": name})
    assert (options.dataset, options.eval_split) == (name, evaluation_set(name)["eval_split"])
    assert options.packing == "mdlm"
    assert _text(data.eval, tokenizer)[0] == PLAIN[name]
    assert data.counts["eval"].documents == 8


def test_a_set_the_hub_converted_in_part_is_found_too(target, put_into_cache):
    put_into_cache("arxiv", [RAW] * 4, part="partial-")
    assert evaluation_data(target, {"dataset": "arxiv"})[1].counts["eval"].documents == 4


def test_flags_override_a_named_set(target, put_into_cache, tokenizer):
    put_into_cache("ptb", [RAW] * 8)
    changes = {"dataset": "ptb", "packing": "training", "eval_split": "validation[:50%]", "max_eval_blocks": 3}
    options, data, how = evaluation_data(target, changes)
    assert how == ZeroShotOptions("ptb")
    assert options.packing == "concat"
    assert data.counts["eval"].documents == 4
    assert len(data.eval) == 3
    text = tokenizer.decode(np.concatenate([row[1:] for row in data.eval["input_ids"]]))
    assert (PLAIN["ptb"] + "[EOS]" + PLAIN["ptb"]).startswith(text)


def test_without_network_and_cache_one_sentence_says_what_is_missing(target, put_into_cache):
    with pytest.raises(
        UserError, match=r"'validation' of ptb-text-only/ptb_text_only \(configuration 'penn_treebank'\)"
    ) as error:
        evaluation_data(target, {"dataset": "ptb"})
    assert "\n" not in str(error.value)
    assert "--dataset FILE" in str(error.value)
    put_into_cache("ptb", [RAW])
    with pytest.raises(UserError, match="needs split 'train'"):
        evaluation_data(target, {"dataset": "ptb", "eval_split": "train"})


def _blocks_of_the_paper(texts, block_size, at_once):
    """What the paper says, token by token."""
    blocks = []
    for start in range(0, len(texts), at_once):
        stream = []
        for text in texts[start : start + at_once]:
            stream += [*text.encode(), EOS]
        width = block_size - 2
        blocks += [[BOS, *stream[i : i + width], EOS] for i in range(0, len(stream) - width + 1, width)]
    return blocks


def test_the_packing_of_the_paper(target, monkeypatch):
    monkeypatch.setattr(zero_shot, "DOCUMENTS_AT_ONCE", 3)
    texts = ["first document", "", "é", "the second of three documents", "x" * 41, "ab", "too short"]
    Path("docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    _, data, _ = evaluation_data(target, {"dataset": "docs.jsonl", "packing": "mdlm"})
    expected = _blocks_of_the_paper(texts, 20, 3)
    assert data.eval["input_ids"][:].tolist() == expected
    assert data.eval["num_bytes"][:].tolist() == [sum(token < 256 for token in block) for block in expected]
    assert data.eval["document_ids"][:2].tolist() == [[-1] + [0] * 15 + [1] + [2] * 3, [-1] + [3] * 19]
    counts = data.counts["eval"]
    assert counts.tokens == len(expected) * 19
    tokens = sum(len(text.encode()) + 1 for text in texts)
    assert counts.dropped_tokens == tokens - len(expected) * 18
    _, limited, _ = evaluation_data(target, {"dataset": "docs.jsonl", "packing": "mdlm", "max_eval_blocks": 2})
    assert limited.eval["input_ids"][:].tolist() == expected[:2]


def test_too_little_text_for_a_block_is_one_sentence(target):
    Path("short.jsonl").write_text(json.dumps({"text": "short"}) + "\n")
    with pytest.raises(UserError, match="has 6 tokens, fewer than one block of 20 holds"):
        evaluation_data(target, {"dataset": "short.jsonl", "packing": "mdlm"})


def test_all_of_a_file_is_scored_unless_the_run_knows_it_or_a_share_is_asked_for(target):
    Path("docs.jsonl").write_text("".join(json.dumps({"text": f"document number {i}"}) + "\n" for i in range(40)))
    assert evaluation_data(target, {"dataset": "docs.jsonl"})[1].counts["eval"].documents == 40
    assert evaluation_data(target, {"dataset": "docs.jsonl", "eval_fraction": 0.25})[1].counts["eval"].documents == 10
    own = dataclasses.replace(target, config={**target.config, "dataset": "docs.jsonl"})
    _, data, how = evaluation_data(own, {"dataset": "./docs.jsonl"})
    assert data.counts["eval"].documents == 4
    assert how is None
    with pytest.raises(UserError, match="add --dataset"):
        evaluation_data(own, {"detokenizer": "ptb"})


def test_own_text_is_packed_as_the_run_was_or_as_asked(target):
    Path("docs.jsonl").write_text("".join(json.dumps({"text": f"document number {i}"}) + "\n" for i in range(40)))
    own = dataclasses.replace(target, config={**target.config, "dataset": "docs.jsonl", "packing": "best-fit"})
    options, data, _ = evaluation_data(own, {})
    assert options.packing == "best-fit"
    assert len(data.eval) == data.counts["eval"].documents == 4
    options, data, _ = evaluation_data(own, {"packing": "mdlm"})
    eos = own.tokenizer.eos_token_id
    assert all(row["input_ids"][-1] == eos for row in data.eval)
    # Of other text, too.
    Path("other.jsonl").write_text("".join(json.dumps({"text": f"another one, {i}"}) + "\n" for i in range(5)))
    assert len(evaluation_data(own, {"dataset": "other.jsonl"})[1].eval) == 5


def test_a_model_without_a_log_gets_blocks_as_long_as_it_takes(target):
    Path("docs.txt").write_text("some text " * 40)
    bare = dataclasses.replace(target, config={})
    assert evaluation_data(bare, {"dataset": "docs.txt"})[0].block_size == 64


@pytest.fixture
def run(tmp_path, tiny_causal, tokenizer):
    """A run of an autoregressive model, as far as an evaluation looks at it."""
    folder = tmp_path / "runs" / "ar"
    tiny_causal().save_pretrained(folder / "checkpoint")
    tokenizer.save_pretrained(folder / "checkpoint")
    (folder / "checkpoint").rename(folder / "best")
    with_log = Journal(folder / "journal.jsonl")
    with_log.append(
        RunRecord(run_name="ar", run_id="id", objective="ar", config={"dataset": "markov", "block_size": 20})
    )
    with_log.close()
    return folder


def test_the_perplexity_is_that_of_the_tokens_and_goes_into_the_run_log(run, tiny_causal, put_into_cache, capsys):
    put_into_cache("ptb", [RAW] * 20)
    evaluate_target(str(run), {"dataset": "ptb", "use_cpu": True}, as_json=True)
    found = json.loads(capsys.readouterr().out)
    ids = torch.tensor(_blocks_of_the_paper([PLAIN["ptb"]] * 20, 20, 1000))
    with torch.no_grad():
        log_p = tiny_causal().eval()(ids).logits[:, :-1].log_softmax(-1)
    nll = -log_p.gather(-1, ids[:, 1:, None]).mean().item()
    assert found["eval_ppl"] == pytest.approx(math.exp(nll), rel=1e-5)
    assert (found["bound"], found["packing"], found["detokenizer"], found["block_size"]) == ("exact", "mdlm", "ptb", 20)
    logged = load_run(run).measurements
    assert [record.source for record in logged] == ["zero_shot"]
    assert logged[0].metrics["ptb/ppl"] == pytest.approx(found["eval_ppl"], rel=1e-6)
    conditions = {"protocol": "exact", "draws": None, "bos_token": found["bos_token"], "chat_template": False}
    assert found["bos_token"] is not None
    for name, value in conditions.items():
        assert found[name] == value
        assert logged[0].metrics[f"ptb/{name}"] == value
    assert "ptb/protocol exact" in measurement_lines(load_run(run), 1000)[0]
    assert json.loads((run / "ar.json").read_text())["measurements"][0]["source"] == "zero_shot"


def test_a_run_that_goes_on_is_evaluated_but_not_written_to(run, put_into_cache, capsys):
    put_into_cache("ag_news", [RAW] * 4)
    writer = Journal(run / "journal.jsonl")
    writer.open()
    evaluate_target(str(run), {"dataset": "ag_news", "use_cpu": True}, as_json=True)
    writer.close()
    printed = capsys.readouterr()
    assert json.loads(printed.out)["eval_ppl"] > 1
    assert "another process is writing it" in printed.err
    assert load_run(run).measurements == []
