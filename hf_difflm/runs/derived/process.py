"""The process that keeps what is derived from a journal fresh, so that the training need not wait for it.

Run as ``python -m hf_difflm.runs.derived.process JOURNAL --parent PID``. It reads requests from stdin, one a line, and
rebuilds the files for each, unless the last rebuild was less than 100 times as long ago as it took. It ends by itself
with the process that started it, and when nothing was asked for a long time. Its last line on stdout is JSON:
``{"cpu_seconds": ..., "problem": ...}``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from .beside import add_options, begin, requests


def main(arguments: Sequence[str] | None = None) -> None:
    """Rebuild the files when stdin asks for it, until it says ``end``, is closed, or nobody is there to ask."""
    parser = argparse.ArgumentParser(description="keeps the files that are derived from a journal fresh")
    parser.add_argument("journal", type=Path)
    add_options(parser)
    options = parser.parse_args(arguments)
    begin(options)
    from ...errors import UserError
    from ..journal.strict_json import dumps
    from .rebuild import DerivedWriter

    writer = DerivedWriter(options.journal)
    problem = None
    for request in requests(options.parent):
        if request.startswith("end"):
            break
        try:
            writer.write_if_due()
        except (OSError, UserError) as error:  # a full disk, a journal that someone has deleted
            problem = str(error)
    print(dumps({"cpu_seconds": time.process_time(), "problem": problem}), flush=True)


if __name__ == "__main__":
    main()
