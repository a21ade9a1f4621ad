"""The optimisers and schedules that transformers has no name for."""
