"""One function gives the verdict on a backbone, whatever its family is called."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from accelerate.utils import other as accelerate_other
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.integrations import is_fsdp_enabled
from transformers.utils import logging as transformers_logging

from ... import models
from ...errors import first_line
from ..masked_diffusion.both_sides import class_of, kernel_for
from ..masked_diffusion.diffusion_blocks import causal_documents
from .blocks import why_no_blocks
from .documents import why_not_apart
from .moves import Call, Calls, Reach, differ, reach_of
from .tiny import FIRST_TOKEN, VOCABULARY, WINDOWS, Tiny, depth_of, tiny_copies
from .verdict import BOTH, CAUSAL, PART_CAUSAL, POINTWISE, Verdict

DENOISER, CAUSAL_LM = "denoiser", "causal LM"
_SHORT, _LONG = 16, 64  # positions: without windows, with windows
_PADDING = 4
_BY_PADDING = 1e-3  # of the scale: rounding is below 2e-4 of it, what padding does above 1e-2
_ROWS = 4  # for the gradient: enough tokens for each expert to be chosen
_KERNELS = ("sdpa", "eager")


@dataclass
class _Subject:
    """A tiny network, its row of tokens, and where its hidden states come out."""

    model: Any
    tiny: Tiny
    ids_1L: torch.Tensor
    is_causal_lm: bool

    @property
    def place(self) -> int:
        return self.ids_1L.shape[1] // 2

    @torch.no_grad()
    def hidden(self, ids_BL: torch.Tensor, mask_BL: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
        """(B, L, D) hidden states of the backbone; of a causal LM its (B, L, V) logits."""
        if self.is_causal_lm:
            return self.model(**{"input_ids": ids_BL, "attention_mask": mask_BL, "use_cache": False, **kwargs}).logits
        # As the denoiser calls it, with its position ids and without a cache, but without head and SUBS.
        found: list[torch.Tensor] = []
        handle = self.model.backbone.register_forward_hook(lambda _m, _a, output: found.append(output[0]))
        try:
            self.model(input_ids=ids_BL, attention_mask=mask_BL, positions=torch.zeros(1, dtype=torch.long), **kwargs)
        finally:
            handle.remove()
        return found[0]

    def of_documents(self, ids_1L: torch.Tensor, document_ids: torch.Tensor | None) -> torch.Tensor:
        """(1, L, D) hidden states (of a causal LM logits) of documents that share a row; None: of one."""
        if document_ids is None:
            return self.hidden(ids_1L)
        if self.is_causal_lm:
            return self.hidden(ids_1L, **causal_documents(self.model, document_ids))
        return self.hidden(ids_1L, document_ids=document_ids)

    def changed(self, place: int) -> torch.Tensor:
        """The row with another token at one place."""
        ids_1L = self.ids_1L.clone()
        ids_1L[0, place] = FIRST_TOKEN + (ids_1L[0, place] - FIRST_TOKEN + 17) % (VOCABULARY - FIRST_TOKEN - 1)
        return ids_1L


def measure(
    config: Any,
    *,
    causal: bool,
    kernel: str = "sdpa",
    whole: bool = False,
    kind: type[PreTrainedModel] | None = None,
    blocks: bool = False,
    documents: bool = False,
) -> Verdict:
    """Measure what the backbone with this configuration reads, on a tiny copy of it with weights of its own.

    One token is changed; the positions whose hidden states move have read it. The same is done with the input of each
    layer. The global generators are left as they were.

    Args:
        config: of a backbone (for a denoiser: as :class:`MaskedDiffusionConfig` takes it) or of a causal LM.
        causal: whether it is trained as a causal LM; else as a denoiser.
        kernel: attention kernel that is asked for.
        whole: also kernels against each other, gradients, saving and loading.
        kind: class of the causal LM; default: the family's own.
        blocks: also, of a denoiser, whether block diffusion runs on it.
        documents: also, whether documents of one row can be kept apart.
    """
    role = CAUSAL_LM if causal else DENOISER
    verdict = Verdict(config.model_type, role, layers=depth_of(config), **_told_by(config))
    kernel = kernel if kernel in _KERNELS else "sdpa"  # the others may need a GPU; the mask they get is the same
    with _aside():
        try:
            subject = _first_that_runs(config, causal, kernel, kind, WINDOWS[0])
        except Exception as error:  # another library's code, on input that it may never have seen
            return replace(verdict, error=f"{type(error).__name__}: {first_line(error)}")
        verdict = _directions(verdict, subject)
        wider = None
        if subject.tiny.windows:
            with contextlib.suppress(Exception):
                wider = _first_that_runs(config, causal, kernel, kind, WINDOWS[1])
        verdict = _by_layer(verdict, subject, wider)
        verdict = _padding(verdict, subject)
        if blocks and verdict.error is None:
            verdict = replace(verdict, no_blocks=why_no_blocks(subject.model))
        if documents and verdict.error is None:
            verdict = replace(verdict, no_documents=why_not_apart(subject.of_documents, subject.ids_1L))
        if whole:
            verdict = _kernels(verdict, subject)
            verdict = _gradients(verdict, subject)
            verdict = _routers(verdict, subject)
            verdict = _loading(verdict, subject)
    return verdict


# ---- the tiny network ----


def _first_that_runs(
    config: Any, causal: bool, kernel: str, kind: type[PreTrainedModel] | None, window: int
) -> _Subject:
    failure: Exception | None = None
    for tiny in tiny_copies(config, window):
        try:
            subject = _subject(tiny, causal, kernel, kind)
            subject.hidden(subject.ids_1L)
            return subject
        except Exception as error:  # the next copy changes less
            failure = failure or error
    raise failure or ValueError("its configuration cannot be copied")


def _subject(tiny: Tiny, causal: bool, kernel: str, kind: type[PreTrainedModel] | None) -> _Subject:
    torch.manual_seed(0)
    ids_1L = torch.randint(FIRST_TOKEN, VOCABULARY - 1, (1, _LONG if tiny.windows else _SHORT))
    model: Any
    if causal:
        tiny.config._attn_implementation = kernel
        if kind is not None:
            model = kind(tiny.config)
        else:
            found = kernel_for(class_of(tiny.config, AutoModelForCausalLM), kernel)
            model = AutoModelForCausalLM.from_config(tiny.config, attn_implementation=found)
    else:
        config = models.MaskedDiffusionConfig(backbone_config=tiny.config, mask_token_id=VOCABULARY - 1)
        config._attn_implementation = kernel
        model = models.MaskedDiffusionForMaskedLM(config)
    _enliven(model)
    return _Subject(model.eval().float(), tiny, ids_1L, causal)


@torch.no_grad()
def _enliven(model: nn.Module) -> None:
    """Larger weights than a training begins with, and no zeros: what can be read shall move."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue  # a table of sines is no longer one with other numbers
        if parameter.dim() < 2:
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        elif parameter.is_floating_point():
            parameter.normal_(std=parameter.shape[-1] ** -0.5)


