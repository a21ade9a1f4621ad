"""Logs of other programs, one reader a format: each gives the records that a journal of ours would hold."""
