"""The command line as a user meets it: real commands on a tiny model, each in a folder of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import datasets
import pytest

from hf_difflm.commands import app
from hf_difflm.runs import load_run

ROOT = Path(__file__).parents[2]
MODEL = "--hidden-size 32 --num-hidden-layers 1 --num-attention-heads 2 --block-size 33"
INTERVALS = "--logging-steps 2 --eval-steps 3 --save-steps 3 --max-eval-blocks 8 --eval-replicates 2"
# Drawing takes a process and a second: the tests of the dashboard ask for it.
MONITORING = "--viz-interval 0 --generation-max-new-tokens 16"
_TINY = f"--dataset markov {MODEL} {INTERVALS} {MONITORING} --per-device-train-batch-size 4 --use-cpu".split()


class Result(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Result]
Start = Callable[..., "subprocess.Popen[str]"]


def run_command(*args: str | Path) -> Result:
    """Run one command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as stop:
        app([str(arg) for arg in args])
    return Result(int(stop.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture
def hf() -> Command:
    """``hf("eval", run, "--json")`` runs it in this process and returns exit code, stdout and stderr."""
    return run_command


@pytest.fixture
def start(cache_folder: Path) -> Iterator[Start]:
    """``start("train", ...)`` starts it in a process of its own, which does not outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def call(*args: str | Path, launcher: tuple[str, ...] = ()) -> subprocess.Popen[str]:
        command = [sys.executable, *launcher, str(ROOT / "cli.py"), *map(str, args)]
        environment = {
            "OMP_NUM_THREADS": "1",
            "HF_DATASETS_CACHE": str(cache_folder),
            "TOKENIZERS_PARALLELISM": "false",
        }
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        # A session of its own, so that all the processes a launcher starts can be ended with it.
        process = subprocess.Popen(command, env=os.environ | environment, start_new_session=True, **pipes)
        started.append(process)
        return process

    yield call
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hf_datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        yield folder


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory, cache_folder: Path) -> dict[str, Path]:
    folders = {}
    for objective in ("mdlm", "ar"):
        folder = tmp_path_factory.mktemp(objective) / "run"
        result = run_command("train", *_TINY, "--max-steps", "6", "--objective", objective, "--output-dir", folder)
        assert result.code == 0, result.err
        folders[objective] = folder
    return folders


@pytest.fixture
def trained(_trained: dict[str, Path], tmp_path: Path) -> Path:
    """A finished masked diffusion run of 6 steps, evaluated and saved at 3 and 6; a copy for this test alone."""
    return Path(shutil.copytree(_trained["mdlm"], tmp_path / "trained"))


@pytest.fixture
def trained_ar(_trained: dict[str, Path], tmp_path: Path) -> Path:
    """Its autoregressive twin."""
    return Path(shutil.copytree(_trained["ar"], tmp_path / "trained_ar"))


@pytest.fixture
def tiny() -> list[str]:
    """Flags of a run on synthetic text that takes milliseconds a step; the number of steps is left to the test."""
    return list(_TINY)


@pytest.fixture
def wait_for_steps() -> Callable[[subprocess.Popen[str], Path, int], None]:
    """``wait_for_steps(process, journal, 5)`` returns once the run has logged so many steps."""

    def wait(process: subprocess.Popen[str], journal: Path, steps: int) -> None:
        deadline = time.monotonic() + 120
        while not _has_header(journal) or len(load_run(journal).steps) < steps:
            if process.poll() is not None:
                pytest.fail(f"the run ended before step {steps}: {process.communicate()}")
            if time.monotonic() > deadline:
                pytest.fail(f"the run has not come to step {steps} in two minutes")
            time.sleep(0.05)

    return wait


def _has_header(journal: Path) -> bool:
    return journal.exists() and journal.read_bytes().count(b"\n") > 0


@pytest.fixture
def strike() -> Callable[[Path, str], None]:
    """``strike(run, "completed")`` takes an event out of a run's journal, as if it had never been written."""

    def call(run: Path, event: str) -> None:
        journal = Path(run) / "journal.jsonl"
        lines = journal.read_text().splitlines(keepends=True)
        journal.write_text("".join(line for line in lines if json.loads(line).get("event") != event))

    return call


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """``snapshot(folder)`` is every file in it with its content."""

    def take(folder: Path) -> dict[str, bytes]:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return take
