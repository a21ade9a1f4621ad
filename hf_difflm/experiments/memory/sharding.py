"""What each device holds of weights, gradients and optimiser under each engine, in bytes."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import UserError

ENGINES = ("ddp", "fsdp2", "zero1", "zero2", "zero3")
# Bytes a parameter for the states in float32; an optimiser that is not here is taken for Adam, and that is said.
_STATE_BYTES = {
    "adamw_torch": 8.0,
    "adamw_torch_fused": 8.0,
    "adamw_apex_fused": 8.0,
    "adagrad": 4.0,
    "rmsprop": 4.0,
    "lion_32bit": 4.0,
    "muon": 4.0,
    "paged_lion_32bit": 4.0,
    "adamw_8bit": 2.0,
    "adamw_bnb_8bit": 2.0,
    "lion_8bit": 1.0,
    "sgd": 0.0,
}
# DeepSpeed's own defaults, in elements: its reduction bucket is allocated whole, however small the network is.
_ZERO_BUCKET = 500_000_000
_ZERO3_LIVE = 1_000_000_000


@dataclass(frozen=True)
class Network:
    """The sizes that decide what is held, in parameters: of all, of the largest layer, of what lies outside the layers."""

    parameters: int
    layer: int
    outside: int


def knows_optimizer(name: str) -> bool:
    """Whether the size of this optimiser's states is known."""
    return name in _STATE_BYTES


def keeps_half_weights(engine: str) -> bool:
    """Whether the forward pass of the engine runs on weights that are bfloat16 themselves, where bf16 is on."""
    return engine in ENGINES[1:]


def held_bytes(
    network: Network, engine: str, devices: int, *, half: bool, optimizer: str, average: bool
) -> dict[str, int]:
    """Return what one device holds all the time, by name of the row: weights, optimiser, moving average, buffers.

    Gradients are not among them, see :func:`gradient_bytes`.

    Args:
        network: its sizes.
        engine: one of :data:`ENGINES`; ``ddp`` on one device is plain training.
        devices: that share the work.
        half: whether it computes in bfloat16 (or float16).
        optimizer: as ``optim`` names it.
        average: whether a moving average of the weights is kept.

    Raises:
        UserError: an average under ZeRO-3; Muon under DeepSpeed.
    """
    if engine == "zero3" and average:
        raise UserError("zero3 keeps no moving average of the weights; leave out ema_decay, or use fsdp2")
    if optimizer == "muon" and engine.startswith("zero"):
        raise UserError(f"{engine} does not train with optim muon, which needs whole matrices; use fsdp2 or ddp")
    size, width = network.parameters, 2 if half else 4
    states = _STATE_BYTES.get(optimizer, 8.0) * size
    if optimizer == "muon":  # matrices have their momentum alone, all else both moments of Adam
        states += 4.0 * network.outside
    weights, buffers, kept_average = 4.0 * size, 0.0, 4.0 * size * average
    if engine == "ddp":
        buffers = 4.0 * size if devices > 1 else 0.0  # the buckets in which gradients are averaged
    elif engine == "fsdp2":
        weights, states, kept_average = weights / devices, states / devices, kept_average / devices
        # What lies outside the layers stays gathered; of the layers this one and the next; and their gradients.
        buffers = width * (3.0 * network.layer + 2.0 * network.outside)
    else:
        states = (states + 8.0 * size) / devices  # with weights and gradients of its share in float32
        weights = float(width * size)
        buffers = float(width * _ZERO_BUCKET)
        if engine == "zero3":
            weights /= devices
            buffers += width * min(size, _ZERO3_LIVE)
    return {
        "weights": int(weights),
        "optimizer": int(states),
        "average": int(kept_average),
        "buffers": int(buffers),
    }


def gradient_bytes(network: Network, engine: str, devices: int, *, half: bool) -> int | None:
    """Return the bytes of the gradients that stay on a device; None where autograd alone decides (plain and DDP)."""
    if engine == "ddp":
        return None
    width = 2 if half and engine != "fsdp2" else 4
    return width * network.parameters // (1 if engine == "zero1" else devices)
