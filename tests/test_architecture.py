"""The floors of the house: no import runs up. Read from the source with ``ast``, imports inside functions included."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_difflm"

# Top to bottom; the packages of one floor do not import each other.
FLOORS = [
    {"commands"},
    {"training"},
    {"hub"},
    {"callbacks"},
    {"evaluation"},
    {"objectives"},
    {"models", "data", "runs"},
]
LEVEL = {package: -depth for depth, packages in enumerate(FLOORS) for package in packages}
# The ground: the one exception, the declarations of the options, and the recipes, which import no other package.
GROUND = {"errors", "recipes", "data.options", "models.options", "training.options"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute dotted name of everything a module imports; ``from a import b`` yields ``a.b``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    package = parts[:-1]  # also for __init__.py, whose last part is __init__
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def home(name: str) -> str:
    """Return a name of ours without the package: ``hf_difflm.runs.journal.files.x`` -> ``runs.files.x``; "" for others."""
    return name.removeprefix("hf_difflm.") if name.startswith("hf_difflm.") else ""


def is_ground(inner: str) -> bool:
    return any(inner == ground or inner.startswith(f"{ground}.") for ground in GROUND)


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def violations(path: Path) -> list[str]:
    """Return the imports of one module that run up, sideways to another package, or off the ground floor."""
    inner = ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    own = inner.split(".")[0]
    found = []
    for name in imports(path):
        target = home(name)
        if not target or is_ground(target):
            continue
        other = target.split(".")[0]
        if is_ground(inner) and own not in LEVEL:
            if other != own:
                found.append(name)
        elif own in LEVEL and other != own and LEVEL.get(other, 1) >= LEVEL[own] and other != "__version__":
            found.append(name)
    return found


def test_there_is_something_to_read():
    assert {"commands", "training", "data", "models", "runs"} <= {path.parent.name for path in modules()}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_import_runs_up(path):
    assert violations(path) == []


@pytest.mark.parametrize(
    "path", [p for p in modules() if is_ground(".".join(p.relative_to(PACKAGE).with_suffix("").parts))], ids=name_of
)
def test_the_ground_floor_is_light(path):
    roots = {name.split(".")[0] for name in imports(path)}
    assert roots <= {"hf_difflm", "yaml", *sys.stdlib_module_names}


@pytest.mark.parametrize("path", sorted((PACKAGE / "models" / "masked_diffusion").glob("*.py")), ids=name_of)
def test_the_model_folder_can_be_pushed_as_remote_code(path):
    """Only torch, transformers, numpy and the standard library; relative imports only within the folder."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1, f"line {node.lineno} leaves the folder"
    for name in imports(path):
        inside = name.startswith("hf_difflm.models.masked_diffusion.")
        assert inside or name.split(".")[0] in {"torch", "transformers", "numpy", *sys.stdlib_module_names}, name


@pytest.mark.parametrize("path", sorted((PACKAGE / "runs").rglob("*.py")), ids=name_of)
def test_runs_need_no_torch(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers", "accelerate", "datasets"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "callbacks").rglob("*.py")), ids=name_of)
def test_callbacks_know_nothing_of_diffusion(path):
    assert not {home(name).split(".")[0] for name in imports(path)} & {"objectives", "models", "training"}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("runs/x.py", "from ..training import settings", ["hf_difflm.experiments.recipe_settings"]),
        (
            "runs/x.py",
            "def f():\n    import hf_difflm.evaluation.likelihood.evaluate",
            ["hf_difflm.evaluation.likelihood.evaluate"],
        ),
        ("data/x.py", "from ..models.build import build_model", ["hf_difflm.models.build.build_model"]),
        ("objectives/__init__.py", "from ..training.trainer import T", ["hf_difflm.training.trainer.T"]),
        ("data/x.py", "from ..training.options import OBJECTIVES\nfrom ..errors import UserError\nfrom . import y", []),
        ("training/x.py", "from ..data import prepare\nfrom .. import __version__\nimport torch", []),
        ("recipes/x.py", "from ..training import settings", ["hf_difflm.experiments.recipe_settings"]),
    ],
)
def test_the_reading_of_imports_itself(tmp_path, monkeypatch, module, source, wrong):
    """The checks above can fail: planted violations are found, and allowed imports pass."""
    path = tmp_path / "hf_difflm" / module
    path.parent.mkdir(parents=True)
    path.write_text(source)
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "hf_difflm")
    assert violations(path) == wrong
