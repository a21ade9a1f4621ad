"""The floors and wings of the house hold, and what breaks them is found (`import_rules.py` has the rules)."""

from __future__ import annotations

import ast
import importlib
import sys
from pathlib import Path

import import_rules
import pytest
from import_rules import (
    FLOOR_FILES,
    FLOORS,
    GROUND,
    INSIDE,
    LEVEL,
    LIGHT,
    MOST_MODULES,
    OLD_PATHS,
    PACKAGE,
    crowded,
    dotted,
    file_circles,
    home,
    imports,
    inside_functions,
    modules,
    name_of,
    our_imports,
    repeating,
    round_the_floors,
    under,
    violations,
    wing_circles,
)


def test_there_is_something_to_read():
    assert {package for floor in FLOORS for package in floor} - FLOOR_FILES <= {path.parent.name for path in modules()}
    folders = {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()}
    assert folders == {*LEVEL, "recipes"} - FLOOR_FILES
    assert all((PACKAGE / f"{name}.py").exists() for name in FLOOR_FILES)
    assert len(our_imports()) > 1000


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_import_runs_up(path):
    assert violations(path) == []


def test_what_differs_between_versions_is_asked_for_without_torch_and_not_by_what_reads_runs():
    path = PACKAGE / "compat.py"
    assert {name for name, _, inside, _ in import_rules._imports(path, import_rules.ROOT) if not inside} <= {
        "__future__.annotations",
        "typing.Any",
        "hf_difflm.errors.UserError",
    }
    users = {one.source.split(".")[0] for one in our_imports() if one.target == "compat"}
    assert {"models", "training"} <= users
    assert not {"runs", "callbacks", "flops"} & users


def test_no_files_import_each_other_in_a_circle():
    assert file_circles() == []


def test_no_wings_import_each_other_in_a_circle():
    assert wing_circles() == []


def test_no_wing_reaches_round_its_own_floors():
    assert round_the_floors() == []


def test_no_folder_is_crowded():
    assert crowded() == {}


def test_no_file_repeats_the_name_of_its_folder():
    assert repeating() == []


def test_imports_inside_functions_are_those_with_a_reason():
    found = inside_functions()
    assert {name: lines for name, lines in found.items() if name not in INSIDE} == {}
    assert {name for name in INSIDE if name not in found} == set(), "these have none any more"


@pytest.mark.parametrize("path", sorted((PACKAGE / "training").rglob("*.py")), ids=name_of)
def test_the_trainer_knows_nothing_of_recipes_and_experiments(path):
    assert not {home(name).split(".")[0] for name in imports(path)} & {"recipes", "experiments", "commands"}


@pytest.mark.parametrize("path", [path for path in modules() if under(dotted(path), GROUND | LIGHT)], ids=name_of)
def test_what_is_read_before_torch_is_light(path):
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


@pytest.mark.parametrize(
    "path", sorted([*(PACKAGE / "runs").rglob("*.py"), *(PACKAGE / "flops").rglob("*.py")]), ids=name_of
)
def test_runs_and_flops_need_no_torch(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"torch", "transformers", "accelerate", "datasets"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "callbacks").rglob("*.py")), ids=name_of)
def test_callbacks_know_nothing_of_diffusion(path):
    assert not {home(name).split(".")[0] for name in imports(path)} & {"objectives", "models", "training"}


@pytest.mark.parametrize(("old", "new"), OLD_PATHS.items())
def test_an_old_path_leads_to_the_new_one(old, new):
    if "lm_eval" in old:
        pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (pip install lm_eval)")
    before, now = (importlib.import_module(f"hf_difflm.{name}") for name in (old, new))
    public = [name for name in vars(now) if not name.startswith("_")]
    assert all(getattr(before, name) is getattr(now, name) for name in public)


@pytest.mark.parametrize(
    ("old", "names"),
    [
        ("callbacks.reports", ["Reports", "reports_of"]),
        ("runs.plots", ["KINDS", "plot_comparison", "plot_runs"]),
        ("runs.reading", ["load_run", "load_runs"]),
    ],
)
def test_an_old_path_that_is_a_real_one_gives_its_names(old, names):
    module = importlib.import_module(f"hf_difflm.{old}")
    assert [name for name in names if not hasattr(module, name)] == []
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing


def test_there_are_no_further_old_paths_and_none_of_ours_takes_one():
    only_passing_on = {dotted(path) for path in modules() if "import *" in path.read_text(encoding="utf-8")}
    assert only_passing_on == set(OLD_PATHS)
    assert [str(one) for one in our_imports() if one.target in OLD_PATHS] == []


# The checks above can fail: planted violations are found, and allowed imports pass.


