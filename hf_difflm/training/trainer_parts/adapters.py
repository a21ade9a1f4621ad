"""Adapters in checkpoints and in ``best/``: the one holds what was trained, the other what can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers.trainer import TRAINING_ARGS_NAME

from ...callbacks.measuring.engines import engine_of
from ...errors import UserError
from ...models.adapters.files import load_adapter, save_adapter
from ...models.adapters.folders import MERGED_ADAPTER, base_name
from ...models.adapters.kinds import refuse_kind
from ...models.adapters.merging import check_mergeable, config_of, has_adapters, merged, without_wrapper
from ..optimization.muon import MUON
from ..peft_adapters import check_engine
from .base import TrainerPart


class AdapterPart(TrainerPart):
    """Saves and loads the adapters of :class:`DiffusionTrainer`, if it has any: of ``lora_r``, or made by PEFT.

    A checkpoint holds the adapter alone, as PEFT writes it. ``best/``, and what ``save_model`` writes, is a plain model
    with the adapter merged in and the adapter beside it; with ``lora_merge`` off it is the adapter alone, too.
    """

    _saving_checkpoint = False

    def _check_adapters(self) -> None:
        """Raise UserError where the engine shards weights, or what is trained would not be what is saved and evaluated."""
        if not self._has_adapters():
            return
        check_engine(engine_of(self.args))
        if self.args.optim == MUON:
            raise UserError(
                f"optim {MUON} makes the update of a whole matrix orthogonal, which the adapters of the model train as a "
                "product of two thin ones; choose another optim such as adamw_torch"
            )
        model = self._plain_model()
        config = config_of(model)
        refuse_kind(config.to_dict(), "the adapter of the model", trained=True)
        check_mergeable(model)
        base, revision = base_name(config.base_model_name_or_path or without_wrapper(model).name_or_path or "")
        config.base_model_name_or_path, config.revision = base, config.revision or revision

    def _has_adapters(self) -> bool:
        return has_adapters(self._plain_model())

    def _plain_model(self) -> Any:
        return extract_model_from_parallel(self.model, keep_torch_compile=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self._has_adapters():
            super()._save(output_dir, state_dict)
            return
        folder, model = Path(output_dir or self._folder), self._plain_model()
        if self._saving_checkpoint or not self.args.lora_merge:
            if self.args.should_save:
                self._save_adapter_alone(folder)
            return
        trained, self.model = self.model, merged(model)
        try:
            super()._save(output_dir, None)  # the weights that the model has now, not those of before
        finally:
            self.model = trained
        if self.args.should_save:
            save_adapter(model, folder / MERGED_ADAPTER)

    def _save_adapter_alone(self, folder: Path) -> None:
        model = self._plain_model()
        save_adapter(model, folder)
        without_wrapper(model).generation_config.save_pretrained(str(folder))
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))
        torch.save(self.args, folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._has_adapters():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_adapter(self._plain_model(), Path(resume_from_checkpoint), resume_from_checkpoint)

    def _load_best_weights(self, best: Path) -> None:
        if not self._has_adapters():
            super()._load_best_weights(best)
            return
        load_adapter(self._plain_model(), best / MERGED_ADAPTER if self.args.lora_merge else best, str(best))
