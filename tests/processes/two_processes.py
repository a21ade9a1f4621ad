"""A test file as the script of several processes: how they are started, and how each ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).parents[1]


def run_two_processes(script: str, folder: Path, timeout: float = 300) -> None:
    """Run ``script`` in two processes that know of each other, with the folder of their results as argument."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launch, script, str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stderr[-4000:]


def run_as_one_of_them(main: Callable[[Path], None]) -> None:
    """Run ``main`` with the folder of the results, and leave before the interpreter is taken down.

    A thread of gloo that drops a tensor then aborts the process now and then.
    """
    main(Path(sys.argv[1]))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