@contextlib.contextmanager
def _aside() -> Iterator[None]:
    """On the CPU, silently, in float32, whole on each process, and with the caller's random numbers untouched."""
    level, dtype = transformers_logging.get_verbosity(), torch.get_default_dtype()
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity(transformers_logging.CRITICAL)
    torch.set_default_dtype(torch.float32)
    try:
        # As a mode it is asked at every call, which takes as long as the tiny network does.
        place = contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
        with place, torch.random.fork_rng(devices=[]), warnings.catch_warnings(), _no_partitions():
            warnings.simplefilter("ignore")
            # What a family imports may print, and stdout is for data alone. Whoever asks may have switched gradients off.
            with contextlib.redirect_stdout(sys.stderr), torch.inference_mode(False), torch.enable_grad():
                yield
    finally:
        torch.set_default_dtype(dtype)
        transformers_logging.set_verbosity(level)
        if had_bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def _no_partitions() -> Iterator[None]:
    """ZeRO-3 would cut the tiny network into the shards of the large one."""
    # Where nobody has imported it there is no ZeRO; importing DeepSpeed takes seconds, and prints.
    deepspeed: Any = sys.modules.get("transformers.integrations.deepspeed")
    if deepspeed is None:
        yield
        return
    kept = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = kept


@contextlib.contextmanager
def _no_engine() -> Iterator[None]:
    """No import of DeepSpeed by ``save_pretrained``, which looks for its engine around any model: seconds, and lines."""
    if "deepspeed" in sys.modules:
        yield
        return
    kept = accelerate_other.is_deepspeed_available
    accelerate_other.is_deepspeed_available = lambda: False
    try:
        yield
    finally:
        accelerate_other.is_deepspeed_available = kept


