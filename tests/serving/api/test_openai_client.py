"""The API as OpenAI's own client meets it: answers, streams, errors of the right kind, requests that are given up."""

from __future__ import annotations

import openai
import pytest

KINDS = ["mdlm", "bd3lm", "ar"]
HI = [{"role": "user", "content": "hi"}]


def client(served, key="none", **more):
    return openai.OpenAI(base_url=f"{served.address}/v1", api_key=key, max_retries=0, timeout=120, **more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_is_answered_whole_and_streamed_with_the_same_text(serve, kind):
    ask = client(serve(kind)).chat.completions.create
    given = {"model": "tiny", "messages": HI, "max_tokens": 12, "seed": 5}
    whole = ask(**given)
    (choice,) = whole.choices
    assert (choice.message.role, choice.finish_reason, whole.object) == ("assistant", "length", "chat.completion")
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (1 + len("User: hi\nAssistant:"), 12)
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 12
    assert whole.model_extra["seed"] == 5
    chunks = list(ask(**given, stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == choice.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-2:] == [None, "length"]
    assert (chunks[-1].choices, chunks[-1].usage) == ([], whole.usage)
    drafts = [draft for chunk in chunks[:-1] if (draft := chunk.choices[0].model_extra.get("draft")) is not None]
    assert ("▒" in drafts[0]) if kind == "mdlm" else (drafts == [])


def test_texts_after_several_prompts_several_of_each(serve):
    ask = client(serve()).completions.create
    given = {"model": "tiny", "max_tokens": 8, "seed": 1}
    whole = ask(**given, prompt=["a", "b"], n=2)
    assert [choice.index for choice in whole.choices] == [0, 1, 2, 3]
    assert len({choice.text for choice in whole.choices}) == 4
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 32)
    assert ask(**given, prompt="a").choices[0].text == whole.choices[0].text
    streamed = ["", "", "", ""]
    for chunk in ask(**given, prompt=["a", "b"], n=2, stream=True):
        streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice.text for choice in whole.choices]


def test_what_only_this_server_takes_goes_into_extra_body(serve):
    ask = client(serve()).completions.create
    extra = {"sampler": "entropy_bounded", "sampler_config": {"bound": 0.5}, "max_denoising_steps": 8}
    same = [ask(model="tiny", prompt="a", max_tokens=8, seed=1, extra_body=extra).choices[0].text for _ in range(2)]
    assert same[0] == same[1]
    filled = ask(model="tiny", prompt="to [MASK]{2} or", seed=1).choices[0]
    assert filled.text == f"to {filled.model_extra['fills'][0]} or"


def test_the_models_are_listed(serve):
    openai_client = client(serve())
    assert [model.id for model in openai_client.models.list()] == ["tiny"]
    assert openai_client.models.retrieve("tiny").model_extra["max_length"] == 64
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt' here"):
        openai_client.models.retrieve("gpt")


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"model": "gpt"}, openai.NotFoundError, "there is no model 'gpt' here"),
        ({"temperature": -1}, openai.BadRequestError, "temperature must be a number at least 0"),
        ({"logprobs": True}, openai.BadRequestError, "logprobs is not supported here"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean 'temperature'"),
        ({"messages": [{"role": "user", "content": "a" * 99}]}, openai.BadRequestError, "exceed the 64 tokens"),
        ({"extra_body": {"sampler_config": {"x": 1}}}, openai.BadRequestError, "has no parameter 'x'"),
    ],
)
def test_what_is_wrong_is_an_error_of_its_kind(serve, given, error, sentence):
    with pytest.raises(error) as found:
        client(serve()).chat.completions.create(**{"model": "tiny", "messages": HI, "max_tokens": 4} | given)
    assert sentence in found.value.message
    assert set(found.value.body) == {"message", "type", "param", "code"}


def test_the_key_guards_the_models_and_not_the_health(serve):
    served = serve(api_key="sesame")
    with pytest.raises(openai.AuthenticationError, match="the API key is missing or wrong"):
        client(served, "wrong").models.list()
    assert [model.id for model in client(served, "sesame").models.list()] == ["tiny"]
    assert client(served).get("../health", cast_to=object) == {"status": "ok"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_takes_too_long_is_ended_and_costs_nothing_more(serve, stream):
    served = serve(request_seconds=0.5)
    slow = {"sampler": "ddpm", "max_denoising_steps": 100_000}
    with pytest.raises(openai.APIError, match=r"no answer within 0\.5 seconds") as found:
        for _ in client(served).completions.create(
            model="tiny", prompt="a", max_tokens=30, stream=stream, extra_body=slow
        ):
            pass
    assert stream or found.value.status_code == 504
    served.wait_for("hf_difflm_running_rows", 0)


@pytest.mark.parametrize("first", ["at its first event", "while it waits"])
def test_a_request_that_is_given_up_stops_costing(serve, first):
    served = serve("mdlm", request_seconds=200.0)
    slow = {"model": "tiny", "prompt": "a", "max_tokens": 30, "seed": 3}
    extra = {"sampler": "ddpm", "max_denoising_steps": 3000}  # many seconds
    before = served.metric("hf_difflm_dropped_rows_total")
    if first == "while it waits":
        with pytest.raises(openai.APITimeoutError):
            client(served).with_options(timeout=0.5).completions.create(**slow, extra_body=extra)
    else:
        stream = client(served).completions.create(**slow, stream=True, extra_body=extra)
        next(iter(stream))
        stream.close()
    served.wait_for("hf_difflm_running_rows", 0)
    assert served.metric("hf_difflm_dropped_rows_total") == before + 1
    forwards = served.metric("hf_difflm_forwards_total")
    assert client(served).completions.create(model="tiny", prompt="a", max_tokens=2).usage.completion_tokens <= 2
    assert served.metric("hf_difflm_forwards_total") <= forwards + 2
    served.wait_for('hf_difflm_requests_total{endpoint="/v1/completions",status="499"}', before + 1)
