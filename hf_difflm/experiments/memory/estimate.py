"""What a run will need of each device's memory, before anyone waits: nothing is allocated, no data are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch

from ...errors import UserError
from ...evaluation.likelihood.draws import Draws
from ...models.adapters.merging import merging_parameters
from ...models.backbones.sentences import direction_said
from ...models.build import build_causal_lm, build_denoiser
from ...models.masked_diffusion.labelled_head import automatic_chunk_rows
from ...objectives import BlockDiffusionObjective, MaskedDiffusionObjective
from ...objectives.drawn_noise import MaskingObjective
from ...training.arguments import DiffusionTrainingArguments
from ...training.declarations.complaints import complaints_about
from ...training.declarations.fields import trainer_fields
from ...training.objective_choice import adaptive_settings
from ...training.peft_adapters import check_engine
from ..building import check_network
from ..recipe_settings import Settings
from ..starting_point import begin_from, block_start, open_tokenizer, start_without_weights
from .labelled_positions import most_labelled, reads_of
from .sharding import Network, gradient_bytes, held_bytes, keeps_half_weights, knows_optimizer
from .simulated_adapters import with_simulated_adapters
from .simulated_step import SimulatedNetwork

USABLE = 0.9
"""The share of a device's memory that is planned with: the rest is for its context, the kernels' workspaces and gaps."""
# Tokenizers of the shipped recipes that are not built in, with the special tokens we add: so nothing is downloaded.
_VOCABULARIES = {"gpt2": 50_258, "openai-community/gpt2": 50_258}
_EVALUATED = 1024  # sequences of an evaluation set: how many exactly changes a batch's share of hidden tokens little


@dataclass
class MemoryEstimate:
    """Memory of one device, in bytes.

    Args:
        weights, gradients, optimizer, average, activations, logits, buffers: at the moment of a training step at which
            most is in use; ``average`` is the moving average of the weights, ``logits`` what is as large as the
            vocabulary at each labelled position, ``activations`` all else that a step allocates.
        training: their sum.
        evaluation: the most that an evaluation needs.
        merging: the most that writing ``best/`` needs, where adapters are merged for that; else 0.
        total: the largest of the three.
        other_checkpointing: ``total`` with activation checkpointing the other way round.
        checkpointing, half: whether activations are recomputed, and whether it computes in bfloat16 (or float16).
        objective, optimizer_name: as the settings name them.
        parameters: of the network.
        trained: those that are trained; the others are frozen beside adapters.
        reads: what the network was measured to read, in words.
        vocabulary, block_size, labelled: labelled positions of a micro-batch at most.
        devices, engine, micro_batch, accumulation, global_batch_size: how an optimiser batch is cut.
        assumed: what was not known, in words.
        device_memory: of one device; None where it is not known, and then the following are None, too.
        fits: whether ``total`` is within :data:`USABLE` of it.
        largest_micro_batch, largest_accumulation: that fit at this global batch size; 0 and None where none does.
    """

    weights: int
    gradients: int
    optimizer: int
    average: int
    activations: int
    logits: int
    buffers: int
    training: int
    evaluation: int
    merging: int
    total: int
    other_checkpointing: int
    checkpointing: bool
    half: bool
    objective: str
    parameters: int
    trained: int
    reads: str
    vocabulary: int
    block_size: int
    labelled: int
    devices: int
    engine: str
    micro_batch: int
    accumulation: int
    global_batch_size: int
    optimizer_name: str
    assumed: list[str] = field(default_factory=list)
    device_memory: int | None = None
    fits: bool | None = None
    largest_micro_batch: int | None = None
    largest_accumulation: int | None = None


def estimate_memory(
    settings: Settings, devices: int = 1, engine: str = "ddp", device_memory: int | None = None
) -> MemoryEstimate:
    """Estimate the memory of each device.

    Args:
        settings: of the run.
        devices: processes that share the optimiser batch.
        engine: one of :data:`~hf_difflm.experiments.memory.sharding.ENGINES`.
        device_memory: of one device in bytes; None where it is not known.

    Raises:
        UserError: a batch that cannot be cut so; a network that cannot be built, or that is not what it is trained as; an
            unknown tokenizer; adapters under an engine that does not train them.
    """
    settings = begin_from(settings)
    if settings.training["lora_r"] is not None:
        check_engine(engine)
    planner = _Planner(settings, devices, engine)
    training = settings.training
    cut = _cut(settings, devices)
    rows, accumulation = cut.per_device_train_batch_size, cut.gradient_accumulation_steps
    needs = planner.training(rows, accumulation, planner.checkpointing)
    evaluation = planner.evaluation(training["per_device_eval_batch_size"])
    beside = max(evaluation, planner.merging)
    total = max(sum(needs.values()), beside)
    other = max(sum(planner.training(rows, accumulation, not planner.checkpointing).values()), beside)
    estimate = MemoryEstimate(
        weights=needs["weights"],
        gradients=needs["gradients"],
        optimizer=needs["optimizer"],
        average=needs["average"],
        activations=needs["activations"],
        logits=needs["logits"],
        buffers=needs["buffers"],
        training=sum(needs.values()),
        evaluation=evaluation,
        merging=planner.merging,
        total=total,
        other_checkpointing=other,
        checkpointing=planner.checkpointing,
        half=planner.half,
        objective=training["objective"],
        parameters=planner.network.num_parameters + planner.network.num_frozen,
        trained=planner.network.num_parameters,
        reads=planner.reads,
        vocabulary=planner.network.model.config.vocab_size,
        block_size=settings.data.block_size,
        labelled=planner.labelled(rows, cut.global_batch_size),
        devices=devices,
        engine=engine,
        micro_batch=rows,
        accumulation=accumulation,
        global_batch_size=cut.global_batch_size,
        optimizer_name=planner.optimizer,
        assumed=planner.assumed,
        device_memory=device_memory,
    )
    if device_memory is not None:
        usable = int(USABLE * device_memory)
        estimate.fits = total <= usable
        found = _largest(planner, cut, devices, usable, {rows: estimate.training}) if beside <= usable else 0
        estimate.largest_micro_batch = found
        estimate.largest_accumulation = cut.global_batch_size // devices // found if found else None
    return estimate


class _Planner:
    """One network under one engine, asked for micro-batches of several sizes."""

    def __init__(self, settings: Settings, devices: int, engine: str) -> None:
        training = settings.training
        self._settings, self._devices, self._engine = settings, devices, engine
        self.half = bool(training.get("bf16") or training.get("fp16"))
        # The second name is that of older transformers, which newer ones still take.
        self.checkpointing = bool(training.get("activation_checkpointing") or training.get("gradient_checkpointing"))
        self.optimizer = str(training.get("optim") or trainer_fields()["optim"].default)
        self.assumed = [] if knows_optimizer(self.optimizer) else [f"optim {self.optimizer}: as large as Adam's states"]
        self.network, self.reads = _network(settings, self.half, keeps_half_weights(engine) and devices > 1)
        layer, outside = self.network.block_sizes()
        # What an objective trains beside the network is held as its weights are, but has no average.
        self._sizes = Network(self.network.num_parameters + self.network.num_beside, layer, outside)
        self._average = training["ema_decay"] is not None
        self._held = held_bytes(
            self._sizes, engine, devices, half=self.half, optimizer=self.optimizer, average=self._average
        )
        if self._average:
            self._held["average"] -= 4 * self.network.num_beside
        self._replaced = self._held["weights"] if self._average else 0  # by their average, and wait in a copy
        self._held["weights"] += 4 * self.network.num_frozen  # which have neither gradient nor state nor average
        self.merging = 0
        if training["lora_r"] is not None and training["lora_merge"]:
            self.merging = sum(self._held.values()) + self._replaced + 4 * merging_parameters(self.network.model)

    def labelled(self, rows: int, batch: int) -> int:
        return most_labelled(self._settings.training, rows, self._settings.data.block_size, batch)

    def training(self, rows: int, accumulation: int, checkpointing: bool) -> dict[str, int]:
        """Bytes by row of the table, at the peak of a micro-batch."""
        fixed = gradient_bytes(self._sizes, self._engine, self._devices, half=self.half)
        peak = self.network.training_peak(
            rows,
            self._settings.data.block_size,
            self.labelled(rows, rows * accumulation * self._devices),
            reads=reads_of(self._settings.training),
            checkpointing=checkpointing,
            accumulates=fixed is None and accumulation > 1,
        )
        gradients = peak.gradients if fixed is None else fixed
        return {**self._held, "gradients": gradients, "activations": peak.activations, "logits": peak.logits}

    def evaluation(self, rows: int) -> int:
        """Bytes of an evaluation, for which the weights give way to their average and wait in a copy."""
        length = self._settings.data.block_size
        training = self._settings.training
        if training["objective"] in ("mdlm", "bd3lm"):
            fewest = Draws(
                training["eval_replicates"], training["target_stderr"], training["max_eval_replicates"]
            ).fewest
            size = training["diffusion_block_size"]
            trained = MaskedDiffusionObjective(0) if size is None else BlockDiffusionObjective(0, size)
            noise: MaskingObjective = trained.for_evaluation(replicates=fewest)
            training = {**training, "loss_form": noise.loss_form, "noise_sampling": noise.noise_sampling}
            training |= {"count_law": noise.count_law.name, "count_law_exponent": noise.count_law.exponent}
            training |= {"diffusion_block_size_schedule": None}
        labelled = most_labelled(training, rows, length, max(rows, _EVALUATED))
        peak = self.network.evaluation_peak(rows, length, labelled)
        return sum(self._held.values()) + peak.total + self._replaced


def _network(settings: Settings, half: bool, half_weights: bool) -> tuple[SimulatedNetwork, str]:
    model, block_size, training = settings.model, settings.data.block_size, settings.training
    vocabulary: Any = open_tokenizer(settings) if settings.start else _Vocabulary(_vocabulary_size(settings))
    verdict = check_network(settings, vocabulary)
    if verdict is not None and verdict.router_loss is not None:
        raise UserError(
            f"the memory of a mixture of experts such as {verdict.model_type} cannot be estimated, since torch has no "
            "simulated product of experts in float32; measure it with train --max-steps 2"
        )

    def build() -> Any:
        asked = {"router_aux_loss": training["router_aux_loss"]}
        if settings.start is not None:
            return start_without_weights(settings, settings.start, vocabulary)
        if training["objective"] == "ar":
            return build_causal_lm(model, vocabulary, block_size, **asked)
        return build_denoiser(
            model,
            vocabulary,
            block_size,
            allow_causal_layers=training["allow_causal_layers"],
            diffusion_block_size=training["diffusion_block_size"],
            diffusion_block_start=block_start(settings),
            **asked,
        )

    with complaints_about("the network cannot be built", "check backbone, its sizes and attn_implementation"):
        network = SimulatedNetwork(
            lambda: with_simulated_adapters(build(), training),
            dtype=torch.bfloat16 if half and half_weights else torch.float32,
            autocast=half,
            adaptive=adaptive_settings(training) if training["objective"] == "atat" else None,
        )
    config = network.model.config
    network.chunk_head(_head_chunk_rows(training, config.vocab_size))
    longest = getattr(config, "max_position_embeddings", None)
    return network, "" if verdict is None else direction_said(verdict, longest)


def _head_chunk_rows(training: dict[str, Any], vocabulary: int) -> int:
    """The labelled positions that the head takes at once in the real training; 0: all."""
    if training.get("torch_compile"):
        return 0
    automatic = automatic_chunk_rows(vocabulary, "cpu" if training["use_cpu"] else "cuda")
    return automatic if training["head_chunk_rows"] is None else training["head_chunk_rows"]


class _Vocabulary:
    """Of a tokenizer what the size of a network depends on."""

    def __init__(self, size: int) -> None:
        self._size = size
        self.bos_token_id = self.eos_token_id = self.pad_token_id = 0
        self.mask_token_id = size - 1

    def __len__(self) -> int:
        return self._size


def _vocabulary_size(settings: Settings) -> int:
    return _VOCABULARIES.get(settings.data.tokenizer) or len(open_tokenizer(settings))


def _cut(settings: Settings, devices: int) -> Any:
    """Micro-batch and accumulation as the training would choose them with so many processes."""
    names = ("global_batch_size", "per_device_train_batch_size", "gradient_accumulation_steps")
    cut: Any = SimpleNamespace(world_size=devices, **{name: settings.training[name] for name in names})
    DiffusionTrainingArguments._derive_accumulation(cut)  # the rule itself; the arguments would want the processes
    return cut


def _largest(planner: _Planner, cut: Any, devices: int, usable: int, known: dict[int, int]) -> int:
    """The largest micro-batch that divides a device's share of the batch and fits; 0 where none does.

    Memory is nearly a straight line in the micro-batch: a line through two sizes proposes one, a simulation confirms it.
    """
    share = cut.global_batch_size // devices
    sizes = [rows for rows in range(1, share + 1) if share % rows == 0]

    def needed(rows: int) -> int:
        if rows not in known:
            known[rows] = sum(planner.training(rows, share // rows, planner.checkpointing).values())
        return known[rows]

    (first,) = known
    guess = first * usable / known[first]
    needed(min((rows for rows in sizes if rows != first), key=lambda rows: abs(rows - guess), default=first))
    if len(known) > 1:
        (a, at_a), (b, at_b) = known.items()
        slope = max((at_b - at_a) / (b - a), 1)
        guess = a + (usable - at_a) / slope
    low, high = 0, len(sizes)  # sizes[:low] fit, sizes[high:] do not
    probe = sum(rows <= guess for rows in sizes) - 1
    while low < high:
        probe = min(max(probe, low), high - 1)
        if needed(sizes[probe]) <= usable:
            low = probe + 1
        else:
            high = probe
        probe = probe + 1 if low == probe + 1 else probe - 1
    return sizes[low - 1] if low else 0
