"""Texts of models with diffusion blocks: the right law, the same with and without a cache, whatever stands beside them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from exact_models import TableModel

from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS

VOCABULARY, MASK, BOS, EOS, PAD = 24, 23, 1, 2, 0
LENGTH, DRAWS = 4, 10_000


class TableOfBlocks(TableModel):
    """The exact denoiser of a joint distribution, which sees no block after the one that is filled."""

    def __init__(self, scores: torch.Tensor, size: int) -> None:
        super().__init__(scores)
        self.config.diffusion_block_size, self.config.diffusion_block_start = size, "text"
        self.config.shift_logits = False

    def log_probabilities(self, ids_NL, column_N, attention_NL):
        later = LENGTH - ids_NL.shape[1]
        return super().log_probabilities(F.pad(ids_NL, (0, later), value=self.vocabulary), column_N, attention_NL)


def chi_squared_p(joint: np.ndarray, model: TableOfBlocks, **settings) -> float:
    empty = torch.zeros((DRAWS, 0), dtype=torch.long)
    ids = model.generate(empty, max_new_tokens=LENGTH, seed=0, use_cache=False, **settings)
    cell = (ids * 2 ** torch.arange(LENGTH).flip(0)).sum(-1)
    observed = torch.bincount(cell, minlength=joint.size).double().numpy()
    expected = joint.flatten() * DRAWS
    statistic = ((observed - expected) ** 2 / expected).sum()
    half_freedom = torch.tensor((len(expected) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(half_freedom, torch.tensor(statistic / 2, dtype=torch.float64)))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("sampler", "steps"), [("first_hitting", 4), ("ddpm_cache", 500), ("entropy", 8)])
def test_one_token_a_step_is_drawn_from_the_joint_distribution(small_joint, exact_denoiser, size, sampler, steps):
    joint = small_joint(LENGTH, 2, 0)
    model = TableOfBlocks(exact_denoiser(joint).scores, size)
    assert chi_squared_p(joint, model, sampler=sampler, max_denoising_steps=steps) > 1e-4


def test_a_block_at_once_is_told_apart(small_joint, exact_denoiser):
    joint = small_joint(LENGTH, 2, 0)
    model = TableOfBlocks(exact_denoiser(joint).scores, 2)
    assert chi_squared_p(joint, model, sampler="first_hitting", max_denoising_steps=2) < 1e-4


def network(
    size: int | None = 4, kernel: str = "sdpa", eos: list[int] | None = None, start: str = "text", **fields
) -> MaskedDiffusionForMaskedLM:
    """In float64, where no draw falls between the roundings of two ways to compute."""
    torch.manual_seed(0)
    config = MaskedDiffusionConfig(
        backbone_config={
            "model_type": "llama",
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 64,
            "pad_token_id": PAD,
        },
        mask_token_id=MASK,
        bos_token_id=BOS,
        eos_token_id=eos,
        pad_token_id=PAD,
        diffusion_block_size=size,
        diffusion_block_start=start,
        **fields,
    )
    config._attn_implementation = kernel
    model = MaskedDiffusionForMaskedLM(config).eval().double()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=2 * parameter.shape[-1] ** -0.5)
    return model


def prompts() -> tuple[torch.Tensor, torch.Tensor]:
    """Four of 1, 4, 6 and 11 tokens: their texts begin within a block, at its end, and in other blocks."""
    lengths = (1, 4, 6, 11)
    ids = torch.randint(3, MASK, (4, 11), generator=torch.Generator().manual_seed(1))
    attention = torch.tensor([[0] * (11 - length) + [1] * length for length in lengths])
    return ids.masked_fill(attention == 0, PAD), attention


@pytest.mark.parametrize(("kernel", "start"), [("sdpa", "text"), ("eager", "text"), ("sdpa", "answer")])
@pytest.mark.parametrize("sampler", OWN_SAMPLERS)
def test_cached_and_uncached_are_the_same_texts(sampler, kernel, start):
    model, (ids, attention) = network(kernel=kernel, start=start), prompts()
    settings = {"max_new_tokens": 11, "max_denoising_steps": 12, "sampler": sampler, "seed": 3}
    found = [
        model.generate(ids, attention_mask=attention, use_cache=cached, return_dict_in_generate=True, **settings)
        for cached in (True, False)
    ]
    assert torch.equal(found[0].sequences, found[1].sequences)
    assert torch.equal(found[0].reveal_steps, found[1].reveal_steps)
    assert torch.equal(found[0].tokens_per_forward, found[1].tokens_per_forward)
    assert MASK not in found[0].sequences
    assert torch.equal(found[0].sequences[:, :11], ids)


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm_cache", "first_hitting", "remdm", "entropy", "confidence_threshold"])
@pytest.mark.parametrize("eos", [None, [3, 6, 7, 10, 17]])
@pytest.mark.parametrize("start", ["text", "answer"])
def test_a_text_does_not_depend_on_the_rows_beside_it(sampler, eos, start):
    model, (ids, attention) = network(eos=eos, start=start), prompts()
    settings = {"max_new_tokens": 10, "max_denoising_steps": 12, "sampler": sampler, "return_dict_in_generate": True}
    together = model.generate(ids, attention_mask=attention, seed=[5, 6, 7, 8], **settings)
    for row, (ids_P, attention_P) in enumerate(zip(ids, attention, strict=True)):
        alone = model.generate(ids_P[attention_P == 1][None], seed=[5 + row], **settings)
        assert torch.equal(together.sequences[row, 11:], alone.sequences[0, -10:])
        assert torch.equal(together.tokens_per_forward[row], alone.tokens_per_forward[0])
    if eos is not None:
        assert (together.sequences[:, 11:] == PAD).any()  # some have ended


@pytest.mark.parametrize("eos", [None, [3, 6, 7, 10, 17]])
@pytest.mark.parametrize(
    ("sampler", "settings"),
    [
        ("ddpm_cache", {}),
        ("ddpm_cache", {"start": "answer"}),
        ("remdm", {"kernel": "eager"}),
        ("entropy", {"shift_logits": True}),
        ("confidence_threshold", {}),
    ],
)
def test_guidance_and_static_shapes_are_the_same_cached_and_not(sampler, settings, eos):
    model, (ids, attention) = network(eos=eos, **settings), prompts()
    asked = {"max_new_tokens": 11, "max_denoising_steps": 12, "sampler": sampler, "seed": 3}
    ways = [{}, {"use_cache": False}, {"static_shapes": True}]
    for guidance in ({"guidance_scale": 2.5}, {}):
        cached, *others = (
            model.generate(ids, attention_mask=attention, return_dict_in_generate=True, **asked, **guidance, **way)
            for way in ways
        )
        for other in others:
            assert torch.equal(cached.sequences, other.sequences)
            assert torch.equal(cached.tokens_per_forward, other.tokens_per_forward)
    guided = model.generate(ids, attention_mask=attention, guidance_scale=2.5, **asked)
    assert not torch.equal(guided, model.generate(ids, attention_mask=attention, **asked))


@pytest.mark.parametrize("start", ["text", "answer"])
def test_guidance_by_hand(start):
    """The likeliest token of log p(x | masks) + scale (log p(x | prompt) - log p(x | masks)), one at a time."""
    model, scale, prompt = network(start=start), 2.5, F.pad(prompts()[0][3:, :5], (1, 0), value=BOS)
    found = model.generate(
        prompt,
        max_new_tokens=6,
        max_denoising_steps=6,
        sampler="left_to_right",
        do_sample=False,
        guidance_scale=scale,
    )
    blocks_L = torch.tensor(
        {"text": [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], "answer": [0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3]}[start]
    )
    seen_LL = blocks_L[None] <= blocks_L[:, None]
    text, log_p = F.pad(prompt, (0, 6), value=MASK), {}
    for place in range(6, 12):
        for hidden in (False, True):
            read = text.clone()
            if hidden:
                read[:, 1:6] = MASK  # not the BOS
            states = model.backbone(input_ids=read, attention_mask=seen_LL[None, None], use_cache=False)
            log_p[hidden] = model._head(states.last_hidden_state[0, place : place + 1])[0].log_softmax(-1)
        score_V = log_p[True] + scale * (log_p[False] - log_p[True])
        score_V[MASK] = -torch.inf
        text[0, place] = score_V.argmax()
    assert torch.equal(found, text)


def test_guidance_of_one_block_is_that_of_a_model_without_blocks():
    blocks, plain = network(size=64), network(None)
    ids, attention = prompts()
    asked = {"attention_mask": attention, "max_new_tokens": 9, "guidance_scale": 1.7, "seed": 1}
    assert torch.equal(blocks.generate(ids, **asked), plain.generate(ids, **asked))


def test_rows_end_in_the_first_block_of_a_text():
    """Nothing stands before it, so that a cache has been made and has nothing in it."""
    model = network(size=8, eos=[3, 7, 9])
    asked = {"max_new_tokens": 12, "max_denoising_steps": 12, "sampler": "first_hitting"}
    together = model.generate(torch.full((6, 1), BOS), seed=list(range(6)), **asked)
    alone = [model.generate(torch.full((1, 1), BOS), seed=[row], **asked) for row in range(6)]
    assert torch.equal(together, torch.cat(alone))
    assert 0 < int((together[:, -1] == PAD).sum()) < 6


def test_one_token_a_block_is_an_autoregressive_model():
    model, (ids, attention) = network(size=1), prompts()
    found = model.generate(ids, attention_mask=attention, max_new_tokens=9, do_sample=False)
    for row, (ids_P, attention_P) in enumerate(zip(ids, attention, strict=True)):
        text = ids_P[attention_P == 1][None]
        for _ in range(9):
            text = torch.cat([text, model(F.pad(text, (0, 1), value=MASK)).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(text[0, -9:], found[row, -9:])


@pytest.mark.parametrize("sampler", ["ddpm_cache", "remdm", "entropy", "confidence_threshold"])
@pytest.mark.parametrize(("size", "start"), [(1, "text"), (4, "text"), (4, "answer")])
def test_where_tokens_are_predicted_from_the_position_before_the_cache_says_the_same(sampler, size, start):
    model, (ids, attention) = network(size=size, start=start, shift_logits=True), prompts()
    settings = {
        "attention_mask": attention,
        "max_new_tokens": 11,
        "max_denoising_steps": 12,
        "sampler": sampler,
        "seed": 3,
    }
    found = [model.generate(ids, use_cache=cached, **settings) for cached in (True, False)]
    assert torch.equal(*found)
    for row, (ids_P, attention_P) in enumerate(zip(ids, attention, strict=True)):
        prompt = ids_P[attention_P == 1][None]
        if row == 0:  # its seed is its own there and here
            alone = model.generate(prompt, **settings | {"attention_mask": None})
            assert torch.equal(alone[0, -11:], found[0][row, -11:])


def test_a_forward_reads_the_current_block_and_what_is_new_before_it():
    model, widths = network(), []
    model.register_forward_pre_hook(lambda _m, args, kwargs: widths.append(args[0].shape[1]), with_kwargs=True)
    ids = prompts()[0][3:]  # 11 tokens: two blocks, and three tokens of a third
    found = model.generate(
        ids, max_new_tokens=9, max_denoising_steps=9, sampler="first_hitting", return_dict_in_generate=True
    )
    # The third block has one hole; two more blocks have four, and are read beside the block before at their first step.
    assert widths == [12, 8, 4, 4, 4, 8, 4, 4, 4]
    assert float(found.tokens_per_forward) == 1
    widths.clear()
    model.generate(ids, max_new_tokens=9, max_denoising_steps=9, sampler="first_hitting", use_cache=False)
    assert widths == [12, 16, 16, 16, 16, 20, 20, 20, 20]


def test_blocks_that_begin_at_the_answer_end_on_one_column_and_go_together():
    model, widths = network(start="answer"), []
    model.register_forward_pre_hook(lambda _m, args, kwargs: widths.append(tuple(args[0].shape)), with_kwargs=True)
    ids, attention = prompts()
    model.generate(
        ids, attention_mask=attention, max_new_tokens=8, max_denoising_steps=8, sampler="first_hitting", seed=0
    )
    assert widths == [(4, 15), *[(4, 4)] * 3, (4, 8), *[(4, 4)] * 3]


def test_a_block_at_the_answer_is_predicted_from_the_whole_prompt_and_itself():
    """By hand, for a prompt of 6 and blocks of 4: places 0-3, 4-5, then 6-9 and 10-12."""
    model, ids = network(start="answer"), prompts()[0][3:, :6]
    text = model.generate(ids, max_new_tokens=7, do_sample=False, max_denoising_steps=7, sampler="entropy")
    canvas = F.pad(ids, (0, 7), value=MASK)
    blocks_1L = torch.tensor([[0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3]])
    seen = (blocks_1L[:, None] <= blocks_1L[..., None])[:, None]
    for block in (range(6, 10), range(10, 13)):
        for _ in block:
            hidden = model.backbone(input_ids=canvas, attention_mask=seen, use_cache=False).last_hidden_state
            log_p_LV = model._head(hidden[0]).log_softmax(-1)
            entropy_L = -torch.special.xlogy(log_p_LV.exp(), log_p_LV.exp()).sum(-1)
            left = [place for place in block if canvas[0, place] == MASK]
            place = min(left, key=lambda one: float(entropy_L[one]))
            canvas[0, place] = log_p_LV[place].argmax()
    assert torch.equal(canvas, text)


def test_holes_of_a_prompt_before_an_answer_are_refused():
    ids = prompts()[0][3:].clone()
    ids[0, 10] = MASK
    for new in (0, 4):
        with pytest.raises(
            ValueError, match="holes in a prompt are not there yet for a model whose diffusion blocks begin"
        ):
            network(start="answer").generate(ids, max_new_tokens=new)


def test_holes_are_filled_where_no_text_follows_in_a_later_block():
    model, (ids, _) = network(), prompts()
    holed = ids[3:].clone()
    holed[0, 8] = MASK
    filled = model.generate(holed, max_new_tokens=0, seed=0)
    assert MASK not in filled
    assert torch.equal(filled[holed != MASK], holed[holed != MASK])
    right = F.pad(holed, (0, 5), value=PAD)
    mask = F.pad(torch.ones_like(holed), (0, 5))
    assert torch.equal(model.generate(right, attention_mask=mask, max_new_tokens=0, seed=0)[:, :11], filled)
    holed[0, 3] = MASK
    with pytest.raises(
        ValueError, match="the token at position 4 of prompt 0 stands in a later block of 4 tokens than a hole"
    ):
        model.generate(holed, max_new_tokens=0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"block_length": 8}, "block_length is 8, but the model has diffusion blocks of 4 tokens"),
        ({"static_shapes": True, "use_cache": True}, "static_shapes does not go with use_cache"),
        ({"max_denoising_steps": 2}, "max_denoising_steps 2 are fewer than the 3 blocks of 4 tokens"),
        ({"max_new_tokens": 80}, "longer than the 64 positions"),
    ],
)
def test_what_does_not_go_with_blocks_is_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        network().generate(torch.tensor([[BOS]]), **{"max_new_tokens": 11, **settings})


def test_a_model_without_blocks_has_no_cache():
    with pytest.raises(ValueError, match="use_cache is for models with diffusion blocks"):
        network(None).generate(torch.tensor([[BOS]]), max_new_tokens=4, use_cache=True)
