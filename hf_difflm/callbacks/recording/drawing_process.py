"""The process that draws, as the training sees it."""

from __future__ import annotations

from pathlib import Path

from .process import JournalProcess


class DrawingProcess(JournalProcess):
    """A process that draws a journal's dashboard; see :mod:`hf_difflm.runs.dashboard.process`.

    Args:
        journal: the journal.
        folder: where the pictures go.
        begin: step at which the training begins.
        samples: how many texts a picture shows.
    """

    def __init__(self, journal: Path, folder: Path, begin: int, samples: int) -> None:
        super().__init__(
            "hf_difflm.runs.dashboard.process",
            [str(journal.absolute()), str(folder.absolute()), "--samples", str(samples)],
            ["--begin", str(begin)],
            "the dashboard could not be drawn to its end",
        )
