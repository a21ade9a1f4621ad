"""Ablations: a grid of variants, perhaps in rounds, finished run by run and told on a page."""
