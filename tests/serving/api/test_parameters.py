"""Every parameter of a request is read or refused in one sentence that names it."""

from __future__ import annotations

import json

import pytest

from hf_difflm.serving.api.parameters import CHAT, TEXT, asked_of
from hf_difflm.serving.api.refusals import Refusal

MESSAGES = [{"role": "user", "content": "hi"}]


def asked(kind=TEXT, **given):
    return asked_of(json.dumps(({"messages": MESSAGES} if kind == CHAT else {}) | given).encode(), kind)


def test_what_is_given_is_what_is_asked():
    found = asked(
        prompt=["a", "b"], max_tokens=7, temperature=0.5, top_p=0.9, top_k=3, seed=4, n=2, stop="x", stream=True,
        stream_options={"include_usage": True}, sampler="entropy", max_denoising_steps=9, model="m", user="me",
    )  # fmt: skip
    options = found.options
    assert (found.prompts, found.n, found.stops, found.stream, found.include_usage) == (
        ("a", "b"),
        2,
        ("x",),
        True,
        True,
    )
    assert (options.max_new_tokens, options.temperature, options.top_p, options.top_k, options.seed) == (
        7,
        0.5,
        0.9,
        3,
        4,
    )
    assert (options.sampler, options.max_denoising_steps, options.infill, found.model) == ("entropy", 9, None, "m")
    assert asked(CHAT, max_completion_tokens=5).options.max_new_tokens == 5
    assert asked(CHAT).options.infill is False
    assert asked().options.max_new_tokens is None


def test_a_seed_that_is_not_given_is_another_each_time():
    assert len({asked().options.seed for _ in range(5)}) > 1
    assert asked(seed=0).options.seed == 0


def test_what_asks_for_nothing_may_come():
    neutral = {
        "logprobs": False,
        "presence_penalty": 0.0,
        "tools": [],
        "response_format": {"type": "text"},
        "top_p": None,
    }
    assert asked(CHAT, **neutral, logit_bias={}).options.top_p is None


@pytest.mark.parametrize(
    ("kind", "given", "param", "sentence"),
    [
        (TEXT, {"temprature": 1}, "temprature", "there is no parameter 'temprature'; did you mean 'temperature'?"),
        (TEXT, {"messages": MESSAGES}, "messages", "there is no parameter 'messages'"),
        (CHAT, {"prompt": "a"}, "prompt", "there is no parameter 'prompt'"),
        (CHAT, {"logprobs": True}, "logprobs", "logprobs is not supported here: a text that is written in any order"),
        (TEXT, {"logprobs": 0}, "logprobs", "logprobs is not supported here"),
        (TEXT, {"best_of": 2}, "best_of", "best_of is not supported here: leave it out"),
        (TEXT, {"suffix": "x"}, "suffix", "suffix is not supported here: write the prompt with [MASK]"),
        (CHAT, {"tools": [{}]}, "tools", "tools is not supported"),
        (CHAT, {"infill": True}, "infill", "infill is for /v1/completions"),
        (TEXT, {"temperature": -1}, "temperature", "temperature must be a number at least 0, or none, got -1"),
        (TEXT, {"temperature": 10**400}, "temperature", "too large"),
        (TEXT, {"top_p": 0}, "top_p", "top_p must be a number above 0 and at most 1, or none, got 0"),
        (TEXT, {"sampler": "entropie"}, "sampler", "did you mean 'entropy'?"),
        (TEXT, {"sampler": "x" * 1000}, "sampler", "sampler must be one of ddpm"),
        (TEXT, {"sampler_config": 3}, "sampler_config", "sampler_config must be a mapping"),
        (TEXT, {"max_denoising_steps": 10**12}, "max_denoising_steps", "must be at most 100000, got 1000000000000"),
        (TEXT, {"seed": -1}, "seed", "seed must be an integer at least 0, got -1"),
        (TEXT, {"seed": 2**63}, "seed", "seed must be at most 9223372036854775807"),
        (TEXT, {"max_tokens": -1}, "max_tokens", "max_tokens must be an integer of 0 or more, got -1"),
        (TEXT, {"max_tokens": 1.5}, "max_tokens", "max_tokens must be an integer of 0 or more, got 1.5"),
        (CHAT, {"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens", "differ; give one of them"),
        (TEXT, {"n": 0}, "n", "n must be an integer of 1 to 128, got 0"),
        (TEXT, {"n": True}, "n", "n must be an integer of 1 to 128, got True"),
        (TEXT, {"stop": ["a", ""]}, "stop", "stop must be text, or a list of at most 16 texts that are not empty"),
        (TEXT, {"prompt": [1, 2]}, "prompt", "token ids are not taken"),
        (TEXT, {"prompt": []}, "prompt", "prompt must be text or a list of texts"),
        (TEXT, {"stream": "yes"}, "stream", "stream must be true or false, got 'yes'"),
        (TEXT, {"stream_options": {"usage": 1}}, "stream_options", "stream_options has no 'usage'"),
        (TEXT, {"model": 3}, "model", "model must be text, got 3"),
        (CHAT, {"chat_template_kwargs": []}, "chat_template_kwargs", "must be an object, got []"),
    ],
)
def test_what_is_wrong_is_refused_by_name(kind, given, param, sentence):
    with pytest.raises(Refusal) as found:
        asked(kind, **given)
    assert sentence in found.value.message
    assert (found.value.status, found.value.param) == (400, param)
    assert len(found.value.message) < 510


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"3", b"\xff{}", b"[" * 200_000, b'{"seed": ' + b"9" * 10_000 + b"}"]
)
def test_what_is_no_object_is_refused(body):
    with pytest.raises(Refusal) as found:
        asked_of(body, TEXT)
    assert (found.value.status, found.value.code) == (400, "invalid_json")
