"""Ctrl-C, kill and several processes, with real ones."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from hf_difflm.runs import load_run
from hf_difflm.runs.journal.checkpoints import damage

LONG = ["--max-steps", "1000000", "--save-steps", "20", "--eval-steps", "20", "--save-total-limit", "100"]


def test_ctrl_c_stops_after_the_step_with_a_good_checkpoint_and_resume_goes_on(start, wait_for_steps, hf, tiny):
    process = start("train", *tiny, *LONG, "--output-dir", "run")
    wait_for_steps(process, Path("run/journal.jsonl"), 10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "go on with: hf-difflm train --output-dir run --resume"
    run = load_run("run")
    assert run.status == "interrupted"
    step = run.steps[-1].iter
    assert damage(Path(f"run/checkpoint-{step}")) is None
    assert f"interrupted at step {step}" in err


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (number - 1) & 1)
    return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_second_ctrl_c_aborts_at_once(start, wait_for_steps, tiny):
    # Evaluation of thousands of blocks: the first Ctrl-C waits for the step, so the second one comes in the middle.
    process = start(
        "train", *tiny, *LONG, "--max-eval-blocks", "512", "--eval-replicates", "500", "--output-dir", "run"
    )
    wait_for_steps(process, Path("run/journal.jsonl"), 20)
    process.send_signal(signal.SIGINT)
    # The handler gives both signals back, so it has run once SIGTERM is not caught any more.
    deadline = time.monotonic() + 60
    while _catches(process.pid, signal.SIGTERM):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)  # the evaluation alone would take longer
    assert process.returncode == 130
    assert "Traceback" not in err
    assert load_run("run").status == "interrupted"


@pytest.mark.slow
def test_a_killed_run_resumes_as_the_same_run_without_a_step_twice(start, wait_for_steps, tiny):
    process = start("train", *tiny, *LONG, "--output-dir", "run")
    wait_for_steps(process, Path("run/journal.jsonl"), 50)
    process.kill()
    process.communicate()
    before = load_run("run")
    assert before.status == "running"
    process = start("train", "--output-dir", "run", "--resume")
    wait_for_steps(process, Path("run/journal.jsonl"), before.steps[-1].iter + 20)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    run = load_run("run")
    assert [step.iter for step in run.steps] == list(range(1, len(run.steps) + 1))
    assert len(run.steps) > len(before.steps)
    assert len({header.run_id for header in run.headers}) == 1
    assert [event.event for event in run.events] == ["started", "resumed", "interrupted"]


@pytest.mark.slow
def test_ctrl_c_stops_compare_too_and_the_second_run_is_not_begun(start, wait_for_steps, tiny):
    process = start("compare", *tiny, *LONG, "--output-dir", "both")
    wait_for_steps(process, Path("both/mdlm/journal.jsonl"), 10)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1] == "go on with the same command"
    assert os.listdir("both") == ["mdlm"]


TORCHRUN = ("-m", "torch.distributed.run", "--nproc_per_node", "2")
ACCELERATE = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1")


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, (*ACCELERATE, "--mixed_precision", "no", "--dynamo_backend", "no")])
def test_two_processes_train_the_same_model_as_one_into_one_folder(start, hf, tiny, launcher):
    """The same optimiser batch of 4 sequences, on one process and on two; no --output-dir, so a name must be agreed on."""
    flags = [*tiny, "--max-steps", "6", "--global-batch-size", "4", "--experiment-name", "run"]
    process = start("train", *flags, "--per-device-train-batch-size", "2", launcher=launcher)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0, err
    assert out.count("run folder") == 1
    (folder,) = Path("runs").iterdir()
    two = load_run(folder)
    assert two.header.metadata["world_size"] == 2
    assert hf("train", *flags, "--output-dir", "one").code == 0
    one = load_run("one")
    for a, b in zip(two.evaluations, one.evaluations, strict=True):
        assert a.nll == pytest.approx(b.nll, abs=1e-5)
    assert [step.loss for step in two.steps] == pytest.approx([step.loss for step in one.steps], abs=1e-5)
    found = json.loads(hf("eval", folder, "--json").out)
    assert found["eval_nll"] == pytest.approx(one.best_evaluation.nll, abs=1e-5)
    assert (folder / "checkpoint-6" / "rng_state_1.pth").exists()


@pytest.mark.slow
def test_ctrl_c_stops_two_processes_at_the_same_step(start, wait_for_steps, tiny):
    process = start("train", *tiny, *LONG, "--output-dir", "run", launcher=TORCHRUN)
    wait_for_steps(process, Path("run/journal.jsonl"), 10)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it: to all of them
    process.communicate(timeout=90)
    run = load_run("run")
    assert run.status == "interrupted"
    assert damage(Path(f"run/checkpoint-{run.steps[-1].iter}")) is None


@pytest.mark.slow
def test_piped_output_is_free_of_progress_bars(start, tiny):
    process = start("train", *tiny, "--max-steps", "3", "--output-dir", "run")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "\r" not in out + err
    assert all(line.startswith("Step ") for line in err.splitlines()), err


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_a_progress_bar_and_lines_that_fit_it(tiny, cache_folder):
    import fcntl
    import pty
    import struct
    import subprocess
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_DATASETS_CACHE": str(cache_folder)}
    environment.pop("COLUMNS", None)
    cli = Path(__file__).parents[2] / "cli.py"
    command = [sys.executable, str(cli), "train", *tiny, "--max-steps", "60", "--output-dir", "run"]
    process = subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 65536):
            written += chunk
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    text = written.decode()
    assert "mdlm:" in text
    assert "step/s" in text
    lines = [line.split("\r")[-1] for line in text.replace("\r\n", "\n").splitlines()]
    assert all(len(line) <= 80 for line in lines if line.startswith("Step "))
