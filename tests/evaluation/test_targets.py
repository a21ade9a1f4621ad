"""What eval and generate are pointed at."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from hf_difflm.data import Collator
from hf_difflm.data.tokenizers import byte_tokenizer
from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.evaluation.likelihood.batches import EvaluationBatches
from hf_difflm.evaluation.likelihood.evaluate import evaluate_likelihood
from hf_difflm.evaluation.likelihood.zero_shot import evaluation_data
from hf_difflm.evaluation.report import evaluate_target
from hf_difflm.evaluation.targets import Target, data_options, load_target
from hf_difflm.objectives import CausalObjective
from hf_difflm.runs import Journal
from hf_difflm.runs.journal.checkpoints import write_manifest
from hf_difflm.runs.journal.schema import EvaluationRecord, RunRecord


@pytest.fixture
def save(tiny_denoiser, tokenizer):
    """``save(folder, seed)``: a tiny denoiser in that folder, with a manifest where it is a checkpoint."""

    def call(folder, seed=0):
        model = tiny_denoiser(seed=seed)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if folder.name.startswith("checkpoint-"):
            write_manifest(folder)
        return model

    return call


@pytest.fixture
def run(tmp_path, save):
    """A run evaluated best at 3, with checkpoints at 3 and 6: other weights in each folder."""
    for seed, name in enumerate(("best", "checkpoint-3", "checkpoint-6")):
        save(tmp_path / name, seed)
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(RunRecord(run_name="demo", run_id="id", config={"dataset": "markov", "block_size": 33, "x": 1}))
    for step, nll in ((3, 1.0), (6, 2.0)):
        journal.append(EvaluationRecord(iter=step, metrics={"eval_nll": nll}))
    journal.close()
    return tmp_path


def _same(model, other):
    return all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_run_stands_for_its_best_weights_and_their_step(run, tiny_denoiser):
    target = load_target(str(run), use_cpu=True)
    assert target.source == str(run / "best")
    assert target.step == 3
    assert target.is_denoiser
    assert not target.model.training
    assert _same(target.model, tiny_denoiser(seed=0))
    assert target.config["dataset"] == "markov"


def test_a_checkpoint_of_a_run_brings_its_step_and_settings(run, tiny_denoiser):
    target = load_target(str(run / "checkpoint-3"), use_cpu=True)
    assert target.step == 3
    assert target.config["block_size"] == 33
    assert _same(target.model, tiny_denoiser(seed=1))


def test_without_best_weights_the_newest_good_checkpoint_stands_for_the_run(run):
    (run / "best").rename(run / "elsewhere")
    assert load_target(str(run), use_cpu=True).step == 6
    (run / "checkpoint-6" / "manifest.json").unlink()
    assert load_target(str(run), use_cpu=True).step == 3
    with pytest.raises(UserError, match="checkpoint-6 cannot be trusted: it was never finished"):
        load_target(str(run / "checkpoint-6"))


def test_averaged_weights_of_a_checkpoint_win_over_the_raw_ones(run, tiny_denoiser):
    averaged = tiny_denoiser(seed=9)
    names = dict(averaged.named_parameters())  # tied weights once
    save_file(
        {name: weights.detach().clone() for name, weights in names.items()}, run / "checkpoint-3" / "ema.safetensors"
    )
    write_manifest(run / "checkpoint-3")
    assert _same(load_target(str(run / "checkpoint-3"), use_cpu=True).model, averaged)


def test_a_run_without_a_log_is_a_model_without_settings(run):
    (run / "journal.jsonl").unlink()
    target = load_target(str(run), use_cpu=True)
    assert (target.config, target.step) == ({}, None)


def test_a_causal_model_is_told_from_a_denoiser(tmp_path, tiny_causal, tokenizer):
    tiny_causal().save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert not load_target(str(tmp_path / "model"), use_cpu=True).is_denoiser


def test_a_model_without_a_tokenizer_or_with_torn_weights_is_one_sentence(tmp_path, tiny_denoiser, save):
    tiny_denoiser().save_pretrained(tmp_path / "bare")
    save(tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    for name in ("bare", "torn"):
        with pytest.raises(UserError, match=f"{name} cannot be loaded as a masked diffusion model or a causal LM"):
            load_target(str(tmp_path / name))


@pytest.fixture
def target(tiny_denoiser):
    """A target whose run read one split of a data set of its own."""

    def make(**config):
        return Target(tiny_denoiser(), None, True, "run", config, None)

    return make


def test_the_data_are_those_of_the_run_unless_told_otherwise(target):
    config = {
        "dataset": "d",
        "dataset_config": "c",
        "eval_split": "s",
        "max_eval_blocks": 4,
        "block_size": 32,
        "seed": 1,
    }
    options = data_options(target(**config), {})
    assert (options.dataset, options.dataset_config, options.eval_split, options.max_eval_blocks) == ("d", "c", "s", 4)
    other = data_options(target(**config), {"dataset": "e", "eval_replicates": 3})
    assert (other.dataset, other.dataset_config, other.eval_split, other.max_eval_blocks) == ("e", None, None, None)
    assert other.block_size == 32


def test_a_split_is_one_of_the_training_data_and_not_of_another_evaluation_set(target):
    options = data_options(target(dataset="d", eval_dataset="e", block_size=32), {"eval_split": "test"})
    assert (options.eval_dataset, options.eval_split) == (None, "test")


def test_what_the_run_does_not_say_must_be_given(target):
    with pytest.raises(UserError, match="add --dataset"):
        data_options(target(), {})
    with pytest.raises(UserError, match="block_size must be at most the 64 tokens"):
        data_options(target(dataset="d", block_size=65), {})


@pytest.mark.parametrize("name", ["runs/nope", "mine/nope"])
def test_a_missing_run_is_not_looked_for_on_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match=f"^{name} does not exist"):
        load_target(name)


@pytest.mark.borders
@pytest.mark.parametrize("missing", ["bos_token", "pad_token"])
def test_a_stock_model_without_a_token_that_nothing_needs_is_loaded_and_scored(tmp_path, tiny_causal, missing):
    tiny_causal().save_pretrained(tmp_path / "stock")
    tokenizer = byte_tokenizer()
    setattr(tokenizer, missing, None)
    tokenizer.save_pretrained(tmp_path / "stock")
    target = load_target(str(tmp_path / "stock"), use_cpu=True)
    assert target.text.facts == {"add_bos": False, "bos_token": None}
    assert len(generate_samples(target.model, target.tokenizer, ["a", ""], GenerationOptions(max_new_tokens=3))) == 2


@pytest.mark.borders
def test_blocks_without_bos_score_each_token_but_once_after_the_token_before_it(tmp_path, tiny_causal):
    model = tiny_causal().eval()
    model.save_pretrained(tmp_path / "stock")
    byte_tokenizer().save_pretrained(tmp_path / "stock")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog" * 3)
    target = load_target(str(tmp_path / "stock"), use_cpu=True)
    _, data, _ = evaluation_data(target, {"dataset": str(tmp_path / "text.txt"), "block_size": 17})
    assert data.conventions == {"add_bos": False, "bos_token": None}
    rows = [data.eval[place] for place in range(len(data.eval))]
    stream = [
        256,
        *(tmp_path / "text.txt").read_bytes(),
    ]  # the first token of all needs one before it, as in the harness
    assert [row["input_ids"].tolist() for row in rows] == [stream[i : i + 17] for i in range(0, 16 * len(rows), 16)]
    found = evaluate_likelihood(
        model, CausalObjective(), list(EvaluationBatches(rows, Collator(target.tokenizer), 4)), len(rows)
    )
    assert found.scored_tokens == 16 * len(rows)
    nll = 0.0
    for row in rows:
        ids = torch.from_numpy(row["input_ids"].astype("int64"))
        with torch.no_grad():
            nll -= model(ids[None, :-1]).logits[0].log_softmax(-1).gather(1, ids[1:, None]).sum().item()
    assert found.nll * found.scored_tokens == pytest.approx(nll, rel=1e-5)


@pytest.mark.borders
def test_what_the_blocks_of_an_evaluation_begin_with_is_in_its_result(tmp_path, tiny_causal, capsys):
    tiny_causal().save_pretrained(tmp_path / "stock")
    byte_tokenizer().save_pretrained(tmp_path / "stock")
    (tmp_path / "text.txt").write_text("the quick brown fox jumps over the lazy dog" * 3)
    found = []
    for given in ({}, {"add_bos": True}, {"bos_token": "[EOS]"}):
        changes = {"dataset": str(tmp_path / "text.txt"), "block_size": 17, "use_cpu": True, **given}
        evaluate_target(str(tmp_path / "stock"), changes, as_json=True)
        found.append(json.loads(capsys.readouterr().out))
    assert [(one["add_bos"], one["bos_token"]) for one in found] == [(False, None), (True, "[BOS]"), (True, "[EOS]")]
    assert len({one["eval_nll"] for one in found}) == 3
    with pytest.raises(UserError, match="--packing mdlm puts BOS before each block"):
        evaluate_target(
            str(tmp_path / "stock"), changes | {"bos_token": None, "add_bos": False, "packing": "mdlm"}, True
        )
