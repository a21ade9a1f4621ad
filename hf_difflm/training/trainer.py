"""The one Trainer for every objective. It holds the loop's contracts and no mathematics."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch.utils.data import DataLoader, IterableDataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer_utils import IntervalStrategy, rotate_checkpoints

from ..callbacks import DashboardCallback, ModelStatisticsCallback, RunLogCallback, ThroughputCallback
from ..callbacks.device_peak import device_peak
from ..callbacks.reports import reports_of
from ..data import Collator
from ..errors import UserError
from ..evaluation.batches import data_unit, evaluation_batches, spread
from ..evaluation.likelihood import LikelihoodResult, evaluate_likelihood
from ..objectives import Batch, CausalObjective, MaskedDiffusionObjective, NoiseKey, Objective
from ..runs.checkpoints import newest_good, write_manifest
from ..runs.flops import mfu
from ..runs.pairing import write_best_evaluation
from .arguments import DiffusionTrainingArguments
from .data_order import EpochSampler
from .ema import ExponentialMovingAverage
from .flops import BatchFlops
from .flow import InterruptCallback, LastStepCallback, StepHooks, TrainingDiverged
from .window import MetricsWindow

logger = logging.getLogger(__name__)


class DiffusionTrainer(Trainer):
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
        UserError: a training set with fewer sequences than one optimiser batch.
        TrainingDiverged: (from ``train``) a loss, gradient norm or weight that is not finite.
    """

    # Our loss is divided by the scored tokens of the whole optimiser batch: nothing is left to rescale.
    loss_is_scaled_for_ga = True

    args: DiffusionTrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    objective: Objective

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
        args = args or DiffusionTrainingArguments()
        if eval_dataset is None and args.eval_strategy != "no":
            args.eval_strategy = type(args.eval_strategy)("no")
        if processing_class is not None:
            kwargs.setdefault("data_collator", Collator(processing_class))
        super().__init__(
            model=model,
            args=args,
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=callbacks,
            **kwargs,
        )
        self.objective = objective or objective_for(args, self.model)
        self.interrupt = InterruptCallback(
            on_stop=lambda: self._tell_logs("mark", "interrupted"),
            any_rank=self._on_any_rank if self.accelerator.num_processes > 1 else None,
        )
        self.add_callback(self.interrupt)
        self.add_callback(LastStepCallback())
        self.add_callback(StepHooks(after_update=self._update_average, left_out=self._leave_out))
        self.ema: ExponentialMovingAverage | None = None
        self.last_evaluation: LikelihoodResult | None = None
        self._window = MetricsWindow()
        self._clock_started = False
        self._resumed_from: Path | None = None
        self._train_order: EpochSampler | None = None
        self._batch_flops = BatchFlops(self.model)
        self._micro_flops: float | None = None
        self._peak: float | None = None

    # ---- data: on the host until the noise is drawn, in an order of its own ----

    def get_train_dataloader(self) -> DataLoader:
        dataset = self.train_dataset
        if dataset is None or isinstance(dataset, IterableDataset):
            return super().get_train_dataloader()
        optimiser_batch = self.get_total_train_batch_size(self.args)
        if len(dataset) < optimiser_batch:
            raise UserError(
                f"the training set has {len(dataset)} sequences, fewer than one optimiser batch of "
                f"{optimiser_batch}; lower global_batch_size or use more text"
            )
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._train_order = EpochSampler(len(dataset), optimiser_batch, seed)
        loader = DataLoader(
            dataset,
            batch_size=self._train_batch_size,
            sampler=self._train_order,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),  # iterating must not move the global generator
        )
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Batch], Any]:
        """Fetch an accumulation window and number its sequences by their place in the optimiser batch."""
        if not self._clock_started:  # trackers take seconds to start, which are no training time
            self._window.restart_clock()
            self._clock_started = True
        batches, num_scored = super().get_batch_samples(epoch_iterator, num_batches, device)
        rank, ranks, rows = self.accelerator.process_index, self.accelerator.num_processes, self._train_batch_size
        for micro, batch in enumerate(batches):
            batch["places"] = (micro * ranks + rank) * rows + np.arange(len(batch["input_ids"]))
        return batches, num_scored

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> int | torch.Tensor:
        """Scored tokens of the optimiser batch over all ranks: the denominator of the loss."""
        scored = int(sum((batch["labels"] != -100).sum() for batch in batch_samples))
        if self.accelerator.num_processes == 1:
            return max(scored, 1)
        return self.accelerator.reduce(torch.tensor(float(scored), device=device), "sum").clamp(min=1)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # the objective moves what the model needs, after it has drawn the noise on the host

    # ---- the loss ----

    def compute_loss(
        self,
        model: Any,
        inputs: Batch,
        return_outputs: bool = False,
        num_items_in_batch: int | torch.Tensor | None = None,
    ) -> Any:
        """The objective's loss for one micro-batch: its share of the mean over the optimiser batch's scored tokens."""
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
        output = self.objective(
            model, inputs, key, num_items_in_batch, self.args.device, accuracy=self._logs_after_this_step()
        )
        if model.training:
            self._micro_flops = self._batch_flops(inputs, output)
            self._window.add_micro_batch(output, int((inputs["labels"] != -100).sum()), self._micro_flops)
        # Data-parallel engines average gradients over ranks; ours are shares of one mean and must be summed.
        loss = output.loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def training_step(self, model: Any, inputs: Batch, num_items_in_batch: Any = None) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._window.add_loss(loss)
        return loss

    def floating_point_ops(self, inputs: Any) -> int:
        """Model FLOPs of the micro-batch that ``compute_loss`` saw last, which the Trainer asks for right after it."""
        return super().floating_point_ops(inputs) if self._micro_flops is None else round(self._micro_flops)

    # ---- training: moving average, resume, logs ----

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **kwargs: Any
    ) -> Any:
        """Train; ``resume_from_checkpoint=True`` takes the newest good checkpoint of the output folder.

        Raises:
            UserError: there is no such checkpoint.
            TrainingDiverged: a loss, gradient norm or weight that is not finite.
        """
        if resume_from_checkpoint is True:
            found, warnings = newest_good(self._folder)
            for warning in warnings:
                logger.warning(warning)
            if found is None:
                raise UserError(f"{self.args.output_dir} has no finished checkpoint to resume from")
            resume_from_checkpoint = str(found)
        self._resumed_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._window = MetricsWindow()
        self._clock_started = False
        self.ema = None
        if self.args.save_log_to_json and not any(
            isinstance(c, RunLogCallback) for c in self.callback_handler.callbacks
        ):
            self.add_callback(self._run_log())
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, RunLogCallback) and (callback.resume or resume_from_checkpoint):
                callback.resume_trackers(self.args)
        try:
            return super().train(resume_from_checkpoint=resume_from_checkpoint or None, **kwargs)
        except KeyboardInterrupt:
            self._tell_logs("close", "interrupted")
            raise
        except Exception as error:
            self._tell_logs("close", "failed", str(error) or type(error).__name__)
            raise
        finally:
            self.interrupt.restore()
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, DashboardCallback):
                    callback.close()  # a training that failed wants its last picture most
                elif isinstance(callback, ModelStatisticsCallback | ThroughputCallback):
                    callback.let_go()

    def _update_average(self) -> None:
        if self.ema is not None:
            self.ema.update()

    def _leave_out(self, what: str, seconds: float) -> None:
        self._window.leave_out(seconds)

    def _run_log(self) -> RunLogCallback:
        return RunLogCallback(
            log_dir=self.args.log_dir,
            experiment_name=self.args.experiment_name,
            log_save_interval=self.args.log_save_interval,
            log_eval_only=self.args.log_eval_only,
            header={"objective": self.objective.name, "bound": self.objective.bound},
        )

    def _on_any_rank(self, flag: bool) -> bool:
        return bool(self.accelerator.reduce(torch.tensor(float(flag), device=self.args.device), "sum") > 0)

    def _tell_logs(self, what: str, *words: str) -> None:
        """Tell every callback that keeps a log how the run ends: ``mark`` or ``close`` it."""
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, what) and hasattr(callback, "on_training_iterations"):
                getattr(callback, what)(*words)

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.args.ema_decay is not None:
            self.ema = ExponentialMovingAverage(self.model, self.args.ema_decay)
            if self._resumed_from is not None:
                self.ema.load(self._resumed_from, self.state.global_step)
        if self._train_order is not None:
            # A loader that skips batches after a resume does not pass the epoch on to the sampler of several ranks.
            steps_per_epoch = len(self._train_order) // self.get_total_train_batch_size(self.args)
            self._train_order.set_epoch(self.state.global_step // steps_per_epoch)
        self._peak = device_peak(self.args, self.model)
        self._window.restart_clock()
        return prepared

    def _maybe_log_save_evaluate(
        self,
        tr_loss: torch.Tensor,
        grad_norm: Any,
        model: Any,
        trial: Any,
        epoch: float,
        ignore_keys_for_eval: Any,
        start_time: float,
        learning_rate: float | None = None,
    ) -> None:
        # Called after each optimiser step, and once more at the end of an epoch.
        if self._window.has_open_step():
            self._window.close_step(self.state.global_step, grad_norm, learning_rate or 0.0, self.state.epoch)
        if self.control.should_log and self._window:
            self._log_window(tr_loss)
        busy = self.control.should_evaluate or self.control.should_save
        super()._maybe_log_save_evaluate(
            tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate
        )
        if busy:
            self._window.restart_clock()

    def _log_window(self, tr_loss: torch.Tensor) -> None:
        """Fetch the steps since the last logging step and report them; the one place where training waits."""
        rows = self._window.fetch(self.accelerator.gather, self.args.device, self.accelerator.num_processes)
        self._total_loss_scalar += sum(row["loss"] for row in rows)
        tr_loss -= tr_loss
        self._globalstep_last_logged = self.state.global_step
        tokens = sum(row["tokens"] for row in rows)
        for row in rows:
            row["mfu"] = mfu(row.get("flops"), row["time_ms"] / 1e3, self.accelerator.num_processes, self._peak)
        self.state.num_input_tokens_seen += tokens
        self.store_flos()
        start = time.perf_counter()
        for callback in self.callback_handler.callbacks:
            if hasattr(callback, "on_training_iterations"):
                callback.on_training_iterations(self.args, self.state, rows)
        self._window.leave_out(time.perf_counter() - start)
        last = rows[-1]
        seconds = sum(row["time_ms"] for row in rows) / 1e3
        logs = {
            "loss": sum(row["loss"] for row in rows) / len(rows),
            "grad_norm": last["grad_norm"],
            "learning_rate": last["lr"],
            "tokens_per_sec": tokens / seconds,
            "time_ms": 1e3 * seconds / len(rows),
        }
        skip = ("iter", "tokens", "flops", "epoch", "loss", "grad_norm", "lr", "tokens_per_sec", "time_ms")
        logs.update({name: value for name, value in last.items() if name not in skip and value is not None})
        self.log(logs)
        bad = [
            (row["iter"], name, row[name])
            for row in rows
            for name in ("loss", "grad_norm")
            # A float16 scaler skips steps whose gradients overflow: there an infinite norm is part of the method.
            if not math.isfinite(row[name]) and not (name == "grad_norm" and self.accelerator.scaler is not None)
        ]
        if bad:
            step, name, value = bad[0]
            self._diverged(f"{name} became {value} at step {step}")

    @property
    def _folder(self) -> Path:
        return Path(self.args.output_dir or "")

    def _diverged(self, what: str) -> None:
        good, _ = newest_good(self._folder)
        where = f"the last good checkpoint is {good}" if good else "no checkpoint was saved before"
        raise TrainingDiverged(f"{what}, so the run was stopped; {where}; try a lower learning rate or more warm-up")

    def _logs_after_this_step(self) -> bool:
        step = self.state.global_step + 1
        if self.args.logging_strategy == IntervalStrategy.EPOCH and self._train_order is not None:
            steps_per_epoch = len(self._train_order) // self.get_total_train_batch_size(self.args)
            return step % steps_per_epoch == 0 or step >= self.state.max_steps
        return (
            step % max(self.state.logging_steps, 1) == 0
            or step >= self.state.max_steps
            or (step == 1 and self.args.logging_first_step)
        )

    # ---- evaluation ----

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Likelihood of the evaluation set under fixed noise: the same weights always give the same numbers.

        At most ``eval_iters`` batches of it, evenly spread, whatever the number of processes.

        Returns:
            ``eval_loss`` = ``eval_nll`` (nats per scored token), ``eval_nll_stderr``, ``eval_nll_data_stderr``,
            ``eval_bpb``, ``eval_ppl``, ``eval_accuracy`` (and by masking rate), ``eval_bound``.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, part in dataset.items():
                metrics.update(self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        if dataset is None or len(dataset) == 0:
            raise UserError("there is no evaluation set; pass eval_dataset")
        if self.args.eval_iters is not None:
            dataset = spread(dataset, self.args.eval_iters * self.args.per_device_eval_batch_size)
        start = time.perf_counter()
        self.last_evaluation = result = self._likelihood(dataset)
        seconds = time.perf_counter() - start
        metrics = result.metrics(metric_key_prefix)
        metrics[f"{metric_key_prefix}_runtime"] = seconds
        metrics[f"{metric_key_prefix}_samples_per_second"] = result.forwards / seconds
        self.log(metrics)
        metrics[f"{metric_key_prefix}_bound"] = result.bound  # type: ignore[assignment]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _likelihood(self, dataset: Any) -> LikelihoodResult:
        rank, ranks, rows = self.accelerator.process_index, self.accelerator.num_processes, self.args.eval_batch_size
        batches: Any = evaluation_batches(dataset, self.data_collator, rows, rank, ranks)
        steps = -(-len(dataset) // (rows * ranks))
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        with self.evaluated_weights(), self.accelerator.autocast():
            return evaluate_likelihood(
                model,
                self.objective.for_evaluation(),
                self._with_progress(batches, steps),
                len(dataset),
                replicates=self.args.eval_replicates,
                seed=self.args.eval_seed,
                data_unit=data_unit(dataset),
                device=self.args.device,
                gather=gather_object if ranks > 1 else list,
            )

    def _with_progress(self, batches: Any, total: int) -> Any:
        if self.args.disable_tqdm or not self.is_local_process_zero():
            return batches
        from tqdm.auto import tqdm

        return tqdm(batches, total=total, desc="evaluate", leave=False, dynamic_ncols=True)

    def evaluated_weights(self) -> AbstractContextManager[None]:
        """Inside the block the model has the weights that evaluation and ``best/`` use: the average, if there is one."""
        return nullcontext() if self.ema is None else self.ema.swapped_in()

    # ---- saving ----

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Lowest ``eval_nll``: keep the weights that were evaluated in ``best/``."""
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best:
            start = time.perf_counter()
            self._check_weights()
            target = Path(self._get_output_dir(trial)) / "best"
            fresh = target.with_name("best.tmp")
            with self.evaluated_weights():
                self.save_model(str(fresh), _internal_call=True)
            if self.args.should_save:
                (fresh / "training_args.bin").unlink(missing_ok=True)  # inference needs no pickle
                old = target.with_name("best.old")
                shutil.rmtree(old, ignore_errors=True)
                if target.exists():
                    os.replace(target, old)
                os.replace(fresh, target)
                shutil.rmtree(old, ignore_errors=True)
                if (best := self.last_evaluation) is not None:
                    numbers = (best.unit_ids.tolist(), best.unit_tokens.tolist(), best.unit_nll.tolist())
                    write_best_evaluation(target.parent, self.state.global_step, best.data_unit, *numbers)
            reports_of(self.state).leave_out("saving", time.perf_counter() - start)
        return is_best

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._window:
            # A run resumed from here must find the steps since the last logging step in its log and its token count.
            self._log_window(self._tr_loss)
        self._check_weights()
        # Older checkpoints go only when this one is good, that is after its manifest.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            run = Path(self._get_output_dir(trial))
            folder = run / f"checkpoint-{self.state.global_step}"
            if self.ema is not None:
                self.ema.save(folder)
            write_manifest(folder)
            rotate_checkpoints(output_dir=str(run), save_total_limit=limit, use_mtime=False)

    def _check_weights(self) -> None:
        """Nothing that is not finite is ever saved."""
        weights = [p.detach() for p in self.model.parameters() if p.numel()]
        if not bool(torch.stack(torch._foreach_norm(weights)).isfinite().all()):
            self._diverged(f"the weights stopped being finite by step {self.state.global_step}")


def objective_for(args: DiffusionTrainingArguments, model: Any) -> Objective:
    """The objective ``args`` describe, for this model.

    Raises:
        UserError: the model is not of the kind the objective trains.
    """
    config: Any = getattr(model, "config", None)
    is_denoiser = getattr(config, "model_type", None) == "masked_diffusion"
    if args.objective == "ar":
        if is_denoiser:
            raise UserError(
                "objective ar needs a causal LM, but the model is a masked diffusion model; use objective mdlm"
            )
        return CausalObjective()
    if args.objective != "mdlm":
        raise UserError(f"objective must be mdlm or ar, got {args.objective!r}")
    if not is_denoiser:
        raise UserError(
            f"objective mdlm needs a MaskedDiffusionForMaskedLM, but the model is a {type(model).__name__}; "
            "use objective ar"
        )
    return MaskedDiffusionObjective(
        config.mask_token_id,
        args.loss_form,
        args.noise_sampling,
        config.schedule(),
    )
