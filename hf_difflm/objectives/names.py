"""What the objectives, their forms and their ways to draw the noise are called; no heavy import in here."""

OBJECTIVES = ("mdlm", "ar", "atat", "bd3lm")
DIFFUSION = ("mdlm", "atat", "bd3lm")
TWINS = ("mdlm", "ar")
"""The objectives that are compared; variants of one objective are a matter for ``ablate``."""
LOSS_FORMS = ("any_order", "time")
NOISE_SAMPLINGS = ("stratified", "iid", "pairs")
COUNT_LAWS = ("uniform", "importance", "bell", "optimal")


def weight_power(loss_weight: str) -> float | None:
    """The power q of a hidden token's weight k^-q: 0 where it is ``flat``; None where it is the bound's, ``nelbo``.

    Raises:
        ValueError: it is none of these and no number.
    """
    return None if loss_weight == "nelbo" else 0.0 if loss_weight == "flat" else float(loss_weight)
