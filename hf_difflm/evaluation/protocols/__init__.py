"""Likelihoods as other projects compute theirs, beside the bound that this library reports."""
