"""Run the tests marked ``stack`` and the toy of the GPU script on the oldest versions that setup.cfg names, and on others.

``make stacks`` runs it by hand, for older torch builds bring gigabytes: an environment a stack, one after the other, each
removed again, and what was run, when, on which versions and with how many tests goes into ``benchmarks/results/stacks.json``.
A stack without a Python of its version here takes the interpreter that runs this.
"""

from __future__ import annotations

import argparse
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks/results/stacks.json"
_TOOLS = ("pytest", "pytest-timeout")
_TOLD = (
    "torch",
    "transformers",
    "accelerate",
    "datasets",
    "huggingface_hub",
    "numpy",
    "matplotlib",
    "evaluate",
    "wandb",
)
_VERSIONS = """
import importlib.metadata as m, json, platform, sys
known = {}
for name in sys.argv[1:]:
    try:
        known[name] = m.version(name)
    except m.PackageNotFoundError:
        known[name] = None
print(json.dumps({"python": platform.python_version(), **known}))
"""


def bounds(path: Path = ROOT / "setup.cfg") -> dict[str, str]:
    """The lower bound of each package that setup.cfg requires, by name, and ``python``.

    Raises:
        ValueError: a line has another form than ``name>=version``.
    """
    parsed = configparser.ConfigParser()
    parsed.read(path, encoding="utf-8")
    options = parsed["options"]
    found = {}
    for line in ["python" + options["python_requires"], *options["install_requires"].split()]:
        match = re.fullmatch(r"([\w.-]+)>=([\w.]+)", line.strip())
        if match is None:
            raise ValueError(f"setup.cfg asks for {line!r}; write one bound a package, name>=version")
        found[match[1]] = match[2]
    return found


@dataclass(frozen=True)
class Stack:
    """One environment.

    Args:
        name: in the results.
        why: whom it stands for.
        pins: packages and their versions; what they need besides comes as pip finds it.
        python: version, as 3.10.
        gpu_script: whether the GPU script's toy is run, which trains.
        compiles: whether its parts that compile are expected to be done.
        also: packages of any version.
    """

    name: str
    why: str
    pins: dict[str, str]
    python: str
    gpu_script: bool = True
    compiles: bool = True
    also: tuple[str, ...] = field(default=())


def stacks() -> list[Stack]:
    """Those at the bounds, the oldest that trains, and one like that of the GPU machines."""
    oldest = bounds()
    python = oldest.pop("python")
    return [
        Stack(
            "bounds", "setup.cfg's lower bounds: callbacks, run logs and commands that read runs", oldest, python, False
        ),
        Stack(
            "training", "the same with the oldest transformers that trains", oldest | TRAINING, python, compiles=False
        ),
        Stack(
            "gpu",
            "what GPU machines have: no datasets, evaluate or wandb",
            {"torch": "2.11.0", "transformers": "5.17.0", "accelerate": "1.15.0"},
            "3.11",
            also=("numpy", "scipy", "matplotlib", "pyyaml", "rich", "safetensors", "tqdm", "typer"),
        ),
    ]


TRAINING = {"transformers": "5.11.0", "huggingface_hub": "1.5.0"}
"""What differs from the bounds in the oldest stack that trains."""


def make(stack: Stack, folder: Path) -> Path:
    """Make the environment where it is not there, bring its packages to the stack's versions, return its interpreter."""
    python = folder / "bin/python"
    if not python.exists():
        found = shutil.which(f"python{stack.python}") or sys.executable
        subprocess.run([found, "-m", "venv", folder], check=True)
    pins = [f"{name}=={version}" for name, version in stack.pins.items()]
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *pins, *stack.also, *_TOOLS]
    subprocess.run(command, check=True)
    return python


def tested(python: Path, folder: Path) -> dict[str, Any]:
    """Run the tests marked ``stack``: how many passed, failed and were skipped, and the seconds."""
    report = folder / "stack.xml"
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "-m", "stack", "tests/stacks"]
    subprocess.run([*command, f"--junitxml={report}"], cwd=ROOT, env=_environment())
    suite = next(ET.parse(report).iter("testsuite"))
    count = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    failed = count["failures"] + count["errors"]
    passed = count["tests"] - failed - count["skipped"]
    return {
        "passed": passed,
        "failed": failed,
        "skipped": count["skipped"],
        "seconds": round(float(suite.get("time", 0))),
    }


def toy(python: Path, folder: Path) -> dict[str, Any]:
    """Run ``gpu.sh --device cpu --toy``: which parts are done, and which are not."""
    command = [
        "bash",
        "benchmarks/gpu.sh",
        "--device",
        "cpu",
        "--toy",
        "--seconds",
        "3600",
        "--output",
        str(folder / "gpu"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=_environment(PYTHON=str(python)), capture_output=True, text=True)
    said = dict(re.findall(r"^(gpu_\w+): (.*)$", done.stdout.replace(f"{folder}/gpu/", ""), flags=re.MULTILINE))
    return {
        "done": sorted(name for name, words in said.items() if words.startswith("done")),
        "not_done": {name: words for name, words in sorted(said.items()) if not words.startswith("done")},
    }


def _environment(**more: str) -> dict[str, str]:
    fixed = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | fixed | more


def main() -> int:
    known = {stack.name: stack for stack in stacks()}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(known)}; default: all")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs/stacks", help="where environments are made")
    parser.add_argument("--keep", action="store_true", help="do not remove them")
    given = parser.parse_args()
    sound = True
    for name in given.names or known:
        stack = known[name]
        # Those of one torch share an environment: it is most of the bytes.
        place = given.folder.resolve() / f"torch-{stack.pins['torch']}"
        python = make(stack, place)
        told = subprocess.run([python, "-c", _VERSIONS, *_TOLD], check=True, capture_output=True, text=True).stdout
        found = {"why": stack.why, "date": date.today().isoformat(), "versions": json.loads(told)}
        found["tests"] = tested(python, place)
        shutil.rmtree(place / "gpu", ignore_errors=True)
        found["gpu_script"] = toy(python, place) if stack.gpu_script else None
        late = stack.compiles and (found["gpu_script"] or {}).get("not_done")
        sound = sound and not found["tests"]["failed"] and not late
        results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {"stacks": {}}
        results["stacks"][name] = found
        if name == "bounds":
            results["bounds"] = bounds()
        RESULTS.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {found['tests']}, GPU script: {found['gpu_script']}", flush=True)
    if not given.keep:
        shutil.rmtree(given.folder, ignore_errors=True)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
