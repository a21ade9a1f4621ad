"""What a user brings along: ``module:Class`` of an objective, or ``module:function`` of a number of nats."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, did_you_mean, first_line
from ...objectives import Objective
from .examination import Examination
from .kraft import judge, kraft_sums
from .numbers import NoKnownMasks, ObjectiveNumber
from .subjects import Size, Subject, objective_subject, random_tables
from .tabular import all_sequences

REPLICATES = 2048
"""Draws of noise where it is not known: so many to train on, as many others to judge by."""
FUNCTION_REPLICATES = 64
LOOKS = 64
_LOSS_GAP = 1e-3
"""Sequences that a function is asked about twice, to see whether it has noise."""


def imported(target: str) -> Any:
    """The object that ``module:name`` stands for; modules in the current folder are found.

    Raises:
        UserError: no such module or name, or the module fails.
    """
    module_name, _, name = target.partition(":")
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises
        raise UserError(
            f"{module_name} of {target} cannot be imported: {first_line(error)}; give a module that can, from here "
            f"({here}) or the Python path"
        ) from error
    finally:
        sys.path.remove(here)
    if not hasattr(module, name):
        raise UserError(
            f"{module_name} has no {name!r}{did_you_mean(name, vars(module))}; give MODULE:NAME of what it has"
        )
    return getattr(module, name)


def objective_of(thing: Any, target: str, size: Size) -> Objective | None:
    """An objective from a class or an object; None where it is neither.

    Raises:
        UserError: a class that needs more than a mask token, or an objective with networks of its own.
    """
    if isinstance(thing, type) and issubclass(thing, Objective):
        parameters = inspect.signature(thing).parameters.values()
        needed = [
            one.name
            for one in parameters
            if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        ]
        if others := [name for name in needed if name != "mask_token_id"]:
            raise UserError(
                f"{target} needs the argument {others[0]!r}, which audit does not know; give MODULE:NAME of an objective "
                "that is made already, or of a class that needs no more than mask_token_id"
            )
        make: Any = thing
        known = any(one.name == "mask_token_id" for one in parameters)
        try:
            thing = make(mask_token_id=size.vocabulary) if known else make()
        except Exception as error:  # whatever the user's class raises
            raise UserError(f"{target} cannot be made: {first_line(error)}; give a class that can") from error
    if not isinstance(thing, Objective):
        return None
    if getattr(thing, "mask_token_id", size.vocabulary) != size.vocabulary:
        raise UserError(
            f"the mask token of {target} is {thing.mask_token_id}, but with --vocabulary {size.vocabulary} it is "  # type: ignore[attr-defined]
            f"{size.vocabulary}; give the same"
        )
    if thing.networks is not None:
        raise UserError(
            f"{target} has networks of its own, which audit cannot train to their optimum; p3 audits the bound of schedules "
            "that read the text"
        )
    return thing


def subject_of(
    objective: Objective, target: str, size: Size, replicates: int | None = None, for_evaluation: bool = False
) -> Subject:
    """A subject from somebody's objective, at the optimum of what it minimises.

    Args:
        objective: see :func:`objective_of`.
        target: as the user wrote it.
        size: of the audit.
        replicates: draws of noise; None: every mask where it draws those of this library, else ``REPLICATES``.
        for_evaluation: audit what ``objective.for_evaluation()`` says, and not what it says itself.

    Raises:
        UserError: there are too many rows.
    """
    training, _ = _number(objective, size, replicates, "train")
    reported, about = objective.for_evaluation(), type(objective).__name__
    notes = []
    if for_evaluation and reported is not objective:
        about = f"{type(reported).__name__}, as {about}.for_evaluation() returns it"
    elif reported is not objective:
        notes.append(
            f"evaluations report {type(reported).__name__} ({about}.for_evaluation()): audit that with --for-evaluation"
        )
    number, gap = _number(reported if for_evaluation else objective, size, replicates, "eval")
    if gap > _LOSS_GAP:
        notes.append(
            "its loss is not the sum of token_weights_N times token_nll_N, which is the number that is audited"
        )
    if not number.exact:
        notes.append(f"its noise is drawn, {number.cases} replicates; intervals hold for all sums together with 99 %")
    return replace(objective_subject(training, number), name=target, about=about, notes=tuple(notes))


def _number(objective: Objective, size: Size, replicates: int | None, purpose: str) -> tuple[ObjectiveNumber, float]:
    """The number, and by how much the objective's loss differs from it, as a share."""
    if replicates is None:
        with contextlib.suppress(NoKnownMasks):
            number = ObjectiveNumber(objective, size.all_sequences())
            return number, _tried(number, size)
    number = ObjectiveNumber(objective, size.all_sequences(), replicates or REPLICATES, size.seed, purpose)
    return number, _tried(number, size)


def _tried(number: ObjectiveNumber, size: Size) -> float:
    """Try it on one table, and tell by how much its loss differs from the number."""
    model = random_tables(replace(size, denoisers=1), objective_subject(number))
    name = type(number.objective).__name__
    try:
        twice = [number.values(model) for _ in range(2)]
        gap = number.loss_gap(model)
    except (UserError, NoKnownMasks):
        raise
    except Exception as error:  # whatever the user's objective raises
        raise UserError(
            f"{name} fails on a table of {size.vocabulary} tokens: {first_line(error)}; its model is called as "
            "MaskedDiffusionForMaskedLM.forward is"
        ) from error
    if not np.array_equal(twice[0], twice[1], equal_nan=True):
        raise UserError(
            f"{name} draws other noise when it is called again with the same NoiseKey, so its training loss has no optimum; "
            "draw from the key alone (hf_difflm.objectives.noise)"
        )
    return gap


def audit_function(
    function: Callable[[list[int]], Any], target: str, size: Size, replicates: int | None
) -> Examination:
    """Audit nats that a function gives each sequence.

    Args:
        function: gets a list of L ids in 0..V-1.
        target: as the user wrote it.
        size: V and L of it.
        replicates: calls for each sequence where the function has noise; None: ``FUNCTION_REPLICATES``.

    Raises:
        UserError: it fails, or returns what is no number.
    """
    sequences = all_sequences(size.length, size.vocabulary).tolist()
    first_S = _called(function, target, sequences)
    values_RS, notes = first_S[None], ["a function has no training and no sampler: one sum"]
    if not np.array_equal(_called(function, target, sequences[:LOOKS]), first_S[:LOOKS]):
        more = [_called(function, target, sequences) for _ in range((replicates or FUNCTION_REPLICATES) - 1)]
        values_RS = np.stack([first_S, *more])
        notes.append(f"it has noise: {len(values_RS)} calls for each sequence, an interval of 99 %")
    elif replicates is not None:
        notes.append("it has no noise: --replicates is not needed")
    sums = kraft_sums(values_RS[:, None], 1)
    return Examination(
        target,
        "a function of the sequence",
        size,
        len(values_RS) == 1,
        {"given": sums},
        None,
        None,
        judge(sums, size.sequences),
        tuple(notes),
    )


def _called(function: Callable[[list[int]], Any], target: str, sequences: list[list[int]]) -> np.ndarray:
    values = []
    for ids in sequences:
        try:
            value = float(function(list(ids)))
        except Exception as error:  # whatever the user's function raises
            raise UserError(
                f"{target} fails for {ids}: {first_line(error)}; it must take a list of ids and return nats as a number"
            ) from error
        if math.isnan(value):
            raise UserError(f"{target} returns nan for {ids}; it must return nats, inf where a sequence is impossible")
        values.append(value)
    return np.array(values)
