"""What a client may send that is no good: bodies of all kinds, too many requests; and what the pages for machines say."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

JSON = {"content-type": "application/json"}


def error_of(response):
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"].count("\n") == 0
    return response.status_code, body["error"]["code"]


def test_bodies_that_are_no_good_are_refused_in_the_same_form(serve):
    served = serve(max_body_bytes=1000)
    post = lambda **more: httpx.post(f"{served.address}/v1/completions", timeout=60, **more)  # noqa: E731
    assert error_of(post(content=b"{", headers=JSON)) == (400, "invalid_json")
    assert error_of(post(content=b"", headers=JSON)) == (400, "invalid_json")
    assert error_of(post(content=b'{"\\ud800": 1}', headers=JSON)) == (400, "unknown_parameter")
    assert post(content=b'{"prompt": "\\ud800", "max_tokens": 2}', headers=JSON).status_code == 200
    assert error_of(post(content=b'{"prompt": "a"}')) == (415, "invalid_content_type")
    assert error_of(post(data={"prompt": "a"})) == (415, "invalid_content_type")
    assert error_of(post(json={"prompt": "a" * 1000})) == (413, "body_too_long")
    parts = (b'{"prompt": "' if n == 0 else b"a" * 100 for n in range(30))  # of no length that is said before
    assert error_of(post(content=parts, headers=JSON)) == (413, "body_too_long")
    assert post(json={"prompt": "a", "max_tokens": 2}).status_code == 200


def test_other_addresses_and_methods_are_refused_in_the_same_form(serve):
    served = serve()
    assert error_of(httpx.get(f"{served.address}/")) == (404, "not_found")
    assert error_of(httpx.get(f"{served.address}/docs")) == (404, "not_found")
    assert error_of(httpx.get(f"{served.address}/v1/completions")) == (405, "not_found")
    assert error_of(httpx.post(f"{served.address}/v1/embeddings", json={})) == (404, "not_found")


def test_a_full_queue_refuses_and_loses_nothing(serve):
    served = serve(max_queue=4, max_batch=2)
    body = {"prompt": "a", "max_tokens": 30, "max_denoising_steps": 60, "sampler": "ddpm"}

    def ask(number):
        response = served.post("/v1/completions", body | {"seed": number})
        return response.status_code, response

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(ask, range(16)))
    statuses = [status for status, _ in found]
    assert set(statuses) == {200, 429}
    assert 4 <= statuses.count(200) < 16
    refused = next(response for status, response in found if status == 429)
    assert error_of(refused) == (429, "queue_full")
    assert refused.headers["retry-after"] == "1"
    texts = {number: one.json()["choices"][0]["text"] for number, (status, one) in enumerate(found) if status == 200}
    for number, text in list(texts.items())[:2]:
        assert ask(number)[1].json()["choices"][0]["text"] == text
    too_many = served.post("/v1/completions", body | {"n": 5})
    assert error_of(too_many) == (400, "invalid_value")


def test_a_body_that_does_not_come_is_given_up(serve):
    served = serve(request_seconds=0.5)
    host, port = served.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        connection.sendall(head.encode())
        began = time.monotonic()
        answer = connection.recv(4096).decode()
    assert answer.startswith("HTTP/1.1 408")
    assert time.monotonic() - began < 30


def test_metrics_are_prometheus_and_count_what_was_asked(serve):
    served = serve(max_queue=9)
    assert served.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 3, "seed": 1}).status_code == 200
    assert served.post("/v1/completions", {"temprature": 1}).status_code == 400
    page = httpx.get(f"{served.address}/metrics")
    assert page.headers["content-type"].startswith("text/plain; version=0.0.4")
    families = {family.name: family for family in text_string_to_metric_families(page.text)}
    requests = {
        (sample.labels["endpoint"], sample.labels["status"]): sample.value
        for sample in families["hf_difflm_requests"].samples
    }
    assert requests == {("/v1/completions", "200"): 1, ("/v1/completions", "400"): 1}
    values = {
        sample.name: sample.value for family in families.values() for sample in family.samples if not sample.labels
    }
    assert (values["hf_difflm_prompt_tokens_total"], values["hf_difflm_completion_tokens_total"]) == (4, 6)
    assert (values["hf_difflm_batch_rows_sum"], values["hf_difflm_queue_rows"], values["hf_difflm_running_rows"]) == (
        2,
        0,
        0,
    )
    assert 1 <= values["hf_difflm_forwards_total"] <= values["hf_difflm_forward_rows_total"] <= 6
    assert values["hf_difflm_queue_seconds_count"] == 2


def test_events_are_as_the_api_writes_them(serve):
    response = serve().post("/v1/completions", {"prompt": "a", "max_tokens": 4, "stream": True, "seed": 2})
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, rest = response.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    chunks = [json.loads(event.removeprefix("data: ")) for event in events]
    assert all(event.startswith("data: ") for event in events)
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] == "length"
    assert "usage" not in chunks[0]


def test_a_server_that_ends_says_so(serve):
    served = serve(max_queue=7)
    served.routes.is_ending = True
    assert httpx.get(f"{served.address}/health").status_code == 503
    assert error_of(served.post("/v1/completions", {"prompt": "a"})) == (503, "shutting_down")
    served.routes.is_ending = False


def test_what_is_not_done_when_the_grace_is_over_is_told(serve):
    served = serve(max_queue=6, max_batch=1)
    slow = {"prompt": "a", "max_tokens": 30, "max_denoising_steps": 100_000, "sampler": "ddpm"}
    with ThreadPoolExecutor(2) as pool:
        asking = [pool.submit(served.post, "/v1/completions", slow) for _ in range(2)]
        served.wait_for("hf_difflm_queue_rows", 1)
        served.writer.give_up()
        assert [error_of(one.result()) for one in asking] == [(503, "shutting_down")] * 2
    served.writer.join(timeout=30)
    assert not served.writer.is_alive()


def test_what_fails_by_itself_is_an_error_of_the_server_and_the_next_is_answered(serve, caplog):
    served = serve("ar", max_queue=8)
    weights = served.target.model.model.embed_tokens.weight
    kept = weights.data
    weights.data = kept[:1]  # no token but the first has an embedding
    try:
        assert error_of(served.post("/v1/completions", {"prompt": "a", "max_tokens": 2})) == (500, "internal_error")
    finally:
        weights.data = kept
    assert "a text could not be written" in caplog.text
    assert served.post("/v1/completions", {"prompt": "a", "max_tokens": 2}).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_a_stream_that_cannot_begin_has_the_status_of_its_error(serve, path):
    body = {"prompt": "a"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "a"}]}
    response = serve("bd3lm").post(path, body | {"stream": True, "max_tokens": 12, "max_denoising_steps": 2})
    assert error_of(response) == (400, "invalid_value")
