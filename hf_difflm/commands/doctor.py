"""``hf-difflm doctor``: is this machine ready, and how much memory will a recipe need?"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import UserError, did_you_mean
from ..experiments.recipe_settings import load_settings
from ..training.declarations.fields import own_fields
from .flags import given_flags, with_flags
from .help_pages import HelpAll
from .spelling import declared_flags


@with_flags(own_fields().values())
def doctor(
    ctx: typer.Context,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="estimate the memory that this recipe needs, and stop")
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="go through the checklist of this run's log instead")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(min=1, help="devices that share the work (default: 1, or as the configuration says)")
    ] = None,
    accelerate_config: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="take engine and devices from it, e.g. fsdp2")
    ] = None,
    engine: Annotated[
        str | None, typer.Option(metavar="NAME", help="ddp (default), fsdp2, zero1, zero2 or zero3")
    ] = None,
    device_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="memory of one device, e.g. 80GB; default: that of the GPU here")
    ] = None,
    backbones: Annotated[
        bool, typer.Option("--backbones", help="list what each family of networks reads, as measured, instead")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print the estimate, the checklist or the list as JSON, alone on stdout")
    ] = False,
    help_all: HelpAll = False,
    **flags: Any,
) -> None:
    """Check versions, devices, memory, disk, model, data and one training step; one line each, with what to do.

    Exits with code 1 if a check failed. With --recipe or --init-from: estimate instead what a training needs of each
    device's memory; it takes every flag of `train`, and loads no data. With --run: answer from a run's log whether the
    training is sound, the diffusion at work and importance learnt - ✓ yes, ✗ no, with what to do (exit code 1), – does
    not apply or too early. With --backbones: the table of docs/backbones.md, measured anew where the installed
    transformers is another version.
    """
    given = given_flags(ctx, flags)
    own = (devices, accelerate_config, engine, device_memory)
    if backbones:
        if run is not None or recipe is not None or given or any(value is not None for value in own):
            raise UserError("--backbones lists families and takes no other flag than --json; leave the others out")
        _list_backbones(as_json)
        return
    if run is not None:
        if recipe is not None or given or any(value is not None for value in own):
            raise UserError("--run reads a log and takes no other flag than --json; leave the others out")
        _check_run(run, as_json)
    elif recipe is None and given.get("init_from") is None:
        if given or as_json or any(value is not None for value in own):
            raise UserError(
                "these flags need --recipe or --init-from, whose memory they help to estimate; `hf-difflm recipes` lists some"
            )
        _check_machine()
    else:
        settings = load_settings(recipe, given, declared_flags(ctx))
        _estimate(settings, devices, accelerate_config, engine, device_memory, as_json)


def _list_backbones(as_json: bool) -> None:
    from tqdm import tqdm

    from ..models.backbones.families import family_table, table_text
    from ..models.backbones.sentences import verdict_said
    from .quiet import quiet_libraries

    quiet_libraries()
    version, table = family_table(lambda steps, count: tqdm(steps, "measuring", count, unit="family"))
    if as_json:
        print(table_text(version, table), end="")
        return
    width = max(map(len, table))
    print(
        f"what the {len(table)} families of transformers {version} read; measured on tiny copies with their own rules"
    )
    for name in sorted(table):
        for place, (role, verdict) in enumerate(table[name].items()):
            print(f"{name if place == 0 else '':<{width}}  {role:<9}  {verdict_said(verdict)}")


def _check_machine() -> None:
    from ..experiments.doctor import run_checks
    from .quiet import quiet_libraries

    quiet_libraries()
    raise typer.Exit(0 if run_checks() else 1)


def _check_run(path: Path, as_json: bool) -> None:
    from ..runs import load_run
    from ..runs.checklist.all_checks import check_run, checklist_data, checklist_text, is_sound
    from ..runs.journal.strict_json import dumps, plain

    run = load_run(path)
    checks = check_run(run)
    print(dumps(plain(checklist_data(run, checks)), indent=2) if as_json else checklist_text(run, checks))
    raise typer.Exit(0 if is_sound(checks) else 1)


def _estimate(
    settings: Any,
    devices: int | None,
    accelerate_config: str | None,
    engine: str | None,
    device_memory: str | None,
    as_json: bool,
) -> None:
    from ..experiments.memory.estimate import estimate_memory
    from ..experiments.memory.report import bytes_of, memory_here, of_accelerate_config, table
    from ..experiments.memory.sharding import ENGINES
    from .quiet import quiet_libraries

    if engine is not None and accelerate_config is not None:
        raise UserError("--engine and --accelerate-config exclude each other; give one of them")
    if engine is not None and engine not in ENGINES:
        raise UserError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}{did_you_mean(engine, ENGINES)}")
    processes = 1
    if accelerate_config is not None:
        engine, processes, half = of_accelerate_config(accelerate_config)
        if half:
            settings.training["bf16"] = True
    memory = memory_here() if device_memory is None else bytes_of(device_memory)
    quiet_libraries()
    print("".join(f"note: {note}\n" for note in settings.notes), end="", file=sys.stderr)
    estimate = estimate_memory(settings, devices or processes, engine or "ddp", memory)
    print(json.dumps(dataclasses.asdict(estimate), indent=2) if as_json else table(estimate))
