"""Which adapters become a part of the weights, so that what was trained, saved, pushed and evaluated is one network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...errors import UserError

# Each of these is trained, saved, resumed, merged, pushed and evaluated in the tests, and gives one number.
TRAINED = (
    "LORA",
    "LOHA",
    "LOKR",
    "OFT",
    "BOFT",
    "IA3",
    "VERA",
    "TRAINABLE_TOKENS",
    "FOURIERFT",
    "HRA",
    "VBLORA",
    "MISS",
    "SHIRA",
    "C3A",
)
# It cuts its ranks by a schedule that somebody has to step, and adds a loss of its own to that of the network.
MERGED = (*TRAINED, "ADALORA")
# Settings of LoRA whose layers say more than a product of matrices does, or that change weights of the network itself.
_NOT_MERGED = (
    "megatron_config",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
)
_INITIAL = (True, False, None, "gaussian", "orthogonal", "olora", "pissa", "eva")


def require_peft(why: str) -> None:
    """Raise UserError where PEFT is not installed; ``why`` begins the sentence."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise UserError(f"{why} needs the package peft; install it with `pip install 'hf_difflm[peft]'`") from error


def refuse_kind(config: Mapping[str, Any], name: str, *, trained: bool = False) -> None:
    """Refuse an adapter that cannot be merged into its network, or not trained as it should be.

    Args:
        config: of the adapter, as in ``adapter_config.json``.
        name: what the user knows it as.
        trained: whether it shall be trained.

    Raises:
        UserError: it is of a kind, or has a setting, of which a merged network is not known to be the same.
    """
    kind = str(getattr(config.get("peft_type"), "value", config.get("peft_type")))
    if kind not in (TRAINED if trained else MERGED):
        known = ", ".join(TRAINED if trained else MERGED)
        if kind in MERGED:
            why = "has a schedule and a loss of its own, which this Trainer does not know, so it is merged but not trained"
        else:
            why = "is not known to become a part of the weights"
        raise UserError(f"{name} is of the kind {kind}, which {why}; take one of {known}")
    for setting in _NOT_MERGED:
        if config.get(setting):
            raise UserError(
                f"{name} has {setting} = {config[setting]!r}, with which LoRA is not known to become a part of the weights; "
                "leave it out"
            )
    initial = config.get("init_lora_weights")
    if kind == "LORA" and initial not in _INITIAL:
        raise UserError(
            f"{name} has init_lora_weights = {initial!r}, which changes the network that it belongs to, so the two fit no "
            "more once they are loaded; use one of True, gaussian, orthogonal, olora, pissa, eva"
        )
