"""What holds for every sampler, whatever the holes, the steps, the padding and the batch."""

from __future__ import annotations

import itertools

import pytest
import torch
from exact_models import NeighbourModel
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_difflm.models.masked_diffusion.generation_streamers import RecordingStreamer
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS
from hf_difflm.models.masked_diffusion.samplers import build_sampler

VOCABULARY, MASK, EOS, PAD = 9, 9, 1, 0
EVERY_SAMPLER = [
    *((name, {}) for name in OWN_SAMPLERS),
    ("remdm", {"eta": 0.3}),
    ("maskgit_plus", {"choice_temperature": 4.0, "reveal_schedule": "cosine"}),
    ("entropy", {"reveal_schedule": [1.0, 0.0, 3.0]}),
    ("random_order", {"order_seed": 5, "reveal_schedule": "cosine"}),
    ("entropy_bounded", {"bound": 3.0}),
    ("confidence_threshold", {"threshold": 0.3}),
    *(("uncertainty", {"measure": measure}) for measure in ("max_probability", "margin", "variance")),
    ("uncertainty", {"order": "uncertain_first"}),
    ("uncertainty", {"budget": 1.5}),
    ("uncertainty", {"budget": 1.5, "order": "uncertain_first"}),
]


@st.composite
def situations(draw):
    """Prompts with holes, padded on the left, and how they are filled."""
    rows = draw(st.integers(1, 4))
    new_tokens = draw(st.integers(0, 6))
    token = st.integers(0, MASK) if draw(st.booleans()) else st.integers(0, MASK - 1)
    prompts = draw(st.lists(st.lists(token, min_size=1, max_size=5), min_size=rows, max_size=rows))
    if new_tokens == 0:
        prompts = [[*prompt, MASK] for prompt in prompts]
    block_length = draw(st.sampled_from([None, 1, 2, 3]))
    steps = draw(st.integers(-(-new_tokens // (block_length or 9)) or 1, 2 * (new_tokens + 5)))
    return {
        "prompts": prompts,
        "seeds": draw(st.lists(st.integers(0, 2**40), min_size=rows, max_size=rows)),
        "sampler": draw(st.sampled_from(EVERY_SAMPLER)),
        "temperature": draw(st.sampled_from([0, 0.5, 1.0])),
        "settings": {"max_new_tokens": new_tokens, "max_denoising_steps": steps, "block_length": block_length},
    }


def padded(prompts: list[list[int]]) -> dict[str, torch.Tensor]:
    width = max(len(prompt) for prompt in prompts)
    ids = [[PAD] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def write(case, model=None, rows=None, **more):
    """Generate for some rows of a case."""
    rows = range(len(case["prompts"])) if rows is None else rows
    name, parameters = case["sampler"]
    return (model or NeighbourModel()).generate(
        **padded([case["prompts"][row] for row in rows]) | more,
        seed=[case["seeds"][row] for row in rows],
        sampler=name,
        sampler_config=parameters,
        temperature=case["temperature"],
        return_dict_in_generate=True,
        **case["settings"],
    )


@settings(max_examples=200, derandomize=True)
@given(situations())
def test_all_holes_are_filled_nothing_else_is_touched_and_steps_are_kept(case):
    model, streamer = NeighbourModel(), RecordingStreamer()
    output = write(case, model, streamer=streamer)
    given_ids = padded(case["prompts"])["input_ids"]
    width = given_ids.shape[1]
    ids = output.sequences
    assert ids.shape == (len(given_ids), width + case["settings"]["max_new_tokens"])
    assert not (ids == MASK).any()
    fixed = given_ids != MASK
    assert torch.equal(ids[:, :width][fixed], given_ids[fixed])
    assert model.forwards <= case["settings"]["max_denoising_steps"]
    holes = (ids.shape[1] - width) + (given_ids == MASK).sum(-1)
    forwards = holes / output.tokens_per_forward
    assert (forwards.round() <= case["settings"]["max_denoising_steps"])[holes > 0].all()
    revealed = output.reveal_steps
    assert torch.equal(revealed[:, :width] == 0, fixed)
    assert (revealed.amax(-1) <= case["settings"]["max_denoising_steps"]).all()
    # Drafts: from the first hole on, ending in the text; only remdm rewrites what is revealed.
    assert torch.equal(streamer.drafts[-1], ids[:, streamer.prompt.shape[1] :])
    assert streamer.ended
    if case["sampler"][0] != "remdm":
        for before, after in itertools.pairwise(streamer.drafts):
            assert torch.equal(before[before != MASK], after[before != MASK])
            assert (after != MASK).sum() > (before != MASK).sum()


@settings(max_examples=150, derandomize=True)
@given(situations())
def test_a_row_alone_is_the_same_row_in_a_batch(case):
    together = write(case)
    for row, prompt in enumerate(case["prompts"]):
        if MASK not in prompt and not case["settings"]["max_new_tokens"]:
            continue
        alone = write(case, rows=[row])
        length = alone.sequences.shape[1]
        assert torch.equal(together.sequences[row, -length:], alone.sequences[0])
        assert torch.equal(together.reveal_steps[row, -length:], alone.reveal_steps[0])


@settings(max_examples=100, derandomize=True)
@given(situations())
def test_holes_are_filled_the_same_with_padding_on_either_side(case):
    case["settings"] |= {"max_new_tokens": 0, "block_length": None}
    case["prompts"] = [[*prompt, MASK] for prompt in case["prompts"]]
    left = padded(case["prompts"])
    width = left["input_ids"].shape[1]
    ids = [[*prompt, *[PAD] * (width - len(prompt))] for prompt in case["prompts"]]
    right = {"input_ids": torch.tensor(ids), "attention_mask": left["attention_mask"].flip(-1)}
    expected, found = write(case), write(case, **right)
    for row, prompt in enumerate(case["prompts"]):
        assert torch.equal(found.sequences[row, : len(prompt)], expected.sequences[row, -len(prompt) :])
        assert found.sequences[row, len(prompt) :].eq(PAD).all()


@settings(max_examples=100, derandomize=True)
@given(situations())
def test_stopping_at_the_end_changes_nothing_before_it_and_costs_no_forward(case):
    models = NeighbourModel(), NeighbourModel()
    free, ended = write(case, models[0]), write(case, models[1], eos_token_id=EOS, pad_token_id=PAD)
    assert models[1].forwards <= models[0].forwards
    assert models[1].asked <= models[0].asked
    width = max(len(prompt) for prompt in case["prompts"])
    expected = free.sequences.clone()
    for row in expected[:, width:]:
        at = (row == EOS).nonzero()
        if len(at):
            row[int(at[0]) + 1 :] = PAD
    assert torch.equal(ended.sequences, expected)


@settings(max_examples=50, derandomize=True)
@given(situations(), st.sampled_from([None, 2.0]))
def test_static_shapes_change_nothing_but_the_shapes(case, guidance_scale):
    models, shapes = (NeighbourModel(), NeighbourModel()), set()
    more = {"eos_token_id": EOS, "pad_token_id": PAD, "guidance_scale": guidance_scale, "output_history": True}
    plain = write(case, models[0], **more)
    models[1].watch = lambda ids_BL, positions: shapes.add((tuple(ids_BL.shape), len(positions)))
    static = write(case, models[1], static_shapes=True, **more)
    assert torch.equal(static.sequences, plain.sequences)
    assert torch.equal(static.reveal_steps, plain.reveal_steps)
    assert torch.equal(static.tokens_per_forward, plain.tokens_per_forward)
    assert len(static.history) == len(plain.history)
    assert models[1].forwards == models[0].forwards
    assert len({ids for ids, _ in shapes}) <= 1
    assert len(shapes) <= 4


@settings(max_examples=60, derandomize=True)
@given(situations())
def test_a_sampler_saved_and_loaded_is_the_same(case):
    name, parameters = case["sampler"]
    sampler = build_sampler(name, parameters)
    saved = sampler.to_dict()
    assert saved["sampler"] == name
    assert build_sampler(saved["sampler"], saved) == sampler


def test_a_finished_row_leaves_the_batch():
    model = NeighbourModel(sharpness=0.0)
    model.table[:, :, EOS] += 0.2  # an end soon, somewhere
    case = {
        "prompts": [[2], [3], [4]],
        "seeds": [1, 2, 3],
        "sampler": ("first_hitting", {}),
        "temperature": 1.0,
        "settings": {"max_new_tokens": 40, "max_denoising_steps": 40},
    }
    free = write(case, model)
    asked, model.asked = model.asked, 0
    ended = write(case, model, eos_token_id=EOS, pad_token_id=PAD)
    assert asked == 3 * 40
    assert model.asked < asked
    assert (ended.reveal_steps == -1).any()
    kept = ended.reveal_steps > 0
    assert torch.equal(ended.reveal_steps[kept], free.reveal_steps[kept])


@pytest.mark.parametrize("sampler", ["ddpm_cache", "first_hitting"])
def test_samplers_that_know_their_positions_ask_for_one_row_of_the_head_a_token(sampler):
    model = NeighbourModel()
    model.generate(torch.full((3, 2), 2), max_new_tokens=12, max_denoising_steps=50, sampler=sampler, seed=0)
    assert model.asked == 3 * 12
