"""The model card, written from the run log."""
