"""``hf-difflm eval --generation``: samplers and numbers of steps, their quality and their cost, as table and picture."""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ...errors import UserError
from ...models.masked_diffusion.generation_configuration import NEW_TOKENS
from ...runs.comparing.pareto import CAUSAL, GenerationPoint, pareto_front, pareto_rows
from ...runs.journal.atomic_files import JOURNAL_NAME
from ...runs.journal.strict_json import dumps, plain
from ...runs.journal.tables import markdown_table, printable, shortened, text_table
from ...runs.pages.write_markdown import write_markdown
from ...runs.plots.pareto import check_picture, plot_pareto
from ...runs.reading.places import shown
from ..generation.importance_weights import importance_for
from ..generation.options import GenerationOptions
from ..likelihood.zero_shot import evaluation_data
from ..targets import Target, load_target
from .generation_cost import measure_generation
from .reference_model import ReferenceModel, load_reference
from .sampler_grid import SamplerChoice, trials

SAMPLERS = tuple(SamplerChoice(name) for name in ("ddpm_cache", "remdm", "low_confidence", "entropy_bounded"))
STEPS = (8, 32, 128)
PICTURE = "generation-pareto.png"


@dataclass(frozen=True)
class GridRequest:
    """What is tried, and what is told about it.

    Args:
        samplers: with their parameters; None: ``SAMPLERS``.
        steps: most denoising steps; None: ``STEPS``.
        samples: texts for each row.
        batch_size: texts generated together.
        reference_model: run, folder or Hub name of a causal LM; None: the ``ar`` run beside a run, where there is one.
        mauve: compare with the evaluation data of the run too.
        plot: picture; None: ``generation-pareto.png`` in the folder of a run, else none.
        form: ``text``, ``json`` or ``markdown``.
        page: markdown page to write: the table and the picture, which is beside it where ``plot`` says nothing.
    """

    samplers: Sequence[SamplerChoice] | None = None
    steps: Sequence[int] | None = None
    samples: int = 16
    batch_size: int = 16
    reference_model: str | None = None
    mauve: bool = False
    plot: Path | None = None
    form: str = "text"
    page: Path | None = None


def evaluate_generation(target: str, request: GridRequest, options: GenerationOptions, changes: dict[str, Any]) -> None:
    """Draw texts from nothing with each sampler and number of steps, and print what they are worth and what they cost.

    A sampler that says itself how many tokens a step reveals is tried once, with as many steps as it likes. Where the
    reference is the twin of a run, its own texts are one more row.

    Args:
        target: see :func:`load_target`.
        request: what is tried.
        options: the rest of how texts are drawn, the same for all.
        changes: settings of data and device that differ from those of the run.

    Raises:
        UserError: nothing to load, no reference for MAUVE, or what the model cannot do.
    """
    for choice in request.samplers or ():
        choice.check()
    loaded = load_target(target, use_cpu=changes.get("use_cpu", False), revision=changes.get("revision"))
    if not loaded.is_denoiser and (request.samplers or request.steps):
        raise UserError("samplers and steps are for masked diffusion models, but this is a causal LM; leave them out")
    check_picture(_picture(target, request))
    name = request.reference_model or _twin(target, loaded)
    if name is None and request.mauve:
        raise UserError("MAUVE compares features of a language model; name one with --reference-model")
    reference = None if name is None else load_reference(name, loaded.model.device)
    if reference is None:
        print(
            "no perplexity is told: there is no causal LM to tell it; name one with --reference-model", file=sys.stderr
        )
    if options.max_new_tokens is None:
        options = dataclasses.replace(options, max_new_tokens=_new_tokens(loaded))
    real = _real_texts(loaded, changes, options, request.samples) if request.mauve else []
    points = _points(loaded, request, options, reference, real)
    picture = _picture(target, request)
    label = None if reference is None else shown(Path(reference.name))
    if picture is not None:
        title = f"{shortened(shown(Path(target)))}: {request.samples} texts of {options.max_new_tokens} tokens each"
        plot_pareto(points, picture, title=title, reference=label)
    _print(points, request, loaded, options, label)
    if picture is not None:
        print(f"picture: {picture}", file=sys.stderr)
    if request.page is not None:
        _write_page(request.page, target, points, request, _explanation(points, request, options, label), picture)
        print(f"page: {request.page}", file=sys.stderr)


