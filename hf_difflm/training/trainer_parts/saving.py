"""Checkpoints, and the best weights: nothing half-written is ever taken for a whole, nothing good lost for it."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from ...callbacks.reports import reports_of
from ...errors import UserError
from ...evaluation.likelihood.contents import unit_contents
from ...runs.comparing.units import write_evaluation
from ...runs.journal.checkpoints import flush, newest_good, prune, put_back, set_aside, write_manifest
from ..schedule_free import ScheduleFreeAverage
from .evaluated_sets import Evaluated
from .pushing import PushingPart
from .resuming import ResumingPart
from .step_log import StepLogPart

# No room, too large a file, no permission, a broken disk; other errors (of a network, say) are no matter of the disk.
_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)


class SavingPart(PushingPart, StepLogPart, ResumingPart):
    """Saves the checkpoints and the best weights of :class:`DiffusionTrainer`."""

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The best yet of ``metric_for_best_model``: keep the weights that were evaluated in ``best/``."""
        is_best = super()._determine_best_metric(metrics, trial)
        if is_best:
            self.state.best_global_step = self.state.global_step  # with save_strategy no, too
            start = time.perf_counter()
            self._check_weights()
            target = Path(self._get_output_dir(trial)) / "best"
            fresh = target.with_name("best.tmp")
            with self._writing(fresh):
                with self.evaluated_weights():
                    self.save_model(str(fresh), _internal_call=True)
                if self.args.should_save:
                    (fresh / "training_args.bin").unlink(missing_ok=True)  # inference needs no pickle
                    flush(fresh)
                    recover_best(target)
                    old = target.with_name("best.old")
                    if target.exists():
                        os.replace(target, old)
                    os.replace(fresh, target)
                    shutil.rmtree(old, ignore_errors=True)
                    if (evaluated := self._chosen_evaluation()) is not None:
                        best = evaluated.result
                        numbers = (best.unit_ids.tolist(), best.unit_tokens.tolist(), best.unit_nll.tolist())
                        digests = self._contents_of(evaluated)
                        write_evaluation(
                            target.parent, self.state.global_step, best.data_unit, *numbers, contents=digests
                        )
            reports_of(self.state).leave_out("saving", time.perf_counter() - start)
        return is_best

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save what is evaluated, as ``best/`` does: the average of the weights, if there is one."""
        with nullcontext() if _internal_call else self.evaluated_weights():
            super().save_model(output_dir, _internal_call)

    def _finalize_training(self, trial: Any, *args: Any, **kwargs: Any) -> Any:
        if self.args.load_best_model_at_end and self.state.best_global_step is not None:
            self._take_best(Path(self._get_output_dir(trial)) / "best")
        return super()._finalize_training(trial, *args, **kwargs)

    def _load_best_model(self) -> None:
        """Nothing: ``best/`` is loaded by now; a checkpoint has the weights that were trained, and not each best step one."""

    def _take_best(self, best: Path) -> None:
        """Give the model what ``best/`` holds, which from here on is what it is: nothing is averaged any more."""
        if isinstance(self._average, ScheduleFreeAverage):
            self._average.stop()
        self.ema = self._average = None
        self._load_best_weights(best)
        self.training_objective.load(best)

    def _evaluate(self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False) -> Any:
        metrics = super()._evaluate(trial, ignore_keys_for_eval, skip_scheduler)
        if skip_scheduler:  # eval_on_start: the weights that training begins with may stay the best
            self._determine_best_metric(metrics, trial)
        return metrics

    def _chosen_evaluation(self) -> Evaluated | None:
        """The last evaluation of the set that ``metric_for_best_model`` is of."""
        metric = f"eval_{str(self.args.metric_for_best_model).removeprefix('eval_')}"
        known = [prefix for prefix in self._evaluated if metric.startswith(f"{prefix}_")]
        return self._evaluated[max(known, key=len)] if known else None

    def _contents_of(self, evaluated: Evaluated) -> dict[str, list[Any]] | None:
        """What the units of an evaluation are, in their order; an evaluation set is read for it once."""
        found = self._of_sets.get(evaluated.whole, "contents")
        if found is None:
            unit = evaluated.result.data_unit
            found = unit_contents(evaluated.scored, self.data_collator, unit, self.processing_class)
            self._of_sets.keep(evaluated.whole, "contents", found)
        return found.of(evaluated.result.unit_ids)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        if self._window:
            # A run resumed from here must find the steps since the last logging step in its log and its token count.
            self._log_window(self._tr_loss)
        self._check_weights()
        folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        facts = self._facts()
        # Older checkpoints go only when this one is good, that is after its manifest.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            with self._writing(folder):
                if self.args.should_save:
                    set_aside(folder)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                if self._average is not None:
                    self._average.save(folder, write=self.args.should_save)
                if self.args.should_save:
                    facts.write(folder)
                self.accelerator.wait_for_everyone()  # the manifest vouches for the files of all processes
                if self.args.should_save:
                    write_manifest(folder)
        finally:
            self.args.save_total_limit = limit
        if self.args.should_save:
            prune(folder, limit)
        self._push_saved(folder)

    @contextmanager
    def _writing(self, folder: Path) -> Iterator[None]:
        """Turn a disk that takes no more into one sentence; what stood in the place of ``folder`` is there again.

        Raises:
            UserError: a file could not be written.
        """
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            if (why := _reason(error)) is None:
                raise
            if self.args.should_save:
                put_back(folder)
            good = newest_good(self._folder)[0]
            advice = f"go on from {good} by --resume" if good else "start again, since no checkpoint was saved before"
            raise UserError(
                f"{folder} could not be written at step {self.state.global_step} ({why}), so the run was stopped; make room "
                f"or give it a place where it can write, and {advice}"
            ) from error


def recover_best(target: Path) -> None:
    """Bring the best weights back that a kill has left between their old place and their new one."""
    old = target.with_name("best.old")
    if target.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        os.replace(old, target)


def _reason(error: Exception) -> str | None:
    """What an error while writing says about the disk; None where it is about something else."""
    if isinstance(error, OSError):
        return error.strerror if error.errno in _DISK else None
    message = str(error)
    if isinstance(error, SafetensorError):
        return message
    # torch.save has no error of its own: its writer fails with a RuntimeError that says where in its C++ code.
    return "its file could not be written" if "PytorchStreamWriter" in message or "unexpected pos" in message else None
