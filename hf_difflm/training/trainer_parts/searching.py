"""Hyper-parameter searches: each trial is the training that its values say, judged by what chooses the best weights."""

from __future__ import annotations

import enum
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from transformers.trainer_utils import BestRun, HPSearchBackend

from ...errors import UserError
from ..declarations.fields import find_field, own_fields
from ..declarations.identity import NOT_IDENTITY, TRAINER_IDENTITY
from ..declarations.other_names import hint_for
from ..declarations.typed_values import typed_value
from .base import TrainerPart

OPTUNA = "optuna"
_OF_THE_MODEL = frozenset(
    {
        *(
            "diffusion_block_size",
            "noise_schedule",
            "schedule_exponent",
            "sigma_min",
            "sigma_max",
            "allow_causal_layers",
        ),
        *("lora_r", "lora_alpha", "lora_dropout", "lora_target_modules"),
    }
)
"""Settings that the model has, by the time the Trainer is made: ``model_init(trial)`` is where they vary."""
_OF_THE_RULER = frozenset(
    {
        *("eval_iters", "eval_pairs", "eval_replicates", "eval_seed", "max_eval_replicates", "target_stderr"),
        "metric_for_best_model",
    }
)
"""Settings that change the number by which trials are compared, not the training."""
_OF_THE_BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
_OF_THE_NAMED_OPTIMIZER = frozenset(
    {"learning_rate", "optim", "optim_args", "adam_beta1", "adam_beta2", "adam_epsilon"}
)


_ENDS_A_TRIAL = {"pruner": "prunes a trial", "timeout": "ends the search", "catch": "goes on after an error"}


