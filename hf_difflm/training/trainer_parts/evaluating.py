"""Evaluation under fixed noise: the likelihood of a data set, whatever the training and the number of processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from accelerate.utils import gather_object

from ...errors import UserError
from ...evaluation.likelihood.batches import EvaluationBatches, data_unit, spread
from ...evaluation.likelihood.contents import lost_bytes
from ...evaluation.likelihood.draws import Draws
from ...evaluation.likelihood.evaluate import LikelihoodResult, evaluate_likelihood
from ...objectives import Batch, Objective
from .base import TrainerPart

logger = logging.getLogger(__name__)


class EvaluatingPart(TrainerPart):
    """Evaluates the model of :class:`DiffusionTrainer`."""

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Likelihood of the evaluation set under fixed noise: the same weights always give the same numbers.

        At most ``eval_iters`` batches of it, evenly spread, whatever the number of processes.

        Returns:
            ``eval_loss`` = ``eval_nll`` (nats per scored token), ``eval_nll_stderr``, ``eval_nll_data_stderr``,
            ``eval_bpb``, ``eval_ppl``, ``eval_accuracy`` (and by masking rate), ``eval_bound``, ``eval_replicates`` and
            ``eval_forwards`` (sequences through the model for these numbers); and where training minimises another bound:
            ``eval_native_nll``, ``eval_native_nll_stderr``, ``eval_native_forwards``, ``eval_native_bound``.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, part in dataset.items():
                metrics.update(self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        if dataset is None or len(dataset) == 0:
            raise UserError("there is no evaluation set; pass eval_dataset")
        whole = dataset
        if self.args.eval_iters is not None:
            dataset = spread(dataset, self.args.eval_iters * self.args.per_device_eval_batch_size)
        start = time.perf_counter()
        fewest = Draws(self.args.eval_replicates, self.args.target_stderr, self.args.max_eval_replicates).fewest
        reported = self.training_objective.for_evaluation(self.args.eval_pairs, fewest)
        collator = self._collator_of(whole)
        self.last_evaluation = result = self._likelihood(dataset, reported, collator)
        self._last_evaluated = (whole, dataset)
        native = self.training_objective.native(self.state.global_step)
        other = None if native is None else self._likelihood(dataset, native, collator)
        seconds = time.perf_counter() - start
        metrics = result.metrics(metric_key_prefix)
        if other is not None:
            metrics[f"{metric_key_prefix}_native_nll"] = other.nll
            metrics[f"{metric_key_prefix}_native_forwards"] = other.forwards
            if other.nll_stderr is not None:
                metrics[f"{metric_key_prefix}_native_nll_stderr"] = other.nll_stderr
        metrics[f"{metric_key_prefix}_runtime"] = seconds
        metrics[f"{metric_key_prefix}_samples_per_second"] = (
            result.forwards + (0 if other is None else other.forwards)
        ) / seconds
        self.log(metrics)
        metrics[f"{metric_key_prefix}_bound"] = result.bound  # type: ignore[assignment]
        if other is not None:
            metrics[f"{metric_key_prefix}_native_bound"] = other.bound  # type: ignore[assignment]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _collator_of(self, dataset: Any) -> Callable[[list[Any]], Batch]:
        """The collator, without ``num_bytes`` where the rows of a user's own have other bytes than their tokens."""
        if self.processing_class is None or "num_bytes" not in dataset[0]:
            return self.data_collator
        if self._lost is None or self._lost[0] is not dataset:
            self._lost = (dataset, lost_bytes(dataset, self.data_collator, self.processing_class))
            if self._lost[1] and self.is_world_process_zero():
                logger.warning("%s", self._lost[1])
        return _without_bytes(self.data_collator) if self._lost[1] else self.data_collator

    def _likelihood(
        self, dataset: Any, objective: Objective, collator: Callable[[list[Any]], Batch]
    ) -> LikelihoodResult:
        args, rank, ranks = self.args, self.accelerator.process_index, self.accelerator.num_processes
        batches = EvaluationBatches(dataset, collator, args.eval_batch_size, rank, ranks)
        model = self.model_wrapped if self.is_deepspeed_enabled else self.model
        with self.evaluated_weights(), self.accelerator.autocast():
            return evaluate_likelihood(
                model,
                objective,
                batches,
                len(dataset),
                replicates=args.eval_replicates,
                target_stderr=args.target_stderr,
                max_replicates=args.max_eval_replicates,
                replicates_at_once=batches.replicates_at_once,
                seed=args.eval_seed,
                data_unit=data_unit(dataset),
                device=args.device,
                gather=gather_object if ranks > 1 else list,
                progress=self._with_progress,
            )

    def _with_progress(self, batches: Any, words: str) -> Any:
        if self.args.disable_tqdm or not self.is_local_process_zero():
            return batches
        from tqdm.auto import tqdm

        return tqdm(batches, desc=words, leave=False, dynamic_ncols=True)


def _without_bytes(collator: Callable[[list[Any]], Batch]) -> Callable[[list[Any]], Batch]:
    return lambda rows: {name: values for name, values in collator(rows).items() if name != "num_bytes"}