# ---- direction and reach ----


def _directions(verdict: Verdict, subject: _Subject) -> Verdict:
    before = subject.hidden(subject.ids_1L)
    same = torch.equal(before, subject.hidden(subject.ids_1L))
    if not bool(torch.isfinite(before).all()):
        return replace(verdict, error="its hidden states are not finite", deterministic=same)
    reach = _model_reach(subject, before)
    return replace(verdict, direction=_direction(reach), deterministic=same)


def _model_reach(subject: _Subject, before: torch.Tensor) -> Reach:
    place = subject.place
    reach = reach_of(before[0], subject.hidden(subject.changed(place))[0], place)
    return _in_float64(subject, place) or reach if reach.is_doubtful else reach


def _in_float64(subject: _Subject, place: int) -> Reach | None:
    """The same where rounding is out of the question; None where the family does not run in float64."""
    fine = replace(subject, model=copy.deepcopy(subject.model).double())
    try:
        return reach_of(fine.hidden(subject.ids_1L)[0], fine.hidden(subject.changed(place))[0], place)
    except Exception:  # families with float32 in their code
        return None


def _direction(reach: Reach) -> str:
    if reach.back == 0 and reach.ahead == 0:
        return POINTWISE
    return CAUSAL if reach.ahead == 0 else BOTH


def _by_layer(verdict: Verdict, subject: _Subject, wider: _Subject | None) -> Verdict:
    """Reach and direction of each layer alone, under the numbers of the real network."""
    narrow = _layer_reaches(subject)
    wide = None if wider is None else _layer_reaches(wider)
    if not narrow or len(narrow) != len(subject.tiny.real_layers):
        return verdict
    if wide is not None and len(wide) != len(narrow):
        wide = None
    real: dict[int, tuple[int, int]] = {}
    causal = []
    for place, layers in enumerate(subject.tiny.real_layers):
        reach, is_part_causal = narrow[place]
        other = reach if wide is None else wide[place][0]
        width = next(iter(subject.tiny.windows.values()), 0)
        sides = ((reach.back, other.back), (reach.ahead, other.ahead))
        back, ahead = (_extrapolated(small, large, width, reach.is_sharp) for small, large in sides)
        for layer in layers:
            real[layer] = (back, ahead)
            if is_part_causal or (ahead == 0 and back != 0):
                causal.append(layer)
    backs, aheads = (tuple(real[layer][side] for layer in range(len(real))) for side in (0, 1))
    direction = PART_CAUSAL if causal and verdict.direction == BOTH and verdict.role == DENOISER else verdict.direction
    return replace(
        verdict,
        direction=direction,
        causal_layers=tuple(sorted(causal)) if verdict.role == DENOISER else (),
        back=backs if any(reach != -1 for reach in backs) else (),
        ahead=aheads if any(reach != -1 for reach in aheads) and verdict.direction != CAUSAL else (),
    )


def _extrapolated(small: int, large: int, width: int, is_sharp: bool) -> int:
    """A reach in the real window, from those in two small ones, which it grows with along a straight line."""
    if small == -1 or large == -1:
        return -1
    if small == large:  # no window's: a convolution's, or a memory that fades
        return small if is_sharp or small == 0 else -1
    slope = (large - small) / (WINDOWS[1] - WINDOWS[0])
    return round(small + slope * (width - WINDOWS[0]))


