"""Networks that are trained beside the model: an optimiser group, clipping and files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ...callbacks.measuring.engines import engine_of
from ...errors import UserError
from .base import TrainerPart

_ENGINES = ("single", "ddp")


class NetworksPart(TrainerPart):
    """Trains the networks of the objective of :class:`DiffusionTrainer`, if it has any.

    They are on every process as a whole. What they learn never touches the model: their gradients are averaged over
    processes, clipped and zeroed apart from its own, and the logged gradient norm is the model's. No moving average is kept
    of them: they only steer the training, so what they say now is what counts.
    """

    def _adopt_networks(self) -> None:
        """Bring them to the device.

        Raises:
            UserError: the engine shards weights, which it would do with those of the model alone.
        """
        networks = self.training_objective.networks
        if networks is None:
            return
        if (engine := engine_of(self.args)) not in _ENGINES:
            raise UserError(
                f"objective {self.training_objective.name} with a learned importance does not train under {engine}, which "
                "knows the weights of the model alone; launch with accelerate_configs/ddp.yaml, or set importance to "
                "frequency_only"
            )
        networks.to(self.args.device)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        optimizer = super().create_optimizer(model)
        if self.training_objective.networks is not None:
            parameters = list(self.training_objective.networks.parameters())
            known = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if not known.issuperset(map(id, parameters)):  # a second training goes on with the optimiser of the first
                optimizer.add_param_group({"params": parameters, "weight_decay": 0.0})
        return optimizer

    def _prepare_for_training(self, max_steps: int, *args: Any, **kwargs: Any) -> Any:
        self.training_objective.begin(max_steps)
        self._forget_gradients()
        if self._resumed_from is not None:
            self.training_objective.load(self._resumed_from)
        return super()._prepare_for_training(max_steps, *args, **kwargs)

    def _clip_grad_norm(self, model: Any) -> Any:
        self._average_gradients()  # before a float16 scaler looks for what is not finite: all processes must agree on it
        norm = super()._clip_grad_norm(model)
        if self.training_objective.networks is not None:
            torch.nn.utils.clip_grad_norm_(self.training_objective.networks.parameters(), self.args.max_grad_norm)
        return norm

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        if grad_norm is None:  # nothing is clipped
            self._average_gradients()
        return super()._get_grad_norm(model, grad_norm=grad_norm)

    def _average_gradients(self) -> None:
        """Average over processes, as DDP does with the model's; one message."""
        if self.training_objective.networks is None or self.accelerator.num_processes == 1:
            return
        parameters = list(self.training_objective.networks.parameters())
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        gradients = [p.grad for p in parameters if p.grad is not None]
        mean = self.accelerator.reduce(torch.cat([g.flatten() for g in gradients]), "mean")
        for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def _forget_gradients(self) -> None:
        """The Trainer zeroes the model's alone."""
        if self.training_objective.networks is not None:
            self.training_objective.networks.zero_grad()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            self.training_objective.save(Path(output_dir or self._folder))
