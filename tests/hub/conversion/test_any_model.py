"""A converted language model keeps its weights, computes what its source does, and trains on as a denoiser."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from hf_difflm.data import load_tokenizer
from hf_difflm.data.tokenizers import byte_characters
from hf_difflm.errors import UserError
from hf_difflm.hub.conversion.any_model import convert
from hf_difflm.models import MaskedDiffusionForMaskedLM

VOCABULARY = 270  # more rows than the tokenizer without a mask has tokens
LENGTH = 10
COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
CAUSAL: dict[str, dict[str, Any]] = {
    "gpt2": {"bos_token_id": 256, "eos_token_id": 257, "resid_pdrop": 0.1},
    "llama": {},
    "qwen2": {"num_key_value_heads": 1},
    "qwen3": {"num_key_value_heads": 1, "head_dim": 8},
    "gpt_neox": {},
    "phi": {},  # with a bias in the head
    "mistral": {"num_key_value_heads": 1, "sliding_window": 4},
}
MASKED: dict[str, dict[str, Any]] = {
    "bert": {"pad_token_id": 258, "hidden_act": "relu"},
    "roberta": {"pad_token_id": 1, "max_position_embeddings": 50},
    "xlm-roberta": {"pad_token_id": 1, "hidden_act": "relu", "max_position_embeddings": 50},
    "distilbert": {},
    "modernbert": {"cls_token_id": None, "sep_token_id": None, "sep_id": None},
}
every_causal = pytest.mark.parametrize("family", CAUSAL)
every_masked = pytest.mark.parametrize("family", MASKED)


def bytes_without_mask(folder: Path) -> PreTrainedTokenizerFast:
    """Bytes, BOS, EOS, a pad and one reserved token: 260 in all; ``abc`` would be text."""
    vocabulary = {character: byte for byte, character in enumerate(byte_characters())}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.add_special_tokens(["<s>", "</s>", "<pad>", "<|reserved|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", split_special_tokens=True
    )
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., tuple[Path, PreTrainedModel]]:
    """``stored(family, kind, **config)``: a folder with a random model and a tokenizer, and the model."""

    def make(family: str, kind: Any = AutoModelForCausalLM, **changes: Any) -> tuple[Path, PreTrainedModel]:
        known = AutoConfig.for_model(family)
        sizes = {name: value for name, value in COMMON.items() if hasattr(known, name) or name.endswith("_token_id")}
        config = AutoConfig.for_model(family, **{**sizes, **(CAUSAL | MASKED)[family], **changes})
        torch.manual_seed(0)
        model = kind.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))  # norms and biases too
        folder = tmp_path / "source"
        model.save_pretrained(folder)
        if kind is AutoModelForCausalLM:
            bytes_without_mask(folder)
        else:
            load_tokenizer("bytes").save_pretrained(folder)
        return folder, model

    return make


def text(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def forced_causal(model: MaskedDiffusionForMaskedLM) -> MaskedDiffusionForMaskedLM:
    model.backbone.config.is_causal = True
    return model


@every_causal
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_under_a_causal_mask_the_logits_are_those_of_the_source_one_position_later(family, tied, stored, tmp_path):
    folder, source = stored(family, tie_word_embeddings=tied)
    made = convert(str(folder), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    mask = model.config.mask_token_id
    ids = text(3, LENGTH)
    expected = source(ids).logits
    causal = forced_causal(model)
    for place in range(1, LENGTH):
        hidden = ids.clone()
        hidden[:, place:] = mask  # the mask's own row is not in the source, which sees none of it
        logits = causal(hidden).logits[:, place]
        assert logits[:, mask].isneginf().all()
        keep = [i for i in range(VOCABULARY) if i != mask]
        torch.testing.assert_close(logits[:, keep], expected[:, place - 1, keep], rtol=1e-4, atol=1e-4)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    assert made.difference is not None
    assert made.difference < 1e-5


@every_causal
def test_it_looks_both_ways_and_every_parameter_learns(family, stored, tmp_path):
    made = convert(str(stored(family)[0]), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).train()
    mask = model.config.mask_token_id
    clean = text(4, LENGTH, seed=1)
    chosen = torch.rand(4, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.5
    chosen[:, 0] = False
    chosen[:, 2] = True
    model.eval()
    ids = clean.masked_fill(chosen, mask)
    later = ids.clone()
    later[:, 3] = (ids[:, 3] + 1) % 200
    assert not torch.allclose(model(ids).logits[:, 2, :256], model(later).logits[:, 2, :256], atol=1e-4)
    model.train()
    loss = model(ids, labels=clean.masked_fill(~chosen, -100)).loss
    loss.backward()
    assert loss.isfinite()
    unused = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    # A bias of keys moves all scores of a query alike, so its gradient is zero but for rounding.
    assert {name for name in unused if "k_proj.bias" not in name} == set()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
def test_the_backbone_keeps_every_weight_and_the_mask_begins_as_the_mean_token(family, stored, tmp_path):
    folder, source = stored(family)
    made = convert(str(folder), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder)
    ours, theirs = model.backbone.state_dict(), source.base_model.state_dict()
    assert ours.keys() == theirs.keys()
    embeddings = next(name for name, value in theirs.items() if len(value) == VOCABULARY)
    assert made.mask_token_id == 260  # the tokenizer's next, within the rows there were
    assert made.new_rows == 0
    for name, value in theirs.items():
        kept = torch.arange(VOCABULARY) != 260 if name == embeddings else slice(None)
        assert torch.equal(ours[name][kept], value[kept]), name
    torch.testing.assert_close(ours[embeddings][260], theirs[embeddings][:260].mean(0), rtol=1e-5, atol=1e-6)


def test_the_embeddings_grow_where_the_mask_has_no_row(stored, tmp_path, caplog):
    folder, source = stored("llama", vocab_size=260, tie_word_embeddings=False)
    convert(str(folder), tmp_path / "unnamed")
    assert "open-dllm" not in caplog.text  # which is for a tokenizer that has a mask of its own
    made = convert(str(folder), tmp_path / "made", mask_token="<|mask|>")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder)
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("<|mask|>", 260, 261)
    assert (made.new_rows, made.mask_token, model.config.vocab_size) == (1, "<|mask|>", 261)
    for ours, theirs in (
        (model.get_input_embeddings().weight, source.get_input_embeddings().weight),
        (model.lm_head.weight, source.lm_head.weight),
    ):
        assert torch.equal(ours[:260], theirs)
        torch.testing.assert_close(ours[260], theirs.mean(0), rtol=1e-5, atol=1e-6)


def test_a_reserved_token_can_be_the_mask(stored, tmp_path):
    folder, source = stored("llama")
    made = convert(str(folder), tmp_path / "made", mask_token="<|reserved|>")
    assert (made.mask_token_id, made.new_rows) == (259, 0)
    assert len(AutoTokenizer.from_pretrained(made.folder)) == 260
    row = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).get_input_embeddings().weight[259]
    torch.testing.assert_close(row, source.get_input_embeddings().weight[:259].mean(0), rtol=1e-5, atol=1e-6)


def test_without_the_shift_a_token_is_predicted_from_its_own_position(stored, tmp_path):
    folder, _ = stored("llama")
    shifted = MaskedDiffusionForMaskedLM.from_pretrained(convert(str(folder), tmp_path / "shifted").folder).eval()
    plain = MaskedDiffusionForMaskedLM.from_pretrained(
        convert(str(folder), tmp_path / "plain", shift=False).folder
    ).eval()
    assert (shifted.config.shift_logits, plain.config.shift_logits) == (True, False)
    ids = torch.full((1, LENGTH), shifted.config.mask_token_id)
    ids[0, 0] = 65
    ids[0, 4] = 66
    one, other = shifted(ids).logits, plain(ids).logits
    torch.testing.assert_close(one[0, 2:4], other[0, 1:3])
    assert not torch.allclose(one[0, 1, :256], other[0, 1, :256], atol=1e-3)


def test_with_the_shift_the_head_runs_at_labels_only_and_gives_what_the_full_head_would(stored, tmp_path):
    model = MaskedDiffusionForMaskedLM.from_pretrained(
        convert(str(stored("llama")[0]), tmp_path / "made").folder
    ).eval()
    mask = model.config.mask_token_id
    clean = text(3, LENGTH, seed=4)
    chosen = torch.rand(3, LENGTH, generator=torch.Generator().manual_seed(5)) < 0.6
    chosen[0, 0] = True  # a first position, which nothing stands before
    ids, labels = clean.masked_fill(chosen, mask), clean.masked_fill(~chosen, -100)
    logits = model(ids).logits
    rows: list[int] = []
    head = model._head
    model._head = lambda hidden_ND, *kept: (rows.append(len(hidden_ND)), head(hidden_ND, *kept))[1]
    expected = torch.nn.functional.cross_entropy(logits[chosen], clean[chosen])
    torch.testing.assert_close(model(ids, labels=labels).loss, expected)
    some = torch.tensor([0, 7, 12, 29])
    torch.testing.assert_close(model(ids, positions=some).logits, logits.flatten(0, 1)[some])
    assert rows == [int(chosen.sum()), 4]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_with_the_shift_padding_changes_no_prediction(family, side, stored, tmp_path):
    model = MaskedDiffusionForMaskedLM.from_pretrained(convert(str(stored(family)[0]), tmp_path / "made").folder).eval()
    ids = text(2, LENGTH, seed=6)
    ids[:, ::2] = model.config.mask_token_id  # the first position too
    widths = (4, 0) if side == "left" else (0, 4)
    padded = torch.nn.functional.pad(ids, widths, value=5)
    attention = torch.nn.functional.pad(torch.ones_like(ids), widths)
    logits = model(padded, attention_mask=attention).logits
    kept = logits[:, 4:] if side == "left" else logits[:, :LENGTH]
    torch.testing.assert_close(kept, model(ids).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["ddpm_cache", "low_confidence"])
def test_with_the_shift_it_generates_what_its_logits_say(sampler, stored, tmp_path):
    """One mask, greedily filled, is the likeliest token there; a padded row is as good as the row alone."""
    model = MaskedDiffusionForMaskedLM.from_pretrained(
        convert(str(stored("llama")[0]), tmp_path / "made").folder
    ).eval()
    prompt = text(1, 6, seed=7)
    prompt[0, 3] = model.config.mask_token_id
    likeliest = int(model(prompt).logits[0, 3].argmax())
    filled = model.generate(prompt, max_new_tokens=0, do_sample=False, sampler=sampler, seed=0)
    assert filled[0, 3] == likeliest
    padded = torch.nn.functional.pad(prompt, (3, 0), value=258)
    attention = torch.nn.functional.pad(torch.ones_like(prompt), (3, 0))
    options = {"max_new_tokens": 5, "sampler": sampler, "seed": 1}
    alone = model.generate(prompt, **options)
    beside = model.generate(padded, attention_mask=attention, **options)
    assert torch.equal(beside[:, 3:], alone)


@every_masked
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_masked_lm_predicts_at_masks_what_it_did(family, tied, stored, tmp_path):
    folder, source = stored(family, AutoModelForMaskedLM, tie_word_embeddings=tied)
    made = convert(str(folder), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    assert (made.kind, made.shift_logits, made.mask_token_id) == ("masked LM", False, 259)
    ids = text(3, LENGTH)
    ids[ids == 1] = 2  # RoBERTa takes its pad id in a text for padding; the denoiser is told what is
    ids[:, ::3] = 259
    keep = [i for i in range(VOCABULARY) if i != 259]
    found, expected = model(ids).logits, source(ids).logits
    torch.testing.assert_close(found[:, ::3][..., keep], expected[:, ::3][..., keep], rtol=1e-4, atol=1e-4)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) is tied
    loss = model.train()(ids, labels=text(3, LENGTH, seed=9).where(ids == 259, -100)).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.config.max_position_embeddings == 48
    model.eval()
    longest = text(1, 48)
    longest[0, 5] = 259
    assert model(longest).logits.isfinite()[0, 5, :256].all()


def test_roberta_counts_positions_by_place_even_where_text_has_its_pad_token(stored, tmp_path):
    made = convert(str(stored("roberta", AutoModelForMaskedLM)[0]), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    ids = text(1, LENGTH)
    ids[0, 2], ids[0, 5] = 1, 259
    expected = model(ids, position_ids=torch.arange(2, 2 + LENGTH)[None]).logits
    for attention in (None, torch.ones_like(ids)):
        torch.testing.assert_close(model(ids, attention_mask=attention).logits, expected)


def test_the_configuration_says_where_it_comes_from_but_no_path_of_this_machine(stored, tmp_path):
    folder, _ = stored("llama")
    made = convert(str(folder), tmp_path / "made")
    config = json.loads((made.folder / "config.json").read_text())
    assert config["converted_from"] == {"source": "source", "kind": "causal LM", "model_type": "llama"}
    for file in made.folder.glob("*.json"):
        assert str(tmp_path) not in file.read_text(), file.name


def test_converted_and_saved_again_nothing_changes(stored, tmp_path):
    made = convert(str(stored("gpt2")[0]), tmp_path / "made")
    model = MaskedDiffusionForMaskedLM.from_pretrained(made.folder).eval()
    model.save_pretrained(tmp_path / "again")
    again = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "again").eval()
    ids = text(2, LENGTH)
    ids[:, 4:] = model.config.mask_token_id
    assert torch.equal(model(ids).logits, again(ids).logits)
    assert again.config.shift_logits is True
    assert again.config.converted_from == model.config.converted_from


def test_the_stored_precision_is_kept(stored, tmp_path):
    folder, source = stored("llama")
    source.to(torch.bfloat16).save_pretrained(folder)
    model = MaskedDiffusionForMaskedLM.from_pretrained(convert(str(folder), tmp_path / "made").folder)
    assert model.dtype == torch.bfloat16
    assert torch.equal(model.backbone.layers[0].mlp.up_proj.weight, source.model.layers[0].mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("token", "said"),
    [("a", "ordinary token"), ("</s>", "eos_token"), (" ", "must not be empty")],
)
def test_a_token_that_cannot_hide_others_is_refused(token, said, stored, tmp_path):
    with pytest.raises(UserError, match=said) as caught:
        convert(str(stored("llama")[0]), tmp_path / "made", mask_token=token)
    assert "--mask-token" in str(caught.value)
    assert not (tmp_path / "made").exists()


def test_what_cannot_be_converted_is_refused_in_a_sentence(stored, tmp_path):
    folder, _ = stored("llama")
    made = convert(str(folder), tmp_path / "made").folder
    (tmp_path / "empty").mkdir()
    classifier = tmp_path / "classifier"
    sizes = {name: COMMON[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")}
    BertForSequenceClassification(AutoConfig.for_model("bert", **sizes)).save_pretrained(classifier)
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, pickled / "pytorch_model.bin")
    for source, said in (
        (tmp_path / "nowhere", "does not exist"),
        (tmp_path / "empty", "holds no"),
        (made, "masked diffusion model already"),
        (classifier, "BertForSequenceClassification, and neither a causal LM nor a masked LM"),
        (pickled, "pickle"),
    ):
        with pytest.raises(UserError, match=said) as caught:
            convert(str(source), tmp_path / "out")
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="not empty"):
        convert(str(folder), made)


@pytest.mark.borders
@pytest.mark.parametrize(("family", "kind"), [("llama", AutoModelForCausalLM), ("bert", AutoModelForMaskedLM)])
def test_an_adapter_is_converted_with_its_network(family, kind, stored, tmp_path):
    peft = pytest.importorskip("peft")
    folder, _ = stored(family, kind)
    layers = ["q_proj", "query"]
    config = peft.LoraConfig(r=2, target_modules=layers, use_dora=True, init_lora_weights=False)
    adapted = peft.get_peft_model(kind.from_pretrained(folder), config)
    adapted.save_pretrained(tmp_path / "adapter")
    made = convert(str(tmp_path / "adapter"), tmp_path / "made")
    assert made.difference < 1e-4
    model = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path / "made")
    plain = adapted.merge_and_unload().base_model
    found = {name: weight for name, weight in plain.state_dict().items() if any(layer in name for layer in layers)}
    assert found
    for name, weight in found.items():
        torch.testing.assert_close(model.backbone.state_dict()[name], weight)


def test_a_head_that_does_more_than_a_linear_map_is_refused(stored, tmp_path):
    """Cohere scales its logits, which no field of ours says."""
    CAUSAL["cohere"] = {"logit_scale": 0.1}
    try:
        folder, _ = stored("cohere")
    finally:
        del CAUSAL["cohere"]
    with pytest.raises(UserError, match="CohereForCausalLM, whose logits come out differently"):
        convert(str(folder), tmp_path / "made")


def test_a_model_that_cannot_look_both_ways_is_refused(stored, tmp_path):
    CAUSAL["mamba"] = {"state_size": 4}
    try:
        folder, _ = stored("mamba")
    finally:
        del CAUSAL["mamba"]
    with pytest.raises(UserError, match="has to read both sides"):
        convert(str(folder), tmp_path / "made")


def test_missing_weights_are_refused(stored, tmp_path):
    folder, source = stored("llama")
    state = {name: value for name, value in source.state_dict().items() if "layers.1.mlp" not in name}
    source.save_pretrained(folder, state_dict=state)
    with pytest.raises(UserError, match="lacks the weights"):
        convert(str(folder), tmp_path / "made")


def test_a_masked_lm_is_not_shifted(stored, tmp_path):
    with pytest.raises(UserError, match="own position"):
        convert(str(stored("bert", AutoModelForMaskedLM)[0]), tmp_path / "made", shift=True)
