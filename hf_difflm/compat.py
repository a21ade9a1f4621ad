"""What differs between the versions of torch and transformers that this library runs on, each with the version it is for."""

from __future__ import annotations

from typing import Any

from .errors import UserError

NETWORKS_NEED = (5, 11)
"""transformers from which on a network that reads both sides is the same after it was saved and loaded (5.9: not yet)."""


def need_networks() -> None:
    """Refuse a transformers that networks, objectives and Trainer cannot be built on; called when one is first used.

    For transformers < 5.11: up to 5.9 a saved network forgets that it is not causal, and 5.10 asks for torch 2.7.

    Raises:
        UserError: it is older.
    """
    if networks_run():
        return
    import transformers

    wanted = ".".join(str(number) for number in NETWORKS_NEED)
    raise UserError(
        f"transformers {transformers.__version__} is installed, and the networks, objectives and Trainer of hf_difflm need "
        f"{wanted} or newer (pip install -U transformers); hf_difflm.callbacks, hf_difflm.runs and the commands that read "
        "runs work with it"
    )


def networks_run() -> bool:
    """Whether transformers is new enough for :func:`need_networks`."""
    import transformers

    return _numbers(transformers.__version__) >= NETWORKS_NEED


def multiprocessing_context(args: Any) -> str | None:
    """How the training arguments want the processes of a data loader started; None: as torch does.

    For transformers < 5.15, whose arguments do not have it.
    """
    return getattr(args, "dataloader_multiprocessing_context", None)


def _numbers(version: str) -> tuple[int, ...]:
    """``5.11.0.dev0`` -> ``(5, 11)``."""
    return tuple(int(part) for part in version.split(".")[:2])
