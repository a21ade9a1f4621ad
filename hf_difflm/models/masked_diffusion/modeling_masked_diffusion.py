"""A masked diffusion language model: any transformers network, read in both directions, under SUBS.

SUBS (MDLM, arXiv 2406.07524, section 3.2.3): the mask token has probability 0, and a position that is already revealed
copies its token.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import ModelOutput

from .bdh_backbone import BdhForCausalLM, BdhModel
from .bdh_configuration import BdhConfig
from .both_sides import class_of, kernel_for, read_both_sides
from .configuration_masked_diffusion import MaskedDiffusionConfig
from .diffusion_blocks import (
    block_causal,
    documents_for_kernel,
    first_from_clean,
    noisy_hidden,
    places_in_documents,
    refuse_several_blocks,
)
from .dit_backbone import DiTModel
from .dit_configuration import DiTConfig
from .float32_rotation import rotate_in_float32
from .generation_masked_diffusion import MaskedDiffusionGenerationConfig, MaskedDiffusionGenerationMixin
from .head_transforms import has_head_bias, head_transform
from .labelled_head import (
    IGNORED,
    can_chunk,
    chunk_rows,
    chunked_cross_entropy,
    product_of_few_rows,
    reads_plainly,
)
from .padded_rows import one_by_one

AutoModel.register(DiTConfig, DiTModel, exist_ok=True)
AutoModel.register(BdhConfig, BdhModel, exist_ok=True)
AutoModelForCausalLM.register(BdhConfig, BdhForCausalLM, exist_ok=True)
# By name: on the Hub, the class of a configuration and the one registered here may be two imports of the same file.
_OWN_BACKBONES: dict[str, Any] = {DiTConfig.model_type: DiTModel, BdhConfig.model_type: BdhModel}
_TRAIN_WITH = "train with DiffusionTrainer of hf_difflm, which masks tokens and weighs their loss"


@dataclass
class MaskedDiffusionOutput(ModelOutput):
    """What the denoiser returns.

    Args:
        loss: scalar, float32; None without labels.
        logits: (B, L, V), or (N, V) where ``positions`` was given; under SUBS; None with labels.
        token_nll: (N,) detached -log p of each labelled token in nats, in the order of ``positions``; None without labels.
        token_correct: (N,) bool, whether the likeliest token is the label; None unless asked for.
        hidden_states: hidden states of the backbone, if asked for.
        attentions: attentions of the backbone, if asked for.
        router_logits: of each layer with experts, if asked for with ``output_router_logits``.
        head_inputs: (N, D) what the head would have multiplied with its weight, in place of logits; see ``delay_head``.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    token_nll: torch.Tensor | None = None
    token_correct: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    router_logits: tuple[torch.Tensor, ...] | None = None
    head_inputs: torch.Tensor | None = None


class MaskedDiffusionPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation."""

    config_class = MaskedDiffusionConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True


class MaskedDiffusionForMaskedLM(MaskedDiffusionPreTrainedModel, MaskedDiffusionGenerationMixin):
    """A denoiser: backbone, LM head, SUBS.

    Args:
        config: the configuration; its backbone is built without a causal mask.

    Attributes:
        head_chunk_rows: labelled positions at which the LM head and the loss run at once, which bounds their memory and
            changes no result; 0: all; None: all, or as many as 64 MiB of logits on a CPU and 512 MiB elsewhere allow.
    """

    head_chunk_rows: int | None = None
    generation_config_class = MaskedDiffusionGenerationConfig
    accepts_loss_kwargs = False
    delays_head = True

    def __init__(self, config: MaskedDiffusionConfig):
        super().__init__(config)
        backbone_config = config.backbone_config
        own = _OWN_BACKBONES.get(backbone_config.model_type)
        build = AutoModel.from_config if own is None else own._from_config
        kernel = kernel_for(own or class_of(backbone_config), config._attn_implementation)
        self.backbone = build(backbone_config, attn_implementation=kernel)
        read_both_sides(self.backbone)
        if config.rotate_in_float32:
            rotate_in_float32(self.backbone)
        if getattr(self.backbone, "pooler", None) is not None:
            self.backbone.pooler = None  # BERT's sentence vector: no loss reaches it, which DDP would wait for
        self.head_transform = head_transform(backbone_config)
        bias = has_head_bias(backbone_config) if config.head_bias is None else config.head_bias
        self.lm_head = nn.Linear(backbone_config.hidden_size, backbone_config.vocab_size, bias=bias)
        if config.tie_word_embeddings:
            embeddings = self.backbone.get_input_embeddings()
            name = next(name for name, module in self.backbone.named_modules() if module is embeddings)
            self._tied_weights_keys = {"lm_head.weight": f"backbone.{name}.weight"}
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.backbone.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def set_output_embeddings(self, new_embeddings: nn.Linear) -> None:
        self.lm_head = new_embeddings

    def add_model_tags(self, tags: list[str] | str) -> None:
        """Add tags, as those that Trainers put on what they train.

        Raises:
            ValueError: they are those of TRL, whose Trainers call the backbone and the weight of the head, never this model,
                and score each next token: a network that reads both sides has it in its input.
        """
        if "trl" in ([tags] if isinstance(tags, str) else tags):
            raise ValueError(
                "TRL trains causal language models: on a masked diffusion model, which reads the next token that TRL scores, "
                f"its loss falls and nothing is learned; {_TRAIN_WITH} (hf-difflm train --sft for conversations)"
            )
        super().add_model_tags(tags)

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        positions: torch.Tensor | None = None,
        output_correct: bool = False,
        on_labelled_gradient: Callable[[torch.Tensor], None] | None = None,
        clean_ids: torch.Tensor | None = None,
        answer_starts: torch.Tensor | None = None,
        diffusion_block_size: int | None = None,
        delay_head: bool = False,
        keep_mask_logit: bool = False,
        document_ids: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> MaskedDiffusionOutput:
        """Predict the clean tokens of a partly masked sequence.

        With ``config.diffusion_block_size`` each token sees its own block and those before it. Then a partly masked block is
        predicted from what stands before it, which has to be clean: all blocks of a text are predicted at once where
        ``clean_ids`` are given, and one of them where they are not. ``past_key_values``, a ``DynamicCache``, may hold the
        blocks before ``input_ids``; ``attention_mask`` is of both, then, and masks have to be in the last block alone. With
        ``config.shift_logits`` the token before the block has to be read again beside it, since the block's first token is
        predicted from it: logits of the first of ``input_ids`` are NaN.

        Args:
            input_ids: (B, L) ids, the mask token where a token is hidden. With ``clean_ids`` there may be several rows for
                each of theirs, as neighbours; labels, weights and positions are of these rows, all else is of the texts.
            attention_mask: (B, L), 0 at padding on either side; None where there is none.
            labels: (B, L) clean ids where the loss is wanted, -100 elsewhere. The LM head runs at these positions
                only; a position that is labelled but not masked is copied, so its loss is 0.
            loss_weights: weights of the loss, (B, 1) or (B, L). With them the loss is the weighted *sum*
                of the cross-entropies; without them their mean over the labelled positions.
            positions: (N,) indices into the flattened B·L positions at which the head runs. With labels: those that
                are not -100, for callers that know them already (finding them makes a GPU wait); others among them only
                fill up a shape: their nll is 0 and they are not counted.
            output_correct: also return whether the likeliest token is the label.
            on_labelled_gradient: called in the backward pass with the (N, D) gradient of the loss at the hidden states that
                the head reads; not with ``torch.compile``.
            clean_ids: (B, L) ids of the text itself, of a model with blocks: each block of ``input_ids`` is predicted from
                what is shown of it and from the blocks before it in ``clean_ids``.
            answer_starts: (B,) of a model whose blocks begin at the answer (``config.diffusion_block_start``): the place of
                each row's first token that is none of its prompt, counted from its first that is no padding.
            diffusion_block_size: with ``clean_ids``: read them in blocks of so many tokens, for training whose blocks grow;
                None: the configuration's.
            delay_head: for a caller who makes the logits himself: without labels, at ``positions`` that are all masked,
                return what the head reads, where calling it is no more than a product with its weight.
            keep_mask_logit: without labels: leave the mask token its logit, as other projects sample and evaluate.
            document_ids: (B, L) of rows that hold several documents, in place of ``attention_mask``: which of them each token
                is of, from 1 on, 0 at padding. Documents see nothing of each other, and each begins at position 0;
                ``answer_starts``, then, are (B, L), the place in each token's document.
            kwargs: passed to the backbone.

        Returns:
            :class:`MaskedDiffusionOutput`.

        Raises:
            ValueError: without ``positions``: labels of another kind of model, none of them at a mask (and no weights), or
                some at a token that is shown as another one. Of a model with blocks: labels without ``clean_ids``, masks in
                several blocks, an attention kernel or a backbone that block diffusion does not run with, or
                ``answer_starts`` that do not go with its configuration. Of another: ``clean_ids``. ``document_ids`` beside an
                ``attention_mask``, or of a backbone or an attention kernel that does not keep documents apart.
        """
        hidden_BLD: torch.Tensor
        if document_ids is not None and attention_mask is not None:
            raise ValueError("document_ids say where padding is, too; leave attention_mask out")
        if self.config.diffusion_block_size is not None:
            size = diffusion_block_size or self.config.diffusion_block_size
            mask = attention_mask if document_ids is None else document_ids
            hidden_BLD, outputs = self._in_blocks(input_ids, mask, labels, clean_ids, answer_starts, size, kwargs)
        else:
            hidden_BLD, outputs = self._in_one(input_ids, attention_mask, clean_ids, document_ids, kwargs)
        extras = {name: outputs.get(name) for name in ("hidden_states", "attentions", "router_logits")}

        if labels is None:
            hidden_ND = hidden_BLD.flatten(0, 1)
            ids_N = input_ids.flatten()
            if positions is not None:
                hidden_ND, ids_N = hidden_ND[positions], ids_N[positions]
            if delay_head and reads_plainly(self.lm_head, hidden_ND) and not self.lm_head._forward_pre_hooks:
                inputs_ND = hidden_ND if self.head_transform is None else self.head_transform(hidden_ND)
                if inputs_ND.dtype == self.lm_head.weight.dtype and inputs_ND.dtype in (torch.float32, torch.float64):
                    return MaskedDiffusionOutput(head_inputs=inputs_ND, **extras)
            logits_NV = _copy_revealed(self._head(hidden_ND, keep_mask_logit), ids_N, self.config.mask_token_id)
            logits = logits_NV if positions is not None else logits_NV.unflatten(0, input_ids.shape)
            return MaskedDiffusionOutput(logits=logits, **extras)

        labels_M = labels.flatten()
        places_N = torch.nonzero(labels_M != IGNORED).squeeze(-1) if positions is None else positions
        labels_N, ids_N = labels_M[places_N], input_ids.flatten()[places_N]
        masked_N = ids_N == self.config.mask_token_id
        if positions is None and not torch.compiler.is_compiling():  # of a caller that made the device wait anyway
            _refuse_other_labels(ids_N, labels_N, masked_N, loss_weights is not None, self.config.mask_token_id)
        positions = places_N
        if loss_weights is None:
            weights_N = (1.0 / (labels_N != IGNORED).sum().clamp(min=1)).expand(len(labels_N))
        else:
            weights_N = loss_weights.expand(input_ids.shape).flatten()[positions]
        # Its backward pass adds rows; that of indexing by [] adds numbers, which is slower.
        hidden_ND = hidden_BLD.flatten(0, 1).index_select(0, positions)
        if on_labelled_gradient is not None and hidden_ND.requires_grad:
            hidden_ND.register_hook(on_labelled_gradient)
        loss, nll_N, correct_N = self._cross_entropy(
            hidden_ND,
            labels_N.where(masked_N, IGNORED),
            weights_N,
            output_correct,
        )
        if correct_N is not None:
            correct_N = correct_N | ~masked_N
        return MaskedDiffusionOutput(loss=loss, token_nll=nll_N, token_correct=correct_N, **extras)

    def _in_one(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        clean_ids: torch.Tensor | None,
        document_ids: torch.Tensor | None,
        kwargs: dict[str, Any],
    ) -> tuple[torch.Tensor, Any]:
        """Hidden states of texts that are read as one, in both directions."""
        if clean_ids is not None:
            raise ValueError(
                "clean_ids are for a model with blocks, but this one has none; leave them out, or set diffusion_block_size"
            )
        kwargs.setdefault("use_cache", False)
        if self.head_transform is not None:
            kwargs.pop("use_cache")  # encoders have no cache
        outputs: Any
        if document_ids is not None:
            if self.config.reads_padding:
                raise ValueError(
                    f"backbone {self.config.backbone_config.model_type!r} does not keep the documents of a row apart; give "
                    "each a row of its own, with an attention_mask"
                )
            embeddings: Any = self.get_input_embeddings()
            kernel, dtype = self.backbone.config._attn_implementation, embeddings.weight.dtype
            outputs = self.backbone(
                input_ids=input_ids,
                attention_mask=documents_for_kernel(document_ids, kernel, dtype),
                position_ids=places_in_documents(document_ids) + self.config.position_offset,
                **kwargs,
            )
            return self._shifted(outputs.last_hidden_state, document_ids), outputs
        if self.config.reads_padding and attention_mask is not None and not bool(attention_mask.all()):
            outputs = one_by_one(self._backbone, input_ids, attention_mask, kwargs)
        else:
            outputs = self._backbone(input_ids, attention_mask, **kwargs)
        return self._shifted(outputs.last_hidden_state, attention_mask), outputs

    def _shifted(self, hidden_BLD: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
        return _from_the_position_before(hidden_BLD, attention_mask) if self.config.shift_logits else hidden_BLD

    def _in_blocks(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        clean_ids: torch.Tensor | None,
        answer_starts: torch.Tensor | None,
        size: int,
        kwargs: dict[str, Any],
    ) -> tuple[torch.Tensor, Any]:
        """Hidden states of a text that is read block by block."""
        if (answer_starts is None) == (self.config.diffusion_block_start == "answer"):
            raise ValueError(
                f"the model's blocks begin at the {self.config.diffusion_block_start}, so answer_starts "
                f"{'say where that is: give them' if answer_starts is None else 'mean nothing: leave them out'}"
            )
        offset, cache = self.config.position_offset, kwargs.pop("past_key_values", None)
        kwargs.pop("use_cache", None)
        if clean_ids is not None:
            if cache is not None:
                raise ValueError(
                    "clean_ids hold the blocks before each block, so past_key_values cannot; leave one of them out"
                )
            hidden_BLD, clean_BLD, outputs = noisy_hidden(
                self.backbone,
                input_ids,
                clean_ids,
                attention_mask,
                size,
                offset,
                answer_starts=answer_starts,
                **kwargs,
            )
            if self.config.shift_logits:
                hidden_BLD = first_from_clean(
                    self._shifted(hidden_BLD, attention_mask),
                    self._shifted(clean_BLD, attention_mask),
                    attention_mask,
                    size,
                    answer_starts,
                )
            return hidden_BLD, outputs
        if size != self.config.diffusion_block_size:
            raise ValueError(
                f"diffusion_block_size {size} is given without clean_ids, but the model has blocks of "
                f"{self.config.diffusion_block_size} tokens; leave it out"
            )
        if labels is not None:
            raise ValueError(
                f"labels of a model with blocks of {size} tokens need clean_ids, the text itself, which each block is "
                f"predicted from; {_TRAIN_WITH}"
            )
        if cache is None and not torch.compiler.is_compiling():  # who keeps a cache knows of blocks, and need not wait
            refuse_several_blocks(input_ids, attention_mask, size, self.config.mask_token_id, answer_starts)
        is_cached = cache is not None and cache.get_seq_length() > 0
        outputs = block_causal(
            self.backbone, input_ids, attention_mask, size, offset, cache, answer_starts=answer_starts, **kwargs
        )
        here = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        hidden_BLD = self._shifted(outputs.last_hidden_state, here)
        if self.config.shift_logits and is_cached:  # what its first token is predicted from was read before
            hidden_BLD = torch.cat([torch.full_like(hidden_BLD[:, :1], float("nan")), hidden_BLD[:, 1:]], dim=1)
        return hidden_BLD, outputs

    def _backbone(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs: Any) -> Any:
        if "position_ids" not in kwargs and (position_ids := self._position_ids(input_ids, attention_mask)) is not None:
            kwargs["position_ids"] = position_ids
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, **kwargs)

    def _cross_entropy(
        self, hidden_ND: torch.Tensor, labels_N: torch.Tensor, weights_N: torch.Tensor, output_correct: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """The weighted sum of the cross-entropies in float32, the detached terms, and whether each label is likeliest."""
        rows = chunk_rows(len(hidden_ND), self.config.vocab_size, hidden_ND.device, self.head_chunk_rows)
        if rows < len(hidden_ND) and can_chunk(self.lm_head, hidden_ND, weights_N):
            if self.head_transform is not None:
                hidden_ND = self.head_transform(hidden_ND)
            return chunked_cross_entropy(
                hidden_ND, self.lm_head, labels_N, weights_N, self.config.mask_token_id, rows, output_correct
            )
        logits_NV = self._head(hidden_ND).float()
        nll_N = F.cross_entropy(logits_NV, labels_N, reduction="none", ignore_index=IGNORED)
        correct_N = logits_NV.argmax(-1) == labels_N if output_correct else None
        return (nll_N * weights_N).sum(), nll_N.detach(), correct_N

    def _position_ids(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor | None:
        """Position ids where the backbone's own would be wrong: they count padding on the left, or leave out pad tokens."""
        offset = self.config.position_offset
        if attention_mask is not None:
            return (attention_mask.long().cumsum(-1) - 1).clamp(min=0) + offset
        return torch.arange(offset, offset + input_ids.shape[1], device=input_ids.device)[None] if offset else None

    def _head(self, hidden_ND: torch.Tensor, keep_mask_logit: bool = False) -> torch.Tensor:
        """(N, D) hidden states to (N, V) logits in which the mask token has probability 0, unless it is kept."""
        if self.head_transform is not None:
            hidden_ND = self.head_transform(hidden_ND)
        if keep_mask_logit:
            return self.lm_head(hidden_ND).to(hidden_ND.device)
        if not reads_plainly(self.lm_head, hidden_ND):
            # A copy: a hook may keep what the head returned.
            logits_NV = self.lm_head(hidden_ND).to(hidden_ND.device).clone()
            logits_NV[:, self.config.mask_token_id] = float("-inf")
            return logits_NV
        if (logits_NV := product_of_few_rows(hidden_ND, self.lm_head.weight)) is not None:
            if self.lm_head.bias is not None:
                logits_NV += self.lm_head.bias
            logits_NV[:, self.config.mask_token_id] = float("-inf")
            return logits_NV
        # -inf through the bias of the projection: no pass over the logits, and a zero gradient for that row.
        subs_V = torch.zeros(self.lm_head.weight.shape[0], dtype=hidden_ND.dtype, device=hidden_ND.device)
        subs_V[self.config.mask_token_id] = float("-inf")
        if self.lm_head.bias is not None:
            subs_V = subs_V + self.lm_head.bias
        return F.linear(hidden_ND, self.lm_head.weight, subs_V)


