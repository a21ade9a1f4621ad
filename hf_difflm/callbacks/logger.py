"""One interface to log numbers, texts and histograms to Weights & Biases, TensorBoard and Trackio, without a Trainer."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, did_you_mean
from ..runs.journal.redaction import redact
from ..runs.journal.strict_json import plain
from .tracking.backends import Backend, TensorBoardBackend, TrackioBackend, WandbBackend
from .tracking.formats import bins_of, numbers_of

logger = logging.getLogger(__name__)


class Logger:
    """Log to one tracker or to several at once; make one on one process only, and :meth:`finish` it at the end.

    A tracker whose package is not installed is warned of once and left out.

    Args:
        backend: ``"wandb"``, ``"tensorboard"``, ``"trackio"`` or ``"none"``; several as a list or as
            ``"wandb,tensorboard"``.
        project_name: the project of W&B and Trackio.
        config: settings of the run; those that look like secrets are left out.
        log_dir: folder of the TensorBoard events, and where W&B keeps its files; default: as each of them has it.
        run_name: name of the run in W&B and Trackio; default: as they make one up.
        options: anything else that ``wandb.init`` takes, e.g. ``entity`` or ``mode``.

    Raises:
        UserError: there is no such backend.
    """

    def __init__(
        self,
        backend: str | Sequence[str] = "wandb",
        project_name: str = "hf-difflm",
        config: Mapping[str, Any] | None = None,
        log_dir: str | Path | None = None,
        run_name: str | None = None,
        **options: Any,
    ) -> None:
        given = backend.split(",") if isinstance(backend, str) else backend
        names = list(dict.fromkeys(name.strip() for name in given if name.strip() not in ("", "none")))
        for name in names:
            if name not in _OPENERS:
                known = (*_OPENERS, "none")
                raise UserError(f"backend is {name!r}; choose {', '.join(known)}{did_you_mean(name, known)}")
        settings = redact(plain(dict(config or {})))
        self._backends: list[Backend] = []
        for name in names:
            try:
                self._backends.append(_OPENERS[name](project_name, run_name, log_dir, options))
            except ImportError:
                logger.warning("%s is not installed, so nothing is logged to it; pip install %s", name, name)
        if settings:
            self.log_hparams(settings)

    @property
    def backends(self) -> tuple[str, ...]:
        """The names of the trackers that are logged to."""
        return tuple(backend.name for backend in self._backends)

    def log_metrics(self, metrics: Mapping[str, Any], step: int) -> None:
        """Log numbers by name, e.g. ``{"train/loss": 2.3}``; None is left out, NaN is not.

        Raises:
            UserError: a metric is no number.
        """
        numbers = numbers_of(metrics)
        for backend in self._backends:
            backend.log_metrics(numbers, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        """Log a text, which is shown letter by letter: markup in it is not followed, control characters are escaped."""
        for backend in self._backends:
            backend.log_text(name, text, step)

    def log_histogram(self, name: str, values: Any, step: int) -> None:
        """Log how values are distributed; of a tensor or array with no finite value nothing is logged.

        Args:
            name: of the histogram.
            values: a tensor, an array, numbers, or ``{"low", "high", "counts"}``: bins of equal width, already counted.
            step: optimiser steps done.
        """
        if not self._backends:
            return
        bins = bins_of(values)
        if bins is not None:
            for backend in self._backends:
                backend.log_histograms({name: bins}, step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """Log rows of numbers and texts; TensorBoard, which has no tables, shows each row as a text of its own."""
        for backend in self._backends:
            backend.log_table(name, columns, rows, step)

    def log_hparams(self, config: Mapping[str, Any], metrics: Mapping[str, Any] | None = None) -> None:
        """Log settings, and final numbers if there are any, for a comparison of runs.

        TensorBoard counts every scalar as a result of the run, and takes the settings of a run once.
        """
        numbers = numbers_of(metrics or {})
        config = redact(plain(dict(config)))
        for backend in self._backends:
            backend.log_hparams(config, numbers)

    def finish(self) -> None:
        """Write all there is and close the trackers; what is logged after that goes nowhere."""
        backends, self._backends = self._backends, []
        for backend in backends:
            backend.finish()


# Each imports its package, which takes a second, only when it is asked for.


def _open_tensorboard(project: str, run_name: str | None, folder: str | Path | None, options: Any) -> Backend:
    from torch.utils.tensorboard import SummaryWriter

    return TensorBoardBackend(SummaryWriter(None if folder is None else str(folder)))


def _open_wandb(project: str, run_name: str | None, folder: str | Path | None, options: Mapping[str, Any]) -> Backend:
    import wandb

    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)  # W&B would go to a folder for temporary files without a word
        options = {"dir": str(folder), **options}
    backend = WandbBackend(wandb, wandb.init(project=project, name=run_name, **options))
    backend.define_axis()
    return backend


def _open_trackio(project: str, run_name: str | None, folder: str | Path | None, options: Any) -> Backend:
    import trackio

    return TrackioBackend(trackio, trackio.init(project=project, name=run_name))


_OPENERS: dict[str, Callable[..., Backend]] = {
    "wandb": _open_wandb,
    "tensorboard": _open_tensorboard,
    "trackio": _open_trackio,
}
