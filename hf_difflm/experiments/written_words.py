"""At the end of a run: does it write words?"""

from __future__ import annotations

from pathlib import Path

from ..data import PreparedData
from ..errors import UserError
from ..evaluation.generation.options import GenerationOptions
from ..evaluation.generation.texts import generate_samples
from ..evaluation.quality.known_words import known_words, training_words
from ..evaluation.run_measurements import record_measurement
from ..evaluation.targets import load_target
from ..training.trainer import DiffusionTrainer

_TOKENS = 112
_TEMPERATURE = 0.7


def words_line(trainer: DiffusionTrainer, folder: Path, data: PreparedData, samples: int) -> str:
    """Draw texts with the weights in ``best/``, keep in the log how many of their words the training text has, and say it.

    Each is of 112 tokens (or what a block holds) in as many steps, from no prompt, at temperature 0.7.

    Args:
        trainer: when it has trained.
        folder: of the run.
        data: what it was trained on.
        samples: how many texts; 0: none.

    Returns:
        A sentence; empty where nothing is asked, there are no weights, or the training text is a stream.
    """
    if not samples or not (folder / "best").is_dir() or not hasattr(data.train, "__getitem__"):
        return ""
    try:
        best = load_target(str(folder), use_cpu=trainer.args.device.type == "cpu")
        length = min(_TOKENS, len(data.train[0]["input_ids"]) - 1)
        steps = length if best.is_denoiser else None
        options = GenerationOptions(max_new_tokens=length, max_denoising_steps=steps, temperature=_TEMPERATURE, seed=0)
        texts = [text.text for text in generate_samples(best.model, best.tokenizer, [""] * samples, options)]
    except UserError as error:  # the run itself is done
        return f"no words were counted ({error})"
    share, count = known_words(texts, training_words(data.train, best.tokenizer))
    if share is None:
        return f"words: there is none of four letters and more in {samples} texts"
    record_measurement(str(folder), best.step, "words", {"known_words": share, "words": count})
    return f"words: {share:.0%} of the {count:,} of four letters and more in {samples} texts occur in the training text"
