"""What the objectives, their forms and their ways to draw the noise are called; no heavy import in here."""

OBJECTIVES = ("mdlm", "ar", "atat")
LOSS_FORMS = ("any_order", "time")
NOISE_SAMPLINGS = ("stratified", "iid", "pairs")