def _points(
    loaded: Target, request: GridRequest, options: GenerationOptions, reference: ReferenceModel | None, real: list[str]
) -> list[GenerationPoint]:
    tried: list[tuple[Any, Any, SamplerChoice | None, int, int | None]] = []
    if loaded.is_denoiser:
        assert options.max_new_tokens is not None
        grid = trials(request.samplers or SAMPLERS, request.steps or STEPS, max(options.max_new_tokens, 1))
        tried += [(loaded.model, loaded.tokenizer, *trial) for trial in grid]
        if reference is not None and _same_tokens(reference.tokenizer, loaded.tokenizer):
            tried.append((reference.model, reference.tokenizer, None, 0, None))
    else:
        tried.append((loaded.model, loaded.tokenizer, None, 0, None))
    points = []
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task("generate", total=len(tried))
        for model, tokenizer, choice, most_steps, steps in tried:
            own = options if choice is None else choice.options(options, most_steps)
            what = own.sampler or CAUSAL
            progress.update(task, description=what if steps is None else f"{what}, {steps} steps")
            point, _ = measure_generation(
                model,
                tokenizer,
                own,
                request.samples,
                is_denoiser=choice is not None,
                batch_size=request.batch_size,
                reference=reference,
                real=real,
                importance=None if choice is None else importance_for(loaded, own),
            )
            parameters = {} if choice is None else dict(choice.parameters)
            points.append(dataclasses.replace(point, parameters=parameters, steps=steps))
            progress.advance(task)
    return points


def _same_tokens(one: Any, other: Any) -> bool:
    """Whether forwards and lengths of two models compare."""
    return one.get_vocab() == other.get_vocab()


def _twin(target: str, loaded: Target) -> str | None:
    """The causal LM that was trained beside a run: the run ``ar`` in the same folder."""
    if not loaded.is_denoiser or not Path(target).is_dir():
        return None
    folder = Path(target).absolute()
    run = folder if (folder / JOURNAL_NAME).exists() else folder.parent
    twin = run.parent / "ar"
    return str(twin) if (twin / "best" / "config.json").exists() else None


def _new_tokens(loaded: Target) -> int:
    """As many as the model says, or as its context leaves after the token a text begins with."""
    wanted = getattr(loaded.model.generation_config, "max_new_tokens", None) or NEW_TOKENS
    limit = getattr(loaded.model.config, "max_position_embeddings", None)
    return wanted if limit is None else min(wanted, limit - 1)


def _real_texts(loaded: Target, changes: dict[str, Any], options: GenerationOptions, samples: int) -> list[str]:
    """As many blocks of the evaluation data, cut to the length of the texts."""
    _, data, _ = evaluation_data(loaded, changes)
    special = set(loaded.tokenizer.all_special_ids)
    texts = []
    for place in range(min(samples, len(data.eval))):
        ids = [token for token in data.eval[place]["input_ids"] if token not in special]
        texts.append(loaded.tokenizer.decode(ids[: options.max_new_tokens]))
    return texts


def _picture(target: str, request: GridRequest) -> Path | None:
    if request.plot is not None:
        return request.plot
    if request.page is not None:
        return request.page.with_suffix(".png")
    return Path(target) / PICTURE if (Path(target) / JOURNAL_NAME).exists() else None


def _print(
    points: Sequence[GenerationPoint],
    request: GridRequest,
    loaded: Target,
    options: GenerationOptions,
    reference: str | None,
) -> None:
    if request.form == "json":
        record = {
            "target": loaded.source,
            "iter": loaded.step,
            "reference_model": reference,
            "options": {name: value for name, value in dataclasses.asdict(options).items() if value is not None},
            "points": [
                {**point.as_dict(), "on_front": best} for point, best in zip(points, pareto_front(points), strict=True)
            ],
        }
        print(json.dumps(json.loads(dumps(plain(record))), indent=2))
        return
    headings, rows = pareto_rows(points)
    if request.form == "markdown":
        print(markdown_table(headings, rows, left=1))
    else:
        print(text_table(headings, rows, shutil.get_terminal_size((140, 24)).columns))
    print()
    print(_explanation(points, request, options, reference))


def _write_page(
    page: Path,
    target: str,
    points: Sequence[GenerationPoint],
    request: GridRequest,
    explanation: str,
    picture: Path | None,
) -> None:
    shows = f"![perplexity against forwards and entropy]({os.path.relpath(picture, page.parent)})" if picture else ""
    command = shlex.join(["hf-difflm", *sys.argv[1:]])
    parts = [markdown_table(*pareto_rows(points), left=1), shows, explanation.replace("\n", "\n\n")]
    title = f"Quality of generated text against its cost: {printable(shown(Path(target)))}"
    write_markdown(page, title, command, parts, origin="Generated from the texts of one run of this command")


def _explanation(
    points: Sequence[GenerationPoint], request: GridRequest, options: GenerationOptions, reference: str | None
) -> str:
    lines = [
        f"{request.samples} texts from nothing, at most {options.max_new_tokens} tokens each, seed {options.seed}; "
        f"{points[0].batch_size} generated together."
    ]
    if reference is not None:
        lines.append(
            f"perplexity: of the texts under {reference}. It misleads without the entropy (nats, of the tokens of each "
            "text): text that repeats itself has a low one."
        )
        lines.append("front: no other row is as good in perplexity, entropy and forwards, and better in one of them.")
    if any(point.steps is None and point.sampler != CAUSAL for point in points):
        lines.append(
            "a sampler without steps says itself how many tokens a step reveals; its forwards tell how many it took."
        )
    lines.append("forwards: sequences through the model, a text; those of a causal LM are of one token each.")
    if request.mauve:
        lines.append(f"MAUVE: against {request.samples} real texts at most; it means little below about a thousand.")
    return "\n".join(lines)
