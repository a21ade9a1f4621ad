"""Which weights go up: best or a checkpoint, the average or the raw ones, in one file or in shards; and which numbers."""

from __future__ import annotations

import json

import pytest
import torch
from made_models import make_run, tiny, write_checkpoint, write_run_log
from safetensors.torch import load_file

from hf_difflm.errors import UserError
from hf_difflm.hub.remote_code import auto_map, code_files, read_config, write_config_and_code
from hf_difflm.hub.source import find_source
from hf_difflm.hub.weights import copy_model
from hf_difflm.models import MaskedDiffusionForMaskedLM
from hf_difflm.runs.journal.checkpoints import write_manifest

BEST, RAW, EARLY, EARLY_RAW = 1, 2, 4, 3  # seeds


@pytest.fixture
def run(tmp_path, tokenizer):
    """A run with an average: best/ and checkpoint-20 hold seed 1 averaged, the raw weights are those of seed 2."""
    folder = make_run(tmp_path / "run", tiny(BEST), tokenizer, ema_decay=0.9)
    write_checkpoint(folder, 10, tiny(EARLY_RAW), tokenizer, average=tiny(EARLY))
    write_checkpoint(folder, 20, tiny(RAW), tokenizer, average=tiny(BEST))
    return folder


@pytest.fixture
def copied(tmp_path):
    """``copied(target, weights)``: the source that was found, and the model folder that goes up."""

    def call(target, weights=None, name="out"):
        source = find_source(target, weights)
        (tmp_path / name).mkdir()
        copy_model(source.folder, tmp_path / name, source.average)
        write_config_and_code(read_config(source.folder), tmp_path / name)
        return source, tmp_path / name

    return call


def is_model(folder, model):
    loaded = MaskedDiffusionForMaskedLM.from_pretrained(folder)
    return all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("place", "weights", "seed", "averaged", "step", "nll"),
    [
        ("", None, BEST, True, 20, 2.0),
        ("", "ema", BEST, True, 20, 2.0),
        ("", "raw", RAW, False, 20, None),  # raw weights are never evaluated where an average is kept
        ("checkpoint-10", None, EARLY, True, 10, 7.0),
        ("checkpoint-10", "ema", EARLY, True, 10, 7.0),
        ("checkpoint-10", "raw", EARLY_RAW, False, 10, None),
    ],
)
def test_average_or_raw_by_choice_and_numbers_only_of_what_was_evaluated(
    run, copied, place, weights, seed, averaged, step, nll
):
    source, folder = copied(run / place, weights)
    assert is_model(folder, tiny(seed))
    assert (source.is_averaged, source.step) == (averaged, step)
    assert (source.evaluation.nll if source.evaluation else None) == nll


def test_raw_weights_of_a_run_whose_best_step_has_no_checkpoint_are_the_newest_good_ones(run, copied):
    (run / "checkpoint-20" / "manifest.json").unlink()
    source, folder = copied(run, "raw")
    assert is_model(folder, tiny(EARLY_RAW))
    assert source.step == 10


def test_raw_weights_that_nobody_kept_are_one_sentence(tmp_path, tokenizer):
    run = make_run(tmp_path / "run", tiny(BEST), tokenizer, ema_decay=0.9)
    with pytest.raises(UserError, match="has no good checkpoint, and its best/ holds averaged weights"):
        find_source(run, "raw")


def test_a_run_without_an_average_has_raw_weights_only(tmp_path, tokenizer, copied):
    run = make_run(tmp_path / "run", tiny(BEST), tokenizer)
    source, folder = copied(run, "raw")
    assert is_model(folder, tiny(BEST))
    assert source.evaluation.nll == 2.0
    with pytest.raises(UserError, match=r"nothing says that .*best holds a moving average"):
        find_source(run, "ema")
    checkpoint = write_checkpoint(run, 20, tiny(BEST), tokenizer)
    with pytest.raises(UserError, match="checkpoint-20 holds no moving average"):
        find_source(checkpoint, "ema")


