"""The process that draws the dashboard of a training that goes on, so that the training need not wait for pictures.

Run as ``python -m hf_difflm.runs.dashboard.process JOURNAL FOLDER --parent PID --begin STEP``. It reads requests from
stdin, one a line: a number of optimiser steps draws the run up to there, ``end`` draws it as it is and ends, ``end
wait`` first waits until the journal says how the run ended. Where several wait, only the newest is drawn, and the others
at the end, in order. It ends by itself with the process that started it, and when nothing was asked for a long time. Its
last line on stdout is JSON: ``{"cpu_seconds": ..., "pictures": ..., "problem": ...}``.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Sequence
from pathlib import Path

from ..derived.beside import add_options, begin, requests, step_forward
from ..reading.dashboard_names import SHOWN_SAMPLES

_ENDING_SECONDS = 10.0
_OBJECTS = 200_000  # more than a picture leaves: the default would search for garbage dozens of times in each


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what stdin asks for until it says ``end``, is closed, or nobody is there to ask."""
    parser = argparse.ArgumentParser(description="draws the dashboard of a running training")
    parser.add_argument("journal", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--begin", type=int, help="step at which the training begins: later pictures are old")
    parser.add_argument("--samples", type=int, default=SHOWN_SAMPLES, help="how many texts a picture shows")
    add_options(parser)
    options = parser.parse_args(arguments)
    begin(options)
    # Only now, for it takes a second: matplotlib and numpy.
    from .drawer import Drawer

    gc.freeze()  # what has been imported stays: no drawing need look through it
    gc.set_threshold(_OBJECTS, 5, 10)
    drawer = Drawer(options.journal, options.folder, options.begin, options.samples)
    late: list[int] = []
    for request in requests(options.parent, lambda passed: late.append(int(passed))):
        if request.startswith("end"):
            step_forward()
        drawer.draw(int(request) if request.isdigit() else None, wait=_ENDING_SECONDS if request == "end wait" else 0.0)
        if request.startswith("end"):
            drawer.draw_late(late)
    print(drawer.account(), flush=True)


if __name__ == "__main__":
    main()
