"""The floors and wings of the house, read from the source with ``ast``: nothing imports up, round, or in a circle."""

from __future__ import annotations

import ast
import functools
import importlib
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_difflm"

# Top to bottom; the packages of one floor do not import each other.
FLOORS = [
    {"commands"},
    {"experiments"},
    {"training"},
    {"hub"},
    {"callbacks"},
    {"evaluation"},
    {"objectives"},
    {"models", "data", "runs"},
    {"flops"},
]
LEVEL = {package: -depth for depth, packages in enumerate(FLOORS) for package in packages}
# Below all floors: they import no package of ours.
GROUND = {"errors", "lazy", "recipes"}
# Read before torch is: the declarations of options, and what choices are called.
LIGHT = {
    "data.options",
    "evaluation.generation.options",
    "evaluation.harness.options",
    "evaluation.likelihood.zero_shot_options",
    "models.options",
    "objectives.adaptive.names",
    "objectives.names",
    "training.declarations.monitoring_options",
    "training.options",
}
# Bottom to top, where a package has an order of its own; wings of one floor stand together. Elsewhere wings form no circle.
WINGS = {
    "runs": [
        {"journal"},
        {"foreign"},
        {"reading"},
        {"derived"},
        {"comparing"},
        {"checklist"},
        {"plots"},
        {"dashboard"},
        {"showing"},
        {"pages"},
    ],
    "evaluation": [{"likelihood"}, {"generation"}, {"quality", "metrics"}, {"harness"}],
}
# Imports of ours inside functions: the commands, each of which waits with the heavy ones until it runs, and these.
INSIDE = {
    "evaluation.harness.tasks": "lm-evaluation-harness is an extra",
    "evaluation.quality.sampler_grid": "the choice of samplers is read before torch is",
    "experiments.ablation.running": "a report on finished runs needs no torch",
    "experiments.several_runs": "finished runs are reused, and wrong settings told, before torch is there",
    "hub.log_files": "pictures need matplotlib; a training that pushes nothing does not",
    "hub.upload": "an upload needs no torch, unless a failure is to be told apart",
    "hub.weights": "copying files needs no torch; merging an adapter does",
    "models.__init__": "transformers is told of the models when one is first used",
    "runs.dashboard.process": "matplotlib is imported after the process has stepped back",
    "runs.derived.process": "numpy is imported after the process has stepped back",
    "runs.journal.reading": "pyarrow pays for large journals only",
}
# Old paths that stay, and where they lead; no others.
OLD_PATHS = {
    "evaluation.lm_eval_model": "evaluation.harness.lm_eval_model",
    "runs.html": "runs.pages.html",
    "runs.schema": "runs.journal.schema",
}
MOST_MODULES = 16
FLAT = {"models/masked_diffusion", "commands"}  # these very files travel to the Hub; one file a subcommand


