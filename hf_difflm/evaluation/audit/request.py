"""What ``audit`` is asked for, and which of its flags each kind of target takes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ...errors import UserError, did_you_mean
from ...objectives.names import OBJECTIVES
from ..likelihood.exact_options import ORDERS
from ..targets import load_target
from .built_in import BUILT_IN, built_in, is_built_in
from .checkpoint import Alphabet, audit_checkpoint
from .examination import Examination, examine
from .given import audit_function, imported, objective_of, subject_of
from .subjects import Size

MOST_SEQUENCES = 65_536


@dataclass(frozen=True)
class AuditRequest:
    """Flags of ``audit``; None where one was not given.

    Args:
        vocabulary, length: V and L; default: 2 and 4.
        denoisers: sources and random denoisers, each so many; default: 20.
        seed: of both, of schedules, orders and replicates; default: 0.
        tokens_per_step: of an exact order; default: 1.
        replicates: draws of noise that is not summed exactly.
        for_evaluation: of an objective, see :func:`~.given.subject_of`.
        alphabet, most_frequent: of a checkpoint, see :class:`~.checkpoint.Alphabet`.
        use_cpu: of a checkpoint.
    """

    vocabulary: int | None = None
    length: int | None = None
    denoisers: int | None = None
    seed: int | None = None
    tokens_per_step: str | None = None
    replicates: int | None = None
    for_evaluation: bool | None = None
    alphabet: str | None = None
    most_frequent: int | None = None
    use_cpu: bool | None = None

    def refuse_all_but(self, *names: str, target: str, kind: str) -> None:
        """Raises UserError for a flag that this kind of target does not take."""
        for one in fields(self):
            if getattr(self, one.name) is not None and one.name not in names:
                raise UserError(f"--{one.name.replace('_', '-')} is not for {target}, which is {kind}; leave it out")

    def size(self) -> Size:
        """How large the audit is.

        Raises:
            UserError: more than 65,536 sequences.
        """
        given = {name: getattr(self, name) for name in ("vocabulary", "length", "denoisers", "seed", "tokens_per_step")}
        size = Size(**{name: value for name, value in given.items() if value is not None})
        if size.length * (size.vocabulary - 1).bit_length() > 64 or size.sequences > MOST_SEQUENCES:
            raise UserError(
                f"--vocabulary {size.vocabulary} and --length {size.length} make V^L = {size.vocabulary}^{size.length} "
                f"sequences, more than the {MOST_SEQUENCES:,} that are enumerated; give smaller ones"
            )
        return size


def audit(target: str, request: AuditRequest) -> Examination:
    """Audit a number.

    Args:
        target: a name of :data:`~.built_in.BUILT_IN`, ``bd3lm:SIZE``, ``module:Class`` or object of an :class:`Objective`,
            a run, a checkpoint or a model, or ``module:function``.
        request: what is asked for.

    Raises:
        UserError: no such target, flags that it does not take, or too large.
    """
    target = {"mdlm": "p0"}.get(target, target)  # what that objective reports, and minimises unless told otherwise
    if is_built_in(target):
        takes = ["vocabulary", "length", "denoisers", "seed", *(["tokens_per_step"] if target in ORDERS else [])]
        request.refuse_all_but(*takes, target=target, kind="built in, its noise summed exactly")
        size = request.size()
        return examine(built_in(target, size), size)
    if Path(target).is_dir() or (":" not in target and "/" in target):
        return _of_checkpoint(target, request)
    if target in OBJECTIVES:
        raise UserError(
            f"{target} is an objective of several numbers: audit p0 (its eval_nll), p1, p2 or p3 (what atat may "
            "minimise), or ar"
        )
    if ":" not in target:
        raise UserError(
            f"{target} is none of the names {', '.join(BUILT_IN)}{did_you_mean(target, BUILT_IN)}; give one of them, a run, "
            "a checkpoint, or MODULE:NAME of an objective or a function"
        )
    return _of_module(target, request)


def _of_checkpoint(target: str, request: AuditRequest) -> Examination:
    request.refuse_all_but(
        "length",
        "alphabet",
        "most_frequent",
        "use_cpu",
        target=target,
        kind="a trained model on an alphabet of its own tokens",
    )
    if request.alphabet is not None and request.most_frequent is not None:
        raise UserError("--alphabet and --most-frequent exclude each other; give one of them")
    loaded = load_target(target, use_cpu=bool(request.use_cpu))
    return audit_checkpoint(loaded, Alphabet(request.alphabet, request.most_frequent), request.length or Size.length)


def _of_module(target: str, request: AuditRequest) -> Examination:
    thing: Any = imported(target)
    size = request.size()
    objective = objective_of(thing, target, size)
    if objective is not None:
        takes = ("vocabulary", "length", "denoisers", "seed", "replicates", "for_evaluation")
        request.refuse_all_but(*takes, target=target, kind="an objective")
        return examine(subject_of(objective, target, size, request.replicates, bool(request.for_evaluation)), size)
    if not callable(thing):
        raise UserError(f"{target} is {type(thing).__name__}, neither an objective nor a function; give one of them")
    request.refuse_all_but("vocabulary", "length", "replicates", target=target, kind="a function of the sequence")
    return audit_function(thing, target, size, request.replicates)
