"""Two passes, one forward, forwards from a cache and a forward a block are one network, in each kernel."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from transformers import DynamicCache, LlamaForCausalLM

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.diffusion_blocks import noisy_beside_clean, noisy_hidden

PAGE = Path(__file__).parents[2] / "docs" / "block-diffusion.md"
MASK, LENGTH, SIZE = 63, 14, 4  # the last block is short
FAMILIES = ["llama", "qwen3", "gpt2"]


def network(family: str, kernel: str, size: int | None = SIZE, **fields) -> MaskedDiffusionForMaskedLM:
    torch.manual_seed(0)
    names = {"n_embd": 32, "n_layer": 3, "n_head": 2, "n_positions": 32} if family == "gpt2" else {}
    if not names:
        names = {
            "hidden_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "head_dim": 8,
        }
    drop = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0) if family == "gpt2" else {}
    config = MaskedDiffusionConfig(
        backbone_config={"model_type": family, "vocab_size": 64, "pad_token_id": None, **names, **drop},
        mask_token_id=MASK,
        diffusion_block_size=size,
        **fields,
    )
    config._attn_implementation = kernel
    model = MaskedDiffusionForMaskedLM(config)
    with torch.no_grad():  # so large that what must not be read would be seen
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
    return model.train()


def text(rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """(B, L) clean and noisy ids."""
    torch.manual_seed(1)
    clean_BL = torch.randint(0, MASK, (rows, LENGTH))
    return clean_BL, clean_BL.masked_fill(torch.rand(clean_BL.shape) < 0.5, MASK)


def a_forward_a_block(model, clean_L: torch.Tensor, noisy_L: torch.Tensor) -> torch.Tensor:
    """(L, D) hidden states of one row: each block alone, all that is there being seen, with no mask of blocks."""
    cache, found = DynamicCache(), []
    for first in range(0, len(clean_L), SIZE):
        part = slice(first, min(first + SIZE, len(clean_L)))

        def read(ids_L, kept, part=part):
            everything = torch.ones(1, 1, part.stop - part.start, part.stop, dtype=torch.bool)
            if model.config._attn_implementation == "eager":
                everything = torch.zeros(everything.shape)
            return model.backbone(
                input_ids=ids_L[None, part],
                attention_mask=everything,
                position_ids=torch.arange(part.start, part.stop)[None],
                past_key_values=kept,
                use_cache=True,
            ).last_hidden_state[0]

        found.append(read(noisy_L, copy.deepcopy(cache)))
        read(clean_L, cache)
    return torch.cat(found)


def hidden_of(model, noisy_BL, clean_BL, mask_BL=None, **kwargs):
    """(B, L, D) hidden states that the head gets."""
    return noisy_hidden(model.backbone, noisy_BL, clean_BL, mask_BL, SIZE, **kwargs)[0]


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_two_passes_and_one_forward_are_a_forward_a_block(family, kernel):
    model, (clean_BL, noisy_BL) = network(family, kernel), text()
    direct_BLD = torch.stack([a_forward_a_block(model, *rows) for rows in zip(clean_BL, noisy_BL, strict=True)])
    for one_forward in (False, True):
        found_BLD = hidden_of(model, noisy_BL, clean_BL, one_forward=one_forward)
        torch.testing.assert_close(found_BLD, direct_BLD, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_padding_on_either_side_changes_nothing(family, kernel):
    model, (clean_BL, noisy_BL) = network(family, kernel), text()
    alone_BLD = hidden_of(model, noisy_BL, clean_BL)
    for left, right in ((3, 2), (0, 5), (5, 0)):
        pad = torch.nn.functional.pad
        ids = [pad(rows_BL, (left, right), value=7) for rows_BL in (noisy_BL, clean_BL)]
        mask_BL = pad(torch.ones_like(clean_BL), (left, right))
        for one_forward in (False, True):
            found_BLD = hidden_of(model, *ids, mask_BL, one_forward=one_forward)
            assert torch.isfinite(found_BLD).all()
            torch.testing.assert_close(found_BLD[:, left : left + LENGTH], alone_BLD, rtol=0, atol=1e-4)


@pytest.mark.parametrize("padded", [False, True])
@torch.no_grad()
def test_flex_attention_is_given_the_same_mask_in_one_forward_for_every_reading_and_from_a_cache(padded):
    (clean_BL, noisy_BL), found = text(), []
    noisy_RL = torch.stack([noisy_BL, noisy_BL.roll(1, 0).where(noisy_BL != MASK, MASK)], 1).flatten(0, 1)
    mask_BL = torch.ones_like(clean_BL)
    if padded:
        mask_BL[0, :3] = mask_BL[1, -2:] = 0
    for kernel in ("sdpa", "flex_attention"):
        model = network("llama", "sdpa").eval()
        model.set_attn_implementation(kernel)
        given = mask_BL if padded else None
        with torch.compiler.set_stance("force_eager"):  # which is the same kernel's mathematics
            read = model(noisy_RL, given, noisy_RL.masked_fill(noisy_RL != MASK, -100).clamp(max=5), clean_ids=clean_BL)
            cache = DynamicCache()
            model(clean_BL[:, : 2 * SIZE], mask_BL[:, : 2 * SIZE] if padded else None, past_key_values=cache)
            last = model(
                noisy_BL[:, 2 * SIZE : 3 * SIZE], mask_BL[:, : 3 * SIZE] if padded else None, past_key_values=cache
            )
        found.append((read.token_nll, last.logits[:, :, :MASK][noisy_BL[:, 2 * SIZE : 3 * SIZE] == MASK]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_block_at_a_time_with_and_without_a_cache(family, kernel):
    model, (clean_BL, noisy_BL) = network(family, kernel).eval(), text()
    expected = model(noisy_BL, labels=clean_BL.masked_fill(noisy_BL != MASK, -100), clean_ids=clean_BL).token_nll.split(
        ((noisy_BL == MASK).sum(-1)).tolist()
    )
    cache = DynamicCache()
    found: list[list[torch.Tensor]] = [[] for _ in clean_BL]
    for first in range(0, LENGTH, SIZE):
        part = slice(first, min(first + SIZE, LENGTH))
        width = part.stop - part.start
        plain = model(torch.cat([clean_BL[:, :first], noisy_BL[:, part]], 1)).logits[:, first:]
        cached = model(noisy_BL[:, part], past_key_values=cache).logits
        torch.testing.assert_close(cached, plain, rtol=0, atol=1e-4)
        cache.crop(-width)
        model(clean_BL[:, part], past_key_values=cache)  # read once more, clean
        nll_BL = -cached.log_softmax(-1).gather(-1, clean_BL[:, part, None]).squeeze(-1)
        for row, hidden_L in enumerate(noisy_BL[:, part] == MASK):
            found[row].append(nll_BL[row][hidden_L])
    for row, nll_N in enumerate(expected):
        torch.testing.assert_close(torch.cat(found[row]), nll_N, rtol=0, atol=1e-4)


@pytest.mark.parametrize("one_forward", [False, True])
@torch.no_grad()
def test_blocks_that_begin_at_an_answer_are_those_of_a_prompt_and_those_of_an_answer(one_forward):
    model, (clean_BL, noisy_BL) = network("llama", "sdpa"), text()
    starts_B = torch.tensor([6, 4, 0])  # blocks of 4 + 2 and 4 + 4, 4 + 4 + 4 + 2, and as without
    found_BLD = hidden_of(model, noisy_BL, clean_BL, answer_starts=starts_B, one_forward=one_forward)
    # The rows without an answer that begins within a block.
    plain_BLD = hidden_of(model, noisy_BL, clean_BL)
    torch.testing.assert_close(found_BLD[1:], plain_BLD[1:], rtol=0, atol=1e-4)
    assert not torch.allclose(found_BLD[0, 4:], plain_BLD[0, 4:], atol=1e-2)
    for border, end in ((0, 4), (4, 6), (6, 10), (10, 14)):  # each as the last, whole, part of a text that ends there
        ids_1L = torch.cat([clean_BL[:1, :border], noisy_BL[:1, border:end]], 1)
        numbers_L = torch.tensor([0] * 4 + [1] * 2 + [2] * 4 + [3] * 4)[:end]
        seen = (numbers_L[None] <= numbers_L[:, None])[None, None]
        alone = model.backbone(input_ids=ids_1L, attention_mask=seen, use_cache=False).last_hidden_state
        torch.testing.assert_close(found_BLD[:1, border:end], alone[:, border:], rtol=0, atol=1e-4)


def causal_twin(model: MaskedDiffusionForMaskedLM) -> LlamaForCausalLM:
    """The causal LM with the weights of a denoiser."""
    config = copy.deepcopy(model.config.backbone_config)
    config.is_causal = True
    twin = LlamaForCausalLM(config).eval()
    twin.model.load_state_dict(model.backbone.state_dict())
    twin.lm_head.load_state_dict(model.lm_head.state_dict())
    return twin


@torch.no_grad()
def test_one_token_a_block_read_from_the_position_before_is_the_causal_model():
    model = network("llama", "sdpa", 1, shift_logits=True).eval()
    clean_BL, _ = text()
    twin, labels_BL = causal_twin(model), clean_BL.clone()
    labels_BL[:, 0] = -100
    noisy_BL = clean_BL.masked_fill(labels_BL != -100, MASK)
    log_p_BLV = twin(clean_BL).logits.masked_fill(torch.arange(64) == MASK, float("-inf")).log_softmax(-1)
    expected_BL = -log_p_BLV[:, :-1].gather(-1, clean_BL[:, 1:, None]).squeeze(-1)
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
            model.train()
        found_N = model(noisy_BL, labels=labels_BL, clean_ids=clean_BL).token_nll
        torch.testing.assert_close(found_N, expected_BL.flatten(), rtol=0, atol=1e-4)
    model.eval()
    ids = clean_BL[:, :3]
    plain = twin.generate(ids, max_new_tokens=9, do_sample=False, suppress_tokens=[MASK], pad_token_id=0)
    assert torch.equal(model.generate(ids, max_new_tokens=9, do_sample=False), plain)


@pytest.mark.parametrize("size", [1, 3, 4, 14])
@torch.no_grad()
def test_from_the_position_before_all_blocks_at_once_are_one_after_the_other(size):
    model = network("llama", "sdpa", size, shift_logits=True).eval()
    clean_BL, noisy_BL = text()
    clean_BL, noisy_BL = torch.nn.functional.pad(clean_BL, (2, 0)), torch.nn.functional.pad(noisy_BL, (2, 0))
    mask_BL = torch.nn.functional.pad(torch.ones_like(clean_BL[:, 2:]), (2, 0))
    labels_BL = clean_BL.masked_fill(noisy_BL != MASK, -100)
    together = model(noisy_BL, mask_BL, labels=labels_BL, clean_ids=clean_BL).token_nll
    found = torch.full(clean_BL.shape, float("nan"))
    for first in range(0, LENGTH, size):
        part = slice(2 + first, 2 + min(first + size, LENGTH))
        ids_BL = torch.cat([clean_BL[:, : part.start], noisy_BL[:, part]], 1)
        log_p_BLV = model(ids_BL, mask_BL[:, : part.stop]).logits.log_softmax(-1)
        found[:, part] = -log_p_BLV[:, part].gather(-1, clean_BL[:, part, None]).squeeze(-1)
    torch.testing.assert_close(together, found[labels_BL != -100], rtol=0, atol=1e-4)


@torch.no_grad()
def test_what_was_read_before_says_nothing_of_the_first_token_after_it():
    model, (clean_BL, _) = network("llama", "sdpa", 4, shift_logits=True).eval(), text()
    cache = DynamicCache()
    model(clean_BL[:, :4], past_key_values=cache)
    masks = torch.full_like(clean_BL[:, :4], MASK)
    logits = model(masks, past_key_values=cache).logits
    assert logits[:, 0].isnan().all()
    assert not logits[:, 1:].isnan().any()


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_checkpointed_or_not_loss_and_gradient_are_the_same(kernel):
    model, (clean_BL, noisy_BL) = network("llama", kernel), text()
    labels_BL = clean_BL.masked_fill(noisy_BL != MASK, -100)
    found = []
    for checkpointed in (False, True):
        model.zero_grad()
        if checkpointed:
            model.gradient_checkpointing_enable()
        loss = model(noisy_BL, labels=labels_BL, clean_ids=clean_BL).loss
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)


def test_blocks_as_long_as_the_text_are_the_model_without_blocks():
    model, (clean_BL, noisy_BL) = network("llama", "sdpa", LENGTH), text()
    plain = network("llama", "sdpa", None)
    plain.load_state_dict(model.state_dict())
    labels_BL = clean_BL.masked_fill(noisy_BL != MASK, -100)
    found = []
    for each, kwargs in ((model, {"clean_ids": clean_BL}), (plain, {})):
        output = each(noisy_BL, labels=labels_BL, **kwargs)
        output.loss.backward()
        found.append((output.loss.detach(), output.token_nll, [p.grad for p in each.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-6)


def test_the_size_of_blocks_is_saved_with_the_model(tmp_path):
    model = network("llama", "sdpa")
    model.save_pretrained(tmp_path)
    loaded = MaskedDiffusionForMaskedLM.from_pretrained(tmp_path)
    assert (loaded.config.diffusion_block_size, loaded.config.diffusion_block_start) == (SIZE, "text")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"diffusion_block_size": 0}, "must be a positive integer, got 0"),
        ({"diffusion_block_size": True}, "must be a positive integer, got True"),
        ({"diffusion_block_start": "prompt"}, "must be text or answer, got 'prompt'"),
    ],
)
def test_blocks_that_do_not_exist_are_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        MaskedDiffusionConfig(backbone_config={"model_type": "llama", "vocab_size": 64}, **fields)


def test_what_would_be_another_number_is_refused():
    model, (clean_BL, noisy_BL) = network("llama", "sdpa"), text()
    labels_BL = clean_BL.masked_fill(noisy_BL != MASK, -100)
    with pytest.raises(ValueError, match="labels of a model with blocks of 4 tokens need clean_ids"):
        model(noisy_BL, labels=labels_BL)
    with pytest.raises(ValueError, match="row 0 has masks in blocks 0 to 2 of 4 tokens"):
        model(noisy_BL)
    with pytest.raises(ValueError, match="clean_ids are for a model with blocks"):
        network("llama", "sdpa", None)(noisy_BL, labels=labels_BL, clean_ids=clean_BL)
    with pytest.raises(ValueError, match="blocks begin at the text, so answer_starts mean nothing: leave them out"):
        model(clean_BL, answer_starts=torch.tensor([1]))
    model.config.diffusion_block_start = "answer"
    with pytest.raises(ValueError, match="blocks begin at the answer, so answer_starts say where that is: give them"):
        model(clean_BL)
    model.config.diffusion_block_start = "text"
    model.backbone.config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="kernel 'flash_attention_2' takes no mask of blocks or documents; load"):
        model(noisy_BL, labels=labels_BL, clean_ids=clean_BL)


def test_the_picture_of_the_mask_is_what_the_code_makes():
    blocks_1L = torch.arange(6)[None] // 2
    rows = ["            noisy   clean"]
    for number, seen_S in enumerate(noisy_beside_clean(blocks_1L, None)[0].tolist()):
        cells = "".join("#" if seen else "." for seen in seen_S)
        rows.append(f"{'noisy' if number < 6 else 'clean'}  {number % 6}    {cells[:6]}  {cells[6:]}")
    assert "\n".join(rows) in PAGE.read_text()