def _layer_reaches(subject: _Subject) -> list[tuple[Reach, bool]]:
    """For each layer its reach, and whether one of its parts that mixes positions reads back only."""
    layers = _layers(subject.model, len(subject.tiny.real_layers))
    if layers is None:
        return []
    parts = [[part for part in layer.children() if next(part.children(), None) is not None] for layer in layers]
    with Calls([*layers, *(part for some in parts for part in some)]) as noted:
        subject.hidden(subject.ids_1L)
    found, number = [], len(layers)
    for place, some in enumerate(parts):
        call = noted.calls.get(place)
        reach = None if call is None else _call_reach(call, subject.place)
        if reach is None:
            return []
        inner = [noted.calls.get(number + offset) for offset in range(len(some))]
        number += len(some)
        mixers = []
        if reach.ahead != 0:
            mixers = [r for one in inner if one is not None and (r := _call_reach(one, subject.place)) is not None]
        found.append((reach, any(one.ahead == 0 and one.back != 0 for one in mixers)))
    return found


@torch.no_grad()
def _call_reach(call: Call, place: int) -> Reach | None:
    """The widest reach at the first and at the last position of a chunk; None where the module cannot be asked alone."""
    try:
        if not call.is_steady():
            return None
        return call.reach(place).widest(call.reach(place - 1))
    except Exception:  # a part that takes more than hidden states
        return None


def _layers(model: nn.Module, depth: int) -> list[nn.Module] | None:
    """The layers: the first list of that many modules."""
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    return None


# ---- padding ----


def _padding(verdict: Verdict, subject: _Subject) -> Verdict:
    if verdict.error is not None:
        return verdict
    ids_1L, length = subject.ids_1L, subject.ids_1L.shape[1]
    alone = subject.hidden(ids_1L)
    pad = torch.full((1, _PADDING), subject.tiny.config.pad_token_id or 0)
    full = torch.cat([ids_1L, ids_1L[:, :_PADDING]], 1)  # of one row some families take the mask for none
    ones, zeros = torch.ones_like(ids_1L), torch.zeros_like(pad)
    left = right = direction = None
    with contextlib.suppress(Exception):  # a family without padding: the rows of its batches must be of one length
        mask = torch.cat([torch.cat([ones, zeros], 1), torch.ones_like(full)])
        padded = subject.hidden(torch.cat([torch.cat([ids_1L, pad], 1), full]), mask)[:1, :length]
        right = not differ(alone, padded, _BY_PADDING)
        moved = torch.cat([subject.changed(subject.place), pad], 1)
        other = subject.hidden(torch.cat([moved, full]), mask)[:1, :length]
        direction = _direction(reach_of(padded[0], other[0], subject.place))
    with contextlib.suppress(Exception):
        mask = torch.cat([torch.cat([zeros, ones], 1), torch.ones_like(full)])
        kwargs = {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)} if subject.is_causal_lm else {}
        found = subject.hidden(torch.cat([torch.cat([pad, ids_1L], 1), full]), mask, **kwargs)[:1, _PADDING:]
        left = not differ(alone, found, _BY_PADDING)
    return replace(verdict, right_padding=right, left_padding=left, padded_direction=direction)


# ---- kernels, gradients, files ----


def _kernels(verdict: Verdict, subject: _Subject) -> Verdict:
    if verdict.error is not None:
        return verdict
    asked = subject.model.config._attn_implementation
    found: dict[str, torch.Tensor] = {}
    directions = set()
    for kernel in _KERNELS:
        with contextlib.suppress(Exception):  # the family does not have it
            subject.model.set_attn_implementation(kernel)
            hidden = subject.hidden(subject.ids_1L)
            found[kernel] = hidden
            directions.add(_direction(_model_reach(subject, hidden)))
    with contextlib.suppress(Exception):
        subject.model.set_attn_implementation(asked)
    agree = None
    if len(found) == len(_KERNELS):
        agree = len(directions) == 1 and not differ(found[_KERNELS[0]], found[_KERNELS[1]])
    return replace(verdict, kernels=tuple(found), kernels_agree=agree)


