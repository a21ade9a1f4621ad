"""The README's promises that a test can hold: its Python example runs, its commands and pages exist."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_python_example_runs_as_written_and_prints_a_bound(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(example.strip().splitlines()) <= 20
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "bound: nelbo" in done.stdout
    assert (tmp_path / "runs/example/best/model.safetensors").exists()
    assert (tmp_path / "runs/example/journal.jsonl").exists()


def test_the_python_example_builds_the_same_model_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    built = []
    for _ in range(2):
        names: dict[str, Any] = {}
        exec(example.partition("args = ")[0], names)
        built.append(list(names["model"].parameters()))
        torch.rand(1)
    assert all(torch.equal(one, other) for one, other in zip(*built, strict=True))


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\((?!http)([^)#]+)\)", README))))
def test_every_link_of_the_readme_leads_somewhere(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_flag_the_documentation_shows_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    from hf_difflm.training.declarations.fields import own_fields, trainer_fields

    reference = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
    fields = {f"--{name.replace('_', '-')}" for name in [*own_fields(), *trainer_fields()]}
    known = fields | set(re.findall(r"--[a-z][\w-]+", reference))
    known |= {"--help-all"}
    for page in pages:
        for command in re.findall(r"hf-difflm [^\n`]*", page.read_text(encoding="utf-8")):
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", command):
                assert flag in known or f"--{flag.removeprefix('--no-')}" in known, f"{page.name}: {flag}"


def test_the_page_of_the_trainers_arguments_is_what_the_tables_say() -> None:
    spec = importlib.util.spec_from_file_location("write_trainer_arguments", ROOT / "docs/write_trainer_arguments.py")
    assert spec is not None
    assert spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.page() == (ROOT / "docs/trainer-arguments.md").read_text(encoding="utf-8"), "run `make docs`"


@pytest.mark.slow
def test_the_command_reference_is_what_the_program_says(tmp_path: Path) -> None:
    script = (ROOT / "docs/write_commands.py").read_text(encoding="utf-8")
    copy = tmp_path / "write_commands.py"
    copy.write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, copy], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=60)
    assert (tmp_path / "commands.md").read_text() == (ROOT / "docs/commands.md").read_text(), "run `make docs`"