def _refuse_other_labels(
    ids_N: torch.Tensor, labels_N: torch.Tensor, masked_N: torch.Tensor, weighed: bool, mask_token_id: int
) -> None:
    """Raise ValueError for labels whose loss would be small for nothing: those of a causal LM, or of BERT's 80-10-10."""
    if not len(labels_N):
        return
    masked, replaced = torch.stack([masked_N.sum(), (~masked_N & (ids_N != labels_N)).sum()]).tolist()
    if not masked and not weighed:
        raise ValueError(
            f"none of {len(labels_N)} labelled tokens is masked (token {mask_token_id}) in input_ids, so that the model "
            f"would copy them and learn nothing; {_TRAIN_WITH}, or mask what shall be predicted and label nothing else"
        )
    if replaced:
        raise ValueError(
            f"{replaced} of {len(labels_N)} labelled tokens are another token in input_ids, which a masked diffusion model "
            f"copies, so that their loss would be 0; {_TRAIN_WITH}, or mask all that is labelled (mask_replace_prob=1.0)"
        )


def _from_the_position_before(hidden_BLD: torch.Tensor, attention_mask: torch.Tensor | None) -> torch.Tensor:
    """The hidden state that a causal LM predicts each position from; of the first of a document its own."""
    before_BLD = torch.cat([hidden_BLD[:, :1], hidden_BLD[:, :-1]], dim=1)
    if attention_mask is None:
        return before_BLD
    is_first_BL = F.pad(attention_mask[:, :-1] != attention_mask[:, 1:], (1, 0), value=True)
    return hidden_BLD.where(is_first_BL.unsqueeze(-1), before_BLD)


def _copy_revealed(logits_NV: torch.Tensor, ids_N: torch.Tensor, mask_token_id: int) -> torch.Tensor:
    """Put all probability of a revealed position on its own token."""
    revealed_N1 = (ids_N != mask_token_id).unsqueeze(-1)
    is_sampled = not torch.is_grad_enabled() and not torch.compiler.is_compiling()
    if is_sampled and type(ids_N) is torch.Tensor and ids_N.device.type == "cpu" and not revealed_N1.any():
        return logits_NV  # a GPU would have to be waited for, and a fake tensor knows nothing
    logits_NV = logits_NV.masked_fill(revealed_N1, float("-inf"))
    own_N1 = logits_NV.gather(-1, ids_N.unsqueeze(-1)).masked_fill(revealed_N1, 0.0)
    return logits_NV.scatter(-1, ids_N.unsqueeze(-1), own_N1)


__all__ = ["MaskedDiffusionForMaskedLM", "MaskedDiffusionOutput", "MaskedDiffusionPreTrainedModel"]
