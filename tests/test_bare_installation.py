"""Training, its logs and importing the benchmarks need no more than a machine with a GPU usually has: no text or pictures."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READS_TEXT = ("datasets", "pyarrow", "evaluate", "typer", "wandb", "scipy", "tensorboard", "peft", "trl", "lm_eval")
DRAWS = "matplotlib"

# Hides packages as if they were not installed: from `import` and from those who only ask whether they are there.
_PROGRAM = """
import importlib, importlib.metadata, importlib.machinery, json, pkgutil, sys
hidden, public_of, packages = ([name for name in text.split(",") if name] for text in sys.argv[1:])
names = list(public_of)
find = importlib.machinery.PathFinder.find_spec
class Finder(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in hidden else find(name, path, target)
sys.meta_path[:] = [Finder if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
for package in packages:
    module = importlib.import_module(package)
    names += [found.name for found in pkgutil.walk_packages(module.__path__, package + ".")]
failed = {}
for name in names:
    try:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):
            if name in public_of:
                getattr(module, public)
    except Exception as error:
        failed[name] = f"{type(error).__name__}: {error}"
print(json.dumps({"failed": failed, "seen": len(names), "there": sorted(set(hidden) & set(sys.modules))}))
"""


def imported(hidden: tuple[str, ...], names: tuple[str, ...] = (), packages: tuple[str, ...] = ()) -> dict:
    """Import modules, and every module of packages, in a process without ``hidden``; of ``names`` the public names, too."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT / "benchmarks"), str(ROOT))),  # `callbacks` is there in both
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-c", _PROGRAM, ",".join(hidden), ",".join(names), ",".join(packages)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT / "benchmarks", capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_what_trains_and_every_benchmark_imports_nothing_that_reads_text_or_draws():
    names = tuple(f"hf_difflm.{package}" for package in ("models", "objectives", "training", "callbacks"))
    benchmarks = tuple(path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")))
    assert {"gpu_train", "gpu_check", "training_step"} <= set(benchmarks)
    answer = imported((*READS_TEXT, DRAWS), ("hf_difflm", *names, "hf_difflm.runs.journal.run", *benchmarks))
    assert answer == {"failed": {}, "seen": 6 + len(benchmarks), "there": []}


def test_what_reads_runs_imports_without_what_reads_text_or_a_command_line():
    assert imported((*READS_TEXT, "torch", "transformers"), ("hf_difflm", "hf_difflm.runs"))["failed"] == {
        "hf_difflm": "ModuleNotFoundError: No module named 'transformers'"  # for its Trainer and its models alone
    }
    assert imported(READS_TEXT, ("hf_difflm.runs", "hf_difflm.data.options"))["failed"] == {}


def test_the_package_is_imported_in_a_fifth_of_a_second():
    def seconds(line: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", line], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # Processor time beyond that of the interpreter, the better of three: others may be at work.
    assert (
        min(seconds("import hf_difflm, hf_difflm.callbacks, hf_difflm.runs") - seconds("pass") for _ in range(3)) < 0.2
    )


def test_every_module_of_the_library_that_trains_imports_without_what_reads_text():
    names = ("models", "objectives", "training", "callbacks", "runs", "flops")
    packages = tuple(f"hf_difflm.{package}" for package in names)
    answer = imported(READS_TEXT, packages=packages)
    # This one is named for what it needs.
    assert set(answer["failed"]) == {"hf_difflm.runs.journal.arrow"}
    assert answer["seen"] > 150
    assert answer["there"] == []


@pytest.mark.parametrize("hidden", ["datasets", "transformers"])
def test_the_hiding_itself_hides(hidden):
    assert "ModuleNotFoundError" in imported((hidden,), (hidden,))["failed"][hidden]
