"""When a loss rests at the entropy of the token frequencies; no heavy import in here."""

NEAR = 0.02
"""Share of the entropy within which a loss is at it."""
SHARE = 0.1
"""Of the run that is spent there before it counts as resting."""
