"""The router loss of a mixture of experts, beside whatever objective is minimised."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ...errors import UserError
from ...objectives.base import Batch, scored_mask, to_device
from ...objectives.load_balancing import load_balancing_loss


class RouterLoss:
    """Hears what the routers of a network say in the forwards of training, and makes the load-balancing loss of it.

    Args:
        model: the network that is called, perhaps inside DDP or another engine.
        coefficient: what the loss is multiplied with before it is added.
    """

    def __init__(self, model: Any, coefficient: float):
        self.model = model
        self.coefficient = coefficient
        config = model.config
        self._top_k = int(getattr(config, "backbone_config", config).num_experts_per_tok)
        self._heard: list[tuple[Any, torch.Tensor | None, torch.Size]] = []
        self._listens = False
        model.register_forward_pre_hook(self._ask, with_kwargs=True)
        model.register_forward_hook(self._hear, with_kwargs=True)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Within it the network hands out the logits of its routers, and they are kept until :meth:`share` is called."""
        self._heard, self._listens = [], True
        try:
            yield
        finally:
            self._listens = False

    def share(self, batch: Batch, num_scored: int | torch.Tensor) -> torch.Tensor:
        """This batch's share of the mean over the optimiser batch's sequences, each weighed by its scored tokens.

        Args:
            batch: clean tokens on the host.
            num_scored: scored tokens of the whole optimiser batch, over all ranks.

        Raises:
            UserError: nothing was heard, or nothing that has a gradient.
        """
        heard, self._heard = self._heard, []
        scored_B = torch.from_numpy(scored_mask(batch).sum(-1)).float()
        losses = []
        for router_logits, mask_RL, shape in heard:
            if not router_logits or not router_logits[0].requires_grad:
                continue
            reads = shape[0] // len(scored_B)  # a sequence may be read several times, its readings being neighbours
            weights_R = to_device(scored_B.repeat_interleave(reads) / reads, router_logits[0].device) / num_scored
            losses.append(load_balancing_loss(router_logits, self._top_k, weights_R, mask_RL))
        if not losses:
            raise UserError(
                f"router_aux_loss {self.coefficient:g} has no effect: no gradient can reach the routers through what this "
                "network hands out; leave it out, or set use_reentrant=False where gradient checkpointing is reentrant"
            )
        return torch.stack(losses).mean()

    def _ask(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return (args, {**kwargs, "output_router_logits": True}) if self._listens else None

    def _hear(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        if self._listens:
            self._heard.append((output.get("router_logits"), kwargs.get("attention_mask"), kwargs["input_ids"].shape))
