"""Adapters in checkpoints and in ``best/``: the one holds what was trained, the other what can be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from accelerate.utils import extract_model_from_parallel

from ...callbacks.measuring.engines import engine_of
from ...models.adapters import MERGED_ADAPTER, load_adapter, merged
from ..peft_adapters import check_engine
from .base import TrainerPart


class AdapterPart(TrainerPart):
    """Saves and loads the adapters of :class:`DiffusionTrainer`, if it has any.

    A checkpoint holds the adapter alone, as PEFT writes it. ``best/``, and what ``save_model`` writes, is a plain model
    with the adapter merged in and the adapter beside it; with ``lora_merge`` off it is the adapter alone, too.
    """

    _saving_checkpoint = False

    def _check_adapters(self) -> None:
        """Raise UserError where the engine shards weights."""
        if self._has_adapters():
            check_engine(engine_of(self.args))

    def _has_adapters(self) -> bool:
        return bool(getattr(self._plain_model(), "_hf_peft_config_loaded", False))

    def _plain_model(self) -> Any:
        return extract_model_from_parallel(self.model, keep_torch_compile=False)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self._saving_checkpoint = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint = False

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self._has_adapters() or self._saving_checkpoint or not self.args.lora_merge:
            super()._save(output_dir, state_dict)
            return
        model = self._plain_model()
        with merged(model):
            super()._save(output_dir, None)  # the weights that the model has now, not those of before
        if self.args.should_save:
            model.save_pretrained(str(Path(output_dir or self._folder) / MERGED_ADAPTER))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if not self._has_adapters():
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_adapter(self._plain_model(), Path(resume_from_checkpoint), resume_from_checkpoint)

    def _load_best_weights(self, best: Path) -> None:
        super()._load_best_weights(best / MERGED_ADAPTER if self._has_adapters() and self.args.lora_merge else best)