def test_without_best_the_newest_good_checkpoint_goes_up(tmp_path, tokenizer, copied):
    run = tmp_path / "run"
    write_checkpoint(run, 10, tiny(RAW), tokenizer, average=tiny(BEST))
    write_run_log(run, ema_decay=0.9)
    source, folder = copied(run)
    assert is_model(folder, tiny(BEST))
    assert (source.step, source.evaluation.nll) == (10, 7.0)


def test_a_model_folder_without_a_log_goes_up_as_it_is(tmp_path, tokenizer, copied):
    tiny(BEST).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    source, folder = copied(tmp_path / "model")
    assert is_model(folder, tiny(BEST))
    assert (source.run, source.step, source.evaluation, source.is_averaged) == (None, None, None, None)


def test_shards_go_up_shard_by_shard_averaged_or_not(tmp_path, tokenizer, copied):
    checkpoint = write_checkpoint(tmp_path / "run", 20, tiny(RAW), tokenizer, average=tiny(BEST))
    (checkpoint / "model.safetensors").unlink()
    tiny(RAW).save_pretrained(checkpoint, max_shard_size="8KB")
    write_manifest(checkpoint)
    _, averaged = copied(checkpoint)
    assert len(list(averaged.glob("model-*.safetensors"))) > 1
    assert is_model(averaged, tiny(BEST))
    _, raw = copied(checkpoint, "raw", "raw")
    assert is_model(raw, tiny(RAW))


def test_an_average_goes_up_in_the_data_type_of_the_weights(tmp_path, tokenizer, copied):
    checkpoint = write_checkpoint(tmp_path / "run", 3, tiny(RAW).bfloat16(), tokenizer, tiny(BEST))
    _, folder = copied(checkpoint)
    expected = {name: weight.bfloat16() for name, weight in tiny(BEST).named_parameters()}
    found = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def test_an_average_of_another_model_is_refused(run, copied, tokenizer):
    other = tiny(BEST)
    other.extra = torch.nn.Linear(2, 2)
    checkpoint = write_checkpoint(run, 30, tiny(BEST), tokenizer, average=other)
    with pytest.raises(UserError, match=r"averages 'extra\.bias', which the weights beside it lack"):
        copied(checkpoint)


def test_an_index_cannot_reach_out_of_its_folder(run, copied, tmp_path):
    (run / "best" / "model.safetensors").unlink()
    (tmp_path / "other.safetensors").write_bytes(b"")
    index = {"weight_map": {"a": "../../other.safetensors"}}
    (run / "best" / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names '\.\./\.\./other\.safetensors'"):
        copied(run)


def test_an_autoregressive_run_is_the_stock_model_it_is(tmp_path, tiny_causal, tokenizer, copied):
    run = make_run(tmp_path / "ar", tiny_causal(), tokenizer, objective="ar")
    _, folder = copied(run)
    assert not list(folder.glob("*.py"))
    assert read_config(folder) == read_config(run / "best")
    assert "auto_map" not in read_config(folder)
    assert auto_map("llama") == auto_map("no such type") == {}


def test_a_map_that_fsdp_left_behind_is_replaced_and_the_code_is_there(tmp_path):
    left = {"auto_map": {"AutoModel": "fully_shard.FSDPX"}, "architectures": ["FSDPMaskedDiffusionForMaskedLM"]}
    assert write_config_and_code({"model_type": "masked_diffusion", **left}, tmp_path)
    written = read_config(tmp_path)
    assert written["architectures"] == ["MaskedDiffusionForMaskedLM"]
    assert written["auto_map"] == {
        "AutoConfig": "configuration_masked_diffusion.MaskedDiffusionConfig",
        "AutoModelForMaskedLM": "modeling_masked_diffusion.MaskedDiffusionForMaskedLM",
    }
    assert {path.name for path in tmp_path.glob("*.py")} == {path.name for path in code_files()}
    assert "modeling_masked_diffusion.py" in {path.name for path in code_files()}
    assert not any(path.name.startswith("_") for path in code_files())


@pytest.mark.parametrize("place", ["nowhere", "run/journal.jsonl", "."])
def test_what_is_no_run_and_no_model_is_one_sentence(run, tmp_path, place):
    with pytest.raises(UserError, match=r"give a run, a checkpoint or a model folder|give one of them"):
        find_source(tmp_path / place)
