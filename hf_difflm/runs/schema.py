"""The old path of :mod:`hf_difflm.runs.journal.schema`."""

from .journal.schema import *  # noqa: F403
