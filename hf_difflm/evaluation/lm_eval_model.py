"""The old path of :mod:`hf_difflm.evaluation.harness.lm_eval_model`, for ``python -m``."""

from .harness.lm_eval_model import *  # noqa: F403
from .harness.lm_eval_model import main

if __name__ == "__main__":
    main()
