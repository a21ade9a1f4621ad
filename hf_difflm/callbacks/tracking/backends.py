"""What is written to TensorBoard, Weights & Biases and Trackio, in the form that each of them shows best."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ...runs.journal.tables import printable
from .formats import Bins, block, cell

# The x axis that transformers' callbacks define for all curves: no number of W&B's own steps is named, so nothing that
# comes late is dropped for going back to an earlier one.
STEP_METRIC = "train/global_step"
_ALERT_TITLE = 60  # characters; W&B takes fewer than 64


class Backend(Protocol):
    """An open tracker; ``step`` counts optimiser steps, and any text is shown letter by letter, never as markup."""

    name: str

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None: ...

    def log_text(self, name: str, text: str, step: int) -> None: ...

    def log_histograms(self, histograms: Mapping[str, Bins], step: int) -> None: ...

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None: ...

    def log_hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Settings, which are plain values, and final numbers, which may be none."""

    def alert(self, title: str, text: str, step: int) -> None:
        """Say that something happened, to the person where the tracker can."""

    def finish(self) -> None:
        """Write all there is and close the tracker."""


class TensorBoardBackend:
    """A ``SummaryWriter``; its own thread writes the file.

    Args:
        writer: from torch or tensorboardX.
    """

    name = "tensorboard"

    def __init__(self, writer: Any) -> None:
        self.writer = writer
        self._in_session = False

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self.writer.add_scalar(printable(name), value, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self.writer.add_text(printable(name), block(text), step)

    def log_histograms(self, histograms: Mapping[str, Bins], step: int) -> None:
        for name, bins in histograms.items():
            # The sums are those of the middles of the bins; TensorBoard draws the bins alone.
            self.writer.add_histogram_raw(
                printable(name),
                min=bins.low,
                max=bins.high,
                num=sum(bins.counts),
                sum=float(bins.centres @ bins.counts),
                sum_squares=float(bins.centres**2 @ bins.counts),
                bucket_limits=bins.edges[1:].tolist(),
                bucket_counts=list(bins.counts),
                global_step=step,
            )

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        """One text a row, ``{name}/0``, ``{name}/1``, ...: TensorBoard has no tables, and so shows a row over the steps."""
        for number, row in enumerate(rows):
            self.writer.add_text(f"{printable(name)}/{number}", _row(columns, row), step)

    def log_hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Begin a session of the HParams tab; without :meth:`end_hparams` its state is unknown."""
        # Only the session: where no run declares an experiment, the tab takes every scalar of the run for a metric, at
        # its last value. So the final losses are there also of a run that was killed, and nothing is written twice.
        # ``SummaryWriter.add_hparams`` would open a second folder, that is a second run, for each session.
        from torch.utils.tensorboard.summary import hparams

        known = {printable(name): cell(value) for name, value in config.items() if value is not None}
        _, session_start, _ = hparams(known, {})
        self.writer._get_file_writer().add_summary(session_start)
        self._in_session = True
        for name, value in metrics.items():
            self.writer.add_scalar(printable(name), value)

    def end_hparams(self) -> None:
        """Say that the session ended well."""
        from torch.utils.tensorboard.summary import hparams

        _, _, session_end = hparams({}, {})
        self.writer._get_file_writer().add_summary(session_end)
        self._in_session = False

    def alert(self, title: str, text: str, step: int) -> None:
        self.log_text(f"events/{title}", text, step)

    def flush(self) -> None:
        """Write to the file what the thread has not written yet."""
        self.writer.flush()

    def finish(self) -> None:
        if self._in_session:
            self.end_hparams()
        self.writer.close()


class _RunBackend:
    """What Weights & Biases and Trackio, which has its interface, have in common.

    Args:
        module: ``wandb`` or ``trackio``.
        run: the open run.
    """

    name: str

    def __init__(self, module: Any, run: Any) -> None:
        self.module, self.run = module, run

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._log({printable(name): value for name, value in metrics.items()}, step)

    def log_text(self, name: str, text: str, step: int) -> None:
        self._log({printable(name): self._text(text)}, step)

    def log_histograms(self, histograms: Mapping[str, Bins], step: int) -> None:
        make = self.module.Histogram
        shown = {printable(name): make(np_histogram=(bins.counts, bins.edges)) for name, bins in histograms.items()}
        self._log(shown, step)

    def log_table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], step: int) -> None:
        cells = [[self._cell(value) for value in row] for row in rows]
        # A number in one row and none in the next would be refused.
        table = self.module.Table(columns=list(columns), data=cells, allow_mixed_types=True)
        self._log({printable(name): table}, step)

    def alert(self, title: str, text: str, step: int) -> None:
        self.log_text(f"events/{title}", text, step)

    def _log(self, values: dict[str, Any], step: int) -> None:
        if values:
            self.run.log({**values, STEP_METRIC: step})

    def _text(self, text: str) -> Any:
        raise NotImplementedError

    def _cell(self, value: Any) -> Any:
        return cell(value)


class WandbBackend(_RunBackend):
    """A run of Weights & Biases."""

    name = "wandb"

    def define_axis(self) -> None:
        """Draw all curves over the optimiser steps, as transformers' callback does in the runs that it opens."""
        self.run.define_metric(STEP_METRIC)
        self.run.define_metric("*", step_metric=STEP_METRIC, step_sync=True)

    def log_hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        self.run.config.update(dict(config), allow_val_change=True)
        self.run.summary.update(dict(metrics))

    def log_artifact(self, name: str, kind: str, folder: str, aliases: Sequence[str], metadata: dict[str, Any]) -> None:
        """Keep a copy of a folder as a new version of an artifact, which W&B uploads by itself."""
        artifact = self.module.Artifact(name=name, type=kind, metadata=metadata)
        artifact.add_dir(folder)
        self.run.log_artifact(artifact, aliases=list(aliases))

    def alert(self, title: str, text: str, step: int) -> None:
        """Also by mail or chat, for those who have asked W&B for it."""
        super().alert(title, text, step)
        self.run.alert(title=printable(title)[:_ALERT_TITLE], text=printable(text))

    def finish(self) -> None:
        self.run.finish()

    def _text(self, text: str) -> Any:
        shown = f'<pre style="white-space: pre-wrap">{html.escape(printable(text))}</pre>'
        return self.module.Html(shown, data_is_not_path=True)


class TrackioBackend(_RunBackend):
    """A run of Trackio."""

    name = "trackio"

    def log_hparams(self, config: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        self.run.config.update(dict(config))
        if metrics:  # Trackio has no summary
            self.run.log(dict(metrics))

    def finish(self) -> None:
        self.module.finish()

    def _text(self, text: str) -> Any:
        return self.module.Markdown(block(text))

    def _cell(self, value: Any) -> Any:
        shown = cell(value)  # Trackio takes the text of a cell for Markdown
        return block(shown) if isinstance(shown, str) and shown else shown


def _row(columns: Sequence[str], row: Sequence[Any]) -> str:
    """A row as Markdown: texts as blocks, the numbers between two texts on one line."""
    parts: list[str] = []
    numbers: list[str] = []
    for column, value in zip(columns, row, strict=True):
        if isinstance(value, str):
            parts += [", ".join(numbers), f"{printable(column)}:", block(value)]
            numbers = []
        elif value is not None:
            shown = f"{value:.4g}" if isinstance(value, float) else str(value)
            numbers.append(f"{printable(column)}: {shown}")
    return "\n\n".join(part for part in [*parts, ", ".join(numbers)] if part)
