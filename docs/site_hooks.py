"""What the site has beside docs/: the README as its first page, an API reference, and the files that pages link to.

The pages are written to be read in the repository, too, so a link to a file outside docs/ goes to a copy of it here.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
API = {
    "training": ("hf_difflm.training", "The Trainer, and its arguments."),
    "callbacks": ("hf_difflm.callbacks", "They work in any transformers Trainer; [with examples](../callbacks.md)."),
    "models": ("hf_difflm.models", "The denoiser, which loads with plain transformers, and what builds models."),
    "objectives": ("hf_difflm.objectives", "What is minimised and reported; [how to add one](../extending.md)."),
    "data": ("hf_difflm.data", "From text to rows; [the ways there are](../data.md)."),
    "runs": ("hf_difflm.runs", "Run logs, read and compared without torch; [with examples](../reading-runs.md)."),
    "evaluation": ("hf_difflm.evaluation", "Likelihoods of any model, as numbers."),
}
MEMBERS = {"evaluation": ("hf_difflm.evaluation.likelihood.evaluate", ("evaluate_likelihood", "LikelihoodResult"))}
_LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")
_ROLE = re.compile(r":(?:class|meth|func|mod|data|attr|exc):\s*(?=<code>)")
_TEXT = {".py": "python", ".yaml": "yaml", ".json": "json", ".sh": "sh", ".sbatch": "sh", ".cfg": "ini"}


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made, and the files outside docs/ that pages link to."""
    for name, (package, sentence) in API.items():
        files.append(File.generated(config, f"api/{name}.md", content=_api(name, package, sentence)))
    files.append(File.generated(config, "index.md", content=(ROOT / "README.md").read_text(encoding="utf-8")))
    wanted = {Path("CHANGELOG.md")}
    for page in [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        ROOT / "benchmarks/README.md",
        *(ROOT / "docs").rglob("*.md"),
    ]:
        for _, link, _, _ in _LINK.findall(page.read_text(encoding="utf-8")):
            if (target := _target(page, link)) is not None and target.parts[0] != "docs":
                wanted.add(target)
    for target in sorted(wanted - {Path("README.md")}):
        path = ROOT / target
        if path.is_dir():
            names = sorted(one.name + "/" * one.is_dir() for one in path.iterdir() if not one.name.startswith("__"))
            content = f"# {target}\n\nA folder of the repository:\n\n" + "".join(f"- `{name}`\n" for name in names)
            files.append(File.generated(config, f"source/{target}/index.md", content=content))
        elif path.suffix == ".md":
            files.append(File.generated(config, f"source/{target}", content=path.read_text(encoding="utf-8")))
        else:
            language = _TEXT.get(path.suffix, "text")
            text = path.read_text(encoding="utf-8")
            content = f"# {target}\n\n````{language}\n{text}\n````\n"
            files.append(File.generated(config, f"source/{target}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Have links to files outside docs/ go to their copies."""
    uri = page.file.src_uri
    own = ROOT / (
        "README.md"
        if uri == "index.md"
        else uri.removeprefix("source/")
        if uri.startswith("source/")
        else f"docs/{uri}"
    )

    def there(match: re.Match[str]) -> str:
        before, link, anchor, after = match.groups()
        if (target := _target(own, link)) is None:
            return match.group()
        if target == Path("README.md"):
            found = "index.md"
        elif target.parts[0] == "docs":
            found = target.relative_to("docs").as_posix()
        elif (ROOT / target).is_dir():
            found = f"source/{target.as_posix()}/index.md"
        else:
            found = f"source/{target.as_posix()}" + ("" if target.suffix == ".md" else ".md")
        start = posixpath.dirname(uri) or "."
        return f"{before}{posixpath.relpath(found, start)}{anchor or ''}{after}"

    return markdown if uri.startswith("api/") else _LINK.sub(there, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Take the roles of reStructuredText out of docstrings: what they name stands there as code."""
    return _ROLE.sub("", html)


def _target(page: Path, link: str) -> Path | None:
    """The file of the repository that a link on a page goes to; None where it goes elsewhere."""
    if "://" in link or link.startswith(("mailto:", "/")):
        return None
    path = (page.parent / link).resolve()
    return path.relative_to(ROOT) if path.is_relative_to(ROOT) and path.exists() and path != ROOT else None


def _api(name: str, package: str, sentence: str) -> str:
    """A page of everything public in a package."""
    home, names = MEMBERS.get(name, (package, ()))
    module = importlib.import_module(home)
    lines = [f"# {package}", "", sentence, ""]
    for public in names or module.__all__:
        value = getattr(module, public)
        where = getattr(value, "__module__", home)
        if not isinstance(where, str) or not where.startswith("hf_difflm") or not hasattr(value, "__qualname__"):
            continue  # a type alias or a constant, which its module tells of
        lines += [f"::: {where}.{value.__qualname__}", ""]
    return "\n".join(lines)
