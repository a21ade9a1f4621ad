"""``TrainingArguments`` with the fields and defaults of :class:`DiffusionOptions`."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import MISSING, Field, InitVar, dataclass, field, fields
from types import MappingProxyType
from typing import Any

from transformers import TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig
from transformers.training_args import OptimizerNames

from ..errors import UserError
from ..evaluation.likelihood.draws import Draws
from ..runs.journal.quantities import HIGHER, evaluation_quantity, ranked
from .declarations.fields import find_field
from .declarations.trainer_arguments import REFUSED, ROWS
from .declarations.typed_values import check_value, shown
from .launch.processes import asked_engine, build_models_whole, check_launch, check_sharding, use_one_gpu
from .optimization.muon import MUON
from .optimization.stable_decay import STABLE_DECAY, stable_decay_kwargs
from .optimizer_choice import check_named_optimizer, word
from .options import DiffusionOptions

_PLATEAU = ("reduce_lr_on_plateau", "greedy")
"""Schedules that follow the metric of ``metric_for_best_model``."""
_OF_ARGPARSE = frozenset({"help", "choices", "aliases"})


@dataclass
class DiffusionTrainingArguments(DiffusionOptions, TrainingArguments):  # type: ignore[misc]
    """Everything the Trainer takes, plus the fields of :class:`DiffusionOptions`.

    ``global_batch_size`` sets the accumulation from the number of processes and ``per_device_train_batch_size``; an
    explicit ``gradient_accumulation_steps`` above 1 wins over it.

    What ``metric_for_best_model`` names is better lower or higher as :mod:`hf_difflm.runs.journal.quantities` says; of a
    metric that is not ours, ``greater_is_better`` must say it. Early stopping and plateau schedules follow.

    Raises:
        UserError: a metric whose direction is not known, or is said to be the wrong one; a launch that would do something
            else (:func:`check_launch`); a global batch size that cannot be cut, or that another field would overrule;
            numbers of evaluation draws that do not go together; a value out of its range; a field that is refused
            (:mod:`hf_difflm.training.declarations.trainer_arguments`).
    """

    # The incomplete optimiser batch at the end of an epoch is dropped: padding it by repetition would make the result
    # depend on the number of processes.
    dataloader_drop_last: bool = field(
        default=True, metadata={"help": "drop the incomplete optimiser batch at the end of an epoch; off is refused"}
    )
    # Parsers take no other word than those of an enumeration, which has no muon.
    optim: str = field(
        default=TrainingArguments.optim,
        metadata={"help": "the optimiser", "choices": (*(name.value for name in OptimizerNames), MUON)},
    )
    as_given: InitVar[Mapping[str, tuple[Any, Any]] | None] = None
    """Name to what was given and what was made of it. ``dataclasses.replace`` hands it on, so that the copy derives anew."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let the ``__post_init__`` of a user's subclass take nothing, as that of ``TrainingArguments`` does."""
        super().__init_subclass__(**kwargs)
        theirs = cls.__dict__.get("__post_init__")
        if theirs is None or len(inspect.signature(theirs).parameters) > 1:
            return

        def post_init(self: Any, as_given: Any = None) -> None:
            vars(self)["as_given"] = as_given
            theirs(self)

        cls.__post_init__ = post_init  # type: ignore[method-assign]

    def __post_init__(self, as_given: Mapping[str, tuple[Any, Any]] | None = None) -> None:  # noqa: RUF033
        for name, (given, made) in (as_given or self._made_of_given()).items():
            if getattr(self, name) == made:
                setattr(self, name, given)
        before = {one.name: copy.copy(getattr(self, one.name)) for one in fields(self) if one.init}
        self._check_fields()
        self._derive()
        vars(self)["as_given"] = {
            name: (given, getattr(self, name)) for name, given in before.items() if getattr(self, name) != given
        }

    def derive(self, name: str, value: Any) -> None:
        """Set what follows from model or data, and no user has asked for: a copy with other values derives it anew."""
        made = self._made_of_given()
        given = made[name][0] if name in made else getattr(self, name)
        setattr(self, name, value)
        vars(self)["as_given"] = {**made, name: (given, value)}

    def _made_of_given(self) -> Mapping[str, tuple[Any, Any]]:
        return vars(self).get("as_given") or {}

    def _check_fields(self) -> None:
        """Whatever is refused, or out of its range, before anything is made of it."""
        for one in fields(self):
            value, row = getattr(self, one.name), ROWS.get(one.name)
            if row is None or row.verdict != REFUSED:
                declared = find_field(one.name)
                if declared is not None:
                    check_value(declared, value)
                if row is not None and row.needs and value and not any(getattr(self, name) for name in row.needs):
                    raise UserError(
                        f"{one.name}={shown(value)} has no effect without {row.needs[0]}; set that too, or leave it out"
                    )
            elif one.name == "dataloader_pin_memory" and self.use_cpu:
                continue  # what transformers itself then makes of it
            elif value != _default(DiffusionTrainingArguments.__dataclass_fields__[one.name]):
                raise UserError(f"{one.name}={shown(value)} {row.sentence}")
        if self.use_cpu and self.ddp_timeout != _default(
            DiffusionTrainingArguments.__dataclass_fields__["ddp_timeout"]
        ):
            raise UserError(
                f"ddp_timeout={self.ddp_timeout} has no effect beside use_cpu, with which transformers does not pass it on; "
                "leave it out"
            )

    def _derive(self) -> None:
        check_launch(use_cpu=self.use_cpu, bf16=self.bf16, fp16=self.fp16, fsdp=self.fsdp, deepspeed=self.deepspeed)
        check_sharding(
            asked_engine(self.fsdp, self.deepspeed),
            ema=self.ema_decay is not None,
            load_best_model_at_end=self.load_best_model_at_end,
            muon=self.optim == MUON,
        )
        Draws(self.eval_replicates, self.target_stderr, self.max_eval_replicates)  # a check
        self._find_direction()
        optim = self.optim
        if optim == MUON:  # of which transformers has no name
            self.optim = "adamw_torch"
        super().__post_init__()
        if optim == MUON:
            self.optim = optim
        self._refuse_other_batches()
        check_named_optimizer(self)
        self._turn_plateau()
        self._check_decay()
        build_models_whole()
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False  # every parameter takes part in every step
        if self.n_gpu > 1:
            use_one_gpu(self.n_gpu)
            self._n_gpu = 1
        self._derive_accumulation()

    def _refuse_other_batches(self) -> None:
        """What of accelerate's settings would make another optimiser batch than ``global_batch_size`` says, or nothing."""
        given: Any = self.accelerator_config  # an AcceleratorConfig by now, whatever its annotation says
        if given.dispatch_batches:
            raise UserError(
                "dispatch_batches=True puts the batches of one process on its device, but their noise is drawn on the host; "
                "leave it out of accelerator_config: each process then reads its own rows"
            )
        if given.split_batches:
            raise UserError(
                "split_batches=True would divide each micro-batch among the processes, and make an optimiser batch smaller "
                "than global_batch_size says; leave it out of accelerator_config"
            )
        for name in ("even_batches", "use_seedable_sampler", "non_blocking"):
            if getattr(given, name) != getattr(AcceleratorConfig, name):
                raise UserError(
                    f"{name}={getattr(given, name)} has no effect: the Trainer has an order of its own, and copies without "
                    "waiting; leave it out of accelerator_config"
                )
        if "num_steps" in (given.gradient_accumulation_kwargs or {}):
            raise UserError(
                f"num_steps {given.gradient_accumulation_kwargs['num_steps']} in gradient_accumulation_kwargs would "
                "accumulate otherwise than global_batch_size says; set gradient_accumulation_steps"
            )

    def _find_direction(self) -> None:
        """Before transformers guesses it: there, whatever does not end in "loss" is better when it is greater."""
        if self.metric_for_best_model in (None, "loss"):
            self.metric_for_best_model = "eval_nll"
        name = str(self.metric_for_best_model)
        known = evaluation_quantity(name)
        if known is None or known.better is None:
            if self.greater_is_better is None and known is not None:
                raise UserError(
                    f"metric_for_best_model is {name!r}, of which it is not known whether more is better; say it with "
                    f"greater_is_better, or take one of {', '.join(ranked())}"
                )
            if self.greater_is_better is None:
                raise UserError(
                    f"metric_for_best_model is {name!r}, which no evaluation of DiffusionTrainer has; take one of "
                    f"{', '.join(ranked())} (of several sets eval_NAME_nll, ...), or, where a subclass of yours adds it, "
                    "say with greater_is_better whether more is better"
                )
            return
        better = known.better == HIGHER
        if self.greater_is_better not in (None, better):
            raise UserError(
                f"greater_is_better is {self.greater_is_better}, but {name} is better when it is {known.better}; leave "
                "greater_is_better out"
            )
        self.greater_is_better = better

    def _check_decay(self) -> None:
        """Whether warm-up and decay fit into the steps, where these are known before there are data."""
        if word(self.lr_scheduler_type) == STABLE_DECAY:
            steps = self.max_steps if self.max_steps > 0 else None
            warmup = 0 if steps is None else self.get_warmup_steps(steps)
            stable_decay_kwargs(self.lr_scheduler_kwargs or {}, warmup, steps)  # type: ignore[arg-type]

    def _turn_plateau(self) -> None:
        """Have a schedule that waits for a metric to improve look the way that is better: by itself it takes "min"."""
        if word(self.lr_scheduler_type) not in _PLATEAU:
            return
        mode = "max" if self.greater_is_better else "min"
        given = dict(self.lr_scheduler_kwargs or {})  # type: ignore[arg-type]
        if given.setdefault("mode", mode) != mode:
            raise UserError(
                f"lr_scheduler_kwargs has mode={given['mode']!r}, but {self.metric_for_best_model} is better when it is "
                f"{'higher' if self.greater_is_better else 'lower'}; leave mode out"
            )
        self.lr_scheduler_kwargs = given

    def _derive_accumulation(self) -> None:
        if self.global_batch_size is None or self.gradient_accumulation_steps > 1:
            self.global_batch_size = (
                self.per_device_train_batch_size * self.world_size * self.gradient_accumulation_steps
            )
            return
        share, rest = divmod(self.global_batch_size, self.world_size)
        if rest:
            raise UserError(
                f"global_batch_size {self.global_batch_size} cannot be divided among {self.world_size} processes; "
                f"use a multiple of {self.world_size}, or a number of processes that divides {self.global_batch_size} "
                "(to resume, the latter)"
            )
        self.per_device_train_batch_size = min(self.per_device_train_batch_size, share)
        self.gradient_accumulation_steps, rest = divmod(share, self.per_device_train_batch_size)
        if rest:
            processes = "" if self.world_size == 1 else f"{self.world_size} processes x "
            raise UserError(
                f"global_batch_size {self.global_batch_size} is not a multiple of {processes}"
                f"per_device_train_batch_size {self.per_device_train_batch_size}; change one of them"
            )


def _default(one: Field) -> Any:
    return one.default if one.default_factory is MISSING else one.default_factory()


def _for_argparse(one: Field) -> Field:
    """A copy of a field whose metadata are what ``HfArgumentParser`` hands on to argparse."""
    copied = copy.copy(one)
    known = {name: value for name, value in one.metadata.items() if name in _OF_ARGPARSE}
    if "also" in one.metadata:
        known["aliases"] = list(one.metadata["also"])
    copied.metadata = MappingProxyType(known)
    return copied


DiffusionTrainingArguments.__dataclass_fields__.update(
    {name: _for_argparse(one) for name, one in DiffusionTrainingArguments.__dataclass_fields__.items()}
)
