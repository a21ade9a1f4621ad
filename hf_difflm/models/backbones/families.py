"""The verdict on every family of transformers: shipped for the pinned version, measured for another."""

from __future__ import annotations

import json
import multiprocessing
import re
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from multiprocessing.connection import Connection, wait
from typing import Any

import transformers
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_MAPPING_NAMES

from ...errors import UserError
from ..options import ModelOptions
from .configuration import configured
from .measure import CAUSAL_LM, DENOISER, measure
from .tiny import VOCABULARY, depth_of
from .verdict import Verdict

_WHERE = re.compile(r" from '/[^']*'")

_TABLE = "families.json"
_SIZES = ("vocab_size", "hidden_size", "num_hidden_layers")
_SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
_DEPTH = 12  # layers, where a family is published with more: enough for two of each kind
_SECONDS = 150.0  # for a family; the slowest takes a fifth of that

Table = dict[str, dict[str, Verdict]]


def families() -> list[str]:
    """Model types that are a network over tokens: a vocabulary, a width and layers, and a class without a head."""
    found = []
    for name in MODEL_MAPPING_NAMES:
        config = AutoConfig.for_model(name)
        sizes = [getattr(config, size, None) for size in _SIZES]
        if all(type(size) is int and size > 0 for size in sizes):
            found.append(name)
    return sorted(found)


def measure_family(name: str) -> dict[str, Verdict]:
    """The verdicts on a family in at most 12 layers: as a denoiser and, where there is one, as a causal LM."""
    verdicts = {}
    for role in (DENOISER, CAUSAL_LM):
        if role == DENOISER or name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
            try:
                config = _config(name)
                verdicts[role] = measure(config, causal=role == CAUSAL_LM, whole=True)
            except Exception as error:  # a finding about the family, whatever it is
                said = _WHERE.sub("", " ".join(str(error).split()))  # of this machine
                verdicts[role] = Verdict(name, role, error=f"{type(error).__name__}: {said}")
    return verdicts


def _config(name: str) -> Any:
    """A family's configuration with the sizes that a training has by default; its own where it takes no others."""
    published = AutoConfig.for_model(name)
    options = ModelOptions(backbone=name, num_hidden_layers=min(depth_of(published), _DEPTH))
    try:
        return configured(options, 2 * VOCABULARY, _SPECIAL, 128)
    except UserError:
        return published


def shipped() -> tuple[str, Table]:
    """The version of transformers that the table of this package was measured with, and the table."""
    read = json.loads(files(__package__).joinpath(_TABLE).read_text(encoding="utf-8"))
    table = {
        name: {role: Verdict.from_dict({"model_type": name, "role": role, **values}) for role, values in roles.items()}
        for name, roles in read["families"].items()
    }
    return read["transformers"], table


def family_table(progress: Callable[[Iterable[Any], int], Iterable[Any]] | None = None) -> tuple[str, Table]:
    """The table for the installed transformers: the shipped one where it is of that version, else measured now."""
    version, table = shipped()
    if version == transformers.__version__:
        return version, table
    names = families()
    steps = walk(names)
    return transformers.__version__, dict(steps if progress is None else progress(steps, len(names)))


def walk(names: list[str], processes: int = 2) -> Iterator[tuple[str, dict[str, Verdict]]]:
    """Measure families, each in a process of its own, which may hang or die without taking the others with it.

    Args:
        names: model types.
        processes: how many at once.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting = list(reversed(names))
    running: dict[Connection, tuple[str, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < processes:
            name = waiting.pop()
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_measure_into, args=(theirs, name), daemon=True)
            process.start()
            theirs.close()
            running[ours] = (name, process, time.monotonic() + _SECONDS)
        ready = wait(list(running), timeout=1.0)
        for pipe, (name, process, deadline) in list(running.items()):
            if pipe in ready:
                try:
                    yield name, pipe.recv()
                except EOFError:  # it died
                    process.join(5)
                    yield name, _failed(name, f"its process ended with exit code {process.exitcode}")
            elif time.monotonic() > deadline:
                yield name, _failed(name, f"it was not done after {_SECONDS:.0f} s")
            else:
                continue
            process.kill()
            process.join()
            pipe.close()
            del running[pipe]


def _measure_into(pipe: Connection, name: str) -> None:
    pipe.send(measure_family(name))
    pipe.close()


def _failed(name: str, why: str) -> dict[str, Verdict]:
    return {DENOISER: Verdict(name, DENOISER, error=why)}


def table_text(version: str, table: Table) -> str:
    """The table as the JSON that is shipped."""
    rows = {}
    for name in sorted(table):
        roles = {}
        for role, verdict in table[name].items():
            values = verdict.to_dict()
            roles[role] = {key: value for key, value in values.items() if key not in ("model_type", "role")}
            if verdict.without_gradient:  # the same name in each layer is one
                names = (re.sub(r"\.\d+\.", ".N.", name) for name in verdict.without_gradient)
                roles[role]["without_gradient"] = list(dict.fromkeys(names))
        rows[name] = roles
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(roles)}" for name, roles in rows.items())
    return f'{{"transformers": {json.dumps(version)}, "families": {{\n{lines}\n}}}}\n'
