"""Tiny models in float64, where no draw falls between the roundings of two batches, and servers in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import uvicorn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_difflm.data import load_tokenizer
from hf_difflm.data.conversations.chat_template import complete_chat_template
from hf_difflm.evaluation.targets import Target
from hf_difflm.models import MaskedDiffusionConfig, MaskedDiffusionForMaskedLM
from hf_difflm.serving.api.application import Routes
from hf_difflm.serving.api.listening import bound, parts_of
from hf_difflm.serving.api.options import ServeOptions
from hf_difflm.serving.api.writer import Writer

BOS, EOS, PAD, MASK = 256, 257, 258, 259
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
BACKBONE = {"vocab_size": 260, "max_position_embeddings": 64, "initializer_range": 0.5, **SIZES}
SPECIAL = {"bos_token_id": BOS, "eos_token_id": EOS, "pad_token_id": PAD}


def target_of(kind: str) -> Target:
    """``mdlm``, ``bd3lm`` (blocks of 4) or ``ar``, untrained."""
    torch.manual_seed(0)
    if kind == "ar":
        model: Any = LlamaForCausalLM(LlamaConfig(**BACKBONE, **SPECIAL, tie_word_embeddings=True))
    else:
        more = {"diffusion_block_size": 4} if kind == "bd3lm" else {}
        config = MaskedDiffusionConfig(backbone_config=LlamaConfig(**BACKBONE), mask_token_id=MASK, **SPECIAL, **more)
        model = MaskedDiffusionForMaskedLM(config)
    tokenizer = load_tokenizer("bytes")
    complete_chat_template(tokenizer)
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.mask_token_id) == (BOS, EOS, MASK)
    return Target(model.double().eval(), tokenizer, kind != "ar", "tiny", {"dataset": "bytes"}, None, Path())


@dataclass
class Served:
    """A server in a thread.

    Args:
        address: its base.
        target: its model.
        routes, writer: its parts.
    """

    address: str
    target: Target
    routes: Routes
    writer: Writer

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(f"{self.address}{path}", json=body, timeout=120, **more)

    def metric(self, line: str) -> float:
        """The number on the line of a metric that begins so; 0 where there is none."""
        lines = httpx.get(f"{self.address}/metrics").text.splitlines()
        return next((float(one.rpartition(" ")[2]) for one in lines if one.startswith(line + " ")), 0.0)

    def wait_for(self, line: str, number: float) -> None:
        """Wait until a metric has come to a number."""
        deadline = time.monotonic() + 60
        while self.metric(line) != number:
            assert time.monotonic() < deadline, f"{line} is {self.metric(line)} and not {number}"
            time.sleep(0.02)


@pytest.fixture(scope="module")
def serve() -> Iterator[Callable[..., Served]]:
    """``serve("mdlm", api_key=None, **options)``: the same server for the same arguments, until the module ends."""
    running: dict[str, tuple[Served, uvicorn.Server, threading.Thread]] = {}

    def call(kind: str = "mdlm", api_key: str | None = None, **options: Any) -> Served:
        name = repr((kind, api_key, sorted(options.items())))
        if name not in running:
            target = target_of(kind)
            routes, writer = parts_of(target, "tiny", ServeOptions(**options), api_key)
            listener = bound("127.0.0.1", 0)
            server = uvicorn.Server(uvicorn.Config(routes.application(), lifespan="off", ws="none", log_config=None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
            writer.start()
            thread.start()
            host, port = listener.getsockname()
            running[name] = Served(f"http://{host}:{port}", target, routes, writer), server, thread
        return running[name][0]

    yield call
    for served, server, thread in running.values():
        served.writer.give_up()
        server.should_exit = True
        thread.join(timeout=30)
        served.writer.join(timeout=30)
        assert not thread.is_alive()
        assert not served.writer.is_alive()
