"""A scheduler may end one process of several: all stop together, as at Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import damage

ROOT = Path(__file__).parents[2]


@pytest.fixture
def start_ranks(cache_folder):
    """``start_ranks("train", ...)``: two processes that talk over gloo, without a launcher that would end them itself."""
    started: list[subprocess.Popen[str]] = []

    def call(*args: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        shared |= {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(cache_folder), "TOKENIZERS_PARALLELISM": "false"}
        for rank in ("0", "1"):
            environment = os.environ | shared | {"RANK": rank, "LOCAL_RANK": rank}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            started.append(subprocess.Popen([sys.executable, str(ROOT / "cli.py"), *args], env=environment, **pipes))
        return started

    yield call
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_sigterm_to_one_of_two_processes_stops_both_at_the_same_step(start_ranks, wait_for_steps, tiny, rank):
    flags = ["--max-steps", "1000000", "--save-steps", "1000000", "--eval-strategy", "no", "--logging-steps", "5"]
    ranks = start_ranks("train", *tiny, *flags, "--output-dir", "run")
    wait_for_steps(ranks[0], Path("run/journal.jsonl"), 10)
    ranks[rank].send_signal(signal.SIGTERM)
    said = [process.communicate(timeout=180)[1] for process in ranks]
    assert [process.returncode for process in ranks] == [130, 130], said
    assert all("Traceback" not in err for err in said)
    run = load_run("run")
    assert run.status == "interrupted"
    step = run.steps[-1].iter
    assert step % 5 == 0  # they agree at logging steps
    checkpoint = Path(f"run/checkpoint-{step}")
    assert [path.name for path in Path("run").glob("checkpoint-*")] == [checkpoint.name]
    assert damage(checkpoint) is None
    assert all((checkpoint / f"rng_state_{place}.pth").exists() for place in (0, 1))  # both saved at this step
    assert f"interrupted at step {step}" in said[0]