def _gradients(verdict: Verdict, subject: _Subject) -> Verdict:
    if verdict.error is not None:
        return verdict
    ids_BL = torch.randint(FIRST_TOKEN, VOCABULARY - 1, (_ROWS, subject.ids_1L.shape[1]))
    model = subject.model
    model.zero_grad(set_to_none=True)
    try:
        if subject.is_causal_lm:
            logits = model(input_ids=ids_BL, use_cache=False).logits
            F.cross_entropy(logits[:, :-1].flatten(0, 1), ids_BL[:, 1:].flatten()).backward()
        else:
            hidden_BL = torch.rand(ids_BL.shape) < 0.5
            model(
                input_ids=ids_BL.masked_fill(hidden_BL, VOCABULARY - 1), labels=ids_BL.masked_fill(~hidden_BL, -100)
            ).loss.backward()
    except Exception as error:
        return replace(verdict, error=f"its backward pass fails: {type(error).__name__}: {first_line(error)}")
    names = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    model.zero_grad(set_to_none=True)
    return replace(verdict, without_gradient=tuple(names))


def _routers(verdict: Verdict, subject: _Subject) -> Verdict:
    """Whether a mixture of experts hands out what its routers say, and whether its family makes a loss of it."""
    if verdict.error is not None or not any("expert" in name for name in subject.tiny.config.to_dict()):
        return verdict
    network = subject.model if subject.is_causal_lm else subject.model.backbone
    logits: Any = None
    with contextlib.suppress(Exception), torch.enable_grad():  # a family may take no such argument
        logits = network(input_ids=subject.ids_1L, output_router_logits=True).get("router_logits")
    if not logits:
        return verdict
    family = sys.modules[type(network).__module__]
    return replace(verdict, router_loss=hasattr(family, "load_balancing_loss_func") and logits[0].requires_grad)


def _loading(verdict: Verdict, subject: _Subject) -> Verdict:
    model, is_alone = subject.model, int(os.environ.get("WORLD_SIZE") or 1) == 1
    if verdict.error is not None or (is_fsdp_enabled() and not is_alone):
        return verdict  # there transformers loads in one process alone
    before = subject.hidden(subject.ids_1L)
    same = False
    kernel = {"attn_implementation": model.config._attn_implementation}
    with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as folder:
        if is_alone:
            with _no_engine():
                model.save_pretrained(folder)
            loaded = type(model).from_pretrained(folder, **kernel)
        else:  # transformers lets one of several processes write, whatever the folder is
            given = {"state_dict": model.state_dict(), "generation_config": model.generation_config}
            loaded = type(model).from_pretrained(None, config=model.config, **given, **kernel)
        same = not differ(before, replace(subject, model=loaded.eval()).hidden(subject.ids_1L))
    return replace(verdict, same_after_loading=same)


# ---- what only the configuration tells ----


def _told_by(config: Any) -> dict[str, Any]:
    alibi = config.model_type in ("bloom", "mpt") or bool(getattr(config, "alibi", False))
    return {"bias_by_distance": alibi}


@torch.no_grad()
def measure_weights(model: Any) -> str | None:
    """The direction of a network with its own weights, from two short rows; None where it does not take them.

    The module is left as it was, its mode of training and the generators included.

    Args:
        model: takes ``input_ids`` and returns hidden states of a ``backbone``, or ``logits``.
    """
    embeddings = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
    vocabulary = getattr(embeddings, "num_embeddings", VOCABULARY)
    place, device = _SHORT // 2, next(model.parameters()).device
    ids_1L = (torch.arange(_SHORT, device=device)[None] * 7 + FIRST_TOKEN) % vocabulary
    other_1L = ids_1L.clone()
    other_1L[0, place] = (ids_1L[0, place] + 17) % vocabulary
    backbone = getattr(model, "backbone", None)
    was_training = [module for module in model.modules() if module.training]
    found: list[torch.Tensor] = []
    try:
        model.eval()
        with torch.random.fork_rng(devices=[]):
            for row in (ids_1L, other_1L):
                output: Any = (model if backbone is None else backbone)(input_ids=row)
                found.append(output[0] if backbone is not None else output.logits)
        reach = reach_of(found[0][0].float(), found[1][0].float(), place)
    except Exception:  # any model that there is: it may take more than ids
        return None
    finally:
        for module in was_training:
            module.training = True
    # What moves less than rounding may, moves by rounding.
    return None if reach.is_doubtful else _direction(reach)
