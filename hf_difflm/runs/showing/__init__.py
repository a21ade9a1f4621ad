"""Runs in the terminal, and as files of other programs."""