class SearchingPart(TrainerPart):
    """Searches hyper-parameters of :class:`DiffusionTrainer` with Optuna."""

    def hyperparameter_search(
        self,
        hp_space: Callable[[Any], Mapping[str, Any]] | None = None,
        compute_objective: Callable[[dict[str, float]], float] | None = None,
        n_trials: int = 20,
        direction: str | list[str] | None = None,
        backend: str | HPSearchBackend | None = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """Train ``n_trials`` times, each in a folder of its own, and return the best.

        Args:
            hp_space: values of a trial by name: settings that make a training another one, of ours as of transformers';
                default: ``learning_rate`` from a tenth to ten times that of the arguments, on a logarithmic scale.
            compute_objective: what is compared, from the metrics of an evaluation; default: ``metric_for_best_model``, in
                nats per token where that is ``eval_nll``.
            n_trials: trainings.
            direction: ``minimize`` or ``maximize``, a list of them for several objectives; default: the way in which
                ``metric_for_best_model`` is better.
            backend: ``optuna``, which is the only one.
            hp_name: names the folder of a trial; default: ``run-0`` and so on.
            kwargs: of ``optuna.create_study`` and ``Study.optimize``.

        Returns:
            The best run, or those of several objectives; under several processes None but on the first, as transformers does.

        Raises:
            UserError: there is no ``model_init``, evaluation set or Optuna, or a value that no trial would differ by; under
                several processes what would end a trial on the first alone.
        """
        self._check_search(backend, kwargs.get("n_jobs", 1))
        if self.args.world_size > 1:
            kwargs = _for_several_processes(kwargs)
        if compute_objective is None:
            metric = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
            better = "maximize" if self.args.greater_is_better else "minimize"
            if direction not in (None, better):
                raise UserError(
                    f"direction is {direction!r}, but trials are compared by {metric}, of which the best is to {better}; "
                    "leave direction out, or pass compute_objective"
                )
            compute_objective, direction = (lambda metrics: float(metrics[metric])), better
        before, space = self.args, hp_space or self._default_space
        values: dict[int, dict[str, Any]] = {}

        def once(trial: Any) -> dict[str, Any]:
            if trial.number not in values:
                values[trial.number] = self._checked_values(space(trial), before)
            return values[trial.number]

        self._before_search = before
        try:
            return super().hyperparameter_search(
                once, compute_objective, n_trials, direction or "minimize", OPTUNA, hp_name, **kwargs
            )
        finally:
            self.hp_search_backend = None
            self._before_search = None

    def _check_search(self, backend: Any, jobs: int) -> None:
        if backend is not None and str(getattr(backend, "value", backend)) != OPTUNA:
            raise UserError(
                f"backend is {getattr(backend, 'value', backend)!r}, but trials are run by optuna alone; leave it out"
            )
        if importlib.util.find_spec(OPTUNA) is None:
            raise UserError("hyperparameter_search needs Optuna, which is not installed: pip install optuna")
        if jobs != 1:
            raise UserError(f"n_jobs is {jobs}, but a Trainer trains one trial at a time; leave n_jobs out")
        if self.model_init is None:
            raise UserError(
                "hyperparameter_search builds a model for each trial: pass model_init in the place of model"
            )
        if self.eval_dataset is None:
            raise UserError("hyperparameter_search compares trials by their evaluations: pass eval_dataset")

    def _default_space(self, trial: Any) -> dict[str, Any]:
        rate = self._before_search.learning_rate if self._before_search is not None else self.args.learning_rate
        return {"learning_rate": trial.suggest_float("learning_rate", rate / 10, rate * 10, log=True)}

    def _checked_values(self, given: Mapping[str, Any], before: Any) -> dict[str, Any]:
        """Typed values; raises UserError for one that would have no effect."""
        searched = {name for name, field in own_fields().items() if field.group == "training"} - NOT_IDENTITY
        searched = (searched | TRAINER_IDENTITY | {*_OF_THE_BATCH}) - _OF_THE_MODEL - _OF_THE_RULER
        found = {}
        for name, value in given.items():
            field = find_field(name)
            if field is None:
                hint = hint_for(name, searched, flag=False)
                raise UserError(f"hp_space has {name!r}, which is no setting of a training{hint}")
            if name in _OF_THE_MODEL:
                raise UserError(f"hp_space has {name}, which the model has: have model_init(trial) build it so")
            if name in _OF_THE_RULER:
                raise UserError(
                    f"hp_space has {name}, by which trials are measured: it must be the same for all of them"
                )
            if name not in searched:
                raise UserError(f"hp_space has {name}, which changes nothing of what is learned; leave it out")
            if (why := self._without_effect(name, field, {**vars(before), **given})) is not None:
                raise UserError(f"hp_space has {name}, which has no effect {why}; leave it out")
            typed, old = typed_value(field, value), getattr(before, name)
            found[name] = type(old)(typed) if isinstance(old, enum.Enum) else typed
        return found

    def _without_effect(self, name: str, field: Any, settings: Mapping[str, Any]) -> str | None:
        """Why a value would change nothing, beside the others; None where it does."""
        objectives = field.metadata.get("objectives")
        if objectives is not None and settings["objective"] not in objectives:
            return f"under objective {settings['objective']}"
        if name == "num_train_epochs" and settings["max_steps"] > 0:
            return f"while max_steps is {settings['max_steps']}"
        if name in _OF_THE_NAMED_OPTIMIZER and self.optimizer_cls_and_kwargs is not None:
            return "beside optimizer_cls_and_kwargs"
        if self._objective_given and (objectives is not None or name == "objective"):
            return "on the objective that the Trainer was given"
        return None

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None:
        if self.hp_search_backend is None or trial is None:
            return
        self.objective = self.compute_objective(dict(metrics))
        if not hasattr(trial, "study") or trial.study._is_multi_objective():
            return
        trial.report(self.objective, step)
        if trial.should_prune():
            import optuna

            self._tell_logs("mark", "interrupted", f"the search pruned the trial at step {step}")
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise optuna.TrialPruned()


def _for_several_processes(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a study is made with where only the first process has it, and the others train what they are told.

    Optuna prunes by default, which the others would not hear of: they would wait for the first for ever.
    """
    for name, what in _ENDS_A_TRIAL.items():
        if given.get(name):
            raise UserError(
                f"{name} {what} on the first process alone, and the others would wait for it; leave it out, or search with "
                "one process"
            )
    import optuna

    return {**given, "pruner": optuna.pruners.NopPruner()}
