"""Processes, engines and attention: how a training is spread and started."""
