"""``serve`` as a user meets it: from a run that can chat to an answer, what is refused at the start, and how it ends."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from transformers import AutoTokenizer

from hf_difflm.data.conversations.chat_template import PLAIN_TEMPLATE
from hf_difflm.runs.journal.tables import printable

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")


def first_line(process) -> str:
    line = process.stdout.readline()
    assert line, process.communicate()
    return line


def address_of(line: str) -> str:
    return re.search(r"http://[^/]+", line)[0]


def ended(process, signal_number=signal.SIGTERM) -> int:
    process.send_signal(signal_number)
    return process.wait(timeout=60)


@pytest.fixture
def chatty(trained):
    """The run, with a chat template beside its best weights."""
    tokenizer = AutoTokenizer.from_pretrained(trained / "best")
    tokenizer.chat_template = PLAIN_TEMPLATE
    tokenizer.save_pretrained(trained / "best")
    return trained


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_a_run_answers_what_curl_asks_as_the_page_says(start, hf, chatty, tmp_path):
    shutil.move(chatty, tmp_path / "runs/chat")
    process = start("serve", "runs/chat", "--port", "0", "--use-cpu", "--api-key", "sesame")
    line = first_line(process)
    assert line == f"chat answers at {address_of(line)}/v1 (Ctrl-C ends it)\n"
    commands = re.findall(r"```bash\n(curl .*?)```", PAGE, flags=re.DOTALL)
    assert len(commands) >= 4
    found = []
    for command in commands:
        here = command.replace("http://127.0.0.1:8000", address_of(line)).replace("$KEY", "sesame")
        done = subprocess.run(["bash", "-c", here], capture_output=True, timeout=60)
        found.append(done.stdout.decode())
        assert done.returncode == 0, done.stderr
    answer = json.loads(found[0])
    assert "error" not in answer, answer
    text = answer["choices"][0]["message"]["content"]
    asked = json.loads(re.search(r"-d '(.*?)'", commands[0], flags=re.DOTALL)[1])
    flags = ["--seed", str(asked["seed"]), "--max-new-tokens", str(asked["max_tokens"]), "--use-cpu"]
    same = hf("generate", "runs/chat", "--chat", "--prompt", asked["messages"][-1]["content"], *flags)
    assert same.out == printable(text) + "\n"
    assert not any('"error"' in one for one in found)
    assert any("data: [DONE]" in one for one in found)
    assert any("hf_difflm_requests_total" in one for one in found)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    program = program.replace("http://127.0.0.1:8000", address_of(line)).replace('"none"', '"sesame"')
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(program, {})
    assert said.getvalue().startswith(text)
    assert ended(process, signal.SIGINT) == 0
    out, err = process.communicate()
    assert (out, err) == ("", "")


def test_running_requests_are_answered_before_the_end(start, trained):
    process = start("serve", trained, "--port", "0", "--use-cpu", "--host", "0.0.0.0", "--access-log")
    address = address_of(first_line(process)).replace("0.0.0.0", "127.0.0.1")
    body = {"prompt": "a", "max_tokens": 20, "sampler": "ddpm", "seed": 1, "max_denoising_steps": 1000}
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(httpx.post, f"{address}/v1/completions", json=body, timeout=120)
        deadline = time.monotonic() + 60
        while "hf_difflm_running_rows 1.0" not in httpx.get(f"{address}/metrics").text:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert ended(process) == 0
        assert asking.result().status_code == 200
        assert asking.result().json()["usage"]["completion_tokens"] == 20
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{address}/health")
    _, err = process.communicate()
    assert err.startswith("warning: 0.0.0.0 can be reached from other machines, and there is no --api-key")
    assert "GET /metrics" in err


def test_what_cannot_be_is_one_sentence(hf, trained, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for args, sentence in (
            (
                (trained, "--port", port),
                f"cannot listen on port {port} of 127.0.0.1 (Address already in use); give another",
            ),
            (
                (trained, "--host", "no.such.host.invalid"),
                "--host 'no.such.host.invalid' is no address of this machine",
            ),
            ((trained, "--port", "0", "--host", "192.0.2.1"), "cannot listen on port 0 of 192.0.2.1"),
            ((trained, "--port", "65536"), "port must be an integer at least 0 and at most 65535, got 65536"),
            ((trained, "--max-batch", "0"), "max_batch must be a positive integer, got 0"),
            ((trained, "--port", "0", "--api-key", ""), "--api-key must be printable ASCII, and not empty"),
            ((tmp_path / "nothing", "--port", "0"), "nothing does not exist"),
        ):
            result = hf("serve", *args)
            assert (result.code, result.out) == (2, ""), args
            assert sentence in result.err
            assert result.err.count("\n") == 1


def test_without_the_extra_it_says_which_package_is_missing(hf, trained, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    monkeypatch.delitem(sys.modules, "hf_difflm.serving.api.listening", raising=False)
    result = hf("serve", trained)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: serve needs the package uvicorn; install it with `pip install 'hf_difflm[serve]'`\n"
