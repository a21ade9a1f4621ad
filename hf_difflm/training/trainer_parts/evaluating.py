"""Evaluation under fixed noise: the likelihood of a data set, whatever the training and the number of processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from accelerate.utils import gather_object
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import metrics_format
from transformers.trainer_utils import PredictionOutput

from ...errors import UserError
from ...evaluation.likelihood.batches import EvaluationBatches, data_unit, spread
from ...evaluation.likelihood.contents import lost_bytes
from ...evaluation.likelihood.draws import Draws
from ...evaluation.likelihood.evaluate import LikelihoodResult, evaluate_likelihood
from ...objectives import Batch, Objective
from ..declarations.trainer_methods import refusal
from ..given_data import check_evaluation_set, check_evaluation_sets
from .base import TrainerPart
from .evaluated_sets import Evaluated

logger = logging.getLogger(__name__)


class EvaluatingPart(TrainerPart):
    """Evaluates the model of :class:`DiffusionTrainer`."""

    metrics_format = staticmethod(
        metrics_format
    )  # a plain function there, which would take the Trainer for the metrics

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Likelihood of the evaluation set under fixed noise: the same weights always give the same numbers.

        At most ``eval_iters`` batches of it, evenly spread, whatever the number of processes.

        Args:
            eval_dataset: rows by number; default: the Trainer's own. Of several by name (a dict) each is evaluated, and
                its metrics are called ``eval_NAME_nll`` and so on; a name stands for that one of the Trainer's own.
            ignore_keys: of no use, since no outputs of the model are gathered.
            metric_key_prefix: in place of ``eval``.

        Returns:
            ``eval_loss`` = ``eval_nll`` (nats per scored token), ``eval_nll_stderr``, ``eval_nll_data_stderr``,
            ``eval_bpb``, ``eval_ppl``, ``eval_accuracy`` (and by masking rate), ``eval_bound``, ``eval_replicates`` and
            ``eval_forwards`` (sequences through the model for these numbers); and where training minimises another bound:
            ``eval_native_nll``, ``eval_native_nll_stderr``, ``eval_native_forwards``, ``eval_native_bound``.

        Raises:
            UserError: there is no such set, it has no rows, or rows that cannot be read by number.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self._named_set(dataset)
        if isinstance(dataset, Mapping):
            metrics: dict[str, float] = {}
            for name, part in dataset.items():
                metrics.update(self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}"))
            return metrics
        if dataset is None:
            raise UserError("there is no evaluation set; pass eval_dataset")
        most = None if self.args.eval_iters is None else self.args.eval_iters * self.args.per_device_eval_batch_size
        check_evaluation_sets(dataset, self.data_collator)
        scored = spread(dataset, most)
        metrics, bounds = self._scored(dataset, scored, metric_key_prefix)
        assert self.last_evaluation is not None
        self._evaluated[metric_key_prefix] = Evaluated(self.last_evaluation, dataset, scored)
        self.log(metrics)
        metrics.update(bounds)
        told = metrics
        if metric_key_prefix == "eval" and not self._is_own(
            dataset
        ):  # not to be taken for an evaluation of the run's set
            told = {f"eval_other_{name.removeprefix('eval_')}": value for name, value in metrics.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, told)
        return metrics

    def _is_own(self, dataset: Any) -> bool:
        """Whether it is the set of the Trainer, rather than another."""
        return dataset is self.eval_dataset or self.eval_dataset is None

    def predict(self, test_dataset: Any, ignore_keys: Any = None, metric_key_prefix: str = "test") -> PredictionOutput:
        """Likelihood of every row of a set, unit by unit, under the noise of :meth:`evaluate`; whole logits are never made.

        Args:
            test_dataset: rows by number; all of them are scored, whatever ``eval_iters``.
            ignore_keys: of no use, since no outputs of the model are gathered.
            metric_key_prefix: begins the names of the metrics.

        Returns:
            ``predictions``: (U,) float64, nll of each unit in nats, the mean over draws: of each row, in their order, or of
            each document where the rows have ``document_ids`` (``trainer.last_evaluation`` has their ids and numbers of
            scored tokens). ``label_ids``: None. ``metrics``: those of :meth:`evaluate`, as ``test_nll``.

        Raises:
            UserError: the set has no rows, or rows that cannot be read by number.
        """
        if isinstance(test_dataset, (str, Mapping)):
            raise UserError("predict takes the rows of one set; call it once for each, or evaluate for a dict of sets")
        check_evaluation_sets(test_dataset, self.data_collator, "test_dataset")
        metrics, bounds = self._scored(test_dataset, test_dataset, metric_key_prefix)
        metrics.update(bounds)
        assert self.last_evaluation is not None
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        order = np.argsort(self.last_evaluation.unit_ids, kind="stable")
        return PredictionOutput(predictions=self.last_evaluation.unit_nll[order], label_ids=None, metrics=metrics)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: see the sentence."""
        raise UserError(refusal("evaluation_loop"))

    def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: see the sentence."""
        raise UserError(refusal("prediction_step"))

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Batches of an evaluation set to look at: all its rows in their order, on the host, the same on every process.

        :meth:`evaluate` reads rows by number instead, since the noise of each hangs on its place.

        Raises:
            UserError: there is no such set.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, str):
            dataset = self._named_set(dataset)
        if isinstance(dataset, Mapping):
            raise UserError(f"there are several evaluation sets; give the name of one: {', '.join(map(str, dataset))}")
        return self.get_test_dataloader(dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Batches of any set to look at, as those of :meth:`get_eval_dataloader`."""
        if test_dataset is None:
            raise UserError("there is no evaluation set; pass eval_dataset")
        check_evaluation_set(test_dataset, "the evaluation set")
        return DataLoader(test_dataset, batch_size=self.args.eval_batch_size, collate_fn=self.data_collator)

    def _named_set(self, name: str) -> Any:
        sets = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {}
        if name not in sets:
            have = f"the evaluation sets are {', '.join(sets)}" if sets else "eval_dataset is no dict of sets"
            raise UserError(f"there is no evaluation set {name!r}; {have}")
        return sets[name]

    def _scored(self, whole: Any, dataset: Any, prefix: str) -> tuple[dict[str, float], dict[str, Any]]:
        """Metrics of those rows of a set that are to be scored, and the words that say what bounds they are."""
        start = time.perf_counter()
        fewest = Draws(self.args.eval_replicates, self.args.target_stderr, self.args.max_eval_replicates).fewest
        reported = self.training_objective.for_evaluation(self.args.eval_pairs, fewest)
        collator = self._collator_of(whole)
        self.last_evaluation = result = self._likelihood(dataset, reported, collator)
        native = self.training_objective.native(self.state.global_step)
        other = None if native is None else self._likelihood(dataset, native, collator)
        seconds = time.perf_counter() - start
        metrics, bounds = result.metrics(prefix), {f"{prefix}_bound": result.bound}
        if other is not None:
            metrics[f"{prefix}_native_nll"] = other.nll
            metrics[f"{prefix}_native_forwards"] = other.forwards
            bounds[f"{prefix}_native_bound"] = other.bound
            if other.nll_stderr is not None:
                metrics[f"{prefix}_native_nll_stderr"] = other.nll_stderr
        metrics[f"{prefix}_runtime"] = seconds
        metrics[f"{prefix}_samples_per_second"] = (result.forwards + (0 if other is None else other.forwards)) / seconds
        return metrics, bounds

    def _collator_of(self, dataset: Any) -> Callable[[list[Any]], Batch]:
        """The collator, without ``num_bytes`` where the rows of a user's own have other bytes than their tokens."""
        if self.processing_class is None or "num_bytes" not in dataset[0]:
            return self.data_collator
        if (lost := self._of_sets.get(dataset, "lost")) is None:
            lost = lost_bytes(dataset, self.data_collator, self.processing_class)
            self._of_sets.keep(dataset, "lost", lost)
            if lost and self.is_world_process_zero():
                logger.warning("%s", lost)
        return _without_bytes(self.data_collator) if lost else self.data_collator

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
