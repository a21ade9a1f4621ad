"""Training that begins with weights that exist: theirs are the network and the tokenizer, and the run is a new one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from hf_difflm.data.tokenizers import byte_characters
from hf_difflm.errors import UserError
from hf_difflm.evaluation.targets import load_target
from hf_difflm.experiments.building import build_model
from hf_difflm.experiments.one_run import train_run
from hf_difflm.experiments.recipe_settings import Settings, load_settings, resumed_settings
from hf_difflm.experiments.starting_point import begin_from, open_tokenizer
from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import write_manifest

TINY = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
DATA = {"dataset": "markov", "block_size": 33, "max_eval_blocks": 4, "use_cpu": True, "viz_interval": 0}
STEPS = {"max_steps": 2, "eval_steps": 1, "save_steps": 1, "logging_steps": 1, "eval_replicates": 1, "eval_iters": 1}


@pytest.fixture
def source(tmp_path, tiny_denoiser, tokenizer) -> Path:
    """A model folder: noise schedule cosine, weights of seed 7."""
    folder = tmp_path / "source"
    tiny_denoiser(seed=7, noise_schedule="cosine", bos_token_id=256).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def begun(source: Path, **flags: Any) -> Settings:
    return begin_from(load_settings(None, {**DATA, "init_from": str(source), **flags}))


def network(settings: Settings) -> Any:
    return build_model(settings, open_tokenizer(settings))


def same(model: Any, other: Any) -> bool:
    return all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())


def test_network_tokenizer_and_schedule_are_those_of_the_weights(source, tiny_denoiser):
    settings = begun(source)
    sizes = settings.model
    assert (sizes.backbone, sizes.hidden_size, sizes.num_hidden_layers, sizes.intermediate_size) == ("llama", 16, 2, 32)
    assert (sizes.max_position_embeddings, settings.data.tokenizer) == (64, str(source))
    assert settings.training["noise_schedule"] == "cosine"
    model = network(settings)
    assert same(model, tiny_denoiser(seed=7))
    assert (model.config.noise_schedule, model.generation_config.max_new_tokens) == ("cosine", 32)
    assert model.dtype == torch.float32


def test_a_schedule_that_is_given_wins_and_sizes_that_differ_are_refused(source):
    settings = begun(source, noise_schedule="linear", hidden_size=16)
    assert network(settings).config.noise_schedule == "linear"
    with pytest.raises(
        UserError, match="does not have hidden_size = 32, num_hidden_layers = 3, but hidden_size = 16, "
    ):
        begun(source, hidden_size=32, num_hidden_layers=3, tie_word_embeddings=True)
    with pytest.raises(UserError, match="backbone_config"):
        begun(source, backbone_config={"rms_norm_eps": 0.1})
    with pytest.raises(UserError, match="block_size must be at most the 64 tokens"):
        begun(source, block_size=65)


def test_averaged_weights_of_a_checkpoint_are_what_training_begins_with(source, tiny_denoiser):
    checkpoint = shutil.move(source, source.with_name("checkpoint-5"))
    averaged = tiny_denoiser(seed=9)
    names = dict(averaged.named_parameters())
    save_file({name: value.detach().clone() for name, value in names.items()}, Path(checkpoint) / "ema.safetensors")
    write_manifest(Path(checkpoint))
    assert same(network(begun(Path(checkpoint))), averaged)


def test_weights_of_the_other_kind_are_refused_with_what_to_do(source, tmp_path, tiny_causal, tokenizer):
    tiny_causal().save_pretrained(tmp_path / "causal")
    tokenizer.save_pretrained(tmp_path / "causal")
    with pytest.raises(UserError, match=r"is a causal LM, but the objective is mdlm; .*hf-difflm convert"):
        begun(tmp_path / "causal")
    with pytest.raises(UserError, match="is a masked diffusion model, but the objective is ar"):
        begun(source, objective="ar")
    assert same(network(begun(tmp_path / "causal", objective="ar")), tiny_causal())
    assert same(network(begun(source, objective="atat")), network(begun(source)))


def test_a_tokenizer_that_does_not_fit_and_a_revision_of_nothing_are_refused(
    source, tmp_path, tiny_denoiser, tokenizer
):
    tiny_denoiser(mask_token_id=3).save_pretrained(source)
    with pytest.raises(UserError, match=r"the tokenizer does not fit .*the mask 259, but the model 260 and 3"):
        network(begun(source))
    with pytest.raises(UserError, match="--revision is that of the model --init-from names"):
        begin_from(load_settings(None, {**DATA, "revision": "main"}))
    with pytest.raises(UserError, match="--revision is for models on the Hub"):
        begun(source, revision="main")


def test_a_stock_causal_lm_gets_rows_for_the_tokens_it_lacks_and_drops_nothing_out(tmp_path, tokenizer):
    config = GPT2Config(
        vocab_size=258, n_embd=16, n_layer=1, n_head=2, n_positions=64, bos_token_id=256, eos_token_id=257
    )
    stock = GPT2LMHeadModel(config).to(torch.bfloat16)
    stock.save_pretrained(tmp_path / "stock")
    tokenizer.save_pretrained(tmp_path / "stock")
    model = network(begun(tmp_path / "stock", objective="ar")).train()
    rows = model.get_input_embeddings().weight
    assert (rows.shape[0], model.dtype) == (260, torch.float32)
    assert torch.equal(rows[:258], stock.get_input_embeddings().weight.float())
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids).logits, model(ids).logits)


@pytest.fixture
def stock(tmp_path: Path) -> Path:
    """A causal LM of bytes with a tokenizer that knows of no mask."""
    torch.manual_seed(0)
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(["<|end|>"])
    words = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|end|>", eos_token="<|end|>")
    config = LlamaConfig(
        vocab_size=257, bos_token_id=256, eos_token_id=256, max_position_embeddings=64, initializer_range=0.2, **TINY
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "stock")
    words.save_pretrained(tmp_path / "stock")
    return tmp_path / "stock"


@pytest.mark.borders
@pytest.mark.parametrize("options", [{}, {"lora_r": 2}, {"lora_r": 2, "lora_merge": False}], ids=str)
def test_a_stock_causal_lm_keeps_its_vocabulary_and_its_adapters_are_small(stock, tmp_path, options):
    pytest.importorskip("peft")
    flags = {**DATA, **STEPS, "init_from": str(stock), "objective": "ar", "learning_rate": 0.05, **options}
    train_run(load_settings(None, flags), tmp_path / "run")
    ids = torch.tensor([[256, 97, 98, 99]])
    with torch.no_grad():
        before = AutoModelForCausalLM.from_pretrained(stock).eval()(ids).logits
        logits = []
        for place in ("run/checkpoint-2", "run/best", "run"):
            target = load_target(str(tmp_path / place), use_cpu=True)
            assert (target.tokenizer.mask_token, len(target.tokenizer), target.model.config.vocab_size) == (
                None,
                257,
                257,
            )
            logits.append(target.model(ids).logits)
    assert not torch.allclose(before, logits[0], atol=1e-3)
    torch.testing.assert_close(logits[0], logits[2], rtol=1e-4, atol=1e-4)
    for file in tmp_path.glob("run/**/adapter_model.safetensors"):
        assert not any(257 in tensor.shape for tensor in load_file(file).values())


def test_a_run_begins_with_another_and_resumes_without_it(source, tmp_path):
    settings = load_settings(None, {**DATA, **STEPS, "init_from": str(source), "learning_rate": 1e-12})
    train_run(settings, tmp_path / "run")
    began, ended = load_file(source / "model.safetensors"), load_file(tmp_path / "run/checkpoint-2/model.safetensors")
    assert all(torch.allclose(value, ended[name], atol=1e-9) for name, value in began.items())
    header = load_run(tmp_path / "run").headers[0]
    assert (header.parent_run, header.config["init_from"], header.config["hidden_size"]) == (
        str(source),
        str(source),
        16,
    )
    assert load_target(str(tmp_path / "run"), use_cpu=True).config["noise_schedule"] == "cosine"

    # A run that begins with this one names it by its id; killed after step 1, it needs it no more.
    again = {**DATA, **STEPS, "init_from": str(tmp_path / "run")}
    train_run(load_settings(None, again), tmp_path / "whole")
    train_run(load_settings(None, again), tmp_path / "cut")
    assert load_run(tmp_path / "cut").headers[0].parent_run == header.run_id
    shutil.rmtree(tmp_path / "cut" / "checkpoint-2")
    journal = tmp_path / "cut" / "journal.jsonl"
    journal.write_text("".join(line for line in journal.read_text().splitlines(True) if '"completed"' not in line))
    shutil.rmtree(tmp_path / "run")
    train_run(resumed_settings(load_run(tmp_path / "cut").config, {}), tmp_path / "cut", resume=True)
    one, two = (load_file(tmp_path / name / "checkpoint-2/model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert load_run(tmp_path / "cut").headers[-1].parent_run == header.run_id


def test_a_token_that_was_taken_out_of_the_log_is_not_resumed_with():
    recorded = {"dataset": "markov", "hub_token": "[redacted]", "push_to_hub": True}
    training = resumed_settings(recorded, {}).training
    assert training["push_to_hub"] is True
    assert "hub_token" not in training
