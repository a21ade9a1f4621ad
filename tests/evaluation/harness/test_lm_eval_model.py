"""lm-evaluation-harness: local tasks give the likelihoods of ``eval``, its results are kept, bad input is one sentence."""

from __future__ import annotations

import json
import math
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch

from hf_difflm.data import Collator
from hf_difflm.data.sources.corpora import load_corpus
from hf_difflm.errors import UserError
from hf_difflm.evaluation.harness.options import HarnessOptions
from hf_difflm.evaluation.harness.tasks import evaluate_tasks, result_numbers
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.continuations import Request
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.evaluation.targets import Target
from hf_difflm.objectives import BlockDiffusionObjective, CausalObjective, MaskedDiffusionObjective
from hf_difflm.runs import Journal, load_run
from hf_difflm.runs.journal.measurements import numbers
from hf_difflm.runs.journal.schema import RunRecord

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install lm_eval)")

from lm_eval.models.huggingface import HFLM
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hf_difflm.evaluation.harness.lm_eval_model import HarnessModel
from hf_difflm.evaluation.targets import load_target

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TASK = """
task: {name}
output_type: {kind}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: '{question}'
doc_to_target: '{answer}'
target_delimiter: ''
{more}
"""
METRICS = {
    "my_rolling": ("loglikelihood_rolling", "", "{{text}}", ("bits_per_byte",)),
    "my_words": ("loglikelihood", "{{question}}", "{{answer}}", ("perplexity", "acc")),
    "my_texts": ("generate_until", "{{question}}", "{{answer}}", ("exact_match",)),
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "lm_eval_datasets")


@pytest.fixture
def texts():
    """Documents of a block each: 32 letters after BOS."""
    return load_corpus("markov", block_size=33).split("validation")["text"][:12]


