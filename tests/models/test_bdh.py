"""BDH: its equations, what each position may see, shared layers, and the seams (AutoModel, generate, denoiser, training)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerBase

from hf_difflm.data import DataOptions, prepare_data
from hf_difflm.errors import UserError
from hf_difflm.flops.bdh import BdhArchitecture
from hf_difflm.flops.network import training_flops
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM, ModelOptions, build_causal_lm
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.masked_diffusion.bdh_backbone import BdhForCausalLM
from hf_difflm.models.masked_diffusion.bdh_configuration import BdhConfig

SIZES: dict[str, Any] = {
    "vocab_size": 11,
    "hidden_size": 8,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "dropout": 0.0,
    "initializer_range": 0.5,
}


def causal(**changes: Any) -> BdhForCausalLM:
    torch.manual_seed(0)
    return BdhForCausalLM(BdhConfig(**SIZES | changes)).eval().double()


def denoiser(**changes: Any) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(backbone_config=BdhConfig(**SIZES | changes), tie_word_embeddings=False)
    return MaskedDiffusionForMaskedLM(config).eval().double()


def ids(length: int = 7, rows: int = 1, high: int = 10) -> torch.Tensor:
    return torch.randint(high, (rows, length), generator=torch.Generator().manual_seed(1))


def norm(x: torch.Tensor) -> torch.Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()


def states_by_hand(model: Any, tokens: list[int], sees: Any) -> list[torch.Tensor]:
    """The residual streams of one sequence, position by position, as the paper states them; ``sees(t, s)`` is its mask."""
    config, block = model.config, model.block
    heads, width = config.num_attention_heads, config.intermediate_size // config.num_attention_heads
    encoder = block.encoder.weight.reshape(heads, width, config.hidden_size)  # (H, N, D)
    decoder = block.decoder.weight.reshape(config.hidden_size, heads, width)  # (D, H, N)

    def rotated(q: torch.Tensor, position: int) -> torch.Tensor:
        turned = q.clone()
        for i in range(0, width, 2):
            angle = position * 65536.0 ** (-i / width)
            turned[i] = math.cos(angle) * q[i] - math.sin(angle) * q[i + 1]
            turned[i + 1] = math.sin(angle) * q[i] + math.cos(angle) * q[i + 1]
        return turned

    x = [norm(model.embed_tokens.weight[token]) for token in tokens]
    for _ in range(config.num_hidden_layers):
        after = []
        q = [[(encoder[h] @ x_t).relu() for h in range(heads)] for x_t in x]
        for t in range(len(tokens)):
            update = torch.zeros(config.hidden_size, dtype=torch.float64)
            for h in range(heads):
                # The state of the head: a matrix of what was seen, read with the query.
                memory = torch.zeros(width, config.hidden_size, dtype=torch.float64)
                for s in range(len(tokens)):
                    if sees(t, s):
                        memory += torch.outer(rotated(q[s][h], s), x[s])
                attended = norm(rotated(q[t][h], t) @ memory)
                update += decoder[:, h] @ (q[t][h] * (attended @ block.value_encoder[h]).relu())
            after.append(norm(x[t] + norm(update)))
        x = after
    return x


@torch.no_grad()
def test_causal_logits_are_those_of_the_equations():
    model, tokens = causal(), ids()
    by_hand = torch.stack(states_by_hand(model.model, tokens[0].tolist(), lambda t, s: s < t)) @ model.lm_head.weight.T
    torch.testing.assert_close(model(tokens).logits[0], by_hand, rtol=1e-5, atol=1e-5)  # rotations are float32


@torch.no_grad()
def test_the_denoiser_has_the_same_equations_and_sees_all_other_positions():
    model, tokens = denoiser(), ids()
    states = torch.stack(states_by_hand(model.backbone, tokens[0].tolist(), lambda t, s: s != t))
    found = model.backbone(tokens).last_hidden_state[0]
    torch.testing.assert_close(found, states, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("place", range(7))
def test_a_token_changes_later_logits_alone_in_the_causal_model_and_all_in_the_denoiser(place: int):
    tokens = ids()
    changed = tokens.clone()
    changed[0, place] = (tokens[0, place] + 1) % 10
    causal_model, denoising = causal(), denoiser().backbone
    moved = (causal_model(tokens).logits - causal_model(changed).logits)[0].abs().amax(-1) > 1e-12
    assert moved.tolist() == [position >= place for position in range(7)]
    states = [denoising(x).last_hidden_state[0] for x in (tokens, changed)]
    assert ((states[0] - states[1]).abs().amax(-1) > 1e-12).all()


def test_layers_share_their_weights():
    counts = {depth: causal(num_hidden_layers=depth).num_parameters() for depth in (1, 2, 6)}
    assert set(counts.values()) == {3 * 8 * 24 + 2 * 11 * 8}
    assert BdhForCausalLM(BdhConfig()).num_parameters() == 3 * 256 * 128 * 256 + 2 * 256 * 256  # 25.3 million


@torch.no_grad()
def test_depth_changes_the_output():
    deep, flat = causal(), causal(num_hidden_layers=1)
    assert not torch.allclose(deep(ids()).logits, flat(ids()).logits)


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("make", [causal, denoiser])
def test_padding_on_either_side_changes_nothing(side: str, make: Any):
    model, tokens = make(), ids()
    real = slice(3, None) if side == "left" else slice(None, 7)
    padded, mask = torch.full((1, 10), 5), torch.zeros(1, 10, dtype=torch.long)
    padded[:, real], mask[:, real] = tokens, 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = model(padded, attention_mask=mask, position_ids=positions).logits[:, real]
    torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_the_cache_gives_what_the_whole_sequence_gives():
    model, tokens = causal(), ids(rows=2)
    whole = model(tokens).logits
    first = model(tokens[:, :4], use_cache=True)
    rest = model(tokens[:, 4:], past_key_values=first.past_key_values, use_cache=True)
    torch.testing.assert_close(torch.cat([first.logits, rest.logits], 1), whole)


def test_generate_is_the_likeliest_token_again_and_again_with_a_cache_without_and_after_padding():
    model, tokens = causal(), ids(rows=2)
    expected = tokens
    for _ in range(5):
        with torch.no_grad():
            expected = torch.cat([expected, model(expected, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    for use_cache in (True, False):
        assert torch.equal(model.generate(tokens, use_cache=use_cache, **settings), expected)
    mask = torch.tensor([[0, 0] + [1] * 7] * 2)
    padded = torch.cat([torch.zeros(2, 2, dtype=torch.long), tokens], 1)
    assert torch.equal(model.generate(padded, attention_mask=mask, **settings)[:, 2:], expected)


def test_labels_give_the_shifted_cross_entropy():
    model, tokens = causal(), ids(rows=2)
    output = model(tokens, labels=tokens)
    expected = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    torch.testing.assert_close(output.loss, expected, check_dtype=False)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_a_cache_for_the_denoiser_is_refused():
    with pytest.raises(ValueError, match="takes no cache"):
        denoiser().backbone(ids(), past_key_values=causal()(ids(), use_cache=True).past_key_values)


def test_neurons_that_do_not_pair_up_are_refused():
    with pytest.raises(ValueError, match="intermediate_size 10 is not a multiple of twice num_attention_heads 2"):
        BdhConfig(**SIZES | {"intermediate_size": 10})


@torch.no_grad()
@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("make", [causal, denoiser])
def test_saved_and_loaded_it_is_the_same(tmp_path: Path, make: Any, tie: bool):
    model = make(tie_word_embeddings=tie).float()
    model.save_pretrained(tmp_path)
    kind = AutoModelForCausalLM if make is causal else MaskedDiffusionForMaskedLM
    assert AutoConfig.from_pretrained(tmp_path).model_type == ("bdh" if make is causal else "masked_diffusion")
    assert torch.equal(kind.from_pretrained(tmp_path).eval()(ids()).logits, model(ids()).logits)


def test_auto_classes_know_it():
    assert type(AutoModel.from_config(BdhConfig(**SIZES))).__name__ == "BdhModel"
    assert type(AutoModelForCausalLM.from_config(BdhConfig(**SIZES))).__name__ == "BdhForCausalLM"


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = causal().train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(ids(rows=2), labels=ids(rows=2), use_cache=False).loss.backward()
        gradients.append([p.grad for p in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_options_make_both_twins_with_the_same_backbone(tokenizer: PreTrainedTokenizerBase):
    options = ModelOptions(backbone="bdh", hidden_size=16, num_hidden_layers=2, intermediate_size=64)
    twins = build_causal_lm(options, tokenizer, 8), build_denoiser(options, tokenizer, 8)
    assert twins[0].num_parameters() == twins[1].num_parameters() == 3 * 16 * 64 + 260 * 16
    assert (twins[0].config.is_causal, twins[1].backbone.config.is_causal) == (True, False)
    wide = build_causal_lm(ModelOptions(backbone="bdh", hidden_size=16, num_hidden_layers=2), tokenizer, 8)
    assert wide.config.neurons == 128 * 16
    with pytest.raises(UserError, match="intermediate_size 20"):
        build_denoiser(ModelOptions(backbone="bdh", hidden_size=16, intermediate_size=20), tokenizer, 8)


@pytest.mark.parametrize("objective", ["ar", "mdlm"])
def test_it_learns_the_markov_source(
    objective: str, make_diffusion_trainer: Any, tokenizer: PreTrainedTokenizerBase, monkeypatch: Any, tmp_path: Path
):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = prepare_data(DataOptions(dataset="markov", block_size=17, max_eval_blocks=16), tokenizer)
    torch.manual_seed(0)
    build: Any = build_causal_lm if objective == "ar" else build_denoiser
    model = build(
        ModelOptions(backbone="bdh", hidden_size=32, num_hidden_layers=2, intermediate_size=128), tokenizer, 17
    )
    trainer = make_diffusion_trainer(
        model=model,
        train=data.train,
        evaluation=data.eval,
        objective=objective,
        max_steps=40,
        per_device_train_batch_size=16,
        learning_rate=1e-2,
    )
    before = trainer.evaluate()["eval_nll"]
    trainer.train()
    after = trainer.evaluate()["eval_nll"]
    assert before > 5  # ln 260 = 5.56
    assert data.source_nll < after < 2.3  # uniform over its eight letters: 2.08
    if objective == "ar":  # 16 sequences of 17 tokens a step, of which 16 are predicted
        a_step = training_flops(BdhArchitecture(32, 4, 128, 2, 260), {17: 16}, 16 * 16)
        assert trainer.state.total_flos == pytest.approx(40 * a_step)
