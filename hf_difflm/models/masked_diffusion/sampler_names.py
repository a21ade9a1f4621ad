"""The names of the samplers, readable without torch: command lines list them before anything heavy is imported."""

from __future__ import annotations

OWN_SAMPLERS = (
    "ddpm",
    "ddpm_cache",
    "first_hitting",
    "remdm",
    "left_to_right",
    "random_order",
    "low_confidence",
    "maskgit_plus",
    "topk_margin",
    "entropy",
    "entropy_bounded",
    "confidence_threshold",
    "uncertainty",
)
PUBLISHED = ("llada", "dream", "sdar", "llada2")
"""Those that released models were published with, faults and all: they may leave masks."""

SAMPLERS = (*OWN_SAMPLERS, *PUBLISHED)
