"""Models of this project in lm-evaluation-harness, under the name ``hf_difflm``.

``hf-difflm eval RUN --tasks ...`` is the short way. The harness's own command line, with all its flags:
``python -m hf_difflm.evaluation.harness.lm_eval_model run --model hf_difflm --model_args pretrained=RUN --tasks ...``.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ...errors import UserError
from ..generation.holes import PromptIds
from ..generation.options import GenerationOptions
from ..generation.texts import generate_samples, length_limit
from ..likelihood.continuations import Request, Scorer
from ..precision import DTYPES, PrecisionOptions, computed_in, dtype_of_weights
from ..targets import Target, load_target
from .requests import cut_context, some_at_a_time, text_until

logger = logging.getLogger(__name__)
DEFAULT_LENGTH = 1024
"""Tokens a model takes that says nothing of it and has no run log."""
MAX_GEN_TOKS = 256
"""Tokens a task generates that says nothing of it, the harness's own default; at most half of what the model takes."""
_OF_THE_HARNESS = ("until", "max_gen_toks", "do_sample")
_OPTIONS = {field.name for field in dataclasses.fields(GenerationOptions)} - {"seed", "infill"}


@register_model("hf_difflm")
class HarnessModel(TemplateLM):
    """A masked diffusion model or a causal LM, as the harness asks models.

    ``loglikelihood`` of a masked diffusion model is a lower bound, see
    :mod:`hf_difflm.evaluation.likelihood.continuations`; the context is never masked. It is exact where its diffusion blocks
    are of one token. Contexts of a model that was trained
    here begin with BOS, as all blocks of its training do, and control tokens in them are letters; those of any other are
    what its tokenizer makes of them, as in the harness's own ``hf``. What a chat template wrote has its control tokens in
    either. ``loglikelihood_rolling`` cuts a text into windows of ``max_length - 1`` scored tokens, the first after
    BOS, the others after the token before them; the last reaches back as far as fits. Both kinds get the same windows.

    Args:
        pretrained: see :func:`load_target`.
        batch_size: sequences through the model at once.
        draws: draws of noise for each continuation; masked diffusion only.
        seed: seed of those draws, and of generated texts.
        max_length: tokens of context and continuation; default: what the model takes.
        truncate_context: cut contexts that are too long from the left, BOS apart, instead of refusing them.
        device: "cpu", or nothing for the device there is.
        bf16: run the model under bfloat16 autocast.
        dtype: of its weights: float32, bfloat16 or float16.
        max_batch_size: taken for the harness's sake, and not used.
        target: a model that is loaded already, in place of ``pretrained``.
        add_bos, bos_token: see :func:`load_target`.

    Raises:
        UserError: nothing to load, or (from the requests) a text that is too long.
    """

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int | str | None = 32,
        draws: int = 32,
        seed: int = 0,
        max_length: int | None = None,
        truncate_context: bool = False,
        device: str | None = None,
        bf16: bool = False,
        dtype: str = PrecisionOptions.dtype,
        max_batch_size: int | None = None,
        target: Target | None = None,
        add_bos: bool | None = None,
        bos_token: str | None = None,
    ) -> None:
        super().__init__()
        if target is None and not pretrained:
            raise UserError(
                "the model hf_difflm needs a run, a checkpoint or a model; add pretrained=RUN to --model_args"
            )
        if dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype}")
        self.target = target or load_target(
            pretrained,
            use_cpu=str(device or "").startswith("cpu"),
            dtype=dtype_of_weights({"dtype": dtype, "bf16": bf16}),
            add_bos=add_bos,
            bos_token=bos_token,
        )
        self.text = self.target.text
        self._is_templated = False
        self.tokenizer = self.target.tokenizer
        self.batch_size = int(batch_size or 32) if str(batch_size).isdecimal() else 32  # the harness also says "auto"
        self.seed = seed
        self.bf16 = bf16
        self.truncate_context = truncate_context
        limit = length_limit(self.target.model)
        self.max_length = int(max_length or min(limit or DEFAULT_LENGTH, self.target.config.get("block_size", 1 << 62)))
        if limit is not None and self.max_length > limit:
            raise UserError(
                f"block_size must be at most the {limit} tokens that the model takes, got {self.max_length}"
            )
        self.scorer = Scorer(
            self.target.model,
            self.tokenizer,
            is_denoiser=self.target.is_denoiser,
            draws=draws,
            seed=seed,
            batch_size=self.batch_size,
        )
        self._device = self.target.model.device

    # What the harness asks about the model.

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """What the first token of a text is predicted from."""
        return self.text.start()

    @property
    def tokenizer_name(self) -> str:
        return self.target.source.replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What is kept with the results."""
        likelihood = {"draws": self.scorer.draws, "likelihood": "nelbo"}
        if not self.target.is_denoiser or self.target.model.config.diffusion_block_size == 1:
            likelihood = {"likelihood": "exact"}
        return {
            "model_num_parameters": sum(parameter.numel() for parameter in self.target.model.parameters()),
            "model_dtype": computed_in(self.target.model, self.bf16),
            "max_length": self.max_length,
            "draws_seed": self.seed,
            **self.text.facts,
            **likelihood,
        }

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Ids of a text, after BOS where its texts begin so, unless ``add_special_tokens`` is False."""
        ids = self.text.written(string) if self._is_templated else self.text.running(string)
        return ids if add_special_tokens is False else self.text.begun(ids)

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """Return a conversation as text, by the tokenizer's template; the texts of all requests are such from now on.

        Raises:
            UserError: the tokenizer has none.
        """
        if self.tokenizer.chat_template is None:
            raise UserError("the tokenizer of this model has no chat template; leave out --apply_chat_template")
        self._is_templated = True
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    # Likelihoods.

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log p in nats, whether greedy decoding writes it) of each (context, continuation)."""
        encoded = []
        for request in requests:
            context, continuation = request.args
            ids = self._encode_pair(context, continuation) if context else self._encode_alone(continuation)
            encoded.append(((context, continuation), self._fitting(request, *ids), ids[1]))
        return self._loglikelihood_tokens(encoded, disable_tqdm=disable_tqdm)

    def _encode_alone(self, text: str) -> tuple[list[int], list[int]]:
        """Ids of what a text begins with, and of the text, which may begin with it already."""
        ids = self.tok_encode(text, add_special_tokens=False)
        return ([self.text.start()], ids) if ids[:1] != [self.text.start()] else (ids[:1], ids[1:])

    def _loglikelihood_tokens(
        self, requests: list[tuple[tuple[str, str], list[int], list[int]]], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        answers: list[tuple[float, bool]] = []
        for part in some_at_a_time(requests, "score", disable_tqdm):
            # A continuation without a token is certain.
            # Texts without a context are windows of their own: see Request.
            whole = [Request(tuple(context), tuple(ids), own_noise=not texts[0]) for texts, context, ids in part if ids]
            with self._precision():
                found = iter(zip(self.scorer.log_likelihoods(whole), self.scorer.are_greedy(whole), strict=True))
            for texts, _, ids in part:
                log_p, greedy = next(found) if ids else (0.0, True)
                answers.append((float(log_p), bool(greedy)))
                self.cache_hook.add_partial("loglikelihood", texts, answers[-1])
        return answers

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """log p in nats of each text."""
        answers: list[float] = []
        for part in some_at_a_time(requests, "score", disable_tqdm):
            windows = [
                (place, *make_disjoint_window(pair))
                for place, request in enumerate(part)
                for pair in get_rolling_token_windows(
                    self.tok_encode(request.args[0], add_special_tokens=False),
                    self.prefix_token_id,
                    self.max_length - 1,
                    1,
                )
            ]
            with self._precision():
                log_p_W = self.scorer.log_likelihoods(
                    [Request(tuple(c), tuple(t), own_noise=True) for _, c, t in windows]
                )
            sums = [0.0] * len(part)
            for (place, _, _), log_p in zip(windows, log_p_W, strict=True):
                sums[place] += float(log_p)
            for request, total in zip(part, sums, strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            answers += sums
        return answers

    def _fitting(self, request: Any, context: list[int], continuation: list[int]) -> list[int]:
        """The context, cut where that is allowed."""
        room = self.max_length - len(continuation)
        if len(context) <= room:
            return context
        where = f"document {request.doc_id} of task {request.task_name!r}"
        if room < 1:
            raise UserError(
                f"{where} asks for a continuation of {len(continuation):,} tokens, and the model takes {self.max_length:,} "
                "with its context; leave this task out"
            )
        if not self.truncate_context:
            raise UserError(
                f"{where} has a context of {len(context):,} tokens, and the model takes {self.max_length:,} with the answer; "
                "add --truncate-context to cut contexts from the left, or lower --num-fewshot"
            )
        return cut_context(context, room)

    def _precision(self) -> Any:
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self.bf16)

    # Texts.

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first of the task's stops.

        The names of GenerationOptions are arguments too, beside those of the harness (``until``, ``max_gen_toks``,
        ``do_sample``); without ``do_sample`` or a temperature the likeliest token is taken.
        """
        answers: list[str] = []
        for part in some_at_a_time(requests, "generate", disable_tqdm, self.batch_size):
            by_arguments: dict[str, list[int]] = {}
            for place, request in enumerate(part):
                by_arguments.setdefault(repr(request.args[1]), []).append(place)
            texts: dict[int, str] = {}
            for places in by_arguments.values():
                arguments = part[places[0]].args[1]
                options = self._options(arguments)
                prompts = [self._prompt(part[place], options) for place in places]
                with self._precision():
                    samples = generate_samples(
                        self.target.model,
                        self.tokenizer,
                        prompts,
                        options,
                        first_row=len(answers) + places[0],
                        encoded=[PromptIds(self.tok_encode(prompt) or [self.text.start()]) for prompt in prompts],
                    )
                texts |= {
                    place: text_until(sample.text, arguments.get("until"))
                    for place, sample in zip(places, samples, strict=True)
                }
            for place, request in enumerate(part):
                self.cache_hook.add_partial("generate_until", request.args, texts[place])
            answers += [texts[place] for place in range(len(part))]
        return answers

    def _options(self, arguments: dict[str, Any]) -> GenerationOptions:
        given = {name: value for name, value in arguments.items() if name in _OPTIONS}
        if other := sorted(arguments.keys() - given.keys() - set(_OF_THE_HARNESS)):
            logger.warning("arguments of generation that are not known here and have no effect: %s", ", ".join(other))
        if not arguments.get("do_sample", float(arguments.get("temperature") or 0) > 0):
            given["temperature"] = 0.0
        wanted = given.get("max_new_tokens") or arguments.get("max_gen_toks") or min(MAX_GEN_TOKS, self.max_length // 2)
        return GenerationOptions(**{**given, "max_new_tokens": int(wanted), "seed": self.seed, "infill": False})

    def _prompt(self, request: Any, options: GenerationOptions) -> str:
        """The context of a request, cut where that is allowed."""
        text: str = request.args[0]
        wanted = options.max_new_tokens or 0
        context = len(self.tok_encode(text))
        if context + wanted <= self.max_length or options.block_length is not None:
            return text
        if not self.truncate_context or wanted >= self.max_length:
            raise UserError(
                f"document {request.doc_id} of task {request.task_name!r} has a context of {context:,} tokens and asks for "
                f"{wanted:,} more, and the model takes {self.max_length:,}; add --truncate-context to cut contexts from the "
                "left, or lower max_gen_toks in --gen-kwargs"
            )
        return self._cut_text(text, self.max_length - wanted)

    def _cut_text(self, text: str, room: int) -> str:
        """The end of a text, of at most ``room`` tokens; what is decoded may be read as more tokens than it was."""
        ids = self.tok_encode(text, add_special_tokens=False)
        kept = room
        while len(self.tok_encode(text)) > room and kept > 0:
            kept -= 1
            text = self.tokenizer.decode(ids[len(ids) - kept :])
        return text


def main() -> None:
    """The command line of lm-evaluation-harness, which knows the models of this project now."""
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()


if __name__ == "__main__":
    main()
