"""Runs side by side: tables, seeds, pairs, the best one, and whether the comparison is fair."""
