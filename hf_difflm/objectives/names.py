"""What the objectives, their forms and their ways to draw the noise are called; no heavy import in here."""

OBJECTIVES = ("mdlm", "ar", "atat")
DIFFUSION = ("mdlm", "atat")
TWINS = ("mdlm", "ar")
"""The objectives that are compared; variants of one objective are a matter for ``ablate``."""
LOSS_FORMS = ("any_order", "time")
NOISE_SAMPLINGS = ("stratified", "iid", "pairs")
