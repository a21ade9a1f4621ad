"""What the measurement of a backbone found."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BOTH, CAUSAL, PART_CAUSAL, POINTWISE = "both sides", "causal", "part causal", "no other position"


@dataclass(frozen=True)
class Verdict:
    """What a backbone reads, and on what else its hidden states depend.

    Attributes:
        model_type: of the configuration.
        role: ``denoiser`` or ``causal LM``.
        direction: of the network without padding: ``both sides``, ``causal``, ``part causal`` or ``no other position``.
        padded_direction: the same where the batch is padded; None where it was not tried.
        layers: how many the real network has.
        causal_layers: of a denoiser, the numbers of those that read, wholly or in one of their parts, nothing behind a
            position.
        back: for each layer, the positions that it reads before its own; -1: all. Empty where that is so in each.
        ahead: the same behind its own position; empty, too, where the network is causal.
        right_padding: whether a row padded on the right gives what it gives alone; None: not tried, or it does not run.
        left_padding: the same on the left.
        deterministic: whether the same input gives the same twice.
        kernels: attention kernels that run.
        kernels_agree: whether they give the same in the same direction; None where there are not two.
        without_gradient: parameters that the loss never reaches.
        same_after_loading: whether it computes the same after ``save_pretrained`` and ``from_pretrained``; None under FSDP.
        router_loss: of a mixture of experts, whether its family has a router loss; None of another network.
        bias_by_distance: whether positions are told by a bias that favours near tokens (ALiBi).
        no_blocks: of a denoiser, why block diffusion is something else on it, as a clause; None where it is not, or was not
            asked.
        no_documents: why documents of one row cannot be kept apart on it, as a clause; None where they can, or was not asked.
        error: why it does not run; then nothing else is known.
    """

    model_type: str
    role: str
    direction: str = ""
    padded_direction: str | None = None
    layers: int = 0
    causal_layers: tuple[int, ...] = ()
    back: tuple[int, ...] = ()
    ahead: tuple[int, ...] = ()
    right_padding: bool | None = None
    left_padding: bool | None = None
    deterministic: bool | None = None
    kernels: tuple[str, ...] = ()
    kernels_agree: bool | None = None
    without_gradient: tuple[str, ...] = ()
    same_after_loading: bool | None = None
    router_loss: bool | None = None
    bias_by_distance: bool = False
    no_blocks: str | None = None
    no_documents: str | None = None
    error: str | None = None

    @property
    def reads_padding(self) -> bool | None:
        """Whether padding on some side changes a row, or does not run at all; None where nothing is known."""
        if self.error is not None:
            return None
        return self.right_padding is not True or self.left_padding is not True

    def to_dict(self) -> dict[str, Any]:
        """The fields that say something, as JSON takes them."""
        found = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                found[field.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        """Take what :meth:`to_dict` gave; fields of later versions are left out."""
        names = {field.name for field in dataclasses.fields(cls)}
        known: dict[str, Any] = {
            name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name in names
        }
        return cls(**known)
