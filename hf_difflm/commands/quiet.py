"""Leaves the terminal to the command: no notes and no bars of the libraries below it."""

from __future__ import annotations

import logging
import warnings


def quiet_libraries() -> None:
    """Call before a command that trains, evaluates or generates; imports transformers and datasets."""
    import datasets
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries; the error itself is one sentence
    warnings.filterwarnings("ignore", module="torch.utils.data")  # pinned memory without a GPU
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
