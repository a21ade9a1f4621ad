"""Which ways to draw the noise exist together; no heavy import in here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import UserError


def check_noise(training: Mapping[str, Any]) -> None:
    """Raise UserError where complementary pairs or static shapes do not exist with the other settings.

    Args:
        training: ``objective``, ``loss_form``, ``noise_sampling`` and ``static_shapes`` by name; an autoregressive model has
            no noise and one shape, so for it all combinations are fine.
    """
    objective, form, sampling = training["objective"], training["loss_form"], training["noise_sampling"]
    if objective == "ar":
        return
    if sampling == "pairs" and objective != "mdlm":
        raise UserError(
            f"noise_sampling pairs is for the objective mdlm, but the objective is {objective}, whose masks have no "
            "complement; use stratified, or train with objective mdlm"
        )
    if sampling == "pairs" and form != "any_order":
        raise UserError(
            f"noise_sampling pairs takes exact counts, but loss_form is {form}; use loss_form any_order, or stratified"
        )
    if not training["static_shapes"]:
        return
    if objective != "mdlm":
        raise UserError(
            f"static_shapes is for the objectives mdlm and ar, but the objective is {objective}, which hides any number of "
            "tokens; leave it out"
        )
    if form != "any_order" or sampling == "iid":
        raise UserError(
            "static_shapes needs a bound on the labelled positions, which only loss_form any_order with noise_sampling "
            f"stratified or pairs has, but they are {form} and {sampling}; change them, or leave static_shapes out"
        )
