"""``benchmarks/gpu.sh`` at toy size: parts keep what they have, a killed call is gone on with; docs tell what it measured."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def command(folder: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHON": sys.executable}
    return ["bash", str(SCRIPT), "--device", "cpu", "--toy", "--output", str(folder), *more], environment


def run(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    arguments, environment = command(folder, *more)
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("_gpu_page")


@pytest.mark.slow
def test_a_killed_call_loses_nothing_and_the_next_one_goes_on(tmp_path, page):
    parts = ("--parts", "gpu_attention gpu_memory")
    arguments, environment = command(tmp_path, *parts)
    first = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    memory = tmp_path / "gpu_memory.json"
    until = time.monotonic() + 200
    while not memory.exists() and time.monotonic() < until:  # its first row is there: kill it amid the second
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGKILL)
    said = first.communicate()[0]
    assert "gpu_attention: done" in said
    cut_off = json.loads(memory.read_text())
    assert cut_off["finished"] is False
    second = run(tmp_path, *parts)
    assert second.returncode == 0, second.stdout + (tmp_path / "gpu.log").read_text()[-2000:]
    assert "gpu_attention: there already" in second.stdout
    assert "gpu_memory: done" in second.stdout
    whole = json.loads(memory.read_text())
    assert whole["finished"] is True
    assert whole["rows"][: len(cut_off["rows"])] == cut_off["rows"]
    assert len(whole["rows"]) == 5
    assert not (ROOT / "benchmarks" / "results" / "gpu_memory.json").exists()  # a toy measures nothing
    assert "sdpa, documents" in page.gpu_part(tmp_path)


@pytest.mark.slow
def test_the_checks_hold_on_a_cpu(tmp_path):
    done = run(tmp_path, "--parts", "gpu_check")
    assert done.returncode == 0, done.stdout + (tmp_path / "gpu.log").read_text()[-2000:]
    result = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [claim["what"] for claim in result["claims"] if not claim["holds"]] == []
    assert len(result["claims"]) >= 20
    assert [row for row in result["rows"] if "error" in row] == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--parts", "gpu_nothing"), "no part is called gpu_nothing"),
        (("--frobnicate",), "unknown argument --frobnicate"),
    ],
)
def test_a_mistake_is_a_sentence(tmp_path, arguments, sentence):
    done = run(tmp_path, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def row(**more: Any) -> dict[str, Any]:
    return {"size": "124M", "side": "labelled", "compile": True, "micro_batch": 32, **more}


def test_the_page_shows_what_was_measured_and_what_does_not_hold(page, tmp_path):
    trained = row(
        tokens_per_sec=1234.5, ms_per_step=26.54, mfu_percent=41.26, percent_of_product=50.0, peak_memory=2**31
    )
    failed = row(error="RuntimeError: no")
    claim = {"what": "noise", "holds": True}
    (tmp_path / "gpu_train_124M.json").write_text(json.dumps({"card": "A card", "rows": [trained, failed]}))
    checks = {"card": "A card", "rows": [], "claims": [claim, claim | {"what": "waits", "holds": False}]}
    (tmp_path / "gpu_check.json").write_text(json.dumps(checks))
    part = page.gpu_part(tmp_path)
    assert "### Measured on A card" in part
    assert "Of 2 checks of the GPU against the CPU 1 hold; not: waits." in part
    assert "| 124M, labelled | yes | 32 | 1,234 | 26.5 | 41.3 % | 50.0 % | 2.00 GiB |" in part
    assert "no |" not in part
    text = f"a\n{page.BEGIN}old\n{page.END}b\n"
    assert page.with_gpu_part(text, tmp_path) == f"a\n{page.BEGIN}{part}{page.END}b\n"


def test_without_results_there_are_no_rows_not_even_a_heading(page, tmp_path):
    assert page.with_gpu_part(f"a\n{page.BEGIN}old\n{page.END}b\n", tmp_path) == f"a\n{page.BEGIN}{page.END}b\n"
    with pytest.raises(ValueError, match="no lines"):
        page.with_gpu_part("a\n", tmp_path)


def test_the_docs_are_what_the_results_say(page):
    written = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert page.with_gpu_part(written, ROOT / "benchmarks" / "results") == written, (
        "run python benchmarks/write_readme.py"
    )
