"""The one Trainer for every objective. It holds the loop's contracts and no mathematics."""

from __future__ import annotations

import dataclasses
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer_utils import number_of_arguments

from ..callbacks import RunLogCallback
from ..callbacks.measuring.device_peak import device_peak
from ..callbacks.measuring.engines import engine_of, fsdp_state_dict_type
from ..data import Collator
from ..data.prepared import described
from ..errors import UserError
from ..evaluation.ancestry import ancestry_of_model
from ..evaluation.likelihood.evaluate import LikelihoodResult
from ..models.adapters.merging import without_wrapper
from ..models.backbones.check import check_model
from ..models.backbones.sentences import direction_said
from ..models.backbones.verdict import Verdict
from ..objectives import Batch, NoiseKey, Objective
from ..objectives.base import refuse_corrupted
from ..objectives.packed_documents import PIECES, SideBySide, documents_apart, numbered
from .arguments import DiffusionTrainingArguments
from .batch_flops import BatchFlops
from .chosen_metric import chosen_metric
from .data_order import EpochSampler
from .declarations.trainer_arguments import OF_THE_TRAINER
from .declarations.trainer_methods import check_overrides
from .ema import ExponentialMovingAverage
from .given_data import (
    check_evaluation_sets,
    check_training_set,
    fingerprint,
    holds_documents,
)
from .launch.liger import apply_liger
from .launch.processes import check_sharding, prepare_for_zero3
from .objective_choice import minimised, objective_for
from .optimization.matrices import parted_in_words
from .optimization.muon import MUON, muon_of
from .optimizer_choice import check_given_optimizer
from .peft_adapters import with_adapters
from .schedule_free import ScheduleFreeAverage, check_optimizer, schedule_free_average
from .trainer_parts.adapters import AdapterPart
from .trainer_parts.clipping import ClippingPart
from .trainer_parts.evaluated_sets import Evaluated, OfSets
from .trainer_parts.evaluating import EvaluatingPart
from .trainer_parts.flow import InterruptCallback, LastStepCallback, StepHooks
from .trainer_parts.loading import LoadingPart
from .trainer_parts.networks import NetworksPart
from .trainer_parts.router_loss import RouterLoss
from .trainer_parts.saving import SavingPart, recover_best
from .trainer_parts.searching import SearchingPart
from .trainer_parts.window import MetricsWindow

logger = logging.getLogger(__name__)


