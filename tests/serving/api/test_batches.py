"""A text is the same alone and in any batch; what nobody waits for costs nothing; one that fails takes no other with it."""

from __future__ import annotations

import json
import time

import pytest
from tiny_targets import EOS, target_of

from hf_difflm.errors import UserError
from hf_difflm.evaluation.generation.options import GenerationOptions
from hf_difflm.evaluation.generation.texts import generate_samples
from hf_difflm.serving.api.metrics import Metrics
from hf_difflm.serving.api.parameters import CHAT, TEXT, asked_of
from hf_difflm.serving.api.refusals import Refusal
from hf_difflm.serving.api.requests import rows_of
from hf_difflm.serving.api.served_model import ServedModel
from hf_difflm.serving.api.waiting import WaitingRows
from hf_difflm.serving.api.writer import Writer

PROMPTS = ["a", "to be or", "not", "to be or not to be"]
KINDS = ["mdlm", "bd3lm", "ar"]
_SERVED: dict[str, ServedModel] = {}


def served_of(kind):
    if kind not in _SERVED:
        _SERVED[kind] = ServedModel(target_of(kind), "tiny")
    return _SERVED[kind]


def rows_for(served, kind=TEXT, **body):
    return rows_of(asked_of(json.dumps(body).encode(), kind), served, 60.0, 100, lambda: None)[0]


def write(served, rows, most=32):
    """Write rows in a thread of their own; the pieces of each, and the metrics."""
    waiting = WaitingRows(100, served.go_together)
    metrics = Metrics(lambda: 0)
    waiting.put(rows)
    waiting.close()
    writer = Writer(served, waiting, metrics, most)
    writer.start()
    writer.join(timeout=60)
    assert not writer.is_alive()
    return [row.box.take() for row in rows], metrics.page().decode()


def texts(served, rows, most=32):
    found, _ = write(served, rows, most)
    assert all(pieces[-1].last and pieces[-1].refusal is None for pieces in found), found
    return ["".join(piece.delta for piece in pieces) for pieces in found]


def number(page, name):
    return next(float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith(f"hf_difflm_{name} "))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("mdlm", {}),
        ("mdlm", {"sampler": "low_confidence", "max_denoising_steps": 6, "temperature": 0.7}),
        ("mdlm", {"sampler": "entropy_bounded", "top_k": 50}),
        ("mdlm", {"sampler": "remdm", "max_denoising_steps": 12}),
        ("mdlm", {"temperature": 0, "repetition_penalty": 1.2}),
        ("mdlm", {"guidance_scale": 1.5, "block_length": 4}),
        ("bd3lm", {}),
        ("bd3lm", {"sampler": "confidence_threshold", "temperature": 0.5}),
        ("ar", {}),
        ("ar", {"temperature": 0.7, "top_p": 0.9}),
        ("ar", {"temperature": 0}),
    ],
)
def test_a_text_is_the_same_alone_and_in_a_batch_streamed_or_not(kind, options, stream):
    served = served_of(kind)
    bodies = [{"prompt": text, "max_tokens": 12, "seed": n, **options} for n, text in enumerate(PROMPTS)]
    alone = [texts(served, rows_for(served, **body))[0] for body in bodies]
    together = [row for body in bodies for row in rows_for(served, **body, stream=stream)]
    _, page = write(served, rows_for(served, **bodies[0]) + rows_for(served, **bodies[1]))
    assert number(page, "batch_rows_count") == 1, "they did go together"
    assert texts(served, together) == alone
    if options.get("temperature") != 0:
        assert len(set(alone)) == len(alone)


