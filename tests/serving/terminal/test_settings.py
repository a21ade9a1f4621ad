"""How long a conversation and an answer may be, where nobody says so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.targets import Target
from hf_difflm.serving.terminal.settings import context_of, room_for_answer, with_length


@pytest.fixture
def loaded(tiny_denoiser):
    """A model of 64 tokens whose rows in training had 40."""
    return Target(tiny_denoiser(), None, True, "runs/a", {"block_size": 40}, None, text=SimpleNamespace())


def test_the_context_is_that_of_training_else_what_the_model_takes(loaded):
    assert context_of(loaded, None) == 40
    assert context_of(loaded, 64) == 64
    assert context_of(loaded, 12) == 12
    loaded.config = {}
    assert context_of(loaded, None) == 64
    with pytest.raises(UserError, match="context is 65 tokens, but runs/a takes 64; lower it"):
        context_of(loaded, 65)


def test_an_answer_has_an_eighth_of_the_context_at_least_and_what_is_left_at_most(loaded):
    nothing, asked = GenerationOptions(), GenerationOptions(max_new_tokens=30)
    assert room_for_answer(loaded, nothing, 40) == 5
    assert room_for_answer(loaded, nothing, None) == 128
    assert room_for_answer(loaded, asked, 40) == 30
    assert with_length(loaded, nothing, 40, prompt=29).max_new_tokens == 11
    assert with_length(loaded, nothing, None, prompt=29).max_new_tokens == 128
    assert with_length(loaded, asked, 40, prompt=29) == asked
    loaded.model.generation_config.max_new_tokens = 4
    assert with_length(loaded, nothing, 40, prompt=20).max_new_tokens == 4