class DiffusionTrainer(AdapterPart, SavingPart, EvaluatingPart, SearchingPart, LoadingPart, NetworksPart, ClippingPart):
    """A ``transformers.Trainer`` whose loss, noise, evaluation and logs are those of an :class:`Objective`.

    Args:
        model: a :class:`MaskedDiffusionForMaskedLM` or any causal LM, to fit the objective.
        args: :class:`DiffusionTrainingArguments`.
        train_dataset: rows with ``input_ids`` (and optionally ``labels``, -100 where a token is context).
        eval_dataset: rows of the same kind, optionally with ``num_bytes`` and ``document_ids``.
        processing_class: the tokenizer; it pads and is saved with the model.
        objective: what to minimise; by default the one ``args.objective`` names.
        callbacks: further callbacks, as in any Trainer.
        kwargs: anything else ``transformers.Trainer`` takes.

    Raises:
        UserError: a training set with fewer sequences than one optimiser batch; a collator that masks tokens; a network
            that is not what the objective asks of it, as a causal LM that reads ahead.
        TrainingDiverged: (from ``train``) a loss, gradient norm or weight that is not finite.
    """

    # Our loss is divided by the scored tokens of the whole optimiser batch: nothing is left to rescale.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: Any = None,
        args: DiffusionTrainingArguments | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        objective: Objective | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        for name, sentence in OF_THE_TRAINER.items():
            if kwargs.get(name) is not None:
                raise UserError(f"{name} {sentence}")
        args = args or DiffusionTrainingArguments()
        if eval_dataset is None and args.eval_strategy != "no":
            args.derive("eval_strategy", type(args.eval_strategy)("no"))
        if processing_class is not None:
            kwargs.setdefault("data_collator", Collator(processing_class))
        if getattr(kwargs.get("data_collator"), "mlm", False):
            raise UserError(
                f"data_collator is a {type(kwargs['data_collator']).__name__} that masks tokens (mlm=True), which the "
                "objective does by itself, so that they would be masked twice; leave data_collator out"
            )
        self.backbone_verdict: Verdict | None = None
        if model is not None:
            self._measure(model, args)
        collator: Any = kwargs.get("data_collator")
        if collator is None and (train_dataset is not None or eval_dataset is not None):
            raise UserError(
                "there is no processing_class and no data_collator, so that nothing pads and labels rows; pass the tokenizer "
                "as processing_class"
            )
        check_overrides(type(self), DiffusionTrainer)
        check_training_set(train_dataset, collator)
        check_evaluation_sets(eval_dataset, collator)
        prepare_for_zero3(args)
        model = with_adapters(model, args)
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        self._check_adapters()
        self._optimizer_given = check_given_optimizer(
            self.optimizer, self.optimizer_cls_and_kwargs, self.model.parameters()
        )
        check_sharding(
            engine_of(args),
            ema=args.ema_decay is not None,
            load_best_model_at_end=args.load_best_model_at_end,
            state_dict_type=fsdp_state_dict_type(),
            reads_padding=bool(getattr(getattr(self.model, "config", None), "reads_padding", None)),
            muon=args.optim == MUON,
        )
        check_optimizer(self.optimizer, engine_of(args), args.ema_decay)
        # Not `objective`: that is where a hyperparameter search keeps the value of a trial.
        self._objective_given = objective is not None
        self._before_search: DiffusionTrainingArguments | None = None
        self.training_objective = objective or self._objective_of_arguments()
        self._keeps_documents_apart = False
        if holds_documents(train_dataset):
            self._check_documents()
        self._choose_metric()
        self._adopt_networks()
        self._chunk_head()
        self.interrupt = InterruptCallback(
            on_stop=lambda: self._tell_logs("mark", "interrupted"),
            any_rank=self._on_any_rank if self.accelerator.num_processes > 1 else None,
        )
        self.add_callback(self.interrupt)
        self.add_callback(LastStepCallback())
        self.add_callback(StepHooks(after_update=self._after_update, left_out=self._leave_out))
        self.ema: ExponentialMovingAverage | None = None
        self._average: ExponentialMovingAverage | ScheduleFreeAverage | None = None
        self.last_evaluation: LikelihoodResult | None = None
        self._evaluated: dict[str, Evaluated] = {}
        self._of_sets = OfSets()
        self._window = MetricsWindow()
        self._router_loss: RouterLoss | None = None
        self._clock_started = False
        self._resumed_from: Path | None = None
        self._train_order: EpochSampler | None = None
        self._batch_flops = BatchFlops(self.model, self.training_objective.networks)
        self._micro_flops: float | None = None
        self._peak: float | None = None

    def _choose_metric(self) -> None:
        """Have ``metric_for_best_model`` name what evaluations will have, where they are this class's own."""
        if self.eval_dataset is not None and type(self).evaluate is EvaluatingPart.evaluate:
            metric = str(self.args.metric_for_best_model)
            self.args.derive("metric_for_best_model", chosen_metric(metric, self.eval_dataset, self.training_objective))

    def _objective_of_arguments(self) -> Objective:
        bos_token_id = getattr(self.processing_class, "bos_token_id", None)
        return objective_for(self.args, self.model, self.train_dataset, bos_token_id)

    def call_model_init(self, trial: Any = None) -> Any:
        """A model of ``model_init``, which is measured as one that is given."""
        model = super().call_model_init(trial)
        self._measure(model, self.args)
        return model

    def _measure(self, model: Any, args: DiffusionTrainingArguments) -> None:
        self.backbone_verdict = check_model(
            model, allow_causal_layers=args.allow_causal_layers, router_aux_loss=args.router_aux_loss
        )
        if self.backbone_verdict is not None and self.backbone_verdict.without_gradient:
            args.derive("ddp_find_unused_parameters", True)  # else DDP waits for gradients that never come

    # ---- the loss ----

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> Any:
        """The objective's loss for one micro-batch: its share of the mean over the optimiser batch's scored tokens."""
        refuse_corrupted(inputs)
        places: Any = inputs.get("places")
        if places is None:  # called by hand with one batch: it is the whole optimiser batch
            places = np.arange(len(inputs["input_ids"]))
        if num_items_in_batch is None:
            num_items_in_batch = max(int((inputs["labels"] != -100).sum()), 1)
        key = NoiseKey(
            seed=self.args.seed,
            step=self.state.global_step,
            places_B=places,
            size=max(self.get_total_train_batch_size(self.args), int(places.max()) + 1),
        )
        router_loss = self._router_loss if model.training else None
        asked, seen = model, inputs
        if PIECES in inputs and not self.training_objective.reads_rows:
            seen, layout = documents_apart(inputs)
            pieces: Any = inputs.get("batch_pieces", layout.piece_D)
            key = numbered(key, layout, pieces)
            asked = SideBySide(model, layout, self.args.device)
        # The model knows its precision itself; networks beside it are told.
        with (
            nullcontext() if self.training_objective.networks is None else self.accelerator.autocast(),
            nullcontext() if router_loss is None else router_loss.listening(),
        ):
            output = self.training_objective(
                asked, seen, key, num_items_in_batch, self.args.device, accuracy=self._logs_after_this_step()
            )
        if router_loss is not None:
            aux_loss = router_loss.share(inputs, num_items_in_batch)
            self._window.add_aux_loss(aux_loss.detach() * self.accelerator.num_processes)
            # Its gradient, and none of its value: the logged loss is that of the objective.
            output.loss = output.loss + router_loss.coefficient * (aux_loss - aux_loss.detach())
        if model.training:
            self._micro_flops = self._batch_flops(inputs, output)
            self._window.add_micro_batch(output, int((inputs["labels"] != -100).sum()), self._micro_flops)
        # Data-parallel engines average gradients over ranks; ours are shares of one mean and must be summed.
        loss = output.loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def _chunk_head(self) -> None:
        """Hand on ``head_chunk_rows``; where it is None, a model keeps its own."""
        if self.args.head_chunk_rows is None:
            return
        for module in self.model.modules():  # the model itself, or what PEFT has put around it
            if hasattr(module, "head_chunk_rows"):
                module.head_chunk_rows = self.args.head_chunk_rows

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._window.add_loss(loss)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Model FLOPs of the micro-batch that ``compute_loss`` saw last, which the Trainer asks for right after it."""
        return super().floating_point_ops(inputs) if self._micro_flops is None else round(self._micro_flops)

    # ---- training: moving average, resume, logs ----

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any
    ) -> Any:
        """Train; ``resume_from_checkpoint=True`` takes the newest good checkpoint of the output folder.

        Args:
            resume_from_checkpoint: folder of a checkpoint, or True.
            trial: of a hyper-parameter search, which passes it; or what a ``model_init(trial)`` is to be called with.
            kwargs: ``ignore_keys_for_eval`` is of no use, since no outputs of the model are gathered.

        Raises:
            UserError: there is no such checkpoint, it is damaged, or it is one of another experiment; a checkpoint
                cannot be written.
            TrainingDiverged: a loss, gradient norm or weight that is not finite.
        """
        if trial is not None and self._before_search is not None:  # its seed makes its model, so now
            self.args = dataclasses.replace(self._before_search, **self.hp_space(trial))
            self.args.derive(
                "metric_for_best_model", self._before_search.metric_for_best_model
            )  # a copy has it as given
        elif trial is not None and (self.model_init is None or number_of_arguments(self.model_init) == 0):
            raise UserError(
                "train was given a trial that nothing reads: hyperparameter_search passes its own, and model_init takes none"
            )
        self._resumed_from = self._resume_point(resume_from_checkpoint)
        if self._resumed_from is not None and self.args.should_save:
            recover_best(self._folder / "best")
        self._window = MetricsWindow()
        self._clock_started = False
        self.ema = self._average = None
        if self.args.save_log_to_json and not any(
            isinstance(c, RunLogCallback) for c in self.callback_handler.callbacks
        ):
            self.add_callback(self._run_log())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, RunLogCallback) and (callback.resume or self._resumed_from):
                callback.resume_trackers(self.args)
        if self.args.use_liger_kernel and self.model_init is None:
            apply_liger(self.model, self.args.liger_kernel_config, self.args.device)
        try:
            return super().train(
                resume_from_checkpoint=None if self._resumed_from is None else str(self._resumed_from),
                trial=trial,
                **kwargs,
            )
        except KeyboardInterrupt:
            self._tell_logs("close", "interrupted")
            raise
        except Exception as error:
            self._tell_logs("close", "failed", str(error) or type(error).__name__)
            raise
        finally:
            self.interrupt.restore()
            for callback in self.callback_handler.callbacks:
                if hasattr(callback, "let_go"):  # of a model, a process, ...: a training that failed ends for them, too
                    callback.let_go()

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        if self.model_init is not None:
            # The model is another one than the Trainer was made with, and a trial may have another objective.
            if self.args.use_liger_kernel:
                apply_liger(self.model, self.args.liger_kernel_config, self.args.device)
            if not self._objective_given:
                self.training_objective = self._objective_of_arguments()
                self._adopt_networks()
            self._batch_flops = BatchFlops(self.model, self.training_objective.networks)
        self._fill_headers()  # of each training, a search or none

    def _after_update(self) -> None:
        if self.ema is not None:
            self.ema.update()
        self._forget_gradients()
        self._note_learning_rates()

    def _leave_out(self, what: str, seconds: float) -> None:
        self._window.leave_out(seconds)

    def _run_log(self) -> RunLogCallback:
        return RunLogCallback(
            log_dir=self.args.log_dir,
            experiment_name=self.args.experiment_name,
            log_save_interval=self.args.log_save_interval,
            log_eval_only=self.args.log_eval_only,
        )

    def _fill_headers(self) -> None:
        """Tell the run logs, whoever made them, what this class knows of the training."""
        logs = [c for c in self.callback_handler.callbacks if isinstance(c, RunLogCallback)]
        if logs:
            known = {
                "objective": self.training_objective.name,
                "bound": self.training_objective.bound,
                "data": described(self.train_dataset) or self._told_apart(),
                "metadata": self.facts(),
            }
            for log in logs:
                log.fill_header(known)

    def _told_apart(self) -> dict[str, str]:
        """What tells the data sets from others, of which nobody has given it a description."""
        if not self.is_world_process_zero():
            return {}
        sides = {"train_fingerprint": self.train_dataset, "eval_fingerprint": self.eval_dataset}
        return {name: found for name, side in sides.items() if (found := fingerprint(side)) is not None}

    def facts(self) -> dict[str, Any]:
        """What the header of a run log says of objective and network beyond the settings."""
        found: dict[str, Any] = dict(minimised(self.training_objective))
        if parent := ancestry_of_model(without_wrapper(self._plain_model())):
            found["parent"] = parent
        if self._optimizer_given is not None:
            found["optimizer"] = self._optimizer_given
        elif self.args.optim == MUON:
            found["optimizer"] = parted_in_words(self.model)
        if (entropy := self._unigram_entropy()) is not None:
            found["unigram_entropy"] = entropy
        if self.backbone_verdict is not None:
            longest = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
            found["backbone"] = {
                "reads": direction_said(self.backbone_verdict, longest),
                **self.backbone_verdict.to_dict(),
            }
        return found

    def _on_any_rank(self, flag: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), "sum") > 0)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        self._chunk_head()  # of a hyperparameter search, each trial has a model of its own
        if self.args.router_aux_loss is not None and (
            self._router_loss is None or self._router_loss.model is not self.model
        ):
            self._router_loss = RouterLoss(self.model, self.args.router_aux_loss)
        prepared = super()._prepare_for_training(*args, **kwargs)
        if (muon := muon_of(self.optimizer)) is not None:
            parts = self.args.gradient_accumulation_steps * self.accelerator.num_processes
            self._batch_flops.of_optimizer = muon.flops() / parts
        if self.args.ema_decay is not None:
            self.ema = ExponentialMovingAverage(self.model, self.args.ema_decay)
            if self._resumed_from is not None:
                self.ema.load(self._resumed_from, self.state.global_step)
        self._average = self.ema or schedule_free_average(self.model, self.optimizer)
        if self._train_order is not None:
            # A loader that skips batches after a resume does not pass the epoch on to the sampler of several ranks.
            steps_per_epoch = len(self._train_order) // self.get_total_train_batch_size(self.args)
            self._train_order.set_epoch(self.state.global_step // steps_per_epoch)
        self._peak = device_peak(self.args, self.model)
        self._window.restart_clock()
        return prepared