@pytest.mark.parametrize("kind", ["mdlm", "bd3lm"])
def test_a_text_is_that_of_the_command_generate(kind):
    served = served_of(kind)
    options = GenerationOptions(max_new_tokens=10, seed=7)
    model, tokenizer = served.target.model, served.target.tokenizer
    theirs = [one.text for one in generate_samples(model, tokenizer, ["to be"] * 3, options)]
    assert texts(served, rows_for(served, prompt="to be", max_tokens=10, seed=7, n=3)) == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_the_choices_of_a_request_differ_and_batches_keep_to_their_size(kind):
    served = served_of(kind)
    body = {"prompt": "a", "max_tokens": 8, "seed": 1, "n": 5}
    found, page = write(served, rows_for(served, **body), most=2)
    assert len({pieces[-1].delta for pieces in found}) == 5
    assert (number(page, "batch_rows_count"), number(page, "batch_rows_sum")) == (3, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_streamed_is_settled_from_the_left_and_drafts_end_in_the_text(kind):
    served = served_of(kind)
    (pieces,), _ = write(served, rows_for(served, prompt="to be", max_tokens=12, seed=3, stream=True))
    (whole,) = texts(served, rows_for(served, prompt="to be", max_tokens=12, seed=3))
    assert "".join(piece.delta for piece in pieces) == whole
    drafts = [piece.draft for piece in pieces if piece.draft is not None]
    if kind == "mdlm":
        assert len(drafts) > 5
        assert "▒" in drafts[0]
        assert drafts[-1] == whole
        assert drafts[0].count("▒") > drafts[-2].count("▒") > 0
    else:
        assert drafts == []
        # 6 tokens of the prompt fill a block and a half: 2 + 4 + 4 + 2 tokens; bytes that are no text may wait for others.
        assert 1 < len(pieces) <= (4 if kind == "bd3lm" else 13)


def test_a_sampler_that_masks_again_streams_drafts_and_its_text_at_the_end():
    served = served_of("mdlm")
    (pieces,), _ = write(served, rows_for(served, prompt="a", max_tokens=12, sampler="remdm", seed=1, stream=True))
    assert len(pieces) > 3
    assert all(piece.draft is not None and not piece.delta for piece in pieces[:-1])
    assert pieces[-1].delta


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_string_ends_a_text_and_spares_the_forwards_behind_it(kind):
    served = served_of(kind)
    body = {"prompt": "to be", "max_tokens": 40, "seed": 11, "temperature": 0.5}
    more = {"sampler": "left_to_right", "max_denoising_steps": 40} if kind != "ar" else {}
    (whole,), page = write(served, rows_for(served, **body, **more))
    text = whole[-1].delta
    stop = text[3:5]
    (pieces,), shorter = write(served, rows_for(served, **body, **more, stop=[stop]))
    assert (pieces[-1].delta, pieces[-1].reason) == (text[: text.index(stop)], "stop")
    assert number(shorter, "forwards_total") < number(page, "forwards_total")
    assert pieces[-1].tokens < whole[-1].tokens


@pytest.mark.parametrize("kind", KINDS)
def test_an_end_token_ends_a_text_and_is_told_from_its_length(kind):
    target = target_of(kind)
    ends = [EOS, *range(65, 80)]
    target.model.config.eos_token_id = target.model.generation_config.eos_token_id = ends
    served = ServedModel(target, "tiny")
    found, _ = write(served, rows_for(served, prompt="a", max_tokens=12, seed=1, temperature=2, n=12))
    lasts = [pieces[-1] for pieces in found]
    assert {last.reason for last in lasts} == {"stop", "length"}
    assert all(last.tokens == 12 if last.reason == "length" else last.tokens <= 12 for last in lasts)
    assert min(last.tokens for last in lasts) < 12
    assert not {chr(end) for end in ends} & set("".join(piece.delta for pieces in found for piece in pieces))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_whose_client_has_gone_or_that_are_late_leave_the_others_as_they_are(kind):
    served = served_of(kind)
    bodies = [{"prompt": "to be", "max_tokens": 16, "seed": n, "stream": True} for n in range(3)]
    alone = texts(served, rows_for(served, **bodies[1]))[0]
    rows = [row for body in bodies for row in rows_for(served, **body)]
    _, page = write(served, [row for body in bodies for row in rows_for(served, **body)])
    rows[0].box._wake = lambda: setattr(rows[0], "gone", True)  # at its first piece
    rows[2].box._wake = lambda: setattr(rows[2], "deadline", time.monotonic() - 1)
    found, less = write(served, rows)
    assert "".join(piece.delta for piece in found[1]) == alone
    assert not found[0][-1].last
    assert not found[2][-1].last
    assert number(less, "dropped_rows_total") == 2
    if kind == "ar":  # a row that has left is padded until the batch has ended
        assert number(less, "forward_rows_total") == 3 * number(less, "forwards_total")
    else:
        assert number(less, "forward_rows_total") < 0.75 * number(page, "forward_rows_total")


@pytest.mark.parametrize("kind", KINDS)
def test_where_all_have_gone_the_model_stops(kind):
    served = served_of(kind)
    rows = rows_for(
        served, prompt="to be", max_tokens=40, max_denoising_steps=40 if kind != "ar" else None, stream=True
    )
    rows[0].box._wake = lambda: setattr(rows[0], "gone", True)
    _, page = write(served, rows)
    assert number(page, "forwards_total") < 12


def test_one_that_fails_takes_no_other_with_it():
    served = served_of("mdlm")
    rows = [row for n in range(3) for row in rows_for(served, prompt="to be", max_tokens=8, seed=n)]
    rows[1].encoded = type(rows[1].encoded)([10**6, 1, 2])  # no such token: torch refuses it
    found, _ = write(served, rows)
    assert [pieces[-1].refusal and pieces[-1].refusal.status for pieces in found] == [None, 500, None]
    assert found[0][-1].delta == texts(served, rows_for(served, prompt="to be", max_tokens=8, seed=0))[0]


def test_holes_of_prompts_are_filled_and_told():
    served = served_of("mdlm")
    (pieces,), _ = write(served, rows_for(served, prompt="to [MASK]{3} or [MASK]", seed=1, stream=True))
    last = pieces[-1]
    assert last.delta == f"to {last.fills[0]} or {last.fills[1]}"
    assert (last.reason, last.tokens) == ("stop", 4)
    assert pieces[0].draft.startswith("to ")
    assert "▒" in pieces[0].draft


@pytest.mark.parametrize(
    ("kind", "what", "body", "sentence"),
    [
        ("mdlm", TEXT, {"prompt": "a" * 70}, "exceed the 64 tokens the model takes"),
        ("mdlm", TEXT, {"max_tokens": 64}, "together exceed the 64 tokens"),
        ("mdlm", TEXT, {"max_tokens": 0}, "max_new_tokens is 0 and a prompt has no hole"),
        ("mdlm", TEXT, {"prompt": "[MASK]", "stop": "x"}, "stop is for texts that go on from a prompt"),
        ("mdlm", TEXT, {"sampler": "entropy", "sampler_config": {"eta": 1}}, "sampler entropy has no parameter 'eta'"),
        ("mdlm", TEXT, {"importance_weight": 1.0}, "importance_weight is for the sampler uncertainty"),
        ("ar", TEXT, {"sampler": "entropy"}, "sampler is for masked diffusion models"),
        ("mdlm", CHAT, {"messages": "hi"}, "the messages in the request are no list"),
        ("mdlm", CHAT, {"messages": []}, "the messages in the request are no list"),
        ("mdlm", CHAT, {"messages": [{"role": "assistant", "content": "a"}]}, "is an answer already"),
        ("mdlm", CHAT, {}, "the messages in the request are no list"),
        ("mdlm", TEXT, {"model": "gpt"}, "there is no model 'gpt' here; this server has 'tiny'"),
        ("mdlm", TEXT, {"n": 101}, "101 texts are more than the 100 that may wait"),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_it_waits(kind, what, body, sentence):
    with pytest.raises((Refusal, UserError)) as found:
        rows_for(served_of(kind), what, **body)
    assert sentence in str(found.value)
    assert found.value.status == (404 if "model" in body else 400)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"max_denoising_steps": 2}, "fewer than the"),
        ({"block_length": 3}, "the model has diffusion blocks of 4 tokens"),
    ],
)
def test_what_shows_when_a_text_is_begun_is_told_then(body, sentence):
    served = served_of("bd3lm")
    ((piece,),), _ = write(served, rows_for(served, prompt="a", max_tokens=12, **body))
    assert piece.refusal.status == 400
    assert sentence in piece.refusal.message


def test_an_answer_begins_and_ends_without_blanks_and_never_fills_holes():
    served = served_of("mdlm")
    body = {"messages": [{"role": "user", "content": "[MASK]"}], "max_tokens": 10, "seed": 2}
    (row,) = rows_for(served, CHAT, **body)
    assert row.prompt == "User: [MASK]\nAssistant:"
    assert row.encoded.spans == ()
    (text,) = texts(served, [row])
    assert text == text.strip()
