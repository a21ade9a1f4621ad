"""What the kinds of importance, of masking and of curricula are called; no heavy import in here."""

IMPORTANCES = ("full", "learned_only", "frequency_only", "none")
MASKINGS = ("proportional", "inverse", "balanced", "time_only", "none")
CURRICULUM_SCHEDULES = ("linear", "step", "exponential")
