"""Training batches: in an order of their own, on the host until the noise is drawn, numbered by their place."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import DataLoaderDispatcher, DataLoaderShard
from torch.utils.data import DataLoader, IterableDataset

from ...callbacks.reports import reports_of
from ...compat import multiprocessing_context
from ...errors import UserError
from ...models.backbones.check import check_documents
from ...objectives import Batch
from ...objectives.base import to_device
from ...objectives.packed_documents import PIECES, Layout
from ..data_order import order_of
from ..given_data import check_batch, refuse_with_documents
from ..launch.host_gather import gathered_on_hosts
from ..stream_position import StreamPosition
from ..unigram_entropy import unigram_entropy
from .base import TrainerPart


class LoadingPart(TrainerPart):
    """Loads the training batches of :class:`DiffusionTrainer`."""

    def get_train_dataloader(self) -> DataLoader:
        dataset = self.train_dataset
        if dataset is None or isinstance(dataset, IterableDataset):
            with self._batches_on_the_host(), self._every_column():
                return super().get_train_dataloader()
        optimiser_batch = self.get_total_train_batch_size(self.args)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self._train_order = order_of(dataset, optimiser_batch, seed, self.args.max_steps)
        if getattr(dataset, "is_stream", False):
            self.pop_callback(StreamPosition)  # of a training before this one
            self.add_callback(StreamPosition(dataset, self._train_order, optimiser_batch))
        loader = DataLoader(
            dataset,
            batch_size=self._train_batch_size,
            sampler=self._train_order,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            multiprocessing_context=multiprocessing_context(self.args),
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            drop_last=True,
            generator=torch.Generator().manual_seed(seed),  # iterating must not move the global generator
        )
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def _unigram_entropy(self) -> float | None:
        """That of the training set, in nats per scored token; asked of the process that keeps the log, and read once."""
        kept = self._of_sets.get(self.train_dataset, "unigram_entropy")
        if kept is None and self.train_dataset is not None and self.is_world_process_zero():
            size = getattr(getattr(self.model, "config", None), "vocab_size", None)
            kept = (unigram_entropy(self.train_dataset, size, getattr(self.processing_class, "bos_token_id", None)),)
            self._of_sets.keep(self.train_dataset, "unigram_entropy", kept)
        return kept and kept[0]

    def _init_training_state(self, *args: Any, **kwargs: Any) -> Any:
        position = super()._init_training_state(*args, **kwargs)
        reports_of(self.state).unigram_entropy = self._unigram_entropy()
        return position

    def _prepare_for_training(self, max_steps: int, train_dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(train_dataloader, DataLoaderShard):  # of an overridden get_train_dataloader
            train_dataloader.device = None
        elif self.accelerator.num_processes > 1 and not isinstance(train_dataloader, DataLoaderDispatcher):
            raise UserError(
                f"get_train_dataloader returns a {type(train_dataloader).__name__} of which each of "
                f"{self.accelerator.num_processes} processes would train on every row; return "
                "self.accelerator.prepare(loader)"
            )
        return super()._prepare_for_training(max_steps, train_dataloader, *args, **kwargs)

    @contextmanager
    def _batches_on_the_host(self) -> Iterator[None]:
        """Inside the block accelerate prepares loaders whose batches stay on the host, where the noise is drawn."""
        placed = self.accelerator.device_placement
        self.accelerator.device_placement = False
        try:
            yield
        finally:
            self.accelerator.device_placement = placed

    @contextmanager
    def _every_column(self) -> Iterator[None]:
        """Inside the block loaders are made whose collator gets every column: the model's forward does not know ours."""
        removes, self.args.remove_unused_columns = self.args.remove_unused_columns, False
        try:
            yield
        finally:
            self.args.remove_unused_columns = removes

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> tuple[list[Batch], Any]:
        """Fetch an accumulation window and number its sequences by their place in the optimiser batch."""
        if not self._clock_started:  # trackers take seconds to start, which are no training time
            self._window.restart_clock()
            self._clock_started = True
        batches, num_scored = super().get_batch_samples(epoch_iterator, num_batches, device)
        rank, ranks, rows = self.accelerator.process_index, self.accelerator.num_processes, self._train_batch_size
        for micro, batch in enumerate(batches):
            batch["places"] = (micro * ranks + rank) * rows + np.arange(len(batch["input_ids"]))
        if not batches or PIECES not in batches[0]:
            return batches, num_scored
        self._check_documents()
        if not self.training_objective.reads_rows:
            own = np.concatenate([Layout.of(batch[PIECES].numpy()).piece_D for batch in batches])
            pieces = gathered_on_hosts(own)
            for batch in batches:
                batch["batch_pieces"] = pieces
        return batches, num_scored

    def _check_documents(self) -> None:
        """Refuse rows of several documents where these cannot be kept apart; asked once.

        Raises:
            UserError: by the network, or by a setting.
        """
        if not self._keeps_documents_apart:
            check_documents(self.model)
            refuse_with_documents(self.args)
            self._keeps_documents_apart = True

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: torch.device) -> int | torch.Tensor:
        """Scored tokens of the optimiser batch over all ranks: the denominator of the loss."""
        for batch in batch_samples:
            check_batch(batch, self.data_collator)
        scored = int(sum((batch["labels"] != -100).sum() for batch in batch_samples))
        if self.accelerator.num_processes == 1:
            return max(scored, 1)
        return self.accelerator.reduce(to_device(torch.tensor(float(scored)), device), "sum").clamp(min=1)

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # the objective moves what the model needs, after it has drawn the noise on the host
