"""The floors and wings of the house, read from the source with ``ast``: nothing imports up, round, or in a circle."""

from __future__ import annotations

import ast
import functools
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "hf_difflm"

# Top to bottom; the packages of one floor do not import each other.
FLOORS = [
    {"commands"},
    {"serving"},
    {"experiments"},
    {"training"},
    {"hub"},
    {"callbacks"},
    {"evaluation"},
    {"objectives"},
    {"models", "data", "runs"},
    {"compat"},
    {"flops"},
]
LEVEL = {package: -depth for depth, packages in enumerate(FLOORS) for package in packages}
# A floor that is a file.
FLOOR_FILES = {"compat"}
# Below all floors: they import no package of ours.
GROUND = {"errors", "lazy", "recipes"}
# Read before torch is: the declarations of options, and what choices are called.
LIGHT = {
    "data.options",
    "evaluation.generation.options",
    "evaluation.harness.options",
    "evaluation.likelihood.exact_options",
    "evaluation.likelihood.zero_shot_options",
    "evaluation.protocols.options",
    "models.options",
    "objectives.adaptive.names",
    "objectives.names",
    "serving.api.options",
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
    "evaluation": [{"likelihood"}, {"protocols"}, {"audit", "generation"}, {"quality", "metrics"}, {"harness"}],
}
# Imports of ours inside functions: the commands, each of which waits with the heavy ones until it runs, and these.
INSIDE = {
    "evaluation.harness.tasks": "lm-evaluation-harness is an extra",
    "evaluation.quality.sampler_grid": "the choice of samplers is read before torch is",
    "experiments.ablation.running": "a report on finished runs needs no torch",
    "experiments.compare": "finished runs are compared without torch, unless exact likelihoods are asked for or models write",
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