@pytest.fixture
def plant(tmp_path, monkeypatch):
    """``plant({"runs/x.py": "import y", ...})``: a house of these files alone, each folder a package."""

    def make(files: dict[str, str]) -> Path:
        for module, source in files.items():
            path = tmp_path / "hf_difflm" / module
            path.parent.mkdir(parents=True, exist_ok=True)
            for folder in path.relative_to(tmp_path).parents[:-1]:
                (tmp_path / folder / "__init__.py").touch()
            path.write_text(source)
        return path

    monkeypatch.setattr(import_rules, "ROOT", tmp_path)
    monkeypatch.setattr(import_rules, "PACKAGE", tmp_path / "hf_difflm")
    return make


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("runs/x.py", "from ..training import settings", ["hf_difflm.training.settings"]),
        ("runs/x.py", "def f():\n    import hf_difflm.evaluation.likelihood", ["hf_difflm.evaluation.likelihood"]),
        ("runs/pages/x.py", "from ...experiments import y", ["hf_difflm.experiments.y"]),
        ("data/x.py", "from ..models.build import build_model", ["hf_difflm.models.build.build_model"]),
        ("objectives/__init__.py", "from ..training.trainer import T", ["hf_difflm.training.trainer.T"]),
        ("objectives/x.py", "from ..training.options import D", ["hf_difflm.training.options.D"]),
        ("training/x.py", "if TYPE_CHECKING:\n    from ..experiments import y", ["hf_difflm.experiments.y"]),
        ("flops/x.py", "from ..runs.journal import y", ["hf_difflm.runs.journal.y"]),
        ("data/x.py", "from ..errors import UserError\nfrom ..flops import z\nfrom . import y", []),
        ("training/x.py", "from ..data import prepare\nfrom .. import __version__\nimport torch", []),
        ("recipes/x.py", "from ..training import settings", ["hf_difflm.training.settings"]),
    ],
)
def test_a_climb_is_found(plant, module, source, wrong):
    assert violations(plant({module: source})) == wrong


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"data/a.py": "from .b import x", "data/b.py": "from . import a"}, [["data.a", "data.b"]]),
        ({"data/a.py": "from .b import x", "data/b.py": "def f():\n    from . import a"}, [["data.a", "data.b"]]),
        (
            {
                "data/a.py": "from .b import x",
                "data/b.py": "from hf_difflm.data import Y",
                "data/__init__.py": '_HOMES = {"Y": ".a"}',
            },
            [["data.a", "data.b"]],
        ),
        ({"data/a.py": "from .b import x", "data/b.py": "if TYPE_CHECKING:\n    from . import a"}, []),
        ({"data/a.py": "from .b import x", "data/b.py": "from .c import y", "data/c.py": "import os"}, []),
    ],
)
def test_a_circle_of_files_is_found(plant, files, wrong):
    plant(files)
    assert file_circles() == wrong


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        (
            {"hub/card/a.py": "from ..x import f", "hub/x.py": "from .card.b import g", "hub/card/b.py": ""},
            [["hub.card", "hub.x"]],
        ),
        (
            {
                "callbacks/journal/a.py": "from ..measuring.b import f",
                "callbacks/measuring/b.py": "",
                "callbacks/measuring/c.py": "from ..journal.d import g",
                "callbacks/journal/d.py": "",
            },
            [["callbacks.journal", "callbacks.measuring"]],
        ),
        ({"hub/card/a.py": "from ..x import f", "hub/x.py": "from .y import g", "hub/y.py": ""}, []),
        ({"evaluation/quality/a.py": "from ..metrics.b import f", "evaluation/metrics/b.py": ""}, []),
    ],
)
def test_a_circle_of_wings_is_found(plant, files, wrong):
    plant(files)
    assert wing_circles() == wrong


@pytest.mark.parametrize(
    ("files", "wrong"),
    [
        ({"runs/journal/a.py": "from ..pages.b import f", "runs/pages/b.py": ""}, ["runs.pages.b"]),
        ({"runs/plots/a.py": "from ..dashboard.b import f", "runs/dashboard/b.py": ""}, ["runs.dashboard.b"]),
        (
            {"evaluation/generation/a.py": "def f():\n    from ..metrics.b import f", "evaluation/metrics/b.py": ""},
            ["evaluation.metrics.b"],
        ),
        ({"runs/pages/a.py": "from ..journal.b import f", "runs/journal/b.py": ""}, []),
    ],
)
def test_a_reach_round_the_wings_is_found(plant, files, wrong):
    plant(files)
    assert [line.rpartition(" ")[2] for line in round_the_floors()] == wrong


def test_a_crowd_a_repeated_name_and_an_import_inside_a_function_are_found(plant):
    plant({f"data/sources/m{n}.py": "" for n in range(MOST_MODULES + 1)})
    plant({f"data/streaming/m{n}.py": "" for n in range(MOST_MODULES)})
    assert crowded() == {"data/sources": MOST_MODULES + 1}
    plant({"hub/card/card_text.py": "", "hub/card/text.py": "", "runs/plots/more_plots.py": "", "hub/hub.py": ""})
    assert repeating() == ["hub/card/card_text.py", "hub/hub.py", "runs/plots/more_plots.py"]
    plant({"hub/x.py": "def f():\n    from . import hub", "commands/x.py": "def f():\n    from ..hub import x"})
    assert list(inside_functions()) == ["hub.x"]
