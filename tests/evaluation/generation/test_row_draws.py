"""A causal LM's rows that draw by themselves: the law of transformers' own sampling, whatever stands beside a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.row_draws import RowDraw, Unwanted, drawn_by_row
from hf_difflm.evaluation.generation.texts import generate_samples, row_seed

PROMPTS = ["a", "to be", "or not to be", "b"]


def texts(model, tokenizer, prompts, seeds, **options):
    given = GenerationOptions(max_new_tokens=8, **options)
    return [one.ids for one in generate_samples(model, tokenizer, prompts, given, seeds=seeds)]


def test_tokens_are_drawn_from_the_distribution():
    logits_V = torch.tensor([0.0, 1.0, 2.0, float("-inf")])
    drawn = RowDraw(range(20_000))(torch.empty(20_000, 0), logits_V.expand(20_000, 4))
    share = torch.bincount(drawn.argmax(-1), minlength=4) / 20_000
    assert torch.allclose(share, logits_V.softmax(-1), atol=0.015)
    assert (drawn.isfinite().sum(-1) == 1).all()


def test_the_next_step_draws_with_other_numbers():
    logits = torch.zeros(1, 1000)
    draw = RowDraw([0])
    assert len({int(draw(torch.empty(1, 0), logits).argmax()) for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_k": 20, "top_p": 0.9}, {"repetition_penalty": 1.3}, {"temperature": 0.0}]
)
def test_a_row_alone_and_beside_others_is_the_same(tiny_causal, tokenizer, options):
    model = tiny_causal().double().eval()
    seeds = [row_seed(5, number) for number in range(4)]
    together = texts(model, tokenizer, PROMPTS, seeds, **options)
    alone = [texts(model, tokenizer, [text], [seed], **options)[0] for text, seed in zip(PROMPTS, seeds, strict=True)]
    assert together == alone
    if options.get("temperature") != 0:
        assert texts(model, tokenizer, ["a"], [1], **options) != texts(model, tokenizer, ["a"], [2], **options)


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.05}, {"temperature": 1e-3}])
def test_what_shapes_a_draw_shapes_it_as_in_transformers(tiny_causal, tokenizer, options):
    model = tiny_causal().double().eval()
    ids = torch.tensor([[256, 97]])
    from_model = {"do_sample": True, "top_k": 0, "pad_token_id": 258, "max_new_tokens": 1} | options
    torch.manual_seed(0)
    theirs = set(model.generate(ids.expand(400, -1), **from_model)[:, 2].tolist())
    ours = {row[0] for row in texts(model, tokenizer, ["a"] * 400, range(400), **options) if row}
    assert ours <= theirs | {257}
    assert len(ours) > (1 if "temperature" not in options else 0)


def test_the_generation_configuration_of_the_model_says_what_the_options_leave_open(tiny_causal):
    model = tiny_causal()
    model.generation_config.temperature, model.generation_config.top_p = 0.5, 0.8
    shaping = drawn_by_row(model, GenerationOptions(top_k=7), [0], {})["logits_processor"]
    assert [type(one).__name__ for one in shaping] == [
        "TemperatureLogitsWarper", "TopKLogitsWarper", "TopPLogitsWarper", "RowDraw",
    ]  # fmt: skip
    assert (shaping[0].temperature, shaping[1].top_k, shaping[2].top_p) == (0.5, 7, 0.8)
    assert drawn_by_row(model, GenerationOptions(temperature=0), [0], {"do_sample": False}) == {"do_sample": False}


def test_unwanted_rows_end_and_the_batch_with_the_last_of_them(tiny_causal):
    model = tiny_causal().eval()
    steps: list[int] = []

    class Streamer:
        def unwanted(self):
            return np.array([True, len(steps) > 3])

        def put(self, value):
            steps.append(len(value))

        def end(self):
            steps.append(0)

    from transformers.generation import StoppingCriteriaList

    streamer = Streamer()
    ids = model.generate(
        torch.tensor([[256, 97], [256, 98]]), max_new_tokens=20, do_sample=False, pad_token_id=258, streamer=streamer,
        stopping_criteria=StoppingCriteriaList([Unwanted(streamer)]),
    )  # fmt: skip
    assert (ids[0, 3:] == 258).all()
    assert ids.shape[1] < 10
