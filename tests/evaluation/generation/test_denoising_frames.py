"""Frames of a generation: what they say of each token is what the model did."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from hf_difflm.data import load_tokenizer
from hf_difflm.evaluation.generation.denoising_frames import (
    GIVEN,
    HIDDEN,
    MASK,
    MASKED,
    NEW,
    SETTLED,
    FrameStreamer,
    TokenText,
)
from hf_difflm.evaluation.generation.denoising_view import DenoisingView
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import GenerationStart, generate_samples
from hf_difflm.models.masked_diffusion.sampler_names import OWN_SAMPLERS

BYTES = load_tokenizer("bytes")
TEXT = TokenText(BYTES)
HOSTILE = "a\x1b[2J\x9b31m\u202e<script>\t\r\x00b"


def watched(model, prompts, **options):
    """The texts, and the frames of their generation."""
    frames = []
    samples = generate_samples(
        model,
        BYTES,
        prompts,
        GenerationOptions(**options),
        watch=lambda start: FrameStreamer(start, frames.append),
    )
    return samples, frames


def shown(frame, row):
    return "".join(text for text, _ in TEXT.runs(frame.ids_BL[row], frame.state_BL[row]))


@pytest.mark.parametrize("sampler", OWN_SAMPLERS)
def test_frames_of_a_denoiser_begin_with_masks_say_what_changed_and_end_with_the_text(tiny_denoiser, sampler):
    samples, frames = watched(
        tiny_denoiser(), ["abc", "a longer one"], max_new_tokens=12, max_denoising_steps=6, sampler=sampler
    )
    first, *later = frames
    assert [shown(first, row) for row in (0, 1)] == ["abc" + 12 * MASK, "a longer one" + 12 * MASK]
    assert (first.state_BL[0] == HIDDEN).sum() == len("a longer one") - len("abc")
    before = first
    for frame in later:
        assert frame.number == before.number + 1
        changed_BL = frame.ids_BL != before.ids_BL
        assert ((frame.state_BL == MASKED) == (frame.ids_BL == BYTES.mask_token_id)).all()
        if not frame.final:
            assert ((frame.state_BL == NEW) == (changed_BL & (frame.state_BL != MASKED))).all()
        assert ((frame.state_BL == GIVEN) == (first.state_BL == GIVEN)).all()
        before = frame
    assert [frame.final for frame in frames] == [False] * (len(frames) - 1) + [True]
    assert [shown(frames[-1], row) for row in (0, 1)] == [sample.prompt + sample.text for sample in samples]


def test_progress_counts_what_is_written_of_holes_and_new_tokens(tiny_denoiser):
    _, frames = watched(tiny_denoiser(), ["a[MASK]{3}b[MASK]"], max_new_tokens=5, sampler="first_hitting")
    assert [frame.progress(0) for frame in frames] == [*((done, 9) for done in range(10)), (9, 9)]


def test_prompts_with_holes_and_without_are_watched_one_group_after_the_other(tiny_denoiser):
    model = tiny_denoiser()
    model.generation_config.max_new_tokens = 5
    samples, frames = watched(model, ["x", "a[MASK]b", "y"], max_denoising_steps=4)
    assert [frame.start.rows for frame in frames if frame.number == 0] == [(0, 2), (1,)]
    assert shown(frames[-1], 0) == samples[1].text


def test_a_causal_lm_has_a_frame_for_each_token_whose_newest_is_told(tiny_causal):
    samples, frames = watched(tiny_causal(), ["ab", "a longer one"], max_new_tokens=6)
    assert len(frames) == 8
    for count, frame in enumerate(frames[:-1]):
        assert (frame.state_BL == NEW).sum(-1).tolist() == [min(count, 1)] * 2
        assert (frame.state_BL == SETTLED).sum(-1).tolist() == [max(count - 1, 0)] * 2
        assert [frame.progress(row) for row in (0, 1)] == [(count, 6)] * 2
    assert [shown(frames[-1], row) for row in (0, 1)] == [sample.prompt + sample.text for sample in samples]


def test_watching_changes_no_text(tiny_denoiser, tiny_causal):
    for model in (tiny_denoiser(), tiny_causal()):
        samples, _ = watched(model, ["ab", "c"], max_new_tokens=6, seed=4)
        assert samples == generate_samples(model, BYTES, ["ab", "c"], GenerationOptions(max_new_tokens=6, seed=4))


@settings(max_examples=60)
@given(text=st.text(max_size=30), data=st.data())
def test_the_pieces_of_a_text_are_its_decoding_and_masks_cut_it(text, data):
    text = text.encode("utf-8", "replace").decode()
    ids = BYTES(text, add_special_tokens=False)["input_ids"]
    settled = np.full(len(ids), SETTLED)
    assert "".join(piece for piece, _ in TEXT.runs(np.array(ids, dtype=int), settled)) == text
    states = np.array(
        data.draw(st.lists(st.sampled_from([MASKED, NEW, SETTLED]), min_size=len(ids), max_size=len(ids)))
    )
    runs = TEXT.runs(np.array(ids, dtype=int), states.astype(int))
    assert sum(len(piece) for piece, state in runs if state == MASKED) == (states == MASKED).sum()


def test_a_character_of_several_tokens_is_as_new_as_its_newest():
    ids = np.array(list("é!".encode()))
    assert TEXT.runs(ids, np.array([SETTLED, NEW, SETTLED])) == [("é", NEW), ("!", SETTLED)]
    assert TEXT.runs(ids, np.array([NEW, MASKED, SETTLED])) == [("\ufffd", NEW), (MASK, MASKED), ("!", SETTLED)]


def _drawn(frame, width=80, height=24, **options):
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=width, height=height, color_system="standard", **options)
    console.print(DenoisingView(TEXT, console, 0.0).drawing(frame))
    return file.getvalue()


def _frame(prompt, new_tokens, mask_id=BYTES.mask_token_id):
    frames = []
    ids_BP = torch.tensor([list(prompt.encode())])
    start = GenerationStart((0,), (prompt,), ids_BP, torch.ones_like(ids_BP), new_tokens, mask_id)
    FrameStreamer(start, frames.append).put(ids_BP)
    return frames[0]


@pytest.mark.parametrize("width", [1, 20, 80])
def test_no_line_of_the_view_is_wider_than_the_terminal_nor_are_there_more_than_it_has(width):
    drawn = _drawn(_frame("word " * 200 + "漢字" * 30, 700), width=width)
    assert len(drawn.splitlines()) <= 24
    assert all(Text.from_ansi(line).cell_len <= max(width, 2) for line in drawn.splitlines())


def test_masked_new_and_settled_are_told_apart_with_and_without_colours(tiny_denoiser):
    _, frames = watched(tiny_denoiser(), ["ab"], max_new_tokens=12, max_denoising_steps=4)
    middle = next(frame for frame in frames if {MASKED, NEW, SETTLED, GIVEN} <= set(frame.state_BL[0].tolist()))
    drawn = _drawn(middle)
    assert all(code in drawn for code in ("\x1b[36m", "\x1b[2m", "\x1b[1;4;32m"))
    assert all(code in _drawn(middle, no_color=True) for code in ("\x1b[2m", "\x1b[1;4m"))


def test_the_view_follows_what_is_written_in_a_long_text():
    assert "end" in _drawn(_frame("word " * 800 + "end", 10))


def test_hostile_text_does_not_drive_the_terminal():
    drawn = _drawn(_frame(HOSTILE, 3))
    assert "\\x1b[2J" in drawn
    assert not any(char in drawn for char in ("\x1b[2J", "\u202e", "\x9b", "\r", "\x00", "\t"))
