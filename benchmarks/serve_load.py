"""``hf-difflm serve`` under load, at the demo's size: nothing lost, nothing mixed up, memory flat, and what batching gains.

Round by round the same requests are asked one after another, by one client, and all at once, by many of them; the answers
of the first are what those of the second must be. 5 % of what is asked at once is broken, 5 % is given up at its first event.
The weights are untrained: what they write is noise, which no other request would write.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import torch
from _alternate import write
from _claims import Claim
from _process_memory import processor_seconds, resident
from openai import APIStatusError, OpenAI

from hf_difflm.data import load_tokenizer
from hf_difflm.data.conversations.chat_template import complete_chat_template
from hf_difflm.models.build import build_denoiser
from hf_difflm.models.options import ModelOptions

ROOT = Path(__file__).parents[1]
DEMO = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
LENGTH = 128
WORDS = (
    "the",
    "model",
    "fills",
    "one",
    "mask",
    "after",
    "another",
    "until",
    "none",
    "is",
    "left",
    "and",
    "ends",
    "its",
    "text",
)
BROKEN = {"no JSON": 400, "unknown parameter": 400, "too long": 400}


@dataclass(frozen=True)
class Request:
    """One request: what it says, which seed it has, and what is to become of it.

    Args:
        number: also its seed.
        text: of the prompt.
        chat: whether it is a message.
        stream: whether events are asked for.
        fate: ``answered``, ``cancelled``, or how it is broken.
    """

    number: int
    text: str
    chat: bool
    stream: bool
    fate: str


def requests_of(count: int, seed: int = 0) -> list[Request]:
    """Requests of several lengths and kinds; of each 20 one is broken and one given up."""
    generator = random.Random(seed)
    kinds = itertools.cycle(BROKEN)
    made = []
    for number in range(count):
        place = number % 20
        fate = next(kinds) if place == 7 else "cancelled" if place == 13 else "answered"
        words = " ".join(generator.choices(WORDS, k=generator.randint(1, 2)))
        made.append(Request(number, words, number % 4 == 0, number % 3 == 0 or fate == "cancelled", fate))
    return made


class Client:
    """Asks with OpenAI's own client; what that cannot say wrongly enough, with httpx.

    Args:
        address: of the server.
        tokens: of a text.
        steps: of denoising.
    """

    def __init__(self, address: str, tokens: int, steps: int) -> None:
        self._tokens, self._extra = tokens, {"max_denoising_steps": steps}
        self._openai = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, timeout=600)
        self._http = httpx.Client(base_url=address, timeout=600)

    def ask(self, request: Request) -> str:
        """The text; of a broken request its status, of a cancelled one nothing."""
        if request.fate in BROKEN:
            return str(self._broken(request))
        given = {"model": "demo", "seed": request.number, "max_tokens": self._tokens, "extra_body": self._extra}
        if request.chat:
            message = [{"role": "user", "content": request.text}]
            answer = self._openai.chat.completions.create(messages=message, stream=request.stream, **given)
        else:
            answer = self._openai.completions.create(prompt=request.text, stream=request.stream, **given)
        if not request.stream:
            return answer.choices[0].message.content if request.chat else answer.choices[0].text
        parts = []
        for chunk in answer:
            if request.fate == "cancelled":
                answer.close()
                return ""
            choice = chunk.choices[0]
            parts.append((choice.delta.content if request.chat else choice.text) or "")
        return "".join(parts)

    def _broken(self, request: Request) -> int:
        if request.fate == "no JSON":
            headers = {"content-type": "application/json"}
            return self._http.post("/v1/completions", content=b'{"prompt": ', headers=headers).status_code
        wrong = {"temprature": 1} if request.fate == "unknown parameter" else {}
        text = request.text if wrong else request.text * LENGTH
        try:
            self._openai.completions.create(model="demo", prompt=text, extra_body=wrong)
        except APIStatusError as error:
            return error.status_code
        return 200

    def metric(self, name: str) -> float:
        """The sum of a metric."""
        lines = self._http.get("/metrics").text.splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.partition("{")[0].split()[0] == name)


@contextlib.contextmanager
def server(folder: Path, tokenizer: str = "bytes") -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server with an untrained network of the demo's size, on one thread; yields it and its address."""
    torch.manual_seed(0)
    ready = load_tokenizer(tokenizer)
    complete_chat_template(ready)
    build_denoiser(ModelOptions(**DEMO, max_position_embeddings=LENGTH), ready, LENGTH).save_pretrained(folder)
    ready.save_pretrained(folder)
    command = [sys.executable, str(ROOT / "cli.py"), "serve", str(folder), "--port", "0", "--use-cpu"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        [*command, "--model-name", "demo"], env=environment, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        if "answers at" not in said:
            raise RuntimeError(f"the server did not start: {said!r}, status {process.poll()}")
        yield process, said.split("answers at ")[1].split("/v1")[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def timed(ask: Callable[[Request], str], requests: list[Request], clients: int) -> tuple[float, list[str]]:
    """Seconds for all requests by so many clients, and what became of each; an exception is what became of it, too."""

    def safe(request: Request) -> str:
        try:
            return ask(request)
        except Exception as error:
            return f"lost: {type(error).__name__}: {error}"

    with ThreadPoolExecutor(clients) as pool:
        began = time.perf_counter()
        answers = list(pool.map(safe, requests))
    return time.perf_counter() - began, answers


def measured(count: int, clients: int, rounds: int, tokens: int, steps: int) -> dict:
    """The whole load test; see the docstring of this file."""
    counts: Counter[str] = Counter()
    ratios, sides, memory, spent = [], [], [], []
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as (process, address):
        client = Client(address, tokens, steps)
        asked = requests_of(count)
        timed(client.ask, [one for one in asked if one.fate == "answered"][:3], 1)  # warm
        size = -(-count // rounds)
        for begin in range(0, count, size):
            part = asked[begin : begin + size]
            good = [one for one in part if one.fate == "answered"]
            marks = [processor_seconds(process.pid)]
            alone_seconds, alone = timed(client.ask, good, 1)
            marks.append(processor_seconds(process.pid))
            seconds, answers = timed(client.ask, part, clients)
            marks.append(processor_seconds(process.pid))
            spent.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
            expected = {one.number: text for one, text in zip(good, alone, strict=True)}
            for one, answer in zip(part, answers, strict=True):
                counts[_outcome(one, answer, expected)] += 1
            rates = {"one after another": len(good) / alone_seconds, f"{clients} clients": len(good) / seconds}
            sides.append(rates)
            ratios.append(alone_seconds / seconds)
            memory.append(resident(process.pid))
            print(
                f"{begin + len(part)} requests: {dict(counts)}, {ratios[-1]:.2f} x, {memory[-1] >> 20} MiB", flush=True
            )
        batches, rows = client.metric("hf_difflm_batch_rows_count"), client.metric("hf_difflm_batch_rows_sum")
        left = client.metric("hf_difflm_queue_rows") + client.metric("hf_difflm_running_rows")
        dropped = client.metric("hf_difflm_dropped_rows_total")
        process.send_signal(signal.SIGTERM)
        status = process.wait(timeout=60)
    return {
        "requests": count,
        "clients": clients,
        "tokens": tokens,
        "steps": steps,
        "outcomes": dict(counts),
        "requests_per_second": {name: round(statistics.median(side[name] for side in sides), 2) for name in sides[0]},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "processor_seconds_ratio_of_the_server": round(statistics.median(spent), 3),
        "resident_MiB": [round(size / 2**20, 1) for size in memory],
        "memory_growth": round(memory[-1] / memory[0], 4),
        "batches": batches,
        "rows_of_a_batch": round(rows / batches, 2),
        "rows_dropped": dropped,
        "rows_left": left,
        "exit_status": status,
    }


def _outcome(request: Request, answer: str, expected: dict[int, str]) -> str:
    if answer.startswith("lost:"):
        return "lost"
    if request.fate in BROKEN:
        return "refused" if answer == str(BROKEN[request.fate]) else "lost"
    if request.fate == "cancelled":
        return "cancelled"
    return "answered" if answer == expected[request.number] else "mixed up"


def claims(result: dict) -> list[Claim]:
    """What the numbers of a run say of the claims."""
    many = f"{result['clients']} clients"
    outcomes, rates = result["outcomes"], result["requests_per_second"]
    what = f"serve, {result['requests']} requests of {result['clients']} clients, the demo's size"
    memory = {"after the first round": result["resident_MiB"][0], "at the end": result["resident_MiB"][-1]}

    def none(measure: str, name: str) -> Claim:
        sides = {name: float(number) for name, number in outcomes.items()}
        return Claim(f"{what}: none {name}", sides, "requests", measure, float(outcomes.get(name, 0)), "<= 0")

    return [
        Claim(
            f"{what}: against one request after another, {result['tokens']} tokens in {result['steps']} steps",
            rates,
            "requests a second",
            f"throughput, {many} / one after another",
            result["ratio"],
            ">= 3",
        ),
        none("requests without the answer or status that is due", "lost"),
        none("answers other than the same request has alone", "mixed up"),
        Claim(
            f"{what}: memory", memory, "MiB", "at the end / after the first round", result["memory_growth"], "<= 1.05"
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--steps", type=int, default=16)
    given = parser.parse_args()
    torch.set_num_threads(1)
    result = measured(given.requests, given.clients, given.rounds, given.tokens, given.steps)
    write("serve_load", result, claims(result))


if __name__ == "__main__":
    main()
