"""The old path of :mod:`hf_difflm.runs.pages.html`."""

from .pages.html import *  # noqa: F403
