"""Leaves the terminal to the command: no notes and no bars of the libraries below it."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Call before a command that trains, evaluates or generates; it imports transformers, not datasets."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if "datasets" in sys.modules:
        sys.modules["datasets"].disable_progress_bars()
    else:
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the error itself is one sentence
    logging.getLogger("DeepSpeed").addFilter(_away_from_stdout)
    warnings.filterwarnings("ignore", module="torch.utils.data")  # pinned memory without a GPU
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


def _away_from_stdout(record: logging.LogRecord) -> bool:
    """What DeepSpeed says goes to stderr; that it found no GPU, which it says wherever it is installed, goes nowhere."""
    if record.levelno >= logging.WARNING and "Setting accelerator to CPU" not in record.getMessage():
        logging.getLogger().handle(record)
    return False