@dataclass(frozen=True)
class Import:
    """One import of ours by one of ours; names are dotted, without the package; those of packages end in ``__init__``."""

    source: str
    target: str
    line: int
    inside: bool
    typing: bool

    def __str__(self) -> str:
        return f"{self.source}:{self.line} imports {self.target}"


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def dotted(path: Path) -> str:
    """``hf_difflm/runs/pages/html.py`` -> ``runs.pages.html``."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imports(path: Path) -> Iterator[str]:
    """Yield the absolute dotted name of everything a module imports; ``from a import b`` yields ``a.b``."""
    yield from (name for name, _, _, _ in _imports(path, ROOT))


@functools.cache
def _imports(path: Path, root: Path) -> list[tuple[str, int, bool, bool]]:
    """Return name, line, whether inside a function, and whether for type checkers only."""
    package = path.relative_to(root).with_suffix("").parts[:-1]  # also for __init__.py, whose last part is __init__

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[tuple[str, int, bool, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from ((alias.name, child.lineno, inside, typing) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                origin = ".".join([*base, *([child.module] if child.module else [])])
                yield from ((f"{origin}.{alias.name}", child.lineno, inside, typing) for alias in child.names)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(ast.Module(child.body, []), inside, True)
                yield from walk(ast.Module(child.orelse, []), inside, typing)
            else:
                function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
                yield from walk(child, inside or function, typing)

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), False, False))


def home(name: str) -> str:
    """Return a name of ours without the package: ``hf_difflm.runs.files.x`` -> ``runs.files.x``; "" for others."""
    return name.removeprefix("hf_difflm.") if name.startswith("hf_difflm.") else ""


def under(inner: str, places: set[str]) -> bool:
    return any(inner == place or inner.startswith(f"{place}.") for place in places)


def doors() -> dict[str, dict[str, str]]:
    """For each package, which module gives each name that its ``__init__.py`` imports, at once or on first use."""
    found: dict[str, dict[str, str]] = {}
    for path in (path for path in modules() if path.name == "__init__.py" and path.parent != PACKAGE):
        package = dotted(path).removesuffix(".__init__")
        names = {}
        for name in imports(path):
            if home(name).startswith(f"{package}."):
                module, _, last = home(name).rpartition(".")
                names[last] = module
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
                homes = ast.literal_eval(node.value)
                names |= {name: f"{package}.{place.removeprefix('.')}" for name, place in homes.items()}
        found[package] = names
    return found


def our_imports() -> list[Import]:
    """Every import of ours by ours, followed through ``__init__.py`` to the module that has the name."""
    known = {dotted(path) for path in modules()}
    given = doors()
    found = []
    for path in modules():
        for name, line, inside, typing in _imports(path, ROOT):
            parts = home(name).split(".")
            target = ""
            for end in range(len(parts), 0, -1):
                inner = ".".join(parts[:end])
                if inner in known:
                    target = inner
                elif f"{inner}.__init__" in known:
                    behind = given.get(inner, {}).get(parts[end] if end < len(parts) else "", "")
                    target = behind if behind in known else f"{inner}.__init__"
                if target:
                    break
            if target and target != dotted(path):
                found.append(Import(dotted(path), target, line, inside, typing))
    return found


def violations(path: Path) -> list[str]:
    """Return the imports of one module that run up, sideways to another package, or off the ground floor."""
    inner = dotted(path).removesuffix(".__init__")
    own = inner.split(".")[0]
    found = []
    for name in imports(path):
        target = home(name)
        other = target.split(".")[0]
        if not target or under(target, GROUND):
            continue
        if under(inner, GROUND):
            if other != own:
                found.append(name)
        elif own in LEVEL and other != own and LEVEL.get(other, 1) >= LEVEL[own] and other != "__version__":
            found.append(name)
    return found


def circles(edges: Mapping[str, set[str]]) -> list[list[str]]:
    """The sets of nodes that reach each other (Tarjan's strongly connected components of more than one node)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(edges.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            group = [stack.pop()]
            while group[-1] != node:
                group.append(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def file_circles() -> list[list[str]]:
    """Circles of modules; ``__init__.py`` and imports for type checkers do not count."""
    edges = defaultdict(set)
    for one in our_imports():
        if not (one.typing or one.source.endswith("__init__") or one.target.endswith("__init__")):
            edges[one.source].add(one.target)
    return circles(edges)


def wing(module: str) -> str:
    """``runs.pages.html`` -> ``runs.pages``, a wing; a file at the door of a package stands for itself."""
    parts = module.split(".")
    for names in WINGS.get(parts[0], ()):
        if len(parts) > 2 and parts[1] in names:
            return f"{parts[0]}.{'+'.join(sorted(names))}"
    return ".".join(parts[:2])


def wing_circles() -> list[list[str]]:
    """Circles of wings and of files at the door, within one package."""
    edges = defaultdict(set)
    for one in our_imports():
        package = one.source.split(".")[0]
        inner = one.target.split(".")[0] == package and not (one.typing or one.target == f"{package}.__init__")
        if inner and one.source != f"{package}.__init__" and wing(one.source) != wing(one.target):
            edges[wing(one.source)].add(wing(one.target))
    return circles(edges)


def round_the_floors() -> list[str]:
    """Imports of a lower wing that reach a higher one of the same package; those for type checkers count, too."""
    found = []
    for one in our_imports():
        order = WINGS.get(one.source.split(".")[0])
        if order is None or one.target.split(".")[0] != one.source.split(".")[0]:
            continue
        depth = {name: level for level, names in enumerate(order) for name in names}
        source, target = (depth.get(module.split(".")[1], -1) for module in (one.source, one.target))
        if 0 <= source < target:
            found.append(str(one))
    return found


def crowded() -> dict[str, int]:
    """Folders with too many modules besides ``__init__.py``."""
    count: dict[str, int] = defaultdict(int)
    for path in modules():
        count[str(path.parent.relative_to(PACKAGE))] += path.name != "__init__.py"
    return {folder: n for folder, n in count.items() if n > MOST_MODULES and folder not in FLAT}


def repeating() -> list[str]:
    """Files that are called like their folder, or say it before or after their own name."""
    found = []
    for path in modules():
        folder, stem = path.parent.name, path.stem
        names = {folder, folder.removesuffix("s")}
        free = str(path.parent.relative_to(PACKAGE)) in FLAT or path.parent.parent.name == "metrics"
        if not free and any(stem == name or stem.startswith(f"{name}_") or stem.endswith(f"_{name}") for name in names):
            found.append(name_of(path))
    return found


def inside_functions() -> dict[str, list[str]]:
    """Imports of ours inside functions, by module; those of the commands apart."""
    found = defaultdict(list)
    for one in our_imports():
        if one.inside and not one.source.startswith("commands."):
            found[one.source].append(str(one))
    return found


def test_there_is_something_to_read():
    assert {package for floor in FLOORS for package in floor} <= {path.parent.name for path in modules()}
    assert {folder.name for folder in PACKAGE.iterdir() if (folder / "__init__.py").exists()} == {*LEVEL, "recipes"}
    assert len(our_imports()) > 1000


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_import_runs_up(path):
    assert violations(path) == []


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

    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path / "hf_difflm")
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
