"""The denoising loop: owns the canvas, the forwards, the rows that change, streamers and history; a sampler decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers.generation import LogitsProcessorList
from transformers.utils import logging

from .generation_blocks import DiffusionBlocks
from .generation_canvas import Canvas, split_steps
from .generation_logits import COLDEST, Reader, cutting_processors, shaping_processors
from .generation_prefix import KeptPrefix
from .generation_random import TOKEN, RowDraws
from .logit_statistics import Logits, MadeLogits, Predictions
from .sampler_protocol import Block, Drawing, Sampler, Seen

logger = logging.get_logger(__name__)


class DenoisingLoop:
    """Fills the holes of a canvas.

    Args:
        denoiser: called with ids, attention mask and positions.
        canvas: what is filled.
        config: a complete generation config.
        callers_processors: processors of the caller.
        draws: random numbers of the rows.
        streamer: gets a draft after each step that changes something, where it has ``put_draft``, and says before each
            step which rows to drop, where it has ``unwanted``.
        importance: for the uncertainty sampler.
        kept: see :class:`DiffusionBlocks`.

    Attributes:
        forwards_B: forwards each row took part in; guidance counts two.
        history: (B, L) canvases after the steps that changed something, if ``output_history``.
        is_known: whether the holes are of a text that is known, see :class:`DiffusionBlocks`.
    """

    is_known = False

    def __init__(
        self,
        denoiser: Any,
        canvas: Canvas,
        config: Any,
        callers_processors: LogitsProcessorList | None,
        draws: RowDraws,
        streamer: Any = None,
        importance: Any = None,
        kept: KeptPrefix | None = None,
    ) -> None:
        self.denoiser, self.canvas, self.config, self.draws, self.streamer = denoiser, canvas, config, draws, streamer
        self.sampler: Sampler = config.sampler_config
        self.importance = importance
        self.shaping: Any = shaping_processors(config, callers_processors)
        self.cutting: Any = cutting_processors(config)
        self.greedy = not config.do_sample or config.temperature < COLDEST
        is_guided = config.guidance_scale not in (None, 1, 1.0)
        given_BL = canvas.given(config.bos_token_id) if is_guided else None
        keeps = self.sampler.draws_mask
        self.reader = Reader(denoiser, config, given_BL, delay_head=not self.shaping, keep_mask=keeps)
        self.size = size = getattr(denoiser.config, "diffusion_block_size", None)
        self.drawing = Drawing(
            0.0 if self.greedy else config.temperature,
            config.top_k,
            config.top_p,
            getattr(denoiser, "dtype", torch.float32),
        )
        self.diffusion_blocks: DiffusionBlocks | None = None
        if size is not None:
            is_cached = config.use_cache is not False
            self.diffusion_blocks = DiffusionBlocks(
                self.reader, denoiser.config, canvas, size, is_cached, self.is_known, kept
            )
        eos = config.eos_token_id
        self.eos_ids = [] if eos is None else np.atleast_1d(eos).tolist()
        self.ends_BL = np.zeros(canvas.holes_BL.shape, dtype=bool)
        self.finished_B = np.logical_not(canvas.holes_BL.any(-1))
        self.forwards_B = torch.zeros(len(canvas.holes_BL))
        self.first_hole = canvas.first_hole
        self.history: list[torch.Tensor] = []
        self.when_BL: np.ndarray | None = None
        self.token_uniform_BL: np.ndarray | None = None
        if not self.sampler.redraws:
            self.when_BL, self.token_uniform_BL = draws.once(canvas.holes_BL)

    def run(self) -> None:
        """Fill all holes, block by block."""
        if self.diffusion_blocks is None:
            self._fill(self.blocks(), np.ones(len(self.finished_B), dtype=bool))
            return
        for here_B, blocks in self.diffusion_blocks.groups(self.config.max_denoising_steps):
            self._fill(blocks, here_B)
        self.diffusion_blocks.keep()

    def _fill(self, blocks: Iterator[tuple[int, np.ndarray, int]], here_B: np.ndarray) -> None:
        """Fill blocks, see :meth:`blocks`; (B,) which rows have any."""
        canvas = self.canvas
        first_step = 0
        first_column = canvas.prompt_length if canvas.new_tokens and self.size is None else 0
        for steps, wanted_BL, last_column in blocks:
            wanted_BL[self.finished_B] = False
            start_B = canvas.window_starts(last_column, wanted_BL)
            block = Block(
                masked_BL=wanted_BL,
                steps=steps,
                first_step=first_step,
                schedule=self.denoiser.config.schedule(),
                draws=self.draws,
                place_BL=canvas.place_BL,
                when_BL=self.when_BL,
                importance=self.importance,
                first_column=first_column,
                size=self.size,
                drawing=self.drawing,
            )
            if self.size is None:
                first_column = last_column
            self.sampler.start(block)
            for step in self.sampler.steps(block):
                self._let_go(block)
                if not (here_B & ~self.finished_B).any() or not (
                    block.masked_BL.any() or self.sampler.remasks or self.sampler.every_row
                ):
                    break
                self._step(block, step, start_B, here_B)
            if self.sampler.remasks:
                self._finish(block, np.flatnonzero(here_B & ~self.finished_B))
            first_step += steps

    def blocks(self) -> Iterator[tuple[int, np.ndarray, int]]:
        """Yield steps, (B, L) masks to fill and the column after the last of them, of each block; asked before it begins."""
        config, canvas = self.config, self.canvas
        for steps, new_tokens in split_steps(config.max_denoising_steps, canvas.new_tokens, config.block_length):
            last_column = canvas.prompt_length + new_tokens
            wanted_BL = canvas.masked_BL.copy()
            wanted_BL[:, last_column:] = False
            yield steps, wanted_BL, last_column

    def check(self) -> None:
        """Raises ValueError where a distribution was none."""
        revealed_BL = torch.from_numpy(self.canvas.holes_BL & ~self.canvas.masked_BL).to(self.canvas.ids_BL.device)
        row_N, column_N = torch.nonzero((self.canvas.ids_BL == self.canvas.mask_id) & revealed_BL, as_tuple=True)
        if len(row_N):
            raise ValueError(
                f"no token can be drawn at position {int(column_N[0])} of text {int(row_N[0])}: its logits are infinite, no "
                "numbers, or all taken away; check the logits processors, guidance_scale, repetition_penalty and the weights"
            )
        if not self.sampler.draws_mask:
            return
        left_B = (self.canvas.masked_BL & ~self.finished_B[:, None]).sum(-1)
        if left_B.any():
            row = int(left_B.argmax())
            logger.warning(
                f"{self.sampler.name}: {left_B[row]} masks are left in text {row}: the sampler draws the mask token too, or "
                "has spent its steps on others; every sampler that is not a published one fills all"
            )

    def _step(self, block: Block, step: int, start_B: np.ndarray, here_B: np.ndarray) -> None:
        """One step of the reverse process."""
        look_BL = self.sampler.look(block, step)
        remask_BL = self.sampler.remask(block, step)
        rows_B = here_B & ~self.finished_B if self.sampler.every_row else look_BL.any(-1)
        changed = False
        if rows_B.any():
            self.forwards_B[torch.from_numpy(rows_B)] += 2 if self.reader.is_guided else 1
            rows_R = np.arange(len(start_B)) if self.config.static_shapes else np.flatnonzero(rows_B)
            self._forward_and_reveal(block, step, rows_R, look_BL[rows_R], start_B[rows_R])
            changed = bool(look_BL.any())
        if remask_BL is not None and remask_BL.any():
            self.canvas.mask(remask_BL)
            self.ends_BL[remask_BL] = False
            block.masked_BL |= remask_BL
            changed = True
        if changed:
            self._show()

    def _forward_and_reveal(
        self, block: Block, step: int, rows_R: np.ndarray, look_RL: np.ndarray, start_R: np.ndarray
    ) -> None:
        canvas = self.canvas
        device = canvas.ids_BL.device
        # 1. Logits where the sampler looks, shaped by guidance and processors, SUBS last.
        row_N, column_N = np.nonzero(look_RL)
        if self.diffusion_blocks is None:
            logits, ids_RL = self._read(rows_R, start_R, row_N, column_N)
        else:
            logits = self.diffusion_blocks.logits(self.finished_B, rows_R[row_N], column_N)
            ids_RL = canvas.ids_BL[torch.from_numpy(rows_R).to(device)]
        if not row_N.size:
            return
        ids_RL = canvas.without_padding(ids_RL, rows_R)
        texts_NL = None
        if self.shaping or self.cutting:
            texts_NL = ids_RL[torch.from_numpy(row_N).to(device)]
        if self.shaping:
            logits = MadeLogits(self._processed(self.shaping, texts_NL, logits.made()))
        predictions = Predictions(logits)

        # 2. Which of them are revealed now, and their tokens.
        tokens_N = None
        if self.sampler.draws_first:
            tokens_N = self._draw(block, step, texts_NL, predictions, rows_R[row_N], column_N)
        seen = Seen(predictions, tokens_N, ids_RL, rows_R, row_N, column_N)
        chosen_N = self.sampler.choose(block, step, seen)
        if chosen_N is not None:
            row_N, column_N = (index[chosen_N.cpu().numpy()] for index in (row_N, column_N))
            predictions = predictions.select(chosen_N)
            texts_NL = None if texts_NL is None else texts_NL[chosen_N]
            tokens_N = None if tokens_N is None else tokens_N[chosen_N]
        if tokens_N is None:
            tokens_N = self._draw(block, step, texts_NL, predictions, rows_R[row_N], column_N)

        # 3. Onto the canvas; rows whose text has come to its end are done.
        if self.sampler.draws_mask:  # without a distribution it is no draw, and `check` finds it
            drawn_N = (tokens_N != canvas.mask_id) | ~predictions.largest().isfinite()
            row_N, column_N = (index[drawn_N.cpu().numpy()] for index in (row_N, column_N))
            tokens_N = tokens_N[drawn_N]
        canvas.reveal(rows_R[row_N], column_N, tokens_N, block.first_step + step)
        block.masked_BL[rows_R[row_N], column_N] = False
        if self.eos_ids:
            is_end_N = np.isin(tokens_N.cpu().numpy(), self.eos_ids) & (column_N >= canvas.prompt_length)
            self.ends_BL[rows_R[row_N[is_end_N]], column_N[is_end_N]] = True
        if not self.sampler.remasks:  # which may take an end back before the block is done
            self._finish(block, rows_R)

    def _read(
        self, rows_R: np.ndarray, start_R: np.ndarray, row_N: np.ndarray, column_N: np.ndarray
    ) -> tuple[Logits, torch.Tensor]:
        """(N, V) logits at some positions, of which of the R rows each is, and the (R, L) canvas of these."""
        canvas = self.canvas
        ids_RW, attention_RW, ids_RL = canvas.read(rows_R, start_R)
        flat_N = row_N * canvas.window + column_N - start_R[row_N]
        columns_RW = None
        if self.reader.is_guided and canvas.window < canvas.length:
            columns_RW = start_R[:, None] + np.arange(canvas.window)[None]
        return self.reader(ids_RW, attention_RW, flat_N, rows_R, columns_RW), ids_RL

    def _draw(
        self,
        block: Block,
        step: int,
        texts_NL: torch.Tensor | None,
        predictions: Predictions,
        row_N: np.ndarray,
        column_N: np.ndarray,
    ) -> torch.Tensor:
        if self.greedy:
            tokens_N = predictions.best()
        else:
            if self.token_uniform_BL is not None:
                uniform_N = self.token_uniform_BL[row_N, column_N]
            else:
                uniform_N = block.uniform(TOKEN, step, row_N, column_N)

            def cut(rows: torch.Tensor, logits_RV: torch.Tensor) -> torch.Tensor:
                assert texts_NL is not None
                return self._processed(self.cutting, texts_NL[rows], logits_RV)

            tokens_N = predictions.draw(
                torch.from_numpy(uniform_N), self.config.temperature, cut if self.cutting else None
            )
        # Where nothing can be drawn the mask stays, and `check` finds it: a GPU need not be waited for here.
        return tokens_N.where(predictions.largest().isfinite(), self.canvas.mask_id)

    def _processed(self, processors: Any, texts_NL: torch.Tensor | None, logits_NV: torch.Tensor) -> torch.Tensor:
        logits_NV = processors(texts_NL, logits_NV)
        if not self.sampler.draws_mask:
            logits_NV[:, self.canvas.mask_id] = float("-inf")  # SUBS has the last word
        return logits_NV

    def _finish(self, block: Block, rows_R: np.ndarray) -> None:
        """Take out those of some rows that have no mask left, or none before their first end."""
        masked_RL = self.canvas.masked_BL[rows_R]
        any_R = masked_RL.any(-1)
        done_R = np.zeros(len(rows_R), dtype=bool) if self.sampler.every_row else np.logical_not(any_R)
        if self.eos_ids:
            ends_RL = self.ends_BL[rows_R]
            first_mask_R = np.where(any_R, masked_RL.argmax(-1), self.canvas.length)
            done_R |= ends_RL.any(-1) & (ends_RL.argmax(-1) < first_mask_R)
        self.finished_B[rows_R[done_R]] = True
        block.masked_BL[rows_R[done_R]] = False

    def _let_go(self, block: Block) -> None:
        """Take out the rows that nobody waits for any more."""
        unwanted = getattr(self.streamer, "unwanted", None)
        if unwanted is not None and (gone_B := unwanted() & ~self.finished_B).any():
            self.finished_B |= gone_B
            block.masked_BL[gone_B] = False

    def _show(self) -> None:
        if self.config.output_history:
            self.history.append(self.canvas.ids_BL.clone())
        if self.streamer is not None and hasattr(self.streamer, "put_draft"):
            # A copy: the canvas goes on changing.
            self.streamer.put_draft(value=self.canvas.ids_BL[:, self.first_hole :].to("cpu", copy=True))