@pytest.fixture
def tasks(tmp_path, texts):
    """A folder with a task of each kind."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"text": text, "question": text[:8], "answer": text[8:11]} for text in texts]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, (kind, question, answer, metrics) in METRICS.items():
        more = "metric_list:\n" + "".join(f"  - metric: {metric}\n" for metric in metrics)
        if kind == "generate_until":
            more += "generation_kwargs: {until: ['.'], max_gen_toks: 3}\n"
        values = {"name": name, "kind": kind, "question": question, "answer": answer, "more": more}
        (folder / f"{name}.yaml").write_text(TASK.format(data=folder / "rows.jsonl", **values))
    return folder


@pytest.fixture
def network(tiny_denoiser, tiny_causal):
    """``network("ar")``, ``network("mdlm")``, or of block diffusion with the size of its blocks, ``network("bd3lm:4")``."""

    def make(kind):
        objective, _, size = kind.partition(":")
        if objective == "ar":
            return tiny_causal().eval()
        return tiny_denoiser(diffusion_block_size=int(size) if size else None).eval()

    return make


@pytest.fixture
def target(network, tokenizer):
    def make(kind, **config):
        return Target(network(kind), tokenizer, kind != "ar", "model", config, None)

    return make


@pytest.fixture
def run(tmp_path, network, tokenizer, monkeypatch):
    """``run("ar")``: a run on the data of the tasks, as far as an evaluation looks at it."""
    monkeypatch.chdir(tmp_path)

    def make(kind):
        folder = tmp_path / "runs" / kind
        network(kind).save_pretrained(folder / "best")
        tokenizer.save_pretrained(folder / "best")
        journal = Journal(folder / "journal.jsonl")
        journal.append(
            RunRecord(run_name=kind, run_id=kind, objective=kind, config={"dataset": "markov", "block_size": 33})
        )
        journal.close()
        return folder

    return make


def _instance(*args, number=0):
    return SimpleNamespace(args=args, doc_id=number, task_name="mine")


def _rows(tokenizer, texts):
    return [{"input_ids": [256, *tokenizer(text)["input_ids"]]} for text in texts]


def _eval(target, texts, replicates=16):
    objective = MaskedDiffusionObjective(259) if target.is_denoiser else CausalObjective()
    if target.is_denoiser and (size := target.model.config.diffusion_block_size) is not None:
        objective = BlockDiffusionObjective(259, size)
    rows = _rows(target.tokenizer, texts)
    batches = EvaluationBatches(rows, Collator(target.tokenizer), 8)
    return evaluate_likelihood(target.model, objective, batches, len(rows), replicates=replicates, data_unit="blocks")


@pytest.mark.parametrize("kind", ["ar", "bd3lm:1"])
def test_rolling_likelihood_of_what_is_exact_is_that_of_eval(target, texts, kind):
    model = HarnessModel(target=target(kind, block_size=33))
    found = model.loglikelihood_rolling([_instance(text) for text in texts], disable_tqdm=True)
    expected = _eval(model.target, texts)
    np.testing.assert_allclose(found, -expected.unit_nll, rtol=1e-6)


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm:8"])
def test_rolling_likelihood_of_a_denoiser_is_that_of_eval_within_the_standard_errors(target, texts, kind):
    one = target(kind, block_size=33)
    expected = _eval(one, texts)
    found = []
    for seed in range(6):
        model = HarnessModel(target=one, draws=32, seed=seed)
        log_p = model.loglikelihood_rolling([_instance(text) for text in texts], disable_tqdm=True)
        found.append(-sum(log_p) / expected.scored_tokens)
    error = math.hypot(expected.nll_stderr, np.std(found, ddof=1))
    assert abs(found[0] - expected.nll) < 4 * error
    assert error < 0.05 * expected.nll


def test_a_long_text_is_cut_into_windows_that_score_each_token_once(target, tokenizer):
    model = HarnessModel(target=target("ar"), max_length=9)
    ids = tokenizer("the quick brown fox jumps")["input_ids"]  # 25 tokens: windows of 8, 8, 8 and 1
    windows = [
        Request((256,), tuple(ids[:8])),
        Request((ids[7],), tuple(ids[8:16])),
        Request((ids[15],), tuple(ids[16:24])),
    ]
    windows.append(Request(tuple(ids[16:24]), tuple(ids[24:])))
    expected = model.scorer.log_likelihoods(windows).sum()
    found = model.loglikelihood_rolling([_instance("the quick brown fox jumps"), _instance("")], disable_tqdm=True)
    assert found == [pytest.approx(expected, rel=1e-6), 0.0]


@pytest.mark.parametrize("kind", ["ar", "mdlm", "bd3lm:4"])
def test_contexts_begin_with_bos_and_are_never_masked(target, kind):
    model = HarnessModel(target=target(kind), draws=64)
    pairs = [("ab ", "c d"), ("", "e"), ("ab", "")]
    found = model.loglikelihood([_instance(*pair) for pair in pairs], disable_tqdm=True)
    # Spaces at the end of a context belong to the continuation.
    requests = [Request((256, 97, 98), (32, 99, 32, 100)), Request((256,), (101,))]
    expected = model.scorer.log_likelihoods(requests)
    assert [log_p for log_p, _ in found] == [*(pytest.approx(value, rel=1e-6) for value in expected), 0.0]
    assert found[-1] == (0.0, True)


def test_a_context_that_is_too_long_is_refused_or_cut_from_the_left(target):
    refusing = HarnessModel(target=target("ar"), max_length=8)
    long = _instance("abcdefghij", "kl", number=7)
    with pytest.raises(UserError, match="document 7 of task 'mine' has a context of 11 tokens, and the model takes 8"):
        refusing.loglikelihood([long])
    with pytest.raises(UserError, match="--truncate-context"):
        refusing.generate_until([_instance("abcdefghij", {"max_gen_toks": 2})])
    with pytest.raises(UserError, match="asks for a continuation of 8 tokens"):
        refusing.loglikelihood([_instance("a", "b" * 8)])
    cutting = HarnessModel(target=target("ar"), max_length=8, truncate_context=True)
    expected = cutting.scorer.log_likelihoods([Request((256, *b"fghij"), tuple(b"kl"))])[0]
    assert cutting.loglikelihood([long], disable_tqdm=True)[0][0] == pytest.approx(expected, rel=1e-6)
    short = cutting.generate_until([_instance("fghij", {"max_gen_toks": 2})], disable_tqdm=True)
    assert cutting.generate_until([_instance("abcdefghij", {"max_gen_toks": 2})], disable_tqdm=True) == short


@pytest.mark.parametrize("kind", ["ar", "mdlm"])
def test_texts_end_before_the_first_stop_and_are_the_same_each_time(target, kind):
    model = HarnessModel(target=target(kind, block_size=33))
    asked = [_instance(text, {"max_gen_toks": 8}) for text in ("ab", "abc", "b")]
    whole = model.generate_until(asked, disable_tqdm=True)
    assert whole == model.generate_until(asked, disable_tqdm=True)
    stop = whole[0][3]
    (cut,) = model.generate_until([_instance("ab", {"max_gen_toks": 8, "until": ["never", stop]})], disable_tqdm=True)
    assert cut == whole[0][: whole[0].index(stop)]


@pytest.mark.parametrize("kind", ["ar", "bd3lm:1"])
def test_tasks_leave_results_of_the_harness_and_a_measurement_in_the_run_log(run, tasks, texts, target, capsys, kind):
    folder = run(kind)
    options = HarnessOptions(tasks=list(METRICS), include_path=str(tasks), bootstrap_iters=10, log_samples=True)
    capsys.readouterr()  # what saving a model makes libraries say
    evaluate_tasks(str(folder), options, {"use_cpu": True}, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    expected = _eval(target(kind), texts)
    found = printed["results"]["my_rolling"]["bits_per_byte,none"]
    assert found == pytest.approx(expected.nll / math.log(2), rel=1e-6)  # a token is a byte

    (path,) = (folder / "lm_eval").rglob("results_*.json")
    kept = json.loads(path.read_text())
    assert kept["results"] == printed["results"]
    assert {"configs", "versions", "n-shot", "config", "lm_eval_version", "model_name"} <= kept.keys()
    assert kept["config"]["model"] == "hf_difflm"
    assert kept["config"]["likelihood"] == "exact"
    assert len(list((folder / "lm_eval").rglob("samples_*.jsonl"))) == 3

    (record,) = load_run(folder).measurements
    assert record.source == "lm_eval"
    conditions = {"protocol": "exact", "draws": None, "bos_token": "[BOS]", "chat_template": False}
    assert {name: record.metrics[name] for name in conditions} == conditions
    assert {name: printed[name] for name in conditions} == conditions
    assert conditions.items() <= kept["config"].items()
    assert numbers(record) == pytest.approx(result_numbers(printed))
    assert record.metrics["my_rolling/bits_per_byte"] == pytest.approx(found, rel=1e-6)

    requests = [Request((256, *text[:8].encode()), tuple(text[8:11].encode())) for text in texts]
    log_p = HarnessModel(target=target(kind)).scorer.log_likelihoods(requests)
    assert record.metrics["my_words/perplexity"] == pytest.approx(math.exp(-log_p.mean()), rel=1e-5)


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm:4"])
def test_the_table_says_what_is_a_bound_and_the_limit_holds(run, tasks, capsys, kind):
    options = HarnessOptions(tasks=["my_words"], include_path=str(tasks), limit=3, draws=4, bootstrap_iters=0)
    evaluate_tasks(str(run(kind)), options, {"use_cpu": True}, as_json=False)
    out = capsys.readouterr().out
    assert "nelbo" in out
    line = next(line for line in out.splitlines() if "perplexity" in line)
    assert line.split()[0] == "my_words"
    assert line.split()[-1] == "3"
    assert "protocol: P0 (nelbo)" in out
    assert "draws: 4; a text begins with: [BOS]; chat template: not applied" in out


def test_a_task_stands_beside_its_error(run, tasks, capsys):
    options = HarnessOptions(tasks=["my_words"], include_path=str(tasks), draws=4)
    evaluate_tasks(str(run("mdlm")), options, {"use_cpu": True}, as_json=False)
    line = next(line for line in capsys.readouterr().out.splitlines() if " acc " in line)
    assert " ± " in line


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tasks": ["my_words"], "include_path": "nowhere"}, "--include-path nowhere is no folder"),
        ({"tasks": ["my_words"], "results_dir": "tasks/my_words.yaml"}, "my_words.yaml cannot be made"),
        # Reading the index of the harness's own tasks takes seconds.
        pytest.param(
            {"tasks": ["my_rollin"]}, "task 'my_rollin' is unknown; did you mean 'my_rolling'", marks=pytest.mark.slow
        ),
        pytest.param({"tasks": ["hellaswag"]}, "the data of hellaswag cannot be loaded", marks=pytest.mark.slow),
    ],
)
def test_bad_requests_are_one_sentence(run, tasks, options, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        evaluate_tasks(
            str(run("ar")), HarnessOptions(**{"include_path": str(tasks), **options}), {"use_cpu": True}, False
        )
    assert "\n" not in str(error.value)


def test_without_the_harness_one_sentence_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name == "lm_eval" or name.startswith("lm_eval.")]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=r"pip install 'hf_difflm\[eval\]'"):
        evaluate_tasks("run", HarnessOptions(tasks=["x"]), {}, as_json=False)


@pytest.fixture
def stock(tmp_path):
    """``stock(adds_bos=..., bos=...)``: the folder of a causal LM as others publish them: no pad token, perhaps no BOS."""

    def make(adds_bos=False, bos="<|im_start|>"):
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        backend = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        if adds_bos:
            backend.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 256)])
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token=bos)
        tokenizer.chat_template = CHATML
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = LlamaConfig(vocab_size=258, max_position_embeddings=256, initializer_range=0.2, **sizes)
        LlamaForCausalLM(config).save_pretrained(tmp_path / "stock")
        tokenizer.save_pretrained(tmp_path / "stock")
        return tmp_path / "stock"

    return make


def _both(folder, add_bos=None):
    ours = HarnessModel(str(folder), device="cpu", add_bos=add_bos)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", add_bos_token=add_bos)
    return ours, theirs


PAIRS = [("the cat", " sat on"), ("", "the mat"), ("<|im_start|>user\na<|im_end|>", "b"), ("two ", "words")]


@pytest.mark.borders
@pytest.mark.parametrize(
    ("bos", "adds_bos", "add_bos"),
    [
        ("<|im_start|>", False, None),
        ("<|im_start|>", True, None),
        ("<|im_start|>", False, True),
        ("<|im_start|>", True, False),
        (None, False, None),
    ],
)
def test_a_stock_model_has_the_likelihoods_of_the_harness_own_hf(stock, bos, adds_bos, add_bos):
    ours, theirs = _both(stock(adds_bos, bos), add_bos)
    asked = [_instance(*pair) for pair in PAIRS]
    found = [log_p for log_p, _ in ours.loglikelihood(asked, disable_tqdm=True)]
    expected = [log_p for log_p, _ in theirs.loglikelihood(asked, disable_tqdm=True)]
    assert found == pytest.approx(expected, abs=1e-4)
    whole = [_instance("the quick brown fox", number=0)]
    rolled = theirs.loglikelihood_rolling(whole, disable_tqdm=True)
    wanted = adds_bos if add_bos is None else add_bos
    ids = tuple(ours.tok_encode("the quick brown fox", add_special_tokens=False))
    start = ours.prefix_token_id
    # Where it adds BOS, the harness's own scores it once more after the BOS that it puts before every text.
    scored = ours.scorer.log_likelihoods([Request((start,), (start, *ids) if wanted else ids)])
    assert rolled == pytest.approx(scored.tolist(), abs=1e-4)
    alone = ours.scorer.log_likelihoods([Request((start,), ids)])
    assert ours.loglikelihood_rolling(whole, disable_tqdm=True) == pytest.approx(alone.tolist(), abs=1e-4)
    info = ours.get_model_info()
    assert (info["add_bos"], info["bos_token"]) == (wanted, bos if wanted else None)


@pytest.mark.borders
def test_a_task_in_the_chat_template_has_the_control_tokens_of_the_harness_own_hf(stock, tasks, capsys):
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = stock()
    options = HarnessOptions(
        tasks=["my_words"], include_path=str(tasks), bootstrap_iters=0, apply_chat_template=True, results_dir=str(tasks)
    )
    evaluate_tasks(str(folder), options, {"use_cpu": True}, as_json=True)
    printed = json.loads(capsys.readouterr().out)
    theirs = simple_evaluate(
        model=_both(folder)[1],
        tasks=["my_words"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    found = printed["results"]["my_words"]["perplexity,none"]
    assert found == pytest.approx(theirs["results"]["my_words"]["perplexity,none"], rel=1e-4)
    assert printed["config"]["bos_token"] is None
    assert printed["chat_template"] is True
    evaluate_tasks(str(folder), options, {"use_cpu": True}, as_json=False)
    assert "a text begins with: no BOS; chat template: applied" in capsys.readouterr().out


@pytest.mark.borders
def test_a_run_of_ours_keeps_its_bos_with_and_without_its_log(run):
    folder = run("ar")
    assert load_target(str(folder), use_cpu=True).text.facts == {"add_bos": True, "bos_token": "[BOS]"}
    with pytest.raises(UserError, match=r"--no-add-bos is for models without a run log, but .*best has one"):
        load_target(str(folder), use_cpu=True, add_bos=False)
    (folder / "journal.jsonl").unlink()
    assert load_target(str(folder / "best"), use_cpu=True).text.facts["add_bos"]
    assert load_target(str(folder / "best"), use_cpu=True, add_bos=False).text.facts["bos_token"] is None
