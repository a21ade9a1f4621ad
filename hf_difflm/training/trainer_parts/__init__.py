"""The parts of the Trainer, one concern each."""
